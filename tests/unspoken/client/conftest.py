import pytest

from tests.served_stack import served_stack
from tests.unspoken.client.blocking import Blocking
from unspoken.client import Client


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def client_class(request):
    return request.param


@pytest.fixture
def stack(tmp_path):
    with served_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
def client(client_class, stack):
    with client_class(stack.url) as client:
        yield client
