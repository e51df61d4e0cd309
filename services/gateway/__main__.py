"""`python -m services.gateway`: settings, then listen."""

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from unspoken.server import serve


def main() -> None:
    """Listen until SIGTERM."""
    settings = GatewaySettings()
    serve(create_app(settings), settings)


if __name__ == "__main__":
    main()
