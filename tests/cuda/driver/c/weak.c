/* Weak memory: plain and relaxed accesses go through a cache of the thread that is not coherent, and a write buffer
 * that is emptied in any order, as far as orders and scopes allow.
 *
 * A thread loads what it has in its cache, maybe old, until an acquire empties it; relaxed loads look again now and
 * then. Its stores arrive in any order, but in order at one place, and in epochs: a fence for the system begins a new
 * one, a release waits until all have arrived. Stores released for fewer lie on a shelf, of the block (cta) or of the
 * device (gpu), until a wider release: whoever is on the shelf's side sees them, the others find the flag without the
 * data. So what is missing shows: acquire, release, a fence that is not sequentially consistent, a scope that is too
 * narrow. Not modelled: stores that arrive at two observers in different order, too narrow scopes of acquires beyond
 * the block.
 */
#include "execute.h"

enum { CTA, GPU, SYSTEM };                               /* memory.py: SCOPES */
enum { LOAD, WRITE, ACQUIRE, RELEASE, FENCE, FENCE_SC }; /* memory.py: what is asked for */

static shelf device_shelves[MAX_DEVICES];
static atomic_int num_on_devices;
static pthread_mutex_t shelving = PTHREAD_MUTEX_INITIALIZER;

static uint64_t draw(weak_thread *w) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    return w->random ^= w->random << 17;
}
static unsigned hash(uint64_t at) { return (uint32_t)((at >> 3) * 0x9E3779B1u) >> 26; }
static int overlaps(weak_word a, uint64_t at, uint32_t bytes) { return a.at < at + bytes && at < a.at + a.bytes; }

static void to_memory(weak_word a) {
    switch (a.bytes) {
    case 1: __atomic_store_n((uint8_t *)a.at, a.value, __ATOMIC_RELEASE); break;
    case 2: __atomic_store_n((uint16_t *)a.at, a.value, __ATOMIC_RELEASE); break;
    case 4: __atomic_store_n((uint32_t *)a.at, a.value, __ATOMIC_RELEASE); break;
    default: __atomic_store_n((uint64_t *)a.at, a.value, __ATOMIC_RELEASE);
    }
}
/* --- what stood in memory before: a load that is not ordered may still find it */
static weak_word history[REMEMBERED]; /* `epoch` is the time at which it was overwritten */
static unsigned now = 1;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static void only_new(weak_thread *w) { w->oldest = __atomic_load_n(&now, __ATOMIC_ACQUIRE); }
static void to_memory_at_once(weak_word a) {
    uint64_t place = a.at & -8ull;
    pthread_mutex_lock(&writing);
    history[now % REMEMBERED] = (weak_word){place, __atomic_load_n((uint64_t *)place, __ATOMIC_RELAXED), 8, now};
    to_memory(a);
    now++;
    pthread_mutex_unlock(&writing);
}
static uint64_t from_memory(weak_thread *w,
                            uint64_t place) { /* now, or at some time since the thread could know better */
    (void)*(volatile char *)place;            /* a fault comes before the lock, which it would keep */
    pthread_mutex_lock(&writing);
    uint64_t value = __atomic_load_n((uint64_t *)place, __ATOMIC_RELAXED);
    for (unsigned t = now - 1; t >= w->oldest && t + REMEMBERED > now; t--)
        if (history[t % REMEMBERED].at == place && draw(w) % 2) value = history[t % REMEMBERED].value;
    pthread_mutex_unlock(&writing);
    return value;
}
static weak_word take(weak_word *words, int *num, int n) {
    weak_word a = words[n];
    for (int k = n; k + 1 < *num; k++) words[k] = words[k + 1]; /* order of one place stays */
    --*num;
    return a;
}

