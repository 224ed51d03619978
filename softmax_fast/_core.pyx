# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""Typed entry points over the kernels, and the parallel loops over blocks of rows.

Arguments have been checked by the facade.  Rows come as a `_layout.Block`, whose arrays with an entry
for each class are (A, B, C) views, rows numbered a * B + b, classes last.  Below the entry points
nothing touches a Python object.
"""

cimport cython
cimport numpy as cnp
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.float cimport DBL_MAX
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.string cimport memcpy

from softmax_fast._api cimport *
from softmax_fast._kernels cimport *
from softmax_fast._openmp cimport (
    SF_COMPILER, SF_OPENMP_LLVM, SF_OPENMP_VERSION, omp_get_max_threads, omp_get_thread_num,
)

import os
import warnings

import numpy as np

cnp.import_array()

ctypedef fused element:
    float
    double
    uint16_t

ctypedef fused real:
    float
    double

# Work is counted in elements.  An OpenMP region costs about 2 us, the time of some ten thousand
# exponentials: less than SERIAL_BELOW is not worth it, nor asking for the limits, and runs in the
# calling thread.  Up to TINY, to release the GIL costs more than it frees.
cdef enum:
    SERIAL_BELOW = 32768
    TINY = 2048

serial_below = SERIAL_BELOW

cdef bint serial = False

cdef int kind_number(str kind) except -1:
    return SF_F64 if kind == "f64" else SF_F32 if kind == "f32" else SF_F16 if kind == "f16" else SF_BF16


# ---- views to strides ----------------------------------------------------------------------------

cdef sf_input input_view(const element[:, :, :] view, int kind) noexcept:
    cdef sf_input result
    result.data = &view[0, 0, 0]
    result.outer_stride = view.strides[0] // <Py_ssize_t>sizeof(element)
    result.row_stride = view.strides[1] // <Py_ssize_t>sizeof(element)
    result.class_stride = view.strides[2] // <Py_ssize_t>sizeof(element)
    result.kind = kind
    return result


cdef sf_input input_of(object source) except *:
    """Of a `_layout.Source`."""
    cdef int kind = kind_number(source.kind)
    if kind == SF_F64:
        return input_view[double](source.array, kind)
    if kind == SF_F32:
        return input_view[float](source.array, kind)
    return input_view[uint16_t](source.array, kind)


cdef sf_output output_view(real[:, :, :] view) noexcept:
    cdef sf_output result
    result.data = &view[0, 0, 0]
    result.outer_stride = view.strides[0] // <Py_ssize_t>sizeof(real)
    result.row_stride = view.strides[1] // <Py_ssize_t>sizeof(real)
    result.class_stride = view.strides[2] // <Py_ssize_t>sizeof(real)
    return result


cdef sf_output output_of(object out) except *:
    if out.dtype.itemsize == 8:
        return output_view[double](out)
    return output_view[float](out)


# ---- the parallel loop --------------------------------------------------------------------------------

cdef void parallel_for(sf_body *body, void *context, Py_ssize_t n_pieces, int n_workers) noexcept nogil:
    """Rows, blocks and pieces of every function are shared out here; see kernels/drive.c."""
    cdef Py_ssize_t piece
    if serial:
        for piece in range(n_pieces):
            body(context, piece, 0)
    else:
        for piece in prange(n_pieces, num_threads=n_workers, schedule="dynamic"):
            body(context, piece, omp_get_thread_num())


if SF_OPENMP_VERSION:
    sf_set_parallel_for(parallel_for)


# ---- the one way to the driver ----------------------------------------------------------------------------

def cut(Py_ssize_t n_classes):
    """Sums are folded at multiples of this many rows: only there may a call's rows begin."""
    return sf_rows_of_a_sum(n_classes)


# ---- blocks of rows -----------------------------------------------------------------------------------

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


cdef int finish(int status, sf_result *result, Py_ssize_t first_row) except -1:
    """Rows at fault, numbered within the call, become the caller's; the facade stops at the first."""
    if result.bad_label_row >= 0:
        result.bad_label_row += first_row
    if result.bad_value_row >= 0:
        result.bad_value_row += first_row
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the scratch of the kernels")
    return 0


cdef int run(const sf_call *call, int operation, sf_result *result, Py_ssize_t first_row) except -1:
    cdef int status
    with nogil:
        status = sf_run(call, operation, result)
    return finish(status, result, first_row)


