# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""How an array of any shape, axis and strides becomes the rows that ``_core`` reads.

C is the class axis; the other dimensions are coalesced to two, A and B: a row's number is ``a * B + b``,
its place in C order over the other dimensions. Where that can be nothing is copied, and no view is
made. Elsewhere (three or more dimensions that do not coalesce) what is not contiguous goes through
contiguous buffers of about `BLOCK_ELEMENTS` entries, or of ``cut`` rows, at whose multiples alone rows
are cut: with that of ``_core.cut``, sums over rows do not depend on the layout.
"""

cimport cython
cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t

from softmax_fast._kernels cimport SF_BF16, SF_F16, SF_F32, SF_F64, SF_I8, sf_input, sf_output

import math

import numpy as np

cnp.import_array()

# 1 MiB of float64: a buffer and its result stay in a level-2 cache.
BLOCK_ELEMENTS = 1 << 17

# Views of fewer entries are not worth a call each.
_SLAB_ELEMENTS = 1 << 14

cdef dict _CODES = {"f32": SF_F32, "f64": SF_F64, "f16": SF_F16, "bf16": SF_BF16}
cdef cnp.dtype _FLOAT32 = np.dtype(np.float32)
cdef cnp.dtype _FLOAT64 = np.dtype(np.float64)


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class Source:
    """An input in the form the kernels read: native, aligned, half-width floats as their bits.

    ``kind`` is "f16", "bf16", "f32" or "f64", and "integers" for targets of binary losses.
    """

    def __init__(self, cnp.ndarray array not None, str kind not None):
        self.array = array
        self.code = _CODES[kind]

    @property
    def kind(self):
        for kind, code in _CODES.items():
            if code == self.code:
                return kind
        return "integers"

    cdef int result_type(self) noexcept:
        return cnp.NPY_FLOAT64 if self.code == SF_F64 else cnp.NPY_FLOAT32

    cdef cnp.dtype result(self):
        return _FLOAT64 if self.result_type() == cnp.NPY_FLOAT64 else _FLOAT32

    @property
    def result_dtype(self):
        return self.result()

    @property
    def is_half(self):
        return self.code in (SF_F16, SF_BF16)

    def _replace(self, *, cnp.ndarray array not None):
        """Another array of the same kind."""
        return source_of(array, self.code)

    def widened(self, dtype):
        """The values as a contiguous array of ``dtype``; a copy unless they already are one."""
        if self.array.dtype == dtype:
            return np.ascontiguousarray(self.array)
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(_values(self.array, self.code), dtype)

    def value(self, index):
        """One entry, as a Python number."""
        if self.code >= SF_I8:
            return self.array[index].item()
        return float(self._replace(array=np.asarray(self.array[index])).widened(self.result_dtype)[0])


cdef Source source_of(cnp.ndarray array, int code):
    cdef Source source = Source.__new__(Source)
    source.array = array
    source.code = code
    return source


cdef object _values(object array, int code):
    if code == SF_F16:
        return array.view(np.float16)
    if code == SF_BF16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


# ---- blocks of rows --------------------------------------------------------------------------------


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class Block:
    """Some consecutive rows, everything cut: what one call of ``_core`` works on.

    Addresses and strides, where the first row of the block begins: who asks for blocks keeps the
    arrays alive, but for the buffers, which ``alive`` holds. ``temperature`` is NULL where one is for
    all rows. What belongs to targets lies where the kernels expect it. ``others`` yields the blocks
    that follow, or is None.
    """

    @property
    def rows(self):
        return slice(self.first_row, self.first_row + self.n_rows)

    cdef Block rows_from(self, Py_ssize_t first, Py_ssize_t n_rows):
        """The block of some of these rows, but for x, out and class probabilities."""
        cdef Block part = Block.__new__(Block)
        part.first_row = self.first_row + first
        part.n_rows = n_rows
        part.n_classes = self.n_classes
        part.per_row = self.per_row
        part.result_item = self.result_item
        part.x.kind = self.x.kind
        part.one_temperature = self.one_temperature
        part.alive = self.alive
        part.targets = self.targets
        if self.temperature is not NULL:
            part.temperature = self.temperature + first
        if self.targets.labels32 is not NULL:
            part.targets.labels32 += first * self.per_row
        if self.targets.labels64 is not NULL:
            part.targets.labels64 += first * self.per_row
        if self.targets.sample_weight is not NULL:
            part.targets.sample_weight += first
        if self.targets.row_losses is not NULL:
            part.targets.row_losses = (
                <char *>self.targets.row_losses + first * self.result_item * self.per_row)
        return part


cdef struct strided:
    const cnp.npy_intp *strides  # of bytes
    int lacks                    # this dimension, or none
    int item                     # its size, as a power of 2
    Py_ssize_t[2] step           # of the dimensions that are left


cdef inline strided _strided(cnp.ndarray array, int lacks) noexcept:
    cdef strided result
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(array)
    result.strides = cnp.PyArray_STRIDES(array)
    result.lacks = lacks
    result.item = 3 if item == 8 else 2 if item == 4 else 1
    result.step[0] = result.step[1] = 0
    return result


cdef inline Py_ssize_t _stride(const strided *array, int dim) noexcept:
    if dim == array.lacks:
        return 0
    return array.strides[dim - 1 if dim > array.lacks else dim]


cdef enum:
    NO_DIMENSION = 1 << 20


cdef bint _lay(Block block, Source x, Source probabilities, cnp.ndarray out, int axis) noexcept:
    """Say where the rows of a block lie; False where more than two dimensions are left after all that
    coalesce have. A dimension joins the one before it when it does so in every array. ``out`` may
    lack the axis of the classes.
    """
    cdef const cnp.npy_intp *shape = cnp.PyArray_DIMS(x.array)
    cdef int n_dims = cnp.PyArray_NDIM(x.array), n_left = 0, n = 1, dim, k
    cdef Py_ssize_t size
    cdef Py_ssize_t sizes[2]
    cdef strided arrays[3]
    cdef bint joins
    arrays[0] = _strided(x.array, NO_DIMENSION)
    if probabilities is not None:
        arrays[n] = _strided(probabilities.array, NO_DIMENSION)
        n += 1
    if out is not None:
        if not cnp.PyArray_ISALIGNED(out):
            return False
        arrays[n] = _strided(out, axis if cnp.PyArray_NDIM(out) < n_dims else NO_DIMENSION)
        n += 1
    sizes[0] = sizes[1] = 1
    for dim in range(n_dims):
        size = shape[dim]
        if dim == axis or size == 1:
            continue
        joins = n_left > 0
        if joins:
            for k in range(n):
                joins &= arrays[k].step[n_left - 1] == size * _stride(&arrays[k], dim)
        if joins:
            sizes[n_left - 1] *= size
        elif n_left == 2:
            return False
        else:
            sizes[n_left] = size
            n_left += 1
        for k in range(n):
            arrays[k].step[n_left - 1] = _stride(&arrays[k], dim)
    block.n_rows = sizes[0] * sizes[1]
    block.inner = sizes[n_left - 1] if n_left else 1
    block.n_classes = shape[axis]
    for k in range(n):
        if n_left == 0:
            arrays[k].step[0] = block.n_classes << arrays[k].item
        if n_left < 2:
            arrays[k].step[1] = arrays[k].step[0]
    _put_input(&block.x, x, &arrays[0], axis, block.n_classes)
    if probabilities is not None:
        _put_input(&block.targets.probabilities, probabilities, &arrays[1], axis, block.n_classes)
    if out is not None:
        k = n - 1
        block.out.data = cnp.PyArray_DATA(out)
        block.out.outer_stride = arrays[k].step[0] >> arrays[k].item
        block.out.row_stride = arrays[k].step[1] >> arrays[k].item
        block.out.class_stride = 1
        if block.n_classes > 1:
            block.out.class_stride = _stride(&arrays[k], axis) >> arrays[k].item
    return True


cdef inline void _put_input(sf_input *where, Source source, const strided *rows, int axis,
                            Py_ssize_t n_classes) noexcept:
    where.data = cnp.PyArray_DATA(source.array)
    where.outer_stride = rows.step[0] >> rows.item
    where.row_stride = rows.step[1] >> rows.item
    where.class_stride = _stride(rows, axis) >> rows.item if n_classes > 1 else 1
    where.kind = source.code


def row_blocks(
    Source x not None,
    int axis,
    Py_ssize_t cut=1,
    cnp.ndarray out=None,
    temperature=1.0,
    targets=None,
    cnp.ndarray sample_weight=None,
    cnp.ndarray row_results=None,
):
    """Yield the blocks of `first_block`, which keep their arrays alive."""
    block = first_block(x, axis, cut, out, temperature, targets, sample_weight, row_results, 1)
    while block is not None:
        block.alive = (block.alive, x, out, temperature, targets, sample_weight, row_results)
        yield block
        block = next_block(block)


cdef Block next_block(Block block):
    """The block that follows, or None. What was written to ``block`` has reached the arrays then."""
    return None if block.others is None else _next_of(block.others)


cdef Block _next_of(blocks):
    """The next block of a generator, which must not hold it, with the others."""
    cdef Block block = next(blocks, None)
    if block is not None:
        block.others = blocks
    return block


cdef Block first_block(Source x, int axis, Py_ssize_t cut, cnp.ndarray out, temperature, targets,
                       cnp.ndarray sample_weight, cnp.ndarray row_results, Py_ssize_t per_row):
    """The rows of a non-empty ``x``, to be gone through once: all of them, or the first `Block`.

    Blocks begin at multiples of ``cut`` rows. ``out`` has the shape of ``x``, or that of the rows;
    ``targets`` are a `Source` of the shape of ``x``, or have an entry a row, int32 or int64. All else
    has an entry a row too, or is one for all; arrays of an entry a row are C-contiguous. Of
    ``targets`` and ``row_results`` there may be several, ``per_row``.
    """
    cdef Block block = Block.__new__(Block)
    cdef Source probabilities = targets if type(targets) is Source else None
    block.x.kind = x.code
    block.per_row = per_row
    _give_temperature(block, temperature)
    if probabilities is None and targets is not None:
        if cnp.PyArray_ITEMSIZE(targets) == 4:
            block.targets.labels32 = <const int32_t *>cnp.PyArray_DATA(targets)
        else:
            block.targets.labels64 = <const int64_t *>cnp.PyArray_DATA(targets)
    if sample_weight is not None:
        block.targets.sample_weight = <const double *>cnp.PyArray_DATA(sample_weight)
    if row_results is not None:
        block.targets.row_losses = cnp.PyArray_DATA(row_results)
        block.result_item = cnp.PyArray_ITEMSIZE(row_results)
    if _lay(block, x, probabilities, out, axis):
        return block
    return _next_of(_row_parts(block, x, probabilities, out, axis, cut))


cdef inline int _give_temperature(Block block, temperature) except -1:
    if isinstance(temperature, float):
        block.one_temperature = temperature
    else:
        block.temperature = <const double *>cnp.PyArray_DATA(temperature)
    return 0


def _row_parts(Block block, Source x, Source probabilities, out, int axis, Py_ssize_t cut):
    reads = [axis_last(x.array, axis)]
    if probabilities is not None:
        reads.append(axis_last(probabilities.array, axis))
    writes = []
    if out is not None:
        writes.append(axis_last(out if out.ndim == x.array.ndim else np.expand_dims(out, axis), axis))
    for rows, views in cut_rows(reads, writes, cut):
        yield _row_part(block, rows, x, probabilities, views, bool(writes))


cdef Block _row_part(Block block, rows, Source x, Source probabilities, list views, bint has_out):
    cdef Block part = block.rows_from(rows.start, rows.stop - rows.start)
    _lay(
        part,
        source_of(views[0], x.code),
        None if probabilities is None else source_of(views[1], probabilities.code),
        views[-1] if has_out else None,
        2,
    )
    part.alive = views
    return part


# ---- blocks of entries ----------------------------------------------------------------------------


cdef Block first_entries(Source x, Source targets, Py_ssize_t cut, temperature,
                         cnp.ndarray sample_weight, pos_weight, cnp.ndarray losses):
    """The entries of a non-empty ``x`` as rows of one class, as `first_block`.

    ``targets`` and, where they are arrays, the others have its shape; temperature and pos_weight may
    be numbers.
    """
    if _is_flat(x.array) and _is_flat(targets.array) and _is_flat(temperature) and (
            _is_flat(sample_weight) and _is_flat(pos_weight) and _is_flat(losses)):
        return _entries(0, x, targets, temperature, sample_weight, pos_weight, losses)
    return _next_of(_entry_parts(x, targets, cut, temperature, sample_weight, pos_weight, losses))


cdef inline bint _is_flat(value) noexcept:
    return not cnp.PyArray_Check(value) or (
        cnp.PyArray_IS_C_CONTIGUOUS(value) and cnp.PyArray_ISALIGNED(value))


cdef Block _entries(Py_ssize_t first, Source x, Source targets, temperature,
                    cnp.ndarray sample_weight, pos_weight, cnp.ndarray losses):
    """Contiguous entries."""
    cdef Block block = Block.__new__(Block)
    cdef sf_input where
    block.first_row = first
    block.n_rows = block.inner = cnp.PyArray_SIZE(x.array)
    block.n_classes = block.per_row = 1
    where.outer_stride = where.row_stride = where.class_stride = 1
    where.data = cnp.PyArray_DATA(x.array)
    where.kind = x.code
    block.x = where
    where.data = cnp.PyArray_DATA(targets.array)
    where.kind = targets.code
    block.targets.probabilities = where
    _give_temperature(block, temperature)
    if sample_weight is not None:
        block.targets.sample_weight = <const double *>cnp.PyArray_DATA(sample_weight)
    if isinstance(pos_weight, float):
        block.one_pos_weight = pos_weight
    else:
        block.targets.pos_weight = <const double *>cnp.PyArray_DATA(pos_weight)
        block.targets.pos_weight_step = 1
    if losses is not None:
        block.out.data = cnp.PyArray_DATA(losses)
        block.out.outer_stride = block.out.row_stride = block.out.class_stride = 1
    block.alive = targets
    return block


def _entry_parts(Source x, Source targets, Py_ssize_t cut, temperature, sample_weight, pos_weight,
                 losses):
    numbers = (temperature, sample_weight, pos_weight)
    arrays = [x.array, targets.array, *(a for a in numbers if isinstance(a, np.ndarray))]
    for rows, views in cut_rows(
        [a.squeeze()[..., None] for a in arrays],  # there may be as many dimensions as arrays can have
        [] if losses is None else [losses.squeeze()[..., None]],
        cut,
        only_contiguous=True,
    ):
        parts = iter(views)
        some = source_of(next(parts), x.code)
        some_targets = source_of(next(parts), targets.code)
        t, v, q = (next(parts) if isinstance(a, np.ndarray) else a for a in numbers)
        yield _entries(rows.start, some, some_targets, t, v, q, next(parts, None))


# ---- blocks of blocks -----------------------------------------------------------------------------


def split(Block block, Py_ssize_t most):
    """Yield the rows of a block as blocks of at most about ``most`` rows each: of what is read, and what
    there is for each row.
    """
    cdef Py_ssize_t inner = block.inner, outer = block.n_rows // block.inner
    cdef Py_ssize_t a, b, step, wide = inner, high = 1
    cdef Block part
    if block.n_rows <= most:
        yield block
        return
    # Some rows of one outer step, or some whole steps.
    if inner >= most:
        wide = most
    else:
        high = most // inner
    for a in range(0, outer, high):
        for b in range(0, inner, wide):
            step = min(wide, inner - b)
            part = block.rows_from(a * inner + b, min(high, outer - a) * step)
            part.inner = step
            part.x = _moved(&block.x, a, b)
            if block.targets.probabilities.data is not NULL:
                part.targets.probabilities = _moved(&block.targets.probabilities, a, b)
            yield part


cdef sf_input _moved(const sf_input *whole, Py_ssize_t outer, Py_ssize_t row) noexcept:
    cdef sf_input part = whole[0]
    cdef Py_ssize_t item = 8 if part.kind == SF_F64 else 4 if part.kind == SF_F32 else 2
    part.data = <const char *>part.data + item * (outer * part.outer_stride + row * part.row_stride)
    return part


# ---- cuts ------------------------------------------------------------------------------------------


def of_rows(values, rows):
    """What some rows have of ``values``: one a row, or one (or None) for all."""
    return values[rows] if isinstance(values, np.ndarray) else values


def axis_last(array, axis):
    """View of ``array`` with dimension ``axis`` last and the others in their order."""
    last = array.ndim - 1
    if axis == last:
        return array
    return array.transpose(*range(axis), *range(axis + 1, last + 1), axis)


def cut_rows(reads, writes, cut, *, only_contiguous=False, in_parts=False):
    """Yield (slice of row numbers, views (A, B, C) of ``reads`` and ``writes`` in their order).

    The arrays are not empty, their last dimension is that of the classes, and those that are read
    are aligned. With ``only_contiguous`` all views are contiguous, and A = 1; with ``in_parts`` they
    are no larger than a buffer would be.
    """
    arrays = [*reads, *writes]
    outer, n_classes = arrays[0].shape[:-1], arrays[0].shape[-1]
    n_rows = math.prod(outer)
    flat = [_flat(a) for a in arrays]
    if not in_parts and all(f is not None for f in flat):
        yield slice(0, n_rows), [f[None] for f in flat]
        return
    lead = None
    if not only_contiguous and all(w.flags.aligned for w in writes):
        lead = _leading(arrays, cut)
    if lead is not None:
        step = math.prod(outer[lead:])
        for i, index in enumerate(np.ndindex(*outer[:lead])):
            yield slice(i * step, (i + 1) * step), _coalesced([a[index] for a in arrays])
        return
    to_fill = [i for i in range(len(reads)) if flat[i] is None]
    to_empty = [i for i in range(len(reads), len(arrays)) if flat[i] is None]
    step = max(cut, BLOCK_ELEMENTS // n_classes // cut * cut)
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        parts = [
            np.empty((rows.stop - start, a.shape[-1]), a.dtype) if f is None else f[rows]
            for a, f in zip(arrays, flat, strict=True)
        ]
        for i in to_fill:
            for piece, place in _pieces(arrays[i], rows):
                parts[i][place].reshape(piece.shape)[...] = piece
        yield rows, [part[None] for part in parts]
        for i in to_empty:
            for piece, place in _pieces(arrays[i], rows):
                piece[...] = parts[i][place].reshape(piece.shape)


def _flat(array):
    """View of all rows as (rows, classes), or None where they are not contiguous."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array.reshape(-1, array.shape[-1])
    return None