/* --- shelves: the block's belongs to one thread of the CPU, the device's is shared */
static void settle_on(shelf *s, uint64_t at, uint32_t bytes) {
    for (int n = 0; n < s->num;)
        if (overlaps(s->words[n], at, bytes)) to_memory(take(s->words, &s->num, n));
        else n++;
}
static void clear(shelf *s) {
    while (s->num) to_memory(take(s->words, &s->num, 0));
}
static void put_on(shelf *s, weak_word a) {
    if (s->num == SHELVED) to_memory(take(s->words, &s->num, 0));
    s->words[s->num++] = a;
}
static void lock_devices(void) { pthread_mutex_lock(&shelving); }
static void unlock_devices(int device, int before) {
    num_on_devices += device_shelves[device].num - before;
    pthread_mutex_unlock(&shelving);
}
static void settle_place(weak_thread *w, uint64_t at, uint32_t bytes) {
    if (w->block->shelf.num) settle_on(&w->block->shelf, at, bytes);
    if (!num_on_devices) return;
    lock_devices();
    int before = device_shelves[w->device].num;
    settle_on(&device_shelves[w->device], at, bytes);
    unlock_devices(w->device, before);
}
static void arrive(weak_thread *w, weak_word a, int scope) { /* `a` leaves the thread */
    settle_place(w, a.at, a.bytes);
    w->block->written |= 1ull << hash(a.at);
    if (scope == SYSTEM || draw(w) % 4 == 0) to_memory_at_once(a);
    else if (scope == CTA) put_on(&w->block->shelf, a);
    else {
        lock_devices();
        int before = device_shelves[w->device].num;
        put_on(&device_shelves[w->device], a);
        unlock_devices(w->device, before);
    }
    only_new(w); /* its own stores are seen */
}
static void clear_device(int device) {
    if (!num_on_devices) return;
    lock_devices();
    int before = device_shelves[device].num;
    clear(&device_shelves[device]);
    unlock_devices(device, before);
}

/* --- the write buffer */
static void drain_before(weak_thread *w, unsigned epoch) {
    for (int n = 0; n < w->num_buffered;)
        if (w->buffer[n].epoch < epoch) arrive(w, take(w->buffer, &w->num_buffered, n), SYSTEM);
        else n++;
}
static void drain_place(weak_thread *w, uint64_t at, uint32_t bytes) {
    int last = -1;
    for (int n = 0; n < w->num_buffered; n++)
        if (overlaps(w->buffer[n], at, bytes) && (int)w->buffer[n].epoch > last) last = w->buffer[n].epoch;
    if (last < 0) return;
    drain_before(w, last);
    for (int n = 0; n < w->num_buffered;)
        if (overlaps(w->buffer[n], at, bytes)) arrive(w, take(w->buffer, &w->num_buffered, n), SYSTEM);
        else n++;
}
static void drain_one(weak_thread *w) { /* any of the oldest epoch */
    unsigned oldest = w->epoch;
    for (int n = 0; n < w->num_buffered; n++)
        if (w->buffer[n].epoch < oldest) oldest = w->buffer[n].epoch;
    int chosen = draw(w) % w->num_buffered;
    while (w->buffer[chosen].epoch != oldest) chosen = (chosen + 1) % w->num_buffered;
    drain_place(w, w->buffer[chosen].at, w->buffer[chosen].bytes);
}
static void release(weak_thread *w, int scope) {
    drain_before(w, scope == SYSTEM ? -1u : w->epoch);
    while (w->num_buffered) arrive(w, take(w->buffer, &w->num_buffered, 0), scope);
    if (scope == CTA) return;
    weak_block *b = w->block; /* what the block has seen goes with it */
    while (b->shelf.num) arrive(w, take(b->shelf.words, &b->shelf.num, 0), scope);
    if (scope == SYSTEM) clear_device(w->device);
}

