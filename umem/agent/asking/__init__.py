"""Asking the agents of other ranks."""
