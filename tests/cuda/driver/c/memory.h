/* Memory that the driver knows: of devices (vmm.c), of hosts (host.c), and who may touch it (reach.c). */
#ifndef MEMORY_H
#define MEMORY_H
#include "driver.h"

typedef struct {
    int fd, device;
    size_t size;
} allocation;
typedef struct {
    CUdeviceptr start;
    size_t size;
    int device;
    uint64_t inode;
    unsigned readable, writable; /* a bit a device */
} mapping;
typedef struct {
    CUdeviceptr start;
    size_t size;
    int device, is_mine; /* allocated, not only registered */
} host_range;

extern mapping mappings[TABLE];
extern host_range host_ranges[TABLE];   /* of the CPU: registered or allocated for devices */
extern host_range device_ranges[TABLE]; /* cuMemAlloc: of a device, no other process can map it */
extern atomic_uint memory_changes;      /* what a thread has found out about its reach holds until this moves */
extern atomic_int num_modules;

size_t memory_of_a_device(void);
size_t used_bytes(int device); /* tables are held, for this and what follows */
mapping *mapping_at(CUdeviceptr start, size_t size);
host_range *range_at(host_range *table, CUdeviceptr start, size_t size);
int num_memory_open(const char *kind);
int is_known(CUdeviceptr start, size_t size); /* a copy may touch it; from here on tables are free */
/* Whether `device` may; `from` and `to` become the range for which the answer holds. */
int may_touch(int device, CUdeviceptr start, size_t size, int is_write, CUdeviceptr *from, CUdeviceptr *to);
#endif
