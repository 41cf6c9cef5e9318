"""Files of users: programs and protocols that are run, and results that are written."""

from __future__ import annotations

import os
import runpy
import tempfile
import traceback
from pathlib import Path
from typing import Any

from ..errors import ConfigError


def run_file(file: Path) -> dict[str, Any]:
    """Run a Python file; returns the names that it assigns. Raises ConfigError with its line where it raises."""
    try:
        return runpy.run_path(str(file))
    except Exception as error:  # any error of a user's file is reported to the user
        own = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
        ]
        line = own[-1] if own else None
        if isinstance(error, SyntaxError) and error.filename == str(file):
            line = error.lineno
        at = f", line {line}" if line else ""
        raise ConfigError(f"{file}{at}: {type(error).__name__}: {error}") from error


TRIAL_BYTES = 64 << 10  # about as large as a result


def require_writable(*files: Path | None) -> None:
    """Raise ConfigError for the first of `files` that cannot be written, before minutes of work are spent on it.

    Reasons are a folder that is missing or not writable, and a full disk. The files are not made or changed; None is
    no file.
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
                probe.write(bytes(TRIAL_BYTES))
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}; name a file elsewhere") from None
