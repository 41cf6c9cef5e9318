"""What Space.send and Space.recv promise, as functions that every rank of a world runs; see test_space.py."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

import umem
from umem.errors import ConfigError, WaitTimeout
from umem.fabric.ucx.port import PORT_SLICE
from umem.kernels.status import SLICE_NS
from umem.units import MIB

LARGE = np.dtype("int64").itemsize * MIB  # bytes, far more than UCX sends before its receiver asks


def neighbours(space: umem.Space) -> tuple[int, int]:
    """The ranks that this one sends to, and receives from."""
    if space.fabric is None:
        pytest.skip("messages need UCX")
    return (space.rank + 1) % space.num_ranks, (space.rank - 1) % space.num_ranks


def large(seed: int) -> np.ndarray:
    return np.arange(LARGE // 8) + seed


def ranks_send_to_each_other_before_they_receive(space):
    after, before = neighbours(space)
    for size, num_turns in ((1, 2), (MIB // 8, 2), (LARGE // 8, 1)):
        for turn in range(num_turns):
            space.send(np.full(size, 2 * space.rank + turn), after)
        space.send("small", after, tag=1)
        assert space.recv(before, tag=1) == "small"
        for turn in range(num_turns):
            told = space.recv(before)
            assert len(told) == size and (told == 2 * before + turn).all()
    space.barrier()


def a_send_that_was_given_up_shifts_no_other_message(space):
    after, before = neighbours(space)
    if after == space.rank:
        pytest.skip("a rank that sends to itself takes its message in")
    # No barriers: in some worlds they are of messages, and who waits in one takes others in.
    space.world.exchange("nobody waits", b"")
    if space.rank == 0:
        timeout_s, space.fabric.timeout_s = space.fabric.timeout_s, 0.1
        with pytest.raises(WaitTimeout, match=r"does not receive these 8\.\dM.* stays under way"):
            space.send(large(0), after)
        space.fabric.timeout_s = timeout_s
    space.world.exchange("given up", b"")
    if space.rank == 0:
        space.send("second", after)
    if before == 0:
        assert (space.recv(0) == large(0)).all()
        assert space.recv(0) == "second"
    space.barrier()


def a_receive_that_was_given_up_loses_nothing(space):
    after, before = neighbours(space)
    timeout_s, port, told = space.fabric.timeout_s, space.fabric.ports.first(before), []
    if before == 0:
        space.fabric.timeout_s, port.words[PORT_SLICE] = 0.0005, 0
        with pytest.raises(WaitTimeout):
            space.recv(0)
    space.world.exchange("nothing was received", b"")
    if space.rank == 0:
        space.fabric.timeout_s = timeout_s
        for message in (large(0), large(1), "third"):
            space.send(message, after)
    while before == 0 and len(told) < 3:
        with suppress(WaitTimeout):  # now and then in the midst of the bytes
            told.append(space.recv(0))
    space.fabric.timeout_s, port.words[PORT_SLICE] = timeout_s, SLICE_NS
    if before == 0:
        assert (told[0] == large(0)).all() and (told[1] == large(1)).all() and told[2] == "third"
    space.barrier()


class CannotBeRead:
    """Pickles as what raises when it is unpickled."""

    def __reduce__(self):
        return int, ("no number",)


class CannotBeWritten:
    """Raises when it is pickled."""

    def __reduce__(self):
        raise RuntimeError("not to be sent")


def objects_that_cannot_be_pickled_shift_no_other_message(space):
    after, before = neighbours(space)
    with pytest.raises(RuntimeError, match="not to be sent"):
        space.send(CannotBeWritten(), after)
    space.send(CannotBeRead(), after)
    space.send("behind", after)
    with pytest.raises(ValueError, match="no number"):
        space.recv(before)
    assert space.recv(before) == "behind"
    space.barrier()


def messages_to_nobody_are_refused(space):
    neighbours(space)
    for rank in (-1, space.num_ranks, "0", 0.0, None):
        with pytest.raises(ConfigError, match="rank"):
            space.send(1, rank)
        with pytest.raises(ConfigError, match="rank"):
            space.recv(rank)
    for tag in (-1, 1 << 40, "0", 0.0):
        with pytest.raises(ConfigError, match="tag"):
            space.send(1, space.rank, tag)
        with pytest.raises(ConfigError, match="tag"):
            space.recv(space.rank, tag)
    space.send("numpy's", np.int64(space.rank), np.uint8(3))
    assert space.recv(np.int32(space.rank), np.int16(3)) == "numpy's"


CHECKS = (
    ranks_send_to_each_other_before_they_receive,
    a_send_that_was_given_up_shifts_no_other_message,
    a_receive_that_was_given_up_loses_nothing,
    objects_that_cannot_be_pickled_shift_no_other_message,
    messages_to_nobody_are_refused,
)
