"""Litmus tests in a text form, under the model checker and on the real memory of a world."""

from .litmus import Condition, Litmus, Place, Step, Term
from .text import parse, read

__all__ = ["Condition", "Litmus", "Place", "Step", "Term", "parse", "read"]
