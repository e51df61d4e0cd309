"""The API key that the command line sends to a gateway: UNSPOKEN_CLIENT_KEY."""

from pydantic import SecretStr

from unspoken.config.settings import ProcessSettings


def client_key() -> SecretStr:
    """Return the API key; empty if none is set."""
    return ProcessSettings().client_key
