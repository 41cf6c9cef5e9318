"""A world of ranks that obeys the driver: `python -m umem.bench.ranks SOCKET SPEC`."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys

import umem
from umem.space import Space

from . import parts
from .wire import serve

for _module in pkgutil.iter_modules(parts.__path__):  # their kernels load once, before the ranks are forked
    importlib.import_module(f"{parts.__name__}.{_module.name}")


def obey(space: Space, path: str) -> None:
    """What every rank does: serve the driver at `path`."""
    serve(path, space.rank, space)


def main() -> None:
    """Start the ranks and wait for their end."""
    path, spec = sys.argv[1:]
    umem.launch(obey, args=(path,), **json.loads(spec))


if __name__ == "__main__":
    main()
