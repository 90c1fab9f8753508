"""The playground's page and the schemas from which it makes its forms: static files."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "playground/page"

# Pictures and requests may go to a real endpoint and to its storage; everything that runs comes from here.
_POLICY = (
    "default-src 'self'; img-src 'self' https: data: blob:; media-src 'self' https:; connect-src 'self' https:; frame-ancestors 'none'"
)


async def index(_request: Request) -> Response:
    """Returns the page."""
    return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": _POLICY})


ROUTES = [
    Route("/", index, methods=["GET"]),
    Mount("/page", StaticFiles(directory=_PAGE)),
    Mount("/schemas", StaticFiles(directory=_ROOT / "schemas")),
]
