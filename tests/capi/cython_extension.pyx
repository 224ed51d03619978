# cython: language_level=3
"""Every function of softmax_fast for Cython, called with addresses and with views."""

from libc.stdint cimport int64_t, uint16_t, uintptr_t

from softmax_fast cimport (
    API_VERSION, SOFTMAX_FAST_BAD_ARGUMENT, SOFTMAX_FAST_BAD_LABEL, SOFTMAX_FAST_NO_MEMORY,
    SOFTMAX_FAST_OK, api_version, default_loss_options, loss_options, weight_sum,
)
from softmax_fast.capi cimport (
    kl_divergence_f32, kl_divergence_f64, kl_divergence_grad_f32, kl_divergence_grad_f64,
    kl_divergence_grad_view, kl_divergence_view,
    linear_softmax_loss_f32, linear_softmax_loss_f32_bf16, linear_softmax_loss_f64,
    linear_softmax_loss_grad_f32, linear_softmax_loss_grad_f32_bf16, linear_softmax_loss_grad_f64,
    linear_softmax_loss_grad_view, linear_softmax_loss_view,
    log_softmax_f32, log_softmax_f64, log_softmax_view, logsumexp_f32, logsumexp_f64,
    logsumexp_view, softmax_f32, softmax_f64, softmax_loss_f32, softmax_loss_f64,
    softmax_loss_grad_f32, softmax_loss_grad_f64, softmax_loss_grad_view, softmax_loss_view,
    softmax_view,
)

ctypedef fused real:
    float
    double

versions = (API_VERSION, api_version())
statuses = {
    "OK": SOFTMAX_FAST_OK, "NO_MEMORY": SOFTMAX_FAST_NO_MEMORY,
    "BAD_ARGUMENT": SOFTMAX_FAST_BAD_ARGUMENT, "BAD_LABEL": SOFTMAX_FAST_BAD_LABEL,
}


cdef void fill(loss_options *options, call, arrays):
    options.class_weight = <const double *><uintptr_t>arrays.class_weight
    options.sample_weight = <const double *><uintptr_t>arrays.sample_weight
    options.label_smoothing = call.label_smoothing
    options.ignore_index = call.ignore_index
    options.has_ignore_index = call.has_ignore_index


