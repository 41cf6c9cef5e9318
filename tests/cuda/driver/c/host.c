/* Memory of the CPU that devices may touch, and memory of a device that no other process maps; what an address is. */
#include "memory.h"
#include "stream.h"
#include <sys/mman.h>

enum { PAGE = 4096 };
host_range host_ranges[TABLE], device_ranges[TABLE];

host_range *range_at(host_range *table, CUdeviceptr start, size_t size) {
    for (int n = 0; n < TABLE; n++)
        if (table[n].size && table[n].start <= start && start + size <= table[n].start + table[n].size)
            return &table[n];
    return NULL;
}
static int touches(const host_range *table, CUdeviceptr start, size_t size) {
    for (int n = 0; n < TABLE; n++)
        if (table[n].size && table[n].start < start + size && start < table[n].start + table[n].size) return 1;
    return 0;
}
static CUresult enter(host_range *table, host_range made) {
    for (int n = 0; n < TABLE; n++)
        if (!table[n].size) {
            table[n] = made;
            memory_changes++;
            return 0;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult forget(host_range *table, CUdeviceptr start, int is_mine, CUresult otherwise) {
    for (int n = 0; n < TABLE; n++)
        if (table[n].size && table[n].start == start && table[n].is_mine == is_mine) {
            if (is_mine) munmap((void *)start, table[n].size);
            table[n].size = 0;
            memory_changes++;
            return 0;
        }
    return otherwise;
}
static CUresult allocate(host_range *table, size_t size, CUdeviceptr *got) {
    REFUSE_IF(!size);
    size = (size + PAGE - 1) & ~(size_t)(PAGE - 1);
    void *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    *got = (CUdeviceptr)at;
    return enter(table, (host_range){*got, size, current_device(), 1});
}
#define LOCKED(expression) \
    ({ \
        pthread_mutex_lock(&tables); \
        CUresult result_ = (expression); \
        pthread_mutex_unlock(&tables); \
        result_; \
    })

static CUresult CALL(cuMemHostRegister(void *at, size_t size, unsigned flags)) {
    BEGIN;
    NEEDS_CONTEXT;
    REFUSE_IF(!at || !size);
    unsigned char resident;
    CUdeviceptr page = (CUdeviceptr)at & -(CUdeviceptr)PAGE;
    REFUSE_IF(mincore((void *)page, 1, &resident)); /* not mapped */
    pthread_mutex_lock(&tables);
    CUresult status = touches(host_ranges, (CUdeviceptr)at, size)
                          ? CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
                          : enter(host_ranges, (host_range){(CUdeviceptr)at, size, current_device(), 0});
    pthread_mutex_unlock(&tables);
    return status;
}
static CUresult CALL(cuMemHostUnregister(void *at)) {
    BEGIN;
    NEEDS_CONTEXT;
    return LOCKED(forget(host_ranges, (CUdeviceptr)at, 0, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED));
}
static CUresult CALL(cuMemHostGetDevicePointer(CUdeviceptr *got, void *at, unsigned flags)) {
    BEGIN;
    NEEDS_CONTEXT;
    REFUSE_IF(flags);
    *got = (CUdeviceptr)at;
    return LOCKED(range_at(host_ranges, (CUdeviceptr)at, 1) ? 0 : CUDA_ERROR_INVALID_VALUE);
}
static CUresult CALL(cuMemHostAlloc(void **got, size_t size, unsigned flags)) {
    BEGIN;
    NEEDS_CONTEXT;
    return LOCKED(allocate(host_ranges, size, (CUdeviceptr *)got));
}
static CUresult CALL(cuMemAllocHost(void **got, size_t size)) { return fake_cuMemHostAlloc(got, size, 0); }
static CUresult CALL(cuMemFreeHost(void *at)) {
    BEGIN;
    NEEDS_CONTEXT;
    settle_device(current_device());
    return LOCKED(forget(host_ranges, (CUdeviceptr)at, 1, CUDA_ERROR_INVALID_VALUE));
}
static CUresult CALL(cuMemAlloc(CUdeviceptr *got, size_t size)) {
    BEGIN;
    NEEDS_CONTEXT;
    return LOCKED(used_bytes(current_device()) + size > memory_of_a_device() ? CUDA_ERROR_OUT_OF_MEMORY
                                                                             : allocate(device_ranges, size, got));
}
static CUresult CALL(cuMemFree(CUdeviceptr at)) { /* documented: waits for the device */
    BEGIN;
    NEEDS_CONTEXT;
    settle_device(current_device());
    return LOCKED(forget(device_ranges, at, 1, CUDA_ERROR_INVALID_VALUE));
}
static CUresult CALL(cuMemAllocAsync(CUdeviceptr *got, size_t size, CUstream stream)) {
    return fake_cuMemAlloc(got, size);
}
static CUresult CALL(cuMemFreeAsync(CUdeviceptr at, CUstream stream)) { return fake_cuMemFree(at); }
static CUresult CALL(cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device)) {
    BEGIN;
    *pool = (CUmemoryPool)16;
    return 0;
}
static CUresult CALL(cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device)) {
    BEGIN;
    *pool = (CUmemoryPool)16;
    return 0;
}

/* --- what an address is */
static CUresult describe(CUdeviceptr at, CUdeviceptr *start, size_t *size, int *device, unsigned *type) {
    mapping *mapped = mapping_at(at, 1);
    host_range *found = range_at(device_ranges, at, 1);
    *type = CU_MEMORYTYPE_DEVICE;
    if (mapped) {
        *start = mapped->start, *size = mapped->size, *device = mapped->device;
        return 0;
    }
    if (!found) {
        found = range_at(host_ranges, at, 1);
        *type = CU_MEMORYTYPE_HOST;
    }
    if (!found) return CUDA_ERROR_INVALID_VALUE;
    *start = found->start, *size = found->size, *device = found->device;
    return 0;
}
static CUresult CALL(cuMemGetAddressRange(CUdeviceptr *base, size_t *size, CUdeviceptr at)) {
    BEGIN;
    NEEDS_CONTEXT;
    CUdeviceptr start;
    size_t bytes;
    int device;
    unsigned type;
    CUresult status = LOCKED(describe(at, &start, &bytes, &device, &type));
    if (status) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = start;
    if (size) *size = bytes;
    return 0;
}
static CUresult CALL(cuPointerGetAttribute(void *data, CUpointer_attribute wanted, CUdeviceptr at)) {
    BEGIN;
    NEEDS_CONTEXT;
    CUdeviceptr start;
    size_t bytes;
    int device;
    unsigned type;
    CUresult status = LOCKED(describe(at, &start, &bytes, &device, &type));
    if (status) return status;
    switch (wanted) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned *)data = type; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)data = at; break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        REFUSE_IF(type != CU_MEMORYTYPE_HOST);
        *(CUdeviceptr *)data = at;
        break;
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)data = (CUcontext)(intptr_t)(device + 1); break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)data = device; break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(int *)data = 0; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return 0;
}

const call host_calls[] = {
    ROW(cuMemHostRegister),
    ROW(cuMemHostUnregister),
    ROW(cuMemHostGetDevicePointer),
    ROW(cuMemHostAlloc),
    ROW(cuMemAllocHost),
    ROW(cuMemFreeHost),
    ROW(cuMemAlloc),
    ROW(cuMemFree),
    ROW(cuMemAllocAsync),
    ROW(cuMemFreeAsync),
    ROW(cuDeviceGetDefaultMemPool),
    ROW(cuDeviceGetMemPool),
    ROW(cuMemGetAddressRange),
    ROW(cuPointerGetAttribute),
    {NULL, NULL},
};
