#include "drive.h"
#include "beyond.h"
#include "environment.h"
#include "scalars.h"
#include <stdlib.h>

enum {
    /* Elements that deserve a thread.  A region of two threads costs some 2 us, the time of about
     * 8 Ki elements: work of less than twice this stays with one. */
    ELEMENTS_PER_THREAD = 16384,
    /* Elements in a block of rows: small enough to share out evenly, large enough to hide the loop. */
    ELEMENTS_PER_BLOCK = 16384,
    /* Sixteen rows fill a tile or a panel. */
    ROWS_PER_BLOCK = 16,
    /* Blocks that a thread takes at a time: what is fetched ahead in one is that thread's next.  At least so
     * many turns a thread even out what one is late. */
    BLOCKS_AT_A_TIME = 16,
    TURNS_PER_THREAD = 32,
    /* Short calls find their scratch and their blocks' results on the stack. */
    STACK_SCRATCH = 2048,
    STACK_RESULTS = 4,
    /* Rows of a call that may be shared out one by one, or computed one after another, each in pieces. */
    FEW_ROWS = 64,
    /* Elements that are gone through by all parts of a work before others are: they fit a level-2 cache. */
    ELEMENTS_TOGETHER = 32768
};

static void serial_for(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers)
{
    (void)n_workers;
    for (ptrdiff_t piece = 0; piece < n_pieces; piece++)
        body(context, piece, 0);
}

static sf_parallel_for *parallel_for = serial_for;

void sf_set_parallel_for(sf_parallel_for *loop) { parallel_for = loop ? loop : serial_for; }

void sf_share_out(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers)
{
    (n_workers == 1 ? serial_for : parallel_for)(body, context, n_pieces, n_workers);
}

int sf_threads_for(ptrdiff_t elements, ptrdiff_t pieces, int most)
{
    ptrdiff_t n = SF_MIN(elements / ELEMENTS_PER_THREAD, pieces);
    return n <= 1 ? 1 : (int)SF_MIN(n, most);
}

size_t sf_scratch_bytes(const sf_call *call, ptrdiff_t item_size)
{
    ptrdiff_t n = call->n_classes, bytes = SF_BLOCK_SCRATCH(n, item_size);
    if (sf_is_scattered(call))
        bytes += SF_PANEL_SCRATCH(n, item_size);
    if (call->stream && n * item_size <= SF_STREAM_ROW_BYTES)
        bytes += sf_rows_together(n, item_size) * SF_ROUND_UP(n * item_size);
    return (size_t)bytes;
}

size_t sf_walk_bytes(const sf_call *call, int reach)
{
    const size_t bytes = sf_scratch_bytes(call, call->kernels->item_size);
    return reach ? SF_MAX(bytes, sf_beyond_bytes(call)) : bytes;
}

sf_call sf_rows_from(const sf_call *call, ptrdiff_t first, sf_targets *targets)
{
    static const int item_size[] = {4, 8, 2, 2, 1, 2, 4, 8, 1};
    const ptrdiff_t out_item = call->kernels->item_size;
    sf_call own = *call;
    own.inner = PTRDIFF_MAX;
    own.first_row += first;
    own.x.data = (const char *)own.x.data + sf_input_offset(call, &call->x, first) * item_size[own.x.kind];
    if (own.out.data)
        own.out.data = (char *)own.out.data + out_item * (call->indices ? first * call->n_indices
                                                                        : sf_output_offset(call, first));
    own.temperature += first * own.temperature_step;
    if (own.indices)
        own.indices += first * own.n_indices;
    if (own.row_max) {
        own.row_max += first;
        own.row_rest += first;
    }
    if (!call->targets)
        return own;
    *targets = *call->targets;
    own.targets = targets;
    if (targets->labels32)
        targets->labels32 += first;
    if (targets->labels64)
        targets->labels64 += first;
    if (targets->sample_weight)
        targets->sample_weight += first;
    if (targets->row_losses)
        targets->row_losses = (char *)targets->row_losses + first * out_item;
    if (targets->probabilities.data) {
        const sf_input *in = &call->targets->probabilities;
        targets->probabilities.data = (const char *)in->data
                                    + sf_input_offset(call, in, first) * item_size[in->kind];
    }
    return own;
}

