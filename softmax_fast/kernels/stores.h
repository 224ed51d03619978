/* Whether results of an entry a class are written past the caches (streaming stores) or through them
 * (plain ones).  Which is faster is no matter of cache sizes alone, so it is measured once a process,
 * for each class of calls, in these calls themselves: some megabytes of their rows one way, the next
 * the other.  No bit depends on it. */
#ifndef SF_STORES_H
#define SF_STORES_H

#include <stdint.h>

#include "kernels.h"

enum {
    SF_STREAM_BYTES = 4194304, /* results of fewer are never streamed */
    SF_TRIALS = 12,            /* in pairs, plain and streaming in turns */
    SF_TRIAL_BYTES = 16777216  /* results written in a trial: some milliseconds */
};

enum { SF_STORES_MEASURED = -1, SF_STORES_PLAIN = 0, SF_STORES_STREAMING = 1 };

/* For all calls from now on; SF_STORES_MEASURED also forgets what was measured. */
void sf_choose_stores(int stores);
int sf_stores_chosen(void);

/* Calls of one operation, item size, kind of rows and size: what their trials took so far.  fresh: the
 * last rows were the first to touch their pages, which takes longer than either way to write them. */
typedef struct { int trials, stores, fresh; int64_t took[2][SF_TRIALS / 4]; } sf_store_class;

/* NULL where it is chosen for all calls. */
sf_store_class *sf_store_class_of(const sf_call *call, int operation);

/* The next rows of a call of that class: their number in the trials, or -1 when these are over; and
 * the stores to use. */
int sf_next_trial(sf_store_class *class_, int *stores);

/* The time now in nanoseconds, and the pages first touched so far. */
typedef struct { int64_t nanoseconds, pages; } sf_moment;
sf_moment sf_now(void);
void sf_note_trial(sf_store_class *class_, int trial, int stores, ptrdiff_t bytes, sf_moment begun);

/* What was measured, one class after another from 0 on; 0 when there is no such class.  seconds are
 * those of a gigabyte written plain and streamed, in the median. */
typedef struct {
    int operation, item_size, rows, size, stores;
    double seconds[2];
} sf_measured_stores;
int sf_stores_measured(int i, sf_measured_stores *measured);

#endif
