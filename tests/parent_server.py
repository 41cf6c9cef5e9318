"""A process that has loaded what ranks need, and forks for each launch of a test the parent of its ranks.

The product starts that parent as a program, which loads the same a second long: tests/world has it so, and every
other test of a command. What a launch does from there on is the product's own. A program that a test has as text can
be run so too, where what it imports is not what is tested.

`python -m tests.parent_server FD KIND NEEDS PRELOAD...` serves the requests that come over the socket FD.
"""

from __future__ import annotations

import os
import pickle
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from subprocess import CompletedProcess
from types import ModuleType
from typing import IO, NoReturn

from umem.world import launcher, warm_parent
from umem.world.job import Job
from umem.world.spec import MAPPED

FOR_SPACE, BARE = "space", "bare"
MAX_SERVERS = 3  # kept loaded at a time
START_TIMEOUT_S, END_TIMEOUT_S = 60.0, 10.0
NUMBER = struct.Struct("i")
MAX_REQUEST_BYTES = 1 << 16
# What every test changes, and no parent of ranks reads.
CHANGING = {"PYTEST_CURRENT_TEST"}

Key = tuple[str, ...]


# --- in the server


def main() -> str | None:
    """Serve until the tests have ended; in a process forked for a program, return the program."""
    control = socket.socket(fileno=int(sys.argv[1]))
    kind, needs, *preload = sys.argv[2:]
    warm_parent.warm_up(preload, needs == FOR_SPACE, kind)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                key.data()
                continue
            request, fds, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 4)
            if not request:
                return None  # the tests have ended
            told, stdout, stderr, *stream = fds
            pid = os.fork()
            if pid == 0:
                selector.close()
                control.close()
                os.close(told)
                program = _settle(request, stdout, stderr)
                if program is not None:
                    return program
                _be_parent(*stream)
            for fd in (stdout, stderr, *stream):
                os.close(fd)
            os.write(told, NUMBER.pack(pid))  # and its exit status once it has ended
            pidfd = os.pidfd_open(pid)
            selector.register(pidfd, selectors.EVENT_READ, partial(_on_end, selector, pid, pidfd, told))


def _settle(request: bytes, stdout: int, stderr: int) -> str | None:
    """Become the process that the test asked for; the program that it is to run, or None for a parent of ranks."""
    os.setpgid(0, 0)
    for target, fd in ((1, stdout), (2, stderr)):
        os.dup2(fd, target)
        os.close(fd)
    folder, cores, program = pickle.loads(request)
    os.chdir(folder)
    os.sched_setaffinity(0, cores)
    assert program is None or isinstance(program, str)
    return program


def run_as_main(program: str) -> None:
    """Run `program` as `python -c` does: what it leaves is taken apart by the end of the interpreter."""
    sys.argv = ["-c"]
    sys.modules["__main__"] = main_module = ModuleType("__main__")
    exec(compile(program, "<string>", "exec"), vars(main_module))


def _on_end(selector: selectors.BaseSelector, pid: int, pidfd: int, told: int) -> None:
    selector.unregister(pidfd)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    try:
        os.write(told, NUMBER.pack(os.waitstatus_to_exitcode(status)))
    except BrokenPipeError:
        pass  # whoever asked is gone
    os.close(told)


def _be_parent(stream: int) -> NoReturn:
    """What `python -m umem.world.warm_parent` does, in the process that it would be."""
    code = 1
    try:
        sys.argv = [warm_parent.__file__, str(stream)]
        warm_parent.main()
        code = 0
    except SystemExit as error:
        sys.stderr.write(f"{error.code}\n")
    except BaseException:  # noqa: BLE001 - nothing may return into the server
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# --- in the tests


class Forked:
    """A process of a server, with what launcher.py uses of a Popen."""

    def __init__(self, told: int, stdout: IO[bytes], stderr: IO[bytes]):
        self._told = open(told, "rb", buffering=0)  # noqa: SIM115 - closed with the end
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None
        self.pid = self._number(START_TIMEOUT_S)
        self._pidfd = os.pidfd_open(self.pid)

    def _number(self, timeout_s: float) -> int:
        if not select.select([self._told], [], [], timeout_s)[0]:
            raise subprocess.TimeoutExpired("a forked process", timeout_s)
        number: int
        (number,) = NUMBER.unpack(self._told.read(NUMBER.size))
        return number

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout_s: float) -> int:
        if self.returncode is None:
            self.returncode = self._number(timeout_s)
            self._told.close()
            os.close(self._pidfd)
        return self.returncode

    def kill(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class Server:
    """One server, from the side of the tests."""

    def __init__(self, key: Key):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.parent_server", str(theirs.fileno()), *key],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, program: str | None, *stream: socket.socket) -> Forked:
        """Have a process forked that runs `program`, or a parent of ranks that reads its job from `stream`."""
        pipes = [os.pipe() for _ in range(3)]
        theirs = [end for _, end in pipes]
        request = pickle.dumps((os.getcwd(), os.sched_getaffinity(0), program))
        socket.send_fds(self._control, [request], [*theirs, *(one.fileno() for one in stream)])
        for fd in theirs:
            os.close(fd)
        told, stdout, stderr = (ours for ours, _ in pipes)
        return Forked(told, open(stdout, "rb"), open(stderr, "rb"))

    def close(self) -> None:
        self._control.close()
        self._process.wait(END_TIMEOUT_S)


class Servers:
    """Servers by what they have loaded; one starts when it is first needed."""

    def __init__(self) -> None:
        self._servers: OrderedDict[Key, Server] = OrderedDict()
        self._environment = self._snapshot()

    def start_parent(self, job: Job, stream: socket.socket) -> Forked | subprocess.Popen[bytes]:
        """In place of launcher.start_parent. What a test has set in the environment, only a new program reads."""
        if self._snapshot() != self._environment:
            return launcher_start_parent(job, stream)
        kind = MAPPED if job.spec.kind == MAPPED else "others"
        key = (kind, FOR_SPACE if job.on_space else BARE, *job.preload)
        return self._server(key).start(None, stream)

    def run_program(self, program: str, preload: Sequence[str], timeout_s: float) -> CompletedProcess[str]:
        """Run a program to its end, in a process that has loaded what ranks of a mapped world need, and `preload`."""
        process = self._server((MAPPED, FOR_SPACE, *preload)).start(program)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            with process.stdout, process.stderr:
                printed = [pipe.read().decode() for pipe in (process.stdout, process.stderr)]
        return CompletedProcess("a forked program", code, *printed)

    def _server(self, key: Key) -> Server:
        if key not in self._servers:
            while len(self._servers) >= MAX_SERVERS:
                self._servers.popitem(last=False)[1].close()
            self._servers[key] = Server(key)
        self._servers.move_to_end(key)
        return self._servers[key]

    def close(self) -> None:
        while self._servers:
            self._servers.popitem()[1].close()

    @staticmethod
    def _snapshot() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name not in CHANGING}


launcher_start_parent = launcher.start_parent

if __name__ == "__main__":
    its_program = main()
    if its_program is not None:
        run_as_main(its_program)
