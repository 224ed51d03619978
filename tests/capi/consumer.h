/* One call of any function of softmax_fast.h, described by numbers: what the consumers share.
 * tests/test_capi.py packs a call and compares what comes back with the Python functions. */
#ifndef CONSUMER_H
#define CONSUMER_H

#include <softmax_fast.h>

enum {
    SOFTMAX,
    LOG_SOFTMAX,
    LOGSUMEXP,
    SOFTMAX_LOSS,
    SOFTMAX_LOSS_GRAD,
    KL_DIVERGENCE,
    KL_DIVERGENCE_GRAD,
    LINEAR_SOFTMAX_LOSS,
    LINEAR_SOFTMAX_LOSS_GRAD,
    WEIGHT_SUM,
    API_VERSION
};

typedef struct {
    int64_t function, is_f64, n_rows, n_classes, x_row_stride, x_class_stride, out_row_stride,
        out_class_stride, base_row_stride, base_class_stride, n_threads, has_options,
        has_ignore_index, ignore_index, n_features, is_bfloat, d_weights_row_stride;
    double temperature, label_smoothing, gradient_scale;
} call;

typedef struct {
    void *x, *out, *labels, *class_weight, *sample_weight, *row_losses, *base, *bias, *d_weights,
        *d_bias;
} arrays;

typedef struct {
    int64_t status, bad_row;
    double loss_sum, weight_sum;
} reply;

static int call_f32(const call *c, const arrays *a, const softmax_fast_loss_options *options,
                    ptrdiff_t *bad_row, reply *r)
{
    const float *x = (const float *)a->x, *base = (const float *)a->base;
    const int64_t *labels = (const int64_t *)a->labels;
    float *out = (float *)a->out, *row_losses = (float *)a->row_losses;
    switch (c->function) {
    case SOFTMAX:
        return softmax_fast_softmax_f32(x, c->x_row_stride, c->x_class_stride, out,
                                        c->out_row_stride, c->out_class_stride, c->n_rows,
                                        c->n_classes, c->temperature, (int)c->n_threads);
    case LOG_SOFTMAX:
        return softmax_fast_log_softmax_f32(x, c->x_row_stride, c->x_class_stride, out,
                                            c->out_row_stride, c->out_class_stride, c->n_rows,
                                            c->n_classes, c->temperature, (int)c->n_threads);
    case LOGSUMEXP:
        return softmax_fast_logsumexp_f32(x, c->x_row_stride, c->x_class_stride, out,
                                          c->out_row_stride, c->n_rows, c->n_classes,
                                          c->temperature, (int)c->n_threads);
    case SOFTMAX_LOSS:
        return softmax_fast_softmax_loss_f32(
            x, c->x_row_stride, c->x_class_stride, labels, c->n_rows, c->n_classes, c->temperature,
            options, row_losses, &r->loss_sum, &r->weight_sum, bad_row, (int)c->n_threads);
    case KL_DIVERGENCE:
        return softmax_fast_kl_divergence_f32(
            base, c->base_row_stride, c->base_class_stride, x, c->x_row_stride, c->x_class_stride,
            c->n_rows, c->n_classes, c->temperature, (const double *)a->sample_weight, row_losses,
            &r->loss_sum, &r->weight_sum, (int)c->n_threads);
    case KL_DIVERGENCE_GRAD:
        return softmax_fast_kl_divergence_grad_f32(
            base, c->base_row_stride, c->base_class_stride, x, c->x_row_stride, c->x_class_stride,
            c->n_rows, c->n_classes, c->temperature, (const double *)a->sample_weight,
            c->gradient_scale, out, c->out_row_stride, c->out_class_stride, row_losses,
            &r->loss_sum, &r->weight_sum, (int)c->n_threads);
    default:
        return softmax_fast_softmax_loss_grad_f32(
            x, c->x_row_stride, c->x_class_stride, labels, c->n_rows, c->n_classes, c->temperature,
            options, c->gradient_scale, out, c->out_row_stride, c->out_class_stride, row_losses,
            &r->loss_sum, &r->weight_sum, bad_row, (int)c->n_threads);
    }
}

