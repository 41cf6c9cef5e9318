/* Runs a launch: its threads are fibers on a few threads of the CPU, a block's all on one. Blocks start when others
 * have ended, as many at once as are resident. A kernel whose threads never wait for each other runs straight,
 * without fibers.
 */
#include "execute.h"
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

enum { STACK = 256 << 10, WORKERS = 64, BLOCKS_PER_SM = 32, THREADS_PER_SM = 2048 };
typedef struct {
    launch *of;
    void *sp; /* of the scheduler, while a fiber runs */
    fiber *head, *tail, *ended;
    int num_blocks;
    char *stacks; /* unused ones, each with the address of the next at its start */
    unsigned seed;
    sigjmp_buf out;
} worker;
static __thread worker *me;

int resident_blocks(uint32_t threads_per_block) {
    int per_sm = THREADS_PER_SM / threads_per_block;
    return option("FAKE_CUDA_RESIDENT", SMS * (per_sm > BLOCKS_PER_SM ? BLOCKS_PER_SM : per_sm));
}

/* --- switching: saves what the ABI of x86-64 says a call keeps */
void ptx_switch(void **save, void *load);
__asm__(".text\n.globl ptx_switch\n.hidden ptx_switch\n.type ptx_switch,@function\nptx_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void push_back(fiber *f) {
    f->next = NULL;
    if (me->head) me->tail->next = f;
    else me->head = f;
    me->tail = f;
}
static fiber *pop(void) { /* mostly in turn: a seed changes who comes first */
    fiber *f = me->head;
    me->head = f->next;
    if (!me->head || rand_r(&me->seed) % 4) return f;
    push_back(f);
    f = me->head;
    me->head = f->next;
    return f;
}
void give_way(fiber *f) {
    push_back(f);
    ptx_switch(&f->sp, me->sp);
}
int has_others(void) { return me->head != NULL; }
int draw_budget(void) {
    int mean = me->of->switch_after;
    return mean <= 1 ? 1 : 1 + rand_r(&me->seed) % (2 * mean);
}

/* --- faults end the launch of a thread of the CPU; the others end when they look */
void fail(int status) {
    int none = 0;
    atomic_compare_exchange_strong(&devices[me->of->device].fault, &none, status);
    siglongjmp(me->out, 1);
}
static int is_over(const launch *l) { return devices[l->device].fault || devices[l->device].is_stopping; }
static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction before[NSIG];
static void on_fault(int number, siginfo_t *info, void *registers) {
    if (!me) { /* not a kernel's */
        sigaction(number, &before[number], NULL);
        return;
    }
    complain("signal %d at %p", number, info->si_addr);
    fail(number == SIGFPE || number == SIGILL ? CUDA_ERROR_ILLEGAL_INSTRUCTION : CUDA_ERROR_ILLEGAL_ADDRESS);
}
void catch_faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (size_t n = 0; n < sizeof caught / sizeof *caught; n++) {
        struct sigaction found;
        sigaction(caught[n], NULL, &found);
        if (found.sa_sigaction == on_fault) continue;
        before[caught[n]] = found;
        sigaction(caught[n], &action, NULL);
    }
}

