"""Lists all settings of all processes: as text in a terminal, and as a page of the docs."""

from collections.abc import Iterator
from textwrap import fill
from typing import NamedTuple

from pydantic.fields import FieldInfo

from unspoken.config.services import SERVICES
from unspoken.config.settings import ProcessSettings, settings_class
from unspoken.config.weights import WeightsSettings
from unspoken.errors import InvalidInput
from worker.process.settings import WorkerSettings

TEXT_WIDTH = 96


class Setting(NamedTuple):
    """One variable of the environment; `default` is empty if there is none."""

    variable: str
    default: str
    about: str


def settings_table() -> str:
    """Return Markdown: one section of shared settings, then one per process."""
    lines = [
        "# Settings",
        "",
        "Processes read them from the environment at start. `unspoken settings` prints them.",
    ]
    for title, settings in _sections():
        lines += ["", f"## {title}", "| variable | default | meaning |", "|---|---|---|"]
        for each in settings:
            default = each.default
            if default not in ("", "by machine"):
                default = f"`{default}`"
            lines.append(f"| `{each.variable}` | {default} | {each.about} |")
    return "\n".join(lines) + "\n"


def settings_text(wanted: str = "") -> str:
    """Return the settings as text for a terminal. Raises InvalidInput if none matches.

    wanted: show only processes and variables whose name contains this.
    """
    blocks = []
    for title, settings in _sections():
        shown = [
            each for each in settings if wanted.lower() in title or wanted.upper() in each.variable
        ]
        if shown:
            blocks.append("\n".join([title.upper(), *map(_as_text, shown)]))
    if not blocks:
        raise InvalidInput(
            f"no process and no setting has {wanted!r} in its name: `unspoken settings` lists all"
        )
    return "\n\n".join(blocks) + "\n"


def processes() -> Iterator[tuple[str, type[ProcessSettings]]]:
    """Yield (title, settings class) of each kind of process."""
    yield from ((service.name, settings_class(service)) for service in SERVICES)
    yield "worker and dispatcher", WorkerSettings
    yield "weights fetch", WeightsSettings


def _sections() -> Iterator[tuple[str, list[Setting]]]:
    shared = ProcessSettings.variables()
    yield "every process", _settings(ProcessSettings, shared)
    for title, kind in processes():
        own = {name: env for name, env in kind.variables().items() if name not in shared}
        yield title, _settings(kind, own)


def _settings(kind: type[ProcessSettings], names: dict[str, str]) -> list[Setting]:
    fields = ((env, kind.model_fields[name]) for name, env in names.items())
    return [
        Setting(env, _default(field), " ".join((field.description or "").split()))
        for env, field in fields
    ]


def _as_text(setting: Setting) -> str:
    head = f"  {setting.variable}" + (f" = {setting.default}" if setting.default else "")
    about = fill(setting.about, TEXT_WIDTH, initial_indent="      ", subsequent_indent="      ")
    return f"{head}\n{about}"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "by machine"
    value = field.default
    return "" if value is None or str(value) in ("", "**********") else str(value)
