"""How an array of any shape, axis and strides becomes the (A, B, C) views that ``_core`` reads.

C is the class axis, A and B the other dimensions, coalesced; a row's number is ``a * B + b``, its
place in C order over the other dimensions. No view is a copy. Where no such view exists (three or
more dimensions that do not coalesce), or where the kernels need another dtype, the rows go through
contiguous buffers of at most `BLOCK_ELEMENTS` entries or one row, never through a whole copy.
"""

from typing import NamedTuple

import numpy as np

# 1 MiB of float64: a buffer and its result stay in a level-2 cache.
BLOCK_ELEMENTS = 1 << 17

# The float32 kernels take 1/T as a float32 number with digits to spare; outside this range rows
# are computed in float64.
FLOAT32_TEMPERATURES = (1e-30, 1e30)

# Above it the float64 kernels could not tell -inf from a large finite spread: logits and temperature
# are scaled down together.
HIGHEST_TEMPERATURE = 2.0**900

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
        return np.ascontiguousarray(_values(self.array, self.kind), dtype)

    def value(self, index):
        """One entry."""
        return self._replace(array=self.array[index]).widened(self.result_dtype)[0]


def _values(array, kind):
    if kind == "f16":
        return array.view(np.float16)
    if kind == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


class Block(NamedTuple):
    """Some consecutive rows in the form of one ``_core`` call."""

    rows: slice
    x: np.ndarray
    kind: str
    reads: tuple
    writes: tuple
    row_writes: tuple


def needs_float64(kind, temperature):
    """Whether the temperature is too extreme for the kernels of this kind."""
    low, high = (0.0, HIGHEST_TEMPERATURE) if kind == "f64" else FLOAT32_TEMPERATURES
    if isinstance(temperature, float):
        return not low <= temperature <= high
    return bool(temperature.size) and not (low <= temperature.min() and temperature.max() <= high)


def common_factor(temperature):
    """A power of two for logits and temperature alike, 1 but for the largest temperatures."""
    return (
        1.0 if not np.size(temperature) or np.max(temperature) <= HIGHEST_TEMPERATURE else 2.0**-128
    )


def rows_of(temperature, rows):
    """The temperature of some rows, whether it is one number or one a row."""
    if isinstance(temperature, float):
        return temperature if temperature <= HIGHEST_TEMPERATURE else temperature * 2.0**-128
    return temperature[rows] * common_factor(temperature)


def axis_last(array, axis):
    """View of ``array`` with dimension ``axis`` last and the others in their order."""
    last = array.ndim - 1
    if axis == last:
        return array
    return array.transpose(*range(axis), *range(axis + 1, last + 1), axis)


def row_blocks(x, axis, temperature=1.0, *, reads=(), writes=(), row_writes=()):
    """Yield the rows of a non-empty ``x`` as the `Block` or blocks that ``_core`` is called with.

    ``reads`` are further sources of the shape of ``x``; ``writes`` are arrays of that shape but for
    the length of ``axis``; ``row_writes`` are C-contiguous arrays whose first dimension is the row.
    What the caller's kernel wrote to the block has reached them when the generator is resumed.
    """
    widen = needs_float64(x.kind, temperature)
    sources = (x, *reads)
    inputs = [axis_last(s.array, axis) for s in sources]
    outputs = [axis_last(w, axis) for w in writes]
    direct = (
        not widen and not any(s.is_half for s in reads) and all(w.flags.aligned for w in outputs)
    )
    views = _coalesced(inputs + outputs) if direct else None
    if views is not None:
        yield _block(slice(None), x.kind, views, len(inputs), tuple(row_writes))
        return

    outer, n_classes = inputs[0].shape[:-1], inputs[0].shape[-1]
    for index, rows in slabs(outer, max(1, BLOCK_ELEMENTS // n_classes)):
        slab_in = [a[index] for a in inputs]
        slab_out = [a[index] for a in outputs]
        slab_rows = [a[rows] for a in row_writes]
        views = _coalesced(slab_in + slab_out) if direct else None
        if views is not None:
            yield _block(rows, x.kind, views, len(inputs), tuple(slab_rows))
        else:
            slab_sources = [Source(a, s.kind) for a, s in zip(slab_in, sources, strict=True)]
            factor = common_factor(temperature)
            yield from _buffered(rows, slab_sources, slab_out, slab_rows, widen, factor)


def _block(rows, kind, views, n_sources, row_writes):
    return Block(
        rows, views[0], kind, tuple(views[1:n_sources]), tuple(views[n_sources:]), row_writes
    )


def _buffered(rows, sources, outputs, row_writes, widen, factor):
    """Yield one block whose arrays are contiguous buffers, in float64 when ``widen``."""
    n_rows = rows.stop - rows.start
    kind = "f64" if widen else sources[0].kind

    def buffer(like, shape):
        return np.empty(shape, np.float64 if widen else like.dtype)

    views = []
    with np.errstate(all="ignore"):
        for i, source in enumerate(sources):
            if i == 0 and not widen:
                values = np.ascontiguousarray(source.array)
            else:
                values = source.widened(np.float64 if widen else source.result_dtype)
            if i == 0 and factor != 1.0:
                values = values * factor
            views.append(values.reshape(1, n_rows, -1))
    views += [buffer(w, (1, n_rows, w.shape[-1])) for w in outputs]
    row_buffers = tuple(buffer(w, w.shape) for w in row_writes) if widen else tuple(row_writes)

    yield _block(rows, kind, views, len(sources), row_buffers)

    with np.errstate(all="ignore"):
        for output, view in zip(outputs, views[len(sources) :], strict=True):
            output[...] = view.reshape(output.shape)
        if widen:
            for output, view in zip(row_writes, row_buffers, strict=True):
                output[...] = view


def _coalesced(arrays):
    """The arrays as (A, B, C) views with B as large as it can be, or None when A and B are too few.

    A dimension joins the one before it when it does so in every array.
    """
    if all(a.flags.c_contiguous for a in arrays):
        return [a.reshape(1, -1, a.shape[-1]) for a in arrays]
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


def slabs(outer, limit):
    """Yield (index into the outer dimensions, slice of row numbers) of at most ``limit`` rows.

    The slabs follow each other in C order and cover all rows; ``outer`` holds no 0.
    """
    inner, dim = 1, len(outer)
    while dim and inner * outer[dim - 1] <= limit:
        dim -= 1
        inner *= outer[dim]
    if not dim:
        yield (), slice(0, inner)
        return
    step, row = limit // inner, 0
    for lead in np.ndindex(*outer[: dim - 1]):
        for start in range(0, outer[dim - 1], step):
            stop = min(start + step, outer[dim - 1])
            n_rows = (stop - start) * inner
            yield (*lead, slice(start, stop)), slice(row, row + n_rows)
            row += n_rows