cdef class Targets:
    """What a loss compares with, its options, and what must stay alive meanwhile.

    targets are labels, a `_layout.Source` of class probabilities, or None; options are those of
    `_loss_problem.Options`.
    """

    cdef sf_targets targets
    cdef const int32_t[::1] labels32
    cdef const int64_t[::1] labels64
    cdef const double[::1] class_weight
    cdef const double[::1] sample_weight
    cdef float[::1] losses32
    cdef double[::1] losses64
    cdef object probabilities

    def __cinit__(self, targets, sample_weight, row_losses, options):
        cdef sf_targets *t = &self.targets
        self.targets = sf_no_targets()
        t.label_smoothing = options.label_smoothing
        if options.ignore_index is not None:
            t.has_ignore_index = True
            t.ignore_index = options.ignore_index
        if options.weight is not None:
            self.class_weight = options.weight
            t.class_weight = &self.class_weight[0]
        if targets is None:
            pass
        elif not cnp.PyArray_Check(targets):
            self.probabilities = targets
            t.probabilities = input_of(targets)
        elif targets.dtype.itemsize == 4:
            self.labels32 = targets
            t.labels32 = &self.labels32[0]
        else:
            self.labels64 = targets
            t.labels64 = &self.labels64[0]
        if sample_weight is not None:
            self.sample_weight = sample_weight
            t.sample_weight = &self.sample_weight[0]
        if row_losses is None:
            pass
        elif row_losses.dtype.itemsize == 8:
            self.losses64 = row_losses
            t.row_losses = &self.losses64[0]
        else:
            self.losses32 = row_losses
            t.row_losses = &self.losses32[0]


cdef class Call:
    """One call on the rows of a block, and what must stay alive meanwhile."""

    cdef sf_call call
    cdef const double[::1] temperatures
    cdef double temperature
    cdef Targets targets
    cdef object block

    def __cinit__(self, block, int n_threads):
        cdef sf_call *call = &self.call
        self.block = block
        a, b, n_classes = block.x.array.shape
        sf_begin(call, input_of(block.x), a * b, b, n_classes, 1 if serial else n_threads)
        if isinstance(block.temperature, float):
            self.temperature = block.temperature
            call.temperature = &self.temperature
        else:
            self.temperatures = block.temperature
            call.temperature = &self.temperatures[0]
            call.temperature_step = 1

    cdef int write_to(self, out) except -1:
        """An array of the shape of the rows."""
        sf_write_to(&self.call, output_of(out))
        return 0

    cdef int write_rows_to(self, out) except -1:
        """Results of one entry, or some contiguous ones, a row."""
        self.call.out = output_of(out)
        self.call.out.class_stride = 1
        return 0

    cdef int compare(self, targets, row_losses, options) except -1:
        self.targets = Targets(targets, self.block.sample_weight, row_losses, options)
        self.call.targets = &self.targets.targets
        return 0

    cdef int run(self, int operation, Sums sums=None) except -1:
        cdef sf_result unused = sf_no_result()
        cdef sf_result *result = &unused if sums is None else &sums.result
        return run(&self.call, operation, result, self.block.rows.start)


# ---- entry points -----------------------------------------------------------------------------------

def softmax(block, int n_threads):
    call = Call(block, n_threads)
    call.write_to(block.out)
    call.run(SF_SOFTMAX)


def log_softmax(block, int n_threads):
    call = Call(block, n_threads)
    call.write_to(block.out)
    call.run(SF_LOG_SOFTMAX)


def logsumexp(block, int n_threads):
    call = Call(block, n_threads)
    call.write_rows_to(block.out)
    call.run(SF_LOGSUMEXP)


def softmax_loss(block, options, Sums sums, int n_threads):
    call = Call(block, n_threads)
    call.compare(block.targets, block.row_results, options)
    call.run(SF_SOFTMAX_LOSS, sums)


def softmax_loss_grad(block, options, double scale, Sums sums, int n_threads):
    call = Call(block, n_threads)
    call.compare(block.targets, block.row_results, options)
    call.targets.targets.gradient_scale = scale
    call.write_to(block.out)
    call.run(SF_SOFTMAX_LOSS_GRAD, sums)


def cross_entropy(block, options, Sums sums, int n_threads):
    call = Call(block, n_threads)
    call.compare(block.targets, block.row_results, options)
    call.run(SF_CROSS_ENTROPY, sums)


