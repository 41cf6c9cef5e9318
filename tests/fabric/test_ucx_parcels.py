"""Messages that are taken in before they are asked for: in order, within bounds, and never from one who waits."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from umem.errors import WaitTimeout
from umem.kernels.status import SLICE_NS

from .ucx_ranks import TIMEOUT_S, Rank, run_ranks

# isort: split
# after ucx_ranks, which skips the tests where there is no UCX
from umem.fabric.ucx import parcels as module
from umem.fabric.ucx.parcels import LARGE_BYTES, Parcels
from umem.fabric.ucx.port import PORT_SLICE
from umem.fabric.ucx.tags import PARCEL, wire

pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]

TAG, OTHER_TAG = 3, 4


def message(number: int, num_bytes: int = 64) -> np.ndarray:
    return np.full(num_bytes, number, np.uint8)


def waiting(parcels: Parcels, tag: int = TAG) -> int:
    """How many messages of rank 0 with this tag were taken in."""
    return len(parcels._waiting.get(wire(0, tag | PARCEL), ()))


def take_in(parcels: Parcels, num_messages: int, tag: int = TAG) -> None:
    """Until so many messages with this tag wait."""
    deadline = time.monotonic() + TIMEOUT_S
    while waiting(parcels, tag) < num_messages:
        parcels._take_in()
        assert time.monotonic() < deadline, f"{waiting(parcels, tag)} of {num_messages} came"


def run(transport: str, sizes: list[tuple[int, int]], receive: Callable[[Parcels], None]) -> None:
    """Rank 0 sends messages of these tags and sizes, numbered from 0, all small; rank 1 has them before it."""

    def sender(me: Rank) -> None:
        fabric = me.open(4096)
        fabric.barrier()  # connected
        for number, (tag, num_bytes) in enumerate(sizes):
            fabric.parcels.send(1, message(number, num_bytes), tag, TIMEOUT_S)
        me.exchange("sent", b"")
        me.exchange("received", b"")
        me.close()

    def receiver(me: Rank) -> None:
        fabric = me.open(4096)
        fabric.barrier()  # connected
        me.exchange("sent", b"")
        receive(fabric.parcels)
        me.exchange("received", b"")
        me.close()

    run_ranks([sender, receiver], transport)


def test_a_receive_that_was_cut_short_keeps_its_place(transport):
    def receive(parcels: Parcels) -> None:
        take_in(parcels, 2)
        finish = parcels._finish

        def cut_short(*arguments: object) -> np.ndarray:
            parcels._finish = finish
            raise WaitTimeout("in the midst of the bytes")

        parcels._finish = cut_short
        with pytest.raises(WaitTimeout):
            parcels.recv(0, TAG, TIMEOUT_S)
        assert [int(parcels.recv(0, TAG, TIMEOUT_S)[0]) for _ in range(3)] == [0, 1, 2]
        assert not parcels._waiting

    run(transport, [(TAG, 64)] * 3, receive)


def test_messages_of_a_tag_are_taken_in_again_once_nobody_waits_for_it(transport):
    def receive(parcels: Parcels) -> None:
        assert parcels.recv(0, TAG, TIMEOUT_S)[0] == 0
        assert not parcels._receivers
        with pytest.raises(WaitTimeout):
            parcels.recv(0, OTHER_TAG, 0.01)
        assert not parcels._receivers
        take_in(parcels, 1)
        assert parcels.recv(0, TAG, TIMEOUT_S)[0] == 1

    run(transport, [(TAG, 64)] * 2, receive)


def test_what_a_thread_waits_for_is_left_to_it(transport):
    def receive(parcels: Parcels) -> None:
        awaited = wire(0, TAG | PARCEL)
        parcels._receivers[awaited] += 1  # as one that is about to look
        take_in(parcels, 1, OTHER_TAG)  # sent before
        for _ in range(100):
            parcels._take_in()
        assert waiting(parcels) == 0
        parcels._receivers[awaited] -= 1
        take_in(parcels, 1)

    run(transport, [(OTHER_TAG, 64), (TAG, 64)], receive)


def test_what_waits_is_bounded_or_one_message(transport, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 150)

    def receive(parcels: Parcels) -> None:
        take_in(parcels, 1)  # larger than the bound
        for _ in range(100):
            parcels._take_in()
        assert waiting(parcels) == 1
        assert len(parcels.recv(0, TAG, TIMEOUT_S)) == 200
        take_in(parcels, 2)
        for _ in range(100):
            parcels._take_in()
        assert waiting(parcels) == 2
        assert [int(parcels.recv(0, TAG, TIMEOUT_S)[0]) for _ in range(3)] == [1, 2, 3]

    run(transport, [(TAG, 200), (TAG, 75), (TAG, 75), (TAG, 1)], receive)


def test_a_send_leaves_its_port_as_it_was(transport):
    def sender(me: Rank) -> None:
        fabric = me.open(4096)
        fabric.barrier()  # connected
        fabric.parcels.send(1, message(1, 16 * LARGE_BYTES), TAG, TIMEOUT_S)
        ports = fabric.ports._made[fabric.main.index(1)]
        assert all(port.words[PORT_SLICE] == SLICE_NS and port.kept is None for port in ports)
        me.exchange("done", b"")
        me.close()

    def receiver(me: Rank) -> None:
        fabric = me.open(4096)
        fabric.barrier()  # connected
        assert (fabric.parcels.recv(0, TAG, TIMEOUT_S) == 1).all()
        assert all(port.kept is None for port in fabric.ports._made[fabric.main.index(0)])
        me.exchange("done", b"")
        me.close()

    run_ranks([sender, receiver], transport)
