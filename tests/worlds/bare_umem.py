"""`umem run` without what ranks need for a space: for scripts of the bare world, a second sooner.

Everything else is the real command, in a process of its own.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from umem.__main__ import main
from umem.world import warm_parent

sys.modules[warm_parent.STARTUP] = SimpleNamespace(prepare=lambda: None)  # type: ignore[assignment]
main()