def selected_log_probs(block, options, Sums sums, int n_threads):
    """targets: (R, K) indices, int64; row_results: their log-probabilities."""
    cdef const int64_t[:, ::1] indices = block.targets
    call = Call(block, n_threads)
    call.compare(None, None, options)
    call.call.indices = &indices[0, 0]
    call.call.n_indices = indices.shape[1]
    call.write_rows_to(block.row_results[None])
    call.run(SF_SELECTED_LOG_PROBS, sums)


def row_stats(block, double[::1] row_max, double[::1] row_rest, int n_threads):
    call = Call(block, n_threads)
    call.call.row_max = &row_max[0]
    call.call.row_rest = &row_rest[0]
    call.run(SF_MAXIMUM_AND_REST)


def row_statistics(block, options, double[:, ::1] numbers, int64_t[:, ::1] places, Sums sums,
                   int n_threads):
    """Columns of the rows of a block: numbers are logsumexp, confidence, uncertainty and entropy, and
    with targets loss, brier, slope and curvature; places prediction and, with targets, rank.
    """
    cdef sf_columns columns
    columns.logsumexp = &numbers[0, 0]
    columns.confidence = &numbers[1, 0]
    columns.uncertainty = &numbers[2, 0]
    columns.entropy = &numbers[3, 0]
    columns.prediction = &places[0, 0]
    columns.loss = columns.brier = columns.slope = columns.curvature = NULL
    columns.rank = NULL
    call = Call(block, n_threads)
    if block.targets is not None:
        columns.loss = &numbers[4, 0]
        columns.brier = &numbers[5, 0]
        columns.slope = &numbers[6, 0]
        columns.curvature = &numbers[7, 0]
        columns.rank = &places[1, 0]
        call.compare(block.targets, None, options)
    call.call.columns = &columns
    call.run(SF_ROW_STATISTICS, sums)


def exponentials(block, double[::1] shift, double[::1] scale, int n_threads):
    call = Call(block, n_threads)
    call.call.row_max = &shift[0]
    call.call.row_rest = &scale[0]
    call.write_to(block.out)
    call.run(SF_EXPONENTIALS)


def add_target_weights(targets, Py_ssize_t n_rows, Py_ssize_t n_classes, sample_weight, options,
                       Sums sums):
    """What the rows add to sums.weight, and sums.bad_label_row, without a look at the logits."""
    cdef Targets t
    if n_rows:
        t = Targets(targets, sample_weight, None, options)
        with nogil:
            sf_target_weights(&t.targets, n_rows, n_classes, &sums.result)


# ---- evaluations ----------------------------------------------------------------------------------------

cdef inline void put(double *hi, double *lo, double x) noexcept nogil:
    """Knuth's two-sum."""
    cdef double total = hi[0] + x
    cdef double part = total - hi[0]
    lo[0] += (hi[0] - (total - part)) + (x - part)
    hi[0] = total


cdef inline double rounding(double a, double b, double p) noexcept nogil:
    """What p = a b has lost, by Veltkamp's splitting and Dekker's product; 0 beyond the range."""
    cdef double c = a * 134217729.0, d = b * 134217729.0
    cdef double a_hi = c - (c - a), b_hi = d - (d - b)
    cdef double a_lo = a - a_hi, b_lo = b - b_hi
    cdef double error = ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo
    return error if error - error == 0 else 0.0


cdef inline void put_moments(double *hi, double *lo, double x, double v, double vv) noexcept nogil:
    """Add v x, vv x and vv x²; the last two as if products were not rounded.

    The variance is what remains of them, where all x are nearly equal, after much cancellation.
    """
    cdef double once = vv * x
    cdef double lost = rounding(vv, x, once)
    cdef double twice = once * x
    put(hi, lo, v * x)
    put(hi + 1, lo + 1, once)
    lo[1] += lost
    put(hi + 2, lo + 2, twice)
    lo[2] += rounding(once, x, twice) + lost * x


cdef inline void put_sum(double *hi, double *lo, const double *part) noexcept nogil:
    """Add a sum and what it has lost."""
    put(hi, lo, part[0])
    lo[0] += part[1]


cdef struct rows_to_add:
    Py_ssize_t n
    const double *confidence
    const double *entropy
    const double *loss
    const double *brier
    const double *slope
    const double *curvature
    const int64_t *prediction
    const int64_t *rank
    const double *weights  # NULL: 1 each


