"""Checks broker addresses. Accepts the forms that Celery, kombu and redis-py all understand."""

from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import AfterValidator

from unspoken.errors import InvalidConfig, InvalidInput

FORMS = (
    "redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]",
    "rediss://[[USER]:PASSWORD@]HOST[:PORT][/DB][?ssl_cert_reqs=...] with TLS",
    "redis+socket:///PATH[?virtual_host=DB]",
)
_OTHER_NAMES = {"valkey": "redis", "valkeys": "rediss", "unix": "redis+socket"}


def check_broker_url(url: str, *, name: str) -> str:
    """Return the address of a broker. Raises InvalidInput, which lists the accepted forms.

    name: the option or variable that holds the address. No error message contains the address,
    because it may hold a password.
    """
    try:
        parts = urlsplit(url)
        problem = _problem(parts)
    except ValueError as error:  # the port is not a number, or a bracket is not closed
        problem = "its host or port cannot be read" if "ort" not in str(error) else str(error)
    if problem:
        raise InvalidInput(
            f"{name}: {problem}. Accepted are {'; '.join(FORMS)}. Special characters of a password "
            "are written as %XX"
        )
    return url


def broker_address(variable: str) -> AfterValidator:
    """Return a validator for a setting that holds a broker's address. It raises InvalidConfig."""

    def check(url: str) -> str:
        try:
            return check_broker_url(url, name=variable)
        except InvalidInput as error:
            raise InvalidConfig(error.message) from None

    return AfterValidator(check)


def _problem(parts: SplitResult) -> str:
    """Return what is wrong with an address; empty if it is valid."""
    if parts.fragment:
        return "it has a #"
    if parts.scheme == "redis+socket":
        return _problem_of_socket(parts)
    if parts.scheme in ("redis", "rediss"):
        return _problem_of_host(parts)
    if parts.scheme in _OTHER_NAMES:
        return f"write {_OTHER_NAMES[parts.scheme]}:// instead of {parts.scheme}://"
    return "it is not the address of a Redis"


def _problem_of_host(parts: SplitResult) -> str:
    if not parts.hostname:
        return "it has no host"
    _ = parts.port  # raises ValueError
    database = parts.path.removeprefix("/")
    if database and not _is_number(database):
        return "its path is not a database number"
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if "db" in names:
        return "the database number is a path, such as /3, not ?db=3"
    if any(parts.scheme != "rediss" or not name.startswith("ssl_") for name in names):
        return "it has an unknown option behind the ?"
    return ""


def _problem_of_socket(parts: SplitResult) -> str:
    if parts.netloc.rpartition("@")[2]:
        return "three slashes stand before the path of a socket"
    if len(parts.path) < 2:
        return "it has no path of a socket"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "virtual_host" or not _is_number(value):
            return "the only option behind the ? is virtual_host, a database number"
    return ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
