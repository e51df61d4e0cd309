"""The API key that the command line sends to a gateway: UNSPOKEN_CLIENT_KEY."""

from pydantic import SecretStr

from unspoken.settings import ProcessSettings


def client_key() -> SecretStr:
    """Empty where none is set."""
    return ProcessSettings().client_key
