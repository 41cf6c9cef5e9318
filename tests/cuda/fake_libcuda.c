/* A stand-in for libcuda.so.1: lets the real cuda.bindings run umem's sequence of driver calls without a GPU.
 *
 * "Device memory" is a memfd, reserving and mapping are mmap, a kernel launch runs a CPU twin that the test
 * has registered under the kernel's name, thread after thread. It refuses what the driver's documentation
 * forbids (cuda.h of CUDA 13) and counts what is left open, so it is evidence that the calls are legal, in
 * order and paired. It is no evidence about a GPU: not about ordering, peer access or speed.
 *
 * FAKE_CUDA_DEVICES=n         number of devices (2)
 * FAKE_CUDA_INIT=status       what cuInit returns
 * FAKE_CUDA_SHARES=0          devices without virtual memory management
 * FAKE_CUDA_PEERS=0           devices do not reach each other's memory
 * FAKE_CUDA_NATIVE_ATOMICS=0  they do, but over a link without atomics
 * FAKE_CUDA_HANGS=1           a launched kernel never ends
 * FAKE_CUDA_KERNEL=status     how kernels end
 * FAKE_CUDA_EVENTS=status     how events are made
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#undef cuGetProcAddress

enum { GRANULARITY = 2 << 20, MEMORY = 256 << 20, TABLE = 256, MAX_THREADS = 1024, EM_CUDA_ = 190 };

typedef struct { int fd, device; size_t size; } allocation;
typedef struct { CUdeviceptr start; size_t size; int device, accessible; } mapping;
typedef struct { CUdeviceptr start; size_t size; } reservation;
typedef struct { char *image; size_t size; } module;
typedef void (*twin)(int64_t thread, int64_t num_threads, void **arguments);

static allocation *allocations[TABLE];
static mapping mappings[TABLE];
static reservation reservations[TABLE];
static struct { char name[512]; twin run; } twins[TABLE];
static int initialised, num_contexts, num_modules, num_twins;
static int last_kernel_status, kernel_running;
static size_t created_bytes;
static __thread CUcontext current;
static int num_events_open(void);
static char trace[1 << 16];

static int option(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
static int num_devices(void) { return option("FAKE_CUDA_DEVICES", 2); }
static int reaches(int a, int b) { return a == b || option("FAKE_CUDA_PEERS", 1); }

/* What the tests read: the calls so far, and what is still open. */
const char *fake_cuda_trace(void) { return trace; }
int fake_cuda_num_open(const char *kind) {
    int n = 0;
    for (int i = 0; i < TABLE; i++)
        n += !strcmp(kind, "handle") ? allocations[i] != NULL
             : !strcmp(kind, "mapping") ? mappings[i].size != 0
             : !strcmp(kind, "reservation") ? reservations[i].size != 0 : 0;
    if (!strcmp(kind, "event")) return num_events_open();
    return n + (!strcmp(kind, "context") ? num_contexts : !strcmp(kind, "module") ? num_modules : 0);
}
void fake_cuda_register_twin(const char *name, void *run) {
    snprintf(twins[num_twins].name, sizeof twins[0].name, "%s", name);
    twins[num_twins++].run = (twin)run;
}

#define CALL(...) fake_##__VA_ARGS__
static void note(const char *call) { /* the first calls only: a wait asks without end */
    size_t length = strlen(trace);
    snprintf(trace + length, sizeof trace - length, "%s ", call + sizeof "fake");
}
#define BEGIN do { note(__func__); if (!initialised) return CUDA_ERROR_NOT_INITIALIZED; } while (0)
#define NEEDS_CONTEXT do { if (!current) return CUDA_ERROR_INVALID_CONTEXT; } while (0)
#define REFUSE_IF(condition) do { if (condition) return CUDA_ERROR_INVALID_VALUE; } while (0)

