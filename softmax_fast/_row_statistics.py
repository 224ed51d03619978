"""What one look at the rows tells: numbers of each row, some rows at a time."""

from typing import NamedTuple

import numpy as np

from . import _core, _layout


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

    ``labels`` are int64 or int32, one a row and checked, or None. Blocks begin at multiples of
    ``_core.cut(n_classes)``.
    """
    array = _layout.axis_last(x.array, axis)
    n_classes = array.shape[-1]
    values = x._replace(array=array).widened(np.float64).reshape(-1, n_classes)
    n_rows = len(values)
    step = max(_core.cut(n_classes), (1 << 20) // n_classes // _core.cut(n_classes) * _core.cut(n_classes))
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        t = temperature if isinstance(temperature, float) else temperature[rows]
        y = None if labels is None else labels[rows]
        yield _of(values[rows], y, np.broadcast_to(np.asarray(t), (rows.stop - start,)), ignore_index, rows)


def _of(x, y, t, ignore_index, rows):
    n, n_classes = x.shape
    with np.errstate(all="ignore"):
        m = x.max(axis=1)
        special = ~np.isfinite(m)
        d = np.where(special[:, None], 0.0, x - m[:, None])
        s = d / t[:, None]
        e = np.exp(s)
        first = x.argmax(axis=1)
        others = e.copy()
        others[np.arange(n), first] = 0.0
        rest = others.sum(axis=1)
        total = 1.0 + rest
        log_sum = np.log1p(rest)
        p = e / total[:, None]
        masked = np.where(e > 0, s, 0.0)
        mean_s = (p * masked).sum(axis=1)
        var_s = (p * (masked - mean_s[:, None]) ** 2).sum(axis=1)
        nan = np.where(special, np.nan, 0.0)
        lse = np.where(np.isnan(x).any(axis=1), np.nan, np.where(special, m, m / t + log_sum))
        shared = (
            rows,
            lse,
            np.where(special, -1, first),
            1.0 / total + nan,
            rest / total + nan,
            log_sum - mean_s + nan,
        )
        if y is None:
            return Columns(*shared, None, None, None, None, None)
        ignored = np.zeros(n, bool) if ignore_index is None else y == ignore_index
        label = np.where(ignored, 0, y)
        at = np.arange(n)
        x_y = x[at, label]
        before = (x > x_y[:, None]).sum(axis=1)
        before += ((x == x_y[:, None]) & (np.arange(n_classes) < label[:, None])).sum(axis=1)
        q = (p * p).sum(axis=1)
        loss = log_sum - s[at, label] + nan
        return Columns(
            *shared,
            np.where(ignored, 0.0, loss),
            np.where(ignored, -1, np.where(special, n_classes, before)),
            np.where(ignored, 0.0, q - 2 * p[at, label] + 1 + nan),
            np.where(ignored, 0.0, mean_s * t - d[at, label] + nan),
            np.where(ignored, 0.0, var_s * t * t + nan),
        )
