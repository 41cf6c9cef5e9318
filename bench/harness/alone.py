"""One process without a space that obeys the driver: `python -m umem.bench.harness.alone SOCKET`."""

from __future__ import annotations

import sys

from .wire import serve

if __name__ == "__main__":
    serve(sys.argv[1], 0, None)
