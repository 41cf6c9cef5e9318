"""Arrays that ranks know by name: made by all together, or published by one and found by others."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..arguments import home_of, whole
from ..errors import ConfigError, UmemError
from ..memory.waiting import Lock, one_at_a_time
from ..world import World
from ..world.agreement import agree
from .array import Array
from .current import Holder
from .dtypes import elements

if TYPE_CHECKING:
    from ..heap import Heap
    from ..lines.cache import LineCache

DEFAULT_LINE_BYTES = 128  # of cached memory: the directory takes a sixteenth of it
ZERO_STEP_BYTES = 1 << 20


class Named:
    """The part of a space that gives arrays names."""

    rank: int
    timeout_s: float
    world: World
    heap: Heap
    _collective: Lock

    if TYPE_CHECKING:

        @property
        def cache(self) -> LineCache:
            """This rank's coherent copies of cached memory."""

        def alloc(self, num_bytes: int, home: int | str = "local") -> int:
            """Address of new memory."""

        def put(self, address: int, src: np.ndarray) -> None:
            """Copy an array to an address."""

    def shared(
        self,
        name: str,
        shape: int | Sequence[int],
        dtype: Any,
        home: int | str = 0,
        cache: str = "none",
        line: int = DEFAULT_LINE_BYTES,
    ) -> Array:
        """One array for all ranks, zeroed. Collective: every rank, in the same order, with the same arguments.

        An error at one rank is raised at all, and names the rank: OutOfMemory, RankLost for a dead home, ConfigError
        for arguments that are wrong or differ. Then no array was made, and the name is as it was.
        """

        def asked() -> str:
            dims, kind = elements(shape, dtype)
            fields = {"name": name, "shape": dims, "dtype": repr(kind)}
            return json.dumps({**fields, "home": home_of(home), "cache": cache, "line": whole(line, "line")})

        title = f"shared array {name!r}"
        with one_at_a_time(self._collective, self.timeout_s, title):
            wishes = agree(self.world, "shared array", asked)
            for rank, wish in enumerate(wishes):
                if wish != wishes[0]:
                    raise ConfigError(f"{title}: rank 0 asks for {wishes[0]}, rank {rank} for {wish}")
            dims, kind = elements(shape, dtype)

            def made() -> int:
                if self.rank != 0:
                    return 0
                address = self._make_zeroed(max(math.prod(dims) * kind.itemsize, 1), home, cache, line)
                self._announce(name, self._array(address, dims, kind))
                return address

            return self._array(agree(self.world, title, made)[0], dims, kind)

    def publish(self, name: str, array: Array) -> None:
        """Let every rank `find` this array by name. Raises ConfigError where `array` is not an Array."""
        if not isinstance(array, Array):
            raise ConfigError(
                f"publish({name!r}): a {type(array).__name__} is no array of the space; see empty"
            )
        self._announce(name, array)

    def find(self, name: str, timeout_s: float | None = None) -> Array:
        """The array of this name, once a rank has published it. Raises WaitTimeout."""
        found = self.world.get(f"array/{name}", self.timeout_s if timeout_s is None else timeout_s)
        return self._array(*pickle.loads(found))

    def _array(self, address: int, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        return Array(cast(Holder, self), address, shape, dtype)

    def _announce(self, name: str, array: Array) -> None:
        # Pickled, since no text of NumPy's has all of a dtype: fields, titles, offsets, units, bfloat16.
        self.world.set(f"array/{name}", pickle.dumps((array.address, array.shape, array.dtype)))

    def _make_zeroed(self, num_bytes: int, home: int | str, cache: str, line: int) -> int:
        """Address of zeroed memory that all ranks own, so that it outlives the rank that allocated it."""
        if cache != "none":
            # Zeroed before it has copies: line by line would take a message each where the home is not mapped.
            return self.cache.alloc(
                num_bytes, home, cache, line, lambda address: self._zero(address, num_bytes)
            )
        address = self.alloc(num_bytes, home)
        try:
            self._zero(address, num_bytes)
            self.heap.give(address)
        except BaseException:
            with suppress(UmemError):  # a home that died took it along
                self.heap.free(address)
            raise
        return address

    def _zero(self, address: int, num_bytes: int) -> None:
        step = np.zeros(min(num_bytes, ZERO_STEP_BYTES), np.uint8)
        for offset in range(0, num_bytes, ZERO_STEP_BYTES):
            self.put(address + offset, step[: num_bytes - offset])
