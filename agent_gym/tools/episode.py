"""Which episode's tools are being set up or forked: those that share something find each other by it.

The tools of a toolbox are set up and forked one by one, and a server with a state serves several of them.
"""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_toolbox: ContextVar[Hashable] = ContextVar("toolbox", default=None)


@contextmanager
def tools_of(toolbox: object) -> Iterator[None]:
    """Say that the tools that are set up or forked within belong to this toolbox."""
    token = _toolbox.set(id(toolbox))
    try:
        yield
    finally:
        _toolbox.reset(token)


def current_episode() -> Hashable:
    """Return something that is the same for all tools of an episode while they are set up or forked.

    Outside a toolbox, tools that the same thread sets up or forks one after the other belong together.
    """
    return _toolbox.get() or ("thread", threading.get_ident())
