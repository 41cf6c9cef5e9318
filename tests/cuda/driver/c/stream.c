/* Streams: each a thread that runs what is queued in turn. The default stream of a device waits for its blocking
 * streams and they for it, as CUDA's legacy default stream does. Handles stay known, so that a stale one is refused.
 */
#include "stream.h"
#include <sched.h>
#include "execute.h"

enum { STREAMS = 256 };
static stream defaults[MAX_DEVICES], *streams[STREAMS];
static int num_made;
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

static void prepare(stream *s, int device, int is_blocking) {
    s->device = device;
    s->is_blocking = is_blocking;
    s->is_alive = 1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
}
stream *stream_of(CUstream given) {
    stream *found = NULL;
    pthread_mutex_lock(&making);
    if ((uintptr_t)given <= 2 && current) { /* none, legacy, per thread */
        found = &defaults[current_device()];
        if (!found->is_alive) prepare(found, current_device(), 0);
    }
    for (int n = 0; n < num_made; n++)
        if (streams[n] == (stream *)given && streams[n]->is_alive) found = streams[n];
    pthread_mutex_unlock(&making);
    return found;
}
int num_streams(void) {
    int n = 0;
    for (int i = 0; i < num_made; i++) n += streams[i]->is_alive;
    return n;
}

static void *serve(void *given) {
    stream *s = given;
    current = (CUcontext)(intptr_t)(s->device + 1);
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (!s->head) pthread_cond_wait(&s->changed, &s->lock);
        operation *it = s->head;
        pthread_mutex_unlock(&s->lock);
        if (!devices[s->device].fault) { /* behind a fault nothing runs */
            CUresult status = it->run(it->what);
            int none = 0;
            if (status) atomic_compare_exchange_strong(&devices[s->device].fault, &none, (int)status);
        }
        pthread_mutex_lock(&s->lock);
        s->head = it->next;
        s->done++;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        free(it->what);
        free(it);
    }
    return NULL;
}
static void append(stream *s, CUresult (*run)(void *what), void *what) {
    operation *made = calloc(1, sizeof *made);
    made->run = run;
    made->what = what;
    pthread_mutex_lock(&s->lock);
    if (!s->started) {
        pthread_t server;
        s->started = 1;
        pthread_create(&server, NULL, serve, s);
        pthread_detach(server);
    }
    if (s->head) s->tail->next = made;
    else s->head = made;
    s->tail = made;
    s->queued++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}
typedef struct {
    stream *of;
    long until;
} point;
static CUresult pass(void *what) {
    point *p = what;
    wait_until(p->of, p->until);
    return 0;
}
void wait_in(stream *s, stream *other, long until) {
    if (num_done(other) >= until) return;
    point *made = malloc(sizeof *made);
    *made = (point){other, until};
    append(s, pass, made);
}
void enqueue(stream *s, CUresult (*run)(void *what), void *what) {
    stream *base = &defaults[s->device];
    if (s == base)
        for (int n = 0; n < num_made; n++) {
            stream *other = streams[n];
            if (other->is_blocking && other->device == s->device) wait_in(s, other, num_queued(other));
        }
    else if (s->is_blocking && base->is_alive) wait_in(s, base, num_queued(base));
    append(s, run, what);
}
CUresult run_now(stream *s, CUresult (*run)(void *what), void *what) {
    enqueue(s, run, what);
    wait_until(s, num_queued(s));
    return devices[s->device].fault;
}
long num_queued(stream *s) {
    pthread_mutex_lock(&s->lock);
    long n = s->queued;
    pthread_mutex_unlock(&s->lock);
    return n;
}
long num_done(stream *s) {
    pthread_mutex_lock(&s->lock);
    long n = s->done;
    pthread_mutex_unlock(&s->lock);
    return n;
}
void wait_until(stream *s, long num_done) {
    pthread_mutex_lock(&s->lock);
    while (s->done < num_done) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}
void settle_device(int device) {
    if (defaults[device].is_alive) wait_until(&defaults[device], num_queued(&defaults[device]));
    for (int n = 0; n < num_made; n++)
        if (streams[n]->device == device) wait_until(streams[n], num_queued(streams[n]));
}

