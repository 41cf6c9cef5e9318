"""`umem verify model`: search a protocol's states, the table alone and as messages; a line a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from ...coherence.atomic import Atomic
from ...coherence.load import load_protocol
from ...coherence.machine import Attribute, key_text
from ...coherence.protocol import PROTOCOLS, Protocol
from ...coherence.search import Result, Verdict, search
from ...errors import ConfigError
from ..kernel.command import BUG_CODE, LIMIT_CODE
from .flits import Flits

_MAX_RANKS, MAX_FLIT_RANKS = 16, 5
_ATTRIBUTES = (Attribute.BACK, Attribute.THROUGH)  # private memory makes the requests of back, without loads


def check(console: Console, protocol: str | Path | None, ranks: int, flit_ranks: int, limit_s: float) -> int:
    """Check a protocol, or all shipped ones, and print the verdicts. Returns 0, BUG_CODE, or LIMIT_CODE without a bug.

    Raises ConfigError for the numbers of ranks, ProtocolError where a file holds no valid table.
    """
    for option, value, most in (("--nodes", ranks, _MAX_RANKS), ("--flits", flit_ranks, MAX_FLIT_RANKS)):
        if not 0 <= value <= most:
            raise ConfigError(f"{option} {value}: give 1 to {most} ranks, or 0 to leave it out")
    if not ranks and not flit_ranks:
        raise ConfigError("--nodes 0 --flits 0 leaves nothing to check; give ranks to one of them")
    protocols = list(PROTOCOLS.values()) if protocol is None else [load_protocol(protocol)]
    results = set()
    for one in protocols:
        for lines, verdict in verdicts(one, ranks, flit_ranks, limit_s):
            results.add(verdict.result)
            for line in lines:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            if verdict.result is Result.BUG:
                break  # in the simplest configuration that has it; the others would find it again
    if Result.BUG in results:
        return BUG_CODE
    return LIMIT_CODE if Result.LIMIT in results else 0


def verdicts(
    protocol: Protocol, ranks: int, flit_ranks: int, limit_s: float
) -> Iterator[tuple[Sequence[str], Verdict]]:
    """(lines to print, verdict) of each configuration of a protocol, the simple one first."""
    if ranks:
        model = Atomic(protocol, ranks)
        verdict = search(model, limit_s=limit_s)
        lines = list(verdict.lines())
        if verdict.result is Result.EXHAUSTED and model.unused:
            unused = ", ".join(key_text(key) for key in model.unused)
            lines.append(f"  rows that nothing asks for: {unused}")
        yield lines, verdict
    if flit_ranks:
        for attribute in _ATTRIBUTES:
            verdict = search(Flits(protocol, flit_ranks, attribute), limit_s=limit_s)
            yield list(verdict.lines()), verdict