cdef inline bint is_good(const rows_to_add *rows, Py_ssize_t i) noexcept nogil:
    """A row that counts and has probabilities."""
    return rows.rank[i] >= 0 and rows.prediction[i] >= 0 and (
        rows.weights is NULL or rows.weights[i] > 0)


cdef void add_to_sums(const rows_to_add *rows, const int64_t *top_k, Py_ssize_t n_top, int64_t *counts,
                      double *hi, double *lo, Py_ssize_t *first) noexcept nogil:
    """In the order of `_evaluation_state.SUMS` and `COUNTS`.  first: the first row without
    probabilities and the first of infinite loss.
    """
    cdef Py_ssize_t i, j
    cdef double v = 1.0, vv = 1.0
    cdef bint weighted = rows.weights is not NULL
    # Without weights "v x" and "vv x" are one, and Σ v are counts.
    cdef double loss[4]
    cdef double brier[4]
    cdef int64_t good = counts[0], hits = counts[4]
    cdef int64_t *in_top = counts + 5
    for j in range(4):
        loss[j] = brier[j] = 0.0
    for i in range(rows.n):
        if weighted:
            v = rows.weights[i]
            vv = v * v
        if rows.rank[i] < 0 or not v > 0:
            counts[1] += 1
            continue
        if rows.prediction[i] < 0:
            counts[2] += 1
            put(hi + 2, lo + 2, v)
            put(hi + 3, lo + 3, vv)
            if first[0] < 0:
                first[0] = i
            continue
        counts[0] += 1
        if rows.loss[i] - rows.loss[i] == 0:
            if weighted:
                put_moments(hi + 4, lo + 4, rows.loss[i], v, vv)
            else:
                put_square(loss, rows.loss[i])
            put(hi + 15, lo + 15, v * rows.slope[i])
            put(hi + 16, lo + 16, v * rows.curvature[i])
        else:
            counts[3] += 1
            if first[1] < 0:
                first[1] = i
        if weighted:
            put(hi, lo, v)
            put(hi + 1, lo + 1, vv)
            put_moments(hi + 7, lo + 7, rows.brier[i], v, vv)
            if rows.rank[i] == 0:
                put(hi + 10, lo + 10, v)
                put(hi + 11, lo + 11, vv)
        else:
            put_square(brier, rows.brier[i])
        counts[4] += rows.rank[i] == 0
        put(hi + 12, lo + 12, v / (rows.rank[i] + 1.0))
        put(hi + 13, lo + 13, v * rows.entropy[i])
        put(hi + 14, lo + 14, v * rows.confidence[i])
        for j in range(n_top):
            if rows.rank[i] < top_k[j]:
                in_top[j] += 1
                put(hi + 17 + j, lo + 17 + j, v)
    if not weighted:
        for j in range(2):
            put(hi + j, lo + j, <double>(counts[0] - good))
            put(hi + 10 + j, lo + 10 + j, <double>(counts[4] - hits))
            put_sum(hi + 4 + j, lo + 4 + j, loss)
            put_sum(hi + 7 + j, lo + 7 + j, brier)
        put_sum(hi + 6, lo + 6, loss + 2)
        put_sum(hi + 9, lo + 9, brier + 2)


cdef inline void put_square(double *sums, double x) noexcept nogil:
    """Add x and x², the latter as if it were not rounded, to two sums with what they have lost."""
    cdef double square = x * x
    put(sums, sums + 1, x)
    put(sums + 2, sums + 3, square)
    sums[3] += rounding(x, x, square)


cdef inline void put_in_bin(const rows_to_add *rows, Py_ssize_t i, Py_ssize_t at, Py_ssize_t n,
                            double *hi, double *lo, int64_t *counts) noexcept nogil:
    """In the order of `_evaluation_state.OF_BINS`."""
    cdef double c = rows.confidence[i], v = 1.0, vv = 1.0
    if rows.weights is not NULL:
        v = rows.weights[i]
        vv = v * v
    counts[at] += 1
    put(hi + at, lo + at, v)
    put(hi + n + at, lo + n + at, vv)
    put(hi + 2 * n + at, lo + 2 * n + at, v * c)
    if rows.rank[i] == 0:
        put(hi + 3 * n + at, lo + 3 * n + at, v)
    put(hi + 4 * n + at, lo + 4 * n + at, vv * (c * (1.0 - c)))