/* --- the cache: a word of 8 bytes each; one of 0 bytes is only remembered, so that it may be loaded early again */
static weak_word *cached(weak_thread *w, uint64_t at) { return &w->cache[hash(at) % CACHED]; }
static void forget(weak_thread *w, uint64_t at) {
    weak_word *slot = cached(w, at);
    only_new(w);
    if (slot->at == (at & -8ull)) slot->at = 0;
}
static void acquire(weak_thread *w, int scope) {
    weak_block *b = w->block;
    if (scope != CTA) b->num_wide_acquires++;
    int all = scope != CTA || w->seen_acquires != b->num_wide_acquires;
    w->seen_acquires = b->num_wide_acquires;
    only_new(w);
    for (int n = 0; n < CACHED; n++)
        if (all || b->written >> hash(w->cache[n].at) & 1) w->cache[n].bytes = 0;
}
static void load_early(weak_thread *w) { /* what is loaded later may come from now, if no acquire lies between */
    for (int n = 0; n < CACHED; n++) {
        weak_word *slot = &w->cache[n];
        if (!slot->at || slot->bytes || draw(w) % 2) continue;
        int is_mine = 0;
        for (int k = 0; k < w->num_buffered; k++) is_mine |= overlaps(w->buffer[k], slot->at, 8);
        if (is_mine) continue;
        settle_place(w, slot->at, 8);
        *slot = (weak_word){slot->at, __atomic_load_n((uint64_t *)slot->at, __ATOMIC_RELAXED), 8, 0};
    }
}

/* --- what translated code calls */
EXPORTED uint64_t ptx_weak_load(thread *t, uint64_t at, uint32_t bytes, uint32_t is_relaxed) {
    weak_thread *w = t->weak;
    uint64_t place = at & -8ull, value = 0;
    drain_place(w, place, 8); /* own stores are seen */
    if (is_relaxed) load_early(w);
    weak_word *slot = cached(w, place);
    if (slot->at != place || !slot->bytes) {
        settle_place(w, place, 8);
        if (slot->bytes) only_new(w); /* what is dropped from the cache is not loaded older than it was */
        *slot = (weak_word){place, from_memory(w, place), 8, 0};
    } else if (is_relaxed && draw(w) % 4 == 0) {
        settle_place(w, place, 8);
        slot->value = __atomic_load_n((uint64_t *)place, __ATOMIC_RELAXED);
    }
    memcpy(&value, (char *)&slot->value + (at - place), bytes);
    return value;
}
EXPORTED void ptx_weak_store(thread *t, uint64_t at, uint32_t bytes, uint64_t value) {
    weak_thread *w = t->weak;
    weak_word *slot = cached(w, at);
    if (slot->at == (at & -8ull)) slot->bytes = 0;
    __atomic_fetch_or((char *)at, 0,
                      __ATOMIC_RELAXED); /* an illegal address is one here, not where the store arrives */
    if (w->num_buffered == BUFFERED) drain_one(w);
    w->buffer[w->num_buffered++] = (weak_word){at, value, bytes, w->epoch};
}
EXPORTED void ptx_weak_order(thread *t, uint32_t kind, uint32_t scope, uint64_t at) {
    weak_thread *w = t->weak;
    if (kind == FENCE && scope == SYSTEM) { /* stores stay in order, and later loads need not wait for them */
        clear(&w->block->shelf);
        clear_device(w->device);
        if (w->num_buffered) w->epoch++;
    } else if (kind >= RELEASE) release(w, scope);
    if (kind == WRITE) drain_before(w, w->epoch);
    if (kind == LOAD || kind == WRITE || kind == RELEASE) {
        drain_place(w, at, 16);
        settle_place(w, at, 16);
        load_early(w);
        forget(w, at);
    } else acquire(w, scope);
}

void weak_begin(weak_thread *w, weak_block *b, int device, uint64_t seed) {
    memset(w, 0, sizeof *w);
    w->block = b;
    w->device = device;
    w->seen_acquires = b->num_wide_acquires;
    only_new(w);
    w->random = seed * 0x9E3779B97F4A7C15ull | 1;
    for (int n = 0; n < 8; n++) draw(w);
}
void weak_some(weak_thread *w) {
    if (w->num_buffered && draw(w) % 4 == 0) drain_one(w);
    shelf *s = &w->block->shelf;
    if (s->num && draw(w) % 8 == 0) to_memory(take(s->words, &s->num, 0));
    if (num_on_devices && draw(w) % 16 == 0) clear_device(w->device);
}
void weak_end(weak_thread *w) { drain_before(w, -1u); }
void weak_end_block(weak_block *b) { clear(&b->shelf); }
void weak_end_launch(int device) { clear_device(device); }