static int call_f64(const call *c, const arrays *a, const softmax_fast_loss_options *options,
                    ptrdiff_t *bad_row, reply *r)
{
    const double *x = (const double *)a->x, *base = (const double *)a->base;
    const int64_t *labels = (const int64_t *)a->labels;
    double *out = (double *)a->out, *row_losses = (double *)a->row_losses;
    switch (c->function) {
    case SOFTMAX:
        return softmax_fast_softmax_f64(x, c->x_row_stride, c->x_class_stride, out,
                                        c->out_row_stride, c->out_class_stride, c->n_rows,
                                        c->n_classes, c->temperature, (int)c->n_threads);
    case LOG_SOFTMAX:
        return softmax_fast_log_softmax_f64(x, c->x_row_stride, c->x_class_stride, out,
                                            c->out_row_stride, c->out_class_stride, c->n_rows,
                                            c->n_classes, c->temperature, (int)c->n_threads);
    case LOGSUMEXP:
        return softmax_fast_logsumexp_f64(x, c->x_row_stride, c->x_class_stride, out,
                                          c->out_row_stride, c->n_rows, c->n_classes,
                                          c->temperature, (int)c->n_threads);
    case SOFTMAX_LOSS:
        return softmax_fast_softmax_loss_f64(
            x, c->x_row_stride, c->x_class_stride, labels, c->n_rows, c->n_classes, c->temperature,
            options, row_losses, &r->loss_sum, &r->weight_sum, bad_row, (int)c->n_threads);
    case KL_DIVERGENCE:
        return softmax_fast_kl_divergence_f64(
            base, c->base_row_stride, c->base_class_stride, x, c->x_row_stride, c->x_class_stride,
            c->n_rows, c->n_classes, c->temperature, (const double *)a->sample_weight, row_losses,
            &r->loss_sum, &r->weight_sum, (int)c->n_threads);
    case KL_DIVERGENCE_GRAD:
        return softmax_fast_kl_divergence_grad_f64(
            base, c->base_row_stride, c->base_class_stride, x, c->x_row_stride, c->x_class_stride,
            c->n_rows, c->n_classes, c->temperature, (const double *)a->sample_weight,
            c->gradient_scale, out, c->out_row_stride, c->out_class_stride, row_losses,
            &r->loss_sum, &r->weight_sum, (int)c->n_threads);
    default:
        return softmax_fast_softmax_loss_grad_f64(
            x, c->x_row_stride, c->x_class_stride, labels, c->n_rows, c->n_classes, c->temperature,
            options, c->gradient_scale, out, c->out_row_stride, c->out_class_stride, row_losses,
            &r->loss_sum, &r->weight_sum, bad_row, (int)c->n_threads);
    }
}

/* Of the layer, x are the features, base the weights, out the gradient of the features. */
static int call_layer_f32(const call *c, const arrays *a, const softmax_fast_loss_options *options,
                          ptrdiff_t *bad_row, reply *r)
{
    const float *x = (const float *)a->x, *bias = (const float *)a->bias;
    const float *weights = (const float *)a->base;
    const int64_t *labels = (const int64_t *)a->labels;
    float *row_losses = (float *)a->row_losses;
    if (c->function == LINEAR_SOFTMAX_LOSS)
        return softmax_fast_linear_softmax_loss_f32(
            x, c->x_row_stride, c->x_class_stride, weights, c->base_row_stride,
            c->base_class_stride, bias, labels, c->n_rows, c->n_features, c->n_classes,
            c->temperature, options, row_losses, &r->loss_sum, &r->weight_sum, bad_row,
            (int)c->n_threads);
    return softmax_fast_linear_softmax_loss_grad_f32(
        x, c->x_row_stride, c->x_class_stride, weights, c->base_row_stride, c->base_class_stride,
        bias, labels, c->n_rows, c->n_features, c->n_classes, c->temperature, options,
        c->gradient_scale, (float *)a->out, c->out_row_stride, (float *)a->d_weights,
        c->d_weights_row_stride, (float *)a->d_bias, row_losses, &r->loss_sum, &r->weight_sum,
        bad_row, (int)c->n_threads);
}