def bins_of(const double[::1] confidence, const double[::1] edges):
    """The bin of each confidence: (lo, hi] of the edges, and 0 in the first."""
    cdef Py_ssize_t i
    cdef int64_t[::1] result = np.empty(confidence.shape[0], np.int64)
    for i in range(confidence.shape[0]):
        result[i] = bin_of(confidence[i], &edges[0], edges.shape[0] - 1)
    return np.asarray(result)


cdef inline Py_ssize_t bin_of(double c, const double *edges, Py_ssize_t n_bins) noexcept nogil:
    cdef Py_ssize_t at
    if not c > 0:
        return 0
    at = min(<Py_ssize_t>(c * n_bins), n_bins - 1)
    if c <= edges[at]:
        return max(at - 1, 0)
    return min(at + 1, n_bins - 1) if c > edges[at + 1] else at


# Cells are 32 to the octave of the confidence below 1/2, down to 2^-32, and of 1 - confidence above,
# down to 2^-53; the last holds confidence 1.  They are (lo, hi], in ascending order of confidence.
cdef enum:
    CELL_SHIFT = 52 - 5
    CELLS_LOWEST = (1023 - 32) << 5   # the first bits of 2^-32, ...
    CELLS_NEAREST = (1023 - 53) << 5  # ... of 2^-53, ...
    CELLS_HALF = (1023 - 1) << 5      # ... and of 1/2
    CELLS = 2 * CELLS_HALF - CELLS_LOWEST - CELLS_NEAREST + 1

cell_bits = (CELL_SHIFT, CELLS_LOWEST, CELLS_NEAREST, CELLS_HALF)


cdef inline Py_ssize_t cell_of(double c) noexcept nogil:
    cdef double doubt = 1.0 - c  # exact above 1/2
    cdef int64_t bits
    if c <= 0.5:
        memcpy(&bits, &c, sizeof(bits))
        bits = ((bits - 1) >> CELL_SHIFT) - CELLS_LOWEST
        return <Py_ssize_t>min(max(bits, 0), CELLS_HALF - CELLS_LOWEST - 1)
    memcpy(&bits, &doubt, sizeof(bits))
    bits = max((bits >> CELL_SHIFT) - CELLS_NEAREST, -1)
    return <Py_ssize_t>max(CELLS - 2 - bits, CELLS_HALF - CELLS_LOWEST)


cdef void add_to_bins(const rows_to_add *rows, const double *edges, Py_ssize_t n_bins, double *bin_hi,
                      double *bin_lo, int64_t *bin_counts, Py_ssize_t n_cells, double *cell_hi,
                      double *cell_lo, int64_t *cell_counts) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows.n):
        if is_good(rows, i):
            put_in_bin(rows, i, bin_of(rows.confidence[i], edges, n_bins), n_bins, bin_hi, bin_lo,
                       bin_counts)
            put_in_bin(rows, i, cell_of(rows.confidence[i]), n_cells, cell_hi, cell_lo, cell_counts)


def cells_of(const double[::1] confidence):
    """The cell of each confidence, in [0, 1]."""
    cdef Py_ssize_t i
    cdef int64_t[::1] result = np.empty(confidence.shape[0], np.int64)
    for i in range(confidence.shape[0]):
        result[i] = cell_of(confidence[i])
    return np.asarray(result)


