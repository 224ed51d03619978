/* From one call to the kernels: rows in blocks, or few long rows in pieces, given to a parallel loop.
 * What a call computes, and in which order it adds, depends on the shapes alone. */
#ifndef SF_DRIVE_H
#define SF_DRIVE_H

#include "kernels.h"

/* Calls body(context, piece, worker) once for every piece in [0, n_pieces), on at most n_workers
 * threads; no two calls at a time have the same worker in [0, n_workers). */
typedef void sf_body(void *context, ptrdiff_t piece, int worker);
typedef void sf_parallel_for(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers);

/* The loop for all calls from now on.  The first is serial. */
void sf_set_parallel_for(sf_parallel_for *loop);

enum { SF_OK = 0, SF_NO_MEMORY = 1, SF_BAD_ARGUMENT = 2, SF_BAD_LABEL = 3 };

typedef struct {
    const sf_kernels *kernels;
    sf_rows rows;
    ptrdiff_t n_rows; /* >= 1 */
    int n_threads;    /* at most; the loop is not entered for one */
} sf_job;

enum { SF_FAR_BYTES = 262144 }; /* logits of more do not stay in a level-2 cache */

/* Fills the kernels' job but for rows.out and the temperature.  Inline, like sf_write_to: passing the
 * structs takes as long as a short row. */
static inline void sf_begin(sf_job *job, sf_input x, ptrdiff_t n_rows, ptrdiff_t inner,
                            ptrdiff_t n_classes, int n_threads)
{
    const sf_tables *tables = sf_tables_in_use();
    const sf_kernels *kernels = x.kind == SF_F64 ? tables->f64 : tables->f32;
    sf_job begun = {.kernels = kernels, .n_rows = n_rows, .n_threads = n_threads};
    begun.rows.x = x;
    begun.rows.inner = inner;
    begun.rows.n_classes = n_classes;
    begun.rows.far = n_rows * n_classes * kernels->item_size > SF_FAR_BYTES;
    *job = begun;
}

static inline void sf_write_to(sf_job *job, sf_output out)
{
    job->rows.out = out;
    /* Streaming stores pay when in and out together exceed the last cache; in place, the lines are
     * there anyway. */
    job->rows.stream = job->rows.far && job->rows.x.data != out.data
        && job->n_rows * job->rows.n_classes * job->kernels->item_size > sf_cached(3) / 2;
}

/* Each returns SF_OK or SF_NO_MEMORY.  result must begin as sf_no_result. */
int sf_softmax(const sf_job *job);
int sf_log_softmax(const sf_job *job);
int sf_logsumexp(const sf_job *job);
int sf_row_stats(const sf_job *job, double *row_max, double *row_rest);
int sf_exponentials(const sf_job *job, const double *shift, const double *scale);
int sf_softmax_loss(const sf_job *job, const sf_targets *targets, sf_result *result);
int sf_softmax_loss_grad(const sf_job *job, const sf_targets *targets, sf_result *result);
int sf_cross_entropy(const sf_job *job, const sf_targets *targets, sf_result *result);
int sf_selected_log_probs(const sf_job *job, const int64_t *indices, ptrdiff_t n_indices,
                          const sf_targets *targets, sf_result *result);
int sf_binary_loss(const sf_binary *values, ptrdiff_t size, int n_threads, sf_result *result);

/* The sum of the weights of rows that count, and the first row with a bad label; the rest of the
 * result is left alone.  For labels. */
void sf_target_weights(const sf_targets *targets, ptrdiff_t n_rows, ptrdiff_t n_classes,
                       sf_result *result);

static inline sf_result sf_no_result(void)
{
    sf_result result = {{0.0, 0.0}, {0.0, 0.0}, -1, -1};
    return result;
}

static inline sf_targets sf_no_targets(void)
{
    sf_targets targets;
    memset(&targets, 0, sizeof targets);
    targets.gradient_scale = 1.0;
    return targets;
}

#endif
