"""A labelling option is declared once: adding one is a field of LabelOptions and a flag."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from unspoken.wire.label_options import LabelOptions

ROOT = Path(__file__).parents[1]
PATH_OF_OPTIONS = ("cli", "unspoken/client", "unspoken/runs", "unspoken/wire", "worker")
"""The code through which an option passes from the command line to its use."""
FIELD, FLAG = "unspoken/wire/label_options.py", "cli/verbs/label.py"
SPELLING = "cli/label_options.py"
"""The flags whose names differ from their fields."""
SPELLED = {"false_discovery_rate", "templates", "num_decoys", "filters"}
OTHER_MEANINGS = {
    "box_threshold": {
        # a parameter of the detector, and of a count of boxes; the message for a wrong value
        "cli/label_options.py",
        "DetectRequest",
        "DetectReply",
        "cli/demo/demo.py",
        "unspoken/client/port_clients.py",
        "unspoken/runs/dataset/manifest.py",
        "unspoken/wire/detections.py",
        "unspoken/wire/segment.py",
        "worker/label/pipeline.py",
    },
    "false_discovery_rate": {
        # the estimate of a source, and the limit of chosen thresholds
        "ChosenThresholds",
        "SourceThreshold",
        "unspoken/runs/dataset/false_discovery.py",
        "worker/dispatch/choose_thresholds.py",
    },
    "templates": {
        # a parameter of the prompter, and the templates that proposed a label
        "ProposeRequest",
        "Annotation",
        "unspoken/client/port_clients.py",
        "unspoken/runs/dataset/rows.py",
        "unspoken/runs/dataset/shards.py",
        "unspoken/runs/exports/hugging_face.py",
        "unspoken/runs/exports/report.py",
        "unspoken/runs/exports/webdataset.py",
        "unspoken/wire/proposals.py",
        "worker/dispatch/planning.py",
        "worker/label/merging.py",
        "worker/label/pipeline.py",
    },
    # decoys counted in a run
    "num_decoys": {"ScoreTally", "unspoken/runs/dataset/false_discovery.py"},
    "filters": {
        # the findings of the filters in a row
        "Row",
        "FilterResult",
        "unspoken/runs/dataset/rows.py",
        "unspoken/runs/dataset/shards.py",
        "worker/label/filters.py",
        "worker/label/pipeline.py",
    },
}
"""Option -> classes and files that use its name for something else."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in PATH_OF_OPTIONS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def name_of(node: ast.AST) -> str | None:
    """Return the name that a node declares or passes on; None for a use such as `options.NAME`."""
    match node:
        case ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=name):
            return name
        case ast.Constant(value=str(name)):
            return name
    return None


def test_each_option_is_a_field_of_one_class():
    declared = defaultdict(set)
    for _, module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        declared[field.target.id].add(node.name)
    for option in LabelOptions.model_fields:
        assert declared[option] - OTHER_MEANINGS.get(option, set()) == {"LabelOptions"}, option


def test_an_options_name_is_written_in_the_field_and_the_flag_and_elsewhere_only_read():
    found = defaultdict(set)
    for path, module in modules():
        for node in ast.walk(module):
            found[name_of(node)].add(path)
    for option in LabelOptions.model_fields:
        expected = {FIELD, FLAG} | ({SPELLING} if option in SPELLED else set())
        assert found[option] - OTHER_MEANINGS.get(option, set()) == expected, option
