"""What one look at the rows tells: numbers of each row, some rows at a time."""

from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout

# Rows whose columns fit a level-2 cache together.
_MOST_ROWS = 16_384


class Columns(NamedTuple):
    """Numbers of some consecutive rows, float64 but for two columns of int64.

    Of a row without probabilities (NaN, +inf, all -inf) ``prediction`` is -1, ``rank`` C, and all
    else but ``logsumexp`` NaN. Of an ignored row ``loss``, ``brier``, ``slope`` and ``curvature``
    are 0 and ``rank`` is -1. Without labels the last five are None.
    """

    rows: slice
    logsumexp: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    uncertainty: np.ndarray  # 1 - confidence, without cancellation
    entropy: np.ndarray
    loss: np.ndarray | None
    rank: np.ndarray | None
    brier: np.ndarray | None
    slope: np.ndarray | None  # of the loss in 1/T: E_p[x] - x_y
    curvature: np.ndarray | None  # Var_p[x]


def row_columns(x, axis, labels, temperature, ignore_index, n_threads):
    """Yield the `Columns` of a non-empty ``x``, a `_layout.Source`, in the order of its rows.

    ``labels`` are int64 or int32, one a row and checked, or None. The arrays are written again for
    the next columns.
    """
    options = _arguments.Options(ignore_index=ignore_index)
    sums = _core.Sums()
    numbers = places = None
    for block in some_rows(x, axis, labels, temperature, _MOST_ROWS):
        n_rows = block.rows.stop - block.rows.start
        if numbers is None or numbers.shape[1] < n_rows:
            numbers = np.empty((4 if labels is None else 8, n_rows))
            places = np.empty((1 if labels is None else 2, n_rows), np.int64)
        _core.row_statistics(block, options, numbers, places, sums, n_threads)
        yield columns_of(block.rows, numbers[:, :n_rows], places[:, :n_rows])


def some_rows(x, axis, labels, temperature, most):
    """Yield blocks of at most ``most`` rows of a non-empty ``x``, a `_layout.Source`, in their order."""
    for whole in _layout.row_blocks(x, axis, cut=1, temperature=temperature, targets=labels):
        yield from _layout.split(whole, most)


def columns_of(rows, numbers, places):
    """The `Columns` of some rows from the arrays that `_core` fills."""
    lse, confidence, uncertainty, entropy, *of_labels = numbers
    prediction, *rank = places
    loss, brier, slope, curvature = of_labels or [None] * 4
    return Columns(
        rows,
        lse,
        prediction,
        confidence,
        uncertainty,
        entropy,
        loss,
        rank[0] if rank else None,
        brier,
        slope,
        curvature,
    )
