# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""Every check of an argument, and every error text. Nothing else in the package raises on one.

A function here takes an argument as the caller gave it and returns it in the one form the layers
below use, or raises an error that says which argument, what came, and what was expected. What a call
on few numbers meets is asked of C alone: a call of NumPy takes as long as a short row.
"""

cimport cython
cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY

from softmax_fast._kernels cimport (
    SF_BF16, SF_BOOL, SF_F16, SF_F32, SF_F64, SF_I8, SF_I16, SF_I32, SF_I64,
)
from softmax_fast._layout cimport Source, source_of

import math
import numbers
import operator
from typing import NamedTuple

import numpy as np
from numpy.exceptions import AxisError, TooHardError

cnp.import_array()

cdef tuple REDUCTIONS = ("mean", "sum", "none")  # in the order of MEAN, SUM and UNREDUCED
NAN_POLICIES = ("propagate", "omit", "raise")
STRATEGIES = ("uniform", "quantile")
DEFAULT_IGNORE_INDEX = -100
cdef dict _STORED = {SF_F16: np.float16, SF_F32: np.float32, SF_F64: np.float64}
cdef dict _INTEGERS = {1: SF_I8, 2: SF_I16, 4: SF_I32, 8: SF_I64}
_INT64 = np.iinfo(np.int64)

cdef enum:
    NO_FLOAT = -1  # the `Source.code` of other dtypes

# Candidates that NumPy may examine to tell whether two interleaved views share an element;
# an answer that takes more is taken for a yes.
_OVERLAP_WORK = 100_000


# Arrays


cdef tuple shape_of(cnp.ndarray array):
    cdef int dim, n = cnp.PyArray_NDIM(array)
    cdef tuple shape = PyTuple_New(n)
    for dim in range(n):
        _put(shape, dim, cnp.PyArray_DIM(array, dim))
    return shape


cdef inline void _put(tuple shape, int dim, object size):
    Py_INCREF(size)
    PyTuple_SET_ITEM(shape, dim, size)


cdef bint _has_shape(cnp.ndarray array, tuple shape) except -1:
    cdef int dim
    if cnp.PyArray_NDIM(array) != len(shape):
        return False
    for dim in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, dim) != <Py_ssize_t>shape[dim]:
            return False
    return True


cpdef cnp.ndarray as_array(name, value):
    """``value`` as a plain ndarray, without a copy where NumPy can view it."""
    if cnp.PyArray_CheckExact(value):
        return value
    if _is_masked(value):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: pass {name}.filled(...) or the "
            "unmasked rows"
        )
    try:
        return np.from_dlpack(value) if _only_dlpack(value) else np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:
        what, kind = f"of type {_type_name(value)}", TypeError
        if isinstance(value, list | tuple) and isinstance(error, ValueError):
            what, kind = "is a sequence that", ValueError
        raise kind(f"{name} {what} makes no array: {error}") from error


def _type_name(value):
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_masked(value):
    # NumPy imports numpy.ma when it is first named; no other array needs it.
    return isinstance(value, np.ndarray) and isinstance(value, np.ma.MaskedArray)


def _only_dlpack(value):
    if not hasattr(value, "__dlpack__"):
        return False
    if any(hasattr(value, a) for a in ("__array__", "__array_interface__", "__array_struct__")):
        return False
    try:
        memoryview(value).release()
    except TypeError:
        return True
    return False


cdef int _float_code(cnp.ndarray array) except -2:
    """The `Source.code` of a floating dtype of any byte order, or NO_FLOAT."""
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT32:
        return SF_F32
    if number == cnp.NPY_FLOAT64:
        return SF_F64
    if number == cnp.NPY_FLOAT16:
        return SF_F16
    if cnp.PyTypeNum_ISFLOAT(number):
        return SF_F64 if cnp.PyArray_ITEMSIZE(array) == 8 else NO_FLOAT  # a long double of 8 bytes
    if cnp.PyArray_ITEMSIZE(array) == 2:
        dtype = (<object>array).dtype
        if dtype.kind == "V" and dtype.name == "bfloat16":
            return SF_BF16
    return NO_FLOAT


cdef inline bint _is_integer(cnp.ndarray array) noexcept:
    return cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(array))


cdef inline bint _is_integer_or_bool(cnp.ndarray array) noexcept:
    return _is_integer(array) or cnp.PyTypeNum_ISBOOL(cnp.PyArray_TYPE(array))


cpdef Source source(str name, value):
    """A real array of any dtype as a `Source`; integers and booleans become float64.

    A `Source` is taken as it is: bfloat16 in files comes as one, where NumPy has no such dtype.
    """
    if type(value) is Source:
        return value
    array = as_array(name, value)
    cdef int code = _float_code(array)
    if code == NO_FLOAT:
        if not _is_integer_or_bool(array):
            raise TypeError(
                f"{name} has dtype {(<object>array).dtype}, expected float16, bfloat16, float32, "
                "float64, an integer dtype or bool"
            )
        return source_of((<object>array).astype(np.float64), SF_F64)
    return source_of(_as_stored(array, code), code)


cdef cnp.ndarray _as_stored(cnp.ndarray array, int code):
    """Native and aligned; halves as their bits."""
    cdef object stored = array
    if not cnp.PyArray_ISBEHAVED_RO(array) or (
            code == SF_F64 and cnp.PyArray_TYPE(array) != cnp.NPY_FLOAT64):
        stored = stored.astype(_STORED.get(code) or stored.dtype.newbyteorder("="))
    if code in (SF_F16, SF_BF16):
        stored = stored.view(np.uint16)
    return stored


cpdef Source logits(str name, value):
    """A `Source` of at least one dimension."""
    result = source(name, value)
    if cnp.PyArray_NDIM(result.array) == 0:
        raise ValueError(f"{name} is 0-dimensional, expected an array of at least one dimension")
    return result


cpdef Source base_logits(value, tuple shape):
    """A `Source` of the shape of the logits that are compared with it."""
    result = source("base_logits", value)
    if not _has_shape(result.array, shape):
        raise base_shape_error(shape_of(result.array), shape)
    return result


def base_shape_error(found, shape):
    return ValueError(
        f"base_logits have shape {found}, but logits {shape}: both must be the same"
    )


cdef cnp.ndarray _real_values(name, value, error=TypeError):
    """A small array of numbers (weights, temperatures) as float64."""
    array = as_array(name, value)
    if not _is_integer_or_bool(array) and _float_code(array) == NO_FLOAT:
        raise error(f"{name} has dtype {(<object>array).dtype}, expected real numbers")
    if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 and cnp.PyArray_ISBEHAVED_RO(array):
        return array
    with np.errstate(all="ignore"):
        return (<object>array).astype(np.float64)


cdef object _integer(name, value, expected):
    if type(value) is int:
        return value
    if not isinstance(value, bool | np.bool_):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name} must be {expected}, got {value!r}")


cpdef int axis(value, int ndim) except -1:
    """The number of the dimension, counted from 0."""
    index = _integer("axis", value, "an int")
    cdef int overflow
    cdef long long number = PyLong_AsLongLongAndOverflow(index, &overflow)
    if overflow or not -ndim <= number < ndim:
        raise AxisError(index, ndim)
    return <int>(number + ndim if number < 0 else number)


cpdef tuple rows_shape(tuple shape, int axis):
    """Shape of the rows: that of the array without its class axis."""
    cdef int dim, n = <int>len(shape)
    cdef tuple rows = PyTuple_New(n - 1)
    for dim in range(n - 1):
        _put(rows, dim, shape[dim if dim < axis else dim + 1])
    return rows


cpdef Py_ssize_t some_classes(str name, tuple shape, int axis) except -1:
    """The number of classes, at least one."""
    cdef Py_ssize_t n_classes = shape[axis]
    if n_classes == 0:
        raise ValueError(f"{name} has shape {shape}: a loss needs at least one class (axis {axis})")
    return n_classes


# Options


cpdef object threads(value, str name="n_threads"):
    """None, or the greatest number of threads."""
    if value is None:
        return None
    try:
        count = _integer(name, value, "")
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be None or an int >= 1, got {value!r}")
    return count


cdef int reduction(value) except -1:
    """MEAN, SUM or UNREDUCED."""
    cdef int number
    for number in range(3):
        if value is REDUCTIONS[number]:
            return number
    if isinstance(value, str) and value in REDUCTIONS:
        return REDUCTIONS.index(value)
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {value!r}")


cpdef object ignore_index(value):
    cdef int overflow
    if value is None:
        return None
    index = _integer("ignore_index", value, "an int or None")
    PyLong_AsLongLongAndOverflow(index, &overflow)
    if overflow:
        raise ValueError(f"ignore_index must fit in 64 bits, got {value!r}")
    return index


cpdef double label_smoothing(value) except -1:
    cdef double alpha
    if not _is_number(value, &alpha) or not 0 <= alpha <= 1:
        raise ValueError(f"label_smoothing must be a number in [0, 1], got {value!r}")
    return alpha


cpdef double scale(value) except -1:
    cdef double number
    if not _is_number(value, &number) or not 0 <= number <= DBL_MAX:
        raise ValueError(f"scale must be a finite number >= 0, got {value!r}")
    return number


cdef bint _is_number(value, double *number) except -1:
    """Whether ``value`` is a real number; then ``number`` is it as a float."""
    if PyFloat_CheckExact(value):
        number[0] = PyFloat_AS_DOUBLE(value)
        return True
    if not (PyLong_Check(value) or isinstance(value, numbers.Real)):
        return False
    try:
        number[0] = float(value)
    except OverflowError:
        number[0] = INFINITY
    return True


cpdef object temperature(value, tuple rows):
    """A float, or a C-contiguous float64 array with one temperature for each of ``rows``."""
    result = entry_temperature(value, rows, "one per row")
    return result if isinstance(result, float) else _in_a_row(result)


cdef cnp.ndarray _in_a_row(cnp.ndarray array):
    """C-contiguous, of one dimension."""
    if cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_IS_C_CONTIGUOUS(array):
        return array
    return cnp.PyArray_Ravel(array, cnp.NPY_CORDER)


cdef object number_as_temperature(value):
    """A float, or None for what is no number."""
    cdef double number
    if not _is_number(value, &number):
        return None
    if not 0 < number <= DBL_MAX:
        raise ValueError(f"temperature must be finite and > 0, got {value!r}")
    return value if type(value) is float else number


cpdef object entry_temperature(value, tuple shape, str what="one per entry"):
    """A float, or a float64 view of shape ``shape``."""
    cdef cnp.ndarray array
    number = number_as_temperature(value)
    if number is not None:
        return number
    array = _real_values("temperature", value, ValueError)
    _all_finite("temperature", array, "> 0")
    return _broadcast("temperature", array, shape, what) if cnp.PyArray_NDIM(array) else (
        float(array[()]))


def _broadcasts(shape, to):
    return len(shape) <= len(to) and all(
        n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False)
    )


cdef cnp.ndarray _broadcast(name, cnp.ndarray array, tuple shape, what):
    if _has_shape(array, shape):
        return array
    if not _broadcasts(shape_of(array), shape):
        raise ValueError(
            f"{name} has shape {shape_of(array)}, expected a number or an array that broadcasts to "
            f"{shape}, {what}"
        )
    return np.broadcast_to(array, shape)


cdef inline bint _is_good(double value, bint positive) noexcept nogil:
    return (value > 0 if positive else value >= 0) and value <= DBL_MAX


cdef int _all_finite(name, cnp.ndarray array, str expected) except -1:
    """Check that float64 numbers are finite and as ``expected``: "> 0" or ">= 0"."""
    cdef bint positive = expected == "> 0", all_good = True
    cdef cnp.ndarray entries = array
    cdef Py_ssize_t i, size = cnp.PyArray_SIZE(array)
    cdef const double *values
    if not cnp.PyArray_IS_C_CONTIGUOUS(array):
        entries = cnp.PyArray_Ravel(array, cnp.NPY_CORDER)
    values = <const double *>cnp.PyArray_DATA(entries)
    for i in range(size):
        all_good &= _is_good(values[i], positive)
    if all_good:
        return 0
    for i in range(size):
        value = values[i]
        if not _is_good(value, positive):
            at = np.unravel_index(i, shape_of(array)) if cnp.PyArray_NDIM(array) else ()
            raise ValueError(f"{_element(name, at)} = {float(value)!r} is not finite and {expected}")


def _element(name, at):
    return f"{name}[{', '.join(map(str, at))}]" if at else name


cdef cnp.ndarray _weights(name, value):
    array = _real_values(name, value)
    _all_finite(name, array, ">= 0")
    return array


cpdef cnp.ndarray class_weight(value, Py_ssize_t n_classes, str name="weight"):
    """None, or a C-contiguous float64 array of one weight a class."""
    if value is None:
        return None
    array = _weights(name, value)
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_DIM(array, 0) != n_classes:
        raise ValueError(
            f"{name} has shape {shape_of(array)}, expected {(n_classes,)}, one per class"
        )
    return _in_a_row(array)


cpdef cnp.ndarray sample_weight(value, tuple rows):
    """None, or a C-contiguous float64 array of one weight a row, in the order of the rows."""
    if value is None:
        return None
    array = _weights("sample_weight", value)
    if not _has_shape(array, rows):
        raise ValueError(
            f"sample_weight has shape {shape_of(array)}, expected {rows}, one per row"
        )
    return _in_a_row(array)


cpdef cnp.ndarray entry_weight(str name, value, tuple shape):
    """None, or a float64 view of shape ``shape``: one weight for each entry."""
    if value is None:
        return None
    return _broadcast(name, _weights(name, value), shape, "one per entry")


cpdef object pos_weight(value, tuple shape):
    """A float, or a float64 view of shape ``shape``."""
    cdef cnp.ndarray array
    if value is None:
        return 1.0
    array = _weights("pos_weight", value)
    return _broadcast("pos_weight", array, shape, "one per entry") if cnp.PyArray_NDIM(array) else (
        float(array[()]))


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class Options:
    """What is the same for all rows of a loss: a weight a class or None, the label that is ignored or
    None, and how much of the target all classes share.
    """

    def __init__(self, weight=None, ignore_index=None, label_smoothing=0.0):
        self.weight = weight
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing


cdef Options options(cnp.ndarray weight, ignore_index, double label_smoothing):
    cdef Options result = Options.__new__(Options)
    result.weight = weight
    result.ignore_index = ignore_index
    result.label_smoothing = label_smoothing
    return result


# Targets


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class Labels:
    """Class indices: C-contiguous int32 or int64 in the order of the rows, ``per_row`` for each, and
    as they came.
    """

    def _replace(self, *, cnp.ndarray codes not None):
        """Other codes."""
        return _labels(codes, self.given, self.per_row)


cdef Labels _labels(cnp.ndarray codes, cnp.ndarray given, Py_ssize_t per_row=1):
    cdef Labels result = Labels.__new__(Labels)
    result.codes = codes
    result.given = given
    result.per_row = per_row
    return result


cpdef object targets(value, tuple rows, tuple shape, ignored, str name="targets"):
    """`Labels` of shape ``rows``, or a `Source` of class probabilities of shape ``shape``.

    ``ignored`` is the caller's ``ignore_index``, checked already.
    """
    array = _class_indices(name, value, rows)
    if _is_integer(array):
        if not _has_shape(array, rows):
            raise ValueError(
                f"{name} are integers of shape {shape_of(array)}, expected class indices of shape "
                f"{rows}, one per row (class probabilities of shape {shape} must be floating)"
            )
        return _labels(_codes(array, ignored), array)
    if _float_code(array) == NO_FLOAT:
        raise TypeError(
            f"{name} have dtype {(<object>array).dtype}, expected an integer dtype (class indices of "
            f"shape {rows}) or a floating one (class probabilities of shape {shape})"
        )
    if not _has_shape(array, shape):
        raise ValueError(
            f"{name} are {(<object>array).dtype} of shape {shape_of(array)}, expected class "
            f"probabilities of shape {shape}, or integers of shape {rows} as class indices"
        )
    if ignored != DEFAULT_IGNORE_INDEX:
        raise ValueError(
            f"ignore_index = {ignored!r} has no meaning for class probabilities: leave it at "
            f"{DEFAULT_IGNORE_INDEX} and give a row sample_weight 0"
        )
    return source(name, array)


cdef cnp.ndarray _class_indices(name, value, tuple rows):
    """``value`` as an array; sequences without an entry, float64 to NumPy, are labels of no rows."""
    array = as_array(name, value)
    if isinstance(value, list | tuple) and cnp.PyArray_SIZE(array) == 0 and _has_shape(array, rows):
        return (<object>array).astype(np.int64)
    return array


def labels(value, tuple rows, ignored, str name="targets"):
    """`Labels` of shape ``rows``: nothing but class indices."""
    array = _class_indices(name, value, rows)
    if not _is_integer(array):
        raise TypeError(
            f"{name} have dtype {(<object>array).dtype}, expected an integer dtype: class indices of "
            f"shape {rows}, one per row"
        )
    if not _has_shape(array, rows):
        raise ValueError(
            f"{name} have shape {shape_of(array)}, expected {rows}, one label per row"
        )
    return _labels(_codes(array, ignored), array)


def nonfinite_row_error(at):
    """The ValueError for a row at index ``at`` that has no loss, under ``nan_policy`` "raise"."""
    at = tuple(map(int, at))
    where = f"row {at[0] if len(at) == 1 else at}" if at else "the row"
    return ValueError(
        f"{where} of logits holds NaN or +inf, or nothing but -inf, or its label's logit is -inf: "
        "nan_policy='omit' leaves such rows out"
    )


def no_rows_error():
    return ValueError(
        "no row is left to fit a temperature to: all are ignored, of weight 0 or omitted"
    )


cpdef Labels indices(value, tuple rows, ignored):
    """Class indices for `selected_log_probs`: `Labels` with codes of int64, one or several a row."""
    cdef Py_ssize_t per_row = 1
    cdef cnp.ndarray array = _class_indices("indices", value, rows), codes
    if not _is_integer(array):
        raise TypeError(f"indices have dtype {(<object>array).dtype}, expected an integer dtype")
    if not _has_shape(array, rows):
        if shape_of(array)[:-1] != rows:
            raise ValueError(
                f"indices have shape {shape_of(array)}, expected {rows} for one class per row, or "
                "that and a last dimension for several"
            )
        per_row = shape_of(array)[-1]
    codes = _codes(array, ignored)
    if cnp.PyArray_ITEMSIZE(codes) != 8:
        codes = cnp.PyArray_Cast(codes, cnp.NPY_INT64)
    return _labels(codes, array, per_row)


cdef cnp.ndarray _codes(cnp.ndarray given, ignored):
    cdef object array = given
    cdef int number = cnp.PyArray_TYPE(given), size = cnp.PyArray_ITEMSIZE(given)
    cdef bint signed = cnp.PyTypeNum_ISSIGNED(number)
    if signed and size in (4, 8) and cnp.PyArray_ISCARRAY_RO(given):
        return _in_a_row(given)
    if not signed and size == 8 and array.size and array.max() > _INT64.max:
        beyond = array > _INT64.max
        array = array.astype(np.int64)
        # Any label out of range that is not ignored; the message quotes the one that came.
        array[beyond] = -1 if ignored != -1 else -2
    dtype = np.int32 if size == 4 and signed else np.int64
    codes = np.ascontiguousarray(array, dtype).reshape(-1)
    return codes if codes.flags.aligned else codes.copy()


def label_error(name, Labels labels not None, row, n_classes, ignored):
    """The IndexError for the first bad label of ``row``."""
    codes = (<object>labels.codes).reshape(-1, labels.per_row)
    bad = (codes[row] < 0) | (codes[row] >= n_classes)
    if ignored is not None:
        bad &= codes[row] != ignored
    given = <object>labels.given
    at = np.unravel_index(row * labels.per_row + int(np.argmax(bad)), given.shape)
    exception = "" if ignored is None else f" and is not ignore_index ({ignored})"
    return IndexError(f"{_element(name, at)} = {given[at]} is not in [0, {n_classes}){exception}")


_OF_LOGITS = {
    "cross_entropy": "softmax_loss",
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
}


def probability_error(function, value, at):
    """The ValueError for the entry of ``probs`` at index ``at``, outside [0, 1]."""
    return ValueError(
        f"{_element('probs', at)} = {float(value)!r} is not in [0, 1]: {function} takes "
        f"probabilities; for logits use {_OF_LOGITS[function]}"
    )


def row_probability_error(function, probs, axis, row):
    """The `probability_error` for the first such entry of a row of a `Source`."""
    at = np.unravel_index(row, rows_shape(probs.array.shape, axis))
    array = probs.array[(*at[:axis], slice(None), *at[axis:])]
    values = Source(array, probs.kind).widened(probs.result_dtype)
    with np.errstate(all="ignore"):
        column = int(np.argmax((values < 0) | (values > 1)))
    return probability_error(function, values[column], (*at[:axis], column, *at[axis:]))


def binary_error(x, t, bad_value, bad_target):
    """The ValueError for the first entry of the binary functions outside [0, 1], by the numbers of
    the first probability and of the first target there, or -1.
    """
    if 0 <= bad_value and not 0 <= bad_target < bad_value:
        at = np.unravel_index(bad_value, x.array.shape)
        return probability_error("binary_cross_entropy", x.value(at), at)
    at = np.unravel_index(bad_target, x.array.shape)
    return _target_error(t.value(at), at)


def _target_error(value, at):
    return ValueError(
        f"{_element('targets', at)} = {value} is not in [0, 1]: a target is the probability of "
        "the positive class"
    )


cpdef Source binary_targets(value, tuple shape):
    """Targets of the binary functions as a `Source`; those outside [0, 1] are found by the kernel."""
    array = as_array("targets", value)
    cdef int code = _float_code(array)
    if code == NO_FLOAT and not _is_integer_or_bool(array):
        raise TypeError(
            f"targets have dtype {(<object>array).dtype}, expected probabilities of a floating dtype, "
            "or 0 and 1 of an integer dtype or bool"
        )
    if not _has_shape(array, shape):
        raise ValueError(
            f"targets have shape {shape_of(array)}, expected that of the input, {shape}"
        )
    if code == NO_FLOAT:
        code = SF_BOOL
        if not cnp.PyTypeNum_ISBOOL(cnp.PyArray_TYPE(array)):
            code = _INTEGERS[cnp.PyArray_ITEMSIZE(array)]
    return source_of(_as_stored(array, code), code)


# Arrays in blocks


def dask_logits(value, array_type):
    """Check that these are logits in blocks of known shapes."""
    if not isinstance(value, array_type):
        raise TypeError(
            f"logits are of type {_type_name(value)}, expected a dask.array.Array: for others "
            "there are the functions of softmax_fast itself"
        )
    if value.ndim == 0:
        raise ValueError("logits is 0-dimensional, expected an array of at least one dimension")
    known_chunks("logits", value)


def known_chunks(name, array):
    """Check that the blocks of a Dask array are of known shapes."""
    if any(math.isnan(size) for sizes in array.chunks for size in sizes):
        raise ValueError(
            f"{name} have chunks {array.chunks} of unknown size: call {name}.compute_chunk_sizes()"
        )


def whole_rows(shape, chunks, axis):
    """Check that a block holds whole rows, of consecutive numbers and after those of the block
    before it.
    """
    some_classes("logits", shape, axis)
    whole = set()
    if len(chunks[axis]) > 1:
        whole.add(axis)
    rows = [dim for dim in range(len(shape)) if dim != axis]
    for i, dim in enumerate(rows):
        if max(chunks[dim], default=1) > 1:
            whole.update(later for later in rows[i + 1 :] if len(chunks[later]) > 1)
    if whole:
        wanted = ", ".join(f"{dim}: -1" for dim in sorted(whole))
        raise ValueError(
            f"logits have chunks {chunks}, expected blocks of whole rows (axis {axis}), one block "
            f"after the other: call logits.rechunk({{{wanted}}})"
        )


def one_per_row(name, shape, rows):
    if shape != rows:
        raise ValueError(f"{name} has shape {shape}, expected {rows}, one per row")


# Evaluations


def one_temperature(value):
    """A float: the temperature of an evaluation is the same for all its rows."""
    array = None if isinstance(value, numbers.Real) else as_array("temperature", value)
    if array is not None and array.ndim:
        raise ValueError(
            f"temperature has shape {array.shape}, expected one number: it is the same for all rows"
        )
    return temperature(value, ())


def top_k(value):
    """A tuple of ints >= 1, ascending, each once."""
    expected = "an int >= 1 or some of them"
    try:
        several = list(value)
    except TypeError:
        several = [value]
    several = [_integer("top_k", k, expected) for k in several]
    if not several or min(several) < 1:
        raise ValueError(f"top_k must be {expected}, got {value!r}")
    return tuple(sorted(set(several)))


def n_bins(value):
    count = _integer("n_bins", value, "an int >= 1")
    if not 1 <= count <= 1_000_000:
        raise ValueError(f"n_bins must be an int from 1 to 1000000, got {value!r}")
    return count


def uniform_bins(count, available):
    """A number of equal bins that are whole ones of those an evaluation has counted."""
    if available % count:
        raise ValueError(
            f"n_bins = {count} does not divide the {available} bins of this evaluation: give "
            f"n_bins={count} to evaluate or Evaluator, or take strategy='quantile'"
        )
    return count


def strategy(value):
    if isinstance(value, str) and value in STRATEGIES:
        return value
    raise ValueError(f"strategy must be 'uniform' or 'quantile', got {value!r}")


def nan_policy(value):
    if isinstance(value, str) and value in NAN_POLICIES:
        return value
    raise ValueError(f"nan_policy must be 'propagate', 'omit' or 'raise', got {value!r}")


def quantiles(value):
    """A tuple of floats in [0, 1], ascending, each once."""
    array = _real_values("quantiles", value)
    if array.ndim > 1 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"quantiles must be numbers from 0 to 1, got {value!r}")
    return tuple(sorted(set(array.ravel().tolist())))


def flag(name, value):
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def same_classes(shape, axis, n_classes, before):
    """The number of classes, which later rows share with those ``before``, a number or None."""
    if before is not None and n_classes != before:
        raise ValueError(
            f"logits have shape {shape}: {n_classes} classes (axis {axis}), but the rows before "
            f"had {before}"
        )
    return n_classes


def same_columns(has_targets, before):
    """Whether there are targets, which all rows of a comparison have or none; before: of those before."""
    if before is not None and has_targets != before:
        raise ValueError(
            f"targets are {'given' if has_targets else 'missing'}, but the rows before had "
            f"{'some' if before else 'none'}"
        )


def mergeable(other, kind, options, n_classes):
    """Check that ``other`` is of this kind and has the same options and, where both know, classes."""
    if not isinstance(other, kind):
        raise TypeError(f"other must be an {kind.__name__}, got {_type_name(other)}")
    own = f"this {kind.__name__.lower().strip('_')}"
    for name, value in options._asdict().items():
        others = getattr(other._options, name)
        if others != value:
            raise ValueError(f"other has {name}={others!r}, but {own} {name}={value!r}")
    if None not in (n_classes, other.n_classes) and n_classes != other.n_classes:
        raise ValueError(
            f"other has rows of {other.n_classes} classes, but {own} of {n_classes}"
        )


def no_probabilities_error(shape, axis, row):
    """The ValueError of nan_policy="raise" for a row of logits without probabilities."""
    at = [str(i) for i in np.unravel_index(row, rows_shape(shape, axis))]
    at.insert(axis, ":")
    return ValueError(
        f"logits[{', '.join(at)}] hold NaN or inf, or nothing but -inf (nan_policy='raise')"
    )


# The fully connected layer


class Layer(NamedTuple):
    """features (N, D), weights (C, D) and bias (C,) or None, all of one result dtype."""

    features: Source
    weights: Source
    bias: np.ndarray | None

    @property
    def dtype(self):
        return self.features.result_dtype


def layer(features, weights, bias):
    layer = Layer(_matrix("features", features), _matrix("weights", weights), None)
    _same_dtype("weights", weights, layer.weights, features, layer)
    (_, n_features), (n_classes, width) = layer.features.array.shape, layer.weights.array.shape
    if width != n_features:
        raise ValueError(
            f"weights have shape {(n_classes, width)}, expected (C, {n_features}) for features of "
            f"shape {layer.features.array.shape}"
        )
    if n_classes == 0:
        raise ValueError(f"weights have shape {(0, width)}: a loss needs at least one class")
    if bias is None:
        return layer
    offsets = source("bias", bias)
    _same_dtype("bias", bias, offsets, features, layer)
    if shape_of(offsets.array) != (n_classes,):
        raise ValueError(f"bias has shape {shape_of(offsets.array)}, expected {(n_classes,)}")
    return layer._replace(bias=offsets.widened(layer.dtype))


GRADIENTS = ("features", "weights", "bias")


def wanted(value):
    """Which of `GRADIENTS` are asked for."""
    expected = f"one of {', '.join(map(repr, GRADIENTS))} or some of them"
    try:
        names = (value,) if isinstance(value, str) else tuple(value)
    except TypeError:
        raise TypeError(f"wrt must be {expected}, got {value!r}") from None
    if not names or not all(isinstance(name, str) and name in GRADIENTS for name in names):
        raise ValueError(f"wrt must be {expected}, got {value!r}")
    return frozenset(names)


MOST_MULTIPLES = 2**20


def margin_multiple(value):
    expected = f"an int from 1 to {MOST_MULTIPLES}"
    m = _integer("m", value, expected)
    if not 1 <= m <= MOST_MULTIPLES:
        raise ValueError(f"m must be {expected}, got {value!r}")
    return m


def margin_number(name, value, most=DBL_MAX):
    cdef double number
    if not _is_number(value, &number):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= number <= most:
        limits = "finite and >= 0" if most == DBL_MAX else f"from 0 to {most!r}"
        raise ValueError(f"{name} must be {limits}, got {value!r}")
    return number


def margin_scale(value):
    cdef double number
    if not _is_number(value, &number):
        raise TypeError(f"scale must be a number, got {value!r}")
    if not 0 < number <= DBL_MAX:
        raise ValueError(f"scale must be finite and > 0, got {value!r}")
    return number


def margin(value, kinds, bias, has_labels):
    """None, or one of the ``kinds``, which is for layers without a bias and with labels."""
    if value is None:
        return None
    if not isinstance(value, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"margin must be None or one of {names}, got {value!r}")
    if bias is not None:
        raise ValueError("bias must be None with a margin, which is one between directions")
    if not has_labels:
        raise ValueError(
            "targets are class probabilities, but a margin is that of a label: expected class "
            "indices, or margin=None"
        )
    return value


def _matrix(name, value):
    result = source(name, value)
    if result.array.ndim != 2:
        expected = "(N, D)" if name == "features" else "(C, D)"
        raise ValueError(
            f"{name} have shape {shape_of(result.array)}, expected two dimensions {expected}"
        )
    return result


def _same_dtype(name, given, converted, features, layer):
    if converted.result_dtype != layer.dtype:
        raise TypeError(
            f"{name} of dtype {np.asarray(given).dtype} would be computed in "
            f"{converted.result_dtype}, but features of dtype {np.asarray(features).dtype} in "
            f"{layer.dtype}: both must be floats of one dtype (float16 and bfloat16 count as "
            "float32, integers as float64)"
        )


# Outputs


cpdef cnp.ndarray output(str name, out, tuple shape, dtype):
    """Check an output; return it as a plain ndarray, or None when ``out`` is None.

    That it touches no input is for `apart` to say.
    """
    cdef cnp.ndarray result
    if out is None:
        return None
    if not cnp.PyArray_CheckExact(out) and (not cnp.PyArray_Check(out) or _is_masked(out)):
        raise TypeError(f"{name} must be a numpy.ndarray or None, got {type(out).__name__}")
    result = out
    if not _has_shape(result, shape):
        raise ValueError(f"{name} has shape {out.shape}, expected {shape}")
    if cnp.PyArray_TYPE(result) != (<cnp.dtype>dtype).type_num or not cnp.PyArray_ISNOTSWAPPED(result):
        raise TypeError(
            f"{name} has dtype {out.dtype.newbyteorder('=')}"
            f"{'' if out.dtype.isnative else ' in swapped byte order'}, expected native {dtype}"
        )
    if not cnp.PyArray_ISWRITEABLE(result):
        raise ValueError(f"{name} is read-only")
    if _overlaps_itself(result):
        raise ValueError(
            f"{name} has strides {out.strides} for shape {shape}: its elements must not overlap"
        )
    return result if cnp.PyArray_CheckExact(out) else out.view(np.ndarray)


cpdef int apart(str name, cnp.ndarray out, str other, array, cnp.ndarray in_place=None) except -1:
    """Check that an output, or None, shares no memory with an array that is read. What is no array
    is passed over. ``out`` may be exactly the array ``in_place``: same memory, same layout.
    """
    if out is None or not cnp.PyArray_Check(array) or not _overlap(out, array):
        return 0
    if array is not in_place or not _same_layout(out, array):
        raise ValueError(_overlap_text(name, other, array is in_place))
    return 0


def _overlap_text(name, other, may_be_same):
    exception = " unless it is the same array, with the same layout" if may_be_same else ""
    return f"{name} shares memory with {other}: it must not{exception}"


cdef bint _same_layout(cnp.ndarray a, cnp.ndarray b) except -1:
    cdef int dim
    if a is b:
        return True
    if (
        cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b)
        or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b)
        or (<object>a).dtype != (<object>b).dtype
    ):
        return False
    for dim in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, dim) != cnp.PyArray_DIM(b, dim) or (
            cnp.PyArray_STRIDE(a, dim) != cnp.PyArray_STRIDE(b, dim) and cnp.PyArray_DIM(a, dim) > 1
        ):
            return False
    return True


cdef bint _reach(cnp.ndarray array, size_t *first, size_t *end) noexcept:
    """The addresses an array is within; False for none."""
    cdef int dim
    cdef Py_ssize_t along
    first[0] = <size_t>cnp.PyArray_DATA(array)
    end[0] = first[0] + cnp.PyArray_ITEMSIZE(array)
    for dim in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, dim) == 0:
            return False
        along = (cnp.PyArray_DIM(array, dim) - 1) * cnp.PyArray_STRIDE(array, dim)
        if along > 0:
            end[0] += along
        else:
            first[0] += along
    return True


cdef bint may_share_memory(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether what two arrays reach over meets."""
    cdef size_t first_a, end_a, first_b, end_b
    return (_reach(a, &first_a, &end_a) and _reach(b, &first_b, &end_b)
            and first_a < end_b and first_b < end_a)


cdef bint _overlap(cnp.ndarray a, cnp.ndarray b) except -1:
    if not may_share_memory(a, b):
        return False
    if a is b:
        return True
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)
    except TooHardError:
        return True


cdef bint _overlaps_itself(cnp.ndarray array) except -1:
    """Whether two indices may address one element; False for every view made by slicing,
    transposing, reshaping or taking a diagonal.
    """
    cdef Py_ssize_t reach
    if cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_SIZE(array) == 0:
        return False
    reach = cnp.PyArray_ITEMSIZE(array)
    given = <object>array
    for stride, size in sorted(
        (abs(s), n) for s, n in zip(given.strides, given.shape, strict=True)
    ):
        if size == 1:
            continue
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False


def show_config_mode(value):
    if value in ("stdout", "dicts"):
        return value
    raise ValueError(f"mode must be 'stdout' or 'dicts', got {value!r}")
