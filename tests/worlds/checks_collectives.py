"""Collectives against NumPy, in every rank of a world: run by test_collectives.py."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from umem.collectives import Team
from umem.errors import (
    ArgumentTypeError,
    CollectiveMismatch,
    ConfigError,
    RankLost,
    WaitTimeout,
    WorldError,
)
from umem.space.dtypes import element_type

OPERATIONS = ("sum", "prod", "min", "max", "avg")
LENGTHS = (0, 1, 3, 7, 29, 58, 200, 5000, 40_000, 300_001)


def values(rank, num, dtype, seed=0):
    rng = np.random.default_rng([rank, num, seed])
    kind = element_type(dtype)
    if kind.kind in "iu":
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, num, kind, endpoint=True)
    if kind.kind == "b":
        return rng.integers(0, 2, num).astype(bool)
    return rng.standard_normal(num).astype(np.float32).astype(kind)


def combined(op, arrays):
    """What a reduction of the arrays gives, in their order, with the roundings that umem promises."""
    kind = arrays[0].dtype
    is_half = kind.itemsize == 2 and kind.kind not in "iu"
    wide = np.float32 if is_half else kind
    if op == "avg" and kind.kind in "iu":
        total = sum(a.astype(object) for a in arrays)
        total = [(int(t) + 2**63) % 2**64 - 2**63 for t in total]  # the sum has 64 bits
        return np.array([abs(t) // len(arrays) * (1 if t >= 0 else -1) for t in total], kind)
    total = arrays[0].astype(wide)
    for array in arrays[1:]:
        other = array.astype(wide)
        if op in ("sum", "avg"):
            total = total + other
        elif op == "prod":
            total = total * other
        else:
            total = np.where((total < other) if op == "min" else (total > other), total, other)
    if op == "avg":
        total = (total / np.asarray(len(arrays), wide)).astype(wide)
    return total.astype(kind)


def same(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def buffers(space, num, dtype, is_shared):
    if is_shared:
        return space.empty(max(num, 1), dtype).numpy()[:num]
    return np.empty(num, element_type(dtype))


def check_reductions(space, dtypes, ops, lengths):
    team = Team(space)
    n, me = team.size, team.position
    wrong = []
    for dtype in dtypes:
        for op in ops:
            if element_type(dtype).kind == "b" and op == "avg":
                continue
            for num in lengths:
                inputs = [values(rank, num, dtype) for rank in range(n)]
                with np.errstate(all="ignore"):
                    wanted = combined(op, inputs)
                for is_shared in (False, True):
                    src, dst = buffers(space, num, dtype, is_shared), buffers(space, num, dtype, is_shared)
                    src[:] = inputs[me]
                    team.all_reduce(dst, src, op)
                    if not (same(dst, wanted) and same(src, inputs[me])):
                        wrong.append(("all_reduce", dtype, op, num, is_shared))
                    team.all_reduce(src, op=op)
                    if not same(src, wanted):
                        wrong.append(("in place", dtype, op, num, is_shared))
                    src[:] = inputs[me]
                    dst[:] = 0
                    team.reduce(dst if me == n - 1 else None, src, op, root=n - 1)
                    if me == n - 1 and not same(dst, wanted):
                        wrong.append(("reduce", dtype, op, num, is_shared))
                    part = num // n
                    out = buffers(space, part, dtype, is_shared)
                    team.reduce_scatter(out, src[: part * n], op)
                    if not same(out, wanted[part * me : part * (me + 1)]):
                        wrong.append(("reduce_scatter", dtype, op, num, is_shared))
    team.close()
    assert not wrong, (len(wrong), wrong[:5])


def check_moves(space, dtypes, lengths):
    team = Team(space)
    n, me = team.size, team.position
    wrong = []
    for dtype in dtypes:
        for num in lengths:
            inputs = [values(rank, num * n, dtype, 1) for rank in range(n)]
            for is_shared in (False, True):
                src, dst = (
                    buffers(space, num * n, dtype, is_shared),
                    buffers(space, num * n, dtype, is_shared),
                )
                one = buffers(space, num, dtype, is_shared)
                src[:] = inputs[me]
                team.all_gather(dst, src[:num])
                if not same(dst, np.concatenate([array[:num] for array in inputs])):
                    wrong.append(("all_gather", dtype, num, is_shared))
                dst[me * num : (me + 1) * num] = src[:num]
                team.all_gather(dst, dst[me * num : (me + 1) * num])
                if not same(dst, np.concatenate([array[:num] for array in inputs])):
                    wrong.append(("all_gather in place", dtype, num, is_shared))
                team.all_to_all(dst, src)
                if not same(dst, np.concatenate([array[me * num : (me + 1) * num] for array in inputs])):
                    wrong.append(("all_to_all", dtype, num, is_shared))
                team.gather(dst if me == 0 else None, src[:num])
                if me == 0 and not same(dst, np.concatenate([array[:num] for array in inputs])):
                    wrong.append(("gather", dtype, num, is_shared))
                team.scatter(one, src if me == n - 1 else None, root=n - 1)
                if not same(one, inputs[n - 1][me * num : (me + 1) * num]):
                    wrong.append(("scatter", dtype, num, is_shared))
                dst[:] = inputs[me]
                team.broadcast(dst, root=n - 1)
                if not same(dst, inputs[n - 1]):
                    wrong.append(("broadcast", dtype, num, is_shared))
                counts = np.array([[(i * 7 + j * 3 + num) % (num + 1) for j in range(n)] for i in range(n)])
                into = buffers(space, int(counts[:, me].sum()), dtype, is_shared)
                team.all_to_all_v(into, src, counts[:, me], counts[me])
                starts = np.cumsum(counts, axis=1) - counts
                parts = [inputs[i][starts[i, me] : starts[i, me] + counts[i, me]] for i in range(n)]
                if not same(into, np.concatenate(parts)):
                    wrong.append(("all_to_all_v", dtype, num, is_shared))
    team.close()
    assert not wrong, (len(wrong), wrong[:5])


def check_lengths(space):
    """Every length from 1 to 257, private, and a slice of a longer message: the same bits."""
    team = Team(space)
    n, me = team.size, team.position
    wrong = []
    for dtype in ("float16", "float32", "int8"):
        inputs = [values(rank, 70_000, dtype, 2) for rank in range(n)]
        whole = inputs[me].copy()
        team.all_reduce(whole)
        for num in range(1, 258):
            part = inputs[me][num : 2 * num].copy()
            team.all_reduce(part)
            if not same(part, whole[num : 2 * num]):
                wrong.append((dtype, num))
    team.close()
    assert not wrong, (len(wrong), wrong[:5])


def exchange_counts(team, turn):
    """An all_to_all_v in which member i sends i + 1 + turn numbers to each."""
    n, me = team.size, team.position
    counts = [i + 1 + turn for i in range(n)]
    got = np.zeros(sum(counts), np.int64)
    team.all_to_all_v(got, np.full(counts[me] * n, me), counts, [counts[me]] * n)
    assert got.tolist() == np.repeat(range(n), counts).tolist()


def check_torch(space):
    """Tensors of torch: strided, of every type that can be combined, in place and not."""
    import torch

    team = Team(space)
    n, me = team.size, team.position
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.bool):
        whole = (torch.arange(24).reshape(4, 6) % 2 + me).to(dtype)
        wanted = sum((torch.arange(24).reshape(4, 6) % 2 + rank).to(torch.int64) for rank in range(n))
        wanted = wanted > 0 if dtype == torch.bool else wanted
        columns = whole.t()
        team.all_reduce(columns)
        assert torch.equal(whole.to(torch.int64), wanted.to(torch.int64)), dtype
        gathered = torch.empty(n, 3, dtype=dtype)
        team.all_gather(gathered, torch.full((6,), me, dtype=dtype)[::2])
        assert torch.equal(gathered, torch.arange(n).to(dtype)[:, None].expand(n, 3)), dtype
    parameter = torch.nn.Parameter(torch.ones(5))
    team.all_reduce(parameter)
    assert (parameter == n).all()
    for refused in (
        torch.ones(3).to_sparse(),
        torch.ones(3, dtype=torch.complex64).conj(),
        torch.ones(3, device="meta"),
    ):
        with pytest.raises(ArgumentTypeError):
            team.all_reduce(refused)
    team.close()


def check_reopening(space):
    """Teams that come and go: memory that a member gives back is no flag of another's any more."""
    for turn in range(100):
        team = Team(space)
        team.all_reduce(one := np.array([turn]))
        assert one[0] == turn * team.size
        team.close()
        page = space.alloc(1 << 20)
        space.view(page, 1 << 20)[:] = 255
        space.free(page)


