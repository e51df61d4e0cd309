"""Pages of every service: `/` with its links, `/docs` with Swagger UI, and their static files.

They work offline and load nothing from other sites. They need no API key, because a browser cannot
send one with a link and they show only what the repository publishes. Links are relative, so that
the pages also work below a path of a reverse proxy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

STATIC_DIR = Path(__file__).parent / "static"
PAGE_ROUTES = ("/", "/docs", "/openapi.json")
STATIC_PREFIX = "/static/"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the pages. Swagger UI's icons are data URLs."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One line of a page: what it is, where it leads, and a remark. href "": no link."""

    text: str
    href: str = ""
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled list of links on the page at `/`."""

    title: str
    links: Sequence[Link]


OWN_LINKS = Section(
    title="This service",
    links=(
        Link(text="API", href="docs", remark="every route, to read and to try"),
        Link(text="Readiness", href="readyz", remark="says if it accepts requests now"),
        Link(text="Models", href="v1/models", remark="the models that it runs"),
        Link(text="Metrics", href="metrics", remark="for Prometheus"),
    ),
)
Sections = Callable[[Request], Sequence[Section]]


def is_open_page(path: str) -> bool:
    """Return True for the path of a page or of a static file; these need no API key."""
    return path in PAGE_ROUTES or path.startswith(STATIC_PREFIX)


def add_pages(app: FastAPI, *, state: Callable[[], str], sections: Sections) -> None:
    """Add `/`, `/docs` and `/static` to an app.

    Args:
        app: Its title, version and description are shown.
        state: Returns the service's state, such as "ready".
        sections: Returns further sections of the page at `/`.
    """

    @app.get("/", tags=["pages"], include_in_schema=False)
    async def home(request: Request) -> HTMLResponse:
        shown = [*sections(request), OWN_LINKS]
        return HTMLResponse(home_page(app, state=state(), sections=shown))

    @app.get("/docs", tags=["pages"], include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app))

    app.mount("/static", StaticFiles(directory=STATIC_DIR), name="static")


def home_page(app: FastAPI, *, state: str, sections: Sequence[Section]) -> str:
    """Return the HTML of the page at `/`."""
    keys = (
        "<p>Models, metrics and all other routes need an API key: send "
        "<code>Authorization: Bearer KEY</code>, or enter the key at <i>Authorize</i> on the page "
        "of the API.</p>"
        if app.state.keys is not None
        else ""
    )
    return _page(
        app.title,
        "<main>\n"
        f"<h1>{escape(app.title)}</h1>\n"
        f'<p class="version">version {escape(app.version)}, {escape(state)}</p>\n'
        f"<p>{escape(app.description)}</p>\n"
        f"{keys}{''.join(map(_section, sections))}"
        "</main>",
    )


def docs_page(app: FastAPI) -> str:
    """Return the HTML of the page at `/docs`."""
    return _page(
        f"{app.title}: API",
        f'<nav><a href="./">{escape(app.title)}</a></nav>\n'
        "<noscript>This page needs JavaScript. The API is described in "
        '<a href="openapi.json">openapi.json</a>.</noscript>\n'
        '<main id="swagger-ui"></main>\n'
        '<script src="static/swagger-ui/swagger-ui-bundle.js"></script>\n'
        '<script src="static/docs.js"></script>',
        styles=("static/swagger-ui/swagger-ui.css", "static/page.css"),
        body_class="docs",
    )


def _section(section: Section) -> str:
    lines = "".join(
        f"<dt>{_anchor(link)}</dt><dd>{escape(link.remark)}</dd>\n" for link in section.links
    )
    return f"<h2>{escape(section.title)}</h2>\n<dl>\n{lines}</dl>\n"


def _anchor(link: Link) -> str:
    text = escape(link.text)
    return f'<a href="{escape(link.href)}">{text}</a>' if link.href else text


def _page(
    title: str, body: str, *, styles: Sequence[str] = ("static/page.css",), body_class: str = ""
) -> str:
    links = "".join(f'<link rel="stylesheet" href="{href}">\n' for href in styles)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n{links}"
        '<link rel="icon" href="static/icon.svg" type="image/svg+xml">\n'
        f'</head>\n<body class="{body_class}">\n{body}\n</body>\n</html>\n'
    )
