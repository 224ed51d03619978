"""How an array of any shape, axis and strides becomes the (A, B, C) views that ``_core`` reads.

C is the class axis, A and B the other dimensions, coalesced; a row's number is ``a * B + b``, its
place in C order over the other dimensions. Where such views exist none is a copy. Elsewhere (three
or more dimensions that do not coalesce) what is not contiguous goes through contiguous buffers of
about `BLOCK_ELEMENTS` entries, or of ``cut`` rows, at whose multiples alone rows are cut: with that of
``_core.cut``, sums over rows do not depend on the layout.
"""

import math
from typing import NamedTuple

import numpy as np

# 1 MiB of float64: a buffer and its result stay in a level-2 cache.
BLOCK_ELEMENTS = 1 << 17

# Views of fewer entries are not worth a call each.
_SLAB_ELEMENTS = 1 << 14

_RESULT = {
    "f16": np.dtype(np.float32),
    "bf16": np.dtype(np.float32),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
}


class Source(NamedTuple):
    """An input in the form the kernels read: native, aligned, half-width floats as their bits."""

    array: np.ndarray
    kind: str

    @property
    def result_dtype(self):
        return _RESULT[self.kind]

    @property
    def is_half(self):
        return self.kind in ("f16", "bf16")

    def widened(self, dtype):
        """The values as a contiguous array of ``dtype``; a copy unless they already are one."""
        if self.array.dtype == dtype:
            return np.ascontiguousarray(self.array)
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(_values(self.array, self.kind), dtype)

    def value(self, index):
        """One entry, as a Python float."""
        return float(self._replace(array=self.array[index]).widened(self.result_dtype)[0])


def _values(array, kind):
    if kind == "f16":
        return array.view(np.float16)
    if kind == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


class Block(NamedTuple):
    """Some consecutive rows, everything cut: what one call of ``_core`` works on."""

    rows: slice
    x: Source
    out: np.ndarray | None = None
    temperature: float | np.ndarray = 1.0
    targets: Source | np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    row_results: np.ndarray | None = None


def row_blocks(
    x,
    axis,
    *,
    cut=1,
    out=None,
    temperature=1.0,
    targets=None,
    sample_weight=None,
    row_results=None,
):
    """Yield the rows of a non-empty ``x`` as the `Block` or blocks that ``_core`` is called with.

    Blocks begin at multiples of ``cut`` rows. ``out`` has the shape of ``x`` but for the length of
    ``axis``; ``targets`` are a `Source` of the shape of ``x``, or have an entry a row. All else has
    an entry a row too, or is one for all; arrays of an entry a row are C-contiguous, the row first.
    What was written to a block has reached the arrays when the generator is resumed.
    """
    has_distributions = isinstance(targets, Source)
    reads = [axis_last(x.array, axis)]
    if has_distributions:
        reads.append(axis_last(targets.array, axis))
    writes = [] if out is None else [axis_last(out, axis)]
    for rows, views in cut_rows(reads, writes, cut):
        yield Block(
            rows,
            Source(views[0], x.kind),
            None if out is None else views[-1],
            of_rows(temperature, rows),
            Source(views[1], targets.kind) if has_distributions else of_rows(targets, rows),
            of_rows(sample_weight, rows),
            of_rows(row_results, rows),
        )


def split(block, most):
    """Yield the rows of a block as blocks of at most about ``most`` rows each."""
    outer, inner = block.x.array.shape[:2]
    first, last = block.rows.start, block.rows.stop
    if last - first <= most:
        yield block
        return
    step = most if inner >= most else most // inner * inner
    for a in range(outer) if inner >= most else range(0, outer, step // inner):
        for b in range(0, inner, step):
            along = slice(a, a + 1) if inner >= most else slice(a, a + step // inner)
            array = block.x.array[along, b : b + step]
            start = a * inner + b
            rows = slice(start, start + array.shape[0] * array.shape[1])
            yield block._replace(
                rows=slice(first + rows.start, first + rows.stop),
                x=block.x._replace(array=array),
                temperature=of_rows(block.temperature, rows),
                targets=of_rows(block.targets, rows),
            )


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
