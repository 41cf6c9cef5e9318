/* Launches: their shapes, parameters and refusals. A cooperative one starts only where all of its blocks are
 * resident. */
#include "execute.h"
#include "stream.h"
#include <unistd.h>

static CUresult start(CUfunction function, const uint32_t *grid, const uint32_t *threads, size_t shared_bytes,
                      CUstream where, void **arguments, int is_cooperative) {
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, where);
    const kernel *k = (const kernel *)function;
    uint64_t num = (uint64_t)threads[0] * threads[1] * threads[2];
    REFUSE_IF(!num || num > MAX_THREADS || !grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535);
    REFUSE_IF(k->of.num_parameters && !arguments);
    if (s->device != current_device()) return CUDA_ERROR_INVALID_HANDLE;
    launch *l = calloc(1, sizeof *l);
    l->of = k->of;
    l->is_weak = k->is_weak;
    l->device = s->device;
    l->limit = resident_blocks(num);
    l->num_workers = option("FAKE_CUDA_WORKERS", (int)sysconf(_SC_NPROCESSORS_ONLN));
    l->switch_after = option("FAKE_CUDA_SWITCH", 1000);
    l->seed = option("FAKE_CUDA_SEED", 1);
    memcpy(l->grid, grid, sizeof l->grid);
    memcpy(l->threads, threads, sizeof l->threads);
    l->num_blocks = (long)grid[0] * grid[1] * grid[2];
    l->shared_bytes = k->of.shared_bytes + shared_bytes;
    for (int n = 0; n < k->of.num_parameters; n++)
        memcpy(l->parameters + k->of.pairs[2 * n], arguments[n], k->of.pairs[2 * n + 1]);
    if (is_cooperative && l->num_blocks > l->limit) {
        free(l);
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
    enqueue(s, run_launch, l);
    return 0;
}
static CUresult CALL(cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                    unsigned by, unsigned bz, unsigned shared_bytes, CUstream where, void **arguments,
                                    void **extra)) {
    BEGIN;
    REFUSE_IF(extra);
    return start(function, (uint32_t[]){gx, gy, gz}, (uint32_t[]){bx, by, bz}, shared_bytes, where, arguments, 0);
}
static CUresult CALL(cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz,
                                               unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,
                                               CUstream where, void **arguments)) {
    BEGIN;
    return start(function, (uint32_t[]){gx, gy, gz}, (uint32_t[]){bx, by, bz}, shared_bytes, where, arguments, 1);
}
static CUresult CALL(cuLaunchKernelEx(const CUlaunchConfig *how, CUfunction function, void **arguments,
                                      void **extra)) {
    BEGIN;
    REFUSE_IF(extra);
    int is_cooperative = 0;
    for (unsigned n = 0; n < how->numAttrs; n++)
        is_cooperative |= how->attrs[n].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && how->attrs[n].value.cooperative;
    return start(function, (uint32_t[]){how->gridDimX, how->gridDimY, how->gridDimZ},
                 (uint32_t[]){how->blockDimX, how->blockDimY, how->blockDimZ}, how->sharedMemBytes, how->hStream,
                 arguments, is_cooperative);
}
static CUresult CALL(cuOccupancyMaxActiveBlocksPerMultiprocessor(int *num, CUfunction function, int threads,
                                                                 size_t shared_bytes)) {
    BEGIN;
    REFUSE_IF(threads <= 0 || threads > MAX_THREADS);
    *num = resident_blocks(threads) / SMS;
    return 0;
}
static CUresult CALL(cuFuncGetAttribute(int *value, CUfunction_attribute wanted, CUfunction function)) {
    BEGIN;
    *value = wanted == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? MAX_THREADS
             : wanted == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES   ? ((kernel *)function)->of.shared_bytes
             : wanted == CU_FUNC_ATTRIBUTE_NUM_REGS            ? 32
                                                               : 0;
    return 0;
}
static CUresult CALL(cuKernelGetAttribute(int *value, CUfunction_attribute wanted, CUkernel of, CUdevice device)) {
    return fake_cuFuncGetAttribute(value, wanted, (CUfunction)of);
}
static CUresult CALL(cuFuncSetAttribute(CUfunction of, CUfunction_attribute wanted, int value)) {
    BEGIN;
    return 0;
}
static CUresult CALL(cuKernelSetAttribute(CUfunction_attribute wanted, int value, CUkernel of, CUdevice device)) {
    BEGIN;
    return 0;
}
static CUresult CALL(cuFuncGetParamInfo(CUfunction of, size_t n, size_t *offset, size_t *size)) {
    BEGIN;
    const code *c = &((kernel *)of)->of;
    REFUSE_IF(n >= (size_t)c->num_parameters);
    *offset = c->pairs[2 * n];
    if (size) *size = c->pairs[2 * n + 1];
    return 0;
}
static CUresult CALL(cuKernelGetParamInfo(CUkernel of, size_t n, size_t *offset, size_t *size)) {
    return fake_cuFuncGetParamInfo((CUfunction)of, n, offset, size);
}

const call launch_calls[] = {
    ROW(cuLaunchKernel),
    ROW(cuLaunchCooperativeKernel),
    ROW(cuLaunchKernelEx),
    ROW(cuOccupancyMaxActiveBlocksPerMultiprocessor),
    ROW(cuFuncGetAttribute),
    ROW(cuKernelGetAttribute),
    ROW(cuFuncSetAttribute),
    ROW(cuKernelSetAttribute),
    ROW(cuFuncGetParamInfo),
    ROW(cuKernelGetParamInfo),
    {NULL, NULL},
};
