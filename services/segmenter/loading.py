"""Load the Semantic-SAM to serve: the profile's weights, or the user's own weights or delta."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Literal, NamedTuple

from services.segmenter.answer.query_methods import SegmentConfig
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.cache.disk_tier import DiskTier
from services.segmenter.cache.embedding_cache import EmbeddingCache
from services.segmenter.segment_engine import SegmentEngine
from services.segmenter.settings import SegmenterSettings
from unspoken.client.port_clients import DetectorClient, connect
from unspoken.compute.precision import compute_dtype, prepare_device
from unspoken.config.profiles import ModelEntry, checked_sha256, resolve_files
from unspoken.errors import InvalidConfig
from unspoken.model.mask_bank import MaskBankConfig
from unspoken.model.sam.checkpoint import LoadedSam, load_official_sam, load_weights, read_header
from unspoken.model.text_space import TextSpace, TextSpaceConfig
from unspoken.ports import Detector, TextEncoder
from unspoken.wire.base import ModelInfo
from unspoken.wire.texts import EMBEDDING_DIM

logger = logging.getLogger(__name__)

DELTA = "delta"


class _Loaded(NamedTuple):
    sam: LoadedSam
    sha256: str
    name: str
    revision: str


def build_segmenter(
    settings: SegmenterSettings, text_encoder: TextEncoder, *, detector: Detector | None = None
) -> SegmentEngine | None:
    """Build the segmenter of the profile or of SEGMENTER_WEIGHTS; return None if neither exists.

    detector: a detector in this process. None: use the one at SEGMENTER_DETECTOR_URL, if set.
    Raises MissingWeights, InvalidConfig.
    """
    entry = settings.read_profile().segmenter
    if entry is None and settings.weights is None:
        logger.info("profile=%s has no segmenter", settings.profile)
        return None
    device = (settings.device or "cpu") if entry is None else entry.device
    prepare_device(device)
    loaded = _load(entry, settings)
    _check_text_encoder(loaded, text_encoder.model)
    loaded.sam.model.to(device).requires_grad_(requires_grad=False)
    options = {} if entry is None else entry.options
    score = settings.score or _text_option(options, "score") or "softmax"
    if score not in ("softmax", "cosine"):
        raise InvalidConfig(f"a segmenter's score is softmax or cosine, got {score!r}")
    if detector is None and settings.detector_url is not None:
        detector = DetectorClient(connect(settings.detector_url, key=settings.client_key))
    logger.info("loaded segmenter=%s device=%s", loaded.name, device)
    return SegmentEngine(
        loaded.sam,
        model=ModelInfo(
            name=loaded.name, kind="segmenter", revision=loaded.revision, device=device
        ),
        weights_sha256=loaded.sha256,
        text_space=TextSpace.of(
            loaded.sam,
            text_encoder.encode_texts,
            TextSpaceConfig(
                score="cosine" if score == "cosine" else "softmax",
                cache_entries=settings.text_cache_entries,
            ),
        ),
        cache=EmbeddingCache[CachedImage](settings.cache_mib),
        disk=None
        if settings.disk_cache_dir is None
        else DiskTier(settings.disk_cache_dir, settings.disk_cache_mib),
        detector=detector,
        config=SegmentConfig(
            bank=_bank_config(options.get("bank"), settings),
            score_threshold=_score_threshold(options, settings),
            auto_method=_auto_method(settings, loaded, detector),
            encoder_dtype=compute_dtype("float32" if entry is None else entry.dtype, device=device),
        ),
    )


def _load(entry: ModelEntry | None, settings: SegmenterSettings) -> _Loaded:
    path = settings.weights
    if path is None:
        assert entry is not None, "one of the two is given"
        return _load_entry(entry, settings)
    needs_base = read_header(path)["base_sha256"] is not None
    if needs_base and entry is None:
        raise InvalidConfig(
            f"{path} contains only what differs from the SAM that it was trained from: choose a "
            f"profile with that SAM; {settings.profile} has no segmenter"
        )
    base = None
    if needs_base and entry is not None:
        base = _load_file(entry, settings).sam.model.state_dict()
    sam = load_weights(path, base=base)
    digest = checked_sha256(path, cache_dir=settings.cache_dir)
    return _Loaded(sam, digest, path.name, digest[:12])


def _load_entry(entry: ModelEntry, settings: SegmenterSettings) -> _Loaded:
    """Load the profile's own weights file, and apply the delta if its parts have one."""
    whole = _load_file(entry, settings)
    if DELTA not in entry.parts:
        return whole
    part = entry.parts[DELTA]
    path = resolve_files(part, cache_dir=settings.cache_dir) / _only_file(part.files, entry.name)
    sam = load_weights(path, base=whole.sam.model.state_dict())
    both = f"{whole.sha256} {checked_sha256(path, cache_dir=settings.cache_dir)}"
    digest = hashlib.sha256(both.encode()).hexdigest()
    return _Loaded(sam, digest, entry.name, f"{entry.revision} with {part.revision}")


