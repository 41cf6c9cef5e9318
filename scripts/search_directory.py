"""Writes the table of searches in docs/model-checking.md: states and seconds of this run, on the kernels as they are.

python scripts/search_directory.py     under three minutes; one core
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.verify.coherence import Small, search
from umem.verify import Result

NARROW = {"version_bits": 1}
ROWS = (
    ("2 ranks, 2 lines, 3 operations each", "1:laA 2:Aal", "weak", 0, {"num_lines": 2, **NARROW}),
    ("the same with 3 and 2 operations, and a kill", "1:aAl 2:al", "weak", 1, {"num_lines": 2, **NARROW}),
    ("3 ranks, one reads", "1:a 2:l 3:a", "sequential", 0, {"num_ranks": 4, **NARROW}),
    ("the same, versions of 2 bits", "1:a 2:l 3:a", "sequential", 0, {"num_ranks": 4, "version_bits": 2}),
    ("3 ranks", "1:a 2:a 3:a", "sequential", 0, {"num_ranks": 4, **NARROW}),
    ("2 lanes of one rank, 1 of another", "1:l 1:a 2:a", "sequential", 0, NARROW),
    ("3 ranks, one reads", "1:a 2:l 3:a", "weak", 0, {"num_ranks": 4, **NARROW}),
    ("2 lanes of one rank, 1 of another", "1:l 1:a 2:a", "weak", 0, NARROW),
)
LIMIT_S = 60.0


def main() -> None:
    """Print the table."""
    print("| lanes | memory | states | CPU s | result |")
    print("| --- | --- | ---: | ---: | --- |")
    for what, lanes, model, kills, fields in ROWS:
        begin_s = time.process_time()
        verdict = search(Small(**fields), lanes, model, kills, limit_s=LIMIT_S)
        spent_s = time.process_time() - begin_s
        result = verdict.bug or ("limit; nothing found" if verdict.result is Result.LIMIT else "exhausted")
        row = f"| {what}: `{lanes}` | {model} | {verdict.num_states:,} | {spent_s:.1f} | {result} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
