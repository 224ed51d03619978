/* The functions of include/softmax_fast.h: arguments checked, then one call of drive.h. */
#include "api.h"
#include "drive.h"
#include "linear.h"
#include "scalars.h"
#include <stdlib.h>

enum {
    /* More than any machine has cores for, few enough to be created. */
    MOST_THREADS = 1024,
    /* Sizes below 2 to this cannot overflow the bytes of an array. */
    HARMLESS_SIZE_BITS = sizeof(ptrdiff_t) * 4 - 2
};

/* The options as they were in version 1. */
enum { OPTIONS_SIZE_1 = offsetof(softmax_fast_loss_options, has_ignore_index) + sizeof(int) };

static int sizes_fit(ptrdiff_t n_rows, ptrdiff_t n_classes)
{
    if (((size_t)n_rows | (size_t)n_classes) >> HARMLESS_SIZE_BITS == 0)
        return 1;
    return n_rows >= 0 && n_classes >= 0
        && (n_classes == 0 || n_rows <= PTRDIFF_MAX / (ptrdiff_t)sizeof(double) / n_classes);
}

static int sane(const void *x, ptrdiff_t n_rows, ptrdiff_t n_classes, const double *temperature,
                int n_threads)
{
    return sizes_fit(n_rows, n_classes) && *temperature > 0.0 && isfinite(*temperature)
        && n_threads >= 1 && (x || n_rows == 0 || n_classes == 0);
}

SF_INLINE void begin(sf_call *call, int kind, const void *x, ptrdiff_t row_stride,
                     ptrdiff_t class_stride, ptrdiff_t n_rows, ptrdiff_t n_classes,
                     const double *temperature, int n_threads)
{
    sf_input rows = {x, 0, row_stride, class_stride, kind};
    sf_begin(call, rows, n_rows, n_rows, n_classes, SF_MIN(n_threads, MOST_THREADS));
    call->temperature = temperature;
}

SF_INLINE int write_rows(int operation, int kind, const void *x,
                         ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, void *out,
                         ptrdiff_t out_row_stride, ptrdiff_t out_class_stride, ptrdiff_t n_rows,
                         ptrdiff_t n_classes, const double *temperature, int n_threads)
{
    sf_call call;
    sf_output rows = {out, 0, out_row_stride, out_class_stride};
    if (!sane(x, n_rows, n_classes, temperature, n_threads))
        return SOFTMAX_FAST_BAD_ARGUMENT;
    if (n_rows == 0 || n_classes == 0)
        return SOFTMAX_FAST_OK;
    if (!out)
        return SOFTMAX_FAST_BAD_ARGUMENT;
    begin(&call, kind, x, x_row_stride, x_class_stride, n_rows, n_classes, temperature, n_threads);
    sf_write_to(&call, rows);
    return sf_run(&call, operation, NULL);
}

static void fill_minus_infinity(int kind, void *out, ptrdiff_t stride, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        if (kind == SF_F32)
            ((float *)out)[i * stride] = -INFINITY;
        else
            ((double *)out)[i * stride] = -INFINITY;
    }
}

SF_INLINE int reduce_rows(int kind, const void *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
                          void *out, ptrdiff_t out_stride, ptrdiff_t n_rows, ptrdiff_t n_classes,
                          const double *temperature, int n_threads)
{
    sf_call call;
    sf_output rows = {out, 0, out_stride, 1};
    if (!sane(x, n_rows, n_classes, temperature, n_threads) || (!out && n_rows))
        return SOFTMAX_FAST_BAD_ARGUMENT;
    if (n_rows == 0)
        return SOFTMAX_FAST_OK;
    if (n_classes == 0) {
        fill_minus_infinity(kind, out, out_stride, n_rows);
        return SOFTMAX_FAST_OK;
    }
    begin(&call, kind, x, x_row_stride, x_class_stride, n_rows, n_classes, temperature, n_threads);
    call.out = rows;
    return sf_run(&call, SF_LOGSUMEXP, NULL);
}

