"""The backend "umem" of torch.distributed, in every rank of a world: run by test_groups.py."""

from __future__ import annotations

import gc
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import umem
from tests.torch import checks_groups_training as training
from umem.errors import ArgumentTypeError, CollectiveMismatch, ConfigError

OPS = {"SUM": torch.sum, "PRODUCT": torch.prod, "MIN": torch.amin, "MAX": torch.amax}
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.uint8,
)


def tensors(size, shape, dtype):
    """A tensor of each rank, the same at all: small whole numbers, which every type adds without rounding."""
    made = torch.Generator().manual_seed(7)
    return [torch.randint(1, 3, shape, generator=made).to(dtype) for _ in range(size)]


def in_turn(check):
    """Run a check with a default group of all ranks, over a store in a file."""

    def run(space, path):
        store = dist.FileStore(f"{path}/{check.__name__}-{space.num_ranks}", space.num_ranks)
        dist.init_process_group("umem", store=store, rank=space.rank, world_size=space.num_ranks)
        try:
            check(space.rank, space.num_ranks)
        finally:
            dist.destroy_process_group()
        assert space.is_open

    return run


def check_reductions(rank, size):
    for dtype in DTYPES:
        for shape in ((), (1,), (3, 5), (70_001,)):
            inputs = tensors(size, shape, dtype)
            for op, combine in OPS.items():
                wanted = combine(torch.stack(inputs), 0).to(dtype)
                kind = getattr(dist.ReduceOp, op)
                mine = inputs[rank].clone()
                dist.all_reduce(mine, kind)
                assert torch.equal(mine, wanted), (op, dtype, shape)
                work = dist.all_reduce(mine := inputs[rank].clone(), kind, async_op=True)
                assert work.wait() and work.is_completed() and work.is_success() and torch.equal(mine, wanted)
                mine = inputs[rank].clone()
                dist.reduce(mine, size - 1, kind)
                assert torch.equal(mine, wanted if rank == size - 1 else inputs[rank])
    whole = torch.arange(size * 6.0).view(size * 2, 3) * (rank + 1)
    out = torch.empty(2, 3)
    dist.reduce_scatter_single(out, whole)
    factor = size * (size + 1) // 2
    assert torch.equal(out, torch.arange(size * 6.0).view(size, 2, 3)[rank] * factor)
    dist.reduce_scatter(out, list(whole.view(size, 2, 3)))
    assert torch.equal(out, torch.arange(size * 6.0).view(size, 2, 3)[rank] * factor)
    mean = torch.full((5,), float(rank))
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    assert torch.equal(mean, torch.full((5,), (size - 1) / 2))


def check_what_teams_do_not_reduce(rank, size):
    bits = torch.tensor([1 << rank, 7], dtype=torch.int32)
    for op, wanted in (("BOR", [(1 << size) - 1, 7]), ("BAND", [0 if size > 1 else 1, 7])):
        mine = bits.clone()
        dist.all_reduce(mine, getattr(dist.ReduceOp, op))
        assert mine.tolist() == wanted
    with pytest.raises(ArgumentTypeError, match="band, bor, bxor of integers"):
        dist.all_reduce(torch.ones(2), dist.ReduceOp.BXOR)
    z = torch.full((3,), 1 + 2j)
    dist.all_reduce(z)
    assert torch.equal(z, torch.full((3,), (1 + 2j) * size))
    with pytest.raises(ArgumentTypeError, match="layout"):
        dist.all_reduce(torch.ones(2, 2).to_sparse())


def check_moves(rank, size):
    for dtype in (*DTYPES, torch.bool, torch.float8_e4m3fn, torch.complex64):
        blocks = [torch.arange(6).view(2, 3).to(torch.float32).add(10 * r).to(dtype) for r in range(size)]
        got = [torch.empty(2, 3, dtype=dtype) for _ in range(size)]
        dist.all_gather(got, blocks[rank])
        assert all(same(a, b) for a, b in zip(got, blocks, strict=True)), dtype
        whole = torch.empty(2 * size, 3, dtype=dtype)
        dist.all_gather_single(whole, blocks[rank])
        assert same(whole, torch.cat([block.view(torch.uint8) for block in blocks]).view(dtype))
        one = blocks[rank].clone()
        dist.broadcast(one, size - 1)
        assert same(one, blocks[-1])
    for root in {0, size - 1}:
        got = [torch.empty(2) for _ in range(size)] if rank == root else None
        dist.gather(torch.full((2,), float(rank)), got, dst=root)
        assert got is None or [g.tolist() for g in got] == [[r, r] for r in range(size)]
        out = torch.empty(2)
        dist.scatter(
            out, [torch.full((2,), float(r)) for r in range(size)] if rank == root else None, src=root
        )
        assert out.tolist() == [rank, rank]
    turned = torch.arange(12.0).view(3, 4).t() + rank
    dist.broadcast(turned, 0)  # not contiguous
    assert torch.equal(turned, torch.arange(12.0).view(3, 4).t())


