cimport numpy as cnp
from libc.stdint cimport int64_t

from softmax_fast._layout cimport Source


cdef enum:
    MEAN
    SUM
    UNREDUCED


cdef class Options:
    cdef readonly cnp.ndarray weight
    cdef readonly object ignore_index
    cdef readonly double label_smoothing


cdef class Labels:
    cdef readonly cnp.ndarray codes, given
    cdef readonly Py_ssize_t per_row


cdef tuple shape_of(cnp.ndarray array)

cpdef Source logits(str name, value)
cpdef Source base_logits(value, tuple shape)
cpdef int axis(value, int ndim) except -1
cpdef tuple rows_shape(tuple shape, int axis)
cpdef Py_ssize_t some_classes(str name, tuple shape, int axis) except -1

cpdef cnp.ndarray as_array(name, value)
cpdef Source source(str name, value)
cpdef object threads(value, str name=*)
cdef int reduction(value) except -1
cpdef object ignore_index(value)
cpdef double label_smoothing(value) except -1
cpdef double scale(value) except -1
cdef object number_as_temperature(value)
cpdef object temperature(value, tuple rows)
cpdef object entry_temperature(value, tuple shape, str what=*)
cpdef cnp.ndarray class_weight(value, Py_ssize_t n_classes, str name=*)
cpdef cnp.ndarray sample_weight(value, tuple rows)
cpdef cnp.ndarray entry_weight(str name, value, tuple shape)
cpdef object pos_weight(value, tuple shape)

cdef Options options(cnp.ndarray weight, ignore_index, double label_smoothing)
cpdef object targets(value, tuple rows, tuple shape, ignored, str name=*)
cpdef Labels indices(value, tuple rows, ignored)
cpdef Source binary_targets(value, tuple shape)

cpdef cnp.ndarray output(str name, out, tuple shape, dtype)
cpdef int apart(str name, cnp.ndarray out, str other, array, cnp.ndarray in_place=*) except -1
cdef bint may_share_memory(cnp.ndarray a, cnp.ndarray b) noexcept