/* Labels and options in the kernels' form. */
static int targets_of(sf_targets *targets, const int64_t *labels, ptrdiff_t n_rows,
                      ptrdiff_t n_classes, const softmax_fast_loss_options *options)
{
    static const softmax_fast_loss_options defaults = SOFTMAX_FAST_LOSS_OPTIONS;
    if (!options)
        options = &defaults;
    if (options->size < OPTIONS_SIZE_1 || n_classes < 1 || (!labels && n_rows)
        || !(options->label_smoothing >= 0.0 && options->label_smoothing <= 1.0))
        return SOFTMAX_FAST_BAD_ARGUMENT;
    *targets = sf_no_targets();
    targets->labels64 = labels;
    targets->class_weight = options->class_weight;
    targets->sample_weight = options->sample_weight;
    targets->label_smoothing = options->label_smoothing;
    targets->ignore_index = options->ignore_index;
    targets->has_ignore_index = options->has_ignore_index != 0;
    return SOFTMAX_FAST_OK;
}

static int check_labels(const sf_targets *targets, ptrdiff_t n_rows, ptrdiff_t n_classes,
                        ptrdiff_t *bad_row)
{
    sf_result none = sf_no_result();
    for (ptrdiff_t row = 0; row < n_rows; row++) {
        if (!sf_row_counts(targets, row, n_classes, &none) && none.bad_label_row >= 0) {
            if (bad_row)
                *bad_row = row;
            return SOFTMAX_FAST_BAD_LABEL;
        }
    }
    return SOFTMAX_FAST_OK;
}

static int finish(int status, const sf_result *result, double *loss_sum, double *weight_sum,
                  ptrdiff_t *bad_row)
{
    if (status == SOFTMAX_FAST_OK && result->bad_label_row >= 0) {
        status = SOFTMAX_FAST_BAD_LABEL;
        if (bad_row)
            *bad_row = result->bad_label_row;
    }
    if (status == SOFTMAX_FAST_OK && loss_sum)
        *loss_sum = sf_sum_value(result->loss);
    if (status == SOFTMAX_FAST_OK && weight_sum)
        *weight_sum = sf_sum_value(result->weight);
    return status;
}

/* With a gradient where grad is not NULL. */
SF_INLINE int loss_rows(int kind, const void *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride,
                        const int64_t *labels, ptrdiff_t n_rows, ptrdiff_t n_classes,
                        const double *temperature, const softmax_fast_loss_options *options,
                        double gradient_scale, const sf_output *grad, void *row_losses,
                        double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads)
{
    sf_call call;
    sf_targets targets;
    sf_result result = sf_no_result();
    int status = SOFTMAX_FAST_OK;
    if (bad_row)
        *bad_row = -1;
    if (!sane(x, n_rows, n_classes, temperature, n_threads)
        || (grad && !grad->data && n_rows)
        || targets_of(&targets, labels, n_rows, n_classes, options) != SOFTMAX_FAST_OK)
        return SOFTMAX_FAST_BAD_ARGUMENT;
    targets.row_losses = row_losses;
    if (n_rows > 0) {
        begin(&call, kind, x, x_row_stride, x_class_stride, n_rows, n_classes, temperature,
              n_threads);
        if (grad) {
            if (check_labels(&targets, n_rows, n_classes, bad_row) != SOFTMAX_FAST_OK)
                return SOFTMAX_FAST_BAD_LABEL;
            targets.gradient_scale = gradient_scale;
            sf_write_to(&call, *grad);
        }
        call.targets = &targets;
        status = sf_run(&call, grad ? SF_SOFTMAX_LOSS_GRAD : SF_SOFTMAX_LOSS, &result);
    }
    return finish(status, &result, loss_sum, weight_sum, bad_row);
}

