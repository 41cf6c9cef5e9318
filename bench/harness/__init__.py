"""How a case is measured: sides, workers, timing, statistics, rows, this machine's limits."""
