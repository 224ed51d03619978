# kernels/drive.h and what is needed of the headers below it, for Cython.

from libc.stdint cimport int32_t, int64_t

cdef extern from "drive.h" nogil:
    enum: SF_OK, SF_NO_MEMORY

    enum:
        SF_SOFTMAX
        SF_LOG_SOFTMAX
        SF_LOGSUMEXP
        SF_SOFTMAX_LOSS
        SF_SOFTMAX_LOSS_GRAD
        SF_CROSS_ENTROPY
        SF_SELECTED_LOG_PROBS
        SF_MAXIMUM_AND_REST
        SF_ROW_STATISTICS
        SF_EXPONENTIALS
        SF_BINARY_CROSS_ENTROPY
        SF_BINARY_CROSS_ENTROPY_WITH_LOGITS
        SF_KL_DIVERGENCE
        SF_KL_DIVERGENCE_GRAD

    enum: SF_F32, SF_F64, SF_F16, SF_BF16, SF_I8, SF_I16, SF_I32, SF_I64, SF_BOOL

    ctypedef struct sf_input:
        const void *data
        Py_ssize_t outer_stride, row_stride, class_stride
        int kind

    ctypedef struct sf_output:
        void *data
        Py_ssize_t outer_stride, row_stride, class_stride

    ctypedef struct sf_targets:
        const int32_t *labels32
        const int64_t *labels64
        sf_input probabilities
        const double *class_weight
        const double *sample_weight
        const double *pos_weight
        Py_ssize_t pos_weight_step
        int64_t ignore_index
        int has_ignore_index
        double label_smoothing
        void *row_losses
        double gradient_scale
        double loss_scale

    ctypedef struct sf_columns:
        double *logsumexp
        double *confidence
        double *uncertainty
        double *entropy
        int64_t *prediction
        double *loss
        double *brier
        double *slope
        double *curvature
        int64_t *rank

    ctypedef struct sf_call:
        sf_input x
        sf_output out
        Py_ssize_t n_rows, n_classes
        const double *temperature
        Py_ssize_t temperature_step
        const sf_targets *targets
        const int64_t *indices
        Py_ssize_t n_indices
        double *row_max
        double *row_rest
        const sf_columns *columns
        int n_threads

    ctypedef struct sf_sum:
        double sum, lost

    void sf_sum_add(sf_sum *total, double value) noexcept
    double sf_sum_value(sf_sum total) noexcept

    ctypedef struct sf_result:
        sf_sum loss, weight
        Py_ssize_t bad_label_row, bad_value_row

    ctypedef void sf_body(void *context, Py_ssize_t piece, int worker) noexcept nogil
    ctypedef void sf_parallel_for(sf_body *body, void *context, Py_ssize_t n_pieces,
                                  int n_workers) noexcept nogil
    void sf_set_parallel_for(sf_parallel_for *loop) noexcept
    void sf_share_out(sf_body *body, void *context, Py_ssize_t n_pieces, int n_workers) noexcept

    void sf_begin(sf_call *call, sf_input x, Py_ssize_t n_rows, Py_ssize_t inner,
                  Py_ssize_t n_classes, int n_threads) noexcept
    void sf_use_doubles(sf_call *call) noexcept
    void sf_write_to(sf_call *call, sf_output out) noexcept
    sf_result sf_no_result() noexcept
    sf_targets sf_no_targets() noexcept

    int sf_run(const sf_call *call, int operation, sf_result *result) noexcept

    Py_ssize_t sf_rows_of_a_sum(Py_ssize_t n_classes) noexcept
    void sf_target_weights(const sf_targets *targets, Py_ssize_t n_rows, Py_ssize_t n_classes,
                           sf_result *result) noexcept

    ctypedef struct sf_kernels:
        void (*exp_array)(const void *, void *, Py_ssize_t) noexcept nogil
        void (*log1p_array)(const void *, void *, Py_ssize_t) noexcept nogil
        void (*sums_of_array)(const double *, Py_ssize_t, sf_sum *, sf_sum *) noexcept nogil

    ctypedef struct sf_tables:
        const char *isa
        const sf_kernels *f32
        const sf_kernels *f64

    const sf_tables *sf_tables_named(const char *isa) noexcept
    const sf_tables *sf_tables_in_use() noexcept
    void sf_use_tables(const sf_tables *tables) noexcept
    const char *sf_isa_built(int i) noexcept
    Py_ssize_t sf_cache_size(int level) noexcept

    enum: SF_STORES_MEASURED, SF_STORES_PLAIN, SF_STORES_STREAMING, SF_STREAM_BYTES

    ctypedef struct sf_measured_stores:
        int operation, item_size, rows, size, stores
        double seconds[2]

    void sf_choose_stores(int stores) noexcept
    int sf_stores_chosen() noexcept
    int sf_stores_measured(int i, sf_measured_stores *measured) noexcept

