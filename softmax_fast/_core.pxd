# The C-level API for other compiled modules, which see it through capi.pxd.  What the arguments mean
# is said in include/softmax_fast.h.

from libc.stdint cimport int64_t, uint16_t

cdef enum:
    API_VERSION = 2

    SOFTMAX_FAST_OK = 0
    SOFTMAX_FAST_NO_MEMORY = 1
    SOFTMAX_FAST_BAD_ARGUMENT = 2
    SOFTMAX_FAST_BAD_LABEL = 3

# softmax_fast_loss_options of include/softmax_fast.h, member for member.
ctypedef struct loss_options:
    size_t size
    const double *class_weight
    const double *sample_weight
    double label_smoothing
    int64_t ignore_index
    int has_ignore_index

cdef int api_version() noexcept nogil

cdef int softmax_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    float *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil

cdef int softmax_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    double *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil

cdef int log_softmax_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    float *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil

cdef int log_softmax_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    double *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil

cdef int logsumexp_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    float *out, Py_ssize_t out_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil

cdef int logsumexp_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    double *out, Py_ssize_t out_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil

cdef int softmax_loss_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int softmax_loss_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int softmax_loss_grad_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    double gradient_scale, float *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int softmax_loss_grad_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    double gradient_scale, double *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int weight_sum(
    const int64_t *labels, Py_ssize_t n_rows, Py_ssize_t n_classes, const loss_options *options,
    double *total, Py_ssize_t *bad_row) noexcept nogil

cdef int kl_divergence_f32(
    const float *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    float *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil

cdef int kl_divergence_f64(
    const double *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    double *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil

cdef int kl_divergence_grad_f32(
    const float *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    double gradient_scale, float *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    float *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil

cdef int kl_divergence_grad_f64(
    const double *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    double gradient_scale, double *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    double *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil

cdef int linear_softmax_loss_f32(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const float *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int linear_softmax_loss_f64(
    const double *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const double *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const double *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int linear_softmax_loss_f32_bf16(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const uint16_t *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int linear_softmax_loss_grad_f32(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const float *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double gradient_scale, float *d_features, Py_ssize_t d_features_row_stride,
    float *d_weights, Py_ssize_t d_weights_row_stride, float *d_bias,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int linear_softmax_loss_grad_f64(
    const double *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const double *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const double *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double gradient_scale, double *d_features, Py_ssize_t d_features_row_stride,
    double *d_weights, Py_ssize_t d_weights_row_stride, double *d_bias,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil

cdef int linear_softmax_loss_grad_f32_bf16(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const uint16_t *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double gradient_scale, float *d_features, Py_ssize_t d_features_row_stride,
    float *d_weights, Py_ssize_t d_weights_row_stride, float *d_bias,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil
