"""Worker processes commanded by the driver: they sleep in read() until it is their turn.

A group is a set of processes that were started together (umem's ranks, the two processes of an MPI
job). Each connects to the driver's UNIX socket, which stands in a folder that only this user can
enter, and then obeys: make a part, call a method of it, drop it. A process that is not called burns
no CPU, so that the others are measured alone. Commands are pickled: both ends are this user's.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from umem.errors import RankLost, UmemError, WaitTimeout

START_TIMEOUT_S = 600.0  # where there is no folder to keep them in, kernels are compiled in here
CALL_TIMEOUT_S = 120.0
END_TIMEOUT_S = 10.0
_POLL_S = 0.2
_TAIL_BYTES = 2000


class WorkerError(UmemError):
    """A worker raised an error that is not one of umem's own; the text has its type, message and place."""


def serve(path: str, rank: int, context: object) -> None:
    """Obey the driver that listens at `path` until it hangs up. Runs in the worker.

    A part is made as `Class(context, **arguments)` and lives until it is dropped.
    """
    parts: dict[int, Any] = {}
    with Client(path, family="AF_UNIX") as driver:
        driver.send((rank, os.getpid()))
        while True:
            try:
                command, key, *rest = driver.recv()
            except EOFError:
                break
            try:
                driver.send((True, _obey(parts, context, command, key, rest)))
            except BrokenPipeError:
                break
            except Exception as error:  # noqa: BLE001  the driver must hear of any error
                driver.send((False, _sendable(error)))
    for part in parts.values():
        part.close()


def _obey(parts: dict[int, Any], context: object, command: str, key: int, rest: Sequence[Any]) -> Any:
    if command == "make":
        name, arguments = rest
        module, _, attribute = name.partition(":")
        parts[key] = getattr(importlib.import_module(module), attribute)(context, **arguments)
        return None
    if command == "call":
        method, arguments = rest
        return getattr(parts[key], method)(*arguments)
    assert command == "drop", command
    if key in parts:
        parts.pop(key).close()
    return None


def _sendable(error: Exception) -> Exception:
    """`error` in a form that can be sent: its type and text where it is umem's, else a WorkerError."""
    if isinstance(error, UmemError):
        return _Carried(type(error), str(error), getattr(error, "rank", None))
    where = traceback.extract_tb(error.__traceback__)[-1]
    return WorkerError(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno} in {where.name})")


class _Carried(UmemError):
    """A typed error on its way to the driver: constructors with other arguments do not unpickle."""

    def __init__(self, kind: type[UmemError], text: str, rank: int | None):
        super().__init__(kind, text, rank)
        self.kind, self.text, self.rank = kind, text, rank

    def restored(self) -> UmemError:
        error = self.kind.__new__(self.kind)
        error.args = (self.text,)
        if self.rank is not None:
            error.rank = self.rank  # type: ignore[attr-defined]
        return error


class Part:
    """An object that lives in every worker of a group, used by one or more sides."""

    _next_key = 0

    def __init__(self, group: Group, name: str, **arguments: Any):
        Part._next_key += 1
        self.key = Part._next_key
        self.group, self.name, self.arguments = group, name, arguments
        self._num_users = 0
        self._failure: Exception | None = None

    def open(self) -> None:
        """Make the part in every worker, at the first user's call. An error is raised to every later user too."""
        if self._failure is not None:
            raise self._failure
        if self._num_users == 0:
            try:
                self.group.start()
                self.group.command("make", self.key, self.name, self.arguments)
            except UmemError as error:
                self._failure = error
                raise
        self._num_users += 1

    def call(self, method: str, *arguments: Any, only: int | None = None) -> list[Any]:
        """Results of `method(*arguments)` in every worker, or in one; raises a worker's error."""
        return self.group.command("call", self.key, method, arguments, only=only)

    def post(self, method: str, *arguments: Any, only: int) -> None:
        """Start a call in one worker and return; the worker takes no other call until `take`."""
        self.group.send("call", self.key, method, arguments, only=only)

    def take(self, only: int) -> Any:
        """The result of the posted call, once it has ended."""
        return self.group.collect([only])[0]

    def close(self) -> None:
        """Drop the part once its last user has closed it; workers that cannot are ended."""
        self._num_users -= 1
        if self._num_users == 0 and self.group.is_alive:
            try:
                self.group.command("drop", self.key)
            except UmemError:
                self.group.abandon()


