# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""The functions over the kernels, and the parallel loops over blocks of rows.

What a call computes on comes as a `_layout.Block`: addresses and strides of arrays that have been
checked.  The public functions are in _calls.pxi: they check their arguments, have the rows cut into
blocks, and run the kernels on each.
"""

cimport cython
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport PyObject
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.string cimport memset, strcpy

from softmax_fast cimport _arguments as arguments
from softmax_fast cimport _layout as layout
from softmax_fast._api cimport *
from softmax_fast._arguments cimport MEAN, SUM, UNREDUCED, Labels, Options
from softmax_fast._kernels cimport *
from softmax_fast._layout cimport Block, Source
from softmax_fast._openmp cimport (
    SF_COMPILER, SF_OPENMP_LLVM, SF_OPENMP_VERSION, omp_get_max_threads, omp_get_num_procs,
    omp_get_thread_num, omp_get_wtime,
)

import os
import warnings

import numpy as np

from ._arguments import binary_error, label_error, row_probability_error
from ._layout import of_rows

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *data, cnp.dtype descr, object base)

ctypedef fused real:
    float
    double

# Work is counted in elements.  An OpenMP region costs about 2 us, the time of some ten thousand
# exponentials: less than SERIAL_BELOW is not worth it, nor asking for the limits, and runs in the
# calling thread.  Up to TINY, to release the GIL costs more than it frees.
cdef enum:
    SERIAL_BELOW = 32768
    TINY = 2048
    MOST_DIMENSIONS = 64
    KEPT_AT_MOST = 268435456  # bytes of freed results, unless SOFTMAX_FAST_KEEP_RESULTS says otherwise

serial_below = SERIAL_BELOW

cdef bint serial = False

cdef cnp.dtype FLOAT64 = np.dtype(np.float64)
cdef Options NO_OPTIONS = Options()

# ---- the parallel loop --------------------------------------------------------------------------------

cdef sf_adapt adaptive = sf_adapt_new(omp_get_num_procs())


cdef void work_together(sf_body *body, void *context, Py_ssize_t first, Py_ssize_t n_pieces,
                        int n_workers, sf_region *region) noexcept nogil:
    cdef Py_ssize_t piece
    cdef int worker
    for piece in prange(first, n_pieces, num_threads=n_workers, schedule="dynamic"):
        worker = omp_get_thread_num()
        body(context, piece, worker)
        if worker == 0:
            sf_took_piece(&region.own, omp_get_wtime())
        elif worker == 1:
            sf_took_piece(&region.other, omp_get_wtime())


cdef Py_ssize_t work_alone(sf_body *body, void *context, Py_ssize_t n_pieces,
                           int most) noexcept nogil:
    """How many pieces were done before it was worth while to share the others among ``most``."""
    cdef double started = omp_get_wtime(), seconds = 0.0
    cdef Py_ssize_t done = 0
    while done < n_pieces:
        body(context, done, 0)
        done += 1
        seconds = omp_get_wtime() - started
        if sf_adapt_is_worth(&adaptive, seconds / done * (n_pieces - done), most):
            break
    sf_adapt_alone(&adaptive, seconds)
    return done


cdef void parallel_for(sf_body *body, void *context, Py_ssize_t n_pieces, int most) noexcept nogil:
    """Rows, blocks and pieces of every function are shared out here; see kernels/drive.c, and
    kernels/adapt.h for how many threads share them.
    """
    cdef sf_region region
    cdef Py_ssize_t done = 0
    cdef int n_workers = most
    if serial:
        while done < n_pieces:
            body(context, done, 0)
            done += 1
    elif not adaptive.is_on:
        region = sf_region_begin(n_pieces, n_workers, 0.0)
        work_together(body, context, 0, n_pieces, n_workers, &region)
    else:
        n_workers = sf_adapt_enter(&adaptive, most)
        if n_workers == 1:
            done = work_alone(body, context, n_pieces, most)
            n_workers = most
        if done < n_pieces:
            region = sf_region_begin(n_pieces - done, n_workers, omp_get_wtime())
            work_together(body, context, done, n_pieces, n_workers, &region)
            sf_adapt_learn(&adaptive, &region, omp_get_wtime())
        sf_adapt_leave(&adaptive)


if SF_OPENMP_VERSION:
    sf_set_parallel_for(parallel_for)


# ---- the one way to the driver ----------------------------------------------------------------------------

def cut(Py_ssize_t n_classes):
    """Sums are folded at multiples of this many rows: only there may a call's rows begin."""
    return sf_rows_of_a_sum(n_classes)


# ---- blocks of rows -----------------------------------------------------------------------------------

@cython.final
@cython.freelist(8)
cdef class Sums:
    """What the losses of one problem have added up to, block after block."""

    cdef sf_result result

    def __cinit__(self):
        self.result = sf_no_result()

    def add(self, const double[::1] losses):
        """Losses of rows that were computed elsewhere."""
        cdef Py_ssize_t i
        for i in range(losses.shape[0]):
            sf_sum_add(&self.result.loss, losses[i])

    @property
    def loss(self):
        return sf_sum_value(self.result.loss)

    @property
    def weight(self):
        """The sum of the weights of the rows that count."""
        return sf_sum_value(self.result.weight)

    @property
    def bad_label_row(self):
        """The first row whose label (for binary losses, target) is out of range, or -1."""
        return self.result.bad_label_row

    @property
    def bad_value_row(self):
        """The first row with a probability outside [0, 1], or -1."""
        return self.result.bad_value_row


cdef object resolve_threads = None


