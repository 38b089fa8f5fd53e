"""`agent-gym view` and `agent-gym report`."""

import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import typer

from agent_gym.errors import ConfigError, MissingExtraError


def run_view(runs: Sequence[Path], *, host: str, port: int, token: str | None, open_page: bool) -> None:
    """Serve runs until the process is told to stop.

    Args:
        runs: Run folders, or folders that hold some.
        host: Where to listen.
        port: Likewise; 0 takes a free one.
        token: What requests must bring; made up where others can reach `host`.
        open_page: Whether to open the page in a browser.

    Raises:
        MissingExtraError: starlette or uvicorn is not installed.
        ConfigError: The address cannot be listened at.
        UnknownIdError: There is no run at one of the paths.
    """
    try:
        import uvicorn

        from agent_gym.viewer.security import token_for
        from agent_gym.viewer.server import make_app
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("viewer", "Viewing a run") from error
    token = token_for(host, token)
    app = make_app(runs, host=host, token=token)
    with _listening(host, port) as listener:
        address = page_address(host, listener.getsockname()[1], token)
        typer.echo(f"{address}  (Ctrl-C ends)")
        if open_page:
            webbrowser.open(address)
        # An access log would hold the token.
        settings = uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(settings).run(sockets=[listener])


def run_report(runs: Sequence[Path], *, out: Path | None, episodes: int) -> None:
    """Write runs as one HTML file.

    Args:
        runs: Run folders, or folders that hold some.
        out: The file; by default report.html in the first of the folders.
        episodes: Episodes that it holds, at most.

    Raises:
        MissingExtraError: starlette is not installed.
        UnknownIdError: There is no run at one of the paths.
        StoreError: A run cannot be read, or the file cannot be written.
    """
    try:
        from agent_gym.viewer.export import export
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("viewer", "Writing a report") from error
    written = export(runs, out or runs[0] / "report.html", episodes=episodes)
    typer.echo(f"{written.path}  ({written.size / 1e6:.1f} MB)")
    typer.echo(written.note)


def page_address(host: str, port: int, token: str | None) -> str:
    """Return what to open in a browser."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    place = f"[{name.strip('[]')}]" if ":" in name else name
    return f"http://{place}:{port}/" + (f"?token={quote(token)}" if token else "")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP: only then does asyncio send answers at once, instead of 40 ms later (Nagle's algorithm).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"The viewer cannot listen at {host}, port {port}: {error.strerror}; give another --port (0 takes a free "
            "one) or --host."
        ) from error
    return listener
