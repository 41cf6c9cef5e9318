"""The hub: where launched ranks meet. It lives in the launcher's loop and never waits.

Pure bookkeeping over frames, without any input or output of its own: `receive` and `rank_ended` return
the frames to send, as (rank, bytes).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .frames import Frame, Kind, encode, pack_blobs, unpack_blobs

Outgoing = list[tuple[int, bytes]]


@dataclass
class _Gather:
    """One all-gather in progress: what has come, and who waits under which request number."""

    blobs: dict[int, bytes] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)


class Hub:
    """Named blobs and all-gathers among `num_ranks` ranks.

    A gather that needs a rank which has ended is answered LOST, whenever it is asked; every other
    request stays open until it can be answered or is cancelled.
    """

    def __init__(self, num_ranks: int):
        self.num_ranks = num_ranks
        self._values: dict[bytes, bytes] = {}
        self._getters: dict[bytes, dict[int, int]] = {}
        self._gathers: dict[bytes, _Gather] = {}
        self._ended: dict[int, bytes] = {}

    def receive(self, rank: int, frame: Frame) -> Outgoing:
        """Take a frame from `rank`; returns what to send now."""
        key, *rest = unpack_blobs(frame.payload)
        if frame.kind is Kind.SET:
            return self._set(key, rest[0])
        if frame.kind is Kind.GET:
            return self._get(rank, frame.request, key)
        if frame.kind is Kind.GATHER:
            return self._gather(rank, frame.request, key, rest[0])
        assert frame.kind is Kind.CANCEL, frame.kind
        return self._cancel(rank, frame.request, key)

    def rank_ended(self, rank: int, detail: str) -> Outgoing:
        """Note that `rank` has ended and answer every gather that needed it."""
        self._ended[rank] = detail.encode()
        outgoing: Outgoing = []
        for gather in self._gathers.values():
            gather.waiting.pop(rank, None)
            if rank not in gather.blobs:
                outgoing += self._answer_lost(gather, rank)
        for getters in self._getters.values():
            getters.pop(rank, None)
        return outgoing

    def _set(self, key: bytes, blob: bytes) -> Outgoing:
        self._values[key] = blob
        getters = self._getters.pop(key, {})
        return [(rank, encode(Kind.VALUE, request, blob)) for rank, request in getters.items()]

    def _get(self, rank: int, request: int, key: bytes) -> Outgoing:
        if key in self._values:
            return [(rank, encode(Kind.VALUE, request, self._values[key]))]
        self._getters.setdefault(key, {})[rank] = request
        return []

    def _gather(self, rank: int, request: int, key: bytes, blob: bytes) -> Outgoing:
        gather = self._gathers.setdefault(key, _Gather())
        gather.blobs[rank] = blob
        gather.waiting[rank] = request
        missing = self._missing(gather)
        if not missing:
            del self._gathers[key]
            payload = pack_blobs(*(gather.blobs[source] for source in range(self.num_ranks)))
            return [(dst, encode(Kind.BLOBS, number, payload)) for dst, number in gather.waiting.items()]
        for source in missing:
            if source in self._ended:
                return self._answer_lost(gather, source)
        return []

    def _cancel(self, rank: int, request: int, key: bytes) -> Outgoing:
        self._getters.get(key, {}).pop(rank, None)
        gather = self._gathers.get(key)
        missing: list[int] = []
        if gather is not None:
            gather.waiting.pop(rank, None)
            missing = self._missing(gather)
        return [(rank, encode(Kind.MISSING, request, ",".join(map(str, missing)).encode()))]

    def _missing(self, gather: _Gather) -> list[int]:
        return [rank for rank in range(self.num_ranks) if rank not in gather.blobs]

    def _answer_lost(self, gather: _Gather, lost: int) -> Outgoing:
        payload = pack_blobs(str(lost).encode(), self._ended[lost])
        answers = [(rank, encode(Kind.LOST, number, payload)) for rank, number in gather.waiting.items()]
        gather.waiting.clear()
        return answers
