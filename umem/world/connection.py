"""A stream to a rank as a loop that never waits holds it: frames in, bytes out."""

from __future__ import annotations

import socket

from .frames import Frame, FrameBuffer

_READ_BYTES = 1 << 16
# Reads at a time: more than any socket buffer holds, and few enough that one rank cannot keep the loop from the others.
_MAX_READS = 16


class Connection:
    """Our end of a stream to a rank. `is_connected` is False once the rank has closed its end."""

    def __init__(self, stream: socket.socket):
        self.stream = stream
        self.is_connected = True
        self.unsent = bytearray()
        self._frames = FrameBuffer()

    def receive(self) -> list[Frame]:
        """The frames that have come. `is_connected` is False after the last."""
        frames: list[Frame] = []
        for _ in range(_MAX_READS):
            try:
                data = self.stream.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                self.is_connected = False
                break
            frames += self._frames.feed(data)
        return frames

    def flush(self) -> None:
        """Send as much of `unsent` as the rank takes now."""
        try:
            while self.unsent:
                del self.unsent[: self.stream.send(self.unsent)]
        except BlockingIOError:
            pass
        except ConnectionError:
            self.unsent.clear()  # it is ending; its pidfd tells
