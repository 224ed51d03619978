"""The temperature that calibrates a classifier: fitted in a few passes over its logits."""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout, _threads
from ._loss_problem import loss_problem
from ._row_statistics import row_columns

# A Newton step of this share of 1/T is the last, and not looked at again: it leaves about its square.
_LAST_STEP = 1e-6
# Below this share, a step that is no tenth of the one before is the rounding of the sums.
_SMALL_STEP = 1e-4
# How far 1/T moves at once where neither Newton's step nor a bracket says better.
_RISE, _FALL = 10.0, 5.0
# Σ v·g of what cancels exactly is this share of Σ v·|g|, or less.
_ROUNDING = 4e-16
_MOST_PASSES = 200
# Derivatives of a smaller ratio are no pair to interpolate between.
_LEAST_RATIO = 0.05

# A warm start looks at one row in 16 or fewer, and copies them.
_SAMPLE_SHARE = 16
_FEWEST_SAMPLE_ROWS, _MOST_SAMPLE_ROWS, _MOST_SAMPLE_ELEMENTS = 64, 8192, 1 << 22

_LOSS, _SLOPE, _CURVATURE, _SQUARES, _SIZE, _UNCERTAINTY, _WEIGHT = range(7)


class TemperatureFit(NamedTuple):
    """A fitted temperature: what `fit_temperature` returns.

    Attributes
    ----------
    temperature : float
        T, which logits are to be divided by.
    stderr : float
        Its standard error; NaN where there is none.
    loss, loss_before : float
        Mean loss at ``temperature``, and at 1.
    status : str
        "converged", "separable", "uninformative", "constant" or "nonfinite".
    n_passes : int
        How often all logits were read.
    """

    temperature: float
    stderr: float
    loss: float
    loss_before: float
    status: str
    n_passes: int


def fit_temperature(
    logits,
    targets,
    *,
    axis=-1,
    sample_weight=None,
    ignore_index=-100,
    nan_policy="raise",
    n_threads=None,
):
    r"""Temperature at which the mean softmax loss of logits is least, with its standard error.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Logits, as for `softmax_loss`. Masked classes (-inf) are allowed.
    targets : array_like
        Class indices of any integer dtype and the shape of the rows (that of ``logits`` without
        ``axis``).
    axis : int, optional
        The class axis, the last by default.
    sample_weight : array_like, shape of the rows, optional
        Weight v of each row, finite and >= 0. A row of weight 0 counts for nothing.
    ignore_index : int or None, optional
        Rows with this label count for nothing either; None for no such label.
    nan_policy : {"raise", "omit", "propagate"}, optional
        What becomes of a row that holds NaN or +inf, or nothing but -inf, or whose label's logit is
        -inf: an error that names it, nothing, or a temperature NaN.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    TemperatureFit
        ``(temperature, stderr, loss, loss_before, status, n_passes)``. The status is

        * "converged";
        * "separable": every label is a maximum of its row, so that the loss falls as long as T
          does. T is 0, and the loss its limit, the mean logarithm of the number of ties;
        * "uninformative": the labels' logits are, on average, no more than their rows' means. T is
          inf, and the loss the mean logarithm of the number of classes that are not masked;
        * "constant": all logits of each row are equal, and no T is better than another. T is 1;
        * "nonfinite": a row as told above under "propagate". All is NaN.

        The standard error is NaN but for "converged", and of a single row.

    Raises
    ------
    IndexError
        If a label is outside [0, C) and not ``ignore_index``: the text has the first such row.
    TypeError
        If an argument has a dtype that is not accepted.
    ValueError
        If an argument has another shape than expected or is out of range; if no row is left; of a
        row that ``nan_policy`` does not allow.
    numpy.exceptions.AxisError
        If ``axis`` is out of range.

    See Also
    --------
    softmax_loss

    Notes
    -----
    Temperature scaling [1]_ minimises

    .. math:: L(\beta) = \frac{1}{V} \sum_i v_i
              \Bigl(\log \sum_k e^{\beta x_{ik}} - \beta x_{i y_i}\Bigr),
              \quad \beta = 1/T, \quad V = \sum_i v_i,

    which is convex in β, as the logarithm of a sum of exponentials of linear functions is ([2]_,
    section 3.1.5). With p = softmax(βx) a row contributes v·g to the slope of V·L and v·Var_p[x] to
    its curvature, g = E_p[x] - x_y. The zero of the slope is found by Newton's steps from β = 1,
    inside a bracket of points where the slope is negative and positive, with bisection where a step
    leaves it or gains too little; there are no bounds on T. A last step too small to matter is taken
    without another pass. Of many rows, an evenly spaced sample (one in 16 or fewer) is fitted first
    to begin near the end; that is not counted as passes. Ordinary data takes 3 to 8 passes, no
    more than one row's share of a block is copied, and T is within 1e-6 relative of the optimum for
    float64 logits.

    The standard error is that of a misspecified model, the sandwich [3]_:
    se(β) = √(Σ v²g²) / Σ v·Var_p[x], and se(T) = T²·se(β).

    The result has the same bits whatever the number of threads.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
       networks", ICML (2017), :arxiv:`1706.04599`.
    .. [2] S. Boyd and L. Vandenberghe, "Convex optimization", Cambridge University Press (2004).
    .. [3] H. White, "Maximum likelihood estimation of misspecified models", Econometrica 50 (1982),
       1-25.

    Examples
    --------
    A model that is always as sure as three to one, and right in three rows of five:

    >>> import numpy as np
    >>> from softmax_fast import fit_temperature
    >>> logits = np.log([[3.0, 1.0]] * 5)
    >>> fit = fit_temperature(logits, [0, 0, 0, 1, 1])
    >>> round(fit.temperature, 6), fit.status
    (2.709511, 'converged')
    >>> round(fit.loss_before, 6), round(fit.loss, 6)
    (0.727127, 0.673012)
    """
    rows = labelled_rows(
        logits, targets, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index
    )
    nan_policy = _arguments.nan_policy(nan_policy)
    n_threads = _threads.resolve(_arguments.threads(n_threads), rows.x.array.size)
    start = None
    sample = rows.sample()
    if sample is not None:
        start = start_of(lambda beta: sample.sums_at(beta, n_threads))
    return fit(
        lambda beta: rows.sums_at(beta, n_threads),
        nan_policy=nan_policy,
        row_error=lambda row: _arguments.nonfinite_row_error(np.unravel_index(row, rows.shape)),
        start=start,
    )


