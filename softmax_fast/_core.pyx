# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""Typed entry points over the kernels, and the parallel loops over blocks of rows.

Arguments have been checked by the facade.  Arrays come as (A, B, C) views, rows numbered a * B + b,
classes last.  Below the entry points nothing touches a Python object.
"""

cimport cython
cimport numpy as cnp
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint16_t

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

cdef enum:
    # Work of fewer elements runs in the calling thread, whoever is asked.
    SMALL_WORK = 32768

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


ctypedef int call(const sf_job *job) noexcept nogil
ctypedef int loss_call(const sf_job *job, const sf_targets *targets, sf_result *result) noexcept nogil


cdef class Job:
    """One call: what the kernels read, how many rows there are, and what must stay alive."""

    cdef sf_job job
    cdef const double[::1] temperatures
    cdef double temperature
    cdef object x

    def __cinit__(self, x, str kind, temperature, int n_threads):
        self.x = x
        sf_begin(&self.job, input_of(x, kind_number(kind)), x.shape[0] * x.shape[1], x.shape[1],
                 x.shape[2], 1 if serial else n_threads)
        if isinstance(temperature, float):
            self.temperature = temperature
            self.job.rows.temperature = &self.temperature
        else:
            self.temperatures = temperature
            self.job.rows.temperature = &self.temperatures[0]
            self.job.rows.temperature_step = 1

    cdef int write_to(self, out) except -1:
        sf_write_to(&self.job, output_of(out, self.job.rows.x.kind))
        return 0

    cdef int write_rows_to(self, out) except -1:
        """Results of one entry, or some contiguous ones, a row."""
        self.job.rows.out = output_of(out[:, :, None], self.job.rows.x.kind)
        self.job.rows.out.class_stride = 1
        return 0

    cdef int call(self, call *function) except -1:
        cdef int status
        with nogil:
            status = function(&self.job)
        return check(status)

    cdef sf_result loss(self, loss_call *function, const sf_targets *targets) except *:
        cdef sf_result result = sf_no_result()
        cdef int status
        with nogil:
            status = function(&self.job, targets, &result)
        check(status)
        return result


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


cdef int check(int status) except -1:
    if status == SF_NO_MEMORY:
        raise MemoryError("no room for the scratch of the kernels")
    return 0


# ---- entry points -----------------------------------------------------------------------------------

def softmax(x, str kind, out, temperature, int n_threads):
    if x.size:
        job = Job(x, kind, temperature, n_threads)
        job.write_to(out)
        job.call(sf_softmax)


def log_softmax(x, str kind, out, temperature, int n_threads):
    if x.size:
        job = Job(x, kind, temperature, n_threads)
        job.write_to(out)
        job.call(sf_log_softmax)


def logsumexp(x, str kind, out, temperature, int n_threads):
    if x.size:
        job = Job(x, kind, temperature, n_threads)
        job.write_rows_to(out)
        job.call(sf_logsumexp)


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
        self.targets = sf_no_targets()
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
    cdef sf_result result = sf_no_result()
    if x.size:
        job = Job(x, kind, temperature, n_threads)
        t = Targets(targets, weight, sample_weight, ignore_index, label_smoothing, row_losses)
        result = job.loss(sf_softmax_loss, &t.targets)
    return sf_sum_value(result.loss), sf_sum_value(result.weight), result.bad_label_row


def softmax_loss_grad(x, str kind, grad, double scale, targets, weight, sample_weight, ignore_index,
                      double label_smoothing, temperature, row_losses, int n_threads):
    cdef Job job
    cdef Targets t
    cdef sf_result result = sf_no_result()
    if x.size:
        job = Job(x, kind, temperature, n_threads)
        t = Targets(targets, weight, sample_weight, ignore_index, label_smoothing, row_losses)
        t.targets.gradient_scale = scale
        job.write_to(grad)
        result = job.loss(sf_softmax_loss_grad, &t.targets)
    return sf_sum_value(result.loss), sf_sum_value(result.weight), result.bad_label_row


def target_weight_sum(targets, Py_ssize_t n_classes, weight, sample_weight, ignore_index):
    """The denominator of the mean over labels, and the first row whose label is bad, or -1."""
    cdef Targets t
    cdef sf_result result = sf_no_result()
    cdef Py_ssize_t n_rows = targets.shape[0]
    if n_rows:
        t = Targets(targets, weight, sample_weight, ignore_index, 0.0, None)
        with nogil:
            sf_target_weights(&t.targets, n_rows, n_classes, &result)
    return sf_sum_value(result.weight), result.bad_label_row


def cross_entropy(p, str kind, targets, weight, sample_weight, ignore_index, row_losses, int n_threads):
    cdef Job job
    cdef Targets t
    cdef sf_result result = sf_no_result()
    if p.size:
        job = Job(p, kind, 1.0, n_threads)
        t = Targets(targets, weight, sample_weight, ignore_index, 0.0, row_losses)
        result = job.loss(sf_cross_entropy, &t.targets)
    return (sf_sum_value(result.loss), sf_sum_value(result.weight),
            result.bad_label_row, result.bad_value_row)


def selected_log_probs(x, str kind, const int64_t[:, ::1] indices, temperature, ignore_index, out,
                       int n_threads):
    cdef Job job
    cdef Targets t
    cdef sf_result result = sf_no_result()
    cdef int status
    if x.size and indices.shape[0] and indices.shape[1]:
        job = Job(x, kind, temperature, n_threads)
        t = Targets(None, None, None, ignore_index, 0.0, None)
        job.write_rows_to(out[None, :, 0])
        with nogil:
            status = sf_selected_log_probs(&job.job, &indices[0, 0], indices.shape[1], &t.targets,
                                           &result)
        check(status)
    return result.bad_label_row


def row_stats(x, str kind, temperature, double[::1] row_max, double[::1] row_rest, int n_threads):
    cdef Job job
    cdef int status
    if x.size:
        job = Job(x, kind, temperature, n_threads)
        with nogil:
            status = sf_row_stats(&job.job, &row_max[0], &row_rest[0])
        check(status)


def exponentials(x, str kind, const double[::1] shift, const double[::1] scale, temperature, out,
                 int n_threads):
    cdef Job job
    cdef int status
    if x.size:
        job = Job(x, kind, temperature, n_threads)
        job.write_to(out)
        with nogil:
            status = sf_exponentials(&job.job, &shift[0], &scale[0])
        check(status)


# ---- binary losses ------------------------------------------------------------------------------------

cdef object run_binary(x, str kind, targets, sample_weight, losses, int n_threads, bint of_logits,
                       temperature, pos_weight):
    cdef sf_binary job
    cdef int number = kind_number(kind), status
    cdef const double[::1] temperatures, pos_weights, weights
    cdef double one_temperature = 1.0, one_weight = 1.0
    cdef sf_result total = sf_no_result()
    cdef Py_ssize_t size = x.size, bad
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
    with nogil:
        status = sf_binary_loss(&job, size, 1 if serial else n_threads, &total)
    check(status)
    bad = total.bad_value_row
    if bad < 0 or 0 <= total.bad_label_row < bad:
        bad = total.bad_label_row
    return sf_sum_value(total.loss), sf_sum_value(total.weight), bad


def binary_cross_entropy(p, str kind, t, sample_weight, losses, int n_threads):
    return run_binary(p, kind, t, sample_weight, losses, n_threads, False, 1.0, 1.0)


def binary_cross_entropy_with_logits(x, str kind, t, temperature, sample_weight, pos_weight, losses,
                                     int n_threads):
    return run_binary(x, kind, t, sample_weight, losses, n_threads, True, temperature, pos_weight)


# ---- the simple, common call ----------------------------------------------------------------------------
#
# Plain arrays and default options take a handful of C checks; for all else, and for every error, a
# function here returns NotImplemented, and the facade takes the general way.

cdef inline bint is_plain(object x) noexcept:
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


cdef int simple_threads(object n_threads, Py_ssize_t size) except -1:
    """At most how many threads, or 0 when n_threads is not simple."""
    if n_threads is not None and (type(n_threads) is not int or n_threads < 1):
        return 0
    return 1 if size < SMALL_WORK else resolve_threads(n_threads, size)


cdef bint simple_job(sf_job *job, object x, object axis, object temperature, object n_threads,
                     double *t) except -1:
    """Begins the job of a simple call, without an output."""
    cdef int ndim, most
    cdef Py_ssize_t size, n
    cdef sf_input rows
    if not is_plain(x) or type(temperature) is not float or type(axis) is not int:
        return False
    ndim = cnp.PyArray_NDIM(x)
    size = cnp.PyArray_SIZE(x)
    if ndim < 1 or size == 0 or (axis != -1 and axis != ndim - 1):
        return False
    t[0] = temperature
    if not (1e-30 <= t[0] <= 1e30):
        return False
    most = simple_threads(n_threads, size)
    if not most:
        return False
    n = cnp.PyArray_DIM(x, ndim - 1)
    rows.data = cnp.PyArray_DATA(x)
    rows.kind = SF_F32 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else SF_F64
    rows.outer_stride = rows.row_stride = n
    rows.class_stride = 1
    sf_begin(job, rows, size // n, size // n, n, most)
    job.rows.temperature = t
    return True


cdef bint overlaps(object a, object b) noexcept:
    cdef char *pa = <char *>cnp.PyArray_DATA(a)
    cdef char *pb = <char *>cnp.PyArray_DATA(b)
    return pa < pb + cnp.PyArray_NBYTES(b) and pb < pa + cnp.PyArray_NBYTES(a)


cdef object simple_output(sf_job *job, object x, object out):
    """A fresh array like x, or out if it is as plain; None if it is not."""
    cdef int i
    cdef sf_output rows
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
    rows.data = cnp.PyArray_DATA(out)
    rows.outer_stride = rows.row_stride = job.rows.n_classes
    rows.class_stride = 1
    sf_write_to(job, rows)
    return out


cdef inline bint is_tiny(const sf_job *job) noexcept:
    """Whether to release the GIL would cost more than it frees."""
    return job.n_rows * job.rows.n_classes <= 2048


cdef int run_simple(call *function, const sf_job *job) except -1:
    cdef int status
    if is_tiny(job):
        status = function(job)
    else:
        with nogil:
            status = function(job)
    return check(status)


cdef int run_simple_loss(loss_call *function, const sf_job *job, const sf_targets *targets,
                         sf_result *result) except -1:
    cdef int status
    result[0] = sf_no_result()
    if is_tiny(job):
        status = function(job, targets, result)
    else:
        with nogil:
            status = function(job, targets, result)
    return check(status)


def softmax_simple(x, axis, temperature, out, n_threads):
    cdef sf_job job
    cdef double t
    if not simple_job(&job, x, axis, temperature, n_threads, &t):
        return NotImplemented
    out = simple_output(&job, x, out)
    if out is None:
        return NotImplemented
    run_simple(sf_softmax, &job)
    return out


def log_softmax_simple(x, axis, temperature, out, n_threads):
    cdef sf_job job
    cdef double t
    if not simple_job(&job, x, axis, temperature, n_threads, &t):
        return NotImplemented
    out = simple_output(&job, x, out)
    if out is None:
        return NotImplemented
    run_simple(sf_log_softmax, &job)
    return out


def logsumexp_simple(x, axis, temperature, keepdims, out, n_threads):
    cdef sf_job job
    cdef double t
    if (out is not None or keepdims is not False
            or not simple_job(&job, x, axis, temperature, n_threads, &t)
            or cnp.PyArray_NDIM(x) < 2):
        return NotImplemented
    out = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x) - 1, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    job.rows.out.data = cnp.PyArray_DATA(out)
    job.rows.out.outer_stride = job.rows.out.row_stride = job.rows.out.class_stride = 1
    run_simple(sf_logsumexp, &job)
    return out


cdef bint simple_targets(sf_targets *t, const sf_job *job, object logits, object targets,
                         object ignore_index, object label_smoothing, object reduction) except -1:
    """Labels of 32 or 64 bits for logits of two dimensions, to be summed or averaged."""
    cdef int number, overflow
    cdef long long ignored
    if (cnp.PyArray_NDIM(logits) != 2 or not cnp.PyArray_CheckExact(targets)
            or cnp.PyArray_NDIM(targets) != 1 or cnp.PyArray_DIM(targets, 0) != job.n_rows
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
    return True


def softmax_loss_simple(logits, targets, axis, temperature, ignore_index, label_smoothing, reduction,
                        n_threads):
    cdef sf_job job
    cdef sf_targets t
    cdef sf_result result
    cdef double one_temperature
    if (not simple_job(&job, logits, axis, temperature, n_threads, &one_temperature)
            or not simple_targets(&t, &job, logits, targets, ignore_index, label_smoothing,
                                  reduction)):
        return NotImplemented
    run_simple_loss(sf_softmax_loss, &job, &t, &result)
    if result.bad_label_row >= 0:
        return NotImplemented
    return reduced(&result, reduction)


def softmax_loss_grad_simple(logits, targets, axis, temperature, ignore_index, label_smoothing,
                             reduction, grad_out, n_threads):
    cdef sf_job job
    cdef sf_targets t
    cdef sf_result result = sf_no_result()
    cdef double one_temperature
    if (not simple_job(&job, logits, axis, temperature, n_threads, &one_temperature)
            or not simple_targets(&t, &job, logits, targets, ignore_index, label_smoothing,
                                  reduction)):
        return NotImplemented
    if grad_out is not None and (not is_plain(grad_out) or overlaps(grad_out, targets)):
        return NotImplemented
    sf_target_weights(&t, job.n_rows, job.rows.n_classes, &result)
    if result.bad_label_row >= 0:
        return NotImplemented
    if reduction == "mean":
        t.gradient_scale = 1.0 / sf_sum_value(result.weight)
    grad_out = simple_output(&job, logits, grad_out)
    if grad_out is None:
        return NotImplemented
    run_simple_loss(sf_softmax_loss_grad, &job, &t, &result)
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
