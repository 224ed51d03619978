"""What the rows of a comparison have added up to: counts, sums and samples that merge in any order."""

import math
from fractions import Fraction

import numpy as np

from . import _core
from ._evaluation_state import _accumulate as accumulate
from ._evaluation_state import _first as first

# What there are sums of, over the rows that count; from "base_loss" on with labels alone. In each sum
# only the rows are in which it is finite.
OF_ROWS = ("kl", "kl_reverse", "js", "total_variation", "same_top")
OF_LABELS = ("base_loss", "loss", "loss_difference", "dp", "dp²")

# So many rows' numbers are kept as they are. Of more they are rounded to 2^-12 of their power of two,
# which is off by at most 2^-13, 0.012 %, and equal ones are counted.
MOST_VALUES = 10_000_000
_ROUNDED_BITS = 40


class Sample:
    """The numbers of rows, of which quantiles are wanted, with their weights."""

    def __init__(self):
        self.n_rows = self.n_loose = 0
        self.values, self.weights = [], []

    def add(self, values, weights):
        """Add numbers with their weights, or None for 1 each; arrays that stay as they are."""
        self.n_rows += len(values)
        self._append(values, weights)

    def _append(self, values, weights):
        self.n_loose += len(values)
        self.values.append(values)
        self.weights.append(weights)
        if self.is_rounded and self.n_loose > MOST_VALUES // 8:
            self._round()

    def merge(self, other):
        self.n_rows += other.n_rows
        for values, weights in zip(other.values, other.weights, strict=True):
            self._append(values, weights)

    @property
    def is_rounded(self):
        return self.n_rows > MOST_VALUES

    def _round(self):
        bits = np.concatenate(self.values).view(np.uint64)
        half, shift = np.uint64(1 << (_ROUNDED_BITS - 1)), np.uint64(_ROUNDED_BITS)
        rounded = (((bits + half) >> shift) << shift).view(np.float64)
        values, index = np.unique(rounded, return_inverse=True)
        weights = [
            np.ones(len(v)) if w is None else w
            for v, w in zip(self.values, self.weights, strict=True)
        ]
        weights = np.bincount(index, np.concatenate(weights), len(values))
        self.values, self.weights, self.n_loose = [values], [weights], 0

    def distribution(self):
        """The numbers, and their weights or None."""
        if self.is_rounded and len(self.values) > 1:
            self._round()
        if not self.values:
            return np.empty(0), None
        values = np.concatenate(self.values)
        if all(w is None for w in self.weights):
            return values, None
        weights = [
            np.ones(len(v)) if w is None else w
            for v, w in zip(self.values, self.weights, strict=True)
        ]
        return values, np.concatenate(weights)

    def quantiles(self, probabilities):
        """As `numpy.quantile` by "linear", and with weights or of many rows by "inverted_cdf"."""
        values, weights = self.distribution()
        if not len(values):
            return [np.nan] * len(probabilities)
        if weights is None:
            values.sort()
            place, last = np.asarray(probabilities) * (len(values) - 1), len(values) - 1
            below = place.astype(np.int64)
            part = place - below
            lower, upper = values[below], values[np.minimum(below + 1, last)]
            step = upper - lower
            found = np.where(part < 0.5, lower + step * part, upper - step * (1 - part))
            return np.where(np.isfinite(step), found, np.where(part > 0, upper, lower)).tolist()
        values, index = np.unique(values, return_inverse=True)
        up_to = np.cumsum(np.bincount(index, weights, len(values)))
        place = np.searchsorted(up_to, np.asarray(probabilities) * up_to[-1])
        return values[np.minimum(place, len(values) - 1)].tolist()


class Joint:
    """Sums of two numbers of each row about points near their means, for their correlation."""

    def __init__(self):
        self.points = None
        # Of v x, v y, v x x, v y y and v x y, and of v
        self.sums = np.zeros((2, 6))

    def add(self, x, y, weights):
        if not len(x):
            return
        if self.points is None:
            self.points = [float(np.clip(a.mean(), a.min(), a.max())) for a in (x, y)]
        x, y = (a - point for a, point in zip((x, y), self.points, strict=True))
        of_x, of_y, of_product = moments = np.zeros((3, 2, 4))
        for values, sums in zip((x, y, x * y), moments, strict=True):
            _core.add_moments(values, weights, sums)
        of_one = np.zeros((2, 4))
        _core.add_moments(np.ones(len(x)), weights, of_one)
        columns = (of_x[:, 0], of_y[:, 0], of_x[:, 3], of_y[:, 3], of_product[:, 0], of_one[:, 0])
        accumulate(self.sums, *np.stack(columns, axis=1))

    def _about(self, points):
        """The sums about other points."""
        if points == self.points or not np.isfinite([*self.sums.flat, *points]).all():
            return self.sums
        x, y, xx, yy, xy, v = (sum(map(Fraction, pair)) for pair in self.sums.T)
        dx, dy = (Fraction(a) - Fraction(b) for a, b in zip(self.points, points, strict=True))
        exact = (
            x + dx * v,
            y + dy * v,
            xx + 2 * dx * x + dx * dx * v,
            yy + 2 * dy * y + dy * dy * v,
            xy + dx * y + dy * x + dx * dy * v,
            v,
        )
        try:
            hi = [float(total) for total in exact]
        except OverflowError:
            return np.full((2, 6), np.nan)
        return np.array([hi, [float(a - Fraction(b)) for a, b in zip(exact, hi, strict=True)]])

    def merge(self, other):
        if other.points is not None:
            self.points = self.points or other.points
            accumulate(self.sums, *other._about(self.points))

    def correlation(self):
        """In exact arithmetic up to the root; NaN where one of the two is constant."""
        if self.points is None or not np.isfinite(self.sums).all():
            return math.nan
        *sums, v = (sum(map(Fraction, pair)) for pair in self.sums.T)
        x, y, xx, yy, xy = (total / v for total in sums)
        one, other, both = xx - x * x, yy - y * y, xy - x * y
        # Less than pairs of float64 can tell from 0
        if one * 2**96 <= xx or other * 2**96 <= yy:
            return math.nan
        return math.copysign(math.sqrt(min(1.0, float(both * both / (one * other)))), both)