cdef extern from "environment.h" nogil:
    ctypedef unsigned long long sf_environment

    sf_environment sf_enter() noexcept
    void sf_leave(sf_environment found) noexcept

cdef extern from "adapt.h" nogil:
    ctypedef struct sf_adapt:
        int is_on
        long callers
        long pause, lost, gained, factor

    ctypedef struct sf_taker:
        double last

    ctypedef struct sf_region:
        sf_taker own, other

    sf_adapt sf_adapt_new(int processors) noexcept
    int sf_adapt_enter(sf_adapt *state, int most) noexcept
    void sf_adapt_leave(sf_adapt *state) noexcept
    void sf_adapt_alone(sf_adapt *state, double seconds) noexcept
    int sf_adapt_is_worth(const sf_adapt *state, double seconds, int most) noexcept
    sf_region sf_region_begin(Py_ssize_t pieces, int workers, double now) noexcept
    void sf_took_piece(sf_taker *taker, double now) noexcept
    void sf_adapt_learn(sf_adapt *state, const sf_region *region, double now) noexcept

cdef extern from "linear.h" nogil:
    ctypedef struct sf_margin:
        const double *feature_scale
        const double *weight_scale
        const double *label_logits
        double *label_gradients

    ctypedef struct sf_layer:
        sf_call call
        sf_input weights
        const void *bias
        Py_ssize_t n_features
        const sf_margin *margin
        sf_output d_features
        sf_output d_weights
        double *d_bias
        int *has_far_sums

    int sf_multiplies_layer(const sf_layer *layer) noexcept
    int sf_layer_logits(const sf_layer *layer, void *logits) noexcept
    int sf_takes_layer_statistics(const sf_layer *layer) noexcept
    int sf_layer_statistics(const sf_layer *layer) noexcept
    int sf_takes_layer(const sf_layer *layer) noexcept
    int sf_run_layer(const sf_layer *layer, sf_result *result) noexcept

cdef extern from "margins.h" nogil:
    ctypedef struct sf_vectors:
        const char *first
        Py_ssize_t step
        bint are_float
        const int64_t *rows
        const double *norms

    ctypedef struct sf_vector_gradients:
        char *first
        Py_ssize_t step
        bint are_float, are_repeated
        const int64_t *rows
        sf_vectors own, other
        const double *scale
        const double *own_part
        const double *other_part
        Py_ssize_t n, length

    void sf_squares(const sf_vectors *x, Py_ssize_t n, Py_ssize_t length, double *squares, int n_threads) noexcept
    void sf_angles(const sf_vectors *x, const sf_vectors *w, Py_ssize_t n, Py_ssize_t length, double *cosine,
                   double *sine, int n_threads) noexcept
    void sf_add_vector_gradients(const sf_vector_gradients *gradients, int n_threads) noexcept

cdef extern from "evaluation.h" nogil:
    enum:
        SF_CELL_SHIFT
        SF_CELLS_LOWEST
        SF_CELLS_NEAREST
        SF_CELLS_HALF
        SF_PASS_SUMS
        SF_FAR_EXPONENT
        SF_MOST_SUMMED

    Py_ssize_t sf_cell_of(double confidence, int64_t *units) noexcept
    Py_ssize_t sf_bin_of(double confidence, Py_ssize_t n_bins) noexcept

    void sf_add_moments(const double *x, const double *weights, Py_ssize_t n, double *hi, double *lo) noexcept

    ctypedef struct sf_evaluation:
        const double *weights
        const int64_t *top_k
        Py_ssize_t n_top
        Py_ssize_t n_bins
        int64_t *counts
        double *sums[2]
        int64_t *slots
        double *bin_sums[2]
        double *cell_sums[2]
        int64_t *bin_counts
        int64_t *cell_counts
        Py_ssize_t first[2]

    ctypedef struct sf_pass:
        const double *weights
        int64_t n
        double sums[2][7]
        Py_ssize_t first

    int sf_add_to_evaluation(const sf_call *call, sf_evaluation *to) noexcept
    int sf_add_to_pass(const sf_call *call, sf_pass *to) noexcept

cdef extern from "comparison.h" nogil:
    enum:
        SF_ROW_NUMBERS

    ctypedef struct sf_comparison:
        const double *weights
        double *sums[2]
        double *joint[2]
        double *points
        int64_t *counts
        double largest
        double *kl
        double *change
        double *base_loss
        double *loss
        double *rows[7]
        Py_ssize_t first[2]

    int sf_add_to_comparison(const sf_call *calls, sf_comparison *to) noexcept

    ctypedef struct sf_sample:
        const double *values
        const double *weights
        Py_ssize_t n

    int sf_at_masses(const sf_sample *sample, const double *masses, Py_ssize_t n_masses, double *out) noexcept
