"""One running rank as its parent holds it: its process, its stream to the hub, its output."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from .connection import Connection
from .job import Failure
from .output import LinePrefixer, write_all
from .placement import Placement
from .ranks import Inheritance, Work, fork_rank
from .spec import WorldSpec

STDIN, STDOUT, STDERR = 0, 1, 2

_READ_BYTES = 1 << 16
# Reads at a time: more than any pipe holds, and few enough that one rank, or a process
# that it left behind, cannot keep the parent from the others.
_MAX_READS = 16


class Child(Connection):
    """A rank that was started and not yet reaped. `outputs`: read end -> (our stream, its lines so far)."""

    def __init__(
        self, rank: int, pid: int, stream: socket.socket, outputs: dict[int, tuple[int, LinePrefixer]]
    ):
        super().__init__(stream)
        self.rank, self.pid, self.outputs = rank, pid, outputs
        self.pidfd = os.pidfd_open(pid)
        self.failure: Failure | None = None

    @property
    def sources(self) -> list[int | socket.socket]:
        """The descriptors of the rank that a selector watches."""
        return [self.stream, self.pidfd, *self.outputs]

    def pass_on(self, read_end: int, is_last: bool = False) -> bool:
        """Write the data that has come from one of its outputs; returns whether more may come. Raises BrokenPipeError.

        `is_last`: the rank has ended; output of processes that it left behind is not waited for.
        """
        target, lines = self.outputs[read_end]
        may_come = not is_last
        for _ in range(_MAX_READS):
            try:
                data = os.read(read_end, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                may_come = False
                break
            write_all(target, lines.feed(data))
        if not may_come:
            write_all(target, lines.finish())
        return may_come

    def signal(self, number: int) -> None:
        """Send a signal to the rank's process group: to the rank and the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def reap(self) -> int:
        """Wait for the ended rank and close its descriptors; returns its exit code, as shells count."""
        self.signal(signal.SIGKILL)  # its own processes; the pid is its own until it is reaped
        _, status = os.waitpid(self.pid, 0)
        self.close()
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        """Close this process's ends."""
        self.stream.close()
        for fd in (self.pidfd, *self.outputs):
            os.close(fd)


def start_child(
    spec: WorldSpec,
    placement: Placement,
    work: Work,
    marks_output: bool,
    reads_stdin: bool,
    environment: dict[str, str],
    release: Callable[[], None],
) -> Child:
    """Fork a rank with a stream to the hub and, where its output is to be marked, pipes for that.

    `release` closes, in the rank, the parent's other descriptors, which it must not hold.
    """
    with ExitStack() as rank_ends:  # closed here once the rank has its own copies
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        rank_ends.enter_context(theirs)
        streams = {}
        if not reads_stdin:
            streams[STDIN] = os.open(os.devnull, os.O_RDONLY)
            rank_ends.callback(os.close, streams[STDIN])
        outputs = {}
        for target in (STDOUT, STDERR) if marks_output else ():
            read_end, streams[target] = os.pipe()
            rank_ends.callback(os.close, streams[target])
            os.set_blocking(read_end, False)
            outputs[read_end] = target, LinePrefixer(b"[%d] " % placement.rank)

        def release_all() -> None:
            ours.close()
            for fd in outputs:
                os.close(fd)
            release()

        inheritance = Inheritance(spec, theirs.fileno(), streams, environment)
        pid = fork_rank(placement, inheritance, work, release_all)
    with suppress(ProcessLookupError, PermissionError):  # the rank does it too; whoever is first
        os.setpgid(pid, pid)
    return Child(placement.rank, pid, ours, outputs)
