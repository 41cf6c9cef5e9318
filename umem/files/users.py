"""Files of users: programs to check and protocols to load, which they hand over, and results, which they want."""

from __future__ import annotations

import os
import runpy
import tempfile
import traceback
from pathlib import Path
from typing import Any

from ..errors import ConfigError


def run_file(file: Path) -> dict[str, Any]:
    """What the file assigns. Raises ConfigError with the file's line where it raises anything itself."""
    try:
        return runpy.run_path(str(file))
    except Exception as error:  # whatever a user's file raises is the user's to know
        own = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
        ]
        line = own[-1] if own else None
        if isinstance(error, SyntaxError) and error.filename == str(file):
            line = error.lineno
        at = f", line {line}" if line else ""
        raise ConfigError(f"{file}{at}: {type(error).__name__}: {error}") from error


PROBE_BYTES = 64 << 10  # about as large as a result


def require_writable(*files: Path | None) -> None:
    """Raise ConfigError for one of `files` that cannot be written: now, not after the minutes whose result it is.

    A folder that is missing or not writable, a full disk. Nothing is left there; None is no file.
    """
    for file in files:
        if file is None:
            continue
        if not file.parent.is_dir():
            raise ConfigError(f"{file}: there is no folder {file.parent}")
        try:
            if file.exists():
                os.close(os.open(file, os.O_WRONLY))
            with tempfile.TemporaryFile(dir=file.parent) as probe:
                probe.write(bytes(PROBE_BYTES))
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}; name a file elsewhere") from None
