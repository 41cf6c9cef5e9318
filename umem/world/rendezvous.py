"""How the ranks of a world meet before they share memory: named blobs and all-gathers."""

from __future__ import annotations

import time
from typing import Protocol

from ..errors import RankLost, WaitTimeout
from .frames import Channel, Kind, pack_blobs, unpack_blobs

_ANSWER_TIMEOUT_S = 5.0  # the hub answers a cancellation at once; this bounds a launcher that is stopped


class Rendezvous(Protocol):
    """Where ranks meet. Keys are unique in a world's life; every wait has a deadline."""

    def set(self, key: str, blob: bytes, timeout_s: float) -> None:
        """Store `blob` under `key` for every rank."""

    def get(self, key: str, timeout_s: float) -> bytes:
        """The blob under `key`, as soon as some rank has set it. Raises WaitTimeout."""

    def gather(self, key: str, blob: bytes, timeout_s: float) -> list[bytes]:
        """Every rank's blob, by rank. Collective. Raises RankLost or WaitTimeout."""

    def close(self) -> None:
        """Leave: no call after this."""


class Alone:
    """The rendezvous of a world of one."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def set(self, key: str, blob: bytes, timeout_s: float) -> None:
        """Store `blob` under `key`."""
        self._values[key] = blob

    def get(self, key: str, timeout_s: float) -> bytes:
        """The blob under `key`. Nobody else could set it later, so a missing key is a WaitTimeout at once."""
        try:
            return self._values[key]
        except KeyError:
            raise WaitTimeout(f"nothing is set under {key!r}, and this world has no other rank") from None

    def gather(self, key: str, blob: bytes, timeout_s: float) -> list[bytes]:
        """`blob` itself."""
        return [blob]

    def close(self) -> None:
        """Nothing to leave."""


class HubClient:
    """The rendezvous of launched ranks: the hub in the launcher, over a socketpair inherited by fork."""

    def __init__(self, channel: Channel):
        self._channel = channel

    def set(self, key: str, blob: bytes, timeout_s: float) -> None:
        """Store `blob` under `key`; a later value replaces an earlier one."""
        self._channel.send(Kind.SET, pack_blobs(key.encode(), blob), timeout_s)

    def get(self, key: str, timeout_s: float) -> bytes:
        """The blob under `key`, as soon as some rank has set it. Raises WaitTimeout."""
        request = self._channel.request(Kind.GET, pack_blobs(key.encode()), timeout_s)
        frame = self._channel.receive(request, timeout_s)
        if frame is None:
            self._cancel(request, key)
            raise WaitTimeout(f"nobody set {key!r} for {timeout_s:g} s")
        return frame.payload

    def gather(self, key: str, blob: bytes, timeout_s: float) -> list[bytes]:
        """Every rank's blob, by rank. Collective. Raises RankLost or WaitTimeout."""
        started = time.monotonic()
        request = self._channel.request(Kind.GATHER, pack_blobs(key.encode(), blob), timeout_s)
        frame = self._channel.receive(request, timeout_s - (time.monotonic() - started))
        if frame is None:
            missing = self._cancel(request, key)
            who = f"rank {', '.join(missing)}" if missing else "the launcher's answer"
            raise WaitTimeout(f"exchange {key!r} waited {timeout_s:g} s for {who}")
        if frame.kind is Kind.LOST:
            rank, detail = unpack_blobs(frame.payload)
            raise RankLost(int(rank), f"it {detail.decode()} before exchange {key!r}")
        return unpack_blobs(frame.payload)

    def close(self) -> None:
        """Nothing: the channel belongs to the process, which may join again, and dies with it."""

    def _cancel(self, request: int, key: str) -> list[str]:
        """Withdraw a request; returns the ranks it still missed."""
        self._channel.forget(request)
        asked = self._channel.request(Kind.CANCEL, pack_blobs(key.encode()), _ANSWER_TIMEOUT_S)
        frame = self._channel.receive(asked, _ANSWER_TIMEOUT_S)
        if frame is None:
            self._channel.forget(asked)
            return []
        return frame.payload.decode().split(",") if frame.payload else []