def _zeros():
    return np.zeros(_WEIGHT + 1)


@dataclass(frozen=True)
class PassSums:
    """What a pass over some rows finds at one 1/T, and what those of consecutive rows add up to.

    Rows that do not count, and those ``nan_policy`` is about, are in no sum.
    """

    n_rows: int = 0  # all of them
    n: int = 0  # those in the sums
    first_nonfinite: int = -1  # the first row that nan_policy is about
    all_constant: bool = True
    all_maximal: bool = True  # every label is a maximum of its row
    sums: np.ndarray = field(default_factory=_zeros)
    lost: np.ndarray = field(default_factory=_zeros)  # what rounding took from the sums

    def __add__(self, other):
        """With the rows of ``other`` after these."""
        with np.errstate(all="ignore"):
            total = self.sums + other.sums
            part = total - self.sums
            lost = (self.sums - (total - part)) + (other.sums - part)
            lost = np.where(np.isfinite(lost), lost, 0.0) + self.lost + other.lost
        first = self.first_nonfinite
        if first < 0 and other.first_nonfinite >= 0:
            first = self.n_rows + other.first_nonfinite
        return PassSums(
            self.n_rows + other.n_rows,
            self.n + other.n,
            first,
            self.all_constant and other.all_constant,
            self.all_maximal and other.all_maximal,
            total,
            lost,
        )

    def _sum(self, which):
        return float(self.sums[which] + self.lost[which])

    @property
    def weight(self):
        return self._sum(_WEIGHT)

    @property
    def mean_loss(self):
        return self._sum(_LOSS) / self.weight

    @property
    def slope(self):
        """Σ v·g, or 0 where that is but rounding."""
        slope = self._sum(_SLOPE)
        return 0.0 if abs(slope) <= _ROUNDING * self._sum(_SIZE) else slope

    @property
    def curvature(self):
        return self._sum(_CURVATURE)

    @property
    def squares(self):
        """Σ v²g²."""
        return self._sum(_SQUARES)

    @property
    def mean_size(self):
        """The mean of abs(g)."""
        return self._sum(_SIZE) / self.weight

    def is_flat(self, beta):
        """Whether the rows are nearly uniform, so that the slope is nearly linear."""
        mean_variance = self.curvature / self.weight * beta * beta
        return mean_variance < 0.01 and self._sum(_UNCERTAINTY) > 0.1 * self.weight