/* ---- sums ------------------------------------------------------------------------------------------- */

ptrdiff_t sf_rows_of_a_sum(ptrdiff_t n_classes)
{
    return SF_MAX(ROWS_PER_BLOCK, ELEMENTS_PER_BLOCK / n_classes / ROWS_PER_BLOCK * ROWS_PER_BLOCK);
}

static void fold(sf_result *total, const sf_result *part)
{
    sf_sum_merge(&total->loss, part->loss);
    sf_sum_merge(&total->weight, part->weight);
    if (total->bad_label_row < 0)
        total->bad_label_row = part->bad_label_row;
    if (total->bad_value_row < 0)
        total->bad_value_row = part->bad_value_row;
}

/* The results of single rows, as if each sum had been made in one go. */
static void fold_rows(sf_result *total, const sf_result *rows, ptrdiff_t n_rows, ptrdiff_t n_classes)
{
    const ptrdiff_t together = sf_rows_of_a_sum(n_classes);
    for (ptrdiff_t first = 0; first < n_rows; first += together) {
        sf_result sum = sf_no_result();
        for (ptrdiff_t row = first; row < SF_MIN(first + together, n_rows); row++)
            fold(&sum, &rows[row]);
        fold(total, &sum);
    }
}

/* ---- blocks of rows ------------------------------------------------------------------------------ */

typedef struct {
    const sf_call *call;
    int operation, reach;
    const sf_part *more;  /* what else is done with the same rows */
    int n_more, more_reach[SF_MOST_PARTS];
    ptrdiff_t block_rows, first_block, end_block;
    ptrdiff_t at_a_time;  /* blocks */
    int each_row;         /* has a result of its own, else each block */
    sf_result *results;   /* or NULL */
    char *scratch;
    size_t scratch_bytes; /* of one worker */
} work;

static void run_part(const sf_call *call, int which, int reach, ptrdiff_t first, ptrdiff_t count,
                     sf_sink sink, char *scratch, sf_parallel_for *loop, int n_threads)
{
    const sf_operation *operation = &call->kernels->operations[which];
    const ptrdiff_t end = first + count;
    while (first < end) {
        ptrdiff_t within = first;
        while (within < end && !(reach && sf_is_beyond(call, reach, within)))
            within = reach ? within + 1 : end;
        if (within > first)
            call->kernels->walk(call, operation, first, within - first, sink, scratch, loop, n_threads);
        if (within < end) {
            sf_result *result = sink.results;
            if (result && sink.each_row)
                result += within - sink.first;
            sf_run_beyond(call, which, within, result, scratch);
            within++;
        }
        if (sink.results && sink.each_row)
            sink.results += within - first;
        sink.first += within - first;
        first = within;
    }
}

/* Some rows within one outer step. */
static void run_rows(const work *w, ptrdiff_t first, ptrdiff_t count, sf_sink sink, char *scratch,
                     sf_parallel_for *loop, int n_threads)
{
    run_part(w->call, w->operation, w->reach, first, count, sink, scratch, loop, n_threads);
    for (int i = 0; i < w->n_more; i++)
        run_part(w->more[i].call, w->more[i].operation, w->more_reach[i], first, count, sink, scratch,
                 loop, n_threads);
}

