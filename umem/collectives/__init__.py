"""Collective operations of teams of ranks."""

from .team import Team

__all__ = ["Team"]
