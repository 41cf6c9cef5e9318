/* Who may touch what. Under FAKE_CUDA_STRICT a kernel touches only what its device was given: mapped and granted to
 * it, allocated for it, or registered. All else is an illegal address, although this CPU could well read it.
 */
#include "execute.h"
#include "memory.h"

int is_known(CUdeviceptr start, size_t size) {
    pthread_mutex_lock(&tables);
    mapping *mapped = mapping_at(start, size);
    int known =
        (mapped && mapped->readable) || range_at(device_ranges, start, size) || range_at(host_ranges, start, size);
    pthread_mutex_unlock(&tables);
    return known;
}
int may_touch(int device, CUdeviceptr start, size_t size, int is_write, CUdeviceptr *from, CUdeviceptr *to) {
    pthread_mutex_lock(&tables);
    mapping *mapped = mapping_at(start, size);
    host_range *range = range_at(host_ranges, start, size), *own = range_at(device_ranges, start, size);
    if (own && own->device == device) range = own;
    if (mapped && !((is_write ? mapped->writable : mapped->readable) >> device & 1)) mapped = NULL;
    if (mapped) *from = mapped->start, *to = mapped->start + mapped->size;
    if (range) *from = range->start, *to = range->start + range->size;
    pthread_mutex_unlock(&tables);
    return mapped || range;
}
EXPORTED void ptx_check(thread *t, uint64_t at, uint32_t bytes, uint32_t is_write) {
    reach *r = &t->reach[is_write != 0];
    if (r->changes == memory_changes && r->from <= at && at + bytes <= r->to) return;
    unsigned changes = memory_changes;
    if (!may_touch(t->device, at, bytes, is_write, &r->from, &r->to)) {
        complain("device %d may not %s %u bytes at %p", t->device, is_write ? "write" : "read", bytes, (void *)at);
        ptx_trap(t, CUDA_ERROR_ILLEGAL_ADDRESS);
    }
    r->changes = changes;
}