class State:
    """Counts, sums and samples of ``n_rows`` rows.

    ``sums`` are those of `_core.add_moments` for each of `OF_ROWS` and `OF_LABELS`, and ``infinite``
    the rows in which that is not finite. ``weights`` are Σ v and Σ v² as pairs.
    """

    def __init__(self):
        names = OF_ROWS + OF_LABELS
        self.n_classes = None
        self.has_labels = None
        self.n_rows = self.n_good = self.n_ignored = self.n_bad = self.n_nonfinite = 0
        self.first_nonfinite = self.first_bad = None
        self.weights = np.zeros((2, 4))
        self.sums = {name: np.zeros((2, 4)) for name in names}
        self.infinite = dict.fromkeys(names, 0)
        self.losses = Joint()
        self.largest = 0.0
        self.kl, self.dp = Sample(), Sample()

    def add(self, columns, weights):
        """Add the numbers of rows, arrays by name, with their weights, or None for 1 each."""
        n = len(columns["kl"])
        counts = np.ones(n, bool) if weights is None else weights > 0
        if self.has_labels:
            counts &= columns["rank"] >= 0
        bad = counts & np.isnan(columns["kl"])
        good = counts & ~bad
        infinite = np.isinf(columns["kl"]) | np.isinf(columns["kl_reverse"])
        if self.has_labels:
            infinite |= np.isinf(columns["base_loss"]) | np.isinf(columns["loss"])
        nonfinite = bad | (good & infinite)
        n_good, n_bad = int(good.sum()), int(bad.sum())
        self.first_bad = first(self.first_bad, self._place(bad))
        self.first_nonfinite = first(self.first_nonfinite, self._place(nonfinite))
        self.n_good += n_good
        self.n_bad += n_bad
        self.n_ignored += n - n_good - n_bad
        self.n_nonfinite += int(nonfinite.sum())
        self.n_rows += n
        _core.add_moments(
            np.ones(n_good + n_bad), _some(weights, counts, n_good + n_bad), self.weights
        )
        weights = _some(weights, good, n_good)
        for name in OF_ROWS + (OF_LABELS if self.has_labels else ()):
            values = _some(columns[name], good, n_good)
            if _core.add_finite_moments(values, weights, self.sums[name]):
                continue
            finite = np.isfinite(values)
            n_finite = int(finite.sum())
            self.infinite[name] += n_good - n_finite
            _core.add_moments(
                _some(values, finite, n_finite), _some(weights, finite, n_finite), self.sums[name]
            )
        if self.has_labels:
            losses = (_some(columns[name], good, n_good) for name in ("base_loss", "loss"))
            self.losses.add(*losses, weights)
        self.largest = max(
            self.largest, _some(columns["max_abs_dp"], good, n_good).max(initial=0.0)
        )
        kept = None if weights is None else weights.copy()
        self.kl.add(_some(columns["kl"], good, n_good).copy(), kept)
        if self.has_labels:
            self.dp.add(_some(columns["dp"], good, n_good).copy(), kept)

    def correlation(self):
        """Of the two losses."""
        return self.losses.correlation()

    def _place(self, which):
        return self.n_rows + int(which.argmax()) if which.any() else None

    def merge(self, other):
        """Add the rows of another state, which come after those of this one."""
        for name in ("first_bad", "first_nonfinite"):
            row = getattr(other, name)
            later = None if row is None else self.n_rows + row
            setattr(self, name, first(getattr(self, name), later))
        for name in ("n_rows", "n_good", "n_ignored", "n_bad", "n_nonfinite"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if self.n_classes is None:
            self.n_classes, self.has_labels = other.n_classes, other.has_labels
        accumulate(self.weights, *other.weights)
        for name, sums in other.sums.items():
            accumulate(self.sums[name], *sums)
            self.infinite[name] += other.infinite[name]
        self.losses.merge(other.losses)
        self.largest = max(self.largest, other.largest)
        self.kl.merge(other.kl)
        self.dp.merge(other.dp)


def _some(values, which, n):
    """Those of the values that are meant, n in all."""
    return values if values is None or n == len(values) else values[which]
