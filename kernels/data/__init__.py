"""Loops that move and combine bytes, with their NumPy twins."""
