"""A rank between fork and the user's first line, and between the user's last line and its end.

Everything that costs time was done before the fork, by the parent: a rank imports nothing here.
UMEM_RANK and UMEM_NUM_RANKS stand in a rank's environment for what it runs; umem itself reads neither.
"""

from __future__ import annotations

import os
import pickle
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .. import config
from ..errors import RankLost
from . import liveness
from .frames import Channel, Kind, pack_blobs
from .leave import leave
from .membership import Bootstrap, become_rank, is_fork_of_rank, join
from .placement import Placement
from .spec import WorldSpec

FORWARDED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED_CODE = 128 + signal.SIGINT

_REPORT_TIMEOUT_S = 10.0  # the parent's loop never waits, so this bounds only a parent that is stopped

# The module of the space that a launched function gets: it is on a higher floor, so it is named as data. The
# parent has loaded it.
SPACE = "umem.space.space"

Work = Callable[[int, Channel], int]


@dataclass(frozen=True)
class Inheritance:
    """The data that a rank gets through fork. `streams`: descriptors by the number, 0, 1 or 2, that they replace."""

    spec: WorldSpec
    channel_fd: int
    streams: dict[int, int]
    environment: dict[str, str]


def fork_rank(placement: Placement, inheritance: Inheritance, work: Work, release: Callable[[], None]) -> int:
    """Start a rank that runs `work`, which returns its exit code; returns the rank's pid.

    `release` closes, in the rank, descriptors that only the parent should hold. The parent has one thread, and blocks
    FORWARDED_SIGNALS meanwhile.
    """
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            channel = _settle(placement, inheritance, parent_pid, release)
            code = work(placement.rank, channel)
        except BaseException:  # noqa: BLE001 - nothing may return into the parent's code
            traceback.print_exc()
        leave(code)
    return pid


def _settle(
    placement: Placement, inheritance: Inheritance, parent_pid: int, release: Callable[[], None]
) -> Channel:
    """Become the rank: its group, streams, host, core, environment, signals."""
    # A group of its own: the rank's children end with it, and a terminal's Ctrl-C arrives once,
    # through the parent.
    os.setpgid(0, 0)
    for target, fd in inheritance.streams.items():
        os.dup2(fd, target)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    variables = {"UMEM_RANK": str(placement.rank), "UMEM_NUM_RANKS": str(inheritance.spec.num_ranks)}
    variables |= inheritance.environment
    if placement.namespace is not None:
        placement.namespace.enter()
        variables["UMEM_HOST"] = f"{config.text('UMEM_HOST', 'host')}-{placement.namespace.index}"
    liveness.die_with_parent(parent_pid)
    release()
    config.apply(variables)
    if placement.core is not None:
        os.sched_setaffinity(0, {placement.core})
    _reseed()
    channel = Channel(inheritance.channel_fd)
    become_rank(
        Bootstrap(
            spec=inheritance.spec,
            rank=placement.rank,
            channel=channel,
            ip_address=placement.ip_address,
            interface=placement.interface,
            core=placement.core,
            usable_cores=placement.usable_cores,
        )
    )
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED_SIGNALS)
    return channel


def _reseed() -> None:
    """Give numpy's global generator a state of its own: fork copied the parent's. `random` does it itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def run_script(channel: Channel, script: str, arguments: list[str], is_module: bool) -> int:
    """Run a script, or a module, as __main__ of this rank; returns its exit code.

    The parent has said where its modules are looked for. An exception is printed as Python prints it, without the
    frames below the script, and reported.
    """
    sys.argv = [script, *arguments]
    try:
        if is_module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        return _exit_code_of(error)
    except BaseException as error:  # noqa: BLE001 - the program may raise anything, and the rank ends by it
        text = _format(error)
        sys.stdout.flush()
        if not is_fork_of_rank():
            sys.stderr.write(text)
        return _report_failure(channel, error, text, b"")
    return 0


def run_function(channel: Channel, pickled_work: bytes, on_space: bool, returns: bool) -> int:
    """Join the world, call the function, send back its result (None unless `returns`); returns the exit code.

    `pickled_work` is {function, arguments}; the function gets the space, or the bare world, before them.
    """
    import cloudpickle  # loaded by the parent; scripts need none

    try:
        function, arguments = pickle.loads(pickled_work)
        with _open(on_space) as joined:
            result = function(joined, *arguments)
        pickled = cloudpickle.dumps(result if returns else None)
        if not is_fork_of_rank():
            channel.send(Kind.RESULT, pickled, _REPORT_TIMEOUT_S)
    except SystemExit as error:
        return _exit_code_of(error)
    except BaseException as error:  # noqa: BLE001 - as above
        return _report_failure(channel, error, _format(error), _pickle_error(error))
    return 0


def _open(on_space: bool) -> AbstractContextManager[Any]:
    return import_module(SPACE).init() if on_space else join()


def _report_failure(channel: Channel, error: BaseException, text: str, pickled: bytes) -> int:
    """Tell the parent why this rank ends; returns the exit code. A fork of the rank only says so on stderr."""
    if is_fork_of_rank():
        sys.stderr.write(text)
        return 1
    # A rank that ends because another did is not the cause: the parent looks for one that is.
    is_consequence = b"1" if isinstance(error, RankLost) else b"0"
    channel.send(Kind.FAILED, pack_blobs(is_consequence, text.encode(), pickled), _REPORT_TIMEOUT_S)
    return INTERRUPTED_CODE if isinstance(error, KeyboardInterrupt) else 1


def _format(error: BaseException) -> str:
    """The traceback as text, from the user's first frame on."""
    not_users = (__file__, runpy.__file__, "<frozen runpy>")
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in not_users:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _pickle_error(error: BaseException) -> bytes:
    """The exception, where it survives the journey with its type and text; else nothing."""
    import cloudpickle

    try:
        pickled = cloudpickle.dumps(error)
        twin = pickle.loads(pickled)
    except Exception:  # noqa: BLE001 - an exception's own pickling may raise anything; its text travels
        return b""
    return pickled if type(twin) is type(error) and str(twin) == str(error) else b""


def _exit_code_of(error: SystemExit) -> int:
    """The exit code that Python would end with; a text goes to stderr."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1