def on_large_work(resolve):
    """Who decides on the threads of a call: resolve(n_threads or None, size)."""
    global resolve_threads
    resolve_threads = resolve


cdef int threads_for(n_threads, Py_ssize_t size) except -1:
    """Checks the argument, and decides how many threads a call may use at most."""
    if n_threads is not None:
        n_threads = arguments.threads(n_threads)
    return 1 if size < SERIAL_BELOW else resolve_threads(n_threads, size)


cdef int run(const sf_call *call, int operation, sf_result *result, Py_ssize_t first_row) except -1:
    """Rows at fault, numbered within the call, become the caller's; who calls stops at the first."""
    cdef int status
    if call.n_rows * call.n_classes <= TINY:
        status = sf_run(call, operation, result)
    else:
        with nogil:
            status = sf_run(call, operation, result)
    if result.bad_label_row >= 0:
        result.bad_label_row += first_row
    if result.bad_value_row >= 0:
        result.bad_value_row += first_row
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the scratch of the kernels")
    return 0


cdef inline void begin(sf_call *call, Block block, int n_threads) noexcept:
    """Begins a call on the rows of a block, without an output."""
    sf_begin(call, block.x, block.n_rows, block.inner, block.n_classes, 1 if serial else n_threads)
    call.temperature = block.temperature
    call.temperature_step = 1
    if block.temperature is NULL:
        call.temperature = &block.one_temperature
        call.temperature_step = 0


cdef inline int give_options(sf_targets *targets, Options options) except -1:
    targets.label_smoothing = options.label_smoothing
    if options.ignore_index is not None:
        targets.has_ignore_index = True
        targets.ignore_index = options.ignore_index
    if options.weight is not None:
        targets.class_weight = <const double *>cnp.PyArray_DATA(options.weight)
    return 0


cdef int run_block(Block block, int operation, Options options, Sums sums, int n_threads) except -1:
    """The way of all operations of the public functions.  Those that compare with targets come with
    options and sums.
    """
    cdef sf_call call
    cdef sf_targets targets
    cdef sf_result unused = sf_no_result()
    begin(&call, block, n_threads)
    if (operation in (SF_KL_DIVERGENCE, SF_KL_DIVERGENCE_GRAD)
            and block.targets.probabilities.kind == SF_F64):
        sf_use_doubles(&call)
    if options is not None:
        targets = block.targets
        give_options(&targets, options)
        if targets.pos_weight is NULL:
            targets.pos_weight = &block.one_pos_weight
        call.targets = &targets
    if operation == SF_SELECTED_LOG_PROBS:
        call.indices, call.n_indices = targets.labels64, block.per_row
        call.out.data = targets.row_losses
        call.out.outer_stride = call.out.row_stride = block.per_row
        call.out.class_stride = 1
        targets.labels64 = NULL
        targets.row_losses = NULL
    elif operation in (SF_SOFTMAX, SF_LOG_SOFTMAX, SF_SOFTMAX_LOSS_GRAD, SF_KL_DIVERGENCE_GRAD):
        sf_write_to(&call, block.out)
    else:
        call.out = block.out
    return run(&call, operation, &unused if sums is None else &sums.result, block.first_row)


# ---- entry points -----------------------------------------------------------------------------------

SOFTMAX_LOSS, SOFTMAX_LOSS_GRAD = SF_SOFTMAX_LOSS, SF_SOFTMAX_LOSS_GRAD


def row_stats(Block block not None, double[::1] row_max, double[::1] row_rest, int n_threads):
    cdef sf_call call
    cdef sf_result unused = sf_no_result()
    begin(&call, block, n_threads)
    call.row_max = &row_max[0]
    call.row_rest = &row_rest[0]
    run(&call, SF_MAXIMUM_AND_REST, &unused, block.first_row)


def row_statistics(Block block not None, Options options not None, double[:, ::1] numbers,
                   int64_t[:, ::1] places, Sums sums not None, int n_threads):
    """Columns of the rows of a block: numbers are logsumexp, confidence, uncertainty and entropy, and
    with targets loss, brier, slope and curvature; places prediction and, with targets, rank.
    """
    cdef sf_call call
    cdef sf_targets targets = block.targets
    cdef sf_columns columns
    begin(&call, block, n_threads)
    give_columns(&call, &columns, &targets, options, numbers, places)
    run(&call, SF_ROW_STATISTICS, &sums.result, block.first_row)


cdef int give_columns(sf_call *call, sf_columns *columns, sf_targets *targets, Options options,
                      double[:, ::1] numbers, int64_t[:, ::1] places) except -1:
    columns.logsumexp = &numbers[0, 0]
    columns.confidence = &numbers[1, 0]
    columns.uncertainty = &numbers[2, 0]
    columns.entropy = &numbers[3, 0]
    columns.prediction = &places[0, 0]
    columns.loss = columns.brier = columns.slope = columns.curvature = NULL
    columns.rank = NULL
    if targets.labels32 is not NULL or targets.labels64 is not NULL:
        columns.loss = &numbers[4, 0]
        columns.brier = &numbers[5, 0]
        columns.slope = &numbers[6, 0]
        columns.curvature = &numbers[7, 0]
        columns.rank = &places[1, 0]
        give_options(targets, options)
        call.targets = targets
    call.columns = columns
    return 0


def exponentials(Block block not None, double[::1] shift, double[::1] scale, int n_threads):
    cdef sf_call call
    cdef sf_result unused = sf_no_result()
    begin(&call, block, n_threads)
    call.row_max = &shift[0]
    call.row_rest = &scale[0]
    sf_write_to(&call, block.out)
    run(&call, SF_EXPONENTIALS, &unused, block.first_row)


