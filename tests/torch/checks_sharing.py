"""Tensors that travel by address, as functions that every rank of a world runs."""

from __future__ import annotations

import os
import pickle
import tempfile
from multiprocessing.connection import Client, Listener
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from umem.errors import AddressError, NotAllocated, NotMappable
from umem.torch import home, install, recv, send, use_pool
from umem.torch.flight import BOARD_WORDS
from umem.torch.layout import PAGE_NUM_REFUSED, PAGE_NUM_SHARED
from umem.torch.pool import USES_LOG2, installed
from umem.torch.sharing import Ticket, arrive, reduce_storage

from .checks_allocator import neighbour, num_live

_turns = iter(range(1_000_000))


def swap(space, data: bytes) -> bytes:
    """Give this rank's bytes to the neighbour and take those of the other."""
    blobs = space.world.exchange(f"swap {next(_turns)}", data)
    return blobs[(space.rank - 1) % space.num_ranks]


def swap_tensors(space, message):
    return pickle.loads(swap(space, bytes(ForkingPickler.dumps(message))))


def is_free(space, address):
    try:
        return space.heap.find(address).address != address
    except AddressError:
        return True


def a_tensor_travels_as_its_address(space):
    install(space)
    with use_pool(home=neighbour(space)):
        mine = torch.full((1 << 20,), float(space.rank))
    data = bytes(ForkingPickler.dumps(mine))
    assert len(data) <= 1024, "4 MB in a message of a kilobyte"
    got = pickle.loads(swap(space, data))
    assert got.data_ptr() == int(swap(space, str(mine.data_ptr()).encode()))
    got[0] = 100.0 + space.rank
    space.barrier()
    assert float(mine[0]) == 100.0 + neighbour(space), "both see one memory"
    assert float(got[-1]) == neighbour(space)
    space.barrier()


def kind_strides_and_views_are_kept(space):
    with use_pool(home=space.rank):
        base = torch.arange(24.0).reshape(4, 6)
        message = {
            "base": base,
            "view": base[1:, ::2].t(),
            "parameter": torch.nn.Parameter(torch.ones(5)),
            "frozen": torch.nn.Parameter(torch.ones(5), requires_grad=False),
            "half": torch.ones(3, dtype=torch.bfloat16),
            "empty": torch.empty(0),
        }
    got = swap_tensors(space, message)
    for name, sent in message.items():
        assert type(got[name]) is type(sent) and got[name].dtype is sent.dtype, name
        assert torch.equal(got[name], sent) and got[name].stride() == sent.stride(), name
        assert got[name].requires_grad == sent.requires_grad, name
    assert got["view"].data_ptr() - got["base"].data_ptr() == message["view"].data_ptr() - base.data_ptr()
    space.barrier()  # before the one memory changes under the other rank's eyes
    got["base"][1, 0] = -1.0
    assert float(got["view"][0, 0]) == -1.0, "views share memory after the journey"
    space.barrier()


def memory_is_freed_with_the_last_rank(space):
    before = num_live()
    with use_pool(home=space.rank):
        mine = torch.ones(1000)
    address = mine.data_ptr()
    got = swap_tensors(space, mine)
    space.barrier()
    assert installed().flights.collect() == 0, "it has arrived"
    del mine
    space.barrier()
    assert not is_free(space, address), "the neighbour holds it"
    assert float(got.sum()) == 1000
    space.barrier()
    del got
    space.barrier()
    assert is_free(space, address)
    assert num_live() == before and installed().page[PAGE_NUM_SHARED] == 0
    assert installed().page[PAGE_NUM_REFUSED] == 0


def a_tensor_comes_home(space):
    with use_pool(home=space.rank):
        mine = torch.ones(1000)
    address = mine.data_ptr()
    back = swap_tensors(space, swap_tensors(space, mine))
    assert back.data_ptr() == address, "two ranks: twice around is home"
    again = pickle.loads(bytes(ForkingPickler.dumps(mine)))
    assert again.data_ptr() == address
    space.barrier()
    installed().flights.collect()
    del mine, again
    assert not is_free(space, address) and float(back.sum()) == 1000
    space.barrier()
    installed().flights.collect()
    del back
    space.barrier()
    assert is_free(space, address)


def one_message_may_be_read_twice(space):
    with use_pool(home=space.rank):
        mine = torch.ones(1000)
    address = mine.data_ptr()
    data = swap(space, bytes(ForkingPickler.dumps(mine)))
    first, second = pickle.loads(data), pickle.loads(data)
    assert first.data_ptr() == second.data_ptr()
    del mine, first
    space.barrier()
    assert float(second.sum()) == 1000
    installed().flights.collect()
    space.barrier()
    del second
    space.barrier()
    assert is_free(space, address)


