"""Run the gateway service: `python -m services.gateway`."""

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from unspoken.config.settings import run_main
from unspoken.http.serve import serve


def main() -> None:
    """Read the settings, then serve until SIGTERM."""
    settings = GatewaySettings()
    serve(create_app(settings), settings)


if __name__ == "__main__":
    run_main(main)