def labelled_rows(logits, targets, *, axis=-1, sample_weight=None, ignore_index=-100):
    """Check logits and their labels, and return them as `LabelledRows`."""
    x = _arguments.logits("logits", logits)
    shape = x.array.shape
    axis = _arguments.axis(axis, len(shape))
    problem = loss_problem(
        targets,
        shape,
        axis,
        _arguments.some_classes("logits", shape, axis),
        weight=None,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction="sum",
    )
    if not problem.has_labels:
        raise _arguments.not_labels_error(problem.targets.array.dtype, problem.rows)
    problem.weigh()
    x = x._replace(array=_layout.axis_last(x.array, axis))
    return LabelledRows(
        x, problem.rows, problem.targets.codes, problem.sample_weight, problem.options.ignore_index
    )


@dataclass(frozen=True)
class LabelledRows:
    """Logits, their classes last, with a label and perhaps a weight for each row, all checked."""

    x: _layout.Source
    shape: tuple
    labels: np.ndarray
    sample_weight: np.ndarray | None
    ignore_index: int | None

    def sample(self):
        """Some of the rows, evenly spaced; None where they would be too few."""
        n_rows, n_classes = len(self.labels), self.x.array.shape[-1]
        n = min(n_rows // _SAMPLE_SHARE, _MOST_SAMPLE_ROWS, _MOST_SAMPLE_ELEMENTS // n_classes)
        if n < _FEWEST_SAMPLE_ROWS:
            return None
        chosen = (2 * np.arange(n) + 1) * n_rows // (2 * n)
        array = self.x.array[np.unravel_index(chosen, self.shape)]
        v = None if self.sample_weight is None else self.sample_weight[chosen]
        return replace(
            self,
            x=self.x._replace(array=array),
            shape=(n,),
            labels=self.labels[chosen],
            sample_weight=v,
        )

    def sums_at(self, beta, n_threads):
        """One pass, at 0 <= ``beta`` <= inf: the `PassSums` of the rows."""
        total = PassSums()
        if not self.x.array.size:
            return total
        if 0 < beta < math.inf:
            axis = self.x.array.ndim - 1
            columns = row_columns(
                self.x, axis, self.labels, 1.0 / beta, self.ignore_index, n_threads
            )
        else:
            columns = self._limits(beta)
        for c in columns:
            total += self._sums_of(c)
        return total

    def _limits(self, beta):
        """`_Limit` for the blocks of the rows, in their order, at ``beta`` 0 or inf."""
        cut = _core.cut(self.x.array.shape[-1])
        for rows, (view,) in _layout.cut_rows([self.x.array], [], cut, in_parts=True):
            x = self.x._replace(array=view.reshape(-1, view.shape[-1])).widened(np.float64)
            yield _limit_of(x, rows, self.labels[rows], self.ignore_index, beta)

    def _sums_of(self, c):
        y = self.labels[c.rows]
        v = None if self.sample_weight is None else self.sample_weight[c.rows]
        counted = np.ones(len(y), bool) if self.ignore_index is None else y != self.ignore_index
        if v is not None:
            counted &= v > 0
        bad = counted & (c.prediction < 0)
        infinite = np.flatnonzero(counted & ~bad & ~np.isfinite(c.loss))
        bad[infinite] = self._logits_at(infinite + c.rows.start, y[infinite]) == -np.inf
        first = int(bad.argmax()) if bad.any() else -1
        counted &= ~bad
        n = int(np.count_nonzero(counted))
        if not n:
            return PassSums(len(y), 0, first)
        loss, slope, curvature, uncertainty = c.loss, c.slope, c.curvature, c.uncertainty
        if n < len(y):
            loss, slope, curvature, uncertainty = (
                a[counted] for a in (loss, slope, curvature, uncertainty)
            )
            v = None if v is None else v[counted]
        with np.errstate(all="ignore"):
            vg = slope if v is None else v * slope
            weighted = (
                (loss, curvature, uncertainty)
                if v is None
                else (v * loss, v * curvature, v * uncertainty)
            )
            sums = _zeros()
            sums[_LOSS], sums[_CURVATURE], sums[_UNCERTAINTY] = (a.sum() for a in weighted)
            sums[_SLOPE] = vg.sum()
            sums[_SIZE] = np.abs(vg).sum()
            sums[_SQUARES] = (vg * vg).sum()
            sums[_WEIGHT] = n if v is None else v.sum()
        constant = not slope.any() and not curvature.any()
        return PassSums(
            len(y),
            n,
            first,
            constant and self._are_constant(np.flatnonzero(counted) + c.rows.start),
            self._are_maximal(np.flatnonzero(counted & (c.rank > 0)), c),
            sums,
        )

    def _logits_at(self, rows, classes):
        at = np.unravel_index(rows, self.shape) if self.shape else ()
        return self.x._replace(array=self.x.array[(*at, classes)]).widened(np.float64)

    def _are_maximal(self, places, c):
        """Whether the labels of these rows of a block, which are not first, equal the maxima."""
        for some in _few_then_all(places):
            rows = some + c.rows.start
            labels = self._logits_at(rows, self.labels[rows])
            if not (labels == self._logits_at(rows, c.prediction[some])).all():
                return False
        return True

    def _are_constant(self, rows):
        for some in _few_then_all(rows):
            for row in some:
                at = np.unravel_index(row, self.shape) if self.shape else ()
                x = self.x._replace(array=self.x.array[at]).widened(np.float64)
                x = x[x > -np.inf]
                if x.min() < x.max():
                    return False
        return True


def _few_then_all(places):
    yield places[:16]
    yield places[16:]


class _Limit(NamedTuple):
    """Those of `_row_statistics.Columns` that are summed here, in the limit of 1/T = 0 or inf."""

    rows: slice
    prediction: np.ndarray
    uncertainty: np.ndarray
    loss: np.ndarray
    rank: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


def _limit_of(x, rows, labels, ignore_index, beta):
    with np.errstate(all="ignore"):
        m = x.max(axis=1)
        special = ~np.isfinite(m)
        d = np.where(special[:, None], 0.0, x - m[:, None])
        label = labels if ignore_index is None else np.where(labels == ignore_index, 0, labels)
        d_y = d[np.arange(len(x)), label]
        is_in = d > -np.inf if beta == 0 else d == 0
        count = is_in.sum(axis=1)
        if beta == 0:
            d = np.where(is_in, d, 0.0)
            mean = d.sum(axis=1) / count
            loss = np.where(d_y > -np.inf, np.log(count), np.inf)
            curvature = (np.where(is_in, d - mean[:, None], 0.0) ** 2).sum(axis=1) / count
        else:
            mean = curvature = np.zeros(len(x))
            loss = np.where(d_y == 0, np.log(count), np.inf)
        return _Limit(
            rows,
            np.where(special, -1, x.argmax(axis=1)),
            1.0 - 1.0 / count,
            loss,
            (d_y < 0).astype(np.int64),
            mean - d_y,
            curvature,
        )


def start_of(sums_at):
    """1/T of a sample, to begin a `fit` with; None where the sample does not tell."""
    try:
        found = fit(sums_at, nan_policy="omit", row_error=None)
    except ValueError:
        return None
    return 1.0 / found.temperature if found.status == "converged" else None


def fit(sums_at, *, nan_policy, row_error, start=None):
    """The `TemperatureFit` of rows, wherever they are, from passes over them.

    Parameters
    ----------
    sums_at : callable
        ``sums_at(beta)`` makes a pass over all rows at 1/T = ``beta``, 0 and inf included, and
        returns their `PassSums`: the sum of those of their parts (`LabelledRows.sums_at`) in order.
    nan_policy : {"raise", "omit", "propagate"}
        As of `fit_temperature`.
    row_error : callable
        ``row_error(row)`` is the error for the row of that number, if ``nan_policy`` is "raise".
    start : float, optional
        Where 1/T is looked for first, from `start_of`.
    """
    passes = []

    def look(beta):
        passes.append(beta)
        return sums_at(beta)

    first = look(1.0)
    if first.first_nonfinite >= 0 and nan_policy != "omit":
        if nan_policy == "raise":
            raise row_error(first.first_nonfinite)
        return TemperatureFit(*(math.nan,) * 4, "nonfinite", 1)
    if not first.n:
        raise _arguments.no_rows_error()

    def result(temperature, stderr, loss, status):
        return TemperatureFit(temperature, stderr, loss, first.mean_loss, status, len(passes))

    if first.all_constant:
        return result(1.0, math.nan, first.mean_loss, "constant")
    if first.all_maximal:
        return result(0.0, math.nan, look(math.inf).mean_loss, "separable")
    beta, at = _least(look, first, start)
    if not beta:
        return result(math.inf, math.nan, at.mean_loss, "uninformative")
    step = 0.0
    if at.slope:
        step = -at.slope / at.curvature
        if not abs(step) <= _SMALL_STEP * beta:
            step = 0.0
    stderr = math.nan
    if at.n > 1 and at.curvature:
        stderr = math.sqrt(at.squares) / at.curvature / (beta + step) / (beta + step)
    loss = at.mean_loss + (at.slope + at.curvature * step / 2) * step / at.weight
    return result(1.0 / (beta + step), stderr, loss, "converged")


def _least(look, first, start):
    """1/T where the slope is 0 but for a small Newton step, and the sums there; 0 for no such.

    ``first`` are the sums at 1.
    """
    low, high = 0.0, math.inf  # where the slope is negative and positive, or not known
    zero = None  # the sums at 0
    n_falls = 0
    last_step = math.inf
    beta, at, before = 1.0, first, None
    for _ in range(_MOST_PASSES):
        if not at.slope or math.isnan(at.slope):
            break
        if at.slope < 0:
            low = beta
        else:
            high = beta
        step = -at.slope / at.curvature if at.curvature else math.copysign(math.inf, -at.slope)
        small = abs(step) <= _SMALL_STEP * beta
        if abs(step) <= _LAST_STEP * beta or (small and abs(step) > abs(last_step) / 10):
            break
        if high < math.inf and high - low <= _ROUNDING * high:
            break
        new = beta + step
        if before is not None:
            new = _interpolated(*before, beta, at, low, high) or new
        if start is not None and low < start < high:
            new, start = start, None
        elif low == 0 and zero is None:
            if new < beta / _FALL:
                n_falls += 1
                if at.is_flat(beta) or n_falls > 3:
                    zero = look(0.0)
                    if zero.slope >= 0:
                        return 0.0, zero
                    new = -zero.slope / zero.curvature
                    if not 0 < new < high:
                        new = high / _RISE
                else:
                    new = beta / _FALL
                    if at.mean_size * beta > 100:
                        new = min(new, 1.0 / at.mean_size)
        elif high == math.inf:
            if not at.curvature and at.mean_size:
                new = max(1.0 / at.mean_size, beta * _RISE)
            elif not at.is_flat(beta):
                new = min(new, beta * _RISE)
        elif not low < new < high or abs(step) > abs(last_step) / 2:
            new = _between(low, high)
        if new in (beta, 0.0, math.inf):
            break
        last_step = new - beta
        before = beta, at
        beta, at = new, look(new)
    return beta, at


def _interpolated(beta_0, at_0, beta_1, at_1, low, high):
    """Where the cubic β(slope) through two points, with its derivatives there, is at slope 0; 0
    where the derivatives are too different, or that is outside the bracket.
    """
    h_0, h_1 = at_0.curvature, at_1.curvature
    rise = at_1.slope - at_0.slope
    if not rise or not _LEAST_RATIO < h_0 / h_1 < 1 / _LEAST_RATIO:
        return 0.0
    t = -at_0.slope / rise
    u = 1.0 - t
    beta = u * u * (1 + 2 * t) * beta_0 + t * t * (1 + 2 * u) * beta_1
    beta += t * u * rise * (u / h_0 - t / h_1)
    return beta if low < beta < high else 0.0


def _between(low, high):
    if low == 0:
        return high / _RISE
    return math.sqrt(low) * math.sqrt(high) if high > 4 * low else low + (high - low) / 2