def _pieces(array, rows):
    """Yield (view of some rows of ``array``, slice of their places within ``rows``)."""
    place = 0
    for index in rectangles(array.shape[:-1], rows.start, rows.stop):
        part = array[index]
        n_rows = math.prod(part.shape[:-1])
        yield part, slice(place, place + n_rows)
        place += n_rows


def rectangles(outer, start, stop):
    """Yield indices into dimensions ``outer`` that in turn cover the numbers [start, stop)."""
    if not outer:
        if start < stop:
            yield ()
        return
    inner = math.prod(outer[1:])
    while start < stop:
        lead, within = divmod(start, inner)
        whole = (stop - start) // inner
        if within or not whole:
            end = min(stop, (lead + 1) * inner)
            for index in rectangles(outer[1:], within, within + end - start):
                yield lead, *index
        else:
            end = start + whole * inner
            yield (slice(lead, lead + whole),)
        start = end


def _leading(arrays, cut):
    """How many dimensions to go through one by one, so that the others are (A, B, C) views of whole
    cuts of rows; None where there are no such views, or too small ones.
    """
    *outer, n_classes = arrays[0].shape
    lead = 0
    while _coalesced([a[(0,) * lead] for a in arrays]) is None:
        lead += 1
    n_rows = math.prod(outer[lead:])
    if lead and (n_rows % cut or n_rows * n_classes < _SLAB_ELEMENTS):
        return None
    return lead


def _coalesced(arrays):
    """The arrays as (A, B, C) views with B as large as it can be, or None when A and B are too few.

    A dimension joins the one before it when it does so in every array.
    """
    sizes = []
    steps = [[] for _ in arrays]
    for dim, size in enumerate(arrays[0].shape[:-1]):
        if size == 1:
            continue
        if sizes and all(
            step[-1] == size * a.strides[dim] for step, a in zip(steps, arrays, strict=True)
        ):
            sizes[-1] *= size
            for step, a in zip(steps, arrays, strict=True):
                step[-1] = a.strides[dim]
        else:
            sizes.append(size)
            for step, a in zip(steps, arrays, strict=True):
                step.append(a.strides[dim])
    if len(sizes) > 2:
        return None
    outer = [1] * (2 - len(sizes)) + sizes
    return [a.reshape(*outer, a.shape[-1]) for a in arrays]