cpdef add_target_weights(cnp.ndarray labels, Py_ssize_t n_rows, Py_ssize_t n_classes,
                         cnp.ndarray sample_weight, Options options, Sums sums):
    """What the rows add to sums.weight, and sums.bad_label_row, without a look at the logits.  Without
    labels, targets are class probabilities.
    """
    cdef sf_targets targets = sf_no_targets()
    give_options(&targets, options)
    if labels is None:
        pass
    elif cnp.PyArray_ITEMSIZE(labels) == 4:
        targets.labels32 = <const int32_t *>cnp.PyArray_DATA(labels)
    else:
        targets.labels64 = <const int64_t *>cnp.PyArray_DATA(labels)
    if sample_weight is not None:
        targets.sample_weight = <const double *>cnp.PyArray_DATA(sample_weight)
    if n_rows <= TINY:
        sf_target_weights(&targets, n_rows, n_classes, &sums.result)
    else:
        with nogil:
            sf_target_weights(&targets, n_rows, n_classes, &sums.result)


# ---- evaluations ----------------------------------------------------------------------------------------

cell_bits = (SF_CELL_SHIFT, SF_CELLS_LOWEST, SF_CELLS_NEAREST, SF_CELLS_HALF)
far_exponent = SF_FAR_EXPONENT
most_summed_rows = SF_MOST_SUMMED


def bins_of(const double[::1] confidence, Py_ssize_t n_bins):
    """The bin of each confidence: (lo, hi] of i / n_bins, and 0 in the first."""
    cdef Py_ssize_t i
    cdef int64_t[::1] result = np.empty(confidence.shape[0], np.int64)
    for i in range(confidence.shape[0]):
        result[i] = sf_bin_of(confidence[i], n_bins)
    return np.asarray(result)


def cells_of(const double[::1] confidence):
    """The cell of each confidence, in [0, 1]."""
    cdef Py_ssize_t i
    cdef int64_t units
    cdef int64_t[::1] result = np.empty(confidence.shape[0], np.int64)
    for i in range(confidence.shape[0]):
        result[i] = sf_cell_of(confidence[i], &units)
    return np.asarray(result)


cdef inline void begin_statistics(sf_call *call, Block block, sf_targets *targets, sf_columns *columns,
                                  int64_t[:, ::1] places, int n_threads) noexcept:
    """Begins a call that keeps rank and prediction, where there are places for them."""
    begin(call, block, n_threads)
    call.targets = targets
    call.columns = columns
    memset(columns, 0, sizeof(sf_columns))
    if places is not None:
        columns.rank = &places[0, 0]
        columns.prediction = &places[1, 0]


def add_to_evaluation(state, Block block not None, Options options not None, const double[::1] weights,
                      const int64_t[::1] top_k, int64_t[:, ::1] places, double[::1] confidence,
                      int n_threads):
    """Add rows to an `_evaluation_state.State`, which has bins and cells for those with weights and slots
    for those without; the former need places, of rank and prediction, and confidence.

    Returns the first row without probabilities and the first of infinite loss, or -1.
    """
    cdef sf_call call
    cdef sf_targets targets = block.targets
    cdef sf_columns columns
    give_options(&targets, options)
    begin_statistics(&call, block, &targets, &columns, places, n_threads)
    if confidence is not None:
        columns.confidence = &confidence[0]
    return add_call_to_evaluation(state, &call, weights, top_k)


def add_columns_to_evaluation(state, columns, const double[::1] weights, const int64_t[::1] top_k,
                              int n_threads):
    """`add_to_evaluation` of rows whose `_row_statistics.Columns` are there."""
    cdef double[::1] confidence = columns.confidence, entropy = columns.entropy
    cdef double[::1] loss = columns.loss, brier = columns.brier
    cdef double[::1] slope = columns.slope, curvature = columns.curvature
    cdef int64_t[::1] rank = columns.rank, prediction = columns.prediction
    cdef sf_input nothing
    cdef sf_call call
    cdef sf_columns given
    cdef double one = 1.0
    memset(&nothing, 0, sizeof(nothing))
    memset(&given, 0, sizeof(given))
    nothing.kind = SF_F64
    given.confidence, given.entropy = &confidence[0], &entropy[0]
    given.loss, given.brier = &loss[0], &brier[0]
    given.slope, given.curvature = &slope[0], &curvature[0]
    given.rank, given.prediction = &rank[0], &prediction[0]
    sf_begin(&call, nothing, rank.shape[0], rank.shape[0], state.n_classes, 1 if serial else n_threads)
    call.temperature = &one
    call.columns = &given
    return add_call_to_evaluation(state, &call, weights, top_k)


cdef object add_call_to_evaluation(state, const sf_call *call, const double[::1] weights,
                                   const int64_t[::1] top_k):
    cdef int64_t[::1] counts = state.counts, bin_counts, cell_counts
    cdef double[:, ::1] sums = state.sums
    cdef double[:, :, ::1] bin_sums, cell_sums
    cdef int64_t[:, ::1] slots
    cdef sf_evaluation to
    cdef int j, status
    memset(&to, 0, sizeof(to))
    to.n_top = top_k.shape[0]
    if to.n_top:
        to.top_k = &top_k[0]
    to.n_bins = state.n_bins
    to.counts = &counts[0]
    if weights is None:
        slots = state.slots
        to.slots = &slots[0, 0]
    else:
        bin_sums, bin_counts = state.bins
        cell_sums, cell_counts = state.cells
        to.weights = &weights[0]
        to.bin_counts, to.cell_counts = &bin_counts[0], &cell_counts[0]
    for j in range(2):
        to.first[j] = -1
        to.sums[j] = &sums[j, 0]
        if weights is not None:
            to.bin_sums[j], to.cell_sums[j] = &bin_sums[j, 0, 0], &cell_sums[j, 0, 0]
    with nogil:
        status = sf_add_to_evaluation(call, &to)
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the sums of the rows")
    return to.first[0], to.first[1]


