"""The first process of a sandbox: `pool`, which makes boxes, or one `box` alone."""

from __future__ import annotations

import _signal
import _socket
import gc
import os

from . import branching, frames, kernel
from .processes import end_after
from .streams import Requests, SocketStream, StandardStreams
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .streams import Stream


def main(arguments: list[str]) -> None:
    """Begin as told: "pool FD MODULE ...", "box FD" or "box" (over the standard streams)."""
    kernel.hide()
    kernel.take_descriptors()
    if arguments[0] == "pool":
        run_pool(SocketStream(_socket.socket(fileno=int(arguments[1]))), arguments[2:])
    elif len(arguments) > 1:
        kernel.adopt_orphans()
        run_box(SocketStream(_socket.socket(fileno=int(arguments[1]))))
    else:
        run_box(StandardStreams())


def run_pool(host: SocketStream, preload: list[str]) -> None:
    """Import what most code needs, then make a box whenever the host sends a descriptor for one.

    The interpreter is ready in a box because a box is a fork of it.
    """
    missing = _import_all(preload)
    gc.collect()
    gc.freeze()
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    host.send(frames.pack({"ready": True, "missing": missing}))
    while True:
        data, descriptors = host.receive()
        if not data:
            return
        for descriptor in descriptors:
            if branching.fork_box() == 0:
                host.close()
                end_after(_leaving_pool(descriptor))
            os.close(descriptor)


def _leaving_pool(descriptor: int) -> Callable[[], None]:
    def be_a_box() -> None:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        run_box(SocketStream(_socket.socket(fileno=descriptor)))

    return be_a_box


def run_box(host: Stream) -> None:
    """Say that the box is here, learn what it shall be like, and serve it."""
    host.send(frames.pack({"hello": True}))
    requests = Requests(host, branching.LONGEST_REQUEST)
    first = requests.next()
    if first is None:
        return
    config, program, _ = first
    if config["own_folders"]:
        branching.mount_folders(config, copy=False)
    Supervisor(host, requests, config, program).serve()


def _import_all(names: list[str]) -> dict[str, str]:
    """Import modules; return what cannot be imported, and why."""
    missing = {}
    for name in names:
        try:
            __import__(name)
        except Exception as error:  # noqa: BLE001 - a library may fail in any way
            missing[name] = f"{type(error).__name__}: {error}"
    return missing
