"""Rows of tables that are spread over homes: where they lie, pooled look-ups, optimizer steps."""
