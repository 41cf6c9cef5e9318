"""The protocol of software coherence: one table, that kernels, agents, checkers and documents interpret."""
