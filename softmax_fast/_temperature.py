"""The search for the temperature that calibrates: passes over rows, and what their sums tell."""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout
from ._core import loss_problem
from ._evaluation_state import near_1, of_weights_times
from ._row_statistics import some_rows

# A Newton step of this share of 1/T is the last, and not looked at again: it leaves about its square.
_LAST_STEP = 1e-6
# Below this share, a step that is no tenth of the one before is the rounding of the sums.
_SMALL_STEP = 1e-4
# How far 1/T moves at once where neither Newton's step nor a bracket says better.
_RISE, _FALL = 10.0, 5.0
# Σ v·g of what cancels exactly is this share of Σ v·|g|, or less.
_ROUNDING = 4e-16
# After so many passes every other one bisects.
_TRUSTED = 12
_MOST_PASSES = 200
# Rows whose mean variance, of logits over T, is less are nearly uniform.
_FLAT = 0.01
# Derivatives of a smaller ratio are no pair to interpolate between.
_LEAST_RATIO = 0.05

# A warm start looks at one row in 16 or fewer, and copies them.
_SAMPLE_SHARE = 16
_FEWEST_SAMPLE_ROWS, _MOST_SAMPLE_ROWS, _MOST_SAMPLE_ELEMENTS = 64, 8192, 1 << 22
# How many standard errors of a sample away others look, and the least and most as a share of its 1/T.
_ROOM, _LEAST_ROOM, _MOST_ROOM = 2.5, 1e-3, 0.25

_LOSS, _SLOPE, _CURVATURE, _SQUARES, _SIZE, _UNCERTAINTY, _WEIGHT = range(7)
# To what power of the weights the sums are.
_POWERS = np.array([1, 1, 1, 2, 1, 1, 1])
# Sums of squares that are less a row have lost digits.
_LEAST_SQUARE = 2.0**-1000


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


def _zeros():
    return np.zeros(_WEIGHT + 1)


@dataclass(frozen=True)
class PassSums:
    """What a pass over some rows finds at one 1/T, and what those of consecutive rows add up to.

    Rows that do not count, and those ``nan_policy`` is about, are in no sum. The weights are those
    of the rows times 2^-``exponent``, in the sums and all that follows from them.
    """

    n_rows: int = 0  # all of them
    n: int = 0  # those in the sums
    first_nonfinite: int = -1  # the first row that nan_policy is about
    all_constant: bool = True  # all rows are, of those in the sums; told at 1/T = 1 alone
    all_maximal: bool = True  # every label is a maximum of its row; likewise
    sums: np.ndarray = field(default_factory=_zeros)
    lost: np.ndarray = field(default_factory=_zeros)  # what rounding took from the sums
    exponent: int = 0

    def __add__(self, other):
        """With the rows of ``other`` after these."""
        exponent = max((p.exponent for p in (self, other) if p.n), default=0)
        (own, own_lost), (others, others_lost) = (p._with(exponent) for p in (self, other))
        with np.errstate(all="ignore"):
            total = own + others
            part = total - own
            lost = (own - (total - part)) + (others - part)
            lost = np.where(np.isfinite(lost), lost, 0.0) + own_lost + others_lost
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
            exponent,
        )

    def _with(self, exponent):
        """The sums, and what they lost, with another exponent."""
        if exponent == self.exponent:
            return self.sums, self.lost
        change = self.exponent - exponent
        return tuple(of_weights_times(s, change, _POWERS) for s in (self.sums, self.lost))

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
        """Σ v·g, or 0 where that is but rounding; NaN beyond the range."""
        slope, size = self._sum(_SLOPE), self._sum(_SIZE)
        if not math.isfinite(size):
            return math.nan
        return 0.0 if abs(slope) <= _ROUNDING * size else slope

    @property
    def curvature(self):
        """Σ v·Var, or 0 where logits are so large or small that their squares are no numbers."""
        curvature = self._sum(_CURVATURE)
        return curvature if math.isfinite(curvature) else 0.0

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
        return mean_variance < _FLAT and self._sum(_UNCERTAINTY) > 0.1 * self.weight


