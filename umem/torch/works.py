"""What torch.distributed waits on, and the thread that does a group's operations while the program goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import torch
from torch._C._distributed_c10d import Work

from ..errors import WaitTimeout

CLOSE_S = 5.0  # how long a group that ends waits for the operation under way

Step = Callable[[], Any]


class Done(Work):
    """An operation that has ended well."""

    def __init__(self, result: Any = ()):
        super().__init__()
        self._result = list(result)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """True."""
        return True

    def is_completed(self) -> bool:
        """True."""
        return True

    def is_success(self) -> bool:
        """True."""
        return True

    def exception(self) -> BaseException | None:
        """None."""
        return None

    def result(self) -> list[torch.Tensor]:
        """The operation's outputs."""
        return self._result

    def synchronize(self) -> None:
        """Nothing: there is no stream."""

    def get_future(self) -> torch.futures.Future[Any]:
        """A future that has the outputs."""
        future: torch.futures.Future[Any] = torch.futures.Future()
        future.set_result(self._result)
        return future


class Pending(Work):
    """An operation under way. Whoever does it calls `settle` once; any thread may wait."""

    def __init__(self, result: Any = ()):
        super().__init__()
        self._result = list(result)
        self._error: BaseException | None = None
        self._is_settled = False
        self._gate = threading.Lock()  # held until it is settled
        self._gate.acquire()
        self._order = threading.Lock()  # of settling, and asking for a future
        self._future: torch.futures.Future[Any] | None = None
        self.source = -1  # rank in the group that a message came from

    def settle(self, error: BaseException | None = None) -> None:
        """Let those who wait go on: the operation has ended, with `error` if there is one."""
        with self._order:
            self._error, self._is_settled = error, True
            future = self._future
        self._gate.release()
        if future is not None:
            self._fill(future)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return True when the operation has ended. Raises its error; WaitTimeout after `timeout`, and it goes on."""
        seconds = timeout.total_seconds() if timeout else -1.0
        if not self._gate.acquire(timeout=seconds if seconds > 0 else -1):
            raise WaitTimeout(f"the operation has not ended after {seconds:g} s, and goes on")
        self._gate.release()
        if self._error is not None:
            raise self._error
        return True

    def await_end(self) -> None:
        """Return when the operation has ended, well or not."""
        self._gate.acquire()
        self._gate.release()

    def is_completed(self) -> bool:
        """Whether it has ended, well or not."""
        return self._is_settled

    def is_success(self) -> bool:
        """Whether it has ended well."""
        return self._is_settled and self._error is None

    def exception(self) -> BaseException | None:
        """The error that it has ended with."""
        return self._error

    def result(self) -> list[torch.Tensor]:
        """The operation's outputs, which are filled when it has ended."""
        return self._result

    def synchronize(self) -> None:
        """Wait: there is no stream that could."""
        self.wait()

    def _source_rank(self) -> int:
        return self.source

    source_rank = _source_rank

    def get_future(self) -> torch.futures.Future[Any]:
        """A future that gets the outputs, or the error."""
        with self._order:
            if self._future is None:
                self._future = torch.futures.Future()
                if not self._is_settled:
                    return self._future
                self._fill(self._future)
            return self._future

    def _fill(self, future: torch.futures.Future[Any]) -> None:
        if isinstance(self._error, Exception):
            future.set_exception(self._error)
        else:
            future.set_result(self._result)


class Engine:
    """Does a group's operations one after the other, in the order they were given.

    Those that the program waits for at once are done in its own thread, unless others are under way (`num_pending`).
    The loops of an operation hold no GIL. What it needs is kept until it has ended, also where its Work was dropped.
    """

    def __init__(self, name: str):
        self._name = name
        self._lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Step, Pending] | None] = SimpleQueue()
        self.num_pending = 0
        self._thread: threading.Thread | None = None

    def do(self, step: Step, result: Any, is_async: bool) -> Work:
        """Do `step`, whose outputs are `result`; return when it is done, or at once if `is_async`."""
        if not is_async and not self.num_pending:
            step()
            return Done(result)
        work = Pending(result)
        with self._lock:
            self.num_pending += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._queue.put((step, work))
        if not is_async:
            work.wait()
        return work

    def close(self) -> None:
        """Have the thread end after what it was given."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(CLOSE_S)
            self._thread = None

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            step, work = job
            error: BaseException | None = None
            try:
                step()
            except BaseException as raised:  # noqa: BLE001 - the thread that waits for it raises it
                error = raised
            with self._lock:
                self.num_pending -= 1
            work.settle(error)
            del job, step, work  # what they keep alive must not wait for the next operation