def add_rows(columns, const double[::1] weights, const int64_t[::1] top_k, const double[::1] edges,
             int64_t[::1] counts, double[:, ::1] sums,
             double[:, :, ::1] bin_sums, int64_t[::1] bin_counts,
             double[:, :, ::1] cell_sums, int64_t[::1] cell_counts, int n_threads):
    """Add the rows of `_row_statistics.Columns` to what `_evaluation_state.State` keeps.

    Returns the first row without probabilities and the first of infinite loss, or -1.  Sums and bins
    are two pieces of work, whose orders do not depend on each other.
    """
    cdef const double[::1] confidence = columns.confidence, entropy = columns.entropy
    cdef const double[::1] loss = columns.loss, brier = columns.brier
    cdef const double[::1] slope = columns.slope, curvature = columns.curvature
    cdef const int64_t[::1] prediction = columns.prediction, rank = columns.rank
    cdef rows_to_add rows
    cdef Py_ssize_t first[2]
    cdef Py_ssize_t i, n_bins = bin_sums.shape[2], n_cells = cell_sums.shape[2], n_top = top_k.shape[0]
    cdef const int64_t *tops = &top_k[0] if n_top else NULL
    cdef int piece, workers = 1 if serial or rank.shape[0] < 2048 else min(n_threads, 2)
    first[0] = first[1] = -1
    if not rank.shape[0]:
        return -1, -1
    rows.n = rank.shape[0]
    rows.confidence = &confidence[0]
    rows.entropy = &entropy[0]
    rows.loss = &loss[0]
    rows.brier = &brier[0]
    rows.slope = &slope[0]
    rows.curvature = &curvature[0]
    rows.prediction = &prediction[0]
    rows.rank = &rank[0]
    rows.weights = NULL if weights is None else &weights[0]
    if workers == 1:
        with nogil:
            add_to_sums(&rows, tops, n_top, &counts[0], &sums[0, 0], &sums[1, 0], first)
            add_to_bins(&rows, &edges[0], n_bins, &bin_sums[0, 0, 0], &bin_sums[1, 0, 0],
                        &bin_counts[0], n_cells, &cell_sums[0, 0, 0], &cell_sums[1, 0, 0],
                        &cell_counts[0])
    else:
        for piece in prange(2, num_threads=workers, nogil=True):
            if piece == 0:
                add_to_sums(&rows, tops, n_top, &counts[0], &sums[0, 0], &sums[1, 0], first)
            else:
                add_to_bins(&rows, &edges[0], n_bins, &bin_sums[0, 0, 0], &bin_sums[1, 0, 0],
                            &bin_counts[0], n_cells, &cell_sums[0, 0, 0], &cell_sums[1, 0, 0],
                            &cell_counts[0])
    # Beyond the range there is nothing to keep.
    for i in range(sums.shape[1]):
        if not sums[0, i] - sums[0, i] == 0:
            sums[1, i] = 0.0
    return first[0], first[1]


# ---- binary losses ------------------------------------------------------------------------------------

def binary_loss(block, bint of_logits, Sums sums, int n_threads):
    """Of a `_binary.Block`: every entry is a row of one class."""
    cdef sf_call call
    cdef sf_targets t = sf_no_targets()
    cdef const double[::1] temperatures, pos_weights, weights
    cdef double one_temperature = 1.0, one_weight = 1.0
    cdef Py_ssize_t size = block.x.array.size
    sf_begin(&call, input_of(block.x), size, size, 1, 1 if serial else n_threads)
    call.x.row_stride = 1
    call.temperature = &one_temperature
    call.targets = &t
    t.probabilities = input_of(block.targets)
    t.pos_weight = &one_weight
    if isinstance(block.temperature, float):
        one_temperature = block.temperature
    else:
        temperatures = block.temperature
        call.temperature = &temperatures[0]
        call.temperature_step = 1
    if isinstance(block.pos_weight, float):
        one_weight = block.pos_weight
    else:
        pos_weights = block.pos_weight
        t.pos_weight = &pos_weights[0]
        t.pos_weight_step = 1
    if block.sample_weight is not None:
        weights = block.sample_weight
        t.sample_weight = &weights[0]
    if block.losses is not None:
        call.out = output_of(block.losses)
    run(&call, SF_BINARY_CROSS_ENTROPY_WITH_LOGITS if of_logits else SF_BINARY_CROSS_ENTROPY,
        &sums.result, block.rows.start)


# ---- the direct way --------------------------------------------------------------------------------------
#
# Contiguous floats and default options take a handful of C checks; for all else, and for every error,
# a function here returns NotImplemented, and the facade takes the general way.

cdef inline bint is_contiguous_float(object x) noexcept:
    """An exact ndarray, C-contiguous, aligned, of native float32 or float64."""
    cdef int number
    if not cnp.PyArray_CheckExact(x):
        return False
    number = cnp.PyArray_TYPE(x)
    return ((number == cnp.NPY_FLOAT32 or number == cnp.NPY_FLOAT64)
            and cnp.PyArray_IS_C_CONTIGUOUS(x) and cnp.PyArray_ISALIGNED(x)
            and cnp.PyArray_ISNOTSWAPPED(x))


cdef object resolve_threads = None


def on_large_work(resolve):
    """Who decides on the threads of a call: resolve(n_threads or None, size)."""
    global resolve_threads
    resolve_threads = resolve


cdef int direct_threads(object n_threads, Py_ssize_t size) except -1:
    """At most how many threads, or 0 when n_threads is no such number."""
    if n_threads is not None and (type(n_threads) is not int or n_threads < 1):
        return 0
    return 1 if size < SERIAL_BELOW else resolve_threads(n_threads, size)


