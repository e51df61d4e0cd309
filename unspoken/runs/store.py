"""Runs as folders: create, read, list, cancel, retry and fork them.

RUNS_DIR/RUN_ID/
  run.json      the request; never changed. A run exists once this file does.
  source/       the shard with the inline items (only if there are some)
  plan.json, chunks-*.jsonl   the immutable plan (plan.py), written by the dispatcher
  status.json   the progress that the dispatcher last saw
  worker-error.json  the last error that stopped a worker (worker_error.py)
  cancelled     a marker file: no further chunk is started
  dispatcher-crashes   number of background calls that were started and did not end
  attempts/, leases/   attempts at chunks and leases on them (ledger.py)
  undecided/    shards of a run whose thresholds are chosen at its end (only of such a run)
  dataset/      shards with their commit records; at the end labels, manifest and card
  report/       the page that `unspoken report` wrote (only if it did)
"""

import io
import json
import os
import re
import secrets
import shutil
import tarfile
import time
from collections.abc import Container
from pathlib import Path

from pydantic import Field, ValidationError

from unspoken.errors import Conflict, InvalidInput, NotFound
from unspoken.imaging.images import MAX_BYTES, decode_base64
from unspoken.runs import storage
from unspoken.runs.files import json_sha256, unreadable, write_json
from unspoken.runs.liveness import stalled_since
from unspoken.wire.base import FileModel
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.runs import ENDED, InlineItem, RunPhase, RunRequest, RunStatus

_FOLDER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
INLINE_SHARD = "00000.tar"
MAX_NAMES = 10


class Run(FileModel):
    """The content of run.json."""

    run_id: str
    source: str | None
    """Path relative to the data folder; None if the items came inline and are in `source/`."""
    data_dir: str | None = None
    """The data folder, as the process that created the run saw it; None if the items came inline.

    The path is absolute, or relative to the workspace (the parent of the runs folder) if it is
    inside, so both may move.
    """
    pictures: str | None = None
    """Folder that a table's picture paths are relative to; None for the table's own folder."""
    options: LabelOptions
    retry_of: str | None = None
    """The run whose failed rows this run retries; it labels no other rows."""
    items_sha256: str | None = None
    """Digest of the inline items; None if there are none."""
    created_s: float = Field(description="seconds since 1970")

    @property
    def shards_folder(self) -> str:
        """Name of the folder, in the run's folder, where workers publish shards."""
        return "dataset" if self.options.false_discovery_rate is None else "undecided"


_STANDS_STILL: dict[str, object] = {
    "rate_per_s": None,
    "seconds_left": None,
    "chunks_leased": 0,
    "done_in_open_chunks": 0,
    "bottleneck": None,
}


def create_run(
    data_dir: Path, runs_dir: Path, request: RunRequest, *, run_id: str | None = None
) -> RunStatus:
    """Write a new run's folder, which the dispatcher then finds; return the run's status.

    `run_id` is for a caller that chooses the folder's name itself and may use characters that the
    API rejects. The same request under the same id returns the existing run. Raises InvalidInput,
    NotFound (no such source), Conflict (the id belongs to another request).
    """
    run = _asked_run(data_dir, runs_dir, request, run_id or request.run_id or _new_run_id())
    if (runs_dir / run.run_id / "run.json").is_file():
        return _existing(runs_dir, run)
    if request.source is not None:
        resolve_source(data_dir, request.source)
    if request.pictures is not None and not resolve_source(data_dir, request.pictures).is_dir():
        raise InvalidInput(f"pictures {request.pictures!r} is not a folder")
    draft = _new_draft(runs_dir, run.run_id)
    try:
        if request.items is not None:
            _write_items(draft / "source", request.items)
        return _publish(runs_dir, draft, run)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def find_run(data_dir: Path, runs_dir: Path, request: RunRequest) -> RunStatus | None:
    """Return the run that the same request created earlier; None if its id is unused.

    Raises Conflict if the id belongs to another request; `details` names each difference.
    """
    assert request.run_id is not None, "only a run with a name can be found"
    run = _asked_run(data_dir, runs_dir, request, request.run_id)
    if not (runs_dir / run.run_id / "run.json").is_file():
        return None
    return _existing(runs_dir, run)