def answer(c, a):
    """The fields of struct call and of struct arrays, by name -> those of struct reply."""
    cdef loss_options given = default_loss_options()
    cdef const loss_options *options = NULL
    cdef Py_ssize_t xr = c.x_row_stride, xc = c.x_class_stride
    cdef Py_ssize_t outr = c.out_row_stride, outc = c.out_class_stride
    cdef Py_ssize_t br = c.base_row_stride, bc = c.base_class_stride
    cdef Py_ssize_t n = c.n_rows, k = c.n_classes, bad_row = -1
    cdef double t = c.temperature, scale = c.gradient_scale, loss_sum = 0, total = 0
    cdef int threads = c.n_threads, status
    cdef uintptr_t x = a.x, out = a.out, labels = a.labels, losses = a.row_losses, base = a.base
    cdef const double *weights = <const double *><uintptr_t>a.sample_weight
    cdef uintptr_t bias = a.bias, d_weights = a.d_weights, d_bias = a.d_bias
    cdef Py_ssize_t d = c.n_features, dw = c.d_weights_row_stride
    cdef const int64_t *y = <const int64_t *>labels
    if c.has_options:
        fill(&given, c, a)
        options = &given
    name = c.name
    if name == "softmax_f32":
        status = softmax_f32(<float *>x, xr, xc, <float *>out, outr, outc, n, k, t, threads)
    elif name == "softmax_f64":
        status = softmax_f64(<double *>x, xr, xc, <double *>out, outr, outc, n, k, t, threads)
    elif name == "log_softmax_f32":
        status = log_softmax_f32(<float *>x, xr, xc, <float *>out, outr, outc, n, k, t, threads)
    elif name == "log_softmax_f64":
        status = log_softmax_f64(<double *>x, xr, xc, <double *>out, outr, outc, n, k, t, threads)
    elif name == "logsumexp_f32":
        status = logsumexp_f32(<float *>x, xr, xc, <float *>out, outr, n, k, t, threads)
    elif name == "logsumexp_f64":
        status = logsumexp_f64(<double *>x, xr, xc, <double *>out, outr, n, k, t, threads)
    elif name == "softmax_loss_f32":
        status = softmax_loss_f32(
            <float *>x, xr, xc, y, n, k, t, options, <float *>losses, &loss_sum, &total, &bad_row,
            threads)
    elif name == "softmax_loss_f64":
        status = softmax_loss_f64(
            <double *>x, xr, xc, y, n, k, t, options, <double *>losses, &loss_sum, &total, &bad_row,
            threads)
    elif name == "softmax_loss_grad_f32":
        status = softmax_loss_grad_f32(
            <float *>x, xr, xc, y, n, k, t, options, scale, <float *>out, outr, outc,
            <float *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "softmax_loss_grad_f64":
        status = softmax_loss_grad_f64(
            <double *>x, xr, xc, y, n, k, t, options, scale, <double *>out, outr, outc,
            <double *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "kl_divergence_f32":
        status = kl_divergence_f32(
            <float *>base, br, bc, <float *>x, xr, xc, n, k, t, weights, <float *>losses, &loss_sum,
            &total, threads)
    elif name == "kl_divergence_grad_f32":
        status = kl_divergence_grad_f32(
            <float *>base, br, bc, <float *>x, xr, xc, n, k, t, weights, scale, <float *>out, outr, outc,
            <float *>losses, &loss_sum, &total, threads)
    elif name == "kl_divergence_f64":
        status = kl_divergence_f64(
            <double *>base, br, bc, <double *>x, xr, xc, n, k, t, weights, <double *>losses, &loss_sum,
            &total, threads)
    elif name == "kl_divergence_grad_f64":
        status = kl_divergence_grad_f64(
            <double *>base, br, bc, <double *>x, xr, xc, n, k, t, weights, scale, <double *>out, outr, outc,
            <double *>losses, &loss_sum, &total, threads)
    elif name == "linear_softmax_loss_f32":
        status = linear_softmax_loss_f32(
            <float *>x, xr, xc, <float *>base, br, bc, <float *>bias, y, n, d, k, t, options,
            <float *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "linear_softmax_loss_grad_f32":
        status = linear_softmax_loss_grad_f32(
            <float *>x, xr, xc, <float *>base, br, bc, <float *>bias, y, n, d, k, t, options, scale,
            <float *>out, outr, <float *>d_weights, dw, <float *>d_bias,
            <float *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "linear_softmax_loss_f64":
        status = linear_softmax_loss_f64(
            <double *>x, xr, xc, <double *>base, br, bc, <double *>bias, y, n, d, k, t, options,
            <double *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "linear_softmax_loss_grad_f64":
        status = linear_softmax_loss_grad_f64(
            <double *>x, xr, xc, <double *>base, br, bc, <double *>bias, y, n, d, k, t, options, scale,
            <double *>out, outr, <double *>d_weights, dw, <double *>d_bias,
            <double *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "linear_softmax_loss_f32_bf16":
        status = linear_softmax_loss_f32_bf16(
            <float *>x, xr, xc, <uint16_t *>base, br, bc, <float *>bias, y, n, d, k, t, options,
            <float *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "linear_softmax_loss_grad_f32_bf16":
        status = linear_softmax_loss_grad_f32_bf16(
            <float *>x, xr, xc, <uint16_t *>base, br, bc, <float *>bias, y, n, d, k, t, options, scale,
            <float *>out, outr, <float *>d_weights, dw, <float *>d_bias,
            <float *>losses, &loss_sum, &total, &bad_row, threads)
    elif name == "weight_sum":
        status = weight_sum(y, n, k, options, &total, &bad_row)
    else:
        assert name == "api_version"
        status = api_version()
    return status, bad_row, loss_sum, total


def softmax_of(const real[:, :] x, real[:, :] out, double temperature, int n_threads):
    cdef int status
    with nogil:
        status = softmax_view(x, out, temperature, n_threads)
    return status


def log_softmax_of(const real[:, :] x, real[:, :] out, double temperature, int n_threads):
    cdef int status
    with nogil:
        status = log_softmax_view(x, out, temperature, n_threads)
    return status


def logsumexp_of(const real[:, :] x, real[:] out, double temperature, int n_threads):
    cdef int status
    with nogil:
        status = logsumexp_view(x, out, temperature, n_threads)
    return status


def softmax_loss_of(const real[:, :] x, const int64_t[::1] labels, double temperature,
                    double label_smoothing, int n_threads):
    cdef loss_options options = default_loss_options()
    cdef double loss_sum = 0, total = 0
    cdef Py_ssize_t bad_row = -1
    cdef int status
    options.label_smoothing = label_smoothing
    with nogil:
        status = softmax_loss_view(
            x, labels, temperature, &options, &loss_sum, &total, &bad_row, n_threads)
    return status, bad_row, loss_sum, total


def softmax_loss_grad_of(const real[:, :] x, const int64_t[::1] labels, double temperature,
                         double gradient_scale, real[:, :] grad, int n_threads):
    cdef double loss_sum = 0, total = 0
    cdef Py_ssize_t bad_row = -1
    cdef int status
    with nogil:
        status = softmax_loss_grad_view(
            x, labels, temperature, NULL, gradient_scale, grad, &loss_sum, &total, &bad_row,
            n_threads)
    return status, bad_row, loss_sum, total


def kl_divergence_of(const real[:, :] base, const real[:, :] x, double temperature, int n_threads):
    cdef double divergence = 0, total = 0
    cdef int status
    with nogil:
        status = kl_divergence_view(base, x, temperature, &divergence, &total, n_threads)
    return status, divergence, total


def kl_divergence_grad_of(const real[:, :] base, const real[:, :] x, double temperature,
                          double gradient_scale, real[:, :] grad, int n_threads):
    cdef double divergence = 0, total = 0
    cdef int status
    with nogil:
        status = kl_divergence_grad_view(
            base, x, temperature, gradient_scale, grad, &divergence, &total, n_threads)
    return status, divergence, total


def linear_softmax_loss_of(const real[:, :] features, const real[:, :] weights,
                           const real[::1] bias, const int64_t[::1] labels, double temperature,
                           int n_threads):
    cdef double loss_sum = 0, total = 0
    cdef Py_ssize_t bad_row = -1
    cdef int status
    with nogil:
        status = linear_softmax_loss_view(
            features, weights, bias, labels, temperature, NULL, &loss_sum, &total, &bad_row,
            n_threads)
    return status, bad_row, loss_sum, total


def linear_softmax_loss_grad_of(const real[:, :] features, const real[:, :] weights,
                                const real[::1] bias, const int64_t[::1] labels,
                                double temperature, double gradient_scale,
                                real[:, ::1] d_features, real[:, ::1] d_weights, real[::1] d_bias,
                                int n_threads):
    cdef double loss_sum = 0, total = 0
    cdef Py_ssize_t bad_row = -1
    cdef int status
    with nogil:
        status = linear_softmax_loss_grad_view(
            features, weights, bias, labels, temperature, NULL, gradient_scale, d_features,
            d_weights, d_bias, &loss_sum, &total, &bad_row, n_threads)
    return status, bad_row, loss_sum, total
