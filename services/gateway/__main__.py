"""Run the gateway service: `python -m services.gateway`."""

from services.gateway.app import create_app
from services.gateway.events import end_streams
from services.gateway.settings import GatewaySettings
from unspoken.http.entry_point import run_main
from unspoken.http.serve import serve


def main() -> None:
    """Read the settings, then serve until SIGTERM."""
    settings = GatewaySettings()
    serve(create_app(settings), settings, on_stop=end_streams)


if __name__ == "__main__":
    run_main(main)
