/* Copies and fills, in turn with their stream. The driver's own threads touch the memory, not the caller's. */
#include "execute.h"
#include "memory.h"
#include "stream.h"
/* cuda.h makes other names of these. */
#undef cuMemcpyHtoD
#undef cuMemcpyDtoH
#undef cuMemcpyDtoD
#undef cuMemsetD8
#undef cuMemsetD32

typedef struct {
    void *dst;
    const void *src;
    size_t size;
    unsigned value, width;
    char staged[];
} transfer;

static CUresult move(void *what) {
    transfer *t = what;
    memmove(t->dst, t->src, t->size);
    return 0;
}
static CUresult fill(void *what) {
    transfer *t = what;
    for (size_t n = 0; n < t->size; n += t->width) memcpy((char *)t->dst + n, &t->value, t->width);
    return 0;
}
static int is_registered(const void *at, size_t size) {
    pthread_mutex_lock(&tables);
    int found = range_at(host_ranges, (CUdeviceptr)at, size) != NULL;
    pthread_mutex_unlock(&tables);
    return found;
}
/* A source that is not registered is taken at the call, a destination that is not makes the call wait. */
static CUresult copy(void *dst, const void *src, size_t size, CUstream where, int src_is_host, int dst_is_host,
                     int is_async) {
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, where);
    REFUSE_IF(size && !src_is_host && !is_known((CUdeviceptr)src, size));
    REFUSE_IF(size && !dst_is_host && !is_known((CUdeviceptr)dst, size));
    int is_staged = is_async && src_is_host && !is_registered(src, size);
    transfer *made = malloc(sizeof *made + (is_staged ? size : 0));
    *made = (transfer){dst, src, size, 0, 0};
    if (is_staged) made->src = memcpy(made->staged, src, size);
    if (!is_async || (dst_is_host && !is_registered(dst, size))) return run_now(s, move, made);
    enqueue(s, move, made);
    return 0;
}
static CUresult set(CUdeviceptr dst, unsigned value, unsigned width, size_t num, CUstream where, int is_async) {
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, where);
    REFUSE_IF(dst % width || (num && !is_known(dst, num * width)));
    transfer *made = malloc(sizeof *made);
    *made = (transfer){(void *)dst, NULL, num * width, value, width};
    if (!is_async) return run_now(s, fill, made);
    enqueue(s, fill, made);
    return 0;
}
#define COPY(name, dst_type, src_type, src_is_host, dst_is_host) \
    static CUresult CALL(name(dst_type dst, src_type src, size_t size)) { \
        BEGIN; \
        return copy((void *)dst, (const void *)src, size, NULL, src_is_host, dst_is_host, 0); \
    } \
    static CUresult CALL(name##Async(dst_type dst, src_type src, size_t size, CUstream where)) { \
        BEGIN; \
        return copy((void *)dst, (const void *)src, size, where, src_is_host, dst_is_host, 1); \
    }
COPY(cuMemcpyHtoD, CUdeviceptr, const void *, 1, 0)
COPY(cuMemcpyDtoH, void *, CUdeviceptr, 0, 1)
COPY(cuMemcpyDtoD, CUdeviceptr, CUdeviceptr, 0, 0)
static int is_host(CUdeviceptr at, size_t size) { return !is_known(at, size); }
static CUresult CALL(cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t size)) {
    BEGIN;
    return copy((void *)dst, (const void *)src, size, NULL, is_host(src, size), is_host(dst, size), 0);
}
static CUresult CALL(cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t size, CUstream where)) {
    BEGIN;
    return copy((void *)dst, (const void *)src, size, where, is_host(src, size), is_host(dst, size), 1);
}
#define FILL(name, type) \
    static CUresult CALL(name(CUdeviceptr dst, type value, size_t num)) { \
        BEGIN; \
        return set(dst, value, sizeof value, num, NULL, 0); \
    } \
    static CUresult CALL(name##Async(CUdeviceptr dst, type value, size_t num, CUstream where)) { \
        BEGIN; \
        return set(dst, value, sizeof value, num, where, 1); \
    }
FILL(cuMemsetD8, unsigned char)
FILL(cuMemsetD32, unsigned)

const call copy_calls[] = {
    ROW(cuMemcpyHtoD),      ROW(cuMemcpyHtoDAsync), ROW(cuMemcpyDtoH),  ROW(cuMemcpyDtoHAsync), ROW(cuMemcpyDtoD),
    ROW(cuMemcpyDtoDAsync), ROW(cuMemcpy),          ROW(cuMemcpyAsync), ROW(cuMemsetD8),        ROW(cuMemsetD8Async),
    ROW(cuMemsetD32),       ROW(cuMemsetD32Async),  {NULL, NULL},
};