static void run_block(const work *w, ptrdiff_t block, int worker)
{
    ptrdiff_t inner = w->call->inner, first = block * w->block_rows;
    ptrdiff_t end = SF_MIN(first + w->block_rows, w->call->n_rows), count;
    sf_row_sums sums = {{{0.0}, {0.0}}, {{0.0}, {0.0}}};
    sf_environment found = sf_enter();
    for (; first < end; first += count) {
        sf_sink sink = {w->results, first, w->each_row, w->each_row ? NULL : &sums};
        count = SF_MIN(end - first, inner - first % inner);
        if (w->n_more)
            count = SF_MIN(count, SF_MAX(1, ELEMENTS_TOGETHER / w->call->n_classes));
        if (w->results)
            sink.results += w->each_row ? first : block;
        run_rows(w, first, count, sink, w->scratch + (size_t)worker * w->scratch_bytes, NULL, 1);
    }
    if (w->results && !w->each_row)
        sf_fold_row_sums(&w->results[block], &sums, SF_SUM_LANES);
    sf_leave(found);
}

static void run_some_blocks(void *context, ptrdiff_t piece, int worker)
{
    const work *w = (const work *)context;
    const ptrdiff_t first = w->first_block + piece * w->at_a_time;
    for (ptrdiff_t block = first; block < SF_MIN(first + w->at_a_time, w->end_block); block++)
        run_block(w, block, worker);
}

/* The next count blocks. */
static void share_blocks(work *w, ptrdiff_t count, int n)
{
    const ptrdiff_t turns = (ptrdiff_t)n * TURNS_PER_THREAD;
    w->at_a_time = SF_MAX(1, SF_MIN(BLOCKS_AT_A_TIME, count / turns));
    w->end_block = w->first_block + count;
    sf_share_out(run_some_blocks, w, (count + w->at_a_time - 1) / w->at_a_time, n);
}

void sf_run_rows(const sf_call *call, int operation, int reach, ptrdiff_t first, ptrdiff_t count,
                 sf_result *result, char *scratch)
{
    const work w = {.call = call, .operation = operation, .reach = reach};
    const ptrdiff_t end = first + count;
    for (; first < end; first += count) {
        sf_sink sink = {result, first, 0, NULL};
        count = SF_MIN(end - first, call->inner - first % call->inner);
        run_rows(&w, first, count, sink, scratch, NULL, 1);
    }
}

/* All blocks, on n threads; while the stores are on trial, some of them at a time. */
static void run_blocks(work *w, ptrdiff_t n_blocks, int n)
{
    const sf_call *call = w->call;
    sf_store_class *on_trial = call->stream ? sf_store_class_of(call, w->operation) : NULL;
    if (!on_trial) {
        share_blocks(w, n_blocks, n);
        return;
    }
    const ptrdiff_t row_bytes = call->n_classes * call->kernels->item_size;
    const ptrdiff_t some = SF_MAX(n, SF_TRIAL_BYTES / (w->block_rows * row_bytes));
    sf_call either = *call;
    for (ptrdiff_t count; w->first_block < n_blocks; w->first_block += count) {
        int trial = sf_next_trial(on_trial, &either.stream);
        ptrdiff_t left = n_blocks - w->first_block;
        count = trial >= 0 && left >= 2 * some ? some : left;
        ptrdiff_t rows = SF_MIN(count * w->block_rows, call->n_rows - w->first_block * w->block_rows);
        w->call = &either;
        sf_moment begun = trial >= 0 ? sf_now() : (sf_moment){0, 0};
        share_blocks(w, count, n);
        if (trial >= 0)
            sf_note_trial(on_trial, trial, either.stream, rows * row_bytes, begun);
    }
    w->call = call;
}

/* How many threads should share each row; 1: rows are shared out instead. */
static int threads_within_rows(const sf_call *call, const sf_operation *operation)
{
    if (call->n_threads == 1 || call->n_classes < 2 * ELEMENTS_PER_THREAD || operation->entries)
        return 1;
    ptrdiff_t block = call->kernels->block, n_blocks = (call->n_classes + block - 1) / block;
    int n = sf_threads_for(call->n_classes, n_blocks, call->n_threads);
    return call->n_rows < FEW_ROWS && call->n_rows < 2 * n && call->n_rows % n ? n : 1;
}