def check_mismatches(space):
    """What members call differently is an error at all, with both calls; the team goes on."""
    team = Team(space)
    first = space.rank == 0
    floats, longs = np.zeros(10, np.float32), np.zeros(10, np.int64)
    differ = [
        (lambda: team.all_reduce(floats), lambda: team.all_reduce(longs), "float32", "int64"),
        (lambda: team.all_reduce(floats), lambda: team.all_reduce(floats[:9]), "40 bytes", "36 bytes"),
        (lambda: team.all_reduce(floats), lambda: team.all_reduce(floats, op="max"), "sum", "max"),
        (team.barrier, lambda: team.all_reduce(np.zeros(100_000)), "barrier", "all_reduce"),
        (lambda: team.broadcast(floats, 0), lambda: team.broadcast(floats, 1), "root 0", "root 1"),
        (lambda: exchange_counts(team, 9), team.barrier, "barrier", "all_to_all_v"),
    ]
    for turn, (mine, others, *words) in enumerate(differ):
        with pytest.raises(CollectiveMismatch) as caught:
            (mine if first else others)()
        assert all(word in str(caught.value) for word in words), caught.value
        team.all_reduce(one := np.ones(3))
        assert (one == team.size).all()
        exchange_counts(team, turn)
        exchange_counts(team, turn + 1)
    counts = [1] * team.size
    with pytest.raises(CollectiveMismatch, match="takes") as caught:
        team.all_to_all_v(longs, longs.copy(), [2 if first else 1, *counts[1:]], counts)
    team.barrier()
    team.close()


