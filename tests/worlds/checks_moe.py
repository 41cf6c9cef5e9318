"""Dispatch and combine in every rank of a world, against plain NumPy: run by test_moe.py."""

from __future__ import annotations

import hashlib
import os
import signal

import numpy as np
import pytest

from umem.collectives import Team
from umem.errors import (
    ArgumentTypeError,
    CapacityExceeded,
    CollectiveMismatch,
    ConfigError,
    OutOfMemory,
    RankLost,
    UnknownName,
)
from umem.moe import Exchange
from umem.space.dtypes import element_type

# tokens of all members, experts, choices, columns, type, alignment, how the tokens choose
CASES = (
    (24, 4, 2, 16, "float32", 1, "any"),
    (25, 8, 3, 5, "float16", 4, "any"),
    (40, 4, 4, 130, "bfloat16", 16, "any"),
    (32, 8, 2, 33, "float32", 8, "one expert"),
    (12, 4, 3, 1, "float32", 1, "nobody"),
    (17, 4, 3, 7, "bfloat16", 1, "twice the same"),
    (0, 4, 2, 8, "float32", 4, "any"),
    (3, 16, 1, 600, "float32", 1, "any"),
    (2000, 16, 4, 512, "float32", 1, "any"),
    (16, 4, 2, 64, "int8", 2, "any"),
)


def random_cases(num_cases):
    """More of them, with whatever sizes come."""
    rng = np.random.default_rng(17)
    dtypes = ("float32", "float16", "bfloat16", "int8")
    sizes = rng.integers((0, 1, 0, 1, 0, 1), (60, 5, 6, 200, len(dtypes), 9), (num_cases, 6)).tolist()
    return [
        (tokens, 4 * fours, choices, columns, dtypes[kind], alignment, "any")
        for tokens, fours, choices, columns, kind, alignment in sizes
    ]


def tokens_of(case, number):
    """(x, scales, topk_idx, topk_weights) of all members' tokens."""
    num_tokens, num_experts, num_topk, columns, dtype, _, how = case
    rng = np.random.default_rng(number)
    if dtype == "int8":
        x = rng.integers(-128, 128, (num_tokens, columns)).astype(np.int8)
    else:
        x = rng.standard_normal((num_tokens, columns)).astype(np.float32).astype(element_type(dtype))
    choices = rng.integers(-1, num_experts, (num_tokens, num_topk))
    if how == "one expert":
        choices[:] = num_experts - 2
    elif how == "nobody":
        choices[:] = -1
    elif how == "twice the same":
        choices[:, 1] = choices[:, 0]
    scales = rng.standard_normal((num_tokens, 3)).astype(np.float32)
    return x, scales, choices, rng.standard_normal((num_tokens, num_topk)).astype(np.float32)


def parts(num_tokens, num_members, number):
    """Where each member's tokens begin and end: uneven, and some members have none."""
    rng = np.random.default_rng([number, num_members])
    cuts = np.sort(rng.integers(0, num_tokens + 1, num_members - 1))
    if number % 3 == 0:
        cuts[:] = num_tokens  # all tokens are the first member's
    return list(zip([0, *cuts], [*cuts, num_tokens], strict=True))


def expected_rows(x, scales, choices, weights, experts, alignment):
    """Row by row what reaches a member with these experts."""
    rows, row_scales, row_experts, row_weights, counts = [], [], [], [], []
    for local, expert in enumerate(experts):
        found = [(t, k) for t in range(len(x)) for k in range(choices.shape[1]) if choices[t, k] == expert]
        num_more = -len(found) % alignment
        counts.append(len(found) + num_more)
        rows += [x[t] for t, _ in found] + [np.zeros_like(x[0])] * num_more if len(x) else []
        row_scales += [scales[t] for t, _ in found] + [np.zeros(3, np.float32)] * num_more
        row_experts += [local] * len(found) + [-1] * num_more
        row_weights += [weights[t, k] for t, k in found] + [0.0] * num_more
    total = sum(counts)
    return (
        np.array(rows, x.dtype).reshape(total, x.shape[1]),
        np.array(row_scales, np.float32).reshape(total, 3),
        np.array(row_experts, np.int64),
        np.array(row_weights, np.float32),
        counts,
    )


