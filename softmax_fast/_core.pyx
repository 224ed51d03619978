# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""Typed entry points over the kernels, and the parallel loops over blocks of rows.

Arguments have been checked by the facade.  Arrays come as (A, B, C) views, rows numbered a * B + b,
classes last.  Below the entry points nothing touches a Python object.
"""

cimport cython
cimport numpy as cnp
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from softmax_fast._kernels cimport *
from softmax_fast._openmp cimport (
    SF_COMPILER, SF_OPENMP_LLVM, SF_OPENMP_VERSION, omp_get_max_threads, omp_get_thread_num,
)

import os
import warnings

cnp.import_array()

ctypedef fused element:
    float
    double
    uint16_t

ctypedef fused real:
    float
    double

cdef enum:
    # Elements that deserve a thread.  A region of two threads costs some 2 us, the time of about 8 Ki
    # elements: work of less than twice this stays with one.
    ELEMENTS_PER_THREAD = 16384
    # Elements in a block of rows: small enough to share out evenly, large enough to hide the loop.
    ELEMENTS_PER_BLOCK = 16384
    # Doubles of scratch for the longest row of a simple call: four for each of its 32 blocks.
    SIMPLE_SCRATCH = 128
    # Below this a fast path keeps the GIL: releasing it would cost more than it frees.
    ELEMENTS_WITHOUT_RELEASE = 2048

cdef const sf_tables *tables = sf_tables_best()
cdef bint serial = False
cdef Py_ssize_t last_level_cache = sf_cache_size(3) or sf_cache_size(2) or (32 << 20)
cdef double ONE = 1.0


cdef int kind_number(str kind) except -1:
    return SF_F64 if kind == "f64" else SF_F32 if kind == "f32" else SF_F16 if kind == "f16" else SF_BF16


cdef inline const sf_kernels *kernels_of(int kind) noexcept nogil:
    return tables.f64 if kind == SF_F64 else tables.f32


# ---- views to strides ----------------------------------------------------------------------------

cdef sf_input input_view(const element[:, :, :] view, int kind) noexcept:
    cdef sf_input result
    result.data = &view[0, 0, 0]
    result.outer_stride = view.strides[0] // <Py_ssize_t>sizeof(element)
    result.row_stride = view.strides[1] // <Py_ssize_t>sizeof(element)
    result.class_stride = view.strides[2] // <Py_ssize_t>sizeof(element)
    result.kind = kind
    return result


cdef sf_input input_of(object x, int kind) except *:
    if kind == SF_F64:
        return input_view[double](x, kind)
    if kind == SF_F32:
        return input_view[float](x, kind)
    return input_view[uint16_t](x, kind)


cdef sf_output output_view(real[:, :, :] view) noexcept:
    cdef sf_output result
    result.data = &view[0, 0, 0]
    result.outer_stride = view.strides[0] // <Py_ssize_t>sizeof(real)
    result.row_stride = view.strides[1] // <Py_ssize_t>sizeof(real)
    result.class_stride = view.strides[2] // <Py_ssize_t>sizeof(real)
    return result


cdef sf_output output_of(object out, int kind) except *:
    if kind == SF_F64:
        return output_view[double](out)
    return output_view[float](out)


cdef class Job:
    """One call: what the kernels read, how many rows there are, and what must stay alive."""

    cdef sf_rows rows
    cdef Py_ssize_t n_rows
    cdef const sf_kernels *kernels
    cdef const double[::1] temperatures
    cdef double temperature
    cdef object x

    def __cinit__(self, x, str kind, temperature):
        cdef int number = kind_number(kind)
        self.x = x
        self.kernels = kernels_of(number)
        self.rows.x = input_of(x, number)
        self.n_rows = x.shape[0] * x.shape[1]
        self.rows.inner = x.shape[1]
        self.rows.n_classes = x.shape[2]
        self.rows.out.data = NULL
        self.rows.stream = False
        if isinstance(temperature, float):
            self.temperature = temperature
            self.rows.temperature = &self.temperature
            self.rows.temperature_step = 0
        else:
            self.temperatures = temperature
            self.rows.temperature = &self.temperatures[0] if self.n_rows else NULL
            self.rows.temperature_step = 1

    cdef int write_to(self, out) except -1:
        cdef sf_input *x = &self.rows.x
        cdef Py_ssize_t elements = self.n_rows * self.rows.n_classes
        self.rows.out = output_of(out, x.kind)
        # Streaming stores pay when in and out together exceed the last cache; in place, the lines
        # are there anyway.
        self.rows.stream = (x.data != self.rows.out.data
                            and elements * self.kernels.item_size > last_level_cache // 2)
        return 0


# ---- loops over blocks of rows --------------------------------------------------------------------

ctypedef struct work:
    # What a block of rows needs; one of the functions is set.
    const sf_kernels *kernels
    const sf_rows *rows
    const sf_targets *targets
    sf_rows_function *on_rows
    sf_loss_function *on_losses
    double *row_max
    double *row_rest
    const double *shift
    const double *scale
    const int64_t *indices
    Py_ssize_t n_indices
    Py_ssize_t n_rows, block_rows, n_blocks
    sf_result *results
    char *scratch
    size_t scratch_bytes


cdef void run_block(const work *w, Py_ssize_t block, int thread) noexcept nogil:
    cdef Py_ssize_t first = block * w.block_rows
    cdef Py_ssize_t end = min(first + w.block_rows, w.n_rows), count
    cdef void *scratch = w.scratch + thread * w.scratch_bytes
    cdef environment found = sf_enter()
    while first < end:
        count = min(end - first, w.rows.inner - first % w.rows.inner)
        if w.on_rows:
            w.on_rows(w.rows, first, count, scratch)
        elif w.on_losses:
            w.on_losses(w.rows, w.targets, first, count, &w.results[block], scratch)
        elif w.row_max:
            w.kernels.row_stats(w.rows, first, count, w.row_max + first, w.row_rest + first, scratch)
        elif w.indices:
            w.kernels.selected_log_probs(w.rows, w.indices, w.n_indices, w.targets, first, count,
                                         &w.results[block], scratch)
        else:
            w.kernels.exponentials(w.rows, w.shift, w.scale, first, count)
        first += count
    sf_leave(found)


cdef inline int threads_for(Py_ssize_t elements, Py_ssize_t pieces, int n_threads) noexcept nogil:
    cdef Py_ssize_t n = min(elements // ELEMENTS_PER_THREAD, pieces)
    return 1 if serial or n <= 1 else <int>min(n, <Py_ssize_t>n_threads)


cdef int run(work *w, Job job, int n_threads, sf_result *total=NULL) except -1:
    """Every block of rows, and the blocks' results folded in order."""
    cdef Py_ssize_t n_classes = job.rows.n_classes, block, aligned
    cdef int n
    w.kernels = job.kernels
    w.rows = &job.rows
    w.n_rows = job.n_rows
    # A function of the shape alone: the folded sums must not depend on the threads.  Sixteen rows
    # fill a tile or a panel.
    w.block_rows = max(1, ELEMENTS_PER_BLOCK // n_classes)
    if w.n_rows >= 64:
        w.block_rows = max(16, w.block_rows // 16 * 16)
    w.n_blocks = (w.n_rows + w.block_rows - 1) // w.block_rows
    n = threads_for(w.n_rows * n_classes, w.n_blocks, n_threads)
    w.scratch_bytes = sf_scratch_bytes(w.rows, job.kernels.item_size)
    w.scratch = <char *>malloc(n * w.scratch_bytes)
    w.results = <sf_result *>calloc(max(1, w.n_blocks), sizeof(sf_result)) if total else NULL
    if not w.scratch or (total and not w.results):
        free(w.scratch)
        free(w.results)
        raise MemoryError(f"no room for {n * w.scratch_bytes} bytes of scratch")
    with nogil:
        if total:
            for block in range(w.n_blocks):
                w.results[block].bad_label_row = w.results[block].bad_value_row = -1
        if n == 1:
            for block in range(w.n_blocks):
                run_block(w, block, 0)
        else:
            for block in prange(w.n_blocks, num_threads=n, schedule="static"):
                run_block(w, block, omp_get_thread_num())
        if total:
            for block in range(w.n_blocks):
                fold(total, &w.results[block])
        free(w.scratch)
        free(w.results)
    return 0


cdef void fold(sf_result *total, const sf_result *part) noexcept nogil:
    sf_sum_merge(&total.loss, part.loss)
    sf_sum_merge(&total.weight, part.weight)
    if total.bad_label_row < 0:
        total.bad_label_row = part.bad_label_row
    if total.bad_value_row < 0:
        total.bad_value_row = part.bad_value_row


cdef work no_work() noexcept:
    cdef work w
    memset(&w, 0, sizeof(w))
    return w


cdef sf_result no_result() noexcept:
    cdef sf_result result
    result.loss.sum = result.loss.lost = result.weight.sum = result.weight.lost = 0.0
    result.bad_label_row = result.bad_value_row = -1
    return result


# ---- few long rows: every row in pieces -----------------------------------------------------------

cdef enum operation:
    SOFTMAX, LOG_SOFTMAX, STATS


cdef int threads_within_rows(Job job, int n_threads) noexcept:
    """How many threads should share each row; 1: rows are shared out instead."""
    cdef Py_ssize_t blocks = (job.rows.n_classes + job.kernels.block - 1) // job.kernels.block
    cdef int n = threads_for(job.rows.n_classes, blocks, n_threads)
    return n if job.n_rows < 2 * n and job.n_rows % n else 1


cdef int run_within_rows(Job job, operation op, int n, double *row_max, double *row_rest) except -1:
    """The statistics of every row, and for softmax and log-softmax its output."""
    cdef const sf_kernels *k = job.kernels
    cdef const sf_rows *rows = &job.rows
    cdef sf_rows stats_rows = job.rows
    cdef Py_ssize_t n_blocks = (rows.n_classes + k.block - 1) // k.block
    cdef Py_ssize_t row, piece, share = (n_blocks + n - 1) // n
    cdef environment found
    cdef double *block_max = <double *>malloc(2 * n_blocks * sizeof(double))
    cdef double *block_rest = block_max + n_blocks
    if not block_max:
        raise MemoryError(f"no room for the sums of {n_blocks} blocks")
    if op != SOFTMAX:
        stats_rows.out.data = NULL
    with nogil:
        for row in range(job.n_rows):
            for piece in prange(n, num_threads=n, schedule="static"):
                run_piece(k, STATS, &stats_rows, row, piece * share, share, n_blocks, block_max,
                          block_rest, 0.0, 0.0)
            found = sf_enter()
            k.merge_blocks(rows, row, n_blocks, block_max, block_rest, &row_max[row], &row_rest[row])
            sf_leave(found)
            if op == STATS:
                continue
            for piece in prange(n, num_threads=n, schedule="static"):
                run_piece(k, op, rows, row, piece * share, share, n_blocks, block_max,
                          block_rest, row_max[row], row_rest[row])
        free(block_max)
    return 0


cdef void run_piece(const sf_kernels *k, operation op, const sf_rows *rows, Py_ssize_t row,
                    Py_ssize_t first, Py_ssize_t share, Py_ssize_t n_blocks, double *block_max,
                    double *block_rest, double row_max, double row_rest) noexcept nogil:
    cdef Py_ssize_t count = max(0, min(share, n_blocks - first))
    cdef environment found = sf_enter()
    if op == STATS:
        k.block_stats(rows, row, first, count, block_max, block_rest)
    elif op == SOFTMAX:
        k.softmax_blocks(rows, row, first, count, block_rest, row_max, row_rest)
    else:
        k.log_softmax_blocks(rows, row, first, count, row_max, row_rest)
    sf_leave(found)


cdef int long_rows(Job job, operation op, int n_threads) except -1:
    """Runs op within rows where that pays, else returns 0."""
    cdef int n = threads_within_rows(job, n_threads)
    cdef double row_max[64]
    cdef double row_rest[64]
    if n == 1 or job.n_rows >= 64:
        return 0
    run_within_rows(job, op, n, row_max, row_rest)
    return 1


# ---- entry points -----------------------------------------------------------------------------------

def softmax(x, str kind, out, temperature, int n_threads):
    if not x.size:
        return
    cdef Job job = Job(x, kind, temperature)
    cdef work w = no_work()
    job.write_to(out)
    w.on_rows = job.kernels.softmax
    if not long_rows(job, SOFTMAX, n_threads):
        run(&w, job, n_threads)


def log_softmax(x, str kind, out, temperature, int n_threads):
    if not x.size:
        return
    cdef Job job = Job(x, kind, temperature)
    cdef work w = no_work()
    job.write_to(out)
    w.on_rows = job.kernels.log_softmax
    if not long_rows(job, LOG_SOFTMAX, n_threads):
        run(&w, job, n_threads)


def logsumexp(x, str kind, out, temperature, int n_threads):
    cdef Job job
    cdef work w = no_work()
    cdef double row_max[64]
    cdef double row_rest[64]
    cdef Py_ssize_t row
    cdef environment found
    cdef int n
    if not x.size:
        return
    job = Job(x, kind, temperature)
    job.rows.out = output_of(out[:, :, None], job.rows.x.kind)
    job.rows.out.class_stride = 1
    w.on_rows = job.kernels.logsumexp
    n = threads_within_rows(job, n_threads)
    if n == 1 or job.n_rows >= 64:
        run(&w, job, n_threads)
        return
    run_within_rows(job, STATS, n, row_max, row_rest)
    found = sf_enter()
    for row in range(job.n_rows):
        job.kernels.finish_logsumexp(&job.rows, row, 1, &row_max[row], &row_rest[row])
    sf_leave(found)


cdef class Targets:
    """What a loss compares with, and what must stay alive meanwhile."""

    cdef sf_targets targets
    cdef const int32_t[::1] labels32
    cdef const int64_t[::1] labels64
    cdef const double[::1] class_weight
    cdef const double[::1] sample_weight
    cdef float[::1] losses32
    cdef double[::1] losses64
    cdef object probabilities

    def __cinit__(self, targets, weight, sample_weight, ignore_index, double label_smoothing,
                  row_losses):
        cdef sf_targets *t = &self.targets
        t.labels32 = NULL
        t.labels64 = NULL
        t.class_weight = NULL
        t.sample_weight = NULL
        t.row_losses = NULL
        t.gradient_scale = 1.0
        t.label_smoothing = label_smoothing
        t.has_ignore_index = ignore_index is not None
        t.ignore_index = ignore_index if ignore_index is not None else 0
        if targets is None:
            pass
        elif targets.dtype.kind == "f":
            self.probabilities = targets
            t.probabilities = input_of(
                targets, SF_F64 if targets.dtype.itemsize == 8 else SF_F32)
        elif targets.dtype.itemsize == 4:
            self.labels32 = targets
            t.labels32 = &self.labels32[0]
        else:
            self.labels64 = targets
            t.labels64 = &self.labels64[0]
        if weight is not None:
            self.class_weight = weight
            t.class_weight = &self.class_weight[0]
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


def softmax_loss(x, str kind, targets, weight, sample_weight, ignore_index, double label_smoothing,
                 temperature, row_losses, int n_threads):
    cdef Job job
    cdef Targets t
    cdef work w = no_work()
    cdef sf_result result = no_result()
    cdef double row_max[64]
    cdef double row_rest[64]
    cdef Py_ssize_t row
    cdef environment found
    cdef int n
    if not x.size:
        return 0.0, 0.0, -1
    job = Job(x, kind, temperature)
    t = Targets(targets, weight, sample_weight, ignore_index, label_smoothing, row_losses)
    n = threads_within_rows(job, n_threads)
    # run() folds fewer rows one by one, so that the sum is the same.
    if n == 1 or job.n_rows >= 64:
        w.targets = &t.targets
        w.on_losses = job.kernels.softmax_loss
        run(&w, job, n_threads, &result)
    else:
        run_within_rows(job, STATS, n, row_max, row_rest)
        found = sf_enter()
        for row in range(job.n_rows):
            job.kernels.finish_loss(&job.rows, &t.targets, row, 1, &row_max[row], &row_rest[row],
                                    &result)
        sf_leave(found)
    return sf_sum_value(result.loss), sf_sum_value(result.weight), result.bad_label_row


def softmax_loss_grad(x, str kind, grad, double scale, targets, weight, sample_weight, ignore_index,
                      double label_smoothing, temperature, row_losses, int n_threads):
    if not x.size:
        return 0.0, 0.0, -1
    cdef Job job = Job(x, kind, temperature)
    cdef Targets t = Targets(targets, weight, sample_weight, ignore_index, label_smoothing, row_losses)
    cdef work w = no_work()
    cdef sf_result result = no_result()
    job.write_to(grad)
    t.targets.gradient_scale = scale
    w.targets = &t.targets
    w.on_losses = job.kernels.softmax_loss_grad
    run(&w, job, n_threads, &result)
    return sf_sum_value(result.loss), sf_sum_value(result.weight), result.bad_label_row


def target_weight_sum(targets, Py_ssize_t n_classes, weight, sample_weight, ignore_index):
    cdef Targets t
    cdef sf_sum total
    cdef Py_ssize_t row, n_rows = targets.shape[0]
    cdef Py_ssize_t bad_row = -1
    cdef int64_t label
    cdef double w
    total.sum = total.lost = 0.0
    if n_rows == 0:
        return 0.0, -1
    t = Targets(targets, weight, sample_weight, ignore_index, 0.0, None)
    cdef const sf_targets *s = &t.targets
    with nogil:
        for row in range(n_rows):
            label = s.labels32[row] if s.labels32 else s.labels64[row]
            if s.has_ignore_index and label == s.ignore_index:
                continue
            if label < 0 or label >= n_classes:
                bad_row = row
                break
            w = s.sample_weight[row] if s.sample_weight else 1.0
            if s.class_weight:
                w = w * s.class_weight[label]
            sf_sum_add(&total, w)
    return sf_sum_value(total), bad_row


def cross_entropy(p, str kind, targets, weight, sample_weight, ignore_index, row_losses, int n_threads):
    if not p.size:
        return 0.0, 0.0, -1, -1
    cdef Job job = Job(p, kind, 1.0)
    cdef Targets t = Targets(targets, weight, sample_weight, ignore_index, 0.0, row_losses)
    cdef work w = no_work()
    cdef sf_result result = no_result()
    w.targets = &t.targets
    w.on_losses = job.kernels.cross_entropy
    run(&w, job, n_threads, &result)
    return (sf_sum_value(result.loss), sf_sum_value(result.weight),
            result.bad_label_row, result.bad_value_row)


def selected_log_probs(x, str kind, const int64_t[:, ::1] indices, temperature, ignore_index, out,
                       int n_threads):
    if not x.size or not indices.shape[0] or not indices.shape[1]:
        return -1
    cdef Job job = Job(x, kind, temperature)
    cdef Targets t = Targets(None, None, None, ignore_index, 0.0, None)
    cdef work w = no_work()
    cdef sf_result result = no_result()
    job.rows.out = output_of(out[None], job.rows.x.kind)
    job.rows.out.class_stride = 1
    w.targets = &t.targets
    w.indices = &indices[0, 0]
    w.n_indices = indices.shape[1]
    run(&w, job, n_threads, &result)
    return result.bad_label_row


def row_stats(x, str kind, temperature, double[::1] row_max, double[::1] row_rest, int n_threads):
    cdef Job job
    cdef work w = no_work()
    if not x.size:
        return
    job = Job(x, kind, temperature)
    w.row_max = &row_max[0]
    w.row_rest = &row_rest[0]
    run(&w, job, n_threads)


def exponentials(x, str kind, const double[::1] shift, const double[::1] scale, temperature, out,
                 int n_threads):
    if not x.size:
        return
    cdef Job job = Job(x, kind, temperature)
    cdef work w = no_work()
    job.write_to(out)
    w.shift = &shift[0]
    w.scale = &scale[0]
    run(&w, job, n_threads)


# ---- binary losses ------------------------------------------------------------------------------------

cdef void run_binary_block(const sf_kernels *k, const sf_binary *job, Py_ssize_t block, Py_ssize_t size,
                           sf_result *result) noexcept nogil:
    cdef Py_ssize_t first = block * ELEMENTS_PER_BLOCK
    cdef environment found = sf_enter()
    k.binary_loss(job, first, min(ELEMENTS_PER_BLOCK, size - first), result)
    sf_leave(found)


cdef object run_binary(x, str kind, targets, sample_weight, losses, int n_threads, bint of_logits,
                       temperature, pos_weight):
    cdef sf_binary job
    cdef int number = kind_number(kind), n
    cdef const sf_kernels *k = kernels_of(number)
    cdef const double[::1] temperatures, pos_weights, weights
    cdef double one_temperature = 1.0, one_weight = 1.0
    cdef sf_result total = no_result()
    cdef sf_result *results
    cdef Py_ssize_t size = x.size, block, n_blocks = (size + ELEMENTS_PER_BLOCK - 1) // ELEMENTS_PER_BLOCK
    if not size:
        return 0.0, 0.0, -1
    job.x = input_of(x[None, None], number)
    job.targets = input_of(targets[None, None], SF_F64 if number == SF_F64 else SF_F32).data
    job.of_logits = of_logits
    job.temperature_step = job.pos_weight_step = 0
    job.temperature = &one_temperature
    job.pos_weight = &one_weight
    job.sample_weight = NULL
    job.losses = NULL
    if isinstance(temperature, float):
        one_temperature = temperature
    else:
        temperatures = temperature
        job.temperature = &temperatures[0]
        job.temperature_step = 1
    if isinstance(pos_weight, float):
        one_weight = pos_weight
    else:
        pos_weights = pos_weight
        job.pos_weight = &pos_weights[0]
        job.pos_weight_step = 1
    if sample_weight is not None:
        weights = sample_weight
        job.sample_weight = &weights[0]
    if losses is not None:
        job.losses = output_of(losses[None, None], number).data
    results = <sf_result *>calloc(n_blocks, sizeof(sf_result))
    if not results:
        raise MemoryError(f"no room for the sums of {n_blocks} blocks")
    n = threads_for(size, n_blocks, n_threads)
    with nogil:
        for block in range(n_blocks):
            results[block].bad_value_row = results[block].bad_label_row = -1
        if n == 1:
            for block in range(n_blocks):
                run_binary_block(k, &job, block, size, &results[block])
        else:
            for block in prange(n_blocks, num_threads=n, schedule="static"):
                run_binary_block(k, &job, block, size, &results[block])
        for block in range(n_blocks):
            fold(&total, &results[block])
        free(results)
    block = total.bad_value_row
    if block < 0 or 0 <= total.bad_label_row < block:
        block = total.bad_label_row
    return sf_sum_value(total.loss), sf_sum_value(total.weight), block


def binary_cross_entropy(p, str kind, t, sample_weight, losses, int n_threads):
    return run_binary(p, kind, t, sample_weight, losses, n_threads, False, 1.0, 1.0)


def binary_cross_entropy_with_logits(x, str kind, t, temperature, sample_weight, pos_weight, losses,
                                     int n_threads):
    return run_binary(x, kind, t, sample_weight, losses, n_threads, True, temperature, pos_weight)


# ---- the simple, small, common call -------------------------------------------------------------------

cdef enum:
    NOT_SIMPLE = 0, SIMPLE = 1


cdef inline bint is_plain(object x) noexcept:
    """An exact ndarray, C-contiguous, aligned, of native float32 or float64."""
    cdef int number
    if not cnp.PyArray_CheckExact(x):
        return False
    number = cnp.PyArray_TYPE(x)
    return ((number == cnp.NPY_FLOAT32 or number == cnp.NPY_FLOAT64)
            and cnp.PyArray_IS_C_CONTIGUOUS(x) and cnp.PyArray_ISALIGNED(x)
            and cnp.PyArray_ISNOTSWAPPED(x))


cdef bint simple_rows(sf_rows *rows, object x, object axis, object temperature, double *t) noexcept:
    """Fills rows for a simple call; what is not simple, the facade checks and explains."""
    cdef int ndim
    cdef Py_ssize_t size, n
    if not is_plain(x) or type(temperature) is not float or type(axis) is not int:
        return False
    ndim = cnp.PyArray_NDIM(x)
    size = cnp.PyArray_SIZE(x)
    if ndim < 1 or size == 0 or size >= 2 * ELEMENTS_PER_THREAD or (axis != -1 and axis != ndim - 1):
        return False
    t[0] = temperature
    if not (1e-30 <= t[0] <= 1e30):
        return False
    n = cnp.PyArray_DIM(x, ndim - 1)
    rows.x.data = cnp.PyArray_DATA(x)
    rows.x.kind = SF_F32 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else SF_F64
    rows.x.outer_stride = rows.x.row_stride = n
    rows.x.class_stride = 1
    rows.inner = size // n
    rows.n_classes = n
    rows.temperature = t
    rows.temperature_step = 0
    rows.stream = False
    rows.out.data = NULL
    return True


cdef bint overlaps(object a, object b) noexcept:
    cdef char *pa = <char *>cnp.PyArray_DATA(a)
    cdef char *pb = <char *>cnp.PyArray_DATA(b)
    return pa < pb + cnp.PyArray_NBYTES(b) and pb < pa + cnp.PyArray_NBYTES(a)


cdef object simple_output(sf_rows *rows, object x, object out):
    """A fresh array like x, or out if it is as plain; None if it is not."""
    cdef int i
    if out is None:
        out = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    elif out is not x:
        if (not is_plain(out) or cnp.PyArray_TYPE(out) != cnp.PyArray_TYPE(x)
                or cnp.PyArray_NDIM(out) != cnp.PyArray_NDIM(x)):
            return None
        for i in range(cnp.PyArray_NDIM(x)):
            if cnp.PyArray_DIM(out, i) != cnp.PyArray_DIM(x, i):
                return None
        if overlaps(x, out) and cnp.PyArray_DATA(x) != cnp.PyArray_DATA(out):
            return None
    if not cnp.PyArray_ISWRITEABLE(out):
        return None
    rows.out.data = cnp.PyArray_DATA(out)
    rows.out.outer_stride = rows.out.row_stride = rows.n_classes
    rows.out.class_stride = 1
    return out


cdef inline void run_simple(sf_rows_function *function, const sf_rows *rows) noexcept:
    cdef double scratch[SIMPLE_SCRATCH]
    cdef environment found = sf_enter()
    if rows.inner * rows.n_classes <= ELEMENTS_WITHOUT_RELEASE:
        function(rows, 0, rows.inner, scratch)
    else:
        with nogil:
            function(rows, 0, rows.inner, scratch)
    sf_leave(found)


def softmax_simple(x, axis, temperature, out, n_threads):
    cdef sf_rows rows
    cdef double t
    if n_threads is not None or not simple_rows(&rows, x, axis, temperature, &t):
        return NotImplemented
    out = simple_output(&rows, x, out)
    if out is None:
        return NotImplemented
    run_simple(kernels_of(rows.x.kind).softmax, &rows)
    return out


def log_softmax_simple(x, axis, temperature, out, n_threads):
    cdef sf_rows rows
    cdef double t
    if n_threads is not None or not simple_rows(&rows, x, axis, temperature, &t):
        return NotImplemented
    out = simple_output(&rows, x, out)
    if out is None:
        return NotImplemented
    run_simple(kernels_of(rows.x.kind).log_softmax, &rows)
    return out


def logsumexp_simple(x, axis, temperature, keepdims, out, n_threads):
    cdef sf_rows rows
    cdef double t
    cdef int ndim
    if (n_threads is not None or out is not None or keepdims is not False
            or not simple_rows(&rows, x, axis, temperature, &t)):
        return NotImplemented
    ndim = cnp.PyArray_NDIM(x)
    if ndim < 2:
        return NotImplemented
    out = cnp.PyArray_EMPTY(ndim - 1, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    rows.out.data = cnp.PyArray_DATA(out)
    rows.out.outer_stride = rows.out.row_stride = rows.out.class_stride = 1
    run_simple(kernels_of(rows.x.kind).logsumexp, &rows)
    return out


def softmax_loss_simple(logits, targets, temperature, ignore_index, reduction):
    cdef sf_rows rows
    cdef sf_targets t
    cdef sf_result result
    cdef double scratch[SIMPLE_SCRATCH]
    cdef double value
    cdef int number, overflow
    cdef long long ignored
    if (not simple_rows(&rows, logits, -1, temperature, &value) or cnp.PyArray_NDIM(logits) != 2
            or not cnp.PyArray_CheckExact(targets) or cnp.PyArray_NDIM(targets) != 1
            or cnp.PyArray_DIM(targets, 0) != rows.inner or type(ignore_index) is not int
            or not cnp.PyArray_IS_C_CONTIGUOUS(targets) or not cnp.PyArray_ISALIGNED(targets)
            or not cnp.PyArray_ISNOTSWAPPED(targets)):
        return NotImplemented
    if type(reduction) is not str or reduction not in ("mean", "sum"):
        return NotImplemented
    ignored = PyLong_AsLongLongAndOverflow(ignore_index, &overflow)
    if overflow:
        return NotImplemented
    number = cnp.PyArray_TYPE(targets)
    t.labels32 = NULL
    t.labels64 = NULL
    if number == cnp.NPY_INT64:
        t.labels64 = <const int64_t *>cnp.PyArray_DATA(targets)
    elif number == cnp.NPY_INT32:
        t.labels32 = <const int32_t *>cnp.PyArray_DATA(targets)
    else:
        return NotImplemented
    t.class_weight = t.sample_weight = NULL
    t.has_ignore_index = True
    t.ignore_index = ignored
    t.label_smoothing = 0.0
    t.row_losses = NULL
    t.gradient_scale = 1.0
    result = simple_loss(&rows, &t, scratch)
    if result.bad_label_row >= 0:
        return NotImplemented
    value = sf_sum_value(result.loss)
    if reduction == "mean":
        value = value / (sf_sum_value(result.weight))
    return value


cdef sf_result simple_loss(const sf_rows *rows, const sf_targets *t, void *scratch) noexcept:
    """One block after another as run() takes them, so that the sum is the same."""
    cdef sf_result total = no_result(), part
    cdef Py_ssize_t block_rows = max(1, ELEMENTS_PER_BLOCK // rows.n_classes), first
    if rows.inner >= 64:
        block_rows = max(16, block_rows // 16 * 16)
    cdef environment found = sf_enter()
    with nogil:
        first = 0
        while first < rows.inner:
            part.loss.sum = part.loss.lost = part.weight.sum = part.weight.lost = 0.0
            part.bad_label_row = part.bad_value_row = -1
            kernels_of(rows.x.kind).softmax_loss(
                rows, t, first, min(block_rows, rows.inner - first), &part, scratch)
            fold(&total, &part)
            first += block_rows
    sf_leave(found)
    return total


# ---- what is in use -------------------------------------------------------------------------------------

has_openmp = SF_OPENMP_VERSION != 0


def isa():
    return tables.isa.decode()


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
    global tables
    cdef bytes key = name.encode()
    cdef const sf_tables *named = sf_tables_named(key)
    if named is NULL:
        raise ValueError(f"instruction set {name!r} is not one of {', '.join(isas_supported())}")
    tables = named


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
    cdef int kind = SF_F32 if real is float else SF_F64
    if x.shape[0]:
        kernels_of(kind).exp_array(&x[0], &out[0], x.shape[0])


def _log1p(double[::1] x, double[::1] out):
    """log(1 + x) for x >= 0 by the vector function of the instruction set in use."""
    if x.shape[0]:
        tables.f64.log1p_array(&x[0], &out[0], x.shape[0])


def _choose_isa(wanted):
    if not wanted:
        return
    try:
        set_isa(wanted)
    except ValueError as error:
        warnings.warn(f"SOFTMAX_FAST_ISA is ignored: {error}", RuntimeWarning, stacklevel=2)


_choose_isa(os.environ.get("SOFTMAX_FAST_ISA"))
