/* Virtual memory management: memory of a device is a memfd, reserving and mapping are mmap (cuda.h of CUDA 13).
 *
 * Refused is what the documentation forbids: offsets, parts of mappings, reserved ranges that are still mapped.
 */
#include "memory.h"
#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    CUdeviceptr start;
    size_t size;
} reservation;
typedef struct {
    uint64_t inode;
    size_t size;
    int device;
} creation; /* alive as long as something holds it */

static allocation *allocations[TABLE];
mapping mappings[TABLE];
static reservation reservations[TABLE];
static creation creations[TABLE];
pthread_mutex_t tables = PTHREAD_MUTEX_INITIALIZER;
atomic_uint memory_changes = 1;

#define LOCKED(expression) \
    ({ \
        pthread_mutex_lock(&tables); \
        __auto_type result_ = (expression); \
        pthread_mutex_unlock(&tables); \
        result_; \
    })

size_t memory_of_a_device(void) { return (size_t)option("FAKE_CUDA_MEMORY", 1024) << 20; }
int num_memory_open(const char *kind) {
    int n = 0;
    for (int i = 0; i < TABLE; i++)
        n += !strcmp(kind, "handle")         ? allocations[i] != NULL
             : !strcmp(kind, "mapping")      ? mappings[i].size != 0
             : !strcmp(kind, "reservation")  ? reservations[i].size != 0
             : !strcmp(kind, "registration") ? host_ranges[i].size != 0 && !host_ranges[i].is_mine
             : !strcmp(kind, "buffer")       ? device_ranges[i].size != 0
                                             : 0;
    return n;
}

/* --- how much of a device is used: what any descriptor or mapping of this process holds */
static int is_held(uint64_t inode) {
    for (int i = 0; i < TABLE; i++)
        if (mappings[i].size && mappings[i].inode == inode) return 1;
    DIR *folder = opendir("/proc/self/fd");
    int found = 0;
    for (struct dirent *entry; !found && (entry = readdir(folder));) {
        struct stat what;
        found = !fstat(atoi(entry->d_name), &what) && what.st_ino == inode && what.st_nlink == 0;
    }
    closedir(folder);
    return found;
}
size_t used_bytes(int device) {
    size_t total = 0;
    for (int i = 0; i < TABLE; i++) {
        if (creations[i].size && !is_held(creations[i].inode)) creations[i].size = 0;
        if (creations[i].device == device) total += creations[i].size;
        if (device_ranges[i].device == device) total += device_ranges[i].size;
    }
    return total;
}
static CUresult CALL(cuMemGetInfo(size_t *free_bytes, size_t *total)) {
    BEGIN;
    NEEDS_CONTEXT;
    *total = memory_of_a_device();
    *free_bytes = *total - LOCKED(used_bytes(current_device()));
    return 0;
}

