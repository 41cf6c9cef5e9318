"""What ranks of test_collectives.py do: collectives against NumPy, over buffers of every kind that a rank has."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from collective_buffers import Private, given, kinds

from tests.worlds.checks_collectives import combined, exchange_counts, same, values
from umem.collectives import Team
from umem.errors import (
    ArgumentTypeError,
    CollectiveMismatch,
    ConfigError,
    NotMappable,
    RankLost,
    WaitTimeout,
    WorldError,
)
from umem.moe import Exchange


def reductions(space, dtype, op, lengths):
    team = Team(space)
    n, me = team.size, team.position
    wrong = []
    for num in lengths:
        inputs = [values(rank, num, dtype) for rank in range(n)]
        with np.errstate(all="ignore"):
            wanted = combined(op, inputs)
        for kind in kinds(space, dtype):
            src, dst, part = kind(space, num, dtype), kind(space, num, dtype), kind(space, num // n, dtype)
            src.write(inputs[me])
            team.all_reduce(given(dst), given(src), op)
            if not (same(dst.read(), wanted) and same(src.read(), inputs[me])):
                wrong.append(("all_reduce", num, kind.__name__))
            team.all_reduce(given(src), op=op)
            if not same(src.read(), wanted):
                wrong.append(("in place", num, kind.__name__))
            src.write(inputs[me])
            team.reduce(given(dst) if me == n - 1 else None, given(src), op, root=n - 1)
            if me == n - 1 and not same(dst.read(), wanted):
                wrong.append(("reduce", num, kind.__name__))
            if num % n == 0:
                team.reduce_scatter(given(part), given(src), op)
                if not same(part.read(), wanted[num // n * me : num // n * (me + 1)]):
                    wrong.append(("reduce_scatter", num, kind.__name__))
            for buffer in (src, dst, part):
                buffer.free()
    team.close()
    assert not wrong, (dtype, op, len(wrong), wrong[:5])


def moves(space, dtype, lengths):
    team = Team(space)
    n, me = team.size, team.position
    wrong = []
    for num in lengths:
        inputs = [values(rank, num * n, dtype, 1) for rank in range(n)]
        counts = np.array([[(i * 7 + j * 3 + num) % (num + 1) for j in range(n)] for i in range(n)])
        starts = np.cumsum(counts, axis=1) - counts
        parts = [inputs[i][starts[i, me] : starts[i, me] + counts[i, me]] for i in range(n)]
        for kind in kinds(space, dtype):
            src, dst, one = kind(space, num * n, dtype), kind(space, num * n, dtype), kind(space, num, dtype)
            into = kind(space, int(counts[:, me].sum()), dtype)
            src.write(inputs[me])
            one.write(inputs[me][:num])
            team.all_gather(given(dst), given(one))
            firsts = np.concatenate([array[:num] for array in inputs])
            if not same(dst.read(), firsts):
                wrong.append(("all_gather", num, kind.__name__))
            dst.write(inputs[me])
            team.gather(given(dst) if me == 0 else None, given(one))
            if me == 0 and not same(dst.read(), firsts):
                wrong.append(("gather", num, kind.__name__))
            team.all_to_all(given(dst), given(src))
            if not same(dst.read(), np.concatenate([a[me * num : (me + 1) * num] for a in inputs])):
                wrong.append(("all_to_all", num, kind.__name__))
            team.scatter(given(one), given(src) if me == n - 1 else None, root=n - 1)
            if not same(one.read(), inputs[n - 1][me * num : (me + 1) * num]):
                wrong.append(("scatter", num, kind.__name__))
            dst.write(inputs[me])
            team.broadcast(given(dst), root=n - 1)
            if not same(dst.read(), inputs[n - 1]):
                wrong.append(("broadcast", num, kind.__name__))
            team.all_to_all_v(given(into), given(src), counts[:, me], counts[me])
            if not same(into.read(), np.concatenate(parts)):
                wrong.append(("all_to_all_v", num, kind.__name__))
            for buffer in (src, dst, one, into):
                buffer.free()
    team.close()
    assert not wrong, (dtype, len(wrong), wrong[:5])


def floats_are_summed(space):
    reductions(space, "float32", "sum", (0, 1, 6, 500, 12_000, 40_004))


def halves_are_averaged(space):
    reductions(space, "float16", "avg", (7, 5000, 70_000))


def blocks_are_moved(space):
    moves(space, "int32", (0, 1, 29, 1500, 20_001))


def host_arrays_are_copied(space):
    team = Team(space)
    data = np.arange(1000.0, dtype=np.float32)[::2]
    team.all_reduce(data)
    assert (data == team.size * np.arange(1000.0, dtype=np.float32)[::2]).all()
    gathered = np.zeros(team.size * 3, np.int64)
    team.all_gather(gathered, np.full(3, team.position))
    assert gathered.tolist() == np.repeat(range(team.size), 3).tolist()
    with pytest.raises(ArgumentTypeError):
        team.all_reduce([1, 2])
    team.close()


def mismatches_are_named(space):
    team = Team(space)
    first = space.rank == 0
    floats, shorter = space.empty(10, "float32"), space.empty(9, "float32")
    differ = [
        (lambda: team.all_reduce(floats), lambda: team.all_reduce(shorter), "40 bytes", "36 bytes"),
        (team.barrier, lambda: team.all_reduce(floats), "barrier", "all_reduce"),
        (lambda: team.broadcast(floats, 0), lambda: team.broadcast(floats, 1), "root 0", "root 1"),
    ]
    for turn, (mine, others, *words) in enumerate(differ):
        with pytest.raises(CollectiveMismatch) as caught:
            (mine if first else others)()
        assert all(word in str(caught.value) for word in words), caught.value
        exchange_counts(team, turn)
    counts = [1] * team.size
    longs = np.zeros(10, np.int64)
    with pytest.raises(CollectiveMismatch, match="takes"):
        team.all_to_all_v(longs, longs.copy(), [2 if first else 1, *counts[1:]], counts)
    team.barrier()
    team.close()


def an_absent_member_is_named(space):
    team = Team(space, timeout_s=0.5)
    team.broadcast(np.ones(3))
    if space.rank == 0:
        with pytest.raises(WaitTimeout, match=r"barrier: .*rank 1, whose last call here was broadcast\("):
            team.barrier()
        with pytest.raises(WorldError, match="make a new one"):
            team.barrier()
    space.barrier()
    team.close()


def streams_are_followed(space):
    """A buffer that is filled on a stream of its own is read behind that."""
    team = Team(space)
    if space.segments.gpu is None:
        data = np.full(100, 2.0, np.float32)
        team.all_reduce(data)
        assert (data == 2 * team.size).all()
        team.close()
        return
    driver = space.gpu.device.driver
    stream = int(driver.call("cuStreamCreate", 1))
    word, source = space.empty(1, "int64"), space.empty(100, "float32")
    word.write(0)
    source.write(2.0)

    class Filled(Private):
        @property
        def __cuda_array_interface__(self):
            return {**super().__cuda_array_interface__, "stream": stream}

    data = Filled(space, 100, "float32")
    space.gpu.wait(word.address, 1, stream)
    driver.call("cuMemcpyAsync", data.pointer, space.pointer(source.address), 400, stream)
    operation = threading.Thread(target=team.all_reduce, args=(data,))
    operation.start()
    operation.join(0.3)
    is_held = operation.is_alive()  # behind the word that nobody has set
    space.store(word.address, 1, "int64")
    operation.join()
    assert is_held and (data.read() == 2 * team.size).all()
    data.free()
    team.close()


def some_of_the_ranks(space):
    """Teams of one rank and of two, beside the team of all; threads with a team each."""
    alone = Team(space, [space.rank])
    data = space.empty(50_000, "float32")
    data.write(3.0)
    alone.all_reduce(data)
    alone.barrier()
    assert (data.read() == 3).all()
    pairs = [[0, other] for other in range(1, space.num_ranks) if space.rank in (0, other)]
    for pair in pairs:
        team = Team(space, pair)
        got = np.zeros(2, np.int64)
        team.all_gather(got, np.array([space.rank]))
        assert got.tolist() == pair
        team.close()
    teams = [Team(space, name=str(k)) for k in range(2)]
    failed = []

    def loop(k):
        for turn in range(5):
            got = np.full(1 + 977 * turn, 10 * k + space.rank, np.int64)
            teams[k].broadcast(got, root=space.num_ranks - 1)
            if (got != 10 * k + space.num_ranks - 1).any():
                failed.append((k, turn))

    threads = [threading.Thread(target=loop, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for team in (alone, *teams):
        team.close()


def buffers_are_refused(space):
    if space.segments.gpu is None:
        return
    team = Team(space, [space.rank])
    strided, constant = Private(space, 10, "int32"), Private(space, 10, "int32")
    found = {**strided.__cuda_array_interface__, "shape": (5,), "strides": (8,)}
    with pytest.raises(ArgumentTypeError, match="not in one piece"):
        team.all_reduce(SimpleNamespace(__cuda_array_interface__=found))
    found = {**constant.__cuda_array_interface__, "data": (constant.pointer, True)}
    with pytest.raises(ConfigError, match="read-only"):
        team.all_reduce(SimpleNamespace(__cuda_array_interface__=found))
    team.all_gather(strided, SimpleNamespace(__cuda_array_interface__=found))
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    with pytest.raises(ConfigError, match="read-only"):
        team.broadcast(np.zeros(3)), team.all_reduce(read_only)
    far = SimpleNamespace(data_ptr=None, is_contiguous=None, device=SimpleNamespace(type="cuda", index=7))
    with pytest.raises(ArgumentTypeError, match="this rank works on cuda:"):
        team.all_reduce(far)
    team.close()


def rows_of_tokens_go_by_messages(space):
    """umem.moe over a team with GPUs: its rows are the host's, which go by all_to_all_v."""
    team = Team(space)
    exchange = Exchange(team)
    assert exchange.semantics == "message"
    x = np.arange(12.0, dtype=np.float32).reshape(4, 3) + 100 * space.rank
    choices = np.array([[0, 1], [1, 2], [3, 0], [2, -1]])
    rows, _, _, _, handle = exchange.dispatch(x, choices, None, 4)
    back, _ = exchange.combine(rows, handle)
    assert (back == x * [[2], [2], [2], [1]]).all()
    exchange.close()
    with pytest.raises(NotMappable, match="work on GPUs"):
        Exchange(team, semantics="load_store")
    team.close()


