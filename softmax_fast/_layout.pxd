cimport numpy as cnp

from softmax_fast._kernels cimport sf_input, sf_output, sf_targets


cdef class Source:
    cdef readonly cnp.ndarray array
    cdef int code

    cdef int result_type(self) noexcept
    cdef cnp.dtype result(self)


cdef Source source_of(cnp.ndarray array, int code)


cdef class Block:
    cdef Py_ssize_t first_row, n_rows, inner, n_classes, per_row, result_item
    cdef sf_input x
    cdef sf_output out
    cdef double one_temperature, one_pos_weight
    cdef const double *temperature
    cdef sf_targets targets
    cdef object alive, others

    cdef Block rows_from(self, Py_ssize_t first, Py_ssize_t n_rows)


cdef Block first_block(Source x, int axis, Py_ssize_t cut, cnp.ndarray out, temperature, targets,
                       cnp.ndarray sample_weight, cnp.ndarray row_results, Py_ssize_t per_row)

cdef Block first_entries(Source x, Source targets, Py_ssize_t cut, temperature,
                         cnp.ndarray sample_weight, pos_weight, cnp.ndarray losses)

cdef Block next_block(Block block)
