/* Softmax, log-softmax, log-sum-exp, divergences and the softmax loss, of logits and of a fully
 * connected layer, for C11 and C++.
 *
 * From an extension module of Python, with the installed softmax_fast behind it:
 *
 *     #include <Python.h>
 *     #include <softmax_fast.h>        the folder: softmax_fast.get_include()
 *
 *     if (import_softmax_fast() < 0)   once in each source file, in its module's initialisation
 *         return NULL;
 *
 * Without Python, with a library compiled from the kernels:
 *
 *     #define SOFTMAX_FAST_NO_PYTHON
 *     #include <softmax_fast.h>
 *
 * The functions are the same.  They need no GIL, raise nothing, call no Python, and may be called
 * from several threads at a time.  Results have the bits of the Python functions.
 *
 * Versions: functions, and members of the options, are only ever added, each time with a higher
 * SOFTMAX_FAST_API_VERSION.  What was compiled with this header runs with every later library.
 */
#ifndef SOFTMAX_FAST_H
#define SOFTMAX_FAST_H

#ifndef SOFTMAX_FAST_NO_PYTHON
#include <Python.h>
#endif
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SOFTMAX_FAST_API_VERSION 2

/* What every function but softmax_fast_api_version returns. */
enum {
    SOFTMAX_FAST_OK = 0,
    SOFTMAX_FAST_NO_MEMORY = 1,
    SOFTMAX_FAST_BAD_ARGUMENT = 2, /* nothing was written */
    SOFTMAX_FAST_BAD_LABEL = 3     /* a label outside [0, n_classes) that is not ignored */
};

/* Options of the losses; a NULL pointer stands for SOFTMAX_FAST_LOSS_OPTIONS. */
typedef struct {
    size_t size;                 /* sizeof of this struct */
    const double *class_weight;  /* n_classes weights, finite and >= 0, or NULL for ones */
    const double *sample_weight; /* n_rows weights, finite and >= 0, or NULL for ones */
    double label_smoothing;      /* in [0, 1]: the target becomes (1 - it) * label + it/n_classes */
    int64_t ignore_index;        /* rows with this label count for nothing ... */
    int has_ignore_index;        /* ... unless this is 0 */
} softmax_fast_loss_options;

#define SOFTMAX_FAST_LOSS_OPTIONS \
    { sizeof(softmax_fast_loss_options), NULL, NULL, 0.0, -100, 1 }

/* ---- the functions ------------------------------------------------------------------------------
 *
 * _f32 functions read and write float, _f64 ones double.
 *
 * x                n_rows rows of n_classes logits.  Entry c of row r is
 *                  x[r * x_row_stride + c * x_class_stride]: strides count elements, and may be 0
 *                  or negative for what is read.  Aligned as its type is.
 * out, grad        Likewise; no two of its entries may be the same memory.  It may be x itself with
 *                  the same strides (in place); any other overlap with what is read is not checked
 *                  and gives wrong results.
 * temperature      T in softmax(x/T), above 0 and finite.
 * n_threads        At most how many threads compute, >= 1; results do not depend on it, and small
 *                  work stays in the calling thread.  From Python these are OpenMP's, and a child
 *                  of os.fork or multiprocessing uses one; in one forked by other means say 1.
 *                  Without Python it counts only after softmax_fast_set_parallel_for.
 *
 * SOFTMAX_FAST_BAD_ARGUMENT: a negative size, a size beyond the address space, a NULL pointer to
 * what would be read or written, a temperature, n_threads or option out of its range; for the
 * losses and divergences also n_classes = 0.  The values of weights are not checked.  NaN and
 * infinities in x are no error, see docs/contract.md.
 *
 * Of functions with the same arguments, only the first is written out. */

/* softmax_fast_softmax_f32:     out = exp((x - m)/T) / s, m a row's maximum, s = sum exp((x - m)/T)
 * softmax_fast_log_softmax_f32: out = (x - m)/T - log(s)
 * Without classes there is nothing to do. */
typedef int softmax_fast_rows_f32(
    const float *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    float *out, ptrdiff_t out_row_stride, ptrdiff_t out_class_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, int n_threads);
typedef int softmax_fast_rows_f64(
    const double *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    double *out, ptrdiff_t out_row_stride, ptrdiff_t out_class_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, int n_threads);

/* softmax_fast_logsumexp_f32: out[r * out_stride] = m/T + log(s); -inf without classes.  out is not
 * part of x. */
typedef int softmax_fast_reduction_f32(
    const float *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    float *out, ptrdiff_t out_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, int n_threads);
typedef int softmax_fast_reduction_f64(
    const double *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    double *out, ptrdiff_t out_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, int n_threads);

