/* Devices and contexts, and what the tests read: the calls so far, and what is still open. */
#include "memory.h"
#include "stream.h"
#include <stdarg.h>

enum { DEPTH = 64, NOT_REACHED = 0 };

device_state devices[MAX_DEVICES];
int initialised;
__thread CUcontext current;
static atomic_int num_contexts;
static int retained[MAX_DEVICES];
static char trace[1 << 16];
static __thread CUcontext outer[DEPTH];
static __thread int depth;

int option(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
void complain(const char *format, ...) {
    if (!option("FAKE_CUDA_VERBOSE", 0)) return;
    va_list arguments;
    va_start(arguments, format);
    fputs("fake GPU: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}
int num_devices(void) { return option("FAKE_CUDA_DEVICES", 2); }
int reaches(int device, int other) { return device == other || option("FAKE_CUDA_PEERS", 1); }

void note(const char *name) { /* the first calls only: a wait asks without end */
    static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;
    static size_t length;
    pthread_mutex_lock(&writing);
    if (length + strlen(name) < sizeof trace) length += sprintf(trace + length, "%s ", name + sizeof "fake");
    pthread_mutex_unlock(&writing);
}
EXPORTED const char *fake_cuda_trace(void) { return trace; }
EXPORTED int fake_cuda_num_open(const char *kind) {
    if (!strcmp(kind, "context")) return num_contexts;
    if (!strcmp(kind, "module")) return num_modules;
    if (!strcmp(kind, "event")) return num_events();
    if (!strcmp(kind, "stream")) return num_streams();
    return num_memory_open(kind);
}

static CUresult CALL(cuInit(unsigned flags)) {
    note(__func__);
    int status = option("FAKE_CUDA_INIT", 0);
    initialised = !status && !flags;
    return flags ? CUDA_ERROR_INVALID_VALUE : (CUresult)status;
}
static CUresult CALL(cuDriverGetVersion(int *version)) {
    *version = option("FAKE_CUDA_DRIVER", NEWEST_DRIVER);
    return 0;
}
static CUresult CALL(cuDeviceGetCount(int *count)) {
    BEGIN;
    *count = num_devices();
    return 0;
}
static CUresult CALL(cuDeviceGet(CUdevice *device, int ordinal)) {
    BEGIN;
    NEEDS_DEVICE(ordinal);
    *device = ordinal;
    return 0;
}
static CUresult CALL(cuDeviceGetName(char *name, int length, CUdevice device)) {
    BEGIN;
    NEEDS_DEVICE(device);
    snprintf(name, length, "fake GPU %d", device);
    return 0;
}
static CUresult CALL(cuDeviceGetUuid(CUuuid *id, CUdevice device)) {
    BEGIN;
    NEEDS_DEVICE(device);
    memset(id, 0, sizeof *id);
    id->bytes[0] = (char)0xFA;
    id->bytes[15] = (char)device;
    return 0;
}
static CUresult CALL(cuDeviceTotalMem(size_t *bytes, CUdevice device)) {
    BEGIN;
    NEEDS_DEVICE(device);
    *bytes = memory_of_a_device();
    return 0;
}
static CUresult CALL(cuDeviceGetAttribute(int *value, CUdevice_attribute wanted, CUdevice device)) {
    BEGIN;
    NEEDS_DEVICE(device);
    switch (wanted) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = option("FAKE_CUDA_CAPABILITY", 90) / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = option("FAKE_CUDA_CAPABILITY", 90) % 10; break;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: *value = option("FAKE_CUDA_SHARES", 1); break;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS: *value = option("FAKE_CUDA_STREAM_WORDS", 1); break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = SMS; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = MAX_THREADS; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = 2048; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = WARP; break;
    case CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS:
    case CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED: *value = 0; break;
    default: *value = 1;
    }
    return 0;
}
static CUresult CALL(cuDeviceComputeCapability(int *major, int *minor, CUdevice device)) {
    BEGIN;
    NEEDS_DEVICE(device);
    *major = 9;
    *minor = 0;
    return 0;
}
static CUresult CALL(cuDeviceCanAccessPeer(int *can, CUdevice a, CUdevice b)) {
    BEGIN;
    NEEDS_DEVICE(a);
    NEEDS_DEVICE(b);
    *can = a != b && reaches(a, b); /* documented: a device is not its own peer */
    return 0;
}
static CUresult CALL(cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute wanted, CUdevice a, CUdevice b)) {
    BEGIN;
    NEEDS_DEVICE(a);
    NEEDS_DEVICE(b);
    if (a == b) return CUDA_ERROR_INVALID_DEVICE;
    *value = !reaches(a, b)                                              ? NOT_REACHED
             : wanted == CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED ? option("FAKE_CUDA_NATIVE_ATOMICS", 1)
                                                                         : 1;
    return 0;
}

static CUresult CALL(cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)) {
    BEGIN;
    NEEDS_DEVICE(device);
    num_contexts++;
    retained[device]++;
    *context = (CUcontext)(intptr_t)(device + 1);
    return 0;
}
static CUresult CALL(cuDevicePrimaryCtxRelease(CUdevice device)) {
    BEGIN;
    NEEDS_DEVICE(device);
    if (!retained[device]) return CUDA_ERROR_INVALID_CONTEXT;
    retained[device]--;
    num_contexts--;
    return 0;
}
static CUresult CALL(cuDevicePrimaryCtxReset(CUdevice device)) { /* ends what runs there, and forgets its error */
    BEGIN;
    NEEDS_DEVICE(device);
    devices[device].is_stopping = 1;
    settle_device(device);
    devices[device].is_stopping = devices[device].fault = 0;
    return 0;
}
static CUresult CALL(cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)) {
    BEGIN;
    NEEDS_DEVICE(device);
    *flags = 0;
    *active = retained[device] > 0;
    return 0;
}
static CUresult CALL(cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags)) {
    BEGIN;
    NEEDS_DEVICE(device);
    return 0;
}
static CUresult CALL(cuCtxSetCurrent(CUcontext context)) {
    BEGIN;
    intptr_t device = (intptr_t)context - 1;
    if (context && (device >= num_devices() || device < 0 || !retained[device])) return CUDA_ERROR_INVALID_CONTEXT;
    current = context;
    return 0;
}
static CUresult CALL(cuCtxGetCurrent(CUcontext *context)) {
    BEGIN;
    *context = current;
    return 0;
}
static CUresult CALL(cuCtxGetDevice(CUdevice *device)) {
    BEGIN;
    NEEDS_CONTEXT;
    *device = current_device();
    return 0;
}
static CUresult CALL(cuCtxGetApiVersion(CUcontext context, unsigned *version)) {
    BEGIN;
    *version = option("FAKE_CUDA_DRIVER", NEWEST_DRIVER);
    return 0;
}
static CUresult CALL(cuCtxSynchronize(void)) {
    BEGIN;
    NEEDS_CONTEXT;
    settle_device(current_device());
    return devices[current_device()].fault;
}
static CUresult CALL(cuCtxPushCurrent(CUcontext context)) {
    BEGIN;
    REFUSE_IF(!context || depth == DEPTH);
    outer[depth++] = current;
    current = context;
    return 0;
}
static CUresult CALL(cuCtxPopCurrent(CUcontext *context)) {
    BEGIN;
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = current;
    current = depth ? outer[--depth] : NULL;
    return 0;
}
static CUresult CALL(cuGetErrorName(CUresult error, const char **name)) {
    *name = error == CUDA_ERROR_ILLEGAL_ADDRESS      ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : error == CUDA_ERROR_MISALIGNED_ADDRESS ? "CUDA_ERROR_MISALIGNED_ADDRESS"
                                                     : "CUDA_ERROR";
    return 0;
}
static CUresult CALL(cuGetErrorString(CUresult error, const char **text)) {
    *text = "of the fake driver";
    return 0;
}

const call device_calls[] = {
    ROW(cuInit),
    ROW(cuDriverGetVersion),
    ROW(cuDeviceGetCount),
    ROW(cuDeviceGet),
    ROW(cuDeviceGetName),
    ROW(cuDeviceGetUuid),
    ROW(cuDeviceTotalMem),
    ROW(cuDeviceGetAttribute),
    ROW(cuDeviceComputeCapability),
    ROW(cuDeviceCanAccessPeer),
    ROW(cuDeviceGetP2PAttribute),
    ROW(cuDevicePrimaryCtxRetain),
    ROW(cuDevicePrimaryCtxRelease),
    ROW(cuDevicePrimaryCtxReset),
    ROW(cuDevicePrimaryCtxGetState),
    ROW(cuDevicePrimaryCtxSetFlags),
    ROW(cuCtxSetCurrent),
    ROW(cuCtxGetCurrent),
    ROW(cuCtxGetDevice),
    ROW(cuCtxGetApiVersion),
    ROW(cuCtxSynchronize),
    ROW(cuCtxPushCurrent),
    ROW(cuCtxPopCurrent),
    ROW(cuGetErrorName),
    ROW(cuGetErrorString),
    {NULL, NULL},
};