def an_arrival_ends_what_has_arrived(space):
    flights = installed().flights
    assert flights.collect() == 0
    with use_pool(home=space.rank):
        mine = [torch.ones(10), torch.ones(20)]
    first, second = [swap(space, bytes(ForkingPickler.dumps(tensor))) for tensor in mine]
    got = [pickle.loads(first)]
    space.barrier()
    got.append(pickle.loads(second))
    assert len(flights._flights) < 2
    assert [float(tensor.sum()) for tensor in got] == [10.0, 20.0]
    space.barrier()
    assert flights.collect() == 0


def boards_are_given_back(space):
    flights, before = installed().flights, num_live()
    with use_pool(home=space.rank):
        mine = torch.ones(10)
    got = swap_tensors(space, mine)
    boards = list(flights._boards)
    assert boards and not any(is_free(space, board) for board in boards)
    space.barrier()
    flights.close()
    assert all(is_free(space, board) for board in boards)
    again = swap_tensors(space, mine)
    assert float(again.sum()) == 10.0, "and made anew"
    del mine, got, again
    space.barrier()
    assert num_live() == before


def what_nobody_reads_is_freed_after_its_lease(space):
    flights, before = installed().flights, num_live()
    clock = flights._clock
    with use_pool(home=space.rank):
        mine = torch.ones(1000)
    address, data = mine.data_ptr(), bytes(ForkingPickler.dumps(mine))
    del mine
    assert flights.collect() == 1 and not is_free(space, address)
    flights._clock = lambda: clock() + flights.lease_s + 1
    try:
        assert flights.collect() == 0 and is_free(space, address)
    finally:
        flights._clock = clock
    with pytest.raises(NotAllocated, match="after its lease"):
        pickle.loads(data)
    with use_pool(home=space.rank):
        others = [torch.ones(1000) for _ in range(100)]
    with pytest.raises(NotAllocated, match="after its lease"):
        pickle.loads(data)
    del others
    assert num_live() == before


def many_at_once(space):
    before, count = num_live(), max(2 * BOARD_WORDS, 1 << USES_LOG2) + 10
    with use_pool(home=space.rank):
        sent = [torch.full((16,), float(index)) for index in range(count)]
    got = swap_tensors(space, sent)
    assert [int(tensor[-1]) for tensor in got] == list(range(count))
    space.barrier()
    assert installed().flights.collect() == 0
    del sent, got
    assert num_live() == before and installed().page[PAGE_NUM_SHARED] == 0
    assert installed().page[PAGE_NUM_REFUSED] == 0
    space.barrier()


def connections_of_multiprocessing_carry_addresses(space):
    with use_pool(home=space.rank):
        mine = torch.full((1 << 20,), 3.0)
    if space.rank == 0:
        with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/door") as listener:
            space.world.set("door", listener.address.encode())
            with listener.accept() as connection:
                connection.send(mine)
                assert connection.recv() == mine.data_ptr()
    else:
        with Client(space.world.get("door", 20.0).decode(), family="AF_UNIX") as connection:
            got = connection.recv()
            assert float(got.sum()) == 3.0 * (1 << 20)
            connection.send(got.data_ptr())
    space.barrier()


def send_and_recv_keep_order_and_tags(space):
    peer = neighbour(space)
    with use_pool(home=space.rank):
        mine = torch.full((1 << 20,), float(space.rank))
    if space.rank == 0:
        space.send(("first", mine), peer)
        send({"outside": torch.arange(5), "staged": 2}, peer, tag=3)
        send(mine, peer, staged=True)
        answer = recv(peer)
    else:
        by_tag = recv(peer, tag=3)
        answer, copied = recv(peer), recv(peer)
        assert by_tag["outside"].tolist() == [0, 1, 2, 3, 4]
        assert home(copied) is None and float(copied.sum()) == 0.0
        send(("first", mine), peer)
    name, tensor = answer
    assert name == "first" and home(tensor) == peer and float(tensor[5]) == peer
    space.barrier()
    assert installed().flights.collect() == 0


