"""Embedding tables on the global space: rows spread over the members of a team, looked up where they lie.

layout (which row lies where), table (EmbeddingTable: memory, look-ups, rows written), pooling (bags and what is done
with them in each semantics), training (gradients to their homes, optimizer steps), checkpoint. torch's modules:
umem.torch.Embedding, umem.torch.EmbeddingBag. Floor 6.
"""

from .checkpoint import load, save
from .table import EmbeddingTable
from .training import step

__all__ = ["EmbeddingTable", "load", "save", "step"]