/* With a gradient where grad is not NULL. */
SF_INLINE int divergence_rows(int kind, const void *base, ptrdiff_t base_row_stride,
                              ptrdiff_t base_class_stride, const void *x, ptrdiff_t x_row_stride,
                              ptrdiff_t x_class_stride, ptrdiff_t n_rows, ptrdiff_t n_classes,
                              const double *temperature, const double *sample_weight,
                              double gradient_scale, const sf_output *grad, void *row_divergences,
                              double *divergence_sum, double *weight_sum, int n_threads)
{
    const sf_input of_base = {base, 0, base_row_stride, base_class_stride, kind};
    sf_call call;
    sf_targets targets = sf_no_targets();
    sf_result result = sf_no_result();
    int status = SOFTMAX_FAST_OK;
    if (!sane(x, n_rows, n_classes, temperature, n_threads) || n_classes < 1
        || (n_rows && (!base || (grad && !grad->data))))
        return SOFTMAX_FAST_BAD_ARGUMENT;
    targets.probabilities = of_base;
    targets.sample_weight = sample_weight;
    targets.row_losses = row_divergences;
    targets.gradient_scale = gradient_scale;
    if (n_rows > 0) {
        begin(&call, kind, x, x_row_stride, x_class_stride, n_rows, n_classes, temperature,
              n_threads);
        if (grad)
            sf_write_to(&call, *grad);
        call.targets = &targets;
        status = sf_run(&call, grad ? SF_KL_DIVERGENCE_GRAD : SF_KL_DIVERGENCE, &result);
    }
    return finish(status, &result, divergence_sum, weight_sum, NULL);
}

/* ---- the fully connected layer ---------------------------------------------------------------- */

/* Where the gradients go, in the type of the features; NULL: nowhere. */
typedef struct {
    void *features, *weights, *bias;
    ptrdiff_t features_row_stride, weights_row_stride;
} layer_gradients;

static void clear_rows(void *data, ptrdiff_t row_stride, ptrdiff_t n_rows, ptrdiff_t n,
                       ptrdiff_t item)
{
    for (ptrdiff_t row = 0; data && row < n_rows; row++)
        memset((char *)data + row * row_stride * item, 0, (size_t)(n * item));
}

/* The sums of the bias's gradient are double. */
static int run_layer(sf_layer *layer, const layer_gradients *d, sf_result *result)
{
    const ptrdiff_t n_classes = layer->call.n_classes;
    const int is_double = layer->call.x.kind == SF_F64;
    double *sums = (double *)d->bias;
    if (d->bias && !is_double)
        sums = (double *)calloc((size_t)n_classes, sizeof *sums);
    if (d->bias && !sums)
        return SOFTMAX_FAST_NO_MEMORY;
    layer->d_bias = sums;
    const int status = sf_takes_layer(layer) ? sf_run_layer(layer, result)
                                             : sf_run_plain_layer(layer, result);
    if (d->bias && !is_double) {
        for (ptrdiff_t c = 0; c < n_classes; c++)
            ((float *)d->bias)[c] = (float)sums[c];
        free(sums);
    }
    return status;
}

