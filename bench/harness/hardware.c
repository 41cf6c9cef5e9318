/* This machine's own limits, in C: one short function a limit, called through hardware.py.
 *
 * hardware.py compiles this file on the machine it measures (-O3 -march=native), so a vector is as wide
 * as the processor's, as it is in the kernels that are compared with these figures. Addresses may have
 * any alignment unless a function says otherwise. Nothing here is used by umem itself.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LINE_BYTES 64

/* Loads and stores through this type may be unaligned and may alias anything. */
typedef float vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

int64_t vector_bytes(void) { return VECTOR_BYTES; }

/* Store one vector past the caches where the processor can; `dst` is aligned to VECTOR_BYTES. */
static inline void stream(char *dst, vector value) {
#if defined(__AVX512F__)
    _mm512_stream_ps((float *)dst, (__m512)value);
#elif defined(__AVX__)
    _mm256_stream_ps((float *)dst, (__m256)value);
#elif defined(__x86_64__)
    _mm_stream_ps((float *)dst, (__m128)value);
#else
    *(vector *)dst = value;
#endif
}

/* Order streamed stores before whatever the caller does next. */
static inline void stream_fence(void) {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

/* --- copies and sums over memory --- */

void copy_libc(char *dst, const char *src, int64_t num_bytes) { memcpy(dst, src, num_bytes); }

/* Copy with nontemporal stores; `dst` is 64-byte aligned and `num_bytes` a multiple of 256. */
void copy_stream(char *dst, const char *src, int64_t num_bytes) {
    for (int64_t i = 0; i < num_bytes; i += 4 * VECTOR_BYTES) {
        const vector *from = (const vector *)(src + i);
        vector a = from[0], b = from[1], c = from[2], d = from[3];
        stream(dst + i, a), stream(dst + i + VECTOR_BYTES, b);
        stream(dst + i + 2 * VECTOR_BYTES, c), stream(dst + i + 3 * VECTOR_BYTES, d);
    }
    stream_fence();
}

/* dst = a + b over float32; `num_bytes` is a multiple of 64. */
void add_f32(char *dst, const char *a, const char *b, int64_t num_bytes) {
    for (int64_t i = 0; i < num_bytes; i += VECTOR_BYTES)
        *(vector *)(dst + i) = *(const vector *)(a + i) + *(const vector *)(b + i);
}

/* The same with nontemporal stores; `dst` is 64-byte aligned. */
void add_f32_stream(char *dst, const char *a, const char *b, int64_t num_bytes) {
    for (int64_t i = 0; i < num_bytes; i += VECTOR_BYTES)
        stream(dst + i, *(const vector *)(a + i) + *(const vector *)(b + i));
    stream_fence();
}

/* Sum of 64-bit words, read in order: read bandwidth. */
int64_t sum_words(const int64_t *words, int64_t num_words) {
    int64_t sum = 0;
    for (int64_t i = 0; i < num_words; i++) sum += words[i];
    return sum;
}

/* --- random access --- */

/* Follow `num_steps` dependent loads: element i of `next` is the index to load after i. */
int64_t chase(const int64_t *next, int64_t start, int64_t num_steps) {
    for (int64_t i = 0; i < num_steps; i++) start = next[start];
    return start;
}

/* Copy the rows that `indices` names, `distance` rows prefetched ahead. */
void gather_rows(char *dst, const char *table, const int64_t *indices, int64_t num_rows, int64_t row_bytes,
                 int64_t distance) {
    for (int64_t i = 0; i < num_rows; i++) {
        if (i + distance < num_rows)
            for (int64_t byte = 0; byte < row_bytes; byte += LINE_BYTES)
                __builtin_prefetch(table + indices[i + distance] * row_bytes + byte);
        memcpy(dst + i * row_bytes, table + indices[i] * row_bytes, row_bytes);
    }
}

/* Sum `pooling` rows of float32 into each of `num_bags` rows, in blocks of `num_vectors` registers. */
static inline __attribute__((always_inline)) void gather_sum_blocks(
    char *dst, const char *table, const int64_t *indices, int64_t num_bags, int64_t pooling,
    int64_t row_bytes, int64_t distance, const int num_vectors) {
    const int64_t num_indices = num_bags * pooling;
    for (int64_t bag = 0; bag < num_bags; bag++) {
        for (int64_t column = 0; column < row_bytes; column += num_vectors * VECTOR_BYTES) {
            vector sum[16] = {0};
            for (int64_t i = bag * pooling; i < (bag + 1) * pooling; i++) {
                if (i + distance < num_indices) {
                    const char *ahead = table + indices[i + distance] * row_bytes + column;
#pragma GCC unroll 16
                    for (int line = 0; line < num_vectors * VECTOR_BYTES; line += LINE_BYTES)
                        __builtin_prefetch(ahead + line);
                }
                const char *row = table + indices[i] * row_bytes + column;
#pragma GCC unroll 16
                for (int v = 0; v < num_vectors; v++) sum[v] += *(const vector *)(row + v * VECTOR_BYTES);
            }
#pragma GCC unroll 16
            for (int v = 0; v < num_vectors; v++)
                *(vector *)(dst + bag * row_bytes + column + v * VECTOR_BYTES) = sum[v];
        }
    }
}

/* Pooled look-up: row b of `dst` = sum of the rows that indices[b * pooling ...] names.
 * `row_bytes` is a multiple of 64; the widest block that divides it is used. */
void gather_sum_f32(char *dst, const char *table, const int64_t *indices, int64_t num_bags, int64_t pooling,
                    int64_t row_bytes, int64_t distance) {
    int64_t num_vectors = row_bytes / VECTOR_BYTES;
    if (num_vectors % 16 == 0)
        gather_sum_blocks(dst, table, indices, num_bags, pooling, row_bytes, distance, 16);
    else if (num_vectors % 8 == 0)
        gather_sum_blocks(dst, table, indices, num_bags, pooling, row_bytes, distance, 8);
    else if (num_vectors % 4 == 0)
        gather_sum_blocks(dst, table, indices, num_bags, pooling, row_bytes, distance, 4);
    else if (num_vectors % 2 == 0)
        gather_sum_blocks(dst, table, indices, num_bags, pooling, row_bytes, distance, 2);
    else
        gather_sum_blocks(dst, table, indices, num_bags, pooling, row_bytes, distance, 1);
}

/* --- one word, shared --- */

/* One side of `num_rounds` round trips over a word that starts at 0: side 0 asks, side 1 answers.
 * Gives up after `max_polls` polls without an answer; returns the rounds completed. */
int64_t line_ping_pong(_Atomic int64_t *word, int64_t side, int64_t num_rounds, int64_t max_polls) {
    for (int64_t round = 0; round < num_rounds; round++) {
        int64_t ask = 2 * round + 1, answer = ask + 1;
        if (side == 0) atomic_store_explicit(word, ask, memory_order_release);
        int64_t awaited = side == 0 ? answer : ask, polls = 0;
        while (atomic_load_explicit(word, memory_order_acquire) != awaited)
            if (++polls > max_polls) return round;
        if (side == 1) atomic_store_explicit(word, answer, memory_order_release);
    }
    return num_rounds;
}

/* `num_operations` atomic additions of 1; returns the last value. */
int64_t fetch_add(_Atomic int64_t *word, int64_t num_operations) {
    int64_t old = 0;
    for (int64_t i = 0; i < num_operations; i++)
        old = atomic_fetch_add_explicit(word, 1, memory_order_acq_rel);
    return old + 1;
}

/* `num_operations` successful increments by compare-and-swap; returns the last value. */
int64_t compare_swap(_Atomic int64_t *word, int64_t num_operations) {
    int64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    for (int64_t i = 0; i < num_operations; i++) {
        while (!atomic_compare_exchange_strong_explicit(word, &seen, seen + 1, memory_order_acq_rel,
                                                        memory_order_acquire)) {}
        seen++;
    }
    return seen;
}

/* --- the operating system and the C library --- */

/* One side of `num_rounds` round trips through two eventfds; returns the rounds completed. */
int64_t event_ping_pong(int64_t read_fd, int64_t write_fd, int64_t side, int64_t num_rounds) {
    uint64_t one = 1, seen;
    for (int64_t round = 0; round < num_rounds; round++) {
        if (side == 0 && write(write_fd, &one, sizeof one) != sizeof one) return round;
        if (read(read_fd, &seen, sizeof seen) != sizeof seen) return round;
        if (side == 1 && write(write_fd, &one, sizeof one) != sizeof one) return round;
    }
    return num_rounds;
}

/* `num_pairs` times: free a random one of `num_live` blocks and allocate another in its place.
 * `live` starts zeroed, `num_live` and `num_sizes` are powers of two; returns the allocations that failed. */
int64_t malloc_churn(void **live, int64_t num_live, const int64_t *sizes, int64_t num_sizes,
                     int64_t num_pairs) {
    uint64_t random = 88172645463325252u;
    int64_t failed = 0;
    for (int64_t i = 0; i < num_pairs; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        void **block = live + (random >> 8) % num_live;
        free(*block);
        *block = malloc(sizes[i % num_sizes]);
        failed += *block == NULL;
    }
    return failed;
}

/* Free what malloc_churn left. */
void malloc_clear(void **live, int64_t num_live) {
    for (int64_t i = 0; i < num_live; i++) free(live[i]), live[i] = NULL;
}
