"""The functions that torch calls: allocate, delete, and the end of a thread; compiled, without the GIL.

`this` of the allocator is the page's object, and every other fact comes from the page: see layout.py.
"""

from __future__ import annotations

from ..kernels import c_callback, device_function, status
from ..kernels.build.compile import inlined_function
from ..kernels.heap.alloc import alloc_slow, free_slow, pop_slot, push_slot
from ..kernels.heap.layout import MAGAZINE_LIVE
from ..kernels.heap.magazine import flush_all
from ..kernels.heap.record import owner_rank
from ..kernels.intrinsics.scalar import (
    fetch_add_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_release_i64,
    store_u8,
)
from ..kernels.intrinsics.system import call_handler, copy_bytes, now_ns, thread_pointer
from ..kernels.page.control import CONTROL_EPOCH, CONTROL_MEMBERS, CONTROL_NUM_MEMBERS, peer_is_dead
from .layout import (
    OPEN,
    PAGE_ADDRESS,
    PAGE_ALLOCATE_SLOWLY,
    PAGE_CONTROL,
    PAGE_DEFAULT,
    PAGE_DEFAULT_ALLOCATE,
    PAGE_DEFAULT_DELETE,
    PAGE_DELETE,
    PAGE_FREE_SLOWLY,
    PAGE_GET_SPECIFIC,
    PAGE_HIGH,
    PAGE_KEY,
    PAGE_KEY_OFFSET,
    PAGE_LINEAR_BASE,
    PAGE_LOW,
    PAGE_MODE,
    PAGE_NUM_FREES,
    PAGE_NUM_ORPHANS,
    PAGE_NUM_REFUSED,
    PAGE_NUM_SHARED,
    PAGE_NUM_SITES,
    PAGE_SITES,
    PAGE_STRIDE_LOG2,
    PAGE_STRIPED_BASE,
    PAGE_STRIPED_SITE,
    PAGE_THROW,
    PAGE_TIMEOUT_NS,
    POLICY_NUM_HOMES,
    POLICY_SITES,
    POLICY_TEXT,
    POLICY_TEXT_BYTES,
    SITE_GUEST,
    SITE_WORDS,
    THREAD_IN_USE,
    THREAD_MAGAZINES,
    THREAD_NUM_ALLOCS,
    THREAD_NUM_BYTES,
    THREAD_NUM_FREES,
    THREAD_NUM_PLACED,
    THREAD_NUM_SPILLED,
    THREAD_PLACE,
    THREAD_POLICY,
    THREAD_TEXT,
)
from .uses import NOT_SHARED, STILL_USED, drop_use, release_uses

ALIGNMENT = 64  # torch's own, on every CPU
CPU_DEVICE = 0xFF00  # c10::Device: type 0, index -1
DEFAULT = 0  # from `pool_allocate`: torch's own allocator serves this one
DIGITS = 19  # of the largest int64


@inlined_function
def current_thread(page):
    """The calling thread's part, or 0 where the thread never entered the pool."""
    offset = load_i64(page, PAGE_KEY_OFFSET)
    if offset != 0:
        return load_i64(thread_pointer() + offset, 0)
    return call_handler(load_i64(page, PAGE_GET_SPECIFIC), load_i64(page, PAGE_KEY), 0, 0)


@inlined_function
def pool_allocate(page, num_bytes):
    """Address in the pool of memory for a storage of `num_bytes`, or DEFAULT. Throws where no home has room."""
    if load_i64(page, PAGE_MODE) != OPEN or num_bytes <= 0:
        return DEFAULT
    thread = current_thread(page)
    if thread == 0:
        return DEFAULT
    place = load_i64(thread, THREAD_PLACE)
    if place != 0:
        store_i64(thread, THREAD_PLACE, 0)
        store_i64(thread, THREAD_NUM_PLACED, load_i64(thread, THREAD_NUM_PLACED) + 1)
        return place
    policy = load_i64(thread, THREAD_POLICY)
    if policy == 0:
        return DEFAULT
    control = load_i64(page, PAGE_CONTROL)
    if load_relaxed_i64(control, CONTROL_EPOCH) == 0:
        magazine = load_i64(thread, THREAD_MAGAZINES + load_i64(policy, POLICY_SITES))
        address = pop_slot(magazine, num_bytes, ALIGNMENT)
        if address != 0:
            count_allocation(thread, num_bytes)
            return address
    return call_handler(load_i64(page, PAGE_ALLOCATE_SLOWLY), thread, policy, num_bytes)


