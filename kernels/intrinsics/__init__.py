"""Typed memory accesses, vectors and system operations: one Python function each, with a lowering per target."""