/* --- threads and blocks */
static void place(thread *t, launch *l, long number, uint32_t index, block *in) {
    const uint32_t *g = l->grid, *n = l->threads;
    memset(t, 0, sizeof *t);
    memcpy(t->ntid, n, sizeof t->ntid);
    memcpy(t->nctaid, g, sizeof t->nctaid);
    t->tid[0] = index % n[0], t->tid[1] = index / n[0] % n[1], t->tid[2] = index / n[0] / n[1];
    t->ctaid[0] = number % g[0], t->ctaid[1] = number / g[0] % g[1], t->ctaid[2] = number / g[0] / g[1];
    t->lane = index % WARP, t->warp = index / WARP;
    t->sm = number % SMS, t->num_sms = SMS;
    t->mask_eq = 1u << t->lane, t->mask_lt = t->mask_eq - 1;
    t->budget = draw_budget();
    t->device = l->device;
    t->shared = in->shared;
}
static uint64_t weak_seed(const thread *t) {
    return me->of->seed * 1000003ull + t->ctaid[0] * 40503ull + t->tid[0] + 7919ull * t->device + rand_r(&me->seed);
}
static void run_fiber(void) { /* the first thing on a fiber's stack */
    fiber *f = me->ended;
    me->ended = NULL;
    f->t.self = f;
    weak_thread room;
    if (me->of->is_weak) weak_begin(f->t.weak = &room, &f->in->weak, f->t.device, weak_seed(&f->t));
    me->of->of.run(&f->t, me->of->parameters);
    if (f->t.weak) weak_end(f->t.weak);
    me->ended = f;
    ptx_switch(&f->sp, me->sp);
}
static void start(fiber *f) {
    if (me->stacks) {
        f->stack = me->stacks;
        me->stacks = *(char **)f->stack;
    } else {
        f->stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED) fail(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    }
    void **sp = (void **)(f->stack + STACK);
    *--sp = NULL;
    *--sp = (void *)run_fiber;
    for (int n = 0; n < 6; n++) *--sp = NULL;
    f->sp = sp;
    me->ended = f; /* who starts */
}
static void end_block(block *b) {
    weak_end_block(&b->weak);
    free(b->shared);
    free(b->warps);
    free(b);
    me->num_blocks--;
    me->of->num_running--;
}
static void end(fiber *f) {
    block *b = f->in;
    *(char **)f->stack = me->stacks;
    me->stacks = f->stack;
    b->warps[f->t.warp].alive &= ~f->t.mask_eq;
    b->num_alive--;
    block_changed(b);
    if (!b->num_alive) end_block(b);
    free(f);
}
static uint32_t num_threads(const launch *l) { return l->threads[0] * l->threads[1] * l->threads[2]; }
static long take_block(launch *l) { /* its number, or -1 where none may start now */
    if (l->num_running++ < l->limit) {
        long number = l->next_block++;
        if (number < l->num_blocks) return number;
    }
    l->num_running--;
    return -1;
}
static void start_block(launch *l, long number) {
    block *b = calloc(1, sizeof *b);
    b->num_alive = num_threads(l);
    b->shared = calloc(1, l->shared_bytes + 16);
    b->num_warps = (b->num_alive + WARP - 1) / WARP;
    b->warps = calloc(b->num_warps, sizeof *b->warps);
    me->num_blocks++;
    for (int index = 0; index < b->num_alive; index++) {
        fiber *f = calloc(1, sizeof *f);
        place(&f->t, l, number, index, b);
        f->in = b;
        b->warps[f->t.warp].alive |= f->t.mask_eq;
        push_back(f);
    }
}
static void run_blocks(launch *l) {
    while (!is_over(l)) {
        long number = take_block(l);
        if (number >= 0) start_block(l, number);
        if (!me->head) {
            if (l->next_block >= l->num_blocks) return;
            sched_yield(); /* as many as are resident run elsewhere */
            continue;
        }
        fiber *f = pop();
        if (!f->sp) start(f);
        ptx_switch(&me->sp, f->sp);
        if (me->ended) end(me->ended);
        me->ended = NULL;
    }
}
static void run_straight(launch *l) {
    block b = {.shared = calloc(1, l->shared_bytes + 16)};
    weak_thread room;
    for (long number; (number = l->next_block++) < l->num_blocks && !is_over(l);) {
        for (uint32_t index = 0; index < num_threads(l); index++) {
            thread t;
            place(&t, l, number, index, &b);
            if (l->is_weak) weak_begin(t.weak = &room, &b.weak, t.device, weak_seed(&t));
            l->of.run(&t, l->parameters);
            if (l->is_weak) weak_end(&room);
        }
        weak_end_block(&b.weak);
    }
    free(b.shared);
}
static void *work(void *given) {
    static atomic_int num_started;
    launch *of = given;
    worker self = {.of = of, .seed = of->seed * 1000 + num_started++};
    char alternate[64 << 10];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, none = {.ss_flags = SS_DISABLE};
    sigaltstack(&stack, NULL);
    me = &self;
    if (!sigsetjmp(self.out, 1)) {
        if (self.of->of.waits) run_blocks(self.of);
        else run_straight(self.of);
    }
    me = NULL;
    for (char *next, *at = self.stacks; at; at = next) {
        next = *(char **)at;
        munmap(at, STACK);
    }
    sigaltstack(&none, NULL);
    return NULL;
}
CUresult run_launch(void *what) {
    launch *l = what;
    pthread_t threads[WORKERS];
    long num = l->num_workers;
    if (num > WORKERS) num = WORKERS;
    if (num > l->num_blocks) num = l->num_blocks;
    if (num > l->limit) num = l->limit;
    for (int n = 0; n < num; n++) pthread_create(&threads[n], NULL, work, l);
    for (int n = 0; n < num; n++) pthread_join(threads[n], NULL);
    if (l->is_weak) weak_end_launch(l->device);
    return 0;
}
