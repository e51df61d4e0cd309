"""List all settings as tables: `unspoken settings`, and docs/reference/settings.md."""

from collections.abc import Iterator

from pydantic.fields import FieldInfo

from unspoken.config.services import SERVICES
from unspoken.config.settings import ProcessSettings, settings_class
from unspoken.config.weights import WeightsSettings
from worker.process.settings import WorkerSettings


def settings_table() -> str:
    """Return Markdown: one section of shared settings, then one per process."""
    lines = [
        "# Settings",
        "",
        "Processes read them from the environment at start. `unspoken settings` prints this.",
    ]
    shared = ProcessSettings.variables()
    lines += ["", "## every process", *_rows(ProcessSettings, shared)]
    for title, kind in processes():
        own = {name: env for name, env in kind.variables().items() if name not in shared}
        lines += ["", f"## {title}", *_rows(kind, own)]
    return "\n".join(lines) + "\n"


def processes() -> Iterator[tuple[str, type[ProcessSettings]]]:
    """Yield (title, settings class) of each kind of process."""
    yield from ((service.name, settings_class(service)) for service in SERVICES)
    yield "worker and dispatcher", WorkerSettings
    yield "weights fetch", WeightsSettings


def _rows(kind: type[ProcessSettings], names: dict[str, str]) -> Iterator[str]:
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for name, env in names.items():
        field = kind.model_fields[name]
        about = " ".join((field.description or "").split())
        yield f"| `{env}` | {_default(field)} | {about} |"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "by machine"
    value = field.default
    return "" if value is None or str(value) in ("", "**********") else f"`{value}`"