static CUresult CALL(cuInit(unsigned flags)) {
    note(__func__);
    int status = option("FAKE_CUDA_INIT", 0);
    initialised = !status && !flags;
    return status;
}
static CUresult CALL(cuDriverGetVersion(int *version)) { *version = 13000; return 0; }
static CUresult CALL(cuDeviceGetCount(int *count)) { BEGIN; *count = num_devices(); return 0; }
static CUresult CALL(cuDeviceGet(CUdevice *device, int ordinal)) {
    BEGIN;
    if (ordinal < 0 || ordinal >= num_devices()) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return 0;
}
static CUresult CALL(cuDeviceGetName(char *name, int length, CUdevice device)) {
    BEGIN;
    snprintf(name, length, "fake GPU %d", device);
    return 0;
}
static CUresult CALL(cuDeviceTotalMem(size_t *bytes, CUdevice device)) { BEGIN; *bytes = MEMORY; return 0; }
static CUresult CALL(cuDeviceGetAttribute(int *value, CUdevice_attribute wanted, CUdevice device)) {
    BEGIN;
    *value = wanted == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9
             : wanted == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 0
             : wanted == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
                 ? option("FAKE_CUDA_SHARES", 1) : 1;
    return 0;
}
static CUresult CALL(cuDeviceCanAccessPeer(int *can, CUdevice a, CUdevice b)) {
    BEGIN;
    *can = a != b && reaches(a, b); /* documented: a device is not its own peer */
    return 0;
}
static CUresult CALL(cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute wanted, CUdevice a,
                                             CUdevice b)) {
    BEGIN;
    if (a == b) return CUDA_ERROR_INVALID_DEVICE;
    int atomics = wanted == CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
    *value = atomics ? option("FAKE_CUDA_NATIVE_ATOMICS", 1) : 1;
    return 0;
}

static CUresult CALL(cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)) {
    BEGIN;
    num_contexts++;
    *context = (CUcontext)(intptr_t)(device + 1);
    return 0;
}
static CUresult CALL(cuDevicePrimaryCtxRelease(CUdevice device)) { BEGIN; num_contexts--; return 0; }
static CUresult CALL(cuCtxSetCurrent(CUcontext context)) { BEGIN; current = context; return 0; }
static CUresult CALL(cuCtxGetCurrent(CUcontext *context)) { BEGIN; *context = current; return 0; }
static CUresult CALL(cuMemGetInfo(size_t *free_bytes, size_t *total)) {
    BEGIN; NEEDS_CONTEXT;
    *free_bytes = MEMORY - created_bytes;
    *total = MEMORY;
    return 0;
}