@inlined_function
def count_allocation(thread, num_bytes):
    """Count a storage of this thread."""
    store_i64(thread, THREAD_NUM_ALLOCS, load_i64(thread, THREAD_NUM_ALLOCS) + 1)
    store_i64(thread, THREAD_NUM_BYTES, load_i64(thread, THREAD_NUM_BYTES) + num_bytes)


@c_callback("int64(int64, int64, int64)")
def allocate_slowly(thread, policy, num_bytes):
    """Allocate at the first home of a policy that has room; homes of dead ranks are skipped. Throws where none has."""
    page = PAGE_ADDRESS
    control = load_i64(page, PAGE_CONTROL)
    deadline_ns = now_ns() + load_i64(page, PAGE_TIMEOUT_NS)
    num_homes = load_i64(policy, POLICY_NUM_HOMES)
    home = 0
    while home < num_homes:
        site = load_i64(policy, POLICY_SITES + home)
        address = status.NO_MEMORY
        if site_is_alive(page, control, site):
            magazine = load_i64(thread, THREAD_MAGAZINES + site)
            live = load_i64(magazine, MAGAZINE_LIVE)
            address = alloc_slow(control, magazine, num_bytes, ALIGNMENT, live)
        if address > status.AGAIN:
            count_allocation(thread, num_bytes)
            if home > 0:
                store_i64(thread, THREAD_NUM_SPILLED, load_i64(thread, THREAD_NUM_SPILLED) + 1)
            return address
        if address == status.INTERRUPTED:
            return DEFAULT  # the space is closing, and its pool with it
        if address != status.AGAIN or now_ns() > deadline_ns:
            home += 1
    throw_out_of_memory(page, thread, policy, num_bytes)
    return DEFAULT


@device_function
def site_is_alive(page, control, site):
    """1 where every rank whose memory the arena manages is alive."""
    if load_relaxed_i64(control, CONTROL_EPOCH) == 0:
        return 1
    if site != load_i64(page, PAGE_STRIPED_SITE):
        return 1 - peer_is_dead(control, site >> 1)
    member = load_i64(control, CONTROL_NUM_MEMBERS) - 1
    while member >= 0:
        if peer_is_dead(control, load_i64(control, CONTROL_MEMBERS + member)):
            return 0
        member -= 1
    return 1


