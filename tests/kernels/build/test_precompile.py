"""What is compiled ahead is in the cache, on one core as on many."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from umem.kernels import cpu_kernel
from umem.kernels.build import code_cache
from umem.kernels.build.precompile import precompile

@cpu_kernel("int64(int64)")
def twice(number):
    return 2 * number

assert not code_cache.is_ready(twice.folder)
assert precompile("__main__", min_missing=1) == 1
assert code_cache.is_ready(twice.folder)
"""


def test_one_core_compiles_ahead_too_and_says_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "UMEM_CACHE": str(tmp_path)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "compiling 1 kernels" in done.stderr
