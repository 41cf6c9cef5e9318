"""The `umem` command. `umem run` takes a short way, so that a world starts fast."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    if sys.argv[1:2] == ["run"]:
        from .world.command import run_command
        from .world.leave import leave

        leave(run_command(sys.argv[2:]))
    from .cli import app

    sys.exit(app.main())


if __name__ == "__main__":
    main()
