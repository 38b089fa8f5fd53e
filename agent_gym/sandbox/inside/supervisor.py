"""The supervisor of a box: it starts the worker, hands it the cells, drains what it prints, and ends what must end.

It runs no untrusted code. As pid 1 of its box it gets no signal from inside, and when it ends the kernel ends all else.
"""

from __future__ import annotations

import _signal
import _socket
import os
import select
import time

from . import branching, files, frames, kernel, processes
from .streams import Requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .processes import Child
    from .streams import Stream

_LONGEST_ANSWER = 64 * 1024
_PIECE = 65536


class Captured:
    """What a cell has written to one of its outputs.

    Args:
        keep: Bytes that are kept.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.kept = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        """Keep what there is room for."""
        room = max(0, self._keep - len(self.kept))
        self.kept += data[:room]
        self.dropped += max(0, len(data) - room)

    @property
    def written(self) -> int:
        """Bytes in all."""
        return len(self.kept) + self.dropped


class Supervisor:
    """Serves one box.

    Args:
        host: The way to the host.
        requests: What the host asks for.
        config: What the box is like, as the host sent it; see `agent_gym.sandbox.boxes`.
        program: The BPF program of allowed system calls; empty where the box has another one already.
        worker: A worker that runs already, in a box that was made by a fork.
    """

    def __init__(
        self,
        host: Stream,
        requests: Requests,
        config: dict[str, Any],
        program: bytes,
        worker: Child | None = None,
    ) -> None:
        self._host = host
        self._requests = requests
        self._config = config
        self._program = program
        self._worker = worker
        self._branches = 0

    def serve(self) -> None:
        """Answer the host's requests until it hangs up."""
        # At once, since the box of a branch only ends when its worker, whose parent is here, has been collected.
        _signal.signal(_signal.SIGCHLD, lambda *_: processes.reap(block=False))
        if self._worker is None:
            self._start_worker()
        while (request := self._requests.next()) is not None:
            message, payload, descriptors = request
            answer, more = self._answer(message, payload, descriptors)
            self._host.send(frames.pack({**answer, "id": message["id"]}, more))

    def _answer(self, message: dict[str, Any], payload: bytes, descriptors: list[int]) -> frames.Frame:
        do = message["do"]
        if do == "run":
            return self._run(message, payload)
        if do == "write":
            return files.write(message, payload, self._config, self._program)
        if do == "read":
            return files.read(message, self._config, self._program)
        if do == "fork":
            return self._fork(descriptors), b""
        if do == "empty":
            self._end_everything()
            return {}, b""
        raise frames.FrameError(f"there is no request {do!r}")

    # -- running ---------------------------------------------------------------------------------------------------

    def _run(self, message: dict[str, Any], payload: bytes) -> frames.Frame:
        """Run a cell; whatever ends it but its own end costs the worker its life."""
        restarted = self._revive()
        worker = self._worker
        assert worker is not None
        for descriptor in worker.outputs:
            processes.drain(descriptor)
        outputs = {descriptor: Captured(message["keep"]) for descriptor in worker.outputs}
        started, cpu = time.monotonic(), kernel.cpu_seconds(worker.pid)
        status, exit_code = self._watch(worker, message, payload, outputs, started + message["timeout"])
        seconds, used = time.monotonic() - started, kernel.cpu_seconds(worker.pid) - cpu
        if status in ("timeout", "output_limit", "died"):
            # What it wrote before it died is still in its pipes.
            for descriptor, captured in outputs.items():
                processes.drain(descriptor, captured.add, at_most=message["keep"])
            self._end_everything()
            self._start_worker()
            restarted = True
        out, err = outputs.values()
        answer = {
            "status": status,
            "exit": exit_code,
            "seconds": seconds,
            "cpu": max(0.0, used),
            "dropped": out.dropped + err.dropped,
            "restarted": restarted,
            "out": len(out.kept),
        }
        return answer, bytes(out.kept + err.kept)

    def _revive(self) -> bool:
        """Start a worker where the last one has ended between two cells; return whether that was so."""
        if self._worker is not None and not self._worker.ended():
            return False
        self._end_everything()
        self._start_worker()
        return True

    def _watch(
        self, worker: Child, message: dict[str, Any], payload: bytes, outputs: dict[int, Captured], deadline: float
    ) -> tuple[str, int | None]:
        """Hand a cell over and wait for its end; return how it ended, and its exit code."""
        unsent = memoryview(frames.pack({**message, "do": "cell"}, payload))
        reader = frames.Reader(_LONGEST_ANSWER)
        poll = select.poll()
        channel = worker.channel
        poll.register(channel, select.POLLIN | select.POLLOUT)
        poll.register(worker.pidfd, select.POLLIN)
        for descriptor in outputs:
            poll.register(descriptor, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout", None
            events = dict(poll.poll(left * 1000))
            for descriptor, captured in outputs.items():
                if descriptor in events and not processes.drain(descriptor, captured.add, at_most=16 * _PIECE):
                    # The other end is closed: polling on would spin.
                    poll.unregister(descriptor)
            if sum(captured.written for captured in outputs.values()) > message["kill"]:
                return "output_limit", None
            try:
                if events.get(channel.fileno(), 0) & select.POLLOUT:
                    unsent = unsent[channel.send(unsent[:_PIECE], _socket.MSG_DONTWAIT) :]
                    if not unsent:
                        poll.modify(channel, select.POLLIN)
                if events.get(channel.fileno(), 0) & (select.POLLIN | select.POLLHUP):
                    answer = branching.read_answer(channel, reader)
                    if answer is not None:
                        # Nobody has run a cell who has not even read it.
                        return ("died", None) if unsent else self._judge(answer, message, outputs)
                    continue
            except (frames.FrameError, OSError):
                # The code has closed it, or has written to it.
                return "died", None
            if worker.pidfd in events:
                return "died", None

    def _judge(
        self, answer: dict[str, Any], message: dict[str, Any], outputs: dict[int, Captured]
    ) -> tuple[str, int | None]:
        """Take the worker's word for a cell's end, if it has the form of one."""
        exit_code = answer.get("exit")
        if answer.get("done") != message["id"] or type(exit_code) is not int or not 0 <= exit_code <= 255:
            return "died", None
        # It wrote before it answered, so all of it is here.
        for descriptor, captured in outputs.items():
            processes.drain(descriptor, captured.add, at_most=message["kill"])
        return ("ok" if exit_code == 0 else "error"), exit_code

    # -- processes -------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._worker = processes.start_worker(self._config, self._program)

    def _end_everything(self) -> None:
        """End the worker and all that it has started, but not the branches that were forked from this box."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        processes.end_all(alone=self._branches == 0, first=self._config["pid_1"])

    def _fork(self, descriptors: list[int]) -> dict[str, Any]:
        """Make a box beside this one, in the same state; its supervisor answers over the channel that came along."""
        self._revive()
        assert self._worker is not None
        (host,) = descriptors
        try:
            forked = branching.branch(self._worker, host, self._config, self._leave, self._serve_twin)
        except OSError as error:
            # The code may have used up the processes or the memory.
            processes.complain(error)
            forked = False
        finally:
            os.close(host)
        self._branches += forked
        return {"forked": forked}

    def _leave(self) -> None:
        """Let go of this box, in a process that will be the supervisor of another."""
        self._host.close()
        if self._worker is not None:
            self._worker.forget()

    def _serve_twin(self, host: Stream, requests: Requests, worker: Child) -> None:
        Supervisor(host, requests, self._config, self._program, worker).serve()
