"""Verification. `kernel`: model checking of kernels as they are, also for kernels of one's own."""

from .kernel import KILLED, Program, Result, Verdict, explore, replay, walk

__all__ = ["KILLED", "Program", "Result", "Verdict", "explore", "replay", "walk"]
