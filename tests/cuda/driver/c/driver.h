/* What every part of the driver shares: calls and their table, options, devices.
 *
 * Options, read from the environment when they matter:
 * FAKE_CUDA_DEVICES=n         number of devices (2)
 * FAKE_CUDA_CAPABILITY=90     compute capability 9.0 of the devices
 * FAKE_CUDA_DRIVER=13050      CUDA 13.5 of the driver, which does not know PTX that is newer
 * FAKE_CUDA_MEMORY=n          MiB of memory a device (1024)
 * FAKE_CUDA_INIT=status       what cuInit returns
 * FAKE_CUDA_SHARES=0          devices without virtual memory management
 * FAKE_CUDA_PEERS=0           devices do not reach each other's memory
 * FAKE_CUDA_NATIVE_ATOMICS=0  they do, but over a link without atomics
 * FAKE_CUDA_STREAM_WORDS=0    devices whose streams set no words and wait for none
 * FAKE_CUDA_EVENTS=status     how events are made
 * FAKE_CUDA_CAPTURING=1       a stream is being captured: threads in the default mode may not ask for events
 * FAKE_CUDA_WEAK=1            weak memory (weak.c); chosen when a module is loaded
 * FAKE_CUDA_STRICT=1          kernels touch only what their device was given (reach.c); likewise
 * FAKE_CUDA_WORKERS=n         threads of the CPU for a launch (one a core); with 1 a seed repeats its run
 * FAKE_CUDA_RESIDENT=n        blocks that run at once (as many as 132 multiprocessors hold)
 * FAKE_CUDA_SWITCH=n          ordered accesses, on average, until another thread runs (1000)
 * FAKE_CUDA_SEED=n            of everything random
 * FAKE_CUDA_CACHE, _PYTHON    where machine code is kept, and what makes it (module.c)
 * FAKE_CUDA_VERBOSE=1         says on stderr what a program did wrong
 */
#ifndef DRIVER_H
#define DRIVER_H
#define _GNU_SOURCE
#include <cuda.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#undef cuGetProcAddress

enum { NEWEST_DRIVER = 13050, GRANULARITY = 2 << 20, MAX_DEVICES = 16, TABLE = 1024, SMS = 132, MAX_THREADS = 1024, WARP = 32 };

/* A call is a function fake_NAME and a row in its file's table; table.c finds it by name. */
typedef struct {
    const char *name;
    void *function;
} call;
#define CALL(...) fake_##__VA_ARGS__
#define ROW(name) {#name, (void *)fake_##name}
#define EXPORTED __attribute__((visibility("default")))
extern const call device_calls[], vmm_calls[], host_calls[], module_calls[], launch_calls[], stream_calls[],
    event_calls[], copy_calls[];

/* An error of a kernel stays with its device until the context is reset. */
typedef struct {
    atomic_int fault, is_stopping;
} device_state;
extern device_state devices[MAX_DEVICES];
extern int initialised;
extern __thread CUcontext current;
extern pthread_mutex_t tables; /* held while a table of memory is read or changed */

int option(const char *name, int otherwise);
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void note(const char *call);
int num_devices(void);
int reaches(int device, int other);
static inline int current_device(void) { return (int)(intptr_t)current - 1; }

#define BEGIN \
    do { \
        note(__func__); \
        if (!initialised) return CUDA_ERROR_NOT_INITIALIZED; \
    } while (0)
#define NEEDS_DEVICE(device) \
    do { \
        if ((device) < 0 || (device) >= num_devices()) return CUDA_ERROR_INVALID_DEVICE; \
    } while (0)
/* A context that lives, on a device without an error. */
#define NEEDS_CONTEXT \
    do { \
        if (!current) return CUDA_ERROR_INVALID_CONTEXT; \
        if (devices[current_device()].fault) return devices[current_device()].fault; \
    } while (0)
#define REFUSE_IF(condition) \
    do { \
        if (condition) return CUDA_ERROR_INVALID_VALUE; \
    } while (0)
#endif
