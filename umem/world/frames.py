"""Messages over a stream: what a rank and the hub, or a caller and its launcher, say to each other.

A frame is a header {payload bytes: u64, kind: u8, request: u32}, little endian, and its payload. `request`
pairs a reply with what it answers; replies to requests that nobody waits for any more are dropped by
their number, so a wait can be given up at any time. A `stay` counts how often ranks have joined: a rank that
left may join again.
"""

from __future__ import annotations

import enum
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import UmemError, WaitTimeout, WorldError
from .waiting import SLICE_S, Deadline, until

_HEADER = struct.Struct("<QBI")
_LENGTH = struct.Struct("<Q")
_RECEIVE_BYTES = 1 << 18


class Kind(enum.IntEnum):
    """The kinds of frames, grouped by sender."""

    # rank -> hub
    SET = 1  # key, blob: store; no reply
    GET = 2  # key, stay, source: VALUE as soon as it is set, or LOST once its source, empty for any, is gone
    GATHER = 3  # key, blob, stay: BLOBS as soon as every rank has sent one, or LOST
    CANCEL = 4  # key, the request given up: MISSING
    RESULT = 5  # what the rank's function returned
    FAILED = 6  # the rank's exception
    ENTER = 7  # its rank, and the number of ranks, in a world of mpirun or srun: VALUE, empty or why it is refused
    LEAVE = 8  # stay, error: it leaves its world, by this error where there is one; no reply
    # hub -> rank
    VALUE = 16
    BLOBS = 17
    LOST = 18  # rank, detail
    MISSING = 19  # the ranks that have not sent theirs
    LEFT = 20  # stay, rank, error: unasked, to all others, of a rank that an error made leave
    # caller -> launcher
    JOB = 32
    SIGNAL = 33
    # launcher -> caller
    REPORT = 48


class Frame(NamedTuple):
    """One message."""

    kind: Kind
    request: int
    payload: bytes


def encode(kind: Kind, request: int, payload: bytes) -> bytes:
    """The bytes of a frame."""
    return _HEADER.pack(len(payload), kind, request) + payload


def pack_blobs(*blobs: bytes) -> bytes:
    """Several byte strings as one."""
    return b"".join(_LENGTH.pack(len(blob)) + blob for blob in blobs)


def unpack_blobs(payload: bytes) -> list[bytes]:
    """The inverse of `pack_blobs`."""
    blobs, at = [], 0
    while at < len(payload):
        (num_bytes,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        blobs.append(payload[at : at + num_bytes])
        at += num_bytes
    return blobs


class FrameBuffer:
    """Bytes as they arrive, cut into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add `data`; yields each frame that is complete now."""
        self._bytes += data
        while len(self._bytes) >= _HEADER.size:
            num_bytes, kind, request = _HEADER.unpack_from(self._bytes)
            end = _HEADER.size + num_bytes
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[_HEADER.size : end])
            del self._bytes[:end]
            yield Frame(Kind(kind), request, payload)


def _launcher_has_ended() -> UmemError:
    return WorldError("the launcher of this world has ended")


class Channel:
    """A rank's end of the stream to its hub: requests out, replies in, each wait with a deadline.

    Any thread may use it; the thread that reads takes in the replies of all. An exception out of a wait (a signal
    handler's) leaves the stream usable: a frame that is half sent is sent first the next time. `ended` makes the
    error that says that the hub is gone.
    """

    def __init__(self, fd: int, ended: Callable[[], UmemError] | None = None):
        self._ended = ended or _launcher_has_ended
        self._stream = socket.socket(fileno=fd)
        self._stream.setblocking(False)
        self._buffer = FrameBuffer()
        self._unsent = bytearray()
        self._replies: dict[int, Frame | None] = {}  # None: awaited, not here yet
        self._last_request = 0
        self._lock = threading.RLock()  # of all of this, and never held while a reply is awaited
        self.departed: dict[bytes, dict[int, str]] = {}  # by stay: ranks that errors made leave, and by which

    def request(self, kind: Kind, payload: bytes, timeout_s: float) -> int:
        """Send a frame that is answered; returns the number to `receive` or `forget` the reply by."""
        with self._lock:
            self.send(kind, payload, timeout_s)
            request = self._last_request
            self._replies[request] = None
        return request

    def send(self, kind: Kind, payload: bytes, timeout_s: float) -> None:
        """Send a frame. Raises WaitTimeout where the hub does not read, and the error of `ended` where it is gone."""
        deadline = Deadline(timeout_s)

        def look() -> bool | None:
            try:
                while self._unsent:
                    del self._unsent[: self._stream.send(self._unsent)]
            except BlockingIOError:
                self._wait_for(select.POLLOUT, deadline)
            except ConnectionError:
                raise self._ended() from None
            return None if self._unsent else True

        with self._lock:
            self._last_request = (self._last_request + 1) & 0xFFFF_FFFF
            self._unsent += encode(kind, self._last_request, payload)
            if until(look, deadline) is None:
                raise WaitTimeout(f"the launcher read no message for {timeout_s:g} s")

    def receive(self, request: int, timeout_s: float) -> Frame | None:
        """The reply to `request`, or None where it has not come after `timeout_s`."""
        deadline = Deadline(timeout_s)

        def look() -> Frame | None:
            with self._lock:
                if self._replies[request] is None:
                    self._read()
                if (frame := self._replies[request]) is not None:
                    del self._replies[request]
                    return frame
            self._wait_for(select.POLLIN, deadline)  # a slice at a time: another thread may read the reply
            return None

        return until(look, deadline)

    def forget(self, request: int) -> None:
        """Give up waiting for a reply: it is dropped, whether it has come or not."""
        self._replies.pop(request, None)

    def read_news(self) -> None:
        """Read frames that the hub sent unasked, which change `departed`."""
        with self._lock:
            self._read()

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def _read(self) -> None:
        try:
            data = self._stream.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            raise self._ended()
        for frame in self._buffer.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.LEFT:
            stay, rank, error = unpack_blobs(frame.payload)
            self.departed.setdefault(stay, {})[int(rank)] = error.decode()
        elif frame.request in self._replies:
            self._replies[frame.request] = frame

    def _wait_for(self, event: int, deadline: Deadline) -> None:
        poll = select.poll()
        poll.register(self._stream, event)
        poll.poll(deadline.left_s(at_most_s=SLICE_S) * 1000)
