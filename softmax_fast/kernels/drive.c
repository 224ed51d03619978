#include "drive.h"
#include "shared.h"
#include <stdlib.h>

enum {
    /* Elements that deserve a thread.  A region of two threads costs some 2 us, the time of about
     * 8 Ki elements: work of less than twice this stays with one. */
    ELEMENTS_PER_THREAD = 16384,
    /* Elements in a block of rows: small enough to share out evenly, large enough to hide the loop. */
    ELEMENTS_PER_BLOCK = 16384,
    /* Short calls find their scratch and their blocks' results on the stack. */
    STACK_SCRATCH = 2048,
    STACK_RESULTS = 4,
    /* Rows of a call that are computed one after another, each in pieces. */
    FEW_ROWS = 64
};

static void serial_for(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers)
{
    (void)n_workers;
    for (ptrdiff_t piece = 0; piece < n_pieces; piece++)
        body(context, piece, 0);
}

static sf_parallel_for *parallel_for = serial_for;

void sf_set_parallel_for(sf_parallel_for *loop) { parallel_for = loop ? loop : serial_for; }

static int threads_for(ptrdiff_t elements, ptrdiff_t pieces, int most)
{
    ptrdiff_t n = SF_MIN(elements / ELEMENTS_PER_THREAD, pieces);
    return n <= 1 ? 1 : (int)SF_MIN(n, most);
}

/* ---- blocks of rows ------------------------------------------------------------------------------ */

typedef struct work work;
typedef void rows_body(const work *w, ptrdiff_t first, ptrdiff_t count, sf_result *result,
                       void *scratch);

struct work {
    const sf_job *job;
    rows_body *body;
    sf_rows_function *on_rows;
    sf_loss_function *on_losses;
    const sf_targets *targets;
    double *row_max, *row_rest;
    const double *shift, *scale;
    const int64_t *indices;
    ptrdiff_t n_indices;
    ptrdiff_t block_rows;
    sf_result *results; /* one a block, or NULL */
    char *scratch;
    size_t scratch_bytes; /* of one worker */
};

