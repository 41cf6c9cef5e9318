/* Weak memory of a thread: weak.c. */
#ifndef WEAK_H
#define WEAK_H
#include <stddef.h>
#include <stdint.h>

enum { BUFFERED = 8, CACHED = 64, SHELVED = 32, REMEMBERED = 64 };
typedef struct {
    uint64_t at, value;
    uint32_t bytes;
    unsigned epoch;
} weak_word;
typedef struct {
    weak_word words[SHELVED];
    int num;
} shelf;
typedef struct {
    shelf shelf;
    uint64_t written;
    unsigned num_wide_acquires;
} weak_block;
typedef struct {
    uint64_t random;
    weak_block *block;
    int device, num_buffered;
    unsigned epoch, seen_acquires, oldest; /* time from which on what it loads must have stood in memory */
    weak_word buffer[BUFFERED], cache[CACHED];
} weak_thread;

void weak_begin(weak_thread *w, weak_block *block, int device, uint64_t seed);
void weak_some(weak_thread *w); /* time passes: a store may arrive */
void weak_end(weak_thread *w);
void weak_end_block(weak_block *block);
void weak_end_launch(int device);
#endif
