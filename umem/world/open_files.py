"""The limit of open files: raised as far as this process may, or named before it is met.

Without this check the limit is met in mid-work: as a descriptor that was cut off, or an input/output error of UCX.
"""

from __future__ import annotations

import os
import resource

from ..errors import WorldError


def require(num_more: int, user: str) -> None:
    """Raise the soft limit so that this process may open `num_more` files more; `user` names it in the error.

    Raises WorldError, with the number that is needed and the line that sets it, where the hard limit is lower.
    """
    needed = len(os.listdir("/proc/self/fd")) + num_more
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise WorldError(
            f"{user} needs {needed} open files, and the limit is {hard}: ulimit -n {needed}"
            f" (docker run --ulimit nofile={needed})"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