def check_arguments(space):
    team = Team(space)
    ten = np.zeros(10)
    refused = [
        (ConfigError, lambda: team.all_reduce(ten, np.zeros(9))),
        (ArgumentTypeError, lambda: team.all_reduce(ten, np.zeros(10, np.float32))),
        (ConfigError, lambda: team.all_reduce(ten, op="median")),
        (ArgumentTypeError, lambda: team.all_reduce(np.zeros(4, complex))),
        (ArgumentTypeError, lambda: team.all_reduce(np.zeros(4, bool), op="avg")),
        (ArgumentTypeError, lambda: team.all_reduce([1, 2])),
        (ConfigError, lambda: team.all_gather(ten, np.zeros(6))),
        (ConfigError, lambda: team.reduce_scatter(np.zeros(6), ten)),
        (ConfigError, lambda: team.broadcast(ten, root=team.size)),
        (ConfigError, lambda: team.all_reduce(ten[1:9], ten[2:])),
        (ConfigError, lambda: team.all_to_all_v(ten, np.zeros(10), [1] * team.size, [1] * (team.size + 1))),
        (ConfigError, lambda: team.all_to_all_v(ten, np.zeros(10), [-1] * team.size, [1] * team.size)),
        (ConfigError, lambda: team.all_to_all_v(ten, np.zeros(10), [11] * team.size, [1] * team.size)),
        (ConfigError, lambda: Team(space, [space.rank, space.rank])),
        (ConfigError, lambda: Team(space, [space.num_ranks])),
    ]
    for kind, call in refused:
        with pytest.raises(kind):
            call()
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    with pytest.raises(ConfigError, match="read-only"):
        team.all_reduce(read_only)
    strided = np.arange(20.0)[::2]
    team.all_reduce(strided)
    assert (strided == np.arange(20.0)[::2] * team.size).all()
    team.close()
    with pytest.raises(WorldError):
        team.barrier()


def check_teams(space):
    """Overlapping teams in turn, and several threads each with a team of its own."""
    n, me = space.num_ranks, space.rank
    pairs = [[a, b] for a in range(n) for b in range(a + 1, n) if me in (a, b)]
    teams = [Team(space, pair) for pair in pairs]
    for _ in range(20):
        for pair, team in zip(pairs, teams, strict=True):
            team.all_reduce(got := np.array([me + 1]))
            assert got[0] == sum(pair) + 2
    whole = [Team(space, name=str(k)) for k in range(3)]
    failed = []

    def loop(k):
        for turn in range(200):
            got = np.full(1 + 977 * (turn % 5), k * (me + 1))
            whole[k].all_reduce(got)
            if (got != k * n * (n + 1) // 2).any():
                failed.append((k, turn))

    threads = [threading.Thread(target=loop, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def check_absence(space):
    """A member that does not come is named with what it called last; then the team has ended."""
    team = Team(space, timeout_s=0.3)
    team.all_reduce(np.ones(3))
    if space.rank == 0:
        with pytest.raises(WaitTimeout, match=r"barrier: .*rank 1, whose last call here was all_reduce\(sum"):
            team.barrier()
        with pytest.raises(WorldError, match="make a new one"):
            team.barrier()
    space.barrier()


def check_death(space, num_bytes):
    """All others know of a death within the operation; the rest make a new team."""
    team = Team(space)
    last = space.num_ranks - 1
    data = np.ones(num_bytes // 8)
    for turn in range(10_000):
        if space.rank == last and turn == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            team.all_reduce(data, op="max")
        except RankLost as error:
            assert error.rank == last
            break
    else:
        raise AssertionError("nobody was lost")
    with pytest.raises(RankLost):
        team.barrier()
    rest = Team(space, range(last))
    rest.all_reduce(one := np.ones(1))
    assert one[0] == last
