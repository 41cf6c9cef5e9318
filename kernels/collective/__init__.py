"""Collective operations of a team of ranks over memory that all of them map."""
