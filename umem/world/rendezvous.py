"""How the ranks of a world meet before they share memory: named blobs and all-gathers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from ..errors import RankLost, UmemError, WaitTimeout
from .frames import Channel, Kind, pack_blobs, unpack_blobs

_ANSWER_TIMEOUT_S = 5.0  # the hub answers a cancellation at once; this bounds a launcher that is stopped


class Rendezvous(Protocol):
    """Where ranks meet. Keys are unique in a world's life; every wait has a deadline."""

    def set(self, key: str, blob: bytes, timeout_s: float) -> None:
        """Store `blob` under `key` for every rank."""

    def get(self, key: str, timeout_s: float, source: int | None = None) -> bytes:
        """The blob under `key`, as soon as `source`, else some rank, has set it.

        Raises WaitTimeout, and RankLost where every rank that could set it is known to be gone.
        """

    def gather(self, key: str, blob: bytes, timeout_s: float) -> list[bytes]:
        """Every rank's blob, by rank. Collective. Raises RankLost or WaitTimeout."""

    def departed(self) -> Mapping[int, str]:
        """Ranks that errors made leave, and by which, as far as has been heard; never waits."""

    def close(self, error: str = "") -> None:
        """Leave, by an `error` where there is one: no call after this."""


class Alone:
    """The rendezvous of a world of one."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def set(self, key: str, blob: bytes, timeout_s: float) -> None:
        """Store `blob` under `key`."""
        self._values[key] = blob

    def get(self, key: str, timeout_s: float, source: int | None = None) -> bytes:
        """The blob under `key`. No other rank can set it later, so a missing key is a WaitTimeout at once."""
        try:
            return self._values[key]
        except KeyError:
            raise WaitTimeout(f"nothing is set under {key!r}, and this world has no other rank") from None

    def gather(self, key: str, blob: bytes, timeout_s: float) -> list[bytes]:
        """`blob` itself."""
        return [blob]

    def departed(self) -> Mapping[int, str]:
        """Empty: there is no other rank."""
        return {}

    def close(self, error: str = "") -> None:
        """Nothing to leave."""


class HubClient:
    """The rendezvous of launched ranks: the hub in the launcher, over a socketpair inherited by fork."""

    def __init__(self, channel: Channel, stay: int = 0):
        self._channel, self._stay = channel, str(stay).encode()

    def set(self, key: str, blob: bytes, timeout_s: float) -> None:
        """Store `blob` under `key`; a later value replaces an earlier one."""
        self._channel.send(Kind.SET, pack_blobs(key.encode(), blob), timeout_s)

    def get(self, key: str, timeout_s: float, source: int | None = None) -> bytes:
        """The blob under `key`, as soon as `source`, else some rank, has set it. Raises WaitTimeout, RankLost."""
        needs = b"" if source is None else str(source).encode()
        request = self._channel.request(Kind.GET, pack_blobs(key.encode(), self._stay, needs), timeout_s)
        frame = self._channel.receive(request, timeout_s)
        if frame is None:
            self._cancel(request, key)
            raise WaitTimeout(f"nobody set {key!r} for {timeout_s:g} s")
        if frame.kind is Kind.LOST:
            rank, detail = unpack_blobs(frame.payload)
            raise RankLost(int(rank), f"it {detail.decode()}, and nobody set {key!r}")
        return frame.payload

    def gather(self, key: str, blob: bytes, timeout_s: float) -> list[bytes]:
        """Every rank's blob, by rank. Collective. Raises RankLost or WaitTimeout."""
        started = time.monotonic()
        request = self._channel.request(Kind.GATHER, pack_blobs(key.encode(), blob, self._stay), timeout_s)
        frame = self._channel.receive(request, timeout_s - (time.monotonic() - started))
        if frame is None:
            missing = self._cancel(request, key)
            who = f"rank {', '.join(missing)}" if missing else "the launcher's answer"
            raise WaitTimeout(f"exchange {key!r} waited {timeout_s:g} s for {who}")
        if frame.kind is Kind.LOST:
            rank, detail = unpack_blobs(frame.payload)
            raise RankLost(int(rank), f"it {detail.decode()} before exchange {key!r}")
        return unpack_blobs(frame.payload)

    def departed(self) -> Mapping[int, str]:
        """Ranks that errors made leave, and by which, as far as has been heard; never waits."""
        with suppress(UmemError):  # the hub may end before a rank: what needs it says so
            self._channel.read_news()
        return self._channel.departed.get(self._stay, {})

    def close(self, error: str = "") -> None:
        """Tell the hub; the channel belongs to the process, which may join again, and dies with it."""
        with suppress(UmemError):
            self._channel.send(Kind.LEAVE, pack_blobs(self._stay, error.encode()), _ANSWER_TIMEOUT_S)

    def _cancel(self, request: int, key: str) -> list[str]:
        """Withdraw a request; returns the ranks it still missed."""
        self._channel.forget(request)
        asked = self._channel.request(Kind.CANCEL, pack_blobs(key.encode()), _ANSWER_TIMEOUT_S)
        frame = self._channel.receive(asked, _ANSWER_TIMEOUT_S)
        if frame is None:
            self._channel.forget(asked)
            return []
        return frame.payload.decode().split(",") if frame.payload else []
