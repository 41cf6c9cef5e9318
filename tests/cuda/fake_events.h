/* Events and the stack of contexts of the fake driver; part of fake_libcuda.c.
 *
 * One stream at most has work to do, as the test says. An event is passed when its stream has ended what it had
 * to do at the time of recording. While a thread's mode forbids it, asking is refused as during a capture.
 */
enum { EVENTS = 4096, DEPTH = 8 };
typedef struct { int used, recorded; CUstream stream; } event; /* recorded: and not passed yet */

static event events[EVENTS];
static CUstream busy_stream;
static __thread CUcontext outer[DEPTH];
static __thread int depth;
static __thread CUstreamCaptureMode capture_mode;

static int num_events_open(void) {
    int n = 0;
    for (int i = 0; i < EVENTS; i++) n += events[i].used;
    return n;
}
/* From here on `stream` alone has work to do; that of all others has ended. */
void fake_cuda_set_busy(CUstream stream) {
    busy_stream = stream;
    for (int i = 0; i < EVENTS; i++) events[i].recorded &= events[i].stream == stream;
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
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    *context = current;
    current = outer[--depth];
    return 0;
}
static CUresult CALL(cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)) {
    BEGIN;
    CUstreamCaptureMode before = capture_mode;
    capture_mode = *mode;
    *mode = before;
    return 0;
}

static CUresult CALL(cuEventCreate(CUevent *made, unsigned flags)) {
    BEGIN; NEEDS_CONTEXT;
    int status = option("FAKE_CUDA_EVENTS", 0);
    if (status) return status;
    for (int i = 0; i < EVENTS; i++)
        if (!events[i].used) {
            events[i] = (event){1, 0, NULL};
            *made = (CUevent)&events[i];
            return 0;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult CALL(cuEventRecord(CUevent made, CUstream stream)) {
    BEGIN; NEEDS_CONTEXT;
    event *it = (event *)made;
    REFUSE_IF(!it->used);
    it->stream = stream;
    it->recorded = stream && stream == busy_stream;
    return 0;
}
static CUresult CALL(cuEventQuery(CUevent made)) {
    BEGIN; NEEDS_CONTEXT;
    REFUSE_IF(!((event *)made)->used);
    if (capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return ((event *)made)->recorded ? CUDA_ERROR_NOT_READY : 0;
}
static CUresult CALL(cuEventDestroy(CUevent made)) {
    BEGIN; NEEDS_CONTEXT;
    REFUSE_IF(!((event *)made)->used);
    ((event *)made)->used = 0;
    return 0;
}
