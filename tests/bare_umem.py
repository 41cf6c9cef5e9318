"""`umem run` without what ranks need for a space: for scripts of the bare world, a second sooner.

Everything else is the real command, in a process of its own. Leading arguments NAME=SECONDS replace times
of the supervisor's.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from umem.__main__ import main
from umem.world import supervisor, warm_parent

while "=" in sys.argv[1]:
    name, seconds = sys.argv.pop(1).split("=")
    assert hasattr(supervisor, name), name
    setattr(supervisor, name, float(seconds))
sys.modules[warm_parent.AHEAD] = SimpleNamespace(prepare=lambda *_: None)  # type: ignore[assignment]
main()
