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
    """One all-gather in progress: the blobs that have come, and the waiting ranks with their request numbers."""

    stay: bytes
    blobs: dict[int, bytes] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)


@dataclass
class _Get:
    """One rank's wait for a key: whose death or leave ends it, None for that of all others."""

    rank: int
    request: int
    stay: bytes
    source: int | None


class Hub:
    """Named blobs and all-gathers among `num_ranks` ranks.

    What needs a rank that has ended, or has left its world, is answered LOST, whenever it is asked; every
    other request stays open until it can be answered or is cancelled.
    """

    def __init__(self, num_ranks: int):
        self.num_ranks = num_ranks
        self._values: dict[bytes, bytes] = {}
        self._gets: dict[bytes, list[_Get]] = {}
        self._gathers: dict[bytes, _Gather] = {}
        self._ended: dict[int, bytes] = {}
        self._left: dict[bytes, dict[int, bytes]] = {}  # by stay

    def receive(self, rank: int, frame: Frame) -> Outgoing:
        """Take a frame from `rank`; returns the frames to send now."""
        key, *rest = unpack_blobs(frame.payload)
        if frame.kind is Kind.SET:
            return self._set(key, rest[0])
        if frame.kind is Kind.GET:
            return self._get(rank, frame.request, key, *rest)
        if frame.kind is Kind.GATHER:
            return self._gather(rank, frame.request, key, *rest)
        if frame.kind is Kind.LEAVE:
            return self._leave(rank, key, rest[0])
        assert frame.kind is Kind.CANCEL, frame.kind
        return self._cancel(rank, frame.request, key)

    def rank_ended(self, rank: int, detail: str) -> Outgoing:
        """Note that `rank` has ended and answer all that needed it."""
        self._ended[rank] = detail.encode()
        for gather in self._gathers.values():
            gather.waiting.pop(rank, None)
        for key, gets in self._gets.items():
            self._gets[key] = [one for one in gets if one.rank != rank]
        return self._answer_lost()

    def _set(self, key: bytes, blob: bytes) -> Outgoing:
        self._values[key] = blob
        return [(one.rank, encode(Kind.VALUE, one.request, blob)) for one in self._gets.pop(key, [])]

    def _get(self, rank: int, request: int, key: bytes, stay: bytes = b"", source: bytes = b"") -> Outgoing:
        if key in self._values:
            return [(rank, encode(Kind.VALUE, request, self._values[key]))]
        self._gets.setdefault(key, []).append(_Get(rank, request, stay, int(source) if source else None))
        return self._answer_lost()

    def _gather(self, rank: int, request: int, key: bytes, blob: bytes, stay: bytes = b"") -> Outgoing:
        gather = self._gathers.setdefault(key, _Gather(stay))
        gather.blobs[rank] = blob
        gather.waiting[rank] = request
        if not self._missing(gather):
            del self._gathers[key]
            payload = pack_blobs(*(gather.blobs[source] for source in range(self.num_ranks)))
            return [(dst, encode(Kind.BLOBS, number, payload)) for dst, number in gather.waiting.items()]
        return self._answer_lost()

    def _leave(self, rank: int, stay: bytes, error: bytes) -> Outgoing:
        self._left.setdefault(stay, {})[rank] = b"left its world" + (b" by " + error if error else b"")
        outgoing = self._answer_lost()
        if error:
            notice = encode(Kind.LEFT, 0, pack_blobs(stay, str(rank).encode(), error))
            outgoing += [(other, notice) for other in range(self.num_ranks) if other != rank]
        return outgoing

    def _cancel(self, rank: int, request: int, key: bytes) -> Outgoing:
        self._gets[key] = [one for one in self._gets.get(key, []) if one.rank != rank]
        gather = self._gathers.get(key)
        missing: list[int] = []
        if gather is not None:
            gather.waiting.pop(rank, None)
            missing = self._missing(gather)
        return [(rank, encode(Kind.MISSING, request, ",".join(map(str, missing)).encode()))]

    def _missing(self, gather: _Gather) -> list[int]:
        return [rank for rank in range(self.num_ranks) if rank not in gather.blobs]

    def _gone(self, stay: bytes) -> dict[int, bytes]:
        """Ranks that take no part in a stay any more, and how they went."""
        return {**self._ended, **self._left.get(stay, {})}

    def _answer_lost(self) -> Outgoing:
        """Answer every request that cannot be met any more because a rank has ended."""
        outgoing: Outgoing = []
        if not self._ended and not self._left:
            return outgoing
        for gather in self._gathers.values():
            gone = self._gone(gather.stay)
            lost = next((rank for rank in self._missing(gather) if rank in gone), None)
            if lost is not None:
                outgoing += [(rank, _lost(number, lost, gone)) for rank, number in gather.waiting.items()]
                gather.waiting.clear()
        for key, gets in self._gets.items():
            still = []
            for one in gets:
                gone = self._gone(one.stay)
                sources = set(range(self.num_ranks)) - {one.rank} if one.source is None else {one.source}
                if sources and sources <= gone.keys():
                    outgoing.append((one.rank, _lost(one.request, max(sources), gone)))
                else:
                    still.append(one)
            self._gets[key] = still
        return outgoing


def _lost(request: int, rank: int, gone: dict[int, bytes]) -> bytes:
    return encode(Kind.LOST, request, pack_blobs(str(rank).encode(), gone[rank]))
