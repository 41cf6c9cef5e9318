"""The ranks' output: whole lines, each marked with the rank that wrote it."""

from __future__ import annotations

import os

# A line longer than this is passed on in pieces: a rank that never ends its line must not fill memory.
_MAX_LINE_BYTES = 1 << 16


class LinePrefixer:
    """Bytes as they arrive, cut into lines that start with `prefix`. A carriage return ends a line too,
    so that progress bars move."""

    def __init__(self, prefix: bytes):
        self._prefix = prefix
        self._partial = b""

    def feed(self, data: bytes) -> bytes:
        """Add `data`; returns the lines that are complete now."""
        lines = (self._partial + data).splitlines(keepends=True)
        self._partial = lines.pop() if lines and _is_partial(lines[-1]) else b""
        return b"".join(self._prefix + line for line in lines)

    def finish(self) -> bytes:
        """The last line where it was not ended, ended now."""
        partial, self._partial = self._partial, b""
        return self._prefix + partial + b"\n" if partial else b""


def _is_partial(line: bytes) -> bool:
    return not line.endswith((b"\n", b"\r")) and len(line) <= _MAX_LINE_BYTES


def write_all(fd: int, data: bytes) -> None:
    """Write every byte of `data` to `fd`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
