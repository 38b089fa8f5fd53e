"""The web application: one page, its files, and the API; all of it for reading."""

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_gym.viewer import api
from agent_gym.viewer.runs import Runs
from agent_gym.viewer.security import Guard

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def static_files() -> dict[str, Traversable]:
    """Return the page's files by name; no other file is ever served."""
    return {
        file.name: file
        for file in files("agent_gym.viewer").joinpath("static").iterdir()
        if file.is_file() and Path(file.name).suffix in TYPES
    }


def make_app(runs: Sequence[Path] | Runs, *, host: str = "127.0.0.1", token: str | None = None) -> Starlette:
    """Return the application that shows runs.

    Args:
        runs: Run folders, or folders that hold some.
        host: The host that it will be served at; requests for another one are refused.
        token: What requests must bring; None for nothing.

    Raises:
        UnknownIdError: There is no run at one of the paths.
    """
    shown = runs if isinstance(runs, Runs) else Runs(runs)
    table = static_files()
    page = table.pop("index.html")
    return Starlette(
        routes=[
            Route("/", partial(_file, page)),
            *[Route(f"/static/{name}", partial(_file, file)) for name, file in table.items()],
            *api.routes(shown),
        ],
        middleware=[Middleware(Guard, host=host, token=token)],
        exception_handlers={404: _nothing_there, 405: _nothing_there},
    )


async def _file(file: Traversable, request: Request) -> Response:
    return Response(file.read_bytes(), headers={"Content-Type": TYPES[Path(file.name).suffix]})


async def _nothing_there(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "There is nothing at this address; the page is at /."}, 404)
