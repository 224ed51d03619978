# cython: boundscheck=False, wraparound=False, cdivision=True
# The C-level API for Cython: `from softmax_fast.capi cimport softmax_f32`.  The rules, and what the
# arguments mean, are in include/softmax_fast.h.

from libc.stdint cimport int64_t
from softmax_fast._core cimport (
    API_VERSION,
    SOFTMAX_FAST_BAD_ARGUMENT,
    SOFTMAX_FAST_BAD_LABEL,
    SOFTMAX_FAST_NO_MEMORY,
    SOFTMAX_FAST_OK,
    api_version,
    kl_divergence_f32,
    kl_divergence_f64,
    kl_divergence_grad_f32,
    kl_divergence_grad_f64,
    linear_softmax_loss_f32,
    linear_softmax_loss_f32_bf16,
    linear_softmax_loss_f64,
    linear_softmax_loss_grad_f32,
    linear_softmax_loss_grad_f32_bf16,
    linear_softmax_loss_grad_f64,
    log_softmax_f32,
    log_softmax_f64,
    logsumexp_f32,
    logsumexp_f64,
    loss_options,
    softmax_f32,
    softmax_f64,
    softmax_loss_f32,
    softmax_loss_f64,
    softmax_loss_grad_f32,
    softmax_loss_grad_f64,
    weight_sum,
)


cdef inline loss_options default_loss_options() noexcept nogil:
    """The options that NULL stands for, to be changed: no weights, labels of -100 ignored."""
    cdef loss_options options
    options.size = sizeof(loss_options)
    options.class_weight = NULL
    options.sample_weight = NULL
    options.label_smoothing = 0.0
    options.ignore_index = -100
    options.has_ignore_index = 1
    return options


# ---- typed memoryviews ---------------------------------------------------------------------------
#
# The same functions of views of any strides, rows by classes.  Shapes that do not fit, and strides
# that are no multiple of the item size, are SOFTMAX_FAST_BAD_ARGUMENT.

ctypedef fused softmax_real:
    float
    double