static int run(work *w, sf_result *total)
{
    const sf_call *call = w->call;
    SF_ALIGNED(64) char stack_scratch[STACK_SCRATCH];
    sf_result stack_results[STACK_RESULTS];
    const ptrdiff_t n_rows = call->n_rows, some = ELEMENTS_PER_BLOCK / call->n_classes;
    const int within = threads_within_rows(call, &call->kernels->operations[w->operation]);
    w->block_rows = sf_rows_of_a_sum(call->n_classes);
    w->each_row = within > 1 || (n_rows < FEW_ROWS && some < ROWS_PER_BLOCK);
    if (w->each_row)
        w->block_rows = SF_MAX(1, some);
    if (within == 1 && call->out.data && call->n_classes > SF_SHORT_ROW && sf_is_scattered(call)) {
        w->each_row = total != NULL;
        w->block_rows = sf_panel_rows(call->n_classes, call->kernels->item_size);
    }
    ptrdiff_t n_blocks = (n_rows + w->block_rows - 1) / w->block_rows;
    ptrdiff_t n_results = w->each_row ? n_rows : n_blocks;
    int n = within > 1 ? 1 : sf_threads_for(n_rows * call->n_classes, n_blocks, call->n_threads);

    w->scratch_bytes = sf_walk_bytes(call, w->reach);
    for (int i = 0; i < w->n_more; i++) {
        w->more_reach[i] = sf_reach(w->more[i].call, w->more[i].operation);
        w->scratch_bytes = SF_MAX(w->scratch_bytes, sf_walk_bytes(w->more[i].call, w->more_reach[i]));
    }
    size_t bytes = (size_t)n * w->scratch_bytes;
    w->scratch = bytes <= sizeof stack_scratch ? stack_scratch : (char *)malloc(bytes);
    w->results = NULL;
    if (total)
        w->results = n_results <= STACK_RESULTS
                   ? stack_results : (sf_result *)malloc((size_t)n_results * sizeof *w->results);
    int status = !w->scratch || (total && !w->results) ? SF_NO_MEMORY : SF_OK;
    if (status == SF_OK) {
        for (ptrdiff_t i = 0; total && i < n_results; i++)
            w->results[i] = sf_no_result();
        if (within > 1) {
            sf_environment found = sf_enter();
            for (ptrdiff_t row = 0; row < n_rows; row++) {
                sf_sink sink = {total ? w->results + row : NULL, row, 1, NULL};
                run_rows(w, row, 1, sink, w->scratch, parallel_for, within);
            }
            sf_leave(found);
        } else {
            run_blocks(w, n_blocks, n);
        }
        if (total && w->each_row)
            fold_rows(total, w->results, n_rows, call->n_classes);
        for (ptrdiff_t block = 0; total && !w->each_row && block < n_blocks; block++)
            fold(total, &w->results[block]);
    }
    if (w->scratch != stack_scratch)
        free(w->scratch);
    if (w->results != stack_results)
        free(w->results);
    return status;
}

/* Whether run() would make one block of a call that needs little scratch: then the way to the kernel
 * is kept short. */
static int is_one_block(const sf_call *call)
{
    return call->n_rows < FEW_ROWS && call->n_rows <= call->inner
        && call->n_rows * call->n_classes <= ELEMENTS_PER_BLOCK
        && (call->n_rows <= ROWS_PER_BLOCK || call->n_rows <= sf_rows_of_a_sum(call->n_classes))
        && !sf_is_scattered(call) && !call->stream;
}

/* Exponentials that do not wait in a level-2 cache are better left where they will be scaled, and tiles
 * of short rows are written plain. */