static int call_layer_f64(const call *c, const arrays *a, const softmax_fast_loss_options *options,
                          ptrdiff_t *bad_row, reply *r)
{
    const double *x = (const double *)a->x, *bias = (const double *)a->bias;
    const double *weights = (const double *)a->base;
    const int64_t *labels = (const int64_t *)a->labels;
    double *row_losses = (double *)a->row_losses;
    if (c->function == LINEAR_SOFTMAX_LOSS)
        return softmax_fast_linear_softmax_loss_f64(
            x, c->x_row_stride, c->x_class_stride, weights, c->base_row_stride,
            c->base_class_stride, bias, labels, c->n_rows, c->n_features, c->n_classes,
            c->temperature, options, row_losses, &r->loss_sum, &r->weight_sum, bad_row,
            (int)c->n_threads);
    return softmax_fast_linear_softmax_loss_grad_f64(
        x, c->x_row_stride, c->x_class_stride, weights, c->base_row_stride, c->base_class_stride,
        bias, labels, c->n_rows, c->n_features, c->n_classes, c->temperature, options,
        c->gradient_scale, (double *)a->out, c->out_row_stride, (double *)a->d_weights,
        c->d_weights_row_stride, (double *)a->d_bias, row_losses, &r->loss_sum, &r->weight_sum,
        bad_row, (int)c->n_threads);
}

static int call_layer_f32_bf16(const call *c, const arrays *a, const softmax_fast_loss_options *options,
                               ptrdiff_t *bad_row, reply *r)
{
    const float *x = (const float *)a->x, *bias = (const float *)a->bias;
    const uint16_t *weights = (const uint16_t *)a->base;
    const int64_t *labels = (const int64_t *)a->labels;
    float *row_losses = (float *)a->row_losses;
    if (c->function == LINEAR_SOFTMAX_LOSS)
        return softmax_fast_linear_softmax_loss_f32_bf16(
            x, c->x_row_stride, c->x_class_stride, weights, c->base_row_stride,
            c->base_class_stride, bias, labels, c->n_rows, c->n_features, c->n_classes,
            c->temperature, options, row_losses, &r->loss_sum, &r->weight_sum, bad_row,
            (int)c->n_threads);
    return softmax_fast_linear_softmax_loss_grad_f32_bf16(
        x, c->x_row_stride, c->x_class_stride, weights, c->base_row_stride, c->base_class_stride,
        bias, labels, c->n_rows, c->n_features, c->n_classes, c->temperature, options,
        c->gradient_scale, (float *)a->out, c->out_row_stride, (float *)a->d_weights,
        c->d_weights_row_stride, (float *)a->d_bias, row_losses, &r->loss_sum, &r->weight_sum,
        bad_row, (int)c->n_threads);
}

static reply answer(const call *c, const arrays *a)
{
    reply r = {0, -1, 0.0, 0.0};
    ptrdiff_t bad_row = -1;
    softmax_fast_loss_options given = SOFTMAX_FAST_LOSS_OPTIONS, *options = NULL;
    if (c->has_options) {
        given.class_weight = (const double *)a->class_weight;
        given.sample_weight = (const double *)a->sample_weight;
        given.label_smoothing = c->label_smoothing;
        given.ignore_index = c->ignore_index;
        given.has_ignore_index = (int)c->has_ignore_index;
        options = &given;
    }
    if (c->function == API_VERSION)
        r.status = softmax_fast_api_version();
    else if (c->function == WEIGHT_SUM)
        r.status = softmax_fast_weight_sum((const int64_t *)a->labels, c->n_rows, c->n_classes,
                                           options, &r.weight_sum, &bad_row);
    else if (c->function == LINEAR_SOFTMAX_LOSS || c->function == LINEAR_SOFTMAX_LOSS_GRAD)
        r.status = (c->is_f64      ? call_layer_f64
                    : c->is_bfloat ? call_layer_f32_bf16
                                   : call_layer_f32)(c, a, options, &bad_row, &r);
    else
        r.status = (c->is_f64 ? call_f64 : call_f32)(c, a, options, &bad_row, &r);
    r.bad_row = bad_row;
    return r;
}

#endif