def labelled_rows(logits, targets, *, axis=-1, sample_weight=None, ignore_index=-100):
    """Check logits and their labels, and return them as `LabelledRows`."""
    x = _arguments.logits("logits", logits)
    shape = x.array.shape
    axis = _arguments.axis(axis, len(shape))
    ignored = _arguments.ignore_index(ignore_index)
    labels, v, exponent = checked_labels(targets, shape, axis, sample_weight, ignored)
    x = x._replace(array=_layout.axis_last(x.array, axis))
    return LabelledRows(x, _arguments.rows_shape(shape, axis), labels, v, ignored, exponent)


def checked_labels(targets, shape, axis, sample_weight, ignored):
    """The labels of the rows of logits of this shape, their weights or None, and the exponent that
    these have been freed of.
    """
    problem = loss_problem(
        _arguments.labels(targets, _arguments.rows_shape(shape, axis), ignored).given,
        shape,
        axis,
        _arguments.some_classes("logits", shape, axis),
        weight=None,
        sample_weight=sample_weight,
        ignore_index=ignored,
        reduction="sum",
    )
    problem.weigh()
    codes = problem.targets.codes
    return codes, *near_1(problem.sample_weight, codes, ignored)


def sample_of(n_rows, n_classes):
    """The numbers of some of the rows, evenly spaced; None where they would be too few."""
    n = min(n_rows // _SAMPLE_SHARE, _MOST_SAMPLE_ROWS, _MOST_SAMPLE_ELEMENTS // n_classes)
    if n < _FEWEST_SAMPLE_ROWS:
        return None
    return (2 * np.arange(n) + 1) * n_rows // (2 * n)


@dataclass(frozen=True)
class LabelledRows:
    """Logits, their classes last, with a label and perhaps a weight for each row, all checked."""

    x: _layout.Source
    shape: tuple
    labels: np.ndarray
    sample_weight: np.ndarray | None
    ignore_index: int | None
    exponent: int = 0  # what the weights have been freed of

    def sample(self):
        """Some of the rows, evenly spaced; None where they would be too few."""
        chosen = sample_of(len(self.labels), self.x.array.shape[-1])
        if chosen is None:
            return None
        array = self.x.array[np.unravel_index(chosen, self.shape)]
        v = None if self.sample_weight is None else self.sample_weight[chosen]
        return replace(
            self,
            x=self.x._replace(array=array),
            shape=chosen.shape,
            labels=self.labels[chosen],
            sample_weight=v,
        )

    def sums_at(self, beta, n_threads):
        """One pass, at 0 <= ``beta`` <= inf: the `PassSums` of the rows."""
        total = PassSums()
        if not self.x.array.size:
            return total
        if 0 < beta < math.inf:
            axis, most = self.x.array.ndim - 1, _core.most_summed_rows
            for block in some_rows(self.x, axis, self.labels, 1.0 / beta, most):
                total += self._pass_over(block, beta == 1, n_threads)
        else:
            for limit in self._limits(beta):
                total += self._sums_of(limit)
        return replace(total, exponent=self.exponent)

    def _pass_over(self, block, tells, n_threads):
        start, stop = block.rows.start, block.rows.stop
        v = _layout.of_rows(self.sample_weight, block.rows)
        places = np.empty((2, stop - start), np.int64) if tells else None
        options = _arguments.Options(ignore_index=self.ignore_index)
        sums = np.zeros((2, _WEIGHT + 1))
        n, first = _core.add_to_pass(block, options, v, places, sums, n_threads)
        if not n:
            return PassSums(stop - start, 0, first)
        are_constant = are_maximal = False
        if tells:
            rank, prediction = places
            counted = (rank >= 0) & (prediction >= 0)
            if v is not None:
                counted &= v > 0
            if first >= 0:
                rows = np.flatnonzero(counted)
                at_label = self._logits_at(rows + start, self.labels[rows + start])
                counted[rows[at_label == -np.inf]] = False
            are_constant = self._are_constant(np.flatnonzero(counted) + start)
            later = np.flatnonzero(counted & (rank > 0))
            are_maximal = self._are_maximal(later + start, prediction[later])
        return PassSums(stop - start, n, first, are_constant, are_maximal, *sums)

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
        v = np.ones(n) if v is None else v[counted]
        sums = _zeros()
        with np.errstate(all="ignore"):
            vg = v * c.slope[counted]
            sums[_LOSS] = (v * c.loss[counted]).sum()
            sums[_CURVATURE] = (v * c.curvature[counted]).sum()
            sums[_UNCERTAINTY] = (v * c.uncertainty[counted]).sum()
            sums[_SLOPE] = vg.sum()
            sums[_SIZE] = np.abs(vg).sum()
            sums[_SQUARES] = (vg * vg).sum()
            sums[_WEIGHT] = v.sum()
        return PassSums(len(y), n, first, False, False, sums)

    def _logits_at(self, rows, classes):
        single = tuple(axis for axis, size in enumerate(self.shape) if size == 1)
        array = self.x.array.squeeze(single)
        if array.ndim == 1:
            array = array[np.newaxis]
        at = (*np.unravel_index(rows, array.shape[:-1]), classes)
        return self.x._replace(array=array[at]).widened(np.float64)

    def _are_maximal(self, rows, predictions):
        """Whether the labels of these rows equal the maxima, which are those of the predictions."""
        for some in (slice(16), slice(16, None)):
            labels = self._logits_at(rows[some], self.labels[rows[some]])
            if not (labels == self._logits_at(rows[some], predictions[some])).all():
                return False
        return True

    def _are_constant(self, rows):
        step = max(1, _layout.BLOCK_ELEMENTS // self.x.array.shape[-1])
        cuts = [0, 1, *range(min(16, step), len(rows), step), len(rows)]
        for start, stop in itertools.pairwise(cuts):
            x = self._logits_at(rows[start:stop], slice(None))
            least = x.min(axis=1, initial=np.inf, where=x > -np.inf)
            if (least < x.max(axis=1)).any():
                return False
        return True


class _Limit(NamedTuple):
    """Numbers of some rows in the limit of 1/T = 0 or inf, as of `_row_statistics.Columns`."""

    rows: slice
    prediction: np.ndarray
    uncertainty: np.ndarray
    loss: np.ndarray
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
            mean - d_y,
            curvature,
        )


def _fit_of(sums_at):
    """The fit of a sample; None where it does not tell."""
    try:
        found = fit(sums_at, nan_policy="omit", row_error=None)
    except ValueError:
        return None
    return found if found.status == "converged" else None


def start_of(sums_at):
    """1/T of a sample, to begin a `fit` with; None where the sample does not tell."""
    found = _fit_of(sums_at)
    return found and 1.0 / found.temperature


def starts_of(sums_at):
    """1/T of a sample, and below and above where that of all rows hardly lies beyond: in order."""
    found = _fit_of(sums_at)
    if not found:
        return ()
    beta, share = 1.0 / found.temperature, _ROOM * found.stderr / found.temperature
    if not _LEAST_ROOM <= share <= _MOST_ROOM:
        share = _MOST_ROOM if share > _MOST_ROOM else _LEAST_ROOM
    return beta * (1 - share), beta, beta * (1 + share)


class SharedPasses:
    """``sums_at`` of a `fit`, from passes that look at several 1/T: the first at the starts too.

    ``look`` makes a pass at a set of 1/T, and returns the `PassSums` of each.
    """

    def __init__(self, look, starts=()):
        self.look, self.starts = look, starts
        self.n_passes = 0
        self.known = {}

    def __call__(self, beta):
        if beta not in self.known:
            shared = {beta} if self.n_passes else {beta, *self.starts}
            self.known = self.look(shared)
            self.n_passes += 1
        return self.known[beta]

    def start(self):
        """Where to look after the first pass; None without starts."""
        if not self.starts:
            return None
        points = [(beta, self.known[beta]) for beta in self.starts]
        nearest = min(points, key=lambda point: abs(point[1].slope))[0]
        return _root_among(points) or nearest


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
    start : float or callable, optional
        Where 1/T is looked for after the first pass, from `start_of`; or what tells it then.
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
    beta, at = _least(look, first, start() if callable(start) else start)
    if not beta:
        return result(math.inf, math.nan, at.mean_loss, "uninformative")
    if math.isnan(at.slope):
        return result(math.nan, math.nan, math.nan, "nonfinite")
    step = 0.0
    if at.slope and at.curvature:
        step = -at.slope / at.curvature
        if not abs(step) <= _SMALL_STEP * beta:
            step = 0.0
    stderr = math.nan
    if at.n > 1 and min(at.squares, at.curvature) >= _LEAST_SQUARE * at.n:
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
    for tried in range(_MOST_PASSES):
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
        new, is_safe = beta + step, False
        if before is not None:
            cubic = _interpolated(*before, beta, at, low, high)
            is_safe = cubic > 0 and (before[1].slope < 0) != (at.slope < 0)
            if is_safe or (cubic and abs(step) / 2 < abs(cubic - beta) < abs(step) * 2):
                new = cubic
        if start is not None and low < start < high:
            new, start = start, None
        elif low == 0 and zero is None:
            # Where the slope is nearly linear Newton's step is good, however long.
            if new < beta / _FALL and not (0 < new and at.is_flat(beta)):
                n_falls += 1
                if at.is_flat(beta) or n_falls > 3:
                    zero = look(0.0)
                    if zero.slope >= 0:
                        return 0.0, zero
                    new = -zero.slope / zero.curvature if zero.curvature else 0.0
                    if not 0 < new < high:
                        new = high / _RISE
                else:
                    # The sooner the slope is nearly linear, the sooner it tells.
                    flat = math.inf
                    if new <= 0 and at.curvature:
                        flat = math.sqrt(_FLAT / 2 * at.weight / at.curvature)
                    new = min(beta / _FALL, flat)
                    if at.mean_size * beta > 100:
                        new = min(new, 1.0 / at.mean_size)
        elif high == math.inf:
            if not at.curvature and at.mean_size:
                new = max(1.0 / at.mean_size, beta * _RISE)
            elif not at.is_flat(beta):
                new = min(new, beta * _RISE)
        elif not low < new < high or (
            not is_safe and abs(step) > abs(last_step) if tried < _TRUSTED else tried % 2
        ):
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
    if not rise or not h_0 > _LEAST_RATIO * h_1 or not h_1 > _LEAST_RATIO * h_0:
        return 0.0
    t = -at_0.slope / rise
    u = 1.0 - t
    beta = u * u * (1 + 2 * t) * beta_0 + t * t * (1 + 2 * u) * beta_1
    beta += t * u * rise * (u / h_0 - t / h_1)
    return beta if low < beta < high else 0.0


def _root_among(points):
    """Where β(slope), through all points with its derivatives there, is at slope 0; None where these
    do not bracket that.

    ``points`` are pairs of 1/T, in order, and `PassSums`.
    """
    slopes = np.repeat([at.slope for _, at in points], 2)
    betas = np.repeat([beta for beta, _ in points], 2)
    rises = [at.curvature for _, at in points]
    if not slopes[0] < 0 < slopes[-1] or not min(rises) > _LEAST_RATIO * max(rises):
        return None
    terms = (
        betas.copy()
    )  # divided differences, of which those of a point with itself are derivatives
    with np.errstate(all="ignore"):
        for order in range(1, len(terms)):
            for k in range(len(terms) - 1, order - 1, -1):
                gap = slopes[k] - slopes[k - order]
                same = order == 1 and k % 2
                terms[k] = 1 / rises[k // 2] if same else (terms[k] - terms[k - 1]) / gap
        root = terms[-1]
        for k in range(len(terms) - 2, -1, -1):
            root = terms[k] - root * slopes[k]
    return float(root) if betas[0] < root < betas[-1] else None


def _between(low, high):
    if low == 0:
        return high / _RISE
    return math.sqrt(low) * math.sqrt(high) if high > 4 * low else low + (high - low) / 2
