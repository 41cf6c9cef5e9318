"""What `umem info` tells, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A fact: its name, its value, and the line that fixes it where something is missing (else empty)."""

    name: str
    value: str
    fix: str = ""


@dataclass(frozen=True)
class Group:
    """Facts under one title."""

    title: str
    facts: tuple[Fact, ...]