def expert_work(rows, row_experts, row_weights, first):
    """What experts do here: each row by itself, so that it does not matter where."""
    wide = rows.astype(np.float32) * (row_experts + first + 1).astype(np.float32)[:, None]
    return (wide * row_weights[:, None]).astype(rows.dtype)


def expected_sums(x, choices, weights):
    """Each token's rows, added as float32 from zero in the order of its choices."""
    total = np.zeros(x.shape, np.float32)
    for t in range(len(x)):
        for k in range(choices.shape[1]):
            if choices[t, k] >= 0:
                total[t] += expert_work(x[t : t + 1], choices[t, k : k + 1], weights[t, k : k + 1], 0)[
                    0
                ].astype(np.float32)
    return total.astype(x.dtype)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_cases(space):
    """Every case, by both semantics, with and without a handle; a digest of all tokens' sums."""
    team = Team(space)
    digest = hashlib.sha256()
    ways = ("load_store", "message") if team.semantics == "load_store" else ("auto",)
    for semantics in ways:
        exchange = Exchange(team, semantics=semantics)
        for number, case in enumerate((*CASES, *random_cases(20))):
            totals = check_case(space, exchange, number, case)
            if totals is not None and semantics == ways[0]:
                digest.update(totals.tobytes())
        exchange.close()
    return digest.hexdigest()


def check_case(space, exchange, number, case):
    team = exchange.team
    num_experts, alignment, dtype = case[1], case[5], case[4]
    x, scales, choices, weights = tokens_of(case, number)
    begin, end = parts(len(x), team.size, number)[team.position]
    own = slice(begin, end)
    num_local = num_experts // team.size
    first = team.position * num_local
    wanted = expected_rows(x, scales, choices, weights, range(first, first + num_local), alignment)
    with_scales = dtype == "int8"
    given = (x[own], scales[own]) if with_scales else x[own]
    received, experts, recv_weights, counts, handle = exchange.dispatch(
        given, choices[own], weights[own], num_experts, alignment
    )
    rows = received[0] if with_scales else received
    context = (exchange.semantics, number, team.position)
    assert same(rows, wanted[0]) and same(experts, wanted[2]) and same(recv_weights, wanted[3]), context
    assert counts == wanted[4], context
    if with_scales:
        assert same(received[1], wanted[1])
        return None

    again, _, no_weights, _, _ = exchange.dispatch(x[own][::-1], handle=handle)
    assert no_weights is None and (begin == end or same(again[experts < 0], rows[experts < 0]))
    back, weights_back = exchange.combine(again, handle, recv_weights)
    assert same(weights_back, np.where(choices[own] >= 0, weights[own], np.float32(0)))
    chosen = (choices[own] >= 0).sum(axis=1)[:, None]
    if choices.shape[1] == 2:  # a sum of two equal rows has no rounding
        assert same(back, x[own][::-1] * chosen.astype(x.dtype) + x.dtype.type(0))

    work = expert_work(rows, experts, recv_weights, first)
    sums = expected_sums(x, choices, weights)
    private, _ = exchange.combine(work, handle)
    rows[:] = work
    in_place, _ = exchange.combine(rows, handle)
    assert same(private, sums[own]) and same(in_place, private), context
    return sums_of_all(team, private, len(x))


def sums_of_all(team, own, num_tokens):
    """All members' sums, in the tokens' order."""
    counts = np.empty(team.size, np.int64)
    team.all_gather(counts, np.array([len(own)]))
    whole = np.empty((num_tokens, own.shape[1]), own.dtype)
    row = own.shape[1] * own.itemsize
    team.all_to_all_v(
        whole.view(np.uint8).reshape(-1),
        np.concatenate([own.view(np.uint8).reshape(-1)] * team.size),
        [int(count) * row for count in counts],
        [len(own) * row] * team.size,
    )
    return whole


def check_holding(space):
    """What a program holds of a dispatch is left alone; what it drops is used again."""
    exchange = Exchange(Team(space))
    choices = np.array([[0], [1]])

    def send(value):
        return exchange.dispatch(np.full((2, 8), value, np.int64), choices, num_experts=2)[0]

    held = send(1)[:1, 2:4]
    addresses = set()
    for value in range(2, 40):
        rows = send(value)
        assert (rows == value).all() and (held == 1).all()
        addresses.add(rows.ctypes.data)
        del rows
    assert len(addresses) == 1 and held.ctypes.data - 16 not in addresses
    again = send(50)
    assert again.ctypes.data in addresses and (send(51) == 51).all() and (again == 50).all()
    check_waiting(exchange)
    used = space.heap.usage()
    exchange.close()
    assert (held == 1).all() and (again == 50).all() and space.heap.usage() != used