def add_to_pass(Block block not None, Options options not None, const double[::1] weights,
                int64_t[:, ::1] places, double[:, ::1] sums, int n_threads):
    """Add rows to the sums of a pass of `_temperature`, and keep their ranks and predictions where there
    are places for them.  Returns how many rows count, and the first that is at fault, or -1.
    """
    cdef sf_call call
    cdef sf_targets targets = block.targets
    cdef sf_columns columns
    cdef sf_pass to
    cdef int i, j, status
    give_options(&targets, options)
    begin_statistics(&call, block, &targets, &columns, places, n_threads)
    to.weights = NULL
    if weights is not None:
        to.weights = &weights[0]
    to.n = 0
    to.first = -1
    for j in range(2):
        for i in range(SF_PASS_SUMS):
            to.sums[j][i] = sums[j, i]
    with nogil:
        status = sf_add_to_pass(&call, &to)
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the sums of the rows")
    for j in range(2):
        for i in range(SF_PASS_SUMS):
            sums[j, i] = to.sums[j][i]
    return to.n, to.first


def add_to_comparison(state, Block block not None, labels, Options options not None,
                      const double[::1] weights, list samples, double[:, ::1] losses,
                      double[:, ::1] rows, int n_threads):
    """Add rows, with the base in the place of targets, to a `_comparison_state.State`: divergences, NaN
    in rows without, to samples, and with labels, int64 of the whole array, changes there and both losses.
    ``rows`` is None or for what there is of each row beside, in the order of `sf_comparison`.

    Returns the first row without probabilities and the first that is not finite, or -1.
    """
    cdef sf_call calls[3]
    cdef sf_targets base = block.targets, of_labels = sf_no_targets()
    cdef sf_comparison to
    cdef double[:, :, :, ::1] sums = state.sums
    cdef double[:, ::1] joint = state.losses.sums
    cdef double[::1] points = state.losses.points, kl = samples[0], change
    cdef int64_t[::1] counts = state.counts
    cdef const int64_t[::1] codes
    cdef int i, status
    for i in range(3):
        begin(&calls[i], block, n_threads)
    sf_begin(&calls[0], base.probabilities, block.n_rows, block.inner, block.n_classes,
             calls[1].n_threads)
    calls[0].temperature, calls[0].temperature_step = calls[1].temperature, calls[1].temperature_step
    if base.probabilities.kind == SF_F64:
        sf_use_doubles(&calls[2])
    give_options(&base, NO_OPTIONS)
    calls[2].targets = &base
    memset(&to, 0, sizeof(to))
    if labels is not None:
        codes = labels
        of_labels.labels64 = &codes[block.first_row]
        give_options(&of_labels, options)
        calls[0].targets = calls[1].targets = &of_labels
        change = samples[1]
        to.change, to.base_loss, to.loss = &change[0], &losses[0, 0], &losses[1, 0]
    if weights is not None:
        to.weights = &weights[0]
    to.kl = &kl[0]
    to.points, to.counts = &points[0], &counts[0]
    to.largest = state.largest
    for i in range(2):
        to.sums[i], to.joint[i], to.first[i] = &sums[i, 0, 0, 0], &joint[i, 0], -1
    if rows is not None:
        for i in range(SF_ROW_NUMBERS):
            to.rows[i] = &rows[i, 0]
    with nogil:
        status = sf_add_to_comparison(calls, &to)
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the sums of the rows")
    state.largest = to.largest
    return to.first[0], to.first[1]


def order_statistics(const double[::1] values, const double[::1] weights, double[::1] places):
    """Of the values, none of them NaN and at least one, those of ascending places from 0 on in ascending
    order; with weights the least up to which there is a share of the weights.
    """
    cdef double[::1] masses = np.empty(places.shape[0]), result = np.empty(places.shape[0])
    cdef double hi[4]
    cdef double lo[4]
    cdef sf_sample sample
    cdef Py_ssize_t i
    cdef int status
    memset(hi, 0, sizeof(hi))
    memset(lo, 0, sizeof(lo))
    sample.values, sample.n = &values[0], values.shape[0]
    sample.weights = NULL
    if weights is not None:
        sample.weights = &weights[0]
    with nogil:
        if weights is not None:
            sf_add_moments(&weights[0], NULL, sample.n, hi, lo)
        for i in range(places.shape[0]):
            if weights is None:
                masses[i] = places[i] + 1.0
            else:  # all of it is where even the weights end that vanish beside the rest
                masses[i] = places[i] * (hi[0] + lo[0]) if places[i] < 1.0 else INFINITY
        status = sf_at_masses(&sample, &masses[0], masses.shape[0], &result[0])
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the quantiles")
    return np.asarray(result)


# ---- the public functions ------------------------------------------------------------------------------

include "_results.pxi"
include "_calls.pxi"


# ---- the fully connected layer ----------------------------------------------------------------------------

cdef inline sf_input matrix_input(Source matrix) noexcept:
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(matrix.array)
    cdef sf_input result
    result.data = cnp.PyArray_DATA(matrix.array)
    result.outer_stride = 0
    result.row_stride = cnp.PyArray_STRIDE(matrix.array, 0) // item
    result.class_stride = cnp.PyArray_STRIDE(matrix.array, 1) // item
    result.kind = matrix.code
    return result


