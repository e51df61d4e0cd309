"""Names of all recipes with a line about each. The command line lists them without importing torch.

A module of its own because the recipes themselves need torch.
"""

SAM_RECIPES = {
    "small-sam-coarse": "Small SAM from random weights, with coarse patches. Needs --sa1b.",
    "small-sam": "From small-sam-coarse, with a stem. Needs --start, --stem and --sa1b.",
    "small-sam-fine": "From small-sam, at its serving size. Needs --start and --sa1b.",
    "small-semantic": "Names for the small SAM. Needs --start, --run and --sa1b.",
    "readout": "Names for an official SAM; its masks do not change. Needs --sam and --run.",
    "thesis": "As in the thesis: also trains SAM's decoder. Needs --sam, --run and --sa1b.",
    "smoke": "A few steps of a tiny network, to test a machine. Needs --run and --sa1b.",
}
DETECTOR_RECIPES = {
    "small-detector": "Small Grounding-DINO from random weights, on the small world.",
    "refine-detector": "From small-detector, on larger pictures. Needs --start.",
}
NEEDED_WEIGHTS = {
    "small-sam": ("start", "stem"),
    "small-sam-fine": ("start",),
    "small-semantic": ("start",),
    "readout": ("sam",),
    "thesis": ("sam",),
    "refine-detector": ("start",),
}
"""Recipe -> options of the weights that it starts from; --start may replace --sam."""
NEEDED_DATA = {
    "small-sam-coarse": ("sa1b",),
    "small-sam": ("sa1b",),
    "small-sam-fine": ("sa1b",),
    "small-semantic": ("run", "sa1b"),
    "readout": ("run",),
    "thesis": ("run", "sa1b"),
    "smoke": ("run", "sa1b"),
}
"""Recipe -> options of its data, unless --mix changes what it learns from."""