static CUresult CALL(cuStreamCreate(CUstream *made, unsigned flags)) {
    BEGIN;
    NEEDS_CONTEXT;
    REFUSE_IF(flags & ~CU_STREAM_NON_BLOCKING);
    stream *s = calloc(1, sizeof *s);
    prepare(s, current_device(), !(flags & CU_STREAM_NON_BLOCKING));
    pthread_mutex_lock(&making);
    int is_full = num_made == STREAMS;
    if (!is_full) streams[num_made++] = s;
    pthread_mutex_unlock(&making);
    *made = (CUstream)s;
    return is_full ? CUDA_ERROR_OUT_OF_MEMORY : 0;
}
static CUresult CALL(cuStreamCreateWithPriority(CUstream *made, unsigned flags, int priority)) {
    return fake_cuStreamCreate(made, flags);
}
static CUresult CALL(cuStreamDestroy(CUstream given)) { /* documented: what is queued still runs */
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, given);
    REFUSE_IF((uintptr_t)given <= 2);
    s->is_alive = 0;
    return 0;
}
static CUresult CALL(cuStreamQuery(CUstream given)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, given);
    if (num_done(s) < num_queued(s)) return CUDA_ERROR_NOT_READY;
    return devices[s->device].fault;
}
static CUresult CALL(cuStreamSynchronize(CUstream given)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, given);
    wait_until(s, num_queued(s));
    return devices[s->device].fault;
}
static CUresult CALL(cuStreamGetCtx(CUstream given, CUcontext *context)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, given);
    *context = (CUcontext)(intptr_t)(s->device + 1);
    return 0;
}
static CUresult CALL(cuStreamIsCapturing(CUstream given, CUstreamCaptureStatus *status)) {
    BEGIN;
    NEEDS_CONTEXT;
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return 0;
}
typedef struct {
    CUhostFn call;
    void *data;
} host_call;
static CUresult call_host(void *what) {
    host_call *h = what;
    h->call(h->data);
    return 0;
}
static CUresult CALL(cuLaunchHostFunc(CUstream given, CUhostFn function, void *data)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, given);
    host_call *made = malloc(sizeof *made);
    *made = (host_call){function, data};
    enqueue(s, call_host, made);
    return 0;
}

/* --- words that a stream sets and waits for; of system scope, as the default flags have it */
typedef struct {
    int device;
    cuuint64_t *word, value;
} word_call;
static CUresult set_word(void *what) {
    word_call *w = what;
    __atomic_store_n(w->word, w->value, __ATOMIC_SEQ_CST);
    return 0;
}
static CUresult await_word(void *what) {
    word_call *w = what;
    while ((int64_t)(__atomic_load_n(w->word, __ATOMIC_ACQUIRE) - w->value) < 0 && !devices[w->device].is_stopping)
        sched_yield();
    return 0;
}
static CUresult queue_word(CUstream given, CUdeviceptr word, cuuint64_t value, unsigned flags, unsigned allowed,
                           CUresult (*run)(void *)) {
    BEGIN;
    NEEDS_CONTEXT;
    NEEDS_STREAM(s, given);
    if (!option("FAKE_CUDA_STREAM_WORDS", 1)) return CUDA_ERROR_NOT_SUPPORTED;
    REFUSE_IF(word % 8 || (flags & ~allowed));
    word_call *made = malloc(sizeof *made);
    *made = (word_call){s->device, (cuuint64_t *)word, value};
    enqueue(s, run, made);
    return 0;
}
static CUresult CALL(cuStreamWriteValue64(CUstream given, CUdeviceptr word, cuuint64_t value, unsigned flags)) {
    return queue_word(given, word, value, flags, 0, set_word);
}
static CUresult CALL(cuStreamWaitValue64(CUstream given, CUdeviceptr word, cuuint64_t value, unsigned flags)) {
    return queue_word(given, word, value, flags, 0, await_word); /* at least: flag 0 */
}

/* --- for tests: streams that have work to do until they are let go */
static int num_holds;
static pthread_mutex_t holding = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t let_go = PTHREAD_COND_INITIALIZER;
static CUresult hold(void *what) {
    pthread_mutex_lock(&holding);
    for (int mine = *(int *)what; num_holds == mine;) pthread_cond_wait(&let_go, &holding);
    pthread_mutex_unlock(&holding);
    return 0;
}
EXPORTED int fake_cuda_hold(CUstream given) {
    NEEDS_STREAM(s, given);
    int *mine = malloc(sizeof *mine);
    *mine = num_holds;
    enqueue(s, hold, mine);
    return 0;
}
EXPORTED void fake_cuda_let_go(void) { /* and back when all streams have done their work */
    pthread_mutex_lock(&holding);
    num_holds++;
    pthread_cond_broadcast(&let_go);
    pthread_mutex_unlock(&holding);
    for (int device = 0; device < num_devices(); device++) settle_device(device);
}

const call stream_calls[] = {
    ROW(cuStreamCreate),      ROW(cuStreamCreateWithPriority), ROW(cuStreamDestroy),
    ROW(cuStreamQuery),       ROW(cuStreamSynchronize),        ROW(cuStreamGetCtx),
    ROW(cuStreamIsCapturing), ROW(cuLaunchHostFunc),           ROW(cuStreamWriteValue64),
    ROW(cuStreamWaitValue64), {NULL, NULL},
};
