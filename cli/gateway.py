"""Clients of a gateway or a service, with the API key of the environment.

A module of its own because it needs httpx, which commands on local runs do not.
"""

from pydantic import SecretStr

from unspoken.client import Client, RetryPolicy
from unspoken.config.settings import ProcessSettings


def client_key() -> SecretStr:
    """Return the API key that commands send, UNSPOKEN_CLIENT_KEY; empty if none is set."""
    return ProcessSettings().client_key


def gateway_client(url: str, *, max_attempts: int | None = None) -> Client:
    """Return a client of a gateway that sends the API key of the environment.

    max_attempts: number of attempts at a request; None for the client's default.
    """
    key = client_key().get_secret_value()
    if max_attempts is None:
        return Client(url, api_key=key)
    return Client(url, api_key=key, retries=RetryPolicy(attempts=max_attempts))
