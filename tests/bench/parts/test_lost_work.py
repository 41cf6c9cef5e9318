"""A block that does nothing is an error, also behind one that was right: what stands there still proves nothing. So is
one of which a byte is wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import umem
from umem.bench.parts import (
    bandwidth,
    coherence_loops,
    coherence_turns,
    exchange,
    gather_sum,
    message,
    message_loops,
    reduce,
    speed_loops,
    workload_loops,
)
from umem.fabric.ucx import library
from umem.kernels.status import OK

SIZE, NUM_SAMPLES = 256, 2
TABLE_BYTES = 1 << 20


def lose(*arguments: int) -> int:
    """In place of a loop: nothing is done."""
    return OK


def lose_turns(*arguments: int) -> tuple[int, int, int]:
    """In place of `take_turns`: all of them are over."""
    *_, last, done = arguments
    return OK, last, done


@dataclass
class Planted:
    """A block's loop, or nothing in its place; then `spoil`. Compiled or not, as its caller wants."""

    work: Callable[..., Any]
    spoil: Callable[[], None]

    def __call__(self, *arguments: int) -> Any:
        done = self.work(*arguments)
        self.spoil()
        return done

    @property
    def compiled(self) -> Planted:
        return self


@dataclass(frozen=True)
class Block:
    """A part, its method, the loops of `module` that do the work, and where bytes arrive."""

    kind: Any
    arguments: tuple[Any, ...]
    method: str
    module: Any
    loops: tuple[str, ...]
    arrives: Callable[[Any], np.ndarray] | None = None  # None: what is looked at is drawn, or a sum
    lose: Callable[..., Any] = lose

    def errors(self, space: umem.Space) -> dict[str, int]:
        """Errors of this rank behind two blocks that run, and behind a third that is tampered with."""
        part = self.kind(space, *self.arguments)
        block = getattr(part, self.method)
        block(NUM_SAMPLES)
        block(NUM_SAMPLES)
        found = {"right": part.num_errors()}
        before = {name: getattr(self.module, name) for name in self.loops}
        for name in before:
            setattr(self.module, name, Planted(self.lose, lambda: None))
        block(NUM_SAMPLES)
        found |= {"lost": part.num_errors(), "told twice": part.num_errors()}
        if self.arrives is not None:
            for name, loop in before.items():
                setattr(self.module, name, Planted(loop, functools.partial(self._spoil, part)))
            block(NUM_SAMPLES)
            found["spoiled"] = part.num_errors()
        for name, loop in before.items():
            setattr(self.module, name, loop)
        part.close()
        return found

    def _spoil(self, part: Any) -> None:
        assert self.arrives is not None
        if getattr(part, "takes_part", True):
            self.arrives(part).reshape(-1).view(np.uint8)[-1] = 0x55


def turns(method: str, arrives: Callable[[Any], np.ndarray] | None = None) -> Block:
    """Two ranks that work on a block in turn."""
    arguments = ("back", SIZE, 4)
    return Block(
        coherence_turns.Turns, arguments, method, coherence_loops, ("take_turns",), arrives, lose_turns
    )


BLOCKS = {
    "message": Block(
        message.Message, (SIZE,), "message", message_loops, ("ping_pong",), lambda part: part.dst
    ),
    "stream": Block(
        message.Stream, (SIZE, 4, 8), "message", message_loops, ("stream",), lambda part: part.buffer
    ),
    "put": Block(message.Access, (SIZE,), "put", message_loops, ("access",), lambda part: part.buffer),
    "get": Block(message.Access, (SIZE,), "get", message_loops, ("access",), lambda part: part.buffer),
    "puts to and fro": Block(
        message.PutPingPong,
        (SIZE,),
        "ping_pong",
        message_loops,
        ("put_ping_pong",),
        lambda part: part.inbox.numpy()[:-8],
    ),
    "exchange": Block(
        exchange.Mapped,
        (SIZE,),
        "load_store",
        speed_loops,
        ("swap",),
        lambda part: part.inbox.numpy()[: 2 * SIZE],
    ),
    "exchange by messages": Block(
        exchange.Message, (SIZE,), "message", message_loops, ("swap",), lambda part: part.dst
    ),
    "copy": Block(bandwidth.Copy, (1 << 16, 1 << 17, 1), "load_store", speed_loops, ("copy_each",)),
    "copy by libc": Block(bandwidth.Copy, (1 << 16, 1 << 17, 1), "libc", speed_loops, ("copy_each_by",)),
    "reduce": Block(
        reduce.Mapped,
        (SIZE,),
        "load_store",
        workload_loops,
        ("reduce_by_team",),
        lambda part: part.dst.numpy(),
    ),
    "reduce by messages": Block(
        reduce.Message, (SIZE,), "message", workload_loops, ("reduce_by_messages",), lambda part: part.out
    ),
    "gather": Block(
        gather_sum.Mapped,
        (8, 1),
        "load_store",
        workload_loops,
        ("gather_sum_each",),
        lambda part: part.request.out[0],
    ),
    "gather by messages": Block(
        gather_sum.Asked,
        (8, 1),
        "message",
        workload_loops,
        ("ask_sums", "serve_sums"),
        lambda part: part.request.out[0],
    ),
    "update": turns("update"),
    "transfer": turns("transfer", lambda part: part.own[:SIZE]),
}


def errors_of_each(space: umem.Space) -> dict[str, dict[str, int]]:
    """Errors of this rank, by block."""
    message.WARM_ROUNDS, gather_sum.TABLE_BYTES = 4, TABLE_BYTES
    return {name: block.errors(space) for name, block in BLOCKS.items()}


@functools.cache
def outcomes() -> list[dict[str, dict[str, int]]]:
    """What both ranks of one launch report."""
    return umem.launch(errors_of_each, ranks=2, segment="128M", timeout_s=60, results="all")


@pytest.mark.timeout(240)  # kernels of the parts may have to be compiled
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_is_tampered_with_is_an_error(name):
    if not library.is_available():
        pytest.skip("needs UCX")
    first, second = (told[name] for told in outcomes())
    errors = {what: first[what] + second[what] for what in first}
    assert errors["right"] == errors["told twice"] == 0
    assert errors["lost"] > 0
    assert errors.get("spoiled", 1) > 0
