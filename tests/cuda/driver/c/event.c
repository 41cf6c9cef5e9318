/* Events: passed when their stream has done what was queued when they were recorded. */
#include "execute.h"
#include "stream.h"
#include <time.h>

enum { EVENTS = 4096 };
typedef struct {
    int used;
    unsigned generation;
    stream *of;
    long until;
    _Atomic double at_ms;
} event;
typedef struct {
    event *of;
    unsigned generation;
} mark; /* in a stream; its event may be gone by then */
static event events[EVENTS];
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
static __thread CUstreamCaptureMode capture_mode;

int num_events(void) {
    int n = 0;
    for (int i = 0; i < EVENTS; i++) n += events[i].used;
    return n;
}
static event *event_of(CUevent given) {
    event *it = (event *)given;
    return it >= events && it < events + EVENTS && it->used ? it : NULL;
}
#define NEEDS_EVENT(name, given) \
    event *name = event_of(given); \
    if (!name) return CUDA_ERROR_INVALID_HANDLE

static CUresult CALL(cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)) {
    BEGIN;
    CUstreamCaptureMode before = capture_mode;
    capture_mode = *mode;
    *mode = before;
    return 0;
}
static CUresult CALL(cuEventCreate(CUevent *made, unsigned flags)) {
    BEGIN;
    NEEDS_CONTEXT;
    int status = option("FAKE_CUDA_EVENTS", 0);
    if (status) return status;
    pthread_mutex_lock(&making);
    int n = 0;
    while (n < EVENTS && events[n].used) n++;
    if (n < EVENTS) {
        events[n].used = 1;
        events[n].generation++;
        events[n].of = NULL;
        *made = (CUevent)&events[n];
    }
    pthread_mutex_unlock(&making);
    return n < EVENTS ? 0 : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult stamp(void *what) {
    struct timespec now;
    mark *m = what;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (m->of->generation == m->generation) m->of->at_ms = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
    return 0;
}
static CUresult CALL(cuEventRecord(CUevent given, CUstream where)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_EVENT(it, given);
    NEEDS_STREAM(s, where);
    mark at = {it, it->generation};
    it->of = s;
    it->until = num_queued(s);
    if (num_done(s) >= it->until) return stamp(&at); /* nothing to wait for */
    mark *made = malloc(sizeof *made);
    *made = at;
    enqueue(s, stamp, made);
    it->until = num_queued(s);
    return 0;
}
static int has_passed(event *it) { return !it->of || num_done(it->of) >= it->until; }
static CUresult CALL(cuEventQuery(CUevent given)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_EVENT(it, given);
    if (option("FAKE_CUDA_CAPTURING", 0) && capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return has_passed(it) ? 0 : CUDA_ERROR_NOT_READY;
}
static CUresult CALL(cuEventSynchronize(CUevent given)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_EVENT(it, given);
    if (it->of) wait_until(it->of, it->until);
    return devices[current_device()].fault;
}
static CUresult CALL(cuEventElapsedTime(float *ms, CUevent from, CUevent to)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_EVENT(a, from);
    NEEDS_EVENT(b, to);
    if (!a->of || !b->of) return CUDA_ERROR_INVALID_HANDLE;
    if (!has_passed(a) || !has_passed(b)) return CUDA_ERROR_NOT_READY;
    *ms = (float)(b->at_ms - a->at_ms);
    return 0;
}
static CUresult CALL(cuEventDestroy(CUevent given)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_EVENT(it, given);
    it->used = 0;
    return 0;
}
static CUresult CALL(cuStreamWaitEvent(CUstream where, CUevent given, unsigned flags)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_EVENT(it, given);
    NEEDS_STREAM(s, where);
    if (it->of && it->of != s) wait_in(s, it->of, it->until);
    return 0;
}

const call event_calls[] = {
    ROW(cuThreadExchangeStreamCaptureMode),
    ROW(cuEventCreate),
    ROW(cuEventRecord),
    ROW(cuEventQuery),
    ROW(cuEventSynchronize),
    ROW(cuEventElapsedTime),
    ROW(cuEventDestroy),
    ROW(cuStreamWaitEvent),
    {NULL, NULL},
};