def check_all_to_all(rank, size):
    out, given = torch.empty(size, 2), torch.full((size, 2), float(rank))
    dist.all_to_all_single(out, given)
    assert out[:, 0].tolist() == list(range(size))
    sent = [(rank + to) % 3 for to in range(size)]  # rows, some none
    taken = [(source + rank) % 3 for source in range(size)]
    out, given = torch.full((sum(taken), 3), -1.0), torch.full((sum(sent), 3), float(rank))
    dist.all_to_all_single(out, given, taken, sent)
    assert out[:, 1].tolist() == [source for source, num in enumerate(taken) for _ in range(num)]
    inputs = [torch.full((to + 1,), float(rank)) for to in range(size)]
    outputs = [torch.empty(rank + 1) for _ in range(size)]
    dist.all_to_all(outputs, inputs)
    assert [o.tolist() for o in outputs] == [[r] * (rank + 1) for r in range(size)]
    for splits in ([1] * (size + 1), [-1] + [1] * (size - 1), [size + 1] + [0] * (size - 1)):
        with pytest.raises(ConfigError, match="splits"):
            dist.all_to_all_single(torch.empty(size, 2), torch.empty(size, 2), None, splits)


def check_objects(rank, size):
    got = [None] * size
    dist.all_gather_object(got, {"rank": rank, "text": "x" * 1000 * rank})
    assert [g["rank"] for g in got] == list(range(size))
    one = [{"a": rank}]
    dist.broadcast_object_list(one, src=size - 1)
    assert one == [{"a": size - 1}]


def check_messages(rank, size):
    right, left = (rank + 1) % size, (rank - 1) % size
    if size == 1:
        return
    for num in (0, 1, 1000, 1 << 20):
        given, got = torch.full((num,), float(rank)), torch.empty(num)
        works = dist.batch_isend_irecv(
            [dist.P2POp(dist.irecv, got, left), dist.P2POp(dist.isend, given, right)]
        )
        for work in works:
            work.wait()
        assert torch.equal(got, torch.full((num,), float(left)))
    # Tags out of order, and many of one tag in order, large ones among them.
    if rank == 0:
        for tag in (2, 1):
            dist.send(torch.full((2000,), float(tag)), 1, tag=tag)
        dist.barrier()
        works = [dist.isend(torch.full((1 + 3000 * (i % 2),), float(i)), 1) for i in range(10)]
        for work in works:
            work.wait()
    elif rank == 1:
        for tag in (1, 2):
            got = torch.empty(2000)
            dist.recv(got, 0, tag=tag)
            assert got[0] == tag
        boxes = [torch.empty(1 + 3000 * (i % 2)) for i in range(10)]
        works = [dist.irecv(box, 0) for box in boxes]
        dist.barrier()  # all of them wait before the first is sent
        for work in works:
            work.wait()
        assert [box[0].item() for box in boxes] == list(range(10))
        with pytest.raises(ConfigError, match="tag"):
            dist.isend(torch.ones(1), 0, tag=1 << 30)
    else:
        dist.barrier()
    dist.barrier()
    if rank == 0:
        sources = set()
        for _ in range(size - 1):
            got = torch.empty(3)
            source = dist.recv(got)
            assert got.tolist() == [source] * 3
            sources.add(source)
        assert sources == set(range(1, size))
    else:
        dist.send(torch.full((3,), float(rank)), 0)
    dist.barrier()  # or a message of what follows might be taken
    if rank == 0:
        with pytest.raises(CollectiveMismatch, match=r"recv\(8 bytes"):
            dist.recv(torch.empty(2), 1)
    elif rank == 1:
        dist.send(torch.empty(3), 0)


