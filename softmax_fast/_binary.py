"""The binary losses: every entry is a row of one class."""

from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout, _results, _threads


class Block(NamedTuple):
    """Some consecutive entries, everything cut and contiguous: what one call works on."""

    rows: slice
    x: _layout.Source
    targets: _layout.Source
    temperature: float | np.ndarray
    sample_weight: np.ndarray | None
    pos_weight: float | np.ndarray
    losses: np.ndarray | None


def binary_loss(
    name,
    values,
    targets,
    *,
    temperature=1.0,
    sample_weight=None,
    pos_weight=None,
    reduction,
    out,
    n_threads,
):
    """`binary_cross_entropy` where ``name`` is "probs", with logits where it is "logits"."""
    x = _arguments.logits(name, values)
    shape, dtype = x.array.shape, x.result_dtype
    t = _arguments.binary_targets(targets, shape)
    temperature = _arguments.entry_temperature(temperature, shape)
    v = _arguments.entry_weight("sample_weight", sample_weight, shape)
    q = _arguments.pos_weight(pos_weight, shape)
    reduction = _arguments.reduction(reduction)
    n_threads = _threads.resolve(_arguments.threads(n_threads), x.array.size)
    inputs = {
        name: x.array,
        "targets": t.array,
        "temperature": _arguments.array_or_none(temperature),
        "sample_weight": v,
        "pos_weight": _arguments.array_or_none(q),
    }
    checked = _results.output(out, reduction, shape, dtype, inputs, x.array)
    losses = None
    if reduction == "none":
        losses = np.empty(shape, dtype) if checked is None else checked

    def evaluate(losses):
        sums = _core.Sums()
        for block in _blocks(x, t, (temperature, v, q), losses) if x.array.size else ():
            _core.binary_loss(block, name == "logits", sums, n_threads)
            if max(sums.bad_value_row, sums.bad_label_row) >= 0:
                raise _arguments.binary_error(x, t, sums.bad_value_row, sums.bad_label_row)
        return sums

    if checked is not None and np.may_share_memory(checked, x.array):
        evaluate(None)  # An error finds the entry it quotes only before they are overwritten.
    sums = evaluate(losses)
    return _results.reduced(reduction, sums.loss, sums.weight, losses, shape, out, checked)


def _blocks(x, t, numbers, losses):
    """Yield the `Block` or blocks of non-empty ``x``.

    ``numbers``, the temperature and weights, hold None, a float, or an array of the shape of ``x``.
    """
    # Wider targets stay as they are: what is 1 - t in float64 need not be anything in float32.
    dtype = np.dtype(np.float64) if t.kind == "f64" else x.result_dtype
    arrays = [x.array, t.array, *(a for a in numbers if isinstance(a, np.ndarray))]
    for rows, views in _layout.cut_rows(
        [a[..., None] for a in arrays],
        [] if losses is None else [losses[..., None]],
        _core.cut(1),
        only_contiguous=True,
        in_parts=t.array.dtype != dtype,
    ):
        parts = iter(views)
        block_x, block_t = next(parts), next(parts)
        block_numbers = [
            next(parts).reshape(-1) if isinstance(a, np.ndarray) else a for a in numbers
        ]
        yield Block(
            rows,
            _layout.Source(block_x.reshape(1, 1, -1), x.kind),
            _layout.Source(
                _layout.Source(block_t, t.kind).widened(dtype),
                "f64" if dtype == np.float64 else "f32",
            ),
            *block_numbers,
            next(parts, None),
        )
