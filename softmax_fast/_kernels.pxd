# kernels/kernels.h, for Cython.

from libc.stdint cimport int32_t, int64_t

cdef extern from "kernels.h" nogil:
    enum: SF_F32, SF_F64, SF_F16, SF_BF16

    ctypedef struct sf_input:
        const void *data
        Py_ssize_t outer_stride, row_stride, class_stride
        int kind

    ctypedef struct sf_output:
        void *data
        Py_ssize_t outer_stride, row_stride, class_stride

    ctypedef struct sf_rows:
        sf_input x
        sf_output out
        Py_ssize_t inner, n_classes
        const double *temperature
        Py_ssize_t temperature_step
        int stream

    ctypedef struct sf_targets:
        const int32_t *labels32
        const int64_t *labels64
        sf_input probabilities
        const double *class_weight
        const double *sample_weight
        int64_t ignore_index
        int has_ignore_index
        double label_smoothing
        void *row_losses
        double gradient_scale

    ctypedef struct sf_binary:
        sf_input x
        const void *targets
        const double *temperature
        const double *pos_weight
        const double *sample_weight
        Py_ssize_t temperature_step, pos_weight_step
        int of_logits
        void *losses

    ctypedef struct sf_sum:
        double sum, lost

    ctypedef struct sf_result:
        sf_sum loss, weight
        Py_ssize_t bad_label_row, bad_value_row

    ctypedef void sf_rows_function(const sf_rows *, Py_ssize_t, Py_ssize_t, void *) noexcept nogil
    ctypedef void sf_loss_function(const sf_rows *, const sf_targets *, Py_ssize_t, Py_ssize_t,
                                   sf_result *, void *) noexcept nogil

    ctypedef struct sf_kernels:
        const char *isa
        Py_ssize_t item_size, block, tile_rows
        sf_rows_function *softmax
        sf_rows_function *log_softmax
        sf_rows_function *logsumexp
        sf_loss_function *softmax_loss
        sf_loss_function *softmax_loss_grad
        sf_loss_function *cross_entropy
        void (*row_stats)(const sf_rows *, Py_ssize_t, Py_ssize_t, double *, double *,
                          void *) noexcept nogil
        void (*block_stats)(const sf_rows *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double *,
                            double *) noexcept nogil
        void (*merge_blocks)(const sf_rows *, Py_ssize_t, Py_ssize_t, const double *, double *,
                             double *, double *) noexcept nogil
        void (*softmax_blocks)(const sf_rows *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                               const double *, double, double) noexcept nogil
        void (*log_softmax_blocks)(const sf_rows *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double,
                                   double) noexcept nogil
        void (*finish_logsumexp)(const sf_rows *, Py_ssize_t, Py_ssize_t, const double *,
                                 double *) noexcept nogil
        void (*finish_loss)(const sf_rows *, const sf_targets *, Py_ssize_t, Py_ssize_t,
                            const double *, double *, sf_result *) noexcept nogil
        void (*exponentials)(const sf_rows *, const double *, const double *, Py_ssize_t,
                             Py_ssize_t) noexcept nogil
        void (*selected_log_probs)(const sf_rows *, const int64_t *, Py_ssize_t,
                                   const sf_targets *, Py_ssize_t, Py_ssize_t, sf_result *,
                                   void *) noexcept nogil
        void (*binary_loss)(const sf_binary *, Py_ssize_t, Py_ssize_t, sf_result *) noexcept nogil
        void (*exp_array)(const void *, void *, Py_ssize_t) noexcept nogil
        void (*log1p_array)(const double *, double *, Py_ssize_t) noexcept nogil

    ctypedef struct sf_tables:
        const char *isa
        const sf_kernels *f32
        const sf_kernels *f64

    ctypedef unsigned long long environment "uint64_t"
    environment sf_enter() noexcept
    void sf_leave(environment found) noexcept

    const sf_tables *sf_tables_named(const char *isa) noexcept nogil
    const sf_tables *sf_tables_best() noexcept nogil
    const char *sf_isa_built(int i) noexcept nogil
    Py_ssize_t sf_cache_size(int level) noexcept nogil
    size_t sf_scratch_bytes(const sf_rows *rows, Py_ssize_t item_size) noexcept nogil
    void sf_sum_add(sf_sum *total, double value) noexcept nogil
    void sf_sum_merge(sf_sum *total, sf_sum part) noexcept
    double sf_sum_value(sf_sum total) noexcept
