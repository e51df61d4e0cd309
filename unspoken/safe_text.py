"""Make text safe to show: redact secrets, escape control characters.

Messages, log lines and the terminal repeat text from outside: callers' ids, file names, exceptions
of an HTTP library. Such an exception may quote a header with an API key, and a URL may contain a
password. A newline or an escape sequence in a name could forge log lines.
"""

import re

REDACTED = "***"
MAX_REASON_CHARS = 1000

# Matching is linear in the text: each part is bounded and starts with a fixed word. This pattern
# matches user:password@ of a URL, up to the last @ of the authority. A password with an unescaped /
# ? or # is matched too, unless the text before it is host:port.
_USERINFO = re.compile(
    r"://(?:[^\s/?#\"]{0,255}|(?![^\s/?#\"@:]{0,253}:\d{1,5}[/?#])"
    r"[^\s/?#\"@:]{0,253}:[^\s\"@]{0,255})@"
)
_SECRETS = (
    (_USERINFO, f"://{REDACTED}@"),
    (
        re.compile(r"\b(Illegal header (?:value|name) )b?(['\"]).{0,2000}?\2", re.I | re.S),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(Bearer|Authorization: Basic)\s+[^\s'\",;]{4,}", re.I), rf"\1 {REDACTED}"),
    # A key made by `unspoken key`, at any position.
    (re.compile(r"\bunspoken_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"), f"unspoken_{REDACTED}"),
)
# C0, DEL and C1 controls, line and paragraph separators, bidirectional controls, surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """Return the text without API keys, Authorization headers and `user:password@` of URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def without_userinfo(url: str) -> str:
    """Return a URL without `user:password@`."""
    return _USERINFO.sub("://", url)


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return the text with control characters as `\n`, `\x1b` or `\u2028`; `keep` is exempt."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def escape_json(written: str) -> str:
    r"""Return JSON text with control characters as `\u001b`; its value is unchanged."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def one_line(error: BaseException) -> str:
    """Return an exception's text with every run of whitespace as one blank."""
    return " ".join(str(error).split())


def reason_of(error: BaseException) -> str:
    """Return an exception's text for a message: redacted, one line, at most MAX_REASON_CHARS.

    Return the exception's type if the text is empty.
    """
    text = escape_controls(redact(str(error).strip()))
    if len(text) > MAX_REASON_CHARS:
        text = text[: MAX_REASON_CHARS - 1] + "\u2026"
    return text or type(error).__name__


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
