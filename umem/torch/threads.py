"""The part of the pool that belongs to one Python thread: its policy in force and its magazines.

It is made when a thread first enters the pool, and never freed. When the thread ends, compiled code returns its
stock to the heap and the next new thread gets its part, so that memory is bounded by the threads at one time.
"""

from __future__ import annotations

import ctypes
import secrets
import threading
from functools import partial

from ..errors import AllocatorRefused
from ..heap import Heap
from ..heap.sites import NO_ATTRIBUTE, Site
from ..kernels import cpu_kernel
from ..kernels.heap import entries as kernel
from ..kernels.heap.layout import MAGAZINE_BYTES, MAGAZINE_ROWS
from ..kernels.intrinsics.scalar import load_i64
from ..kernels.intrinsics.system import thread_pointer
from ..kernels.page.control import MAX_RANKS
from . import callbacks
from .layout import (
    PAGE_GET_SPECIFIC,
    PAGE_KEY,
    PAGE_KEY_OFFSET,
    THREAD_IN_USE,
    THREAD_MAGAZINES,
    THREAD_PLACE,
    THREAD_POLICY,
)
from .memory import Words, keep_forever, lasting_words, words_at

OWN_WORDS = 192  # of a thread's own block that are searched; glibc's has 288
_NUM_WORDS = THREAD_MAGAZINES + 2 * MAX_RANKS + 1

_libc = ctypes.CDLL(None)
_libc.pthread_setspecific.argtypes = [ctypes.c_uint, ctypes.c_void_p]


class ThreadPart:
    """One thread's words, and the policies that it left by entering others."""

    __slots__ = ("address", "outer", "words")

    def __init__(self) -> None:
        self.address = lasting_words(_NUM_WORDS)
        self.words = words_at(self.address, _NUM_WORDS)
        self.outer: list[int] = []

    def enter(self, policy: int) -> None:
        """Put a policy in force."""
        self.outer.append(self.words[THREAD_POLICY])
        self.words[THREAD_POLICY] = policy

    def leave(self) -> None:
        """Restore the policy from before."""
        self.words[THREAD_POLICY] = self.outer.pop()


# Of the process, whatever spaces it opens: a thread keeps its part from one to the next.
_parts: list[ThreadPart] = []
_spare_magazines: list[int] = []
_local = threading.local()
_lock = threading.Lock()


class Threads:
    """The parts of this process's threads on one heap. `sites`: the sites it maps, by their number in the page."""

    def __init__(self, page: Words, heap: Heap, holder: int, sites: dict[int, Site]):
        self.heap, self.holder, self.sites = heap, holder, sites
        self._key = _thread_key(page)

    def current(self) -> ThreadPart:
        """The calling thread's part."""
        part: ThreadPart | None = getattr(_local, "part", None)
        return self._join() if part is None else part

    def open(self, part: ThreadPart, number: int) -> None:
        """Give the calling thread, whose part this is, a magazine on a site unless it has one."""
        if part.words[THREAD_MAGAZINES + number] == 0:
            with _lock:
                magazine = _spare_magazines.pop() if _spare_magazines else lasting_words(MAGAZINE_BYTES // 8)
            metadata = self.sites[number].metadata
            kernel.open_for_thread(magazine, metadata, self.holder, self.heap.rank, NO_ATTRIBUTE)
            part.words[THREAD_MAGAZINES + number] = magazine

    def trim(self) -> None:
        """Return the calling thread's stock to the heap."""
        part: ThreadPart | None = getattr(_local, "part", None)
        for number, site in self.sites.items():
            magazine = part.words[THREAD_MAGAZINES + number] if part is not None else 0
            if magazine:
                step = partial(kernel.flush, self.heap.control, magazine)
                site.check(site.finish(step, self.heap.timeout_s))

    def total(self, *words: int) -> int:
        """Sum of counters over all threads."""
        with _lock:
            return sum(part.words[word] for part in _parts for word in words)

    def others_are_alive(self) -> bool:
        """Whether a thread besides the calling one has a part."""
        mine = getattr(_local, "part", None)
        with _lock:
            return any(part.words[THREAD_IN_USE] for part in _parts if part is not mine)

    def close(self) -> None:
        """Forget all magazines and policies: the heap is about to go. No thread may be inside the pool."""
        with _lock:
            for part in _parts:
                part.words[THREAD_POLICY] = part.words[THREAD_PLACE] = 0
                for number in self.sites:
                    magazine = part.words[THREAD_MAGAZINES + number]
                    part.words[THREAD_MAGAZINES + number] = 0
                    if magazine:
                        _spare_magazines.append(magazine)

    def _join(self) -> ThreadPart:
        with _lock:
            part = next((part for part in _parts if not part.words[THREAD_IN_USE]), None)
            if part is None:
                part = ThreadPart()
                _parts.append(part)
            part.words[THREAD_IN_USE] = 1
        part.outer.clear()
        part.words[THREAD_POLICY] = part.words[THREAD_PLACE] = 0
        for number in self.sites:
            if part.words[THREAD_MAGAZINES + number]:
                kernel.adopt(part.words[THREAD_MAGAZINES + number])
        if _libc.pthread_setspecific(self._key, part.address) != 0:
            raise AllocatorRefused("pthread_setspecific failed: no memory for another thread")
        _local.part = part
        return part


def open_guest(site: Site, holder: int, rank: int) -> int:
    """A magazine for threads that have none; like all that deleters use, it outlives the interpreter."""
    guest = lasting_words(MAGAZINE_ROWS)
    kernel.open_for_nobody(guest, site.metadata, holder, rank, NO_ATTRIBUTE)
    return guest


def _thread_key(page: Words) -> int:
    """The pthread key under which threads find their part; made once a process."""
    if page[PAGE_GET_SPECIFIC] == 0:
        key = ctypes.c_uint()
        keep_forever(callbacks.end_thread.load())
        code = _libc.pthread_key_create(ctypes.byref(key), ctypes.c_void_p(callbacks.end_thread.address))
        if code != 0:
            raise AllocatorRefused(f"pthread_key_create failed: errno {code}; too many libraries have one")
        page[PAGE_KEY] = key.value
        page[PAGE_KEY_OFFSET] = _offset_of(key.value)
        page[PAGE_GET_SPECIFIC] = int(ctypes.cast(_libc.pthread_getspecific, ctypes.c_void_p).value or 0)
    return page[PAGE_KEY]


def _offset_of(key: int) -> int:
    """Bytes from a thread's pointer to the value that pthread_getspecific(key) returns; 0 where they differ by thread.

    glibc keeps the first 32 keys in the thread's own block, and a load there is a tenth of an allocation
    faster than the call. It promises nothing of the kind, so two threads look for it, and must agree.
    """
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(_offset_here(key)))
    thread.start()
    thread.join()
    found.append(_offset_here(key))
    return found[0] if len(set(found)) == 1 else 0


def _offset_here(key: int) -> int:
    """The offset of the one word that follows pthread_setspecific(key) in the calling thread, or 0."""
    value = secrets.randbits(62) | 1  # to be met nowhere else
    _libc.pthread_setspecific(key, value)
    try:
        offset: int = find_own_word(value, OWN_WORDS)
    finally:
        _libc.pthread_setspecific(key, None)
    return offset if find_own_word(value, OWN_WORDS) == 0 else 0


@cpu_kernel("int64(int64, int64)")
def find_own_word(value, num_words):
    """Bytes from the calling thread's pointer to the first of its own words that is `value`; 0 where none is."""
    index = 1
    while index < num_words:
        if load_i64(thread_pointer(), index) == value:
            return 8 * index
        index += 1
    return 0