/* --- handles */
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
static CUresult CALL(cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *wanted,
                                                   CUmemAllocationGranularity_flags flags)) {
    BEGIN;
    REFUSE_IF(wanted->type != CU_MEM_ALLOCATION_TYPE_PINNED);
    *bytes = GRANULARITY;
    return 0;
}
static CUresult create(CUmemGenericAllocationHandle *handle, size_t size, int device) {
    if (used_bytes(device) + size > memory_of_a_device()) return CUDA_ERROR_OUT_OF_MEMORY;
    char name[32];
    struct stat what;
    snprintf(name, sizeof name, "fake-gpu-%d", device); /* an importer reads the device here */
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, size) || fstat(fd, &what)) return CUDA_ERROR_OUT_OF_MEMORY;
    for (int i = 0; i < TABLE; i++)
        if (!creations[i].size) {
            creations[i] = (creation){what.st_ino, size, device};
            return enter((allocation){fd, device, size}, handle);
        }
    close(fd);
    return CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult CALL(cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *wanted,
                                 unsigned long long flags)) {
    BEGIN;
    REFUSE_IF(!size || size % GRANULARITY || flags || wanted->type != CU_MEM_ALLOCATION_TYPE_PINNED);
    REFUSE_IF(wanted->location.type != CU_MEM_LOCATION_TYPE_DEVICE);
    NEEDS_DEVICE(wanted->location.id);
    return LOCKED(create(handle, size, wanted->location.id));
}
static CUresult release(CUmemGenericAllocationHandle handle) {
    int slot = slot_of(handle);
    REFUSE_IF(slot < 0);
    close(allocations[slot]->fd);
    free(allocations[slot]);
    allocations[slot] = NULL;
    return 0;
}
static CUresult CALL(cuMemRelease(CUmemGenericAllocationHandle handle)) {
    BEGIN;
    return LOCKED(release(handle));
}
static CUresult CALL(cuMemExportToShareableHandle(void *fd, CUmemGenericAllocationHandle handle,
                                                  CUmemAllocationHandleType type, unsigned long long flags)) {
    BEGIN;
    REFUSE_IF(LOCKED(slot_of(handle)) < 0 || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
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
    return LOCKED(enter((allocation){dup(fd), device, what.st_size}, handle));
}

/* --- addresses */
static CUresult CALL(cuMemAddressReserve(CUdeviceptr *start, size_t size, size_t alignment, CUdeviceptr hint,
                                         unsigned long long flags)) {
    BEGIN;
    REFUSE_IF(!size || size % GRANULARITY || flags || (alignment & (alignment - 1)));
    /* The hint is not followed: the case that callers tend to forget. */
    char *got = mmap(0, size + GRANULARITY, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    *start = ((CUdeviceptr)got + GRANULARITY - 1) & ~(CUdeviceptr)(GRANULARITY - 1);
    CUresult status = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&tables);
    for (int i = 0; i < TABLE && status; i++)
        if (!reservations[i].size) {
            reservations[i] = (reservation){*start, size};
            status = 0;
        }
    pthread_mutex_unlock(&tables);
    return status;
}
static int overlaps(CUdeviceptr start, size_t size, const mapping *other) {
    return other->size && start < other->start + other->size && other->start < start + size;
}
static CUresult address_free(CUdeviceptr start, size_t size) {
    for (int i = 0; i < TABLE; i++) REFUSE_IF(overlaps(start, size, &mappings[i]));
    for (int i = 0; i < TABLE; i++)
        if (reservations[i].start == start && reservations[i].size == size && size) {
            munmap((void *)start, size);
            reservations[i].size = 0;
            return 0;
        }
    return CUDA_ERROR_INVALID_VALUE;
}
static CUresult CALL(cuMemAddressFree(CUdeviceptr start, size_t size)) {
    BEGIN;
    return LOCKED(address_free(start, size));
}
static CUresult map(CUdeviceptr start, size_t size, CUmemGenericAllocationHandle handle) {
    int slot = slot_of(handle), reserved = 0, empty = -1;
    struct stat what;
    REFUSE_IF(slot < 0 || size > allocations[slot]->size);
    for (int i = 0; i < TABLE; i++) {
        REFUSE_IF(overlaps(start, size, &mappings[i]));
        reserved |= reservations[i].size && reservations[i].start <= start &&
                    start + size <= reservations[i].start + reservations[i].size;
        if (!mappings[i].size) empty = i;
    }
    REFUSE_IF(!reserved || empty < 0 || fstat(allocations[slot]->fd, &what));
    if (mmap((void *)start, size, PROT_NONE, MAP_SHARED | MAP_FIXED, allocations[slot]->fd, 0) == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mappings[empty] = (mapping){start, size, allocations[slot]->device, what.st_ino, 0, 0};
    memory_changes++;
    return 0;
}
static CUresult CALL(cuMemMap(CUdeviceptr start, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                              unsigned long long flags)) {
    BEGIN;
    REFUSE_IF(offset || flags || !size || start % GRANULARITY || size % GRANULARITY);
    return LOCKED(map(start, size, handle));
}
mapping *mapping_at(CUdeviceptr start, size_t size) {
    for (int i = 0; i < TABLE; i++)
        if (mappings[i].size && mappings[i].start <= start && start + size <= mappings[i].start + mappings[i].size)
            return &mappings[i];
    return NULL;
}
static CUresult unmap(CUdeviceptr start, size_t size) {
    mapping *found = mapping_at(start, size);
    REFUSE_IF(!found || found->start != start || found->size != size);
    mmap((void *)start, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    found->size = 0;
    memory_changes++;
    return 0;
}
static CUresult CALL(cuMemUnmap(CUdeviceptr start, size_t size)) {
    BEGIN;
    return LOCKED(unmap(start, size));
}

/* --- grants: which device may touch a mapping, and how */
static CUresult grant(mapping *found, const CUmemAccessDesc *who) {
    REFUSE_IF(who->location.type != CU_MEM_LOCATION_TYPE_DEVICE);
    NEEDS_DEVICE(who->location.id);
    if (!reaches(who->location.id, found->device)) return CUDA_ERROR_INVALID_DEVICE;
    unsigned bit = 1u << who->location.id;
    found->readable = who->flags == CU_MEM_ACCESS_FLAGS_PROT_NONE ? found->readable & ~bit : found->readable | bit;
    found->writable =
        who->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? found->writable | bit : found->writable & ~bit;
    int allowed = (found->readable ? PROT_READ : 0) | (found->writable ? PROT_WRITE : 0);
    return mprotect((void *)found->start, found->size, allowed) ? CUDA_ERROR_INVALID_VALUE : 0;
}
static CUresult set_access(CUdeviceptr start, size_t size, const CUmemAccessDesc *who, size_t count) {
    CUdeviceptr end = start + size;
    for (CUdeviceptr at = start; at < end;) { /* whole mappings, without a gap */
        mapping *found = mapping_at(at, 1);
        REFUSE_IF(!found || found->start != at || at + found->size > end);
        at += found->size;
    }
    for (CUdeviceptr at = start; at < end; at += mapping_at(at, 1)->size)
        for (size_t n = 0; n < count; n++) {
            CUresult status = grant(mapping_at(at, 1), &who[n]);
            if (status) return status;
        }
    memory_changes++;
    return 0;
}
static CUresult CALL(cuMemSetAccess(CUdeviceptr start, size_t size, const CUmemAccessDesc *who, size_t count)) {
    BEGIN;
    REFUSE_IF(!size || !count);
    return LOCKED(set_access(start, size, who, count));
}
static CUresult CALL(cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr at)) {
    BEGIN;
    pthread_mutex_lock(&tables);
    mapping *found = mapping_at(at, 1);
    unsigned bit = 1u << location->id;
    if (found)
        *flags = found->writable & bit   ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                 : found->readable & bit ? CU_MEM_ACCESS_FLAGS_PROT_READ
                                         : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    pthread_mutex_unlock(&tables);
    return found ? 0 : CUDA_ERROR_INVALID_VALUE;
}

const call vmm_calls[] = {
    ROW(cuMemGetInfo),
    ROW(cuMemGetAllocationGranularity),
    ROW(cuMemCreate),
    ROW(cuMemRelease),
    ROW(cuMemExportToShareableHandle),
    ROW(cuMemImportFromShareableHandle),
    ROW(cuMemAddressReserve),
    ROW(cuMemAddressFree),
    ROW(cuMemMap),
    ROW(cuMemUnmap),
    ROW(cuMemSetAccess),
    ROW(cuMemGetAccess),
    {NULL, NULL},
};
