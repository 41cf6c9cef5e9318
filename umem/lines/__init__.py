"""Coherent copies of lines: the host's side of directories and caches, and the agents' part."""
