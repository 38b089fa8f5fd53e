"""Runs code as an ordinary process of this machine: no isolation at all, for code that one would run oneself.

It keeps the limits that a process can be given, a clean environment and a folder of its own, and ends everything that
the code has started. Files, the network and other processes of the user are all within its reach.
"""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agent_gym.errors import SandboxUnavailable
from agent_gym.sandbox.base import Limits
from agent_gym.sandbox.boxes import Box, box_config, environment
from agent_gym.sandbox.bundle import boot_source
from agent_gym.sandbox.channels import BoxLost, SocketChannel
from agent_gym.sandbox.sessions import BoxSandbox

logger = logging.getLogger(__name__)


class Local(BoxSandbox):
    """Runs code without isolation.

    Args:
        limits: What code may use: time, output, the size of a file, and memory for each process by itself.
        concurrency: Calls that run at once; two for each processor by default.
        allow_unsafe: Must be set: untrusted code can do whatever you can.

    Raises:
        SandboxUnavailable: `allow_unsafe` is not set.
    """

    name = "local"

    def __init__(
        self, limits: Limits | None = None, *, concurrency: int | None = None, allow_unsafe: bool = False
    ) -> None:
        if not allow_unsafe:
            raise SandboxUnavailable(
                "The sandbox 'local' isolates nothing: pass allow_unsafe=True if you would run the code yourself, else "
                "use 'bubblewrap' or 'docker'."
            )
        super().__init__(limits or Limits(), concurrency or 2 * (os.cpu_count() or 1))
        logger.warning("Code runs without isolation: it can do whatever this user can.")

    def guarantees(self) -> Mapping[str, bool]:
        """See `Sandbox.guarantees`."""
        from agent_gym.sandbox.choosing import GUARANTEES

        return dict.fromkeys(GUARANTEES, False)

    def _open_box(self) -> Box:
        folder = Path(tempfile.mkdtemp(prefix="agent_gym-"))
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", boot_source(), "box", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=environment(HOME=str(folder), PATH=os.environ.get("PATH", os.defpath)),
                start_new_session=True,
            )
        box = _LocalBox(SocketChannel(ours), self.limits, process, folder)
        try:
            box.greet()
            box.begin(
                box_config(
                    self.limits,
                    work=str(folder),
                    writable=[str(folder)],
                    pid_1=False,
                    address_space=self.limits.memory_bytes,
                    environment=environment(HOME=str(folder), PATH=os.environ.get("PATH", os.defpath)),
                ),
                b"",
            )
        except BoxLost:
            box.close()
            raise
        return box


class _LocalBox(Box):
    """A box that is an ordinary process and a folder.

    Args:
        channel: The way to the supervisor.
        limits: What code may use.
        process: The supervisor.
        folder: Where the code works.
    """

    def __init__(
        self, channel: SocketChannel, limits: Limits, process: "subprocess.Popen[bytes]", folder: Path
    ) -> None:
        super().__init__(channel, limits)
        self._process = process
        self._folder = folder

    def close(self) -> None:
        """See `Box.close`."""
        if not self.belongs_here:
            return
        try:
            self.ask({"do": "empty"}, seconds=5.0)
        except BoxLost as error:
            logger.info("A local box was gone when it was closed: %s.", error)
        super().close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
