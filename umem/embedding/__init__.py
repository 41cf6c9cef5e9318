"""Embedding tables on the global space: rows spread over the members of a team, looked up where they lie.

layout (which row lies where), bags (ids as programs give them, checked), table (EmbeddingTable: memory, look-ups, rows
written), quantised (rows of bytes), training (gradients to their homes, optimizer steps), checkpoint, planning. torch's
modules: umem.torch.Embedding, umem.torch.EmbeddingBag. Floor 6.
"""

from .checkpoint import load, save
from .table import EmbeddingTable
from .training import step

__all__ = ["EmbeddingTable", "load", "save", "step"]
