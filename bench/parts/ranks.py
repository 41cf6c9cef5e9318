"""A world of ranks that obeys the driver: `python -m umem.bench.parts.ranks SOCKET SPEC [MODULE...]`.

The modules are imported, once, before the ranks are forked.
"""

from __future__ import annotations

import json
import pkgutil
import sys
from typing import TYPE_CHECKING

from umem.world import WorldSpec, launch

from .. import parts
from ..harness.wire import serve

if TYPE_CHECKING:
    from umem.space.space import Space


def obey(space: Space, path: str) -> None:
    """Serve, in every rank, the driver at `path`."""
    serve(path, space.rank, space)


def part_modules() -> list[str]:
    """Modules to import, and kernels to load, once, before the ranks are forked."""
    return [f"{parts.__name__}.{module.name}" for module in pkgutil.iter_modules(parts.__path__)]


def main() -> None:
    """Start the ranks and wait for their end."""
    path, text, *more = sys.argv[1:]
    launch(obey, args=(path,), spec=WorldSpec.of(**json.loads(text)), preload=[*part_modules(), *more])


if __name__ == "__main__":
    main()