def check_async(rank, size):
    """Work goes on in the order given while the program does, and keeps what it needs."""
    works = [dist.all_reduce(torch.full((50_000,), 1.0), async_op=True) for _ in range(20)]
    results = [work.result()[0] for work in works]
    del works
    gc.collect()
    last = torch.ones(3)
    dist.all_reduce(last)  # behind those under way
    assert last.tolist() == [size] * 3
    assert all((result == size).all() for result in results)
    future = dist.all_reduce(torch.ones(4), async_op=True).get_future().then(lambda f: f.value()[0] * 2)
    assert future.wait().tolist() == [2 * size] * 4
    if size > 1:
        late = torch.ones(2)
        if rank == 0:
            work = dist.all_reduce(late, async_op=True)
            with pytest.raises(umem.errors.WaitTimeout, match="goes on"):
                work.wait(timedelta(milliseconds=20))
            assert not work.is_completed() and work.exception() is None
        dist.group.WORLD.space.barrier()
        if rank != 0:
            work = dist.all_reduce(late, async_op=True)
        work.wait()
        assert late.tolist() == [size] * 2


def check_groups(rank, size):
    """Overlapping groups, from several threads at once."""
    everyone = list(range(size))
    groups = [dist.new_group(ranks) for ranks in (everyone, everyone[::-1], everyone[: size // 2 + 1])]
    assert all(g is dist.GroupMember.NON_GROUP_MEMBER or dist.get_backend(g) == "umem" for g in groups)
    wrong = []

    def work(index, group):
        for turn in range(50):
            num = dist.get_world_size(group)
            one = torch.full((100 * index + 1,), float(turn))
            dist.all_reduce(one, group=group)
            if not (one == turn * num).all():
                wrong.append((index, turn))

    mine = [(i, g) for i, g in enumerate(groups) if g is not dist.GroupMember.NON_GROUP_MEMBER]
    threads = [threading.Thread(target=work, args=each) for each in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    one = torch.tensor([float(rank)])
    dist.broadcast(one, src=size - 1, group=groups[1])  # torch's ranks, not positions
    assert one.item() == size - 1
    for _, group in mine:
        dist.destroy_process_group(group)
    for _ in range(3):  # pages of groups that all have left are used again
        dist.all_reduce(one, group=(again := dist.new_group(everyone)))
        dist.destroy_process_group(again)


def check_mismatches(rank, size):
    if size == 1:
        return
    with pytest.raises(CollectiveMismatch, match=r"all_reduce.*(barrier|20 bytes)"):
        dist.all_reduce(torch.ones(5)) if rank else dist.barrier()
    with pytest.raises(CollectiveMismatch, match=r"float32.*int32|int32.*float32"):
        dist.all_reduce(torch.ones(5, dtype=torch.int32 if rank else torch.float32), async_op=True).wait()
    one = torch.ones(2)
    dist.all_reduce(one)
    assert one.tolist() == [size] * 2


def check_timeouts(rank, size):
    """An absent member is named, and the group has ended."""
    if size == 1:
        return
    group = dist.new_group(timeout=timedelta(seconds=0.3))
    if rank == 0:
        before = time.monotonic()
        with pytest.raises(umem.errors.WaitTimeout, match="not there: rank 1"):
            dist.all_reduce(torch.ones(2), group=group)
        assert time.monotonic() - before < 20
        with pytest.raises(umem.errors.WorldError, match="has ended"):
            dist.barrier(group=group)
    dist.barrier()


def same(a, b):
    return a.dtype == b.dtype and torch.equal(
        a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    )


CHECKS = {
    check.__name__.removeprefix("check_"): in_turn(check)
    for check in (
        check_reductions,
        check_what_teams_do_not_reduce,
        check_moves,
        check_all_to_all,
        check_objects,
        check_messages,
        check_async,
        check_groups,
        check_mismatches,
        check_timeouts,
        training.check_ddp,
        training.check_ddp_hooks,
        training.check_fsdp,
        training.check_tensor_parallel,
    )
}


def run(space, name, path):
    """One of the checks, its store in a file in `path`."""
    CHECKS[name](space, path)