CHECKS = (
    floats_are_summed,
    halves_are_averaged,
    blocks_are_moved,
    host_arrays_are_copied,
    mismatches_are_named,
    an_absent_member_is_named,
    streams_are_followed,
    some_of_the_ranks,
    buffers_are_refused,
    rows_of_tokens_go_by_messages,
)


def ranks_without_peers(space):
    """GPUs that do not reach each other's memory meet in host memory."""
    team = Team(space)
    assert team._part._common.home == "host"
    team.close()
    reductions(space, "float32", "sum", (6, 12_000, 40_004))
    moves(space, "int32", (29, 20_001))


def tensors(space):
    """Tensors of torch: what its CUDA side is asked for is a stand-in, whose memory is the space's."""
    import torch
    from collective_tensors import Tensor

    stream = int(space.gpu.device.driver.call("cuStreamCreate", 1))
    asked = []

    def current_stream(device):
        asked.append(device)
        return SimpleNamespace(cuda_stream=stream)

    team = Team(space)
    array = space.empty(1000, "bfloat16")
    pointer = space.pointer(array.address)
    like = torch.empty(1000, dtype=torch.bfloat16)
    with mock.patch.object(torch.cuda, "current_stream", current_stream):
        array.write(1.0 + space.rank)
        team.all_reduce(Tensor(space, like, pointer), op="max")
        assert (array.read() == space.num_ranks).all() and asked
        strided = Tensor(space, like, pointer, is_whole=False)
        team.all_reduce(strided)
        assert (array.read() == space.num_ranks**2).all() and strided.filled.pointer == pointer
        lazy = Tensor(space, like, pointer)
        lazy.is_conj = lambda: True
        with pytest.raises(ArgumentTypeError, match="lazy view"):
            team.all_reduce(lazy)
    host = torch.full((3, 2), 2.0).t()
    team.all_reduce(host)
    assert torch.equal(host, torch.full((2, 3), 2.0 * team.size))
    team.close()


def rounds(space):
    """More than staging memory holds at a time, by two blocks: the driver takes its time with blocks that meet."""
    if space.segments.gpu is not None:
        from umem.collectives import gpu

        gpu.MOST_BLOCKS = 2
    reductions(space, "float32", "sum", (300_012, 530_001))
    moves(space, "int32", (70_001,))


def every_type(space, types, operations):
    """Every reduction of every type, over private memory and the space's."""
    for dtype in types:
        for op in operations:
            if (dtype, op) != ("bool", "avg"):
                reductions(space, dtype, op, (7, 5003))


def a_member_dies(space, num):
    """All others know of a death within the operation; the rest make a new team."""
    team = Team(space)
    last = space.num_ranks - 1
    data = np.ones(num, np.float32)
    for turn in range(10_000):
        if space.rank == last and turn == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            team.broadcast(data)
        except RankLost as error:
            assert error.rank == last
            break
    else:
        raise AssertionError("nobody was lost")
    with pytest.raises(RankLost):
        team.barrier()
    rest = Team(space, range(last))
    rest.all_reduce(one := np.ones(1, np.float32))
    assert one[0] == last