cdef inline sf_output contiguous_output(cnp.ndarray matrix) noexcept:
    cdef sf_output result
    result.data = cnp.PyArray_DATA(matrix)
    result.outer_stride = 0
    result.row_stride = cnp.PyArray_DIM(matrix, 1)
    result.class_stride = 1
    return result


cdef inline void begin_layer(sf_layer *layer, Block block, Source weights, cnp.ndarray bias,
                             int n_threads) noexcept:
    """Begins a call on the features of a block, without a margin and gradients."""
    begin(&layer.call, block, n_threads)
    layer.call.n_classes = cnp.PyArray_DIM(weights.array, 0)
    layer.weights = matrix_input(weights)
    layer.n_features = cnp.PyArray_DIM(weights.array, 1)
    layer.bias = NULL if bias is None else cnp.PyArray_DATA(bias)
    layer.margin = NULL
    layer.d_features.data = layer.d_weights.data = NULL
    layer.d_bias = NULL
    layer.has_far_sums = NULL


def layer_logits(Source features not None, Source weights not None, cnp.ndarray bias,
                 cnp.ndarray out not None, int n_threads):
    """Whether the kernels multiplied the layer: ``out``, contiguous, holds the logits of all rows."""
    cdef sf_layer layer
    cdef Block block = layout.first_block(features, 1, 1, None, 1.0, None, None, None, 1)
    cdef int status
    begin_layer(&layer, block, weights, bias, n_threads)
    if not sf_multiplies_layer(&layer):
        return False
    with nogil:
        status = sf_layer_logits(&layer, cnp.PyArray_DATA(out))
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the scratch of the kernels")
    return True


def layer_statistics(Source features not None, Source weights not None, cnp.ndarray bias, labels,
                     temperature, Options options not None, double[:, ::1] numbers,
                     int64_t[:, ::1] places, int n_threads):
    """Whether the kernels took the layer: then numbers and places hold what `row_statistics` puts there
    of the logits.  Labels have been checked.
    """
    cdef sf_layer layer
    cdef sf_columns columns
    cdef sf_targets targets
    cdef Block block = layout.first_block(features, 1, 1, None, temperature, labels, None, None, 1)
    cdef int status
    begin_layer(&layer, block, weights, bias, n_threads)
    targets = block.targets
    give_columns(&layer.call, &columns, &targets, options, numbers, places)
    if not sf_takes_layer_statistics(&layer):
        return False
    with nogil:
        status = sf_layer_statistics(&layer)
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the scratch of the kernels")
    return True


cdef inline double *doubles(cnp.ndarray array) noexcept:
    """The entries of a contiguous float64 array, or NULL for None."""
    return NULL if array is None else <double *>cnp.PyArray_DATA(array)


cdef inline sf_vectors vectors_of(vectors) noexcept:
    """A `_margins.Vectors`."""
    cdef cnp.ndarray matrix = vectors.matrix
    cdef sf_vectors result
    result.first = <const char *>cnp.PyArray_DATA(matrix)
    result.step = cnp.PyArray_STRIDE(matrix, 0)
    result.are_float = cnp.PyArray_TYPE(matrix) == cnp.NPY_FLOAT32
    result.rows = numbers(vectors.rows)
    result.norms = doubles(vectors.norms)
    return result


cdef inline int64_t *numbers(cnp.ndarray array) noexcept:
    return NULL if array is None else <int64_t *>cnp.PyArray_DATA(array)


def squares(vectors, int n_threads):
    """Sums of squares, in float64, of `_margins.Vectors`."""
    cdef sf_vectors x = vectors_of(vectors)
    cdef cnp.ndarray result = np.empty(len(vectors))
    cdef Py_ssize_t n = result.shape[0], length = vectors.matrix.shape[1]
    cdef double *home = doubles(result)
    with nogil:
        sf_squares(&x, n, length, home, n_threads)
    return result


def angles(first, second, int n_threads):
    """Cosines and sines of the angles between `_margins.Vectors`, which hold their norms."""
    cdef sf_vectors x = vectors_of(first), w = vectors_of(second)
    cdef cnp.ndarray result = np.empty((2, len(first)))
    cdef Py_ssize_t n = result.shape[1], length = first.matrix.shape[1]
    cdef double *home = doubles(result)
    with nogil:
        sf_angles(&x, &w, n, length, home, home + n, n_threads)
    return result


def add_vector_gradients(cnp.ndarray matrix not None, cnp.ndarray rows, own, other,
                         cnp.ndarray scale, cnp.ndarray own_part, cnp.ndarray other_part,
                         bint are_repeated, int n_threads):
    """What kernels/margins.h says of rows of a matrix; all but own may be None."""
    cdef sf_vector_gradients gradients
    gradients.first = <char *>cnp.PyArray_DATA(matrix)
    gradients.step = cnp.PyArray_STRIDE(matrix, 0)
    gradients.are_float = cnp.PyArray_TYPE(matrix) == cnp.NPY_FLOAT32
    gradients.are_repeated = are_repeated
    gradients.rows = numbers(rows)
    gradients.own = vectors_of(own)
    gradients.other = vectors_of(own if other is None else other)
    gradients.scale, gradients.own_part = doubles(scale), doubles(own_part)
    gradients.other_part = doubles(other_part)
    gradients.n, gradients.length = len(own), matrix.shape[1]
    with nogil:
        sf_add_vector_gradients(&gradients, n_threads)


