"""Which row goes where: numbers from the experts that tokens chose, and how many rows each member has for each.

A row travels for each pair of a token and an expert that it chose. At the experts' home the rows stand by expert,
then by the member that they came from, then by token and its choices. So the rows of all members' tokens stand in the
order of the tokens, however many members these are spread over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class Handle:
    """Where the rows of one `dispatch` went: for `combine`, and for a `dispatch` of other rows the same way."""

    serial: int  # the same at all members
    num_tokens: int
    num_topk: int
    pairs: np.ndarray  # token * num_topk + choice of each pair, ascending; those of -1 are left out
    first_pairs: np.ndarray  # of each token, and at the end their number
    homes: np.ndarray  # each pair's member
    rows: np.ndarray  # and its row there
    by_home: np.ndarray  # indices of `pairs` in the order of the rows' homes, experts and tokens
    num_sent: list[int]  # pairs for each member
    num_taken: list[int]  # and from each
    arrivals: np.ndarray  # this member's rows in the order of their senders, and of each sender's `by_home`
    num_rows: np.ndarray  # of each member, with what fills experts up
    num_rows_per_expert: list[int]  # of this member, with what fills them up
    expert_of_row: np.ndarray  # counted from this member's first; -1 in rows that fill an expert up

    @property
    def tokens(self) -> np.ndarray:
        """Each pair's token."""
        return self.pairs // max(self.num_topk, 1)


def counts_of(topk_idx: np.ndarray, num_experts: int) -> np.ndarray:
    """How many of the choices are each expert."""
    return np.bincount(topk_idx[topk_idx >= 0], minlength=num_experts).astype(np.int64)


def route(topk_idx: np.ndarray, counts: np.ndarray, alignment: int, position: int, serial: int) -> Handle:
    """The Handle of the member at `position`, whose tokens choose `topk_idx`.

    `counts[member, expert]` are all members' `counts_of`; each expert is filled up to a multiple of `alignment` rows.
    """
    num_members, num_experts = counts.shape
    num_local = num_experts // num_members
    padded = -(-counts.sum(axis=0) // alignment) * alignment
    by_member = padded.reshape(num_members, num_local)
    first_rows = (by_member.cumsum(axis=1) - by_member).ravel() + counts.cumsum(axis=0) - counts

    choices = topk_idx.ravel()
    pairs = np.flatnonzero(choices >= 0)
    experts = choices[pairs]
    by_home = np.argsort(experts, kind="stable")
    rows = np.empty(len(pairs), np.int64)
    rows[by_home] = _ranges(first_rows[position], counts[position])
    num_tokens, num_topk = topk_idx.shape
    first_pairs = np.zeros(num_tokens + 1, np.int64)
    (topk_idx >= 0).sum(axis=1).cumsum(out=first_pairs[1:])

    own = slice(position * num_local, (position + 1) * num_local)
    arrivals = _ranges(first_rows[:, own].ravel(), counts[:, own].ravel())
    expert_of_row = np.repeat(np.arange(num_local), by_member[position])
    is_filling = np.ones(len(expert_of_row), bool)
    is_filling[arrivals] = False
    expert_of_row[is_filling] = -1
    return Handle(
        serial=serial,
        num_tokens=num_tokens,
        num_topk=num_topk,
        pairs=pairs,
        first_pairs=first_pairs,
        homes=experts // num_local,
        rows=rows,
        by_home=by_home,
        num_sent=counts[position].reshape(num_members, num_local).sum(axis=1).tolist(),
        num_taken=counts[:, own].sum(axis=1).tolist(),
        arrivals=arrivals,
        num_rows=by_member.sum(axis=1),
        num_rows_per_expert=by_member[position].tolist(),
        expert_of_row=expert_of_row,
    )


def _ranges(firsts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of ranges that begin at `firsts`, one range after the other."""
    return np.repeat(firsts - (lengths.cumsum() - lengths), lengths) + np.arange(lengths.sum())
