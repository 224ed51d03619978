/* From one call to the kernels: rows in blocks, or few long rows in pieces, given to a parallel loop.
 * What a call computes, and in which order it adds, depends on the shapes alone. */
#ifndef SF_DRIVE_H
#define SF_DRIVE_H

#include <string.h>

#include "cpu.h"
#include "dispatch.h"
#include "kernels.h"
#include "stores.h"

/* The loop for all calls from now on.  The first is serial. */
void sf_set_parallel_for(sf_parallel_for *loop);

enum { SF_OK = 0, SF_NO_MEMORY = 1, SF_BAD_ARGUMENT = 2, SF_BAD_LABEL = 3 };

enum { SF_NEAR_BYTES = 262144 }; /* logits of more do not stay in a level-2 cache */

/* Fills a call but for the output, the temperature and what the operation wants beside them.  Inline,
 * like sf_write_to: passing the structs takes as long as a short row. */
static inline void sf_begin(sf_call *call, sf_input x, ptrdiff_t n_rows, ptrdiff_t inner,
                            ptrdiff_t n_classes, int n_threads)
{
    const sf_tables *tables = sf_tables_in_use();
    sf_call begun = {.kernels = x.kind == SF_F64 ? tables->f64 : tables->f32, .doubles = tables->f64,
                     .x = x, .n_rows = n_rows, .inner = inner, .n_classes = n_classes,
                     .n_threads = n_threads};
    begun.prefetch = n_rows * n_classes * begun.kernels->item_size > SF_NEAR_BYTES;
    *call = begun;
}

/* Computes in double, whatever x is. */
static inline void sf_use_doubles(sf_call *call)
{
    call->kernels = call->doubles;
    call->prefetch = call->n_rows * call->n_classes * call->kernels->item_size > SF_NEAR_BYTES;
}

/* An entry a class. */
static inline void sf_write_to(sf_call *call, sf_output out)
{
    call->out = out;
    /* Where they may be streamed; in place, the lines are there anyway. */
    call->stream = call->prefetch && call->x.data != out.data
        && (out.class_stride == 1 || out.row_stride == 1)
        && call->n_rows * call->n_classes * call->kernels->item_size >= SF_STREAM_BYTES;
}

/* Returns SF_OK or SF_NO_MEMORY.  For operations that sum up, result begins as sf_no_result or as an
 * earlier call left it, whose sums then go on: calls on rows [0, k), [k, ...) that are cut at multiples
 * of sf_rows_of_a_sum give the bits of one call on all.  Others take NULL. */
int sf_run(const sf_call *call, int operation, sf_result *result);

/* Several calls on the same rows of the same length, which write no entries: one after the other on some
 * rows, while these are in a cache.  The result is that of all. */
enum { SF_MOST_PARTS = 3 };
typedef struct { const sf_call *call; int operation; } sf_part;
int sf_run_parts(const sf_part *parts, int n_parts, sf_result *result);

/* Some rows of a call in the calling thread, whose floating-point environment is set; sums end where
 * they do.  reach is that of beyond.h, and scratch has sf_walk_bytes. */
void sf_run_rows(const sf_call *call, int operation, int reach, ptrdiff_t first, ptrdiff_t count,
                 sf_result *result, char *scratch);
size_t sf_walk_bytes(const sf_call *call, int reach);

/* How many threads at most deserve a part of some pieces of work. */
int sf_threads_for(ptrdiff_t elements, ptrdiff_t pieces, int most);

/* The loop's way, or without it for one worker. */
void sf_share_out(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers);

/* Rows whose results are summed by themselves before they join the total. */
ptrdiff_t sf_rows_of_a_sum(ptrdiff_t n_classes);

/* The sum of the weights of rows that count, and the first row with a bad label; the rest of the
 * result is left alone. */
void sf_target_weights(const sf_targets *targets, ptrdiff_t n_rows, ptrdiff_t n_classes,
                       sf_result *result);

static inline sf_targets sf_no_targets(void)
{
    sf_targets targets;
    memset(&targets, 0, sizeof targets);
    targets.gradient_scale = targets.loss_scale = 1.0;
    return targets;
}

#endif