@device_function
def throw_out_of_memory(page, thread, policy, num_bytes):
    """Throw a C++ exception with the policy's text and `num_bytes`; torch turns it into a RuntimeError."""
    text = thread + THREAD_TEXT * 8
    length = load_i64(policy, POLICY_TEXT_BYTES)
    copy_bytes(text, load_i64(policy, POLICY_TEXT), length)
    power = 1
    while power <= num_bytes // 10:
        power *= 10
    while power > 0:
        store_u8(text, length, 48 + num_bytes // power % 10)
        length += 1
        power = power // 10
    store_u8(text, length, 0)
    call_handler(load_i64(page, PAGE_THROW), text, 0, 0)


@inlined_function
def site_of(page, address):
    """Number of the site of an address inside the windows."""
    if address >= load_i64(page, PAGE_STRIPED_BASE):
        return load_i64(page, PAGE_STRIPED_SITE)
    return (address - load_i64(page, PAGE_LINEAR_BASE)) >> load_i64(page, PAGE_STRIDE_LOG2)


@inlined_function
def pool_delete(page, address):
    """Drop this rank's reference to a storage that torch deletes, unless others use it or the pool is not open."""
    if load_i64(page, PAGE_MODE) != OPEN:
        fetch_add_i64(page, PAGE_NUM_ORPHANS, 1)
        return
    thread = current_thread(page)
    if thread != 0:
        store_i64(thread, THREAD_NUM_FREES, load_i64(thread, THREAD_NUM_FREES) + 1)
    else:
        fetch_add_i64(page, PAGE_NUM_FREES, 1)
    if load_relaxed_i64(page, PAGE_NUM_SHARED) != 0:
        use = drop_use(page, address)
        if use == STILL_USED:
            return
        if use != NOT_SHARED:
            # The table's lock is held, so that no arrival finds the address between its last use and its end.
            drop_reference(page, thread, address)
            release_uses(page)
            return
    drop_reference(page, thread, address)


@inlined_function
def drop_reference(page, thread, address):
    """Free `address` for this rank, by the thread's magazine or else the site's guest magazine."""
    site = site_of(page, address)
    magazine = 0
    if thread != 0:
        magazine = load_i64(thread, THREAD_MAGAZINES + site)
    if magazine == 0:
        magazine = load_i64(page, PAGE_SITES + site * SITE_WORDS + SITE_GUEST)
    if push_slot(magazine, address) == 0:
        call_handler(load_i64(page, PAGE_FREE_SLOWLY), magazine, address, 0)


@c_callback("int64(int64, int64, int64)")
def free_slowly(magazine, address, unused):
    """Free through the heap's core. A failure is counted: a deleter cannot raise."""
    page = PAGE_ADDRESS
    deadline_ns = now_ns() + load_i64(page, PAGE_TIMEOUT_NS)
    control = load_i64(page, PAGE_CONTROL)
    rank = owner_rank(load_i64(magazine, MAGAZINE_LIVE))
    code = status.AGAIN
    while code == status.AGAIN:
        code = free_slow(control, magazine, rank, address)
        if code == status.AGAIN and now_ns() > deadline_ns:
            break
    if code != status.OK:
        fetch_add_i64(page, PAGE_NUM_REFUSED, 1)
    return code


@c_callback("void(int64)")
def delete(address):
    """The deleter of all CPU memory that torch deletes while ours is in force: the pool's, or torch's own."""
    page = PAGE_ADDRESS
    if load_i64(page, PAGE_LOW) <= address < load_i64(page, PAGE_HIGH):
        pool_delete(page, address)
    elif address != 0:
        call_handler(load_i64(page, PAGE_DEFAULT_DELETE), address, 0, 0)


@c_callback("int64(int64, int64, int64)")
def allocate(result, this, num_bytes):
    """c10::Allocator::allocate in the x86-64 ABI: fills the DataPtr at `result` {data, context, deleter, device}."""
    page = PAGE_ADDRESS
    address = pool_allocate(page, num_bytes)
    if address == DEFAULT:
        return call_handler(
            load_i64(page, PAGE_DEFAULT_ALLOCATE), result, load_i64(page, PAGE_DEFAULT), num_bytes
        )
    store_i64(result, 0, address)
    store_i64(result, 1, load_i64(page, PAGE_DELETE))
    store_i64(result, 2, address)
    store_i64(result, 3, CPU_DEVICE)
    return result


@c_callback("int64(int64)")
def allocate_bytes(num_bytes):
    """For the shim: an address of the pool, or 0 for torch's own allocator."""
    return pool_allocate(PAGE_ADDRESS, num_bytes)


@c_callback("int64(int64)")
def raw_deleter(this):
    """c10::Allocator::raw_deleter: the address of `delete`."""
    return load_i64(PAGE_ADDRESS, PAGE_DELETE)


@c_callback("void(int64)")
def destroy(this):
    """The allocator's destructor, which does nothing: the allocator lives as long as the process."""


@c_callback("void(int64)")
def end_thread(thread):
    """Return the stock of a thread that ends to the heap, and free its part for another thread."""
    page = PAGE_ADDRESS
    if load_i64(page, PAGE_MODE) == OPEN:
        control = load_i64(page, PAGE_CONTROL)
        deadline_ns = now_ns() + load_i64(page, PAGE_TIMEOUT_NS)
        site = load_i64(page, PAGE_NUM_SITES) - 1
        while site >= 0:
            magazine = load_i64(thread, THREAD_MAGAZINES + site)
            if magazine != 0:
                code = flush_all(control, magazine)
                if code == status.AGAIN and now_ns() < deadline_ns:
                    continue
            site -= 1
    store_i64(thread, THREAD_POLICY, 0)
    store_i64(thread, THREAD_PLACE, 0)
    store_release_i64(thread, THREAD_IN_USE, 0)