static int layer_rows(sf_input features, sf_input weights, const void *bias, const int64_t *labels,
                      ptrdiff_t n_rows, ptrdiff_t n_features, ptrdiff_t n_classes,
                      const double *temperature, const softmax_fast_loss_options *options,
                      double gradient_scale, const layer_gradients *d, void *row_losses,
                      double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads)
{
    const ptrdiff_t item = features.kind == SF_F64 ? sizeof(double) : sizeof(float);
    const sf_output d_features = {d->features, 0, d->features_row_stride, 1};
    const sf_output d_weights = {d->weights, 0, d->weights_row_stride, 1};
    sf_layer layer;
    sf_targets targets;
    sf_result result = sf_no_result();
    int status = SOFTMAX_FAST_OK;
    if (bad_row)
        *bad_row = -1;
    if (!sane(features.data, n_rows, n_features, temperature, n_threads)
        || !sizes_fit(n_rows, n_classes) || !sizes_fit(n_classes, n_features)
        || (!weights.data && n_features)
        || targets_of(&targets, labels, n_rows, n_classes, options) != SOFTMAX_FAST_OK)
        return SOFTMAX_FAST_BAD_ARGUMENT;
    sf_target_weights(&targets, n_rows, n_classes, &result);
    if (result.bad_label_row >= 0)
        return finish(status, &result, NULL, NULL, bad_row);
    clear_rows(d->features, d->features_row_stride, n_rows, n_features, item);
    clear_rows(d->weights, d->weights_row_stride, n_classes, n_features, item);
    clear_rows(d->bias, 0, 1, n_classes, item);
    clear_rows(row_losses, 0, 1, n_rows, item);
    if (n_rows > 0) {
        memset(&layer, 0, sizeof layer);
        begin(&layer.call, features.kind, features.data, features.row_stride,
              features.class_stride, n_rows, n_classes, temperature, n_threads);
        targets.row_losses = row_losses;
        targets.gradient_scale = gradient_scale;
        layer.call.targets = &targets;
        layer.weights = weights;
        layer.bias = bias;
        layer.n_features = n_features;
        layer.d_features = d_features;
        layer.d_weights = d_weights;
        status = run_layer(&layer, d, &result);
    }
    return finish(status, &result, loss_sum, weight_sum, bad_row);
}

/* ---- the public functions -------------------------------------------------------------------- */

int softmax_fast_api_version(void) { return SOFTMAX_FAST_API_VERSION; }

#define ROWS_FUNCTION(name, operation, real, kind)                                                 \
    int name(const real *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, real *out,           \
             ptrdiff_t out_row_stride, ptrdiff_t out_class_stride, ptrdiff_t n_rows,               \
             ptrdiff_t n_classes, double temperature, int n_threads)                               \
    {                                                                                              \
        return write_rows(operation, kind, x, x_row_stride, x_class_stride, out, out_row_stride,   \
                          out_class_stride, n_rows, n_classes, &temperature, n_threads);           \
    }

#define FUNCTIONS(suffix, real, kind)                                                              \
    ROWS_FUNCTION(softmax_fast_softmax_##suffix, SF_SOFTMAX, real, kind)                           \
    ROWS_FUNCTION(softmax_fast_log_softmax_##suffix, SF_LOG_SOFTMAX, real, kind)                   \
    int softmax_fast_logsumexp_##suffix(                                                           \
        const real *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, real *out,                \
        ptrdiff_t out_stride, ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature,           \
        int n_threads)                                                                             \
    {                                                                                              \
        return reduce_rows(kind, x, x_row_stride, x_class_stride, out, out_stride, n_rows,         \
                           n_classes, &temperature, n_threads);                                    \
    }                                                                                              \
    int softmax_fast_softmax_loss_##suffix(                                                        \
        const real *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, const int64_t *labels,    \
        ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature,                                 \
        const softmax_fast_loss_options *options, real *row_losses, double *loss_sum,              \
        double *weight_sum, ptrdiff_t *bad_row, int n_threads)                                     \
    {                                                                                              \
        return loss_rows(kind, x, x_row_stride, x_class_stride, labels, n_rows, n_classes,         \
                         &temperature, options, 1.0, NULL, row_losses, loss_sum, weight_sum,       \
                         bad_row, n_threads);                                                      \
    }                                                                                              \
    int softmax_fast_softmax_loss_grad_##suffix(                                                   \
        const real *x, ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, const int64_t *labels,    \
        ptrdiff_t n_rows, ptrdiff_t n_classes, double temperature,                                 \
        const softmax_fast_loss_options *options, double gradient_scale, real *grad,               \
        ptrdiff_t grad_row_stride, ptrdiff_t grad_class_stride, real *row_losses,                  \
        double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads)                   \
    {                                                                                              \
        sf_output rows = {grad, 0, grad_row_stride, grad_class_stride};                            \
        return loss_rows(kind, x, x_row_stride, x_class_stride, labels, n_rows, n_classes,         \
                         &temperature, options, gradient_scale, &rows, row_losses, loss_sum,       \
                         weight_sum, bad_row, n_threads);                                          \
    }                                                                                              \
    int softmax_fast_kl_divergence_##suffix(                                                       \
        const real *base, ptrdiff_t base_row_stride, ptrdiff_t base_class_stride, const real *x,   \
        ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, ptrdiff_t n_rows, ptrdiff_t n_classes,   \
        double temperature, const double *sample_weight, real *row_divergences,                    \
        double *divergence_sum, double *weight_sum, int n_threads)                                 \
    {                                                                                              \
        return divergence_rows(kind, base, base_row_stride, base_class_stride, x, x_row_stride,    \
                               x_class_stride, n_rows, n_classes, &temperature, sample_weight,     \
                               1.0, NULL, row_divergences, divergence_sum, weight_sum,             \
                               n_threads);                                                         \
    }                                                                                              \
    int softmax_fast_kl_divergence_grad_##suffix(                                                  \
        const real *base, ptrdiff_t base_row_stride, ptrdiff_t base_class_stride, const real *x,   \
        ptrdiff_t x_row_stride, ptrdiff_t x_class_stride, ptrdiff_t n_rows, ptrdiff_t n_classes,   \
        double temperature, const double *sample_weight, double gradient_scale, real *grad,        \
        ptrdiff_t grad_row_stride, ptrdiff_t grad_class_stride, real *row_divergences,             \
        double *divergence_sum, double *weight_sum, int n_threads)                                 \
    {                                                                                              \
        sf_output rows = {grad, 0, grad_row_stride, grad_class_stride};                            \
        return divergence_rows(kind, base, base_row_stride, base_class_stride, x, x_row_stride,    \
                               x_class_stride, n_rows, n_classes, &temperature, sample_weight,     \
                               gradient_scale, &rows, row_divergences, divergence_sum,             \
                               weight_sum, n_threads);                                             \
    }

