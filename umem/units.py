"""Sizes and times as people write them."""

from __future__ import annotations

import re

from .arguments import whole
from .errors import ConfigError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_FACTORS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes in `text`: an integer, or a number with K, M, G or T (powers of 1024).

    Raises ConfigError for anything else, and for a size that is not a whole number of bytes.
    """
    if not isinstance(text, str):
        return whole(text, "size", 0)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"size {text!r} is not a number with K, M, G or T; for example 64M")
    num_bytes = float(match[1]) * _FACTORS[match[2].lower()]
    if num_bytes != int(num_bytes):
        raise ConfigError(f"size {text!r} is not a whole number of bytes")
    return int(num_bytes)


def format_size(num_bytes: int) -> str:
    """`num_bytes` with the largest unit that keeps it short, read back by `parse_size` when exact."""
    for suffix, factor in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if num_bytes >= factor:
            value = num_bytes / factor
            return f"{value:.0f}{suffix}" if value == int(value) else f"{value:.1f}{suffix}"
    return f"{num_bytes}"


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of `alignment` (a power of two) that is not below `value`."""
    return (value + alignment - 1) & -alignment


def power_of_two_at_least(value: int) -> int:
    """The smallest power of two that is not below `value` (1 for values below 1)."""
    return 1 if value <= 1 else 1 << (value - 1).bit_length()