/* softmax_fast_softmax_loss_f32: the sum of the rows' losses v w[y] (log(s) - (x[y] - m)/T), and
 * what a mean divides by.  y is a row's label, w the class weights, v the sample weights.  A row of
 * v = 0 or w[y] = 0 counts for nothing, like an ignored one; its label is still checked.
 *
 * labels       n_rows labels, one after another
 * row_losses   n_rows losses, one after another, or NULL
 * loss_sum     their sum, or NULL
 * weight_sum   the sum of v w[y] over the rows that count, or NULL
 * bad_row      for SOFTMAX_FAST_BAD_LABEL the first row with a bad label, else -1, or NULL
 *
 * With a bad label, row_losses holds anything; the sums are written for SOFTMAX_FAST_OK only. */
typedef int softmax_fast_loss_f32(
    const float *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);
typedef int softmax_fast_loss_f64(
    const double *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    double *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);

/* softmax_fast_softmax_loss_grad_f32: the same, and grad = gradient_scale * d(loss_sum)/dx.  For
 * the gradient of the mean, gradient_scale is 1/weight_sum of softmax_fast_weight_sum.  Labels are
 * checked before anything but bad_row is written. */
typedef int softmax_fast_loss_grad_f32(
    const float *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    double gradient_scale, float *grad, ptrdiff_t grad_row_stride, ptrdiff_t grad_class_stride,
    float *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);
typedef int softmax_fast_loss_grad_f64(
    const double *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    double gradient_scale, double *grad, ptrdiff_t grad_row_stride, ptrdiff_t grad_class_stride,
    double *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);

/* softmax_fast_weight_sum: checks the labels, and gives the denominator of the mean. */
typedef int softmax_fast_weights(
    const int64_t *labels, ptrdiff_t n_rows, ptrdiff_t n_classes,
    const softmax_fast_loss_options *options, double *weight_sum, ptrdiff_t *bad_row);

/* softmax_fast_kl_divergence_f32: the sum of the rows' divergences v sum p log(p/q) of
 * q = softmax(x/T) from p = softmax(base/T), and that of their weights v, which a mean divides by.
 * No divergence is negative; it is inf where p > 0 = q, and NaN for a row with NaN or +inf in x or
 * base, or with nothing but -inf in one of them.
 *
 * base             as x, and of the same shape; not part of what is written
 * sample_weight    n_rows weights, finite and >= 0, or NULL for ones; a row of 0 counts for nothing
 * row_divergences  n_rows divergences times v, one after another, or NULL
 * divergence_sum, weight_sum   or NULL */
typedef int softmax_fast_divergence_f32(
    const float *base, ptrdiff_t base_row_stride, ptrdiff_t base_class_stride,
    const float *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, const double *sample_weight,
    float *row_divergences, double *divergence_sum, double *weight_sum, int n_threads);
typedef int softmax_fast_divergence_f64(
    const double *base, ptrdiff_t base_row_stride, ptrdiff_t base_class_stride,
    const double *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, const double *sample_weight,
    double *row_divergences, double *divergence_sum, double *weight_sum, int n_threads);

/* softmax_fast_kl_divergence_grad_f32: the same, and grad = gradient_scale * d(divergence_sum)/dx,
 * which is gradient_scale v (q - p)/T.  Distillation takes T*T/weight_sum for gradient_scale. */
typedef int softmax_fast_divergence_grad_f32(
    const float *base, ptrdiff_t base_row_stride, ptrdiff_t base_class_stride,
    const float *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, const double *sample_weight,
    double gradient_scale, float *grad, ptrdiff_t grad_row_stride, ptrdiff_t grad_class_stride,
    float *row_divergences, double *divergence_sum, double *weight_sum, int n_threads);
typedef int softmax_fast_divergence_grad_f64(
    const double *base, ptrdiff_t base_row_stride, ptrdiff_t base_class_stride,
    const double *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
    ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature, const double *sample_weight,
    double gradient_scale, double *grad, ptrdiff_t grad_row_stride, ptrdiff_t grad_class_stride,
    double *row_divergences, double *divergence_sum, double *weight_sum, int n_threads);

/* softmax_fast_linear_softmax_loss_f32: as softmax_fast_softmax_loss_f32 of the logits
 * features weights^T + bias of a fully connected layer, which are never all there.
 * softmax_fast_linear_softmax_loss_f32_bf16: weights are the bits of bfloat16.
 *
 * features   n_rows rows of n_features entries; those of rows that do not count are not read
 * weights    n_classes rows of n_features entries
 * bias       n_classes entries, one after another, or NULL for none
 *
 * Labels are checked before anything but bad_row is written.  With vector instructions the bits are
 * those of the Python functions; without, and for what lies beyond their kernels, the products are
 * made in double, where Python takes NumPy's BLAS.  They depend on n_rows, n_features and
 * n_classes, and on whether there are gradients. */
typedef int softmax_fast_linear_loss_f32(
    const float *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,
    const float *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,
    const float *bias, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_features, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);
