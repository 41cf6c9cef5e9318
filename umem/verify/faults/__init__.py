"""Ranks of whole worlds are killed while they use the heap, cached memory or each other's agents; the others go on."""
