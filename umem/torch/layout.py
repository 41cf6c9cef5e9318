"""The memory that torch's allocator reads without Python: words of the page, of a thread, of a policy.

torch calls a deleter with a pointer and nothing else, so the deleter must find all it needs by itself. It
stands in one *page* of private memory at an address that is a constant of the program, just below the
range of all worlds; a world-dependent address could not be part of cached machine code. A forked child has
its own copy of the page, and with it its own mode.

A *thread* is the part of one Python thread, found by pthread_getspecific. A *policy* is the list of homes that a
use_pool tries, in order; it never changes once made. All constants are indices of int64
words unless they say bytes.
"""

from __future__ import annotations

from ..memory.address import BASE

PAGE_BYTES = 1 << 16
PAGE_ADDRESS = BASE - PAGE_BYTES

# --- page
PAGE_MODE = 0
PAGE_LOW, PAGE_HIGH = 1, 2  # the pool's addresses: our deleter frees these
PAGE_CONTROL = 3  # this rank's control page
PAGE_KEY, PAGE_GET_SPECIFIC = 4, 5  # pthread key, and the address of pthread_getspecific
PAGE_DEFAULT, PAGE_DEFAULT_ALLOCATE, PAGE_DEFAULT_DELETE = 6, 7, 8  # torch's own allocator: object, functions
PAGE_DELETE = 9  # address of our deleter
PAGE_ALLOCATE_SLOWLY, PAGE_FREE_SLOWLY = 22, 23  # addresses of the callbacks that go through the heap's core
PAGE_THROW = 10  # address of a function that throws a C++ exception with a text
PAGE_TIMEOUT_NS = 11
PAGE_LINEAR_BASE, PAGE_STRIDE_LOG2, PAGE_STRIPED_BASE, PAGE_STRIPED_SITE = 12, 13, 14, 15
PAGE_NUM_SITES = 16
PAGE_NUM_SHARED = 17  # addresses in the table of local uses
PAGE_USES, PAGE_USES_LOG2 = 18, 19  # that table, and log2 of its places
PAGE_USES_LOCK = 20
PAGE_KEY_OFFSET = 21  # bytes from a thread pointer to the key's value, where that is verified; else 0
PAGE_NUM_FREES = 24  # by threads without a part of their own; atomic
PAGE_NUM_ORPHANS = 25  # deleters that left memory alone: in a forked child, or after the space was closed
PAGE_NUM_REFUSED = 26  # frees that the heap refused: our own bug, or a program freed a tensor's memory
PAGE_GPUS = 27  # address of a word a GPU: its part (cuda_callbacks.py), or 0
PAGE_OBJECT = 32  # the c10::Allocator that torch is given: its vtable pointer
PAGE_VTABLE = 40  # 8 words
PAGE_SITES = 64  # 2 words a site, by 2 * rank + kind, then the striped one
SITE_ARENA, SITE_GUEST, SITE_WORDS = 0, 1, 2
MAX_SITES = (PAGE_BYTES // 8 - PAGE_SITES) // SITE_WORDS

CLOSED, OPEN, FORKED = 0, 1, 2  # modes

# --- thread
THREAD_POLICY = 0  # address of the policy in force; 0: torch's default allocator
THREAD_PLACE = 1  # the address that the next storage gets, instead of a new allocation; 0: none
THREAD_IN_USE = 2  # 0 once its thread has ended: another may have it
THREAD_NUM_ALLOCS = 3
THREAD_NUM_BYTES = 4  # of all allocations ever
THREAD_NUM_SPILLED = 5  # allocations that another home than the first one served
THREAD_NUM_PLACED = 6
THREAD_NUM_FREES = 7
THREAD_TEXT = 8  # room for the text of an exception
TEXT_BYTES = 512
THREAD_MAGAZINES = THREAD_TEXT + TEXT_BYTES // 8  # a word a site: its magazine, or 0

# --- policy
POLICY_NUM_HOMES = 0
POLICY_TEXT, POLICY_TEXT_BYTES = 1, 2  # how its out of memory begins
POLICY_SITES = 4  # a word a home: number of its site