def check_waiting(exchange):
    """Rows may be changed after combine, also by a member that has no token to sum."""
    num_tokens = 0 if exchange.team.position == 0 else 2000
    x, choices = np.ones((num_tokens, 512), np.float32), np.zeros((num_tokens, 2), np.int64)
    for _ in range(5):
        rows, _, _, _, handle = exchange.dispatch(x, choices, num_experts=2)
        assert (rows == 1).all()
        total, _ = exchange.combine(rows, handle)
        rows[:] = 7
        assert (total == 2).all()


def check_refusals(space):
    team = Team(space)
    exchange = Exchange(team, max_rows=6)
    x, choices = np.ones((4, 8), np.float32), np.array([[0, 1], [2, 3], [0, 1], [2, 3]])
    weights = np.ones((4, 2), np.float32)
    wrong = choices.copy()
    wrong[2, 1] = 4
    low = choices.copy()
    low[3, 0] = -2
    _, _, _, _, handle = exchange.dispatch(x[:2], choices[:2], weights[:2], 4)
    refused = [
        (ConfigError, r"topk_idx\[2, 1\] is 4", lambda: exchange.dispatch(x, wrong, weights, 4)),
        (ConfigError, r"topk_idx\[3, 0\] is -2", lambda: exchange.dispatch(x, low, weights, 4)),
        (ConfigError, "no equal parts", lambda: exchange.dispatch(x, choices, weights, 5)),
        (ConfigError, "shape", lambda: exchange.dispatch(x[0], choices, weights, 4)),
        (ConfigError, "shape", lambda: exchange.dispatch(x, choices[:3], weights, 4)),
        (ConfigError, "shape", lambda: exchange.dispatch(x, choices, weights[:, :1], 4)),
        (ConfigError, "rows for the 4", lambda: exchange.dispatch((x, x[:2]), choices, weights, 4)),
        (ConfigError, "needs topk_idx", lambda: exchange.dispatch(x)),
        (ConfigError, "expert_alignment", lambda: exchange.dispatch(x, choices, weights, 4, 0)),
        (ConfigError, "leave out", lambda: exchange.dispatch(x[:2], choices[:2], handle=handle)),
        (ConfigError, "the handle is of 2", lambda: exchange.dispatch(x, handle=handle)),
        (ConfigError, "the handle is of 4", lambda: exchange.combine(x[:3], handle)),
        (ArgumentTypeError, "float64", lambda: exchange.combine(np.ones((4, 8)), handle)),
        (ArgumentTypeError, "float64", lambda: exchange.dispatch(x, choices, np.ones((4, 2)), 4)),
        (ArgumentTypeError, "integers", lambda: exchange.dispatch(x, weights, weights, 4)),
        (ArgumentTypeError, "list", lambda: exchange.dispatch(x, choices.tolist(), weights, 4)),
        (UnknownName, "semantics", lambda: Exchange(team, semantics="telepathy")),
    ]
    for kind, text, call in refused:
        with pytest.raises(kind, match=text):
            call()
    with pytest.raises(CapacityExceeded, match="8 rows, and takes 6") as caught:
        exchange.dispatch(x, choices, weights, 4)
    assert caught.value.rank == team.ranks[0]
    mine = x[:, : 8 if space.rank else 4]
    with pytest.raises(
        CollectiveMismatch, match=r"bytes a row=16.*bytes a row=32|bytes a row=32.*bytes a row=16"
    ):
        exchange.dispatch(mine[:2], choices[:2], weights[:2], 4)
    with pytest.raises(CollectiveMismatch, match=r"alignment=1.*alignment=2|alignment=2.*alignment=1"):
        exchange.dispatch(x[:1], choices[:1], weights[:1], 4, 1 + space.rank)
    large = np.ones((4, 1 << 20), np.float32)
    to_first = np.zeros((4, 1), np.int64)
    with pytest.raises(
        OutOfMemory,
        match="rank 0 device has no room" if space.rank == 0 else "rank 0 has no memory for 8 rows",
    ):
        Exchange(team).dispatch(large, to_first, None, 2)
    rows, _, _, _, handle = exchange.dispatch(x[:2], choices[:2], weights[:2], 4)
    assert (exchange.combine(rows, handle)[0] == 2).all()
    assert (rows.dtype, rows.shape) == (np.float32, (4, 8))


