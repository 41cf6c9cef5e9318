"""The parent's loop: one thread that forks the ranks, carries their output, serves their hub, forwards
signals, and ends every rank when one fails. Nothing in it waits but the selector.

The rules of the end:
    a rank fails             the others get GRACE_S in which to meet RankLost, or to finish; then SIGTERM,
                             and SIGKILL after KILL_AFTER_S (with on_failure="continue" they go on)
    SIGINT, SIGTERM, SIGHUP  go to every rank; SIGTERM follows after INTERRUPT_GRACE_S, then SIGKILL;
                             a second signal brings SIGKILL at once
    this process is killed   the kernel kills the ranks (liveness.die_with_parent)
A rank's own children are in its process group and end with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from ..errors import WorldError
from . import namespaces, open_files
from .child import STDIN, Child, start_child
from .frames import Frame, FrameBuffer, Kind, unpack_blobs
from .hub import Hub, Outgoing
from .job import Failure, Outcome
from .liveness import describe_exit
from .placement import Placement, check_network, place_ranks
from .ranks import FORWARDED_SIGNALS, Work
from .spec import END, HOSTS, WorldSpec

GRACE_S = 2.0
KILL_AFTER_S = 2.0
INTERRUPT_GRACE_S = 3.0
FILES_OF_CHILD, FILES_OF_START = 4, 8  # open in this process: for each rank, and while one is started

_READ_BYTES = 1 << 16


class Supervisor:
    """Runs the ranks of one world to their end. For one use, in a process with one thread.

    `work` runs in each rank. With `marks_output`, output passes through this process, which marks each
    line with its rank; else ranks write to its streams themselves. `environment` is added to each rank's.
    `needs_results`: a rank that ends without a RESULT has failed, whatever its exit code.
    `caller` is the stream of a `launch`: SIGNAL frames come from it, its end is a SIGTERM.
    """

    def __init__(
        self,
        spec: WorldSpec,
        work: Work,
        marks_output: bool = True,
        environment: dict[str, str] | None = None,
        needs_results: bool = False,
        caller: socket.socket | None = None,
    ):
        self.spec = spec
        self._work, self._marks_output = work, marks_output
        self._environment, self._needs_results = environment or {}, needs_results
        self._caller, self._caller_frames = caller, FrameBuffer()
        self._hub = Hub(spec.num_ranks)
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, Child] = {}
        self._outcome = Outcome()
        self._stop_signal: int | None = None
        self._escalation: list[tuple[float, signal.Signals]] = []  # (when, signal), soonest first
        self._has_ended_ranks = False

    def run(self) -> Outcome:
        """Start the ranks and stay until the last has ended.

        Raises WorldError where the world cannot be made; then no rank is left.
        """
        check_network(self.spec)
        with ExitStack() as held:
            held.callback(self._selector.close)
            network = namespaces.make_network(self.spec.num_hosts) if self.spec.kind == HOSTS else None
            if network is not None:
                held.callback(network.close)
            placements = place_ranks(self.spec, network)
            held.callback(self._kill_and_reap)
            wakeup = held.enter_context(_signals_as_bytes())
            self._selector.register(wakeup, selectors.EVENT_READ, partial(self._on_signal, wakeup))
            if self._caller is not None:
                self._selector.register(self._caller, selectors.EVENT_READ, self._on_caller)
            self._start(placements)
            while self._running:
                self._turn()
        return self._conclude()

    # --- starting

    def _start(self, placements: list[Placement]) -> None:
        num_threads = len(os.listdir("/proc/self/task"))
        if num_threads != 1:
            # A fork copies one thread: locks that others hold would never open again in a rank.
            raise WorldError(
                f"the parent of the ranks has {num_threads} threads and must have one; do not preload"
                " a module that starts threads"
            )
        open_files.require(
            FILES_OF_START + FILES_OF_CHILD * len(placements), f"the parent of {len(placements)} ranks"
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
        try:
            for placement in placements:
                self._start_rank(placement)
        except OSError as error:  # of pipe, socketpair or fork
            raise WorldError(
                f"cannot start {len(placements)} ranks: {error}; see the limit `ulimit -u` (processes)"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED_SIGNALS)

    def _start_rank(self, placement: Placement) -> None:
        # A rank is no foreground process: reading the terminal would stop it.
        reads_stdin = placement.rank == 0 and self._caller is None and not os.isatty(STDIN)
        child = start_child(
            self.spec,
            placement,
            self._work,
            self._marks_output,
            reads_stdin,
            self._environment,
            self._release,
        )
        self._running[child.rank] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, partial(self._on_death, child))
        self._selector.register(child.stream, selectors.EVENT_READ, partial(self._on_stream, child))
        for read_end in child.outputs:
            on_output = partial(self._on_output, child, read_end)
            self._selector.register(read_end, selectors.EVENT_READ, on_output)

    def _release(self) -> None:
        """In a new rank: close the parent's ends of the others. An end that is held twice never closes."""
        for other in self._running.values():
            other.close()
        if self._caller is not None:
            self._caller.close()
        self._selector.close()

    # --- the loop

    def _turn(self) -> None:
        timeout_s = max(0.0, self._escalation[0][0] - time.monotonic()) if self._escalation else None
        for key, events in self._selector.select(timeout_s):
            if key.fd in self._selector.get_map():  # an earlier event of this turn may have closed it
                key.data(events)
        while self._escalation and self._escalation[0][0] <= time.monotonic():
            _, number = self._escalation.pop(0)
            self._has_ended_ranks = True
            self._signal_ranks(number)

    def _on_signal(self, wakeup: socket.socket, events: int) -> None:
        for number in wakeup.recv(_READ_BYTES):
            self._stop(signal.Signals(number))

    def _on_caller(self, events: int) -> None:
        assert self._caller is not None
        data = self._caller.recv(_READ_BYTES)
        for frame in self._caller_frames.feed(data):
            assert frame.kind is Kind.SIGNAL, frame.kind
            self._stop(signal.Signals(int(frame.payload)))
        if not data:
            self._selector.unregister(self._caller)
            self._stop(signal.SIGTERM)

    def _on_stream(self, child: Child, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(child)
        if events & selectors.EVENT_READ:
            self._receive(child)

    def _on_output(self, child: Child, read_end: int, events: int, is_last: bool = False) -> None:
        try:
            may_come = child.pass_on(read_end, is_last)
        except BrokenPipeError:  # as in `umem run ... | head`
            may_come = False
            self._stop(signal.SIGPIPE)
        if not may_come:
            self._selector.unregister(read_end)

    def _on_death(self, child: Child, events: int) -> None:
        # What it said last comes first: its result, its error, its output.
        if child.is_connected:
            self._receive(child)
        for read_end in child.outputs:
            if read_end in self._selector.get_map():
                self._on_output(child, read_end, selectors.EVENT_READ, is_last=True)
        exit_code = self._reap(child)
        del self._running[child.rank]
        self._judge(child, exit_code)
        self._send(self._hub.rank_ended(child.rank, describe_exit(exit_code)))

    def _receive(self, child: Child) -> None:
        for frame in child.receive():
            self._take(child, frame)
        if not child.is_connected:
            self._selector.unregister(child.stream)

    def _take(self, child: Child, frame: Frame) -> None:
        if frame.kind is Kind.RESULT:
            self._outcome.results[child.rank] = frame.payload
        elif frame.kind is Kind.FAILED:
            is_consequence, text, pickled_error = unpack_blobs(frame.payload)
            failure = Failure(child.rank, 1, text.decode(), pickled_error, is_consequence == b"1")
            self._note_failure(child, failure)
        else:
            self._send(self._hub.receive(child.rank, frame))

    def _send(self, outgoing: Outgoing) -> None:
        for rank, data in outgoing:
            if rank in self._running:
                self._running[rank].unsent += data
                self._flush(self._running[rank])

    def _flush(self, child: Child) -> None:
        """Send what the rank takes now; the loop comes back for the rest."""
        child.flush()
        if child.is_connected:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.unsent else 0)
            self._selector.modify(child.stream, events, partial(self._on_stream, child))

    # --- the end

    def _judge(self, child: Child, exit_code: int) -> None:
        was_ended_here = self._has_ended_ranks and exit_code - 128 in (signal.SIGTERM, signal.SIGKILL)
        if child.failure is not None:
            child.failure.exit_code = exit_code
        elif exit_code and not was_ended_here:
            self._note_failure(child, Failure(child.rank, exit_code))
        elif self._needs_results and child.rank not in self._outcome.results:
            text = f"it {describe_exit(exit_code)} before its function returned"
            self._note_failure(child, Failure(child.rank, exit_code, text))

    def _note_failure(self, child: Child, failure: Failure) -> None:
        child.failure = failure
        self._outcome.failures.append(failure)
        if self.spec.on_failure == END and not self._escalation:
            self._escalate(GRACE_S)

    def _stop(self, number: signal.Signals) -> None:
        """End the world because of a signal to this process."""
        if self._stop_signal is not None:
            self._escalate(0.0, signal.SIGKILL)
            return
        self._stop_signal = number
        self._signal_ranks(signal.SIGTERM if number == signal.SIGPIPE else number)
        self._escalate(INTERRUPT_GRACE_S)

    def _escalate(self, delay_s: float, first: signal.Signals = signal.SIGTERM) -> None:
        when = time.monotonic() + delay_s
        self._escalation = [(when, first), (when + KILL_AFTER_S, signal.SIGKILL)]

    def _signal_ranks(self, number: int) -> None:
        for child in self._running.values():
            child.signal(number)

    def _reap(self, child: Child) -> int:
        for source in child.sources:
            if source in self._selector.get_map():
                self._selector.unregister(source)
        return child.reap()

    def _kill_and_reap(self) -> None:
        """Leave no rank, whatever ended the loop."""
        self._signal_ranks(signal.SIGKILL)
        for child in self._running.values():
            self._reap(child)
        self._running.clear()

    def _conclude(self) -> Outcome:
        cause = self._outcome.cause
        if self._stop_signal is not None:
            was_stopped = cause is not None or self._has_ended_ranks
            self._outcome.exit_code = 128 + self._stop_signal if was_stopped else 0
        elif cause is not None:
            self._outcome.exit_code = cause.exit_code
        return self._outcome


@contextmanager
def _signals_as_bytes() -> Iterator[socket.socket]:
    """Inside the block, FORWARDED_SIGNALS arrive as bytes on a socket; afterwards their old handlers are back.

    A hangup that was ignored, as under nohup, stays ignored.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        wanted = [
            number for number in FORWARDED_SIGNALS if number != signal.SIGHUP or not _is_ignored(number)
        ]
        before = {number: signal.signal(number, lambda *_: None) for number in wanted}
        wakeup_before = signal.set_wakeup_fd(theirs.fileno())
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
