"""Coherent copies of lines: the directory at the home, a rank's cache, the transactions between them."""