def check_death(space, seen):
    """A member's death in the middle of an exchange is RankLost at the others."""
    exchange = Exchange(Team(space))
    x, choices = np.ones((50, 64), np.float32), np.tile([0, 1], (50, 1))
    for turn in range(10_000):
        if space.rank == 1 and turn == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            rows, _, _, _, handle = exchange.dispatch(x, choices, num_experts=2)
            exchange.combine(rows, handle)
        except RankLost as error:
            seen.write_text(f"lost rank {error.rank}")
            return
    raise AssertionError("nobody was lost")


def check_gradients(space):
    """A layer of experts whose tokens and experts are spread, against the same layer in one place."""
    import torch

    from umem.torch import MoeExchange

    team = Team(space)
    num_experts, num_topk, columns, num_each = 4, 2, 12, 9
    generator = torch.Generator().manual_seed(3)
    num_tokens = num_each * team.size
    x = torch.randn(num_tokens, columns, generator=generator)
    gains = torch.randn(num_experts, columns, generator=generator)
    choices = torch.randint(-1, num_experts, (num_tokens, num_topk), generator=generator)
    weights = torch.rand(num_tokens, num_topk, generator=generator)
    target = torch.randn(num_tokens, columns, generator=generator)

    plain = [part.clone().requires_grad_() for part in (x, weights, gains)]
    chosen = torch.where((choices >= 0)[..., None], plain[2][choices.clamp(min=0)], torch.zeros(()))
    out = (torch.tanh(plain[0][:, None] * chosen) * plain[1][..., None]).sum(1)
    kept = torch.where(choices >= 0, plain[1], torch.zeros(()))
    ((out * target).sum() + (kept**3).sum()).backward()

    own = slice(team.position * num_each, (team.position + 1) * num_each)
    num_local = num_experts // team.size
    held = slice(team.position * num_local, (team.position + 1) * num_local)
    for semantics in ("load_store", "message"):
        exchange = MoeExchange(team, semantics=semantics)
        mine = [part.clone().requires_grad_() for part in (x[own], weights[own], gains[held])]
        rows, experts, recv_weights, counts, handle = exchange.dispatch(
            mine[0], choices[own], mine[1], num_experts, expert_alignment=3
        )
        assert sum(counts) == len(rows) and rows.requires_grad and not experts.requires_grad
        work = torch.tanh(rows * mine[2][experts.clamp(min=0)]) * recv_weights[:, None]
        got, back = exchange.combine(work, handle, recv_weights)
        torch.testing.assert_close(got, out[own])
        assert torch.equal(back, torch.where(choices[own] >= 0, weights[own], torch.zeros(())))
        ((got * target[own]).sum() + (back**3).sum()).backward()
        for mine_part, plain_part, where in zip(mine, plain, (own, own, held), strict=True):
            torch.testing.assert_close(mine_part.grad, plain_part.grad[where])
        half, _, none, _, handle = exchange.dispatch(x[own].bfloat16(), choices[own], num_experts=num_experts)
        assert half.dtype == torch.bfloat16 and none is None
        part = weights[own].clone().requires_grad_()
        (whole, found), _, of_row, _, _ = exchange.dispatch(
            (x[own].to(torch.int8), x[own]), choices[own], part, num_experts
        )
        assert (whole.dtype, found.dtype) == (torch.int8, torch.float32)
        (of_row * found[:, 0]).sum().backward()
        torch.testing.assert_close(part.grad, (choices[own] >= 0) * x[own][:, :1])
        with pytest.raises(ArgumentTypeError, match="float64"):
            exchange.dispatch(x[own].double().requires_grad_(), choices[own], None, num_experts)
        assert exchange.combine(half, handle)[0].dtype == torch.bfloat16
        exchange.close()
