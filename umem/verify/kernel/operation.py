"""One step of a lane as plain data: a shared access, a fence, a futex call, or the lane's end."""

from __future__ import annotations

from typing import Any, NamedTuple

LOAD, STORE, RMW, FENCE = "load", "store", "rmw", "fence"
WAIT, WAKE = "futex_wait", "futex_wake"
RETURNED, FAILED = "returned", "failed"


class Operation(NamedTuple):
    """One step of a lane. `name` of an RMW is fetch_add, exchange, ...; `operands` are its values.

    The one operand of RETURNED is the lane's result, that of FAILED the text of its error.
    """

    kind: str
    address: int = 0
    element: Any = None
    ordering: str = ""
    name: str = ""
    operands: tuple[Any, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether it may change a word."""
        return self.kind in (STORE, RMW)

    @property
    def is_over(self) -> bool:
        """Whether the lane has no further step."""
        return self.kind in (RETURNED, FAILED)

    @property
    def acquires(self) -> bool:
        """Whether later accesses stay behind it."""
        return self.ordering in ("acquire", "acq_rel", "seq_cst")

    @property
    def releases(self) -> bool:
        """Whether earlier accesses stay before it."""
        return self.ordering in ("release", "acq_rel", "seq_cst")

    def text(self, names: dict[int, str]) -> str:
        """The operation in words, addresses by name."""
        where = names.get(self.address, f"{self.address:#x}")
        values = ", ".join(map(str, self.operands))
        match self.kind:
            case "load":
                return f"load {self.ordering} {where}"
            case "store":
                return f"store {self.ordering} {where} = {values}"
            case "rmw":
                return f"{self.name} {self.ordering} {where} ({values})"
            case "fence":
                return f"fence {self.ordering}"
            case "futex_wait" | "futex_wake":
                return f"{self.kind} {where} ({values})"
        return f"{self.kind} {values}"