cdef inline int softmax_view(
    const softmax_real[:, :] x, softmax_real[:, :] out, double temperature, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    if (out.shape[0] != x.shape[0] or out.shape[1] != x.shape[1]
            or (x.strides[0] | x.strides[1] | out.strides[0] | out.strides[1]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if softmax_real is float:
        return softmax_f32(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            &out[0, 0], out.strides[0] // item, out.strides[1] // item,
            x.shape[0], x.shape[1], temperature, n_threads)
    else:
        return softmax_f64(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            &out[0, 0], out.strides[0] // item, out.strides[1] // item,
            x.shape[0], x.shape[1], temperature, n_threads)


cdef inline int log_softmax_view(
    const softmax_real[:, :] x, softmax_real[:, :] out, double temperature, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    if (out.shape[0] != x.shape[0] or out.shape[1] != x.shape[1]
            or (x.strides[0] | x.strides[1] | out.strides[0] | out.strides[1]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if softmax_real is float:
        return log_softmax_f32(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            &out[0, 0], out.strides[0] // item, out.strides[1] // item,
            x.shape[0], x.shape[1], temperature, n_threads)
    else:
        return log_softmax_f64(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            &out[0, 0], out.strides[0] // item, out.strides[1] // item,
            x.shape[0], x.shape[1], temperature, n_threads)


cdef inline int logsumexp_view(
    const softmax_real[:, :] x, softmax_real[:] out, double temperature, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    if (out.shape[0] != x.shape[0]
            or (x.strides[0] | x.strides[1] | out.strides[0]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if softmax_real is float:
        return logsumexp_f32(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            &out[0], out.strides[0] // item, x.shape[0], x.shape[1], temperature, n_threads)
    else:
        return logsumexp_f64(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            &out[0], out.strides[0] // item, x.shape[0], x.shape[1], temperature, n_threads)


cdef inline int softmax_loss_view(
    const softmax_real[:, :] x, const int64_t[::1] labels, double temperature,
    const loss_options *options,
    double *loss_sum, double *weight_total, Py_ssize_t *bad_row, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    if labels.shape[0] != x.shape[0] or (x.strides[0] | x.strides[1]) % item:
        return SOFTMAX_FAST_BAD_ARGUMENT
    if softmax_real is float:
        return softmax_loss_f32(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item, &labels[0],
            x.shape[0], x.shape[1], temperature, options,
            NULL, loss_sum, weight_total, bad_row, n_threads)
    else:
        return softmax_loss_f64(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item, &labels[0],
            x.shape[0], x.shape[1], temperature, options,
            NULL, loss_sum, weight_total, bad_row, n_threads)


cdef inline int softmax_loss_grad_view(
    const softmax_real[:, :] x, const int64_t[::1] labels, double temperature,
    const loss_options *options,
    double gradient_scale, softmax_real[:, :] grad,
    double *loss_sum, double *weight_total, Py_ssize_t *bad_row, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    if (labels.shape[0] != x.shape[0]
            or grad.shape[0] != x.shape[0] or grad.shape[1] != x.shape[1]
            or (x.strides[0] | x.strides[1] | grad.strides[0] | grad.strides[1]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if softmax_real is float:
        return softmax_loss_grad_f32(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item, &labels[0],
            x.shape[0], x.shape[1], temperature, options,
            gradient_scale, &grad[0, 0], grad.strides[0] // item, grad.strides[1] // item,
            NULL, loss_sum, weight_total, bad_row, n_threads)
    else:
        return softmax_loss_grad_f64(
            &x[0, 0], x.strides[0] // item, x.strides[1] // item, &labels[0],
            x.shape[0], x.shape[1], temperature, options,
            gradient_scale, &grad[0, 0], grad.strides[0] // item, grad.strides[1] // item,
            NULL, loss_sum, weight_total, bad_row, n_threads)


cdef inline int kl_divergence_view(
    const softmax_real[:, :] base, const softmax_real[:, :] x, double temperature,
    double *divergence_sum, double *weight_total, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    if (base.shape[0] != x.shape[0] or base.shape[1] != x.shape[1]
            or (base.strides[0] | base.strides[1] | x.strides[0] | x.strides[1]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if softmax_real is float:
        return kl_divergence_f32(
            &base[0, 0], base.strides[0] // item, base.strides[1] // item,
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            x.shape[0], x.shape[1], temperature, NULL,
            NULL, divergence_sum, weight_total, n_threads)
    else:
        return kl_divergence_f64(
            &base[0, 0], base.strides[0] // item, base.strides[1] // item,
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            x.shape[0], x.shape[1], temperature, NULL,
            NULL, divergence_sum, weight_total, n_threads)


cdef inline int kl_divergence_grad_view(
    const softmax_real[:, :] base, const softmax_real[:, :] x, double temperature,
    double gradient_scale, softmax_real[:, :] grad,
    double *divergence_sum, double *weight_total, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    if (base.shape[0] != x.shape[0] or base.shape[1] != x.shape[1]
            or grad.shape[0] != x.shape[0] or grad.shape[1] != x.shape[1]
            or (base.strides[0] | base.strides[1] | x.strides[0] | x.strides[1]
                | grad.strides[0] | grad.strides[1]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if softmax_real is float:
        return kl_divergence_grad_f32(
            &base[0, 0], base.strides[0] // item, base.strides[1] // item,
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            x.shape[0], x.shape[1], temperature, NULL,
            gradient_scale, &grad[0, 0], grad.strides[0] // item, grad.strides[1] // item,
            NULL, divergence_sum, weight_total, n_threads)
    else:
        return kl_divergence_grad_f64(
            &base[0, 0], base.strides[0] // item, base.strides[1] // item,
            &x[0, 0], x.strides[0] // item, x.strides[1] // item,
            x.shape[0], x.shape[1], temperature, NULL,
            gradient_scale, &grad[0, 0], grad.strides[0] // item, grad.strides[1] // item,
            NULL, divergence_sum, weight_total, n_threads)


# A bias, and gradients that are not wanted, may be None.

cdef inline int linear_softmax_loss_view(
    const softmax_real[:, :] features, const softmax_real[:, :] weights,
    const softmax_real[::1] bias, const int64_t[::1] labels, double temperature,
    const loss_options *options,
    double *loss_sum, double *weight_total, Py_ssize_t *bad_row, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    cdef const softmax_real *from_bias = NULL
    if (labels.shape[0] != features.shape[0] or weights.shape[1] != features.shape[1]
            or (features.strides[0] | features.strides[1]
                | weights.strides[0] | weights.strides[1]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if bias is not None:
        if bias.shape[0] != weights.shape[0]:
            return SOFTMAX_FAST_BAD_ARGUMENT
        from_bias = &bias[0]
    if softmax_real is float:
        return linear_softmax_loss_f32(
            &features[0, 0], features.strides[0] // item, features.strides[1] // item,
            &weights[0, 0], weights.strides[0] // item, weights.strides[1] // item,
            from_bias, &labels[0], features.shape[0], features.shape[1], weights.shape[0],
            temperature, options,
            NULL, loss_sum, weight_total, bad_row, n_threads)
    else:
        return linear_softmax_loss_f64(
            &features[0, 0], features.strides[0] // item, features.strides[1] // item,
            &weights[0, 0], weights.strides[0] // item, weights.strides[1] // item,
            from_bias, &labels[0], features.shape[0], features.shape[1], weights.shape[0],
            temperature, options,
            NULL, loss_sum, weight_total, bad_row, n_threads)


cdef inline int linear_softmax_loss_grad_view(
    const softmax_real[:, :] features, const softmax_real[:, :] weights,
    const softmax_real[::1] bias, const int64_t[::1] labels, double temperature,
    const loss_options *options,
    double gradient_scale, softmax_real[:, ::1] d_features, softmax_real[:, ::1] d_weights,
    softmax_real[::1] d_bias,
    double *loss_sum, double *weight_total, Py_ssize_t *bad_row, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t item = sizeof(softmax_real)
    cdef const softmax_real *from_bias = NULL
    cdef softmax_real *to_features = NULL
    cdef softmax_real *to_weights = NULL
    cdef softmax_real *to_bias = NULL
    cdef Py_ssize_t features_step = 0, weights_step = 0
    if (labels.shape[0] != features.shape[0] or weights.shape[1] != features.shape[1]
            or (features.strides[0] | features.strides[1]
                | weights.strides[0] | weights.strides[1]) % item):
        return SOFTMAX_FAST_BAD_ARGUMENT
    if bias is not None:
        if bias.shape[0] != weights.shape[0]:
            return SOFTMAX_FAST_BAD_ARGUMENT
        from_bias = &bias[0]
    if d_features is not None:
        if (d_features.shape[0] != features.shape[0] or d_features.shape[1] != features.shape[1]
                or d_features.strides[0] % item):
            return SOFTMAX_FAST_BAD_ARGUMENT
        to_features, features_step = &d_features[0, 0], d_features.strides[0] // item
    if d_weights is not None:
        if (d_weights.shape[0] != weights.shape[0] or d_weights.shape[1] != weights.shape[1]
                or d_weights.strides[0] % item):
            return SOFTMAX_FAST_BAD_ARGUMENT
        to_weights, weights_step = &d_weights[0, 0], d_weights.strides[0] // item
    if d_bias is not None:
        if d_bias.shape[0] != weights.shape[0]:
            return SOFTMAX_FAST_BAD_ARGUMENT
        to_bias = &d_bias[0]
    if softmax_real is float:
        return linear_softmax_loss_grad_f32(
            &features[0, 0], features.strides[0] // item, features.strides[1] // item,
            &weights[0, 0], weights.strides[0] // item, weights.strides[1] // item,
            from_bias, &labels[0], features.shape[0], features.shape[1], weights.shape[0],
            temperature, options,
            gradient_scale, to_features, features_step, to_weights, weights_step, to_bias,
            NULL, loss_sum, weight_total, bad_row, n_threads)
    else:
        return linear_softmax_loss_grad_f64(
            &features[0, 0], features.strides[0] // item, features.strides[1] // item,
            &weights[0, 0], weights.strides[0] // item, weights.strides[1] // item,
            from_bias, &labels[0], features.shape[0], features.shape[1], weights.shape[0],
            temperature, options,
            gradient_scale, to_features, features_step, to_weights, weights_step, to_bias,
            NULL, loss_sum, weight_total, bad_row, n_threads)
