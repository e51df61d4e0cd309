"""`unspoken weights`, `key` and `settings`: what services need before they start."""

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from cli.console import PlainConsole
from cli.settings_table import settings_text
from unspoken.config.api_keys import is_key_name, key_sha256, new_key
from unspoken.config.profiles import MODELS_FILE, load_profile, profile_names, resolve_files
from unspoken.config.weights import FetchProgress, WeightsSettings, fetch_profile
from unspoken.errors import InvalidInput, MissingWeights

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
) -> None:
    """Download a profile's model files and check their hashes; services never download files."""
    settings = WeightsSettings()
    chosen = load_profile(profile, models_file=settings.models_file)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        console=console,
    ) as progress:
        bars: dict[str, TaskID] = {}

        def show(now: FetchProgress) -> None:
            if now.file not in bars:
                bars[now.file] = progress.add_task(now.file, total=now.num_bytes)
            progress.update(bars[now.file], completed=now.received_bytes)

        report = fetch_profile(
            chosen,
            cache_dir=settings.cache_dir,
            hub_url=settings.hub_url,
            on_progress=show,
        )
    typer.echo(
        f"profile {profile}: {len(report.fetched)} files fetched, "
        f"{len(report.present)} already present; all hashes match"
    )


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
