"""Fetching a profile's weights from the command line: a bar per file, then what was done."""

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from unspoken.profiles import load_profile
from unspoken.weights import FetchProgress, FetchReport, WeightsSettings, fetch_profile


def fetch_with_progress(name: str, *, settings: WeightsSettings, console: Console) -> FetchReport:
    """Fetch the hub files of a profile of models.yaml. Raises what `fetch_profile` raises."""
    profile = load_profile(name, models_file=settings.models_file)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def show(progress: FetchProgress) -> None:
            if progress.file not in tasks:
                tasks[progress.file] = bars.add_task(progress.file, total=progress.num_bytes)
            bars.update(tasks[progress.file], completed=progress.received_bytes)

        report = fetch_profile(
            profile, cache_dir=settings.cache_dir, hub_url=settings.hub_url, on_progress=show
        )
    console.print(
        f"{name}: {len(report.fetched)} files fetched, {len(report.present)} were there; "
        "all hashes are right"
    )
    return report
