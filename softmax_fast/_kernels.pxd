# kernels/drive.h and what of kernels/kernels.h is needed above it, for Cython.

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

    ctypedef struct sf_kernels:
        void (*exp_array)(const void *, void *, Py_ssize_t) noexcept nogil
        void (*log1p_array)(const double *, double *, Py_ssize_t) noexcept nogil

    ctypedef struct sf_tables:
        const char *isa
        const sf_kernels *f32
        const sf_kernels *f64

    const sf_tables *sf_tables_named(const char *isa) noexcept
    const sf_tables *sf_tables_in_use() noexcept
    void sf_use_tables(const sf_tables *tables) noexcept
    const char *sf_isa_built(int i) noexcept
    Py_ssize_t sf_cache_size(int level) noexcept
    void sf_sum_add(sf_sum *total, double value) noexcept
    double sf_sum_value(sf_sum total) noexcept

cdef extern from "drive.h" nogil:
    enum: SF_OK, SF_NO_MEMORY

    ctypedef struct sf_job:
        sf_rows rows
        Py_ssize_t n_rows

    ctypedef void sf_body(void *context, Py_ssize_t piece, int worker) noexcept nogil
    ctypedef void sf_parallel_for(sf_body *body, void *context, Py_ssize_t n_pieces,
                                  int n_workers) noexcept nogil
    void sf_set_parallel_for(sf_parallel_for *loop) noexcept

    void sf_begin(sf_job *job, sf_input x, Py_ssize_t n_rows, Py_ssize_t inner,
                  Py_ssize_t n_classes, int n_threads) noexcept
    void sf_write_to(sf_job *job, sf_output out) noexcept
    sf_result sf_no_result() noexcept
    sf_targets sf_no_targets() noexcept

    int sf_softmax(const sf_job *job) noexcept
    int sf_log_softmax(const sf_job *job) noexcept
    int sf_logsumexp(const sf_job *job) noexcept
    int sf_row_stats(const sf_job *job, double *row_max, double *row_rest) noexcept
    int sf_exponentials(const sf_job *job, const double *shift, const double *scale) noexcept
    int sf_softmax_loss(const sf_job *job, const sf_targets *targets, sf_result *result) noexcept
    int sf_softmax_loss_grad(const sf_job *job, const sf_targets *targets, sf_result *result) noexcept
    int sf_cross_entropy(const sf_job *job, const sf_targets *targets, sf_result *result) noexcept
    int sf_selected_log_probs(const sf_job *job, const int64_t *indices, Py_ssize_t n_indices,
                              const sf_targets *targets, sf_result *result) noexcept
    int sf_binary_loss(const sf_binary *values, Py_ssize_t size, int n_threads,
                       sf_result *result) noexcept
    void sf_target_weights(const sf_targets *targets, Py_ssize_t n_rows, Py_ssize_t n_classes,
                           sf_result *result) noexcept