static CUresult CALL(cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *wanted,
                                                   CUmemAllocationGranularity_flags flags)) {
    BEGIN;
    REFUSE_IF(wanted->type != CU_MEM_ALLOCATION_TYPE_PINNED);
    *bytes = GRANULARITY;
    return 0;
}
static CUresult enter(allocation made, CUmemGenericAllocationHandle *handle) {
    for (int i = 0; i < TABLE; i++)
        if (!allocations[i]) {
            allocations[i] = malloc(sizeof made);
            *allocations[i] = made;
            *handle = (CUmemGenericAllocationHandle)allocations[i];
            return 0;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}
static int slot_of(CUmemGenericAllocationHandle handle) {
    for (int i = 0; i < TABLE; i++)
        if (allocations[i] && allocations[i] == (allocation *)handle) return i;
    return -1;
}
static CUresult CALL(cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                                 const CUmemAllocationProp *wanted, unsigned long long flags)) {
    BEGIN;
    REFUSE_IF(!size || size % GRANULARITY || flags || wanted->type != CU_MEM_ALLOCATION_TYPE_PINNED);
    REFUSE_IF(wanted->location.type != CU_MEM_LOCATION_TYPE_DEVICE);
    if (wanted->location.id >= num_devices()) return CUDA_ERROR_INVALID_DEVICE;
    if (created_bytes + size > MEMORY) return CUDA_ERROR_OUT_OF_MEMORY;
    char name[32];
    snprintf(name, sizeof name, "fake-gpu-%d", wanted->location.id); /* an importer reads the device here */
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, size)) return CUDA_ERROR_OUT_OF_MEMORY;
    created_bytes += size;
    return enter((allocation){fd, wanted->location.id, size}, handle);
}
static CUresult CALL(cuMemRelease(CUmemGenericAllocationHandle handle)) {
    BEGIN;
    int slot = slot_of(handle);
    REFUSE_IF(slot < 0);
    close(allocations[slot]->fd);
    free(allocations[slot]);
    allocations[slot] = NULL;
    return 0;
}
static CUresult CALL(cuMemExportToShareableHandle(void *fd, CUmemGenericAllocationHandle handle,
                                                  CUmemAllocationHandleType type, unsigned long long flags)) {
    BEGIN;
    REFUSE_IF(slot_of(handle) < 0 || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    *(int *)fd = dup(((allocation *)handle)->fd);
    return 0;
}
static CUresult CALL(cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *fd_as_pointer,
                                                    CUmemAllocationHandleType type)) {
    BEGIN;
    int fd = (int)(intptr_t)fd_as_pointer, device;
    char link[64], target[256] = "";
    struct stat what;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    REFUSE_IF(type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    REFUSE_IF(readlink(link, target, sizeof target - 1) < 0);
    REFUSE_IF(sscanf(target, "/memfd:fake-gpu-%d", &device) != 1 || fstat(fd, &what));
    return enter((allocation){dup(fd), device, what.st_size}, handle);
}

static CUresult CALL(cuMemAddressReserve(CUdeviceptr *start, size_t size, size_t alignment, CUdeviceptr hint,
                                         unsigned long long flags)) {
    BEGIN;
    REFUSE_IF(!size || size % GRANULARITY || flags || (alignment & (alignment - 1)));
    /* The hint is not followed: the case that callers tend to forget. */
    char *got = mmap(0, size + GRANULARITY, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    for (int i = 0; i < TABLE; i++)
        if (!reservations[i].size) {
            *start = ((CUdeviceptr)got + GRANULARITY - 1) & ~(CUdeviceptr)(GRANULARITY - 1);
            reservations[i] = (reservation){*start, size};
            return 0;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}
static int overlaps(CUdeviceptr start, size_t size, const mapping *other) {
    return other->size && start < other->start + other->size && other->start < start + size;
}
static CUresult CALL(cuMemAddressFree(CUdeviceptr start, size_t size)) {
    BEGIN;
    for (int i = 0; i < TABLE; i++) REFUSE_IF(overlaps(start, size, &mappings[i]));
    for (int i = 0; i < TABLE; i++)
        if (reservations[i].start == start && reservations[i].size == size) {
            munmap((void *)start, size);
            reservations[i].size = 0;
            return 0;
        }
    return CUDA_ERROR_INVALID_VALUE;
}
static CUresult CALL(cuMemMap(CUdeviceptr start, size_t size, size_t offset,
                              CUmemGenericAllocationHandle handle, unsigned long long flags)) {
    BEGIN;
    int slot = slot_of(handle), reserved = 0, empty = -1;
    REFUSE_IF(slot < 0 || offset || flags || start % GRANULARITY || size % GRANULARITY);
    REFUSE_IF(size > allocations[slot]->size);
    for (int i = 0; i < TABLE; i++) {
        REFUSE_IF(overlaps(start, size, &mappings[i]));
        reserved |= reservations[i].size && reservations[i].start <= start &&
                    start + size <= reservations[i].start + reservations[i].size;
        if (!mappings[i].size) empty = i;
    }
    REFUSE_IF(!reserved || empty < 0);
    if (mmap((void *)start, size, PROT_NONE, MAP_SHARED | MAP_FIXED, allocations[slot]->fd, 0) == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mappings[empty] = (mapping){start, size, allocations[slot]->device, 0};
    return 0;
}
static mapping *whole_mapping(CUdeviceptr start, size_t size) {
    for (int i = 0; i < TABLE; i++)
        if (mappings[i].size == size && mappings[i].start == start) return &mappings[i];
    return NULL;
}
static CUresult CALL(cuMemUnmap(CUdeviceptr start, size_t size)) {
    BEGIN;
    mapping *found = whole_mapping(start, size);
    REFUSE_IF(!found);
    mmap((void *)start, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    found->size = 0;
    return 0;
}
static CUresult CALL(cuMemSetAccess(CUdeviceptr start, size_t size, const CUmemAccessDesc *who,
                                    size_t count)) {
    BEGIN;
    mapping *found = whole_mapping(start, size);
    REFUSE_IF(!found || count != 1 || who->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    REFUSE_IF(who->location.type != CU_MEM_LOCATION_TYPE_DEVICE);
    if (!reaches(who->location.id, found->device)) return CUDA_ERROR_INVALID_DEVICE;
    found->accessible = 1;
    return mprotect((void *)start, size, PROT_READ | PROT_WRITE) ? CUDA_ERROR_INVALID_VALUE : 0;
}

static int accessible(CUdeviceptr start, size_t size) {
    for (int i = 0; i < TABLE; i++)
        if (mappings[i].accessible && mappings[i].size && mappings[i].start <= start &&
            start + size <= mappings[i].start + mappings[i].size) return 1;
    return 0;
}
static CUresult CALL(cuMemcpyHtoD(CUdeviceptr dst, const void *src, size_t size)) {
    BEGIN; NEEDS_CONTEXT;
    REFUSE_IF(!accessible(dst, size));
    memcpy((void *)dst, src, size);
    return 0;
}
static CUresult CALL(cuMemcpyDtoH(void *dst, CUdeviceptr src, size_t size)) {
    BEGIN; NEEDS_CONTEXT;
    REFUSE_IF(!accessible(src, size));
    memcpy(dst, (const void *)src, size);
    return 0;
}

static CUresult CALL(cuModuleLoadData(CUmodule *loaded, const void *image)) {
    BEGIN; NEEDS_CONTEXT;
    const Elf64_Ehdr *elf = image;
    if (memcmp(elf->e_ident, ELFMAG, SELFMAG) || elf->e_machine != EM_CUDA_) return CUDA_ERROR_INVALID_IMAGE;
    /* All sections: the names of the kernels are in one of them. */
    size_t size = elf->e_shoff + (size_t)elf->e_shnum * elf->e_shentsize;
    const Elf64_Shdr *section = (const void *)((const char *)image + elf->e_shoff);
    for (int i = 0; i < elf->e_shnum; i++)
        if (section[i].sh_type != SHT_NOBITS && section[i].sh_offset + section[i].sh_size > size)
            size = section[i].sh_offset + section[i].sh_size;
    module *made = malloc(sizeof *made);
    *made = (module){malloc(size), size};
    memcpy(made->image, image, size);
    num_modules++;
    *loaded = (CUmodule)made;
    return 0;
}
static CUresult CALL(cuModuleUnload(CUmodule loaded)) {
    BEGIN; NEEDS_CONTEXT;
    free(((module *)loaded)->image);
    free(loaded);
    num_modules--;
    return 0;
}
static CUresult CALL(cuModuleGetFunction(CUfunction *function, CUmodule loaded, const char *name)) {
    BEGIN;
    module *from = (module *)loaded;
    if (!memmem(from->image, from->size, name, strlen(name) + 1)) return CUDA_ERROR_NOT_FOUND;
    for (int i = 0; i < num_twins; i++)
        if (!strcmp(twins[i].name, name)) {
            *function = (CUfunction)twins[i].run;
            return 0;
        }
    return CUDA_ERROR_NOT_FOUND;
}
static CUresult CALL(cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                    unsigned block_x, unsigned block_y, unsigned block_z,
                                    unsigned shared_bytes, CUstream stream, void **arguments, void **extra)) {
    BEGIN; NEEDS_CONTEXT;
    REFUSE_IF(!grid_x || !grid_y || !grid_z || !block_x || extra);
    REFUSE_IF(block_x * block_y * block_z > MAX_THREADS);
    int64_t num_threads = (int64_t)grid_x * block_x;
    last_kernel_status = option("FAKE_CUDA_KERNEL", 0);
    kernel_running = 1;
    for (int64_t thread = 0; thread < num_threads && !last_kernel_status; thread++)
        ((twin)function)(thread, num_threads, arguments);
    return 0;
}
static CUresult CALL(cuStreamQuery(CUstream stream)) {
    BEGIN; NEEDS_CONTEXT;
    if (option("FAKE_CUDA_HANGS", 0)) return CUDA_ERROR_NOT_READY;
    if (kernel_running) { /* a caller that does not ask again has not waited */
        kernel_running = 0;
        return CUDA_ERROR_NOT_READY;
    }
    return last_kernel_status;
}

#include "fake_events.h"

static CUresult not_supported(void) { return CUDA_ERROR_NOT_SUPPORTED; }
CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *found);
static const struct { const char *name; void *function; } functions[] = {
#define ROW(name) {#name, (void *)fake_##name},
    ROW(cuInit) ROW(cuDriverGetVersion) ROW(cuDeviceGetCount) ROW(cuDeviceGet) ROW(cuDeviceGetName)
    ROW(cuDeviceTotalMem) ROW(cuDeviceGetAttribute) ROW(cuDeviceCanAccessPeer) ROW(cuDeviceGetP2PAttribute)
    ROW(cuDevicePrimaryCtxRetain) ROW(cuDevicePrimaryCtxRelease) ROW(cuCtxSetCurrent) ROW(cuCtxGetCurrent)
    ROW(cuMemGetInfo) ROW(cuMemGetAllocationGranularity) ROW(cuMemCreate) ROW(cuMemRelease)
    ROW(cuMemExportToShareableHandle) ROW(cuMemImportFromShareableHandle) ROW(cuMemAddressReserve)
    ROW(cuMemAddressFree) ROW(cuMemMap) ROW(cuMemUnmap) ROW(cuMemSetAccess)
    ROW(cuMemcpyHtoD) ROW(cuMemcpyDtoH)
    ROW(cuModuleLoadData) ROW(cuModuleUnload) ROW(cuModuleGetFunction) ROW(cuLaunchKernel) ROW(cuStreamQuery)
    ROW(cuCtxPushCurrent) ROW(cuCtxPopCurrent) ROW(cuThreadExchangeStreamCaptureMode)
    ROW(cuEventCreate) ROW(cuEventRecord) ROW(cuEventQuery) ROW(cuEventDestroy)
    {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
};

/* The one symbol that cuda.bindings looks up by name; it asks for all others here. */
CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *found) {
    *function = (void *)not_supported;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!strcmp(functions[i].name, name)) *function = functions[i].function;
    if (found) *found = CU_GET_PROC_ADDRESS_SUCCESS;
    return 0;
}