typedef int softmax_fast_linear_loss_f64(
    const double *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,
    const double *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,
    const double *bias, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_features, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    double *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);
typedef int softmax_fast_linear_loss_f32_bf16(
    const float *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,
    const uint16_t *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,
    const float *bias, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_features, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);

/* softmax_fast_linear_softmax_loss_grad_f32: the same, and the gradients of loss_sum, each times
 * gradient_scale.  One that is NULL is not computed, and none may be part of what is read.
 *
 * d_features   n_rows rows of n_features entries, each row's one after another; 0 where a row does
 *              not count
 * d_weights    n_classes rows of n_features entries, each row's one after another
 * d_bias       n_classes entries, one after another; also without a bias */
typedef int softmax_fast_linear_loss_grad_f32(
    const float *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,
    const float *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,
    const float *bias, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_features, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    double gradient_scale, float *d_features, ptrdiff_t d_features_row_stride,
    float *d_weights, ptrdiff_t d_weights_row_stride, float *d_bias,
    float *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);
typedef int softmax_fast_linear_loss_grad_f64(
    const double *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,
    const double *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,
    const double *bias, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_features, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    double gradient_scale, double *d_features, ptrdiff_t d_features_row_stride,
    double *d_weights, ptrdiff_t d_weights_row_stride, double *d_bias,
    double *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);
typedef int softmax_fast_linear_loss_grad_f32_bf16(
    const float *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,
    const uint16_t *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,
    const float *bias, const int64_t *labels,
    ptrdiff_t n_rows, ptrdiff_t n_features, ptrdiff_t n_classes, double temperature,
    const softmax_fast_loss_options *options,
    double gradient_scale, float *d_features, ptrdiff_t d_features_row_stride,
    float *d_weights, ptrdiff_t d_weights_row_stride, float *d_bias,
    float *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads);

/* softmax_fast_api_version: SOFTMAX_FAST_API_VERSION of the library that runs. */
typedef int softmax_fast_version(void);

/* What import_softmax_fast fetches.  Members are only ever appended. */
typedef struct {
    int version; /* the library's SOFTMAX_FAST_API_VERSION */
    size_t size; /* of the library's struct */
    softmax_fast_version *api_version;
    softmax_fast_rows_f32 *softmax_f32, *log_softmax_f32;
    softmax_fast_rows_f64 *softmax_f64, *log_softmax_f64;
    softmax_fast_reduction_f32 *logsumexp_f32;
    softmax_fast_reduction_f64 *logsumexp_f64;
    softmax_fast_loss_f32 *softmax_loss_f32;
    softmax_fast_loss_f64 *softmax_loss_f64;
    softmax_fast_loss_grad_f32 *softmax_loss_grad_f32;
    softmax_fast_loss_grad_f64 *softmax_loss_grad_f64;
    softmax_fast_weights *weight_sum;
    /* Since version 2. */
    softmax_fast_divergence_f32 *kl_divergence_f32;
    softmax_fast_divergence_f64 *kl_divergence_f64;
    softmax_fast_divergence_grad_f32 *kl_divergence_grad_f32;
    softmax_fast_divergence_grad_f64 *kl_divergence_grad_f64;
    softmax_fast_linear_loss_f32 *linear_softmax_loss_f32;
    softmax_fast_linear_loss_f64 *linear_softmax_loss_f64;
    softmax_fast_linear_loss_f32_bf16 *linear_softmax_loss_f32_bf16;
    softmax_fast_linear_loss_grad_f32 *linear_softmax_loss_grad_f32;
    softmax_fast_linear_loss_grad_f64 *linear_softmax_loss_grad_f64;
    softmax_fast_linear_loss_grad_f32_bf16 *linear_softmax_loss_grad_f32_bf16;
} softmax_fast_table;

#ifdef SOFTMAX_FAST_NO_PYTHON

softmax_fast_version softmax_fast_api_version;
softmax_fast_rows_f32 softmax_fast_softmax_f32, softmax_fast_log_softmax_f32;
softmax_fast_rows_f64 softmax_fast_softmax_f64, softmax_fast_log_softmax_f64;
softmax_fast_reduction_f32 softmax_fast_logsumexp_f32;
softmax_fast_reduction_f64 softmax_fast_logsumexp_f64;
softmax_fast_loss_f32 softmax_fast_softmax_loss_f32;
softmax_fast_loss_f64 softmax_fast_softmax_loss_f64;
softmax_fast_loss_grad_f32 softmax_fast_softmax_loss_grad_f32;
softmax_fast_loss_grad_f64 softmax_fast_softmax_loss_grad_f64;
softmax_fast_weights softmax_fast_weight_sum;
softmax_fast_divergence_f32 softmax_fast_kl_divergence_f32;
softmax_fast_divergence_f64 softmax_fast_kl_divergence_f64;
softmax_fast_divergence_grad_f32 softmax_fast_kl_divergence_grad_f32;
softmax_fast_divergence_grad_f64 softmax_fast_kl_divergence_grad_f64;
softmax_fast_linear_loss_f32 softmax_fast_linear_softmax_loss_f32;
softmax_fast_linear_loss_f64 softmax_fast_linear_softmax_loss_f64;
softmax_fast_linear_loss_f32_bf16 softmax_fast_linear_softmax_loss_f32_bf16;
softmax_fast_linear_loss_grad_f32 softmax_fast_linear_softmax_loss_grad_f32;
softmax_fast_linear_loss_grad_f64 softmax_fast_linear_softmax_loss_grad_f64;
softmax_fast_linear_loss_grad_f32_bf16 softmax_fast_linear_softmax_loss_grad_f32_bf16;