def fused_linear_loss(Source features not None, Source weights not None, cnp.ndarray bias,
                      LossProblem problem not None, cnp.ndarray row_losses, grads, double scale,
                      margin, are_targets_fit, int n_threads):
    """Whether the kernels took the layer, whose labels have been checked.

    grads are zeroed arrays to add the gradients to, those of the bias in float64, or None, as each may
    be. margin is a `_margins.Applied` or None. are_targets_fit() is asked where class probabilities may
    not be for these kernels.
    """
    cdef sf_layer layer
    cdef sf_result result = problem.sums.result
    cdef int has_far_sums = 0
    cdef sf_margin changed
    cdef sf_targets targets
    cdef Block block
    cdef int status
    codes = problem.codes()
    block = layout.first_block(
        features, 1, 1, None, problem.temperature, codes, problem.sample_weight, row_losses, 1)
    begin_layer(&layer, block, weights, bias, n_threads)
    targets = block.targets
    give_options(&targets, problem.options)
    targets.gradient_scale = scale
    if codes is None:
        targets.probabilities = matrix_input(problem.targets)
        if features.result_type() == cnp.NPY_FLOAT32:
            layer.has_far_sums = &has_far_sums
    layer.call.targets = &targets
    if grads is not None:
        if grads.features is not None:
            layer.d_features = contiguous_output(grads.features)
        if grads.weights is not None:
            layer.d_weights = contiguous_output(grads.weights)
        if grads.bias is not None:
            layer.d_bias = <double *>cnp.PyArray_DATA(grads.bias)
    if margin is not None:
        changed.feature_scale = doubles(margin.feature_scale)
        changed.weight_scale = doubles(margin.weight_scale)
        changed.label_logits = doubles(margin.label_logits)
        changed.label_gradients = doubles(margin.label_gradients)
        layer.margin = &changed
    if not sf_takes_layer(&layer):
        return False
    with nogil:
        status = sf_run_layer(&layer, &result)
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the scratch of the kernels")
    if has_far_sums and not are_targets_fit():
        for grad in grads or ():
            if grad is not None:
                grad.fill(0)
        return False
    problem.sums.result = result
    return True


# ---- C-level API ----------------------------------------------------------------------------------------
#
# For other compiled modules: include/softmax_fast.h by way of _C_API, and for Cython, and for all who
# look addresses up in __pyx_capi__, the same functions declared in _core.pxd.

_C_API = PyCapsule_New(<void *>&sf_api_table, "softmax_fast._core._C_API", NULL)


cdef int api_version() noexcept nogil:
    return softmax_fast_api_version()


cdef int softmax_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    float *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil:
    return softmax_fast_softmax_f32(
        x, x_row_stride, x_class_stride, out, out_row_stride, out_class_stride, n_rows, n_classes,
        temperature, n_threads)


cdef int softmax_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    double *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil:
    return softmax_fast_softmax_f64(
        x, x_row_stride, x_class_stride, out, out_row_stride, out_class_stride, n_rows, n_classes,
        temperature, n_threads)


cdef int log_softmax_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    float *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil:
    return softmax_fast_log_softmax_f32(
        x, x_row_stride, x_class_stride, out, out_row_stride, out_class_stride, n_rows, n_classes,
        temperature, n_threads)


cdef int log_softmax_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    double *out, Py_ssize_t out_row_stride, Py_ssize_t out_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil:
    return softmax_fast_log_softmax_f64(
        x, x_row_stride, x_class_stride, out, out_row_stride, out_class_stride, n_rows, n_classes,
        temperature, n_threads)


cdef int logsumexp_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    float *out, Py_ssize_t out_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil:
    return softmax_fast_logsumexp_f32(
        x, x_row_stride, x_class_stride, out, out_stride, n_rows, n_classes, temperature,
        n_threads)


cdef int logsumexp_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    double *out, Py_ssize_t out_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, int n_threads) noexcept nogil:
    return softmax_fast_logsumexp_f64(
        x, x_row_stride, x_class_stride, out, out_stride, n_rows, n_classes, temperature,
        n_threads)


cdef int softmax_loss_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_softmax_loss_f32(
        x, x_row_stride, x_class_stride, labels, n_rows, n_classes, temperature,
        <const softmax_fast_loss_options *>options, row_losses, loss_sum, weight_sum, bad_row,
        n_threads)


cdef int softmax_loss_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_softmax_loss_f64(
        x, x_row_stride, x_class_stride, labels, n_rows, n_classes, temperature,
        <const softmax_fast_loss_options *>options, row_losses, loss_sum, weight_sum, bad_row,
        n_threads)