FUNCTIONS(f32, float, SF_F32)
FUNCTIONS(f64, double, SF_F64)

#define LAYER_FUNCTIONS(suffix, real, kind, weight, kind_of_weights)                               \
    int softmax_fast_linear_softmax_loss_##suffix(                                                 \
        const real *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,     \
        const weight *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,      \
        const real *bias, const int64_t *labels, ptrdiff_t n_rows, ptrdiff_t n_features,           \
        ptrdiff_t n_classes, double temperature, const softmax_fast_loss_options *options,         \
        real *row_losses, double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads) \
    {                                                                                              \
        const sf_input f = {features, 0, features_row_stride, features_column_stride, kind};       \
        const sf_input w = {weights, 0, weights_row_stride, weights_column_stride,                 \
                            kind_of_weights};                                                      \
        const layer_gradients none = {NULL, NULL, NULL, 0, 0};                                     \
        return layer_rows(f, w, bias, labels, n_rows, n_features, n_classes, &temperature,         \
                          options, 1.0, &none, row_losses, loss_sum, weight_sum, bad_row,          \
                          n_threads);                                                              \
    }                                                                                              \
    int softmax_fast_linear_softmax_loss_grad_##suffix(                                            \
        const real *features, ptrdiff_t features_row_stride, ptrdiff_t features_column_stride,     \
        const weight *weights, ptrdiff_t weights_row_stride, ptrdiff_t weights_column_stride,      \
        const real *bias, const int64_t *labels, ptrdiff_t n_rows, ptrdiff_t n_features,           \
        ptrdiff_t n_classes, double temperature, const softmax_fast_loss_options *options,         \
        double gradient_scale, real *d_features, ptrdiff_t d_features_row_stride,                  \
        real *d_weights, ptrdiff_t d_weights_row_stride, real *d_bias, real *row_losses,           \
        double *loss_sum, double *weight_sum, ptrdiff_t *bad_row, int n_threads)                   \
    {                                                                                              \
        const sf_input f = {features, 0, features_row_stride, features_column_stride, kind};       \
        const sf_input w = {weights, 0, weights_row_stride, weights_column_stride,                 \
                            kind_of_weights};                                                      \
        const layer_gradients d = {d_features, d_weights, d_bias, d_features_row_stride,           \
                                   d_weights_row_stride};                                          \
        return layer_rows(f, w, bias, labels, n_rows, n_features, n_classes, &temperature,         \
                          options, gradient_scale, &d, row_losses, loss_sum, weight_sum, bad_row,  \
                          n_threads);                                                              \
    }