/* Threads of your own.  loop(pool, body, context, n_pieces, n_workers) must call body(context,
 * piece, worker) once for each piece in [0, n_pieces), on at most n_workers threads, and return
 * when all calls have; no two calls at a time may have the same worker in [0, n_workers).  Set it
 * before the first call of another function, and not during one; NULL returns to the calling
 * thread. */
typedef void softmax_fast_body(void *context, ptrdiff_t piece, int worker);
typedef void softmax_fast_parallel_for(void *pool, softmax_fast_body *body, void *context,
                                       ptrdiff_t n_pieces, int n_workers);
void softmax_fast_set_parallel_for(softmax_fast_parallel_for *loop, void *pool);

#else

static const softmax_fast_table *softmax_fast_imported;

/* 0, or -1 with an ImportError or AttributeError set. */
static inline int import_softmax_fast(void)
{
    const softmax_fast_table *table = (const softmax_fast_table *)PyCapsule_Import(
        "softmax_fast._core._C_API", 0);
    if (!table)
        return -1;
    if (table->version < SOFTMAX_FAST_API_VERSION || table->size < sizeof *table) {
        PyErr_Format(PyExc_ImportError,
                     "compiled for version %d of softmax_fast's C API; the installed one has %d",
                     SOFTMAX_FAST_API_VERSION, table->version);
        return -1;
    }
    softmax_fast_imported = table;
    return 0;
}

#define softmax_fast_api_version (softmax_fast_imported->api_version)
#define softmax_fast_softmax_f32 (softmax_fast_imported->softmax_f32)
#define softmax_fast_softmax_f64 (softmax_fast_imported->softmax_f64)
#define softmax_fast_log_softmax_f32 (softmax_fast_imported->log_softmax_f32)
#define softmax_fast_log_softmax_f64 (softmax_fast_imported->log_softmax_f64)
#define softmax_fast_logsumexp_f32 (softmax_fast_imported->logsumexp_f32)
#define softmax_fast_logsumexp_f64 (softmax_fast_imported->logsumexp_f64)
#define softmax_fast_softmax_loss_f32 (softmax_fast_imported->softmax_loss_f32)
#define softmax_fast_softmax_loss_f64 (softmax_fast_imported->softmax_loss_f64)
#define softmax_fast_softmax_loss_grad_f32 (softmax_fast_imported->softmax_loss_grad_f32)
#define softmax_fast_softmax_loss_grad_f64 (softmax_fast_imported->softmax_loss_grad_f64)
#define softmax_fast_weight_sum (softmax_fast_imported->weight_sum)
#define softmax_fast_kl_divergence_f32 (softmax_fast_imported->kl_divergence_f32)
#define softmax_fast_kl_divergence_f64 (softmax_fast_imported->kl_divergence_f64)
#define softmax_fast_kl_divergence_grad_f32 (softmax_fast_imported->kl_divergence_grad_f32)
#define softmax_fast_kl_divergence_grad_f64 (softmax_fast_imported->kl_divergence_grad_f64)
#define softmax_fast_linear_softmax_loss_f32 \
    (softmax_fast_imported->linear_softmax_loss_f32)
#define softmax_fast_linear_softmax_loss_f64 \
    (softmax_fast_imported->linear_softmax_loss_f64)
#define softmax_fast_linear_softmax_loss_f32_bf16 \
    (softmax_fast_imported->linear_softmax_loss_f32_bf16)
#define softmax_fast_linear_softmax_loss_grad_f32 \
    (softmax_fast_imported->linear_softmax_loss_grad_f32)
#define softmax_fast_linear_softmax_loss_grad_f64 \
    (softmax_fast_imported->linear_softmax_loss_grad_f64)
#define softmax_fast_linear_softmax_loss_grad_f32_bf16 \
    (softmax_fast_imported->linear_softmax_loss_grad_f32_bf16)

#endif

#ifdef __cplusplus
}
#endif

#endif