cdef int softmax_loss_grad_f32(
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    double gradient_scale, float *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_softmax_loss_grad_f32(
        x, x_row_stride, x_class_stride, labels, n_rows, n_classes, temperature,
        <const softmax_fast_loss_options *>options, gradient_scale, grad, grad_row_stride,
        grad_class_stride, row_losses, loss_sum, weight_sum, bad_row, n_threads)


cdef int softmax_loss_grad_f64(
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const loss_options *options,
    double gradient_scale, double *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_softmax_loss_grad_f64(
        x, x_row_stride, x_class_stride, labels, n_rows, n_classes, temperature,
        <const softmax_fast_loss_options *>options, gradient_scale, grad, grad_row_stride,
        grad_class_stride, row_losses, loss_sum, weight_sum, bad_row, n_threads)


cdef int weight_sum(
    const int64_t *labels, Py_ssize_t n_rows, Py_ssize_t n_classes, const loss_options *options,
    double *total, Py_ssize_t *bad_row) noexcept nogil:
    return softmax_fast_weight_sum(
        labels, n_rows, n_classes, <const softmax_fast_loss_options *>options, total, bad_row)


cdef int kl_divergence_f32(
    const float *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    float *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil:
    return softmax_fast_kl_divergence_f32(
        base, base_row_stride, base_class_stride, x, x_row_stride, x_class_stride, n_rows,
        n_classes, temperature, sample_weight,
        row_divergences, divergence_sum, weight_sum, n_threads)


cdef int kl_divergence_f64(
    const double *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    double *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil:
    return softmax_fast_kl_divergence_f64(
        base, base_row_stride, base_class_stride, x, x_row_stride, x_class_stride, n_rows,
        n_classes, temperature, sample_weight,
        row_divergences, divergence_sum, weight_sum, n_threads)


cdef int kl_divergence_grad_f32(
    const float *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const float *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    double gradient_scale, float *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    float *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil:
    return softmax_fast_kl_divergence_grad_f32(
        base, base_row_stride, base_class_stride, x, x_row_stride, x_class_stride, n_rows,
        n_classes, temperature, sample_weight, gradient_scale,
        grad, grad_row_stride, grad_class_stride, row_divergences, divergence_sum, weight_sum,
        n_threads)


cdef int kl_divergence_grad_f64(
    const double *base, Py_ssize_t base_row_stride, Py_ssize_t base_class_stride,
    const double *x, Py_ssize_t x_row_stride, Py_ssize_t x_class_stride,
    Py_ssize_t n_rows, Py_ssize_t n_classes, double temperature, const double *sample_weight,
    double gradient_scale, double *grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    double *row_divergences, double *divergence_sum, double *weight_sum,
    int n_threads) noexcept nogil:
    return softmax_fast_kl_divergence_grad_f64(
        base, base_row_stride, base_class_stride, x, x_row_stride, x_class_stride, n_rows,
        n_classes, temperature, sample_weight, gradient_scale,
        grad, grad_row_stride, grad_class_stride, row_divergences, divergence_sum, weight_sum,
        n_threads)


cdef int linear_softmax_loss_f32(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const float *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_linear_softmax_loss_f32(
        features, features_row_stride, features_column_stride, weights, weights_row_stride,
        weights_column_stride, bias, labels, n_rows, n_features, n_classes, temperature,
        <const softmax_fast_loss_options *>options, row_losses, loss_sum, weight_sum, bad_row,
        n_threads)


cdef int linear_softmax_loss_f64(
    const double *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const double *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const double *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_linear_softmax_loss_f64(
        features, features_row_stride, features_column_stride, weights, weights_row_stride,
        weights_column_stride, bias, labels, n_rows, n_features, n_classes, temperature,
        <const softmax_fast_loss_options *>options, row_losses, loss_sum, weight_sum, bad_row,
        n_threads)


cdef int linear_softmax_loss_f32_bf16(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const uint16_t *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_linear_softmax_loss_f32_bf16(
        features, features_row_stride, features_column_stride, weights, weights_row_stride,
        weights_column_stride, bias, labels, n_rows, n_features, n_classes, temperature,
        <const softmax_fast_loss_options *>options, row_losses, loss_sum, weight_sum, bad_row,
        n_threads)


cdef int linear_softmax_loss_grad_f32(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const float *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double gradient_scale, float *d_features, Py_ssize_t d_features_row_stride,
    float *d_weights, Py_ssize_t d_weights_row_stride, float *d_bias,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_linear_softmax_loss_grad_f32(
        features, features_row_stride, features_column_stride, weights, weights_row_stride,
        weights_column_stride, bias, labels, n_rows, n_features, n_classes, temperature,
        <const softmax_fast_loss_options *>options, gradient_scale, d_features, d_features_row_stride, d_weights,
        d_weights_row_stride, d_bias, row_losses, loss_sum, weight_sum, bad_row, n_threads)


cdef int linear_softmax_loss_grad_f64(
    const double *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const double *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const double *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double gradient_scale, double *d_features, Py_ssize_t d_features_row_stride,
    double *d_weights, Py_ssize_t d_weights_row_stride, double *d_bias,
    double *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_linear_softmax_loss_grad_f64(
        features, features_row_stride, features_column_stride, weights, weights_row_stride,
        weights_column_stride, bias, labels, n_rows, n_features, n_classes, temperature,
        <const softmax_fast_loss_options *>options, gradient_scale, d_features, d_features_row_stride, d_weights,
        d_weights_row_stride, d_bias, row_losses, loss_sum, weight_sum, bad_row, n_threads)


cdef int linear_softmax_loss_grad_f32_bf16(
    const float *features, Py_ssize_t features_row_stride, Py_ssize_t features_column_stride,
    const uint16_t *weights, Py_ssize_t weights_row_stride, Py_ssize_t weights_column_stride,
    const float *bias, const int64_t *labels,
    Py_ssize_t n_rows, Py_ssize_t n_features, Py_ssize_t n_classes, double temperature,
    const loss_options *options,
    double gradient_scale, float *d_features, Py_ssize_t d_features_row_stride,
    float *d_weights, Py_ssize_t d_weights_row_stride, float *d_bias,
    float *row_losses, double *loss_sum, double *weight_sum, Py_ssize_t *bad_row,
    int n_threads) noexcept nogil:
    return softmax_fast_linear_softmax_loss_grad_f32_bf16(
        features, features_row_stride, features_column_stride, weights, weights_row_stride,
        weights_column_stride, bias, labels, n_rows, n_features, n_classes, temperature,
        <const softmax_fast_loss_options *>options, gradient_scale, d_features, d_features_row_stride, d_weights,
        d_weights_row_stride, d_bias, row_losses, loss_sum, weight_sum, bad_row, n_threads)


# ---- what is in use -------------------------------------------------------------------------------------

has_openmp = SF_OPENMP_VERSION != 0


def isa():
    return sf_tables_in_use().isa.decode()


def isas_built():
    cdef int i = 0
    names = []
    while sf_isa_built(i) is not NULL:
        names.append(sf_isa_built(i).decode())
        i += 1
    return tuple(names)


def isas_supported():
    return tuple(name for name in isas_built() if sf_tables_named(name.encode()) is not NULL)


def set_isa(str name):
    cdef bytes key = name.encode()
    cdef const sf_tables *named = sf_tables_named(key)
    if named is NULL:
        raise ValueError(f"instruction set {name!r} is not one of {', '.join(isas_supported())}")
    sf_use_tables(named)


def openmp():
    if not SF_OPENMP_VERSION:
        return None
    return {"runtime": "libomp" if SF_OPENMP_LLVM else "libgomp", "version": SF_OPENMP_VERSION}


def openmp_max_threads():
    return omp_get_max_threads()


def compiler():
    return SF_COMPILER.decode()


def set_adaptive(bint value):
    adaptive.is_on = value


def is_adaptive():
    return bool(adaptive.is_on)


def adaptive_state():
    return state_of(&adaptive)


cdef dict state_of(const sf_adapt *state):
    """What kernels/adapt.h has found; times in seconds."""
    return {
        "pause": max(state.pause, 0) * 1e-7,
        "lost": state.lost * 1e-7,
        "gained": state.gained * 1e-7,
        "factor": state.factor,
        "callers": state.callers,
    }


cdef class _Adaptive:
    """The choice of kernels/adapt.h by itself, with times that are given."""

    cdef sf_adapt adapt

    def __cinit__(self, int processors):
        self.adapt = sf_adapt_new(processors)

    @property
    def state(self):
        return state_of(&self.adapt)

    def enter(self, int most):
        return sf_adapt_enter(&self.adapt, most)

    def leave(self):
        sf_adapt_leave(&self.adapt)

    def alone(self, double seconds):
        sf_adapt_alone(&self.adapt, seconds)

    def is_worth(self, double seconds, int most):
        return bool(sf_adapt_is_worth(&self.adapt, seconds, most))

    def region(self, long pieces, own, double wait=0.0, double started=0.0, int workers=2, others=()):
        """A region: the seconds of the caller's own pieces, and of its wait at the end; and of a
        worker's pieces.
        """
        cdef sf_region region = sf_region_begin(pieces, workers, started)
        for seconds in others:
            sf_took_piece(&region.other, region.other.last + seconds)
        for seconds in own:
            sf_took_piece(&region.own, region.own.last + seconds)
        sf_adapt_learn(&self.adapt, &region, region.own.last + wait)


def set_serial(bint value):
    global serial
    serial = value


def cache_sizes():
    return {"L1d": sf_cache_size(1), "L2": sf_cache_size(2), "L3": sf_cache_size(3)}


def choose_stores(stores):
    """"plain" or "streaming" for all large results from now on, or "measured": then afresh."""
    sf_choose_stores({"measured": SF_STORES_MEASURED, "plain": SF_STORES_PLAIN,
                      "streaming": SF_STORES_STREAMING}[stores])


def stores():
    """How large results are written: what is chosen, and what was measured so far."""
    cdef sf_measured_stores found
    cdef int i = 0, chosen = sf_stores_chosen()
    if chosen != SF_STORES_MEASURED:
        return "streaming" if chosen == SF_STORES_STREAMING else "plain"
    measured = {}
    while sf_stores_measured(i, &found):
        name = ("softmax" if found.operation == SF_SOFTMAX else
                "log_softmax" if found.operation == SF_LOG_SOFTMAX else "softmax_loss_and_grad")
        kind = ("in one block", "near", "long", "not contiguous")[found.rows]
        call = (f"{name} float{8 * found.item_size}, rows {kind}, from {(SF_STREAM_BYTES << found.size) >> 20} MiB")
        measured[call] = "streaming" if found.stores else "plain"
        i += 1
    return measured or "not measured yet"


def _exp(real[::1] x, real[::1] out):
    """exp(x) for x <= 0 by the vector function of the instruction set in use."""
    cdef const sf_tables *tables = sf_tables_in_use()
    if x.shape[0]:
        (tables.f32 if real is float else tables.f64).exp_array(&x[0], &out[0], x.shape[0])


def _log1p(real[::1] x, real[::1] out):
    """log(1 + x) for x >= 0 by the vector function of the instruction set in use."""
    cdef const sf_tables *tables = sf_tables_in_use()
    if x.shape[0]:
        (tables.f32 if real is float else tables.f64).log1p_array(&x[0], &out[0], x.shape[0])


def _choose_isa(wanted):
    if not wanted:
        return
    try:
        set_isa(wanted)
    except ValueError as error:
        warnings.warn(f"SOFTMAX_FAST_ISA is ignored: {error}", RuntimeWarning, stacklevel=2)


_choose_isa(os.environ.get("SOFTMAX_FAST_ISA"))


if os.environ.get("SOFTMAX_FAST_STREAM", "") not in ("", "0", "1"):
    warnings.warn("SOFTMAX_FAST_STREAM is ignored: it is neither 0 nor 1", RuntimeWarning, stacklevel=2)