static int may_stream(const sf_call *call, const sf_operation *operation)
{
    const ptrdiff_t row_bytes = call->n_classes * call->kernels->item_size;
    return sf_stores_chosen() != SF_STORES_PLAIN && (operation->flags & SF_STREAMS)
        && call->n_classes > SF_SHORT_ROW
        && (!(operation->flags & SF_WAITS_IN_OUT) || sf_is_scattered(call)
            || row_bytes <= SF_MIN(SF_STREAM_ROW_BYTES, sf_cached(2) / 4 * 3))
        && (threads_within_rows(call, operation) == 1
            || call->n_rows * row_bytes > sf_cached(3) / 2 || sf_stores_chosen() == SF_STORES_STREAMING);
}

int sf_run(const sf_call *call, int operation, sf_result *result)
{
    const sf_operation *o = &call->kernels->operations[operation];
    const int reach = sf_reach(call, operation);
    if (is_one_block(call) && !reach) {
        SF_ALIGNED(64) char scratch[SF_BLOCK_SCRATCH(ELEMENTS_PER_BLOCK, 8)];
        sf_result part = sf_no_result();
        sf_sink sink = {&part, 0, 0, NULL};
        sf_environment found = sf_enter();
        call->kernels->walk(call, o, 0, call->n_rows, sink, scratch, NULL, 1);
        sf_leave(found);
        if (result)
            fold(result, &part);
        return SF_OK;
    }
    work w = {.call = call, .operation = operation, .reach = reach};
    sf_call without_streams;
    if (call->stream && !may_stream(call, o)) {
        without_streams = *call;
        without_streams.stream = 0;
        w.call = &without_streams;
    }
    return run(&w, result);
}

int sf_run_parts(const sf_part *parts, int n_parts, sf_result *result)
{
    work w = {.call = parts->call, .operation = parts->operation,
              .reach = sf_reach(parts->call, parts->operation), .more = parts + 1, .n_more = n_parts - 1};
    return run(&w, result);
}

/* By the signs of y and of n_classes - 1 - y. */
static int all_labels_within(const sf_targets *targets, ptrdiff_t n_rows, ptrdiff_t n_classes)
{
    const uint64_t most = (uint64_t)n_classes - 1;
    uint64_t signs = 0;
    if (targets->labels32)
        for (ptrdiff_t row = 0; row < n_rows; row++) {
            const uint64_t y = (uint64_t)targets->labels32[row];
            signs |= y | (most - y);
        }
    else
        for (ptrdiff_t row = 0; row < n_rows; row++) {
            const uint64_t y = (uint64_t)targets->labels64[row];
            signs |= y | (most - y);
        }
    return signs >> 63 == 0;
}

void sf_target_weights(const sf_targets *targets, ptrdiff_t n_rows, ptrdiff_t n_classes,
                       sf_result *result)
{
    ptrdiff_t counted = 0;
    const int weighted = targets->class_weight || targets->sample_weight;
    if (!weighted && sf_has_labels(targets)) {
        /* No label is negative. */
        const int64_t skipped = targets->has_ignore_index ? targets->ignore_index : -1;
        ptrdiff_t bad = 0;
        if ((uint64_t)skipped >= (uint64_t)n_classes && all_labels_within(targets, n_rows, n_classes)) {
            sf_sum_add(&result->weight, (double)n_rows);
            return;
        }
        for (ptrdiff_t row = 0; row < n_rows; row++) {
            const int64_t label = sf_label(targets, row);
            const int within = (uint64_t)label < (uint64_t)n_classes;
            counted += within & (label != skipped);
            bad += !within & (label != skipped || !targets->has_ignore_index);
        }
        if (!bad) {
            sf_sum_add(&result->weight, (double)counted);
            return;
        }
        counted = 0;
    }
    for (ptrdiff_t row = 0; row < n_rows && result->bad_label_row < 0; row++) {
        if (!sf_row_counts(targets, row, n_classes, result))
            continue;
        counted++;
        if (weighted)
            sf_sum_add(&result->weight, sf_sample_weight(targets, row) * sf_label_weight(targets, row));
    }
    if (!weighted)
        sf_sum_add(&result->weight, (double)counted);
}