def read_run(runs_dir: Path, run_id: str) -> Run:
    """Read run.json of a run. Raises NotFound."""
    path = runs_dir / _check_name(run_id) / "run.json"
    try:
        return Run.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no run {run_id!r}") from error
    except ValidationError as error:
        raise NotFound(unreadable(path, error, Run)) from error


def read_status(runs_dir: Path, run_id: str) -> RunStatus:
    """Return a run's status, as its dispatcher last saw it. Raises NotFound."""
    run = read_run(runs_dir, run_id)
    folder = runs_dir / run_id
    status = last_status(folder, run)
    if status.state not in ("done", "failed") and is_cancelled(folder):
        changes = {**_STANDS_STILL, "state": "cancelled", "message": ""}
        status = status.model_copy(update=changes)
    elif status.state not in ENDED:
        since_s = stalled_since(runs_dir, seen_s=status.updated_s or run.created_s)
        if since_s is not None:
            changes = {**_STANDS_STILL, "stalled_since_s": since_s}
            status = status.model_copy(update=changes)
    return status.model_copy(update={"output": str(folder / "dataset")})


def last_status(run_dir: Path, run: Run) -> RunStatus:
    """Return a run's status as its dispatcher last wrote it. Raises OSError."""
    try:
        return RunStatus.model_validate_json((run_dir / "status.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return _no_status(run.run_id, state="planned", message="waiting for a dispatcher")


def _no_status(run_id: str, *, state: RunPhase, message: str) -> RunStatus:
    """Return the status of a run without any counts."""
    return RunStatus(
        run_id=run_id,
        state=state,
        total=0,
        done=0,
        labelled=0,
        dropped={},
        failed={},
        chunks_total=0,
        chunks_done=0,
        attempts=0,
        message=message,
        output="",
    )


def write_status(runs_dir: Path, status: RunStatus) -> None:
    """Write status.json of a run."""
    write_json(runs_dir / status.run_id / "status.json", status.model_dump(mode="json"))


def list_runs(runs_dir: Path) -> list[RunStatus]:
    """Return the status of all runs, the newest first. Ignores folders that are not runs.

    A run whose files cannot be read is listed last, as failed, with the reason.
    """
    runs, bad = _readable_runs(runs_dir)
    found = []
    for run in reversed(runs):
        try:
            found.append(read_status(runs_dir, run.run_id))
        except (NotFound, OSError) as error:
            bad[run.run_id] = error
    return found + [_unreadable(run_id, error) for run_id, error in sorted(bad.items())]


def created_runs(runs_dir: Path, *, skip: Container[str] = ()) -> list[Run]:
    """Read run.json of every readable run, the oldest first. `skip`: ids to leave out."""
    return _readable_runs(runs_dir, skip=skip)[0]


def _readable_runs(
    runs_dir: Path, *, skip: Container[str] = ()
) -> tuple[list[Run], dict[str, Exception]]:
    """Return the readable runs, the oldest first, and the errors of the others by id."""
    runs: list[Run] = []
    bad: dict[str, Exception] = {}
    for run_id in list(storage.names(runs_dir)) if runs_dir.is_dir() else ():
        if run_id in skip or not _FOLDER_NAME.match(run_id):
            continue
        if not os.path.lexists(runs_dir / run_id / "run.json"):
            continue
        try:
            runs.append(read_run(runs_dir, run_id))
        except (NotFound, OSError) as error:
            bad[run_id] = error
    return sorted(runs, key=lambda run: (run.created_s, run.run_id)), bad


def _unreadable(run_id: str, error: Exception) -> RunStatus:
    if isinstance(error, OSError):
        message = f"the run's files cannot be read: {error.strerror}"
    else:
        message = str(error)
    return _no_status(run_id, state="failed", message=message)


def cancel_run(runs_dir: Path, run_id: str) -> RunStatus:
    """Cancel a run: no further chunk is started; committed shards stay. Raises NotFound."""
    status = read_status(runs_dir, run_id)
    if status.state in ENDED:
        return status
    storage.create(runs_dir / run_id / "cancelled")
    storage.sync_folder(runs_dir / run_id)
    return read_status(runs_dir, run_id)


def is_cancelled(run_dir: Path) -> bool:
    """Return True if the run was cancelled."""
    return storage.exists(run_dir / "cancelled")


def retry_failed(runs_dir: Path, run_id: str) -> RunStatus:
    """Create a run of only the rows that failed. Raises NotFound, Conflict, InvalidInput."""
    check_has_failures(runs_dir, run_id)
    return _again(runs_dir, read_run(runs_dir, run_id), word="retry", retry_of=run_id)


def check_has_failures(runs_dir: Path, run_id: str) -> None:
    """Raise Conflict unless a run has ended, InvalidInput unless it has rows that failed."""
    status = read_status(runs_dir, run_id)
    if status.state not in ("done", "cancelled"):
        raise Conflict(
            f"run {run_id!r} is {status.state}, {status.done} of {status.total} pictures are done: "
            "its failures are known when it ends"
        )
    if not sum(status.failed.values()):
        raise InvalidInput(f"run {run_id!r} has no failed rows")


def fork_run(runs_dir: Path, run_id: str) -> RunStatus:
    """Create a run with the same request, planned with the models served now. Raises NotFound.

    The first run does not change and may have any state.
    """
    parent = read_run(runs_dir, run_id)
    return _again(runs_dir, parent, word="fork", retry_of=parent.retry_of)


def resolve_source(data_dir: Path, source: str) -> Path:
    """Return the source's real path inside the data folder. Raises InvalidInput, NotFound."""
    root = data_dir.resolve()
    if "\0" in source:
        raise InvalidInput("source has a zero byte")
    try:
        path = (root / source).resolve()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name that the disk rejects, a loop of links
        raise InvalidInput("source is a path that cannot be resolved") from error
    if not path.is_relative_to(root):
        raise InvalidInput(f"source {source!r} is not inside the data folder")
    if not exists:
        raise NotFound(
            f"source {source!r} is not in the data folder {root}, which contains {_listing(root)}"
        )
    return path


def _listing(folder: Path) -> str:
    """Return the first names in a folder, for a message."""
    names = sorted(name for name in storage.names(folder) if not name.startswith("."))
    shown = ", ".join(map(repr, names[:MAX_NAMES]))
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{shown}{more}" if names else "nothing"


def _again(runs_dir: Path, parent: Run, *, word: str, retry_of: str | None) -> RunStatus:
    """Create a run with the same request as another one, under a new name."""
    chosen = f"{parent.run_id[:48]}-{word}-{secrets.token_hex(3)}"
    changes = {"run_id": chosen, "retry_of": retry_of, "created_s": time.time()}
    draft = _new_draft(runs_dir, chosen)
    try:
        if parent.source is None:
            shutil.copytree(runs_dir / parent.run_id / "source", draft / "source")
        return _publish(runs_dir, draft, parent.model_copy(update=changes))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remembered_data_dir(run: Run, runs_dir: Path) -> Path:
    """Return the data folder that a run with a source recorded."""
    assert run.data_dir is not None, "only runs of inline items have none"
    return runs_dir.resolve().parent / run.data_dir


def _asked_run(data_dir: Path, runs_dir: Path, request: RunRequest, run_id: str) -> Run:
    """Return the content of run.json for a request."""
    items = request.model_dump(mode="json", include={"items"})["items"]
    return Run(
        run_id=_check_name(run_id),
        source=request.source,
        data_dir=None if request.source is None else _to_remember(data_dir, runs_dir),
        pictures=request.pictures,
        options=request.options,
        items_sha256=None if items is None else json_sha256(items),
        created_s=time.time(),
    )


def _to_remember(data_dir: Path, runs_dir: Path) -> str:
    root, workspace = data_dir.resolve(), runs_dir.resolve().parent
    return root.relative_to(workspace).as_posix() if root.is_relative_to(workspace) else str(root)


def _new_run_id() -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)


def _check_name(run_id: str) -> str:
    if not _FOLDER_NAME.match(run_id):
        raise InvalidInput(
            f"{run_id!r} is not a valid name of a run: use letters, digits, '.', '_' and '-'"
        )
    return run_id


def _existing(runs_dir: Path, run: Run) -> RunStatus:
    first = read_run(runs_dir, run.run_id)
    if differences := _differences(first, run, runs_dir):
        told = "; ".join(differences.values())
        raise Conflict(
            f"run {run.run_id!r} already exists with another request: {told}",
            details={"differences": differences},
        )
    return read_status(runs_dir, run.run_id)


def _differences(first: Run, second: Run, runs_dir: Path) -> dict[str, str]:
    """Return field -> description of each difference between a run and another request for it."""
    found = {}
    place, other_place = _source_path(first, runs_dir), _source_path(second, runs_dir)
    if place != other_place:
        found["source"] = f"it labels {place}, not {other_place}"
    elif first.items_sha256 != second.items_sha256:
        found["items"] = "it has other items"
    one, other = (run.options.model_dump(mode="json") for run in (first, second))
    for name in LabelOptions.model_fields:
        if one[name] != other[name]:
            found[name] = f"its {name} is {{!r}}, not {{!r}}".format(
                *_without_equal_parts(one[name], other[name])
            )
    return found


def _without_equal_parts(one: object, other: object) -> tuple[object, object]:
    """Return two values; of two objects such as `filters`, only the fields that differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one, other
    differing = [name for name in one if one[name] != other[name]]
    return {name: one[name] for name in differing}, {name: other[name] for name in differing}


def _source_path(run: Run, runs_dir: Path) -> str:
    """Describe the source of a run and the folder of its pictures, for a message."""
    if run.source is None:
        return "pictures sent inline"
    folder = remembered_data_dir(run, runs_dir)
    pictures = f" with the pictures in {folder / run.pictures}" if run.pictures else ""
    return f"{folder / run.source}{pictures}"


def _new_draft(runs_dir: Path, run_id: str) -> Path:
    draft = runs_dir / f".{run_id}.{secrets.token_hex(4)}.draft"
    draft.mkdir(parents=True)
    return draft


def _publish(runs_dir: Path, draft: Path, run: Run) -> RunStatus:
    """Rename the finished draft folder, so that a run appears atomically."""
    for name in {"attempts", "leases", "dataset", run.shards_folder}:
        (draft / name).mkdir()
    write_json(draft / "run.json", run.model_dump(mode="json"))
    try:
        storage.publish_folder(draft, runs_dir / run.run_id)
    except OSError as error:
        if (runs_dir / run.run_id / "run.json").is_file():
            return _existing(runs_dir, run)
        raise Conflict(f"the folder {run.run_id!r} exists and is not empty") from error
    return read_status(runs_dir, run.run_id)


def _write_items(folder: Path, items: list[InlineItem]) -> None:
    """Write the items as an img2dataset shard: KEY.jpg, KEY.txt, KEY.json each."""
    keys = [item.key or f"{index:06d}" for index, item in enumerate(items)]
    if len(set(keys)) < len(keys):
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise InvalidInput(f"items have repeated keys: {', '.join(repeated[:5])}")
    folder.mkdir()
    with tarfile.open(folder / INLINE_SHARD, "w") as tar:
        for index, (key, item) in enumerate(zip(keys, items, strict=True)):
            try:
                encoded = decode_base64(item.image.base64)
            except InvalidInput as error:
                raise type(error)(f"items[{index}]: {error.message}") from error
            if not 0 < len(encoded) <= MAX_BYTES:
                raise InvalidInput(f"items[{index}]: the picture has {len(encoded)} bytes")
            columns = {"key": key, "caption": item.caption, "status": "success"}
            _add_member(tar, f"{key}.{_extension(encoded)}", encoded)
            _add_member(tar, f"{key}.txt", item.caption.encode())
            _add_member(tar, f"{key}.json", json.dumps(columns).encode())


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _extension(encoded: bytes) -> str:
    if encoded.startswith(b"\x89PNG"):
        return "png"
    return "webp" if encoded[8:12] == b"WEBP" else "jpg"