def _load_file(entry: ModelEntry, settings: SegmenterSettings) -> _Loaded:
    folder = resolve_files(entry, cache_dir=settings.cache_dir)
    named = _text_option(entry.options, "weights")
    path = folder / (named or _only_file(entry.files, entry.name))
    sam = load_official_sam(path) if path.suffix == ".pth" else load_weights(path)
    digest = checked_sha256(path, cache_dir=settings.cache_dir)
    return _Loaded(sam, digest, entry.name, entry.revision)


def _check_text_encoder(loaded: _Loaded, model: ModelInfo) -> None:
    """Raise InvalidConfig if the weights were trained with another text encoder.

    The vectors of another text encoder would have the right shape but no meaning.
    """
    config, info = loaded.sam.model.config, loaded.sam.info
    if config.semantic.text_dim != EMBEDDING_DIM:
        raise InvalidConfig(
            f"{loaded.name} has vectors of {config.semantic.text_dim}, texts have {EMBEDDING_DIM}"
        )
    served = f"{model.name}@{model.revision}"
    if info.semantic_trained and info.text_encoder and info.text_encoder != served:
        raise InvalidConfig(
            f"{loaded.name} was trained with the text encoder {info.text_encoder!r}, "
            f"this profile has {served!r}"
        )


def _bank_config(written: object, settings: SegmenterSettings) -> MaskBankConfig:
    """Return the bank options of models.yaml, overridden by the settings. Raises InvalidConfig."""
    known = {field.name for field in fields(MaskBankConfig)}
    if written is None:
        written = {}
    if not isinstance(written, Mapping) or set(written) - known:
        raise InvalidConfig(f"options.bank of a segmenter has {sorted(known)}, got {written!r}")
    changes = dict(written)
    if settings.bank_points_per_side is not None:
        changes["points_per_side"] = settings.bank_points_per_side
    try:
        return MaskBankConfig(**changes)
    except TypeError as error:
        raise InvalidConfig(f"options.bank of a segmenter: {error}") from error


def _score_threshold(options: Mapping[str, object], settings: SegmenterSettings) -> float:
    if settings.score_threshold is not None:
        return settings.score_threshold
    value = options.get("score_threshold", SegmentConfig.score_threshold)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidConfig(f"a segmenter's score_threshold is in [0, 1], got {value!r}")
    return float(value)


def _auto_method(
    settings: SegmenterSettings, loaded: _Loaded, detector: Detector | None
) -> Literal["bank", "detector"] | None:
    """Return SEGMENTER_AUTO_METHOD. Raises InvalidConfig if this service does not support it."""
    method = settings.auto_method
    if method == "detector" and detector is None:
        raise InvalidConfig("SEGMENTER_AUTO_METHOD=detector needs SEGMENTER_DETECTOR_URL")
    if method == "bank" and not loaded.sam.info.semantic_trained:
        raise InvalidConfig(
            f"SEGMENTER_AUTO_METHOD=bank needs weights whose semantic head is trained; that of "
            f"{loaded.name} is not"
        )
    return method


def _text_option(options: Mapping[str, object], name: str) -> str | None:
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidConfig(f"options.{name} of a segmenter must be a text, got {value!r}")
    return value


def _only_file(files: Mapping[str, object], name: str) -> str:
    if len(files) != 1:
        raise InvalidConfig(f"{name}: options.weights must name one of {sorted(files)}")
    return next(iter(files))
