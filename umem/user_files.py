"""Python files that users hand over: programs to check, protocols to load."""

from __future__ import annotations

import runpy
import traceback
from pathlib import Path
from typing import Any

from .errors import ConfigError


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