def a_process_that_is_no_rank_borrows(space):
    """Here a rank reads a message as such a process does: the sender's pid is not that of a rank."""
    before, files = num_live(), len(os.listdir("/proc/self/fd"))
    for place, size in ((space.rank, 1000), (neighbour(space), 10), ("striped", 1 << 20)):
        with use_pool(home=place):
            mine = torch.ones(size)
        ticket = as_of_another_process(mine[5:])
        theirs = ticket_arrives(ticket).view(torch.float32)
        assert theirs.data_ptr() != mine.data_ptr() and float(theirs.sum()) == size
        theirs[7] = 2.0
        assert float(mine[7]) == 2.0, "one memory, twice mapped"
        del mine
        assert installed().flights.collect() == 1 and num_live() == before + 1, "it is held"
        with pytest.raises(NotAllocated, match="another process has read the same message"):
            ticket_arrives(ticket)
        assert float(theirs.sum()) == size + 1
        del theirs
        assert installed().flights.collect() == 0 and num_live() == before
    assert len(os.listdir("/proc/self/fd")) == files


def what_cannot_be_borrowed_is_named(space):
    with use_pool(home=space.rank):
        mine = torch.ones(10)
    ticket = as_of_another_process(mine)
    moved = ticket._replace(pieces=tuple(piece._replace(name="umem-device-99") for piece in ticket.pieces))
    with pytest.raises(NotMappable, match="no umem-device-99 open"):
        ticket_arrives(moved)
    moved = ticket._replace(pieces=tuple(piece._replace(pid=1 << 22) for piece in ticket.pieces))
    with pytest.raises(NotMappable, match="No such file"):
        ticket_arrives(moved)
    installed().flights.collect()
    ticket_arrives(ticket)  # ends the reference in flight
    assert installed().flights.collect() == 0


def as_of_another_process(tensor):
    """The message that carries a tensor's storage, under a pid that no rank of this world has."""
    ticket = Ticket(*reduce_storage(tensor.untyped_storage())[1])
    return ticket._replace(pid=ticket.pid + 1)


def ticket_arrives(ticket):
    return torch.empty(0, dtype=torch.uint8).set_(arrive(*ticket))


def a_part_of_an_allocation_travels_by_address(space):
    before = num_live()
    with use_pool(home=space.rank):
        part = torch.from_numpy(torch.arange(100.0).numpy()[5:])
    owned = space.empty(100, "float32", home=neighbour(space))
    view = torch.from_numpy(space.view(owned.address, 400)).view(torch.float32)[8:]
    view.fill_(float(space.rank))
    again = pickle.loads(bytes(ForkingPickler.dumps(part)))
    assert again.data_ptr() == part.data_ptr()
    got_part, got_view = swap_tensors(space, (part, view))
    assert got_part[:3].tolist() == [5.0, 6.0, 7.0] and got_view.tolist() == [float(neighbour(space))] * 92
    got_part[0] = -1.0
    space.barrier()
    assert float(part[0]) == float(again[0]) == -1.0
    del part, view, again
    space.barrier()
    assert float(got_part[1]) == 6.0, "the part keeps the whole"
    del got_part, got_view
    space.barrier()
    assert num_live() == before
    space.free(owned.address)


def remote_tensors_are_refused_or_staged(space):
    install(space)
    peer = neighbour(space)
    with use_pool(home=space.rank):
        mine = torch.full((1000,), float(space.rank))
    with pytest.raises(NotMappable, match="staged=True"):
        send(mine, peer)
    data = swap(space, bytes(ForkingPickler.dumps(mine)))
    with pytest.raises(NotMappable):
        pickle.loads(data)
    if space.rank == 0:
        send(mine, peer, staged=True)
        got = recv(peer)
    else:
        got = recv(peer)
        send(mine, peer, staged=True)
    assert float(got.sum()) == 1000.0 * peer
    assert installed().flights.collect() == 1, "the refused one is kept for its lease"


def a_worker_without_the_mapping_is_refused(space):
    with use_pool(home=space.rank):
        mine = torch.ones(10)
    data = swap(space, bytes(ForkingPickler.dumps(mine)))
    pid = os.fork()
    if pid == 0:
        try:
            pickle.loads(data)
        except NotMappable:
            os._exit(3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    space.barrier()


MAPPED = {
    check.__name__: check
    for check in (
        a_tensor_travels_as_its_address,
        kind_strides_and_views_are_kept,
        memory_is_freed_with_the_last_rank,
        a_tensor_comes_home,
        one_message_may_be_read_twice,
        an_arrival_ends_what_has_arrived,
        boards_are_given_back,
        what_nobody_reads_is_freed_after_its_lease,
        many_at_once,
        connections_of_multiprocessing_carry_addresses,
        send_and_recv_keep_order_and_tags,
        a_process_that_is_no_rank_borrows,
        what_cannot_be_borrowed_is_named,
        a_part_of_an_allocation_travels_by_address,
    )
}
UNMAPPED = {
    check.__name__: check
    for check in (remote_tensors_are_refused_or_staged, a_worker_without_the_mapping_is_refused)
}
