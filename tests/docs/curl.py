"""Runs `curl` command lines with httpx; supports the few options that our pages use."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from tests.docs.command_lines import command_lines


class Command(NamedTuple):
    """One request."""

    method: str
    port: int
    path: str
    headers: dict[str, str]
    data: str | None
    form: list[str]

    def send(self, urls: dict[int, str], *, folder: Path) -> httpx.Response:
        """Send the request to the service for its port; files of a form are in `folder`."""
        files, fields = {}, {}
        for name, _, value in (part.partition("=") for part in self.form):
            if value.startswith("@"):
                files[name] = (folder / value[1:]).read_bytes()
            else:
                fields[name] = value
        return httpx.request(
            self.method,
            urls[self.port] + self.path,
            headers=self.headers,
            content=self.data,
            files=files or None,
            data=fields or None,
            trust_env=False,
            timeout=60,
        )


def commands(text: str) -> list[Command]:
    """Return every `curl` command of a block; other lines are ignored."""
    lines = (line.words for line in command_lines(text))
    return [_command(words[1:]) for words in lines if words[0] == "curl"]


def _command(words: tuple[str, ...]) -> Command:
    method, url, data = None, "", None
    headers: dict[str, str] = {}
    form: list[str] = []
    left = iter(words)
    for word in left:
        match word:
            case "-X":
                method = next(left)
            case "-H":
                name, _, value = next(left).partition(":")
                headers[name] = value.strip()
            case "-d":
                data = next(left)
            case "-F":
                form.append(next(left))
            case "-s" | "-sN":
                pass
            case _:
                assert not url and not word.startswith("-"), f"{word!r} is not known here"
                url = word
    parts = urlsplit(f"http://{url}")
    method = method or ("POST" if form or data is not None else "GET")
    assert parts.port, f"{url} names no port"
    return Command(method, parts.port, parts.path, headers, data, form)