LAYER_FUNCTIONS(f32, float, SF_F32, float, SF_F32)
LAYER_FUNCTIONS(f64, double, SF_F64, double, SF_F64)
LAYER_FUNCTIONS(f32_bf16, float, SF_F32, uint16_t, SF_BF16)

int softmax_fast_weight_sum(const int64_t *labels, ptrdiff_t n_rows, ptrdiff_t n_classes,
                            const softmax_fast_loss_options *options, double *weight_sum,
                            ptrdiff_t *bad_row)
{
    sf_targets targets;
    sf_result result = sf_no_result();
    if (bad_row)
        *bad_row = -1;
    if (!sizes_fit(n_rows, n_classes)
        || targets_of(&targets, labels, n_rows, n_classes, options) != SOFTMAX_FAST_OK)
        return SOFTMAX_FAST_BAD_ARGUMENT;
    sf_target_weights(&targets, n_rows, n_classes, &result);
    return finish(SOFTMAX_FAST_OK, &result, NULL, weight_sum, bad_row);
}

static softmax_fast_parallel_for *users_loop;
static void *users_pool;

static void users_parallel_for(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers)
{
    users_loop(users_pool, body, context, n_pieces, n_workers);
}

void softmax_fast_set_parallel_for(softmax_fast_parallel_for *loop, void *pool)
{
    users_loop = loop;
    users_pool = pool;
    sf_set_parallel_for(loop ? users_parallel_for : NULL);
}

const softmax_fast_table sf_api_table = {
    .version = SOFTMAX_FAST_API_VERSION,
    .size = sizeof(softmax_fast_table),
    .api_version = softmax_fast_api_version,
    .softmax_f32 = softmax_fast_softmax_f32,
    .log_softmax_f32 = softmax_fast_log_softmax_f32,
    .softmax_f64 = softmax_fast_softmax_f64,
    .log_softmax_f64 = softmax_fast_log_softmax_f64,
    .logsumexp_f32 = softmax_fast_logsumexp_f32,
    .logsumexp_f64 = softmax_fast_logsumexp_f64,
    .softmax_loss_f32 = softmax_fast_softmax_loss_f32,
    .softmax_loss_f64 = softmax_fast_softmax_loss_f64,
    .softmax_loss_grad_f32 = softmax_fast_softmax_loss_grad_f32,
    .softmax_loss_grad_f64 = softmax_fast_softmax_loss_grad_f64,
    .weight_sum = softmax_fast_weight_sum,
    .kl_divergence_f32 = softmax_fast_kl_divergence_f32,
    .kl_divergence_f64 = softmax_fast_kl_divergence_f64,
    .kl_divergence_grad_f32 = softmax_fast_kl_divergence_grad_f32,
    .kl_divergence_grad_f64 = softmax_fast_kl_divergence_grad_f64,
    .linear_softmax_loss_f32 = softmax_fast_linear_softmax_loss_f32,
    .linear_softmax_loss_f64 = softmax_fast_linear_softmax_loss_f64,
    .linear_softmax_loss_f32_bf16 = softmax_fast_linear_softmax_loss_f32_bf16,
    .linear_softmax_loss_grad_f32 = softmax_fast_linear_softmax_loss_grad_f32,
    .linear_softmax_loss_grad_f64 = softmax_fast_linear_softmax_loss_grad_f64,
    .linear_softmax_loss_grad_f32_bf16 = softmax_fast_linear_softmax_loss_grad_f32_bf16,
};
