/* What translated code calls: giving way, traps, clocks, barriers, and what the lanes of a warp say to each other. */
#include "execute.h"
#include <sched.h>
#include <time.h>

EXPORTED void ptx_yield(thread *t) {
    t->budget = draw_budget();
    if (t->weak) weak_some(t->weak);
    if (!t->self) return;
    if (!has_others()) sched_yield();
    give_way(t->self);
}
EXPORTED void ptx_trap(thread *t, uint32_t status) { fail(status); }
EXPORTED uint64_t ptx_clock(thread *t, uint32_t is_global) { /* globaltimer has another epoch than the CPU's clock */
    struct timespec now;
    clock_gettime(is_global ? CLOCK_REALTIME : CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void warp_changed(warp *w) {
    if (!w->arrived || (w->arrived & w->awaited & w->alive) != (w->awaited & w->alive)) return;
    memcpy(w->was, w->value, sizeof w->was);
    w->arrived = 0;
    w->round++;
}
static void end_round(block *b) {
    b->num_arrived = 0;
    b->reduced = b->flags;
    b->flags = 0;
    b->round++;
}
void block_changed(block *b) { /* threads that have ended are waited for no more */
    if (b->num_arrived && b->num_arrived >= b->num_alive) end_round(b);
    for (int n = 0; n < b->num_warps; n++) warp_changed(&b->warps[n]);
}
EXPORTED uint32_t ptx_barrier(thread *t, uint32_t flag) { /* whether a thread of the block came with a flag */
    block *b = t->self->in;
    unsigned round = b->round;
    b->num_arrived++;
    b->flags |= flag;
    if (b->num_arrived >= b->num_alive) end_round(b);
    while (b->round == round) give_way(t->self);
    return b->reduced; /* no round ends before this thread comes to it */
}
static warp *exchange(thread *t, uint32_t mask, uint32_t value) { /* back when all lanes of `mask` have come */
    warp *w = &t->self->in->warps[t->warp];
    unsigned round = w->round;
    w->value[t->lane] = value;
    w->arrived |= t->mask_eq;
    w->awaited = mask;
    warp_changed(w);
    while (w->round == round) give_way(t->self);
    return w;
}
EXPORTED uint64_t ptx_shuffle(thread *t, uint32_t mode, uint32_t value, uint32_t b, uint32_t clamp, uint32_t mask) {
    enum { UP, DOWN, BUTTERFLY, INDEX };
    warp *w = exchange(t, mask, value);
    uint32_t segment = (clamp >> 8) & 31, lane = t->lane, from = lane;
    int most = (lane & segment) | (clamp & 31 & ~segment), is_valid = 0;
    b &= 31;
    switch (mode) {
    case UP:
        from = lane - b;
        is_valid = (int)from >= most;
        break;
    case DOWN:
        from = lane + b;
        is_valid = (int)from <= most;
        break;
    case BUTTERFLY:
        from = lane ^ b;
        is_valid = (int)from <= most;
        break;
    case INDEX:
        from = (lane & segment) | (b & ~segment);
        is_valid = (int)from <= most;
        break;
    }
    if (!is_valid) from = lane;
    return w->was[from & 31] | (uint64_t)is_valid << 32;
}
EXPORTED uint32_t ptx_vote(thread *t, uint32_t mode, uint32_t value, uint32_t mask) {
    enum { MEET, ALL, ANY, UNIFORM, BALLOT };
    warp *w = exchange(t, mask, value);
    uint32_t ballot = 0, on = mask & w->alive;
    for (int n = 0; n < WARP; n++) ballot |= (on >> n & 1) && w->was[n] ? 1u << n : 0;
    return mode == ALL       ? ballot == on
           : mode == ANY     ? ballot != 0
           : mode == UNIFORM ? ballot == on || !ballot
                             : ballot;
}
