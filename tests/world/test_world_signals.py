"""While a world runs its parent reads signals as bytes; behind it the process handles them as before."""

from __future__ import annotations

import os
import select
import signal

import pytest

from umem.world.ranks import FORWARDED_SIGNALS
from umem.world.supervisor import _signals_as_bytes

SEEN_S = 10.0


def handle(number: int, frame: object) -> None:
    """A handler of the program's own."""


@pytest.fixture
def handled():
    """The signals are handled by `handle`, and another descriptor is told of them."""
    before = {number: signal.signal(number, handle) for number in FORWARDED_SIGNALS}
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    wakeup = signal.set_wakeup_fd(write_end)
    yield write_end
    signal.set_wakeup_fd(wakeup)
    for number, handler in before.items():
        signal.signal(number, handler)
    os.close(read_end)
    os.close(write_end)


def test_signals_are_bytes_meanwhile_and_handled_as_before_behind(handled):
    with pytest.raises(KeyError), _signals_as_bytes() as stream:
        for number in FORWARDED_SIGNALS:
            os.kill(os.getpid(), number)
            assert select.select([stream], [], [], SEEN_S)[0]
            assert stream.recv(16) == bytes([number])
        raise KeyError("whatever ends it")
    assert [signal.getsignal(number) for number in FORWARDED_SIGNALS] == [handle] * len(FORWARDED_SIGNALS)
    assert signal.set_wakeup_fd(handled) == handled


def test_a_hangup_that_is_ignored_is_not_read(handled):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with _signals_as_bytes() as stream:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert select.select([stream], [], [], SEEN_S)[0]
        assert stream.recv(16) == bytes([signal.SIGTERM])
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