class Group:
    """Processes that are started by one command and obey this driver.

    `command(path)` gives the argument list that starts them all; every one connects to `path`.
    A worker that dies ends the group: the caller sees RankLost and may start a new group.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[str], list[str]],
        num_workers: int,
        environment: dict[str, str] | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ):
        self.name, self.num_workers, self.call_timeout_s = name, num_workers, call_timeout_s
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._connections: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._failure: WorkerError | None = None
        self.has_died = False  # in the middle of its work: another group of its kind may do better
        self.pids: list[int] = []

    @property
    def is_alive(self) -> bool:
        """Whether the workers can be called."""
        return bool(self._connections)

    def start(self) -> None:
        """Start the workers and wait until all have connected; nothing where they run already.

        A start that has failed is not tried again: the same WorkerError is raised.
        """
        if self._failure is not None:
            raise self._failure
        if self.is_alive:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="umem-bench-")
        path = str(Path(self._folder.name) / "driver")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(self.num_workers)
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    self._command(path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is the driver's: it closes its groups in order
                )
            self._connections, self.pids = self._accept(listener)

    @property
    def _log(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "log"

    def _accept(self, listener: socket.socket) -> tuple[list[Connection], list[int]]:
        assert self._process is not None
        found: dict[int, tuple[Connection, int]] = {}
        deadline = time.monotonic() + START_TIMEOUT_S
        listener.settimeout(_POLL_S)
        while len(found) < self.num_workers:
            try:
                connection = Connection(listener.accept()[0].detach())
            except TimeoutError:
                if self._process.poll() is not None:
                    self._fail(f"ended with exit code {self._process.returncode} before it was ready")
                if time.monotonic() > deadline:
                    self._fail(f"was not ready after {START_TIMEOUT_S:.0f} s")
                continue
            rank, pid = connection.recv()
            found[rank] = (connection, pid)
        ordered = [found[rank] for rank in range(self.num_workers)]
        return [connection for connection, _ in ordered], [pid for _, pid in ordered]

    def _fail(self, event: str) -> None:
        text = self._tail()
        self.close()
        self._failure = WorkerError(f"{self.name} {event}" + (f":\n{text}" if text else ""))
        raise self._failure

    def _tail(self) -> str:
        if self._folder is None or not self._log.exists():
            return ""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()

    def command(self, command: str, key: int, *rest: Any, only: int | None = None) -> list[Any]:
        """Send one command to every worker (or to `only`) and wait for all answers: `send` and `collect`."""
        return self.collect(self.send(command, key, *rest, only=only))

    def send(self, command: str, key: int, *rest: Any, only: int | None = None) -> list[int]:
        """Send one command to every worker (or to `only`); returns which. Raises RankLost."""
        targets = list(range(self.num_workers)) if only is None else [only]
        for rank in targets:
            try:
                self._connections[rank].send((command, key, *rest))
            except BrokenPipeError:
                self._lose(rank)
        return targets

    def collect(self, targets: Sequence[int]) -> list[Any]:
        """Answers of these workers, in this order.

        Raises the first worker's error, RankLost where one died, WaitTimeout after `call_timeout_s`.
        """
        answers = self._collect({self._connections[rank]: rank for rank in targets})
        errors = [answer for ok, answer in answers.values() if not ok]
        if errors:
            raise _first(errors)
        return [answers[rank][1] for rank in targets]

    def _collect(self, waiting: dict[Connection, int]) -> dict[int, tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        deadline = time.monotonic() + self.call_timeout_s
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                slow = sorted(waiting.values())
                self.abandon()
                limit = f"{self.call_timeout_s:g} s"
                raise WaitTimeout(f"{self.name}: ranks {slow} did not answer within {limit}")
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    answers[rank] = connection.recv()
                except (EOFError, ConnectionResetError):
                    self._lose(rank)
        return answers

    def _lose(self, rank: int) -> None:
        text = self._tail()
        self.abandon()
        raise RankLost(rank, f"{self.name} ended in the middle of a case" + (f":\n{text}" if text else ""))

    def abandon(self) -> None:
        """End workers that no longer obey, so that the next case gets new ones."""
        self.has_died = True
        self.close()

    def close(self) -> None:
        """Hang up and end the workers; safe to call twice."""
        for connection in self._connections:
            connection.close()
        self._connections = []
        if self._process is not None:
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.terminate()
                self._wait_or_kill()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _wait_or_kill(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Group:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _first(errors: list[Exception]) -> Exception:
    """The error to show: a timeout of one worker is usually the shadow of another's failure."""
    restored = [error.restored() if isinstance(error, _Carried) else error for error in errors]
    causes = [error for error in restored if not isinstance(error, WaitTimeout)]
    return (causes or restored)[0]
