"""Checks of a labelling stack that need no model and take less than a second.

They find what the stack's processes would report only after they have imported torch or loaded
models: invalid settings, unknown templates, and weights that are not there.
"""

from collections.abc import Sequence

from cli.checking.paths import check_weights
from cli.settings_table import processes
from services.llm.prompts import choose_templates
from services.llm.settings import LlmSettings
from services.llm.template_file import load_templates
from services.segmenter.settings import SegmenterSettings
from unspoken.config.profiles import resolve_files
from unspoken.config.weights import WeightsSettings
from unspoken.errors import InvalidConfig, InvalidInput
from unspoken.wire.label_options import LabelOptions


def check_stack(*, profile: str | None = None) -> None:
    """Check the settings of all processes, and that their weights are there.

    profile: profile of models.yaml; None for the user's UNSPOKEN_PROFILE.

    Raises InvalidConfig, MissingWeights.
    """
    for _, kind in processes():
        if kind is not WeightsSettings:
            kind()
    llm = LlmSettings()
    segmenter = SegmenterSettings() if profile is None else SegmenterSettings(profile=profile)
    try:
        check_templates(llm.templates)
    except InvalidInput as error:
        raise InvalidConfig(f"LLM_TEMPLATES: {error.message}") from error
    check_models(segmenter=segmenter, llm=llm)


def check_models(
    *, segmenter: SegmenterSettings, llm: LlmSettings | None = None, with_detector: bool = True
) -> None:
    """Raise MissingWeights or InvalidConfig unless the weights of these services are there.

    llm: None if the language model is not loaded.
    """
    profile = segmenter.read_profile()
    used = [profile.text_encoder]
    if with_detector:
        used.append(profile.detector)
    if llm is not None and llm.backend == "transformers":
        used.append(profile.llm)
    if segmenter.weights is not None:
        check_weights(segmenter.weights, what="SEGMENTER_WEIGHTS")
    elif profile.segmenter is not None:
        used.append(profile.segmenter)
    for entry in used:
        for source in (entry, *entry.parts.values()):
            resolve_files(source, cache_dir=segmenter.cache_dir)


def check_options(options: LabelOptions) -> None:
    """Raise InvalidInput for labelling options that the stack's models cannot fulfil."""
    check_templates(options.templates)
    settings = SegmenterSettings()
    if options.crop_check and not settings.read_profile().text_encoder.has_image_tower:
        raise InvalidInput(
            f"--crop-check needs a model of pictures and texts, which the profile "
            f"{settings.profile} lacks. Choose another with UNSPOKEN_PROFILE, such as base"
        )


def check_templates(names: Sequence[str] | None) -> None:
    """Raise InvalidInput for an unknown template."""
    known = load_templates(LlmSettings().templates_file)
    choose_templates(names, known=known, default=())
