"""The control page of a rank: its layout, and the signals, barrier and gate that are built on it."""
