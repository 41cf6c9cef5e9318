/* What runs: threads of a launch, their blocks and warps, kernels and launches. */
#ifndef EXECUTE_H
#define EXECUTE_H
#include "driver.h"
#include "weak.h"

enum { PARAMETERS = 64, PARAMETER_BYTES = 4096 };

typedef struct {
    CUdeviceptr from, to;
    unsigned changes;
} reach;
typedef struct thread { /* translated code knows the words up to `shared`: types.py */
    uint32_t tid[3], ntid[3], ctaid[3], nctaid[3], lane, warp, sm, num_sms, mask_lt, mask_eq;
    int32_t budget;
    uint32_t unused;
    char *shared;
    struct fiber *self; /* NULL where no thread of the launch waits for another */
    int device;
    reach reach[2];    /* what it may read and write, as far as it has asked */
    weak_thread *weak; /* NULL where memory is not weak */
} thread;
_Static_assert(offsetof(thread, shared) == 80, "types.py: SHARED");

typedef struct { /* a row of ptx_kernels: machine.py writes it */
    const char *name;
    void (*run)(thread *, void *parameters);
    const int *pairs; /* offset and bytes of each parameter */
    int num_parameters, shared_bytes, waits;
} code;
typedef struct kernel {
    code of;
    int is_weak;
    struct module *module;
} kernel;

typedef struct {
    uint32_t alive, arrived, awaited;
    unsigned round;
    uint32_t value[WARP], was[WARP];
} warp;
typedef struct {
    char *shared;
    int num_alive, num_arrived, num_warps;
    unsigned round, flags, reduced;
    warp *warps;
    weak_block weak;
} block;
typedef struct fiber {
    void *sp;
    char *stack;
    thread t;
    block *in;
    struct fiber *next;
} fiber;

typedef struct launch {
    code of;                             /* a copy: its module may be unloaded behind it */
    int is_weak, device, limit;          /* blocks that run at once */
    int num_workers, switch_after, seed; /* options as they were at the launch */
    char parameters[PARAMETER_BYTES];
    uint32_t grid[3], threads[3];
    size_t shared_bytes;
    long num_blocks;
    atomic_long next_block;
    atomic_int num_running;
} launch;

CUresult run_launch(void *what); /* an operation of a stream */
void catch_faults(void);
int resident_blocks(uint32_t threads_per_block);
/* What fibers do: run.c has them, translated code reaches them through calls.c. */
int draw_budget(void);
void give_way(fiber *f);      /* back when others have run */
void block_changed(block *b); /* a barrier may be complete */
int has_others(void);
void fail(int status) __attribute__((noreturn)); /* ends the launch of the calling thread */
EXPORTED void ptx_trap(thread *t, uint32_t status);
#endif