static void run_block(void *context, ptrdiff_t block, int worker)
{
    const work *w = (const work *)context;
    ptrdiff_t inner = w->job->rows.inner, first = block * w->block_rows;
    ptrdiff_t end = SF_MIN(first + w->block_rows, w->job->n_rows), count;
    sf_result *result = w->results ? w->results + block : NULL;
    sf_environment found = sf_enter();
    for (; first < end; first += count) {
        count = SF_MIN(end - first, inner - first % inner);
        w->body(w, first, count, result, w->scratch + (size_t)worker * w->scratch_bytes);
    }
    sf_leave(found);
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

/* Every block of rows, and the blocks' results folded in order. */
static int run(work *w, sf_result *total)
{
    const sf_job *job = w->job;
    SF_ALIGNED(64) char stack_scratch[STACK_SCRATCH];
    sf_result stack_results[STACK_RESULTS];
    /* Sixteen rows fill a tile or a panel. */
    w->block_rows = SF_MAX(1, ELEMENTS_PER_BLOCK / job->rows.n_classes);
    if (job->n_rows >= FEW_ROWS)
        w->block_rows = SF_MAX(16, w->block_rows / 16 * 16);
    ptrdiff_t n_blocks = (job->n_rows + w->block_rows - 1) / w->block_rows;
    int n = threads_for(job->n_rows * job->rows.n_classes, n_blocks, job->n_threads);

    w->scratch_bytes = sf_scratch_bytes(&job->rows, job->kernels->item_size);
    size_t bytes = (size_t)n * w->scratch_bytes;
    w->scratch = bytes <= sizeof stack_scratch ? stack_scratch : (char *)malloc(bytes);
    w->results = NULL;
    if (total)
        w->results = n_blocks <= STACK_RESULTS
                   ? stack_results : (sf_result *)malloc((size_t)n_blocks * sizeof *w->results);
    int status = !w->scratch || (total && !w->results) ? SF_NO_MEMORY : SF_OK;
    if (status == SF_OK) {
        for (ptrdiff_t block = 0; total && block < n_blocks; block++)
            w->results[block] = sf_no_result();
        (n == 1 ? serial_for : parallel_for)(run_block, w, n_blocks, n);
        for (ptrdiff_t block = 0; total && block < n_blocks; block++)
            fold(total, &w->results[block]);
    }
    if (w->scratch != stack_scratch)
        free(w->scratch);
    if (w->results != stack_results)
        free(w->results);
    return status;
}

static void plain_body(const work *w, ptrdiff_t first, ptrdiff_t count, sf_result *result,
                       void *scratch)
{
    (void)result;
    w->on_rows(&w->job->rows, first, count, scratch);
}

static void loss_body(const work *w, ptrdiff_t first, ptrdiff_t count, sf_result *result,
                      void *scratch)
{
    w->on_losses(&w->job->rows, w->targets, first, count, result, scratch);
}

static void stats_body(const work *w, ptrdiff_t first, ptrdiff_t count, sf_result *result,
                       void *scratch)
{
    (void)result;
    w->job->kernels->row_stats(&w->job->rows, first, count, w->row_max + first, w->row_rest + first,
                               scratch);
}

static void exponentials_body(const work *w, ptrdiff_t first, ptrdiff_t count, sf_result *result,
                              void *scratch)
{
    (void)result;
    (void)scratch;
    w->job->kernels->exponentials(&w->job->rows, w->shift, w->scale, first, count);
}

static void selected_body(const work *w, ptrdiff_t first, ptrdiff_t count, sf_result *result,
                          void *scratch)
{
    w->job->kernels->selected_log_probs(&w->job->rows, w->indices, w->n_indices, w->targets, first,
                                        count, result, scratch);
}

/* Whether run() would make one block of a call that needs little scratch: then the way to the kernel
 * is kept short. */
static int is_one_block(const sf_job *job)
{
    const sf_rows *rows = &job->rows;
    return job->n_rows < FEW_ROWS && job->n_rows <= rows->inner
        && job->n_rows * rows->n_classes <= ELEMENTS_PER_BLOCK
        && rows->x.class_stride == 1 && (!rows->out.data || rows->out.class_stride == 1)
        && !rows->stream;
}

static int run_rows(const sf_job *job, sf_rows_function *function)
{
    if (is_one_block(job)) {
        SF_ALIGNED(64) char scratch[SF_BLOCK_SCRATCH(ELEMENTS_PER_BLOCK, 8)];
        sf_environment found = sf_enter();
        function(&job->rows, 0, job->n_rows, scratch);
        sf_leave(found);
        return SF_OK;
    }
    work w = {.job = job, .body = plain_body, .on_rows = function};
    return run(&w, NULL);
}

static int run_losses(const sf_job *job, const sf_targets *targets, sf_loss_function *function,
                      sf_result *result)
{
    if (is_one_block(job)) {
        SF_ALIGNED(64) char scratch[SF_BLOCK_SCRATCH(ELEMENTS_PER_BLOCK, 8)];
        sf_result part = sf_no_result();
        sf_environment found = sf_enter();
        function(&job->rows, targets, 0, job->n_rows, &part, scratch);
        sf_leave(found);
        fold(result, &part);
        return SF_OK;
    }
    work w = {.job = job, .body = loss_body, .on_losses = function, .targets = targets};
    return run(&w, result);
}

/* ---- few long rows: every row in pieces ------------------------------------------------------------ */

typedef struct {
    const sf_kernels *kernels;
    const sf_rows *rows;
    sf_rows without_out;
    const sf_targets *targets;
    ptrdiff_t row, n_blocks, piece_blocks;
    sf_blocks blocks;
    double row_max, row_rest;
    sf_gradient gradient;
    int n_threads;
} long_row;

typedef void piece_body(long_row *r, ptrdiff_t first, ptrdiff_t count);

/* How many threads should share each row; 1: rows are shared out instead. */
static int threads_within_rows(const sf_job *job)
{
    if (job->n_threads == 1 || job->rows.n_classes < 2 * ELEMENTS_PER_THREAD)
        return 1;
    ptrdiff_t block = job->kernels->block, n_blocks = (job->rows.n_classes + block - 1) / block;
    int n = threads_for(job->rows.n_classes, n_blocks, job->n_threads);
    return job->n_rows < FEW_ROWS && job->n_rows < 2 * n && job->n_rows % n ? n : 1;
}

typedef struct { long_row *row; piece_body *body; } piece_of_row;

static void run_piece(void *context, ptrdiff_t piece, int worker)
{
    const piece_of_row *p = (const piece_of_row *)context;
    ptrdiff_t first = piece * p->row->piece_blocks;
    ptrdiff_t count = SF_MIN(p->row->piece_blocks, p->row->n_blocks - first);
    sf_environment found = sf_enter();
    (void)worker;
    if (count > 0)
        p->body(p->row, first, count);
    sf_leave(found);
}

static void in_pieces(long_row *r, piece_body *body)
{
    piece_of_row context = {r, body};
    parallel_for(run_piece, &context, r->n_threads, r->n_threads);
}

static void stats_piece(long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    r->kernels->block_stats(&r->without_out, r->row, first, count, &r->blocks);
}

static void exponentials_piece(long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    r->kernels->block_stats(r->rows, r->row, first, count, &r->blocks);
}

static void softmax_piece(long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    r->kernels->softmax_blocks(r->rows, r->row, first, count, &r->blocks, r->row_max, r->row_rest);
}

static void log_softmax_piece(long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    r->kernels->log_softmax_blocks(r->rows, r->row, first, count, r->row_max, r->row_rest);
}

static void gradient_stats_piece(long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    r->kernels->gradient_stats(r->rows, r->targets, r->row, first, count, &r->blocks);
}

static void gradient_piece(long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    r->kernels->gradient_blocks(r->rows, r->targets, r->row, first, count, &r->blocks, &r->gradient);
}

static void merge(long_row *r)
{
    sf_environment found = sf_enter();
    r->kernels->merge_blocks(r->rows, r->row, r->n_blocks, &r->blocks, &r->row_max, &r->row_rest);
    sf_leave(found);
}

static int begin_long_rows(long_row *r, const sf_job *job, int n_threads)
{
    ptrdiff_t block = job->kernels->block, n = (job->rows.n_classes + block - 1) / block;
    /* Room for the numbers of all blocks; and for a row that does not count, as the kernels want it. */
    double *numbers = (double *)malloc(sf_scratch_bytes(&job->rows, job->kernels->item_size));
    sf_blocks blocks = {numbers, numbers + n, numbers + 2 * n, numbers + 3 * n};
    if (!numbers)
        return SF_NO_MEMORY;
    memset(r, 0, sizeof *r);
    r->kernels = job->kernels;
    r->rows = &job->rows;
    r->without_out = job->rows;
    r->without_out.out.data = NULL;
    r->n_blocks = n;
    r->piece_blocks = (n + n_threads - 1) / n_threads;
    r->n_threads = n_threads;
    r->blocks = blocks;
    return SF_OK;
}

static void end_long_rows(long_row *r) { free(r->blocks.max); }

static int long_row_stats(const sf_job *job, int n_threads, double *row_max, double *row_rest)
{
    long_row r;
    if (begin_long_rows(&r, job, n_threads) != SF_OK)
        return SF_NO_MEMORY;
    for (; r.row < job->n_rows; r.row++) {
        in_pieces(&r, stats_piece);
        merge(&r);
        row_max[r.row] = r.row_max;
        row_rest[r.row] = r.row_rest;
    }
    end_long_rows(&r);
    return SF_OK;
}

/* A first pass, the merge, and a second pass over every row. */
static int long_rows(const sf_job *job, int n_threads, piece_body *first, piece_body *second)
{
    long_row r;
    if (begin_long_rows(&r, job, n_threads) != SF_OK)
        return SF_NO_MEMORY;
    for (; r.row < job->n_rows; r.row++) {
        in_pieces(&r, first);
        merge(&r);
        in_pieces(&r, second);
    }
    end_long_rows(&r);
    return SF_OK;
}

/* ---- the calls -------------------------------------------------------------------------------------- */

/* The same job, writing through the caches. */
static sf_job without_streams(const sf_job *job)
{
    sf_job plain = *job;
    plain.rows.stream = 0;
    return plain;
}

/* Exponentials that do not wait in a level-2 cache are better left where they will be scaled. */
int sf_softmax(const sf_job *job)
{
    if (job->rows.stream
        && job->rows.n_classes * job->kernels->item_size > sf_cached(2) / 4 * 3) {
        sf_job plain = without_streams(job);
        return sf_softmax(&plain);
    }
    int n = threads_within_rows(job);
    return n > 1 ? long_rows(job, n, exponentials_piece, softmax_piece)
                 : run_rows(job, job->kernels->softmax);
}

int sf_log_softmax(const sf_job *job)
{
    int n = threads_within_rows(job);
    return n > 1 ? long_rows(job, n, stats_piece, log_softmax_piece)
                 : run_rows(job, job->kernels->log_softmax);
}

int sf_row_stats(const sf_job *job, double *row_max, double *row_rest)
{
    int n = threads_within_rows(job);
    work w = {.job = job, .body = stats_body, .row_max = row_max, .row_rest = row_rest};
    return n > 1 ? long_row_stats(job, n, row_max, row_rest) : run(&w, NULL);
}

int sf_logsumexp(const sf_job *job)
{
    double row_max[FEW_ROWS], row_rest[FEW_ROWS];
    int n = threads_within_rows(job);
    if (n == 1)
        return run_rows(job, job->kernels->logsumexp);
    if (long_row_stats(job, n, row_max, row_rest) != SF_OK)
        return SF_NO_MEMORY;
    sf_environment found = sf_enter();
    for (ptrdiff_t row = 0; row < job->n_rows; row++)
        job->kernels->finish_logsumexp(&job->rows, row, 1, &row_max[row], &row_rest[row]);
    sf_leave(found);
    return SF_OK;
}

int sf_exponentials(const sf_job *job, const double *shift, const double *scale)
{
    work w = {.job = job, .body = exponentials_body, .shift = shift, .scale = scale};
    return run(&w, NULL);
}

/* run() folds fewer than FEW_ROWS long rows one by one, and so do the two that follow. */
int sf_softmax_loss(const sf_job *job, const sf_targets *targets, sf_result *result)
{
    double row_max[FEW_ROWS], row_rest[FEW_ROWS];
    int n = threads_within_rows(job);
    if (n == 1)
        return run_losses(job, targets, job->kernels->softmax_loss, result);
    if (long_row_stats(job, n, row_max, row_rest) != SF_OK)
        return SF_NO_MEMORY;
    sf_environment found = sf_enter();
    for (ptrdiff_t row = 0; row < job->n_rows; row++)
        job->kernels->finish_loss(&job->rows, targets, row, 1, &row_max[row], &row_rest[row], result);
    sf_leave(found);
    return SF_OK;
}

/* Never past the caches: the gradient at the label comes last, into a line just written. */
int sf_softmax_loss_grad(const sf_job *job, const sf_targets *targets, sf_result *result)
{
    if (job->rows.stream) {
        sf_job plain = without_streams(job);
        return sf_softmax_loss_grad(&plain, targets, result);
    }
    int n = threads_within_rows(job);
    long_row r;
    if (n == 1)
        return run_losses(job, targets, job->kernels->softmax_loss_grad, result);
    if (begin_long_rows(&r, job, n) != SF_OK)
        return SF_NO_MEMORY;
    r.targets = targets;
    for (; r.row < job->n_rows; r.row++) {
        sf_result part = sf_no_result();
        if (!sf_row_counts(targets, r.row, job->rows.n_classes, &part)) {
            job->kernels->softmax_loss_grad(&job->rows, targets, r.row, 1, &part, r.blocks.max);
        } else {
            in_pieces(&r, gradient_stats_piece);
            sf_environment found = sf_enter();
            r.gradient = r.kernels->gradient_merge(r.rows, targets, r.row, &r.blocks, &part);
            sf_leave(found);
            in_pieces(&r, gradient_piece);
        }
        fold(result, &part);
    }
    end_long_rows(&r);
    return SF_OK;
}

int sf_cross_entropy(const sf_job *job, const sf_targets *targets, sf_result *result)
{
    return run_losses(job, targets, job->kernels->cross_entropy, result);
}

int sf_selected_log_probs(const sf_job *job, const int64_t *indices, ptrdiff_t n_indices,
                          const sf_targets *targets, sf_result *result)
{
    work w = {.job = job, .body = selected_body, .indices = indices, .n_indices = n_indices,
              .targets = targets};
    return run(&w, result);
}

typedef struct {
    const sf_kernels *kernels;
    const sf_binary *values;
    ptrdiff_t size;
    sf_result *results;
} binary_work;

static void run_binary_block(void *context, ptrdiff_t block, int worker)
{
    const binary_work *w = (const binary_work *)context;
    ptrdiff_t first = block * ELEMENTS_PER_BLOCK;
    sf_environment found = sf_enter();
    (void)worker;
    w->kernels->binary_loss(w->values, first, SF_MIN(ELEMENTS_PER_BLOCK, w->size - first),
                            &w->results[block]);
    sf_leave(found);
}

int sf_binary_loss(const sf_binary *values, ptrdiff_t size, int n_threads, sf_result *result)
{
    const sf_tables *tables = sf_tables_in_use();
    ptrdiff_t n_blocks = (size + ELEMENTS_PER_BLOCK - 1) / ELEMENTS_PER_BLOCK;
    int n = threads_for(size, n_blocks, n_threads);
    binary_work w = {values->x.kind == SF_F64 ? tables->f64 : tables->f32, values, size, NULL};
    if (!(w.results = (sf_result *)malloc((size_t)n_blocks * sizeof *w.results)))
        return SF_NO_MEMORY;
    for (ptrdiff_t block = 0; block < n_blocks; block++)
        w.results[block] = sf_no_result();
    (n == 1 ? serial_for : parallel_for)(run_binary_block, &w, n_blocks, n);
    for (ptrdiff_t block = 0; block < n_blocks; block++)
        fold(result, &w.results[block]);
    free(w.results);
    return SF_OK;
}

void sf_target_weights(const sf_targets *targets, ptrdiff_t n_rows, ptrdiff_t n_classes,
                       sf_result *result)
{
    ptrdiff_t counted = 0;
    for (ptrdiff_t row = 0; row < n_rows && result->bad_label_row < 0; row++) {
        if (!sf_row_counts(targets, row, n_classes, result))
            continue;
        counted++;
        if (targets->class_weight)
            sf_sum_add(&result->weight, sf_sample_weight(targets, row)
                                            * targets->class_weight[sf_label(targets, row)]);
        else if (targets->sample_weight)
            sf_sum_add(&result->weight, targets->sample_weight[row]);
    }
    if (!targets->class_weight && !targets->sample_weight)
        sf_sum_add(&result->weight, (double)counted);
}