cdef bint begin_direct(sf_call *call, object x, object axis, object temperature,
                       object n_threads, double *t) except -1:
    """Begins a call without an output; *t must live as long."""
    cdef int ndim, most
    cdef Py_ssize_t size, n
    cdef sf_input rows
    if not is_contiguous_float(x) or type(temperature) is not float or type(axis) is not int:
        return False
    ndim = cnp.PyArray_NDIM(x)
    size = cnp.PyArray_SIZE(x)
    if ndim < 1 or size == 0 or (axis != -1 and axis != ndim - 1):
        return False
    t[0] = temperature
    if not (0.0 < t[0] <= DBL_MAX):
        return False
    most = direct_threads(n_threads, size)
    if not most:
        return False
    n = cnp.PyArray_DIM(x, ndim - 1)
    rows.data = cnp.PyArray_DATA(x)
    rows.kind = SF_F32 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else SF_F64
    rows.outer_stride = rows.row_stride = n
    rows.class_stride = 1
    sf_begin(call, rows, size // n, size // n, n, most)
    call.temperature = t
    return True


cdef bint overlaps(object a, object b) noexcept:
    cdef char *pa = <char *>cnp.PyArray_DATA(a)
    cdef char *pb = <char *>cnp.PyArray_DATA(b)
    return pa < pb + cnp.PyArray_NBYTES(b) and pb < pa + cnp.PyArray_NBYTES(a)


cdef object direct_output(sf_call *call, object x, object out):
    """A fresh array like x, or out if it is as contiguous; None if it is not."""
    cdef int i
    cdef sf_output rows
    if out is None:
        out = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    elif out is not x:
        if (not is_contiguous_float(out) or cnp.PyArray_TYPE(out) != cnp.PyArray_TYPE(x)
                or cnp.PyArray_NDIM(out) != cnp.PyArray_NDIM(x)):
            return None
        for i in range(cnp.PyArray_NDIM(x)):
            if cnp.PyArray_DIM(out, i) != cnp.PyArray_DIM(x, i):
                return None
        if overlaps(x, out) and cnp.PyArray_DATA(x) != cnp.PyArray_DATA(out):
            return None
    if not cnp.PyArray_ISWRITEABLE(out):
        return None
    rows.data = cnp.PyArray_DATA(out)
    rows.outer_stride = rows.row_stride = call.n_classes
    rows.class_stride = 1
    sf_write_to(call, rows)
    return out


cdef inline int run_direct(const sf_call *call, int operation, sf_result *result) except -1:
    if call.n_rows * call.n_classes <= TINY:
        return finish(sf_run(call, operation, result), result, 0)
    return run(call, operation, result, 0)


cdef object normalised_direct(int operation, object x, object axis, object temperature, object out,
                              object n_threads):
    cdef sf_call call
    cdef double t
    cdef sf_result unused = sf_no_result()
    if not begin_direct(&call, x, axis, temperature, n_threads, &t):
        return NotImplemented
    out = direct_output(&call, x, out)
    if out is None:
        return NotImplemented
    run_direct(&call, operation, &unused)
    return out


def softmax_direct(x, axis, temperature, out, n_threads):
    return normalised_direct(SF_SOFTMAX, x, axis, temperature, out, n_threads)


def log_softmax_direct(x, axis, temperature, out, n_threads):
    return normalised_direct(SF_LOG_SOFTMAX, x, axis, temperature, out, n_threads)


def logsumexp_direct(x, axis, temperature, keepdims, out, n_threads):
    cdef sf_call call
    cdef double t
    cdef sf_result unused = sf_no_result()
    if (out is not None or keepdims is not False
            or not begin_direct(&call, x, axis, temperature, n_threads, &t)
            or cnp.PyArray_NDIM(x) < 2):
        return NotImplemented
    out = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x) - 1, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    call.out.data = cnp.PyArray_DATA(out)
    call.out.outer_stride = call.out.row_stride = 1
    call.out.class_stride = 1
    run_direct(&call, SF_LOGSUMEXP, &unused)
    return out


