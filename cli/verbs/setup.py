"""`unspoken weights`, `key` and `settings`: what services need before they start."""

from contextlib import ExitStack
from types import TracebackType
from typing import Annotated

import typer

from cli.console import PlainConsole
from cli.options import Quiet
from cli.progress import shown_progress
from cli.settings_table import settings_text
from unspoken.config.api_keys import is_key_name, key_sha256, new_key
from unspoken.config.profiles import MODELS_FILE, load_profile, profile_names, resolve_files
from unspoken.config.weights import FetchProgress, WeightsSettings, fetch_profile
from unspoken.errors import InvalidInput, MissingWeights
from unspoken.progress import Progress, Stage

weights_app = typer.Typer(no_args_is_help=True, add_completion=False)
console = PlainConsole(stderr=True)


@weights_app.callback()
def weights() -> None:
    """List and download the models of the profiles, such as `base`.

    Examples:
        unspoken weights list
        unspoken weights fetch base
    """


@weights_app.command("fetch")
def fetch_weights(
    profile: Annotated[str, typer.Argument(help="Profile of models.yaml: small, base or thesis.")],
    *,
    quiet: Quiet = False,
) -> None:
    """Download a profile's model files and check their hashes; services never download files."""
    settings = WeightsSettings()
    chosen = load_profile(profile, models_file=settings.models_file)
    with FileStages(shown_progress(console, quiet=quiet)) as stages:
        report = fetch_profile(
            chosen,
            cache_dir=settings.cache_dir,
            hub_url=settings.hub_url,
            on_progress=stages.show,
        )
    typer.echo(
        f"profile {profile}: {len(report.fetched)} files fetched, "
        f"{len(report.present)} already present; all hashes match"
    )


class FileStages:
    """Shows a download as one stage of progress per file."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open = ExitStack()
        self._file: str | None = None
        self._received_bytes = 0
        self._stage: Stage | None = None

    def __enter__(self) -> "FileStages":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def show(self, now: FetchProgress) -> None:
        """Advance the stage of the file; a new file ends the stage of the previous one."""
        if self._stage is None or now.file != self._file:
            self._open.close()
            self._file, self._received_bytes = now.file, now.received_bytes
            opened = self._progress.stage(
                f"fetching {now.file}", total=now.num_bytes, unit="bytes", done=now.received_bytes
            )
            self._stage = self._open.enter_context(opened)
        self._stage.advance(now.received_bytes - self._received_bytes)
        self._received_bytes = now.received_bytes


@weights_app.command("list")
def list_weights() -> None:
    """List the models of all profiles, and the folder of each or how to fetch it.

    The first line is the path of models.yaml: copy it to write profiles of your own, and name the
    copy in UNSPOKEN_MODELS_FILE.
    """
    settings = WeightsSettings()
    typer.echo(settings.models_file or MODELS_FILE)
    for name in profile_names(settings.models_file):
        for model in load_profile(name, models_file=settings.models_file).models:
            try:
                found = str(resolve_files(model, cache_dir=settings.cache_dir))
            except MissingWeights as error:
                found = f"missing: {error}"
            typer.echo(f"{name:8} {model.kind:13} {model.name:30} {found}")


def key(
    name: Annotated[str, typer.Argument(help="Name of the key's owner, for the logs.")],
    *,
    per_minute: Annotated[
        int | None, typer.Option(min=0, help="Requests per minute; 0 for no limit.")
    ] = None,
) -> None:
    """Create an API key. It is shown only once, because services store only its digest.

    Examples:
        unspoken key mobile-app --per-minute 120
    """
    if not is_key_name(name):
        raise InvalidInput(
            f"{name!r} cannot be the name of a key. Use up to 64 letters, digits, dots, hyphens "
            "and underscores"
        )
    made = new_key()
    entry = f"{name}:{key_sha256(made)}" + ("" if per_minute is None else f":{per_minute}")
    typer.echo(f"UNSPOKEN_CLIENT_KEY={made}      # for clients")
    typer.echo(f"UNSPOKEN_API_KEYS={entry}      # for services; separate several keys by spaces")


def settings(
    wanted: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Part of the name of a process or a variable.")
    ] = "",
) -> None:
    """Print the settings of all processes, which they read from the environment.

    Examples:
        unspoken settings
        unspoken settings worker
        unspoken settings timeout
    """
    typer.echo(settings_text(wanted), nl=False)
