"""UCX's requests are freed, however their operation ends: the next operation gets the same memory again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from umem.errors import FabricError, WaitTimeout
from umem.kernels import status

from .ucx_ranks import Rank, run_ranks

# isort: split
# after ucx_ranks, which skips the tests where there is no UCX
from umem.fabric.ucx import operations
from umem.fabric.ucx.port import PORT_REQUEST, PORT_SLICE

pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]

NUM_TIMES = 24
NUM_BYTES = 1 << 20  # of a message that waits for its receiver
NO_SENDER_TAG = 1 << 40
SHORT_S = 0.002
MOST_REQUESTS = 4  # of one operation at a time, and what it makes of its own


class User:
    """Rank 0, which starts operations with rank 1."""

    def __init__(self, me: Rank):
        self.me, self.fabric = me, me.open(4096)
        self.word, self.data = np.zeros(1, np.int64), np.zeros(NUM_BYTES, np.uint8)
        self.pointer, self.there = self.word.ctypes.data, me.addresses[1]

    def request(self) -> int:
        """The address of the request of a receive, which is given up: what the next operation would get."""
        port = self.fabric.ports.take(1)
        port.words[PORT_SLICE] = 1
        code = operations.recv(port.address, 1, self.pointer, 8, NO_SENDER_TAG)
        assert code == status.AGAIN
        request = int(port.words[PORT_REQUEST])
        self.fabric.ports.give_up(1, port)
        assert port.words[PORT_REQUEST] == 0
        port.words[PORT_SLICE] = status.SLICE_NS
        return request

    def nothing(self) -> None:
        """Beside the receives of `request` that are given up."""

    def recv(self) -> None:
        """A message that comes when it is awaited."""
        self.me.exchange("now", b"")
        self.fabric.recv(1, self.pointer, 8)

    def recv_too_long(self) -> None:
        """A message that does not fit."""
        self.me.exchange("now", b"")
        with pytest.raises(FabricError):
            self.fabric.recv(1, self.pointer, 4)

    def send(self) -> None:
        """A message that waits for its receiver."""
        self.me.exchange("now", b"")
        self.fabric.send(1, self.data.ctypes.data, NUM_BYTES)

    def get(self) -> None:
        """A read of rank 1's memory."""
        self.fabric.get(1, self.there, self.pointer, 8)

    def put(self) -> None:
        """A write, and the flush behind it."""
        self.fabric.put(1, self.there, self.pointer, 8)

    def fetch_add(self) -> None:
        """An atomic."""
        self.fabric.fetch_add(1, self.there, 1, 8)

    def get_too_late(self) -> None:
        """A read that is given up, and answered later."""
        self.me.exchange("now", b"")
        self.fabric.timeout_s = SHORT_S
        late = np.zeros(1, np.int64)
        with pytest.raises(WaitTimeout):
            self.fabric.get(1, self.there, late.ctypes.data, 8, keep=late)
        self.fabric.timeout_s = 10
        self.me.exchange("serve", b"")
        self.fabric.get(1, self.there, self.pointer, 8)
        self.me.exchange("served", b"")
        self.fabric.ports._reap()
        assert not self.fabric.ports._given_up


def answer_nothing(me: Rank) -> None:
    """Rank 1's agent answers by itself."""


def send_word(me: Rank) -> None:
    """Rank 1's part of `recv`."""
    word = np.array([1], np.int64)
    me.exchange("now", b"")
    me.fabric.send(0, word.ctypes.data, 8)


def recv_large(me: Rank) -> None:
    """Rank 1's part of `send`."""
    data = np.zeros(NUM_BYTES, np.uint8)
    me.exchange("now", b"")
    me.fabric.recv(0, data.ctypes.data, NUM_BYTES)


def hang_a_while(me: Rank) -> None:
    """Rank 1's part of `get_too_late`."""
    me.stop_serving()
    me.exchange("now", b"")
    me.exchange("serve", b"")
    me.start_serving()
    me.exchange("served", b"")


OPERATIONS: dict[str, tuple[Callable[[User], None], Callable[[Rank], None]]] = {
    "given up": (User.nothing, answer_nothing),
    "recv": (User.recv, send_word),
    "recv of what does not fit": (User.recv_too_long, send_word),
    "send": (User.send, recv_large),
    "get": (User.get, answer_nothing),
    "put": (User.put, answer_nothing),
    "fetch_add": (User.fetch_add, answer_nothing),
    "get, given up": (User.get_too_late, hang_a_while),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_request_is_freed_once_its_operation_has_ended(transport, name):
    start, answer = OPERATIONS[name]

    def user(me: Rank) -> int:
        user = User(me)
        user.fabric.barrier()
        requests = set()
        for _ in range(NUM_TIMES):
            start(user)
            requests.add(user.request())
        me.exchange("done", b"")
        me.close()
        return len(requests)

    def home(me: Rank) -> None:
        me.open(4096).barrier()
        for _ in range(NUM_TIMES):
            answer(me)
        me.exchange("done", b"")
        me.close()

    assert run_ranks([user, home], transport)[0] <= MOST_REQUESTS