cdef bint direct_targets(sf_targets *t, sf_call *call, object logits, object targets,
                         object ignore_index, object label_smoothing, object reduction) except -1:
    """Labels of 32 or 64 bits for logits of two dimensions, to be summed or averaged."""
    cdef int number, overflow
    cdef long long ignored
    if (cnp.PyArray_NDIM(logits) != 2 or not cnp.PyArray_CheckExact(targets)
            or cnp.PyArray_NDIM(targets) != 1 or cnp.PyArray_DIM(targets, 0) != call.n_rows
            or type(ignore_index) is not int or not cnp.PyArray_IS_C_CONTIGUOUS(targets)
            or not cnp.PyArray_ISALIGNED(targets) or not cnp.PyArray_ISNOTSWAPPED(targets)
            or type(label_smoothing) is not float or label_smoothing != 0.0
            or type(reduction) is not str or reduction not in ("mean", "sum")):
        return False
    ignored = PyLong_AsLongLongAndOverflow(ignore_index, &overflow)
    if overflow:
        return False
    t[0] = sf_no_targets()
    number = cnp.PyArray_TYPE(targets)
    if number == cnp.NPY_INT64:
        t.labels64 = <const int64_t *>cnp.PyArray_DATA(targets)
    elif number == cnp.NPY_INT32:
        t.labels32 = <const int32_t *>cnp.PyArray_DATA(targets)
    else:
        return False
    t.has_ignore_index = True
    t.ignore_index = ignored
    call.targets = t
    return True


def softmax_loss_direct(logits, targets, axis, temperature, ignore_index, label_smoothing, reduction,
                        n_threads):
    cdef sf_call call
    cdef sf_targets t
    cdef sf_result result = sf_no_result()
    cdef double one_temperature
    if (not begin_direct(&call, logits, axis, temperature, n_threads, &one_temperature)
            or not direct_targets(&t, &call, logits, targets, ignore_index, label_smoothing,
                                  reduction)):
        return NotImplemented
    run_direct(&call, SF_SOFTMAX_LOSS, &result)
    if result.bad_label_row >= 0:
        return NotImplemented
    return reduced(&result, reduction)


def softmax_loss_grad_direct(logits, targets, axis, temperature, ignore_index, label_smoothing,
                             reduction, grad_out, n_threads):
    cdef sf_call call
    cdef sf_targets t
    cdef sf_result result = sf_no_result()
    cdef double one_temperature
    if (not begin_direct(&call, logits, axis, temperature, n_threads, &one_temperature)
            or not direct_targets(&t, &call, logits, targets, ignore_index, label_smoothing,
                                  reduction)):
        return NotImplemented
    if grad_out is not None and (not is_contiguous_float(grad_out) or overlaps(grad_out, targets)):
        return NotImplemented
    sf_target_weights(&t, call.n_rows, call.n_classes, &result)
    if result.bad_label_row >= 0:
        return NotImplemented
    if reduction == "mean":
        t.gradient_scale = 1.0 / sf_sum_value(result.weight)
    grad_out = direct_output(&call, logits, grad_out)
    if grad_out is None:
        return NotImplemented
    result = sf_no_result()
    run_direct(&call, SF_SOFTMAX_LOSS_GRAD, &result)
    return reduced(&result, reduction), grad_out


cdef object reduced(const sf_result *result, str reduction):
    cdef double value = sf_sum_value(result.loss)
    if reduction == "mean":
        value = value / sf_sum_value(result.weight)
    return np.float64(value)


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


def set_serial(bint value):
    global serial
    serial = value


def cache_sizes():
    return {"L1d": sf_cache_size(1), "L2": sf_cache_size(2), "L3": sf_cache_size(3)}


def _exp(real[::1] x, real[::1] out):
    """exp(x) for x <= 0 by the vector function of the instruction set in use."""
    cdef const sf_tables *tables = sf_tables_in_use()
    if x.shape[0]:
        (tables.f32 if real is float else tables.f64).exp_array(&x[0], &out[0], x.shape[0])


def _log1p(double[::1] x, double[::1] out):
    """log(1 + x) for x >= 0 by the vector function of the instruction set in use."""
    if x.shape[0]:
        sf_tables_in_use().f64.log1p_array(&x[0], &out[0], x.shape[0])


def _choose_isa(wanted):
    if not wanted:
        return
    try:
        set_isa(wanted)
    except ValueError as error:
        warnings.warn(f"SOFTMAX_FAST_ISA is ignored: {error}", RuntimeWarning, stacklevel=2)


_choose_isa(os.environ.get("SOFTMAX_FAST_ISA"))
