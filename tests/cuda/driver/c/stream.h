/* Streams: stream.c. */
#ifndef STREAM_H
#define STREAM_H
#include "driver.h"

typedef struct operation {
    CUresult (*run)(void *what); /* `what` is freed behind it */
    void *what;
    struct operation *next;
} operation;
typedef struct stream {
    int device, is_alive, is_blocking, started; /* blocking: in turn with the default stream */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    operation *head, *tail;
    long queued, done;
} stream;

stream *stream_of(CUstream given); /* NULL for a handle that is none; needs a context */
void enqueue(stream *s, CUresult (*run)(void *what), void *what);
CUresult run_now(stream *s, CUresult (*run)(void *what), void *what); /* in turn, and back when it has run */
void wait_until(stream *s, long num_done);
long num_queued(stream *s);
long num_done(stream *s);
void wait_in(stream *s, stream *other, long until); /* `s` goes on when `other` has come so far */
void settle_device(int device);
int num_streams(void);
int num_events(void);
#define NEEDS_STREAM(name, given) \
    stream *name = stream_of(given); \
    if (!name) return CUDA_ERROR_INVALID_HANDLE
#endif
