"""What the rows of a comparison have added up to: counts, sums and samples that merge in any order."""

import copy
import math
from fractions import Fraction

import numpy as np

from . import _arguments, _core, _layout
from ._evaluation_state import _accumulate as accumulate
from ._evaluation_state import _first as first
from ._evaluation_state import of_weights_times
from ._row_statistics import some_rows

# The orders are those of kernels/comparison.h.

# What there are sums of: over the rows that count of 1, and over those of them that have probabilities
# and where it is finite of the others, the last five with labels alone.
SUMS = (
    "one",
    "kl",
    "kl_reverse",
    "js",
    "total_variation",
    "same_top",
    "base_loss",
    "loss",
    "loss_difference",
    "dp",
    "dp²",
)
COUNTS = ("good", "ignored", "bad", "nonfinite")

# The numbers of each row beside its losses.
OF_ROWS = ("kl", "kl_reverse", "js", "total_variation", "max_abs_dp", "same_top", "dp")
OF_LABELS = ("base_loss", "loss", "dp")

# To what power of the weights the four sums are.
_POWERS = np.array([1, 2, 2, 1])

# So many rows' numbers are kept as they are. Of more they are rounded to 2^-12 of their power of two,
# which is off by at most 2^-13, 0.012 %, and equal ones are counted.
MOST_VALUES = 10_000_000
_ROUNDED_BITS = 40


class Sample:
    """The numbers of rows, of which quantiles are wanted, with their weights. No array is changed."""

    def __init__(self):
        self.n_rows = self.n_loose = 0
        self.values, self.weights = [], []

    def __deepcopy__(self, memo):
        other = copy.copy(self)
        other.values, other.weights = list(self.values), list(self.weights)
        return other

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

    def change_weights(self, exponent):
        """Multiply the weights by 2^exponent."""
        self.weights = [
            np.full(len(v), math.ldexp(1.0, exponent)) if w is None else np.ldexp(w, exponent)
            for v, w in zip(self.values, self.weights, strict=True)
        ]

    @property
    def is_rounded(self):
        return self.n_rows > MOST_VALUES

    def _round(self):
        values, weights = self._together()
        bits = values.view(np.uint64)
        half, shift = np.uint64(1 << (_ROUNDED_BITS - 1)), np.uint64(_ROUNDED_BITS)
        rounded = (((bits + half) >> shift) << shift).view(np.float64)
        values, index = np.unique(rounded, return_inverse=True)
        weights = np.bincount(index, weights, len(values)).astype(float, copy=False)
        self.values, self.weights, self.n_loose = [values], [weights], 0

    def _together(self):
        if len(self.values) == 1:
            return self.values[0], self.weights[0]
        weights = None
        if any(w is not None for w in self.weights):
            weights = [
                np.ones(len(v)) if w is None else w
                for v, w in zip(self.values, self.weights, strict=True)
            ]
            weights = np.concatenate(weights)
        return np.concatenate(self.values or [np.empty(0)]), weights

    def distribution(self):
        """The numbers, and their weights or None."""
        if self.is_rounded and len(self.values) > 1:
            self._round()
        return self._together()

    def quantiles(self, probabilities):
        """As `numpy.quantile` by "linear", and with weights or of many rows by "inverted_cdf"."""
        values, weights = self.distribution()
        if not len(values):
            return [np.nan] * len(probabilities)
        probabilities = np.asarray(probabilities, np.float64)
        if weights is not None:
            shares, index = np.unique(probabilities, return_inverse=True)
            return _core.order_statistics(values, weights, shares)[index].tolist()
        last = len(values) - 1
        place = probabilities * last
        below = place.astype(np.int64)
        part = place - below
        places, index = np.unique([below, np.minimum(below + 1, last)], return_inverse=True)
        found = _core.order_statistics(values, None, places.astype(np.float64))
        lower, upper = found[index.reshape(2, -1)]
        step = upper - lower
        found = np.where(part < 0.5, lower + step * part, upper - step * (1 - part))
        return np.where(np.isfinite(step), found, np.where(part > 0, upper, lower)).tolist()


class Joint:
    """Sums of two numbers of each row about points near their means, for their correlation."""

    def __init__(self):
        self.points = np.full(2, math.nan)
        # Of v x, v y, v x x, v y y and v x y, and of v
        self.sums = np.zeros((2, 6))

    @property
    def is_empty(self):
        return math.isnan(self.points[0])

    def _about(self, points):
        """The sums about other points."""
        if not np.isfinite([*self.sums.flat, *points]).all() or (points == self.points).all():
            return self.sums
        x, y, xx, yy, xy, v = (sum(map(Fraction, pair)) for pair in self.sums.T)
        dx, dy = (
            Fraction(float(a)) - Fraction(float(b))
            for a, b in zip(self.points, points, strict=True)
        )
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
        if not other.is_empty:
            if self.is_empty:
                self.points = other.points.copy()
            accumulate(self.sums, *other._about(self.points))

    def correlation(self):
        """In exact arithmetic up to the root; NaN where one of the two is constant."""
        if self.is_empty or not np.isfinite(self.sums).all():
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

    ``counts`` are those of `COUNTS`, and of each of `SUMS` the rows in which it is infinite; ``sums``
    pairs of Σ v x, Σ v² x, Σ v² x² and Σ v x² for each, and of far x times 2^-`_core.far_exponent`. All
    weights are those of the rows times 2^-``exponent``.
    """

    def __init__(self):
        self.n_classes = None
        self.has_labels = None
        self.n_rows = self.exponent = 0
        self.first_nonfinite = self.first_bad = None
        self.counts = np.zeros(len(COUNTS) + len(SUMS), np.int64)
        self.sums = np.zeros((2, 2, len(SUMS), 4))
        self.losses = Joint()
        self.largest = 0.0
        self.kl, self.dp = Sample(), Sample()

    def count(self, name):
        return int(self.counts[COUNTS.index(name)])

    def of(self, name):
        """Of a quantity three sums, as pairs, those of far ones, or (), and in how many rows it is
        infinite.
        """
        at = SUMS.index(name)
        near, far = self.sums[:, :, at, :3].transpose(1, 2, 0).tolist()
        return near, far if sum(far[2]) else (), int(self.counts[len(COUNTS) + at])

    def add(self, x, base, axis, labels, weights, temperature, ignore_index, found, n_threads):
        """Add the rows of a non-empty ``x`` and its base, `_layout.Source`s, with their int64 labels,
        or None, all checked, and weights, or None for 1 each.

        What there is of each row goes to the arrays of ``found``, by name, unless it is None.
        """
        options = _arguments.Options(ignore_index=ignore_index)
        n_rows = x.array.size // self.n_classes
        at_once = n_rows if n_rows <= MOST_VALUES else max(1, MOST_VALUES // 8)
        losses = numbers = None
        for whole in some_rows(x, axis, base, temperature, at_once):
            start, n = whole.rows.start, whole.rows.stop - whole.rows.start
            samples = [np.empty(n) for _ in range(1 if labels is None else 2)]
            n_good = self.count("good")
            for block in _layout.split(whole, _core.most_summed_rows):
                rows = block.rows
                n = rows.stop - rows.start
                own = [sample[rows.start - start : rows.stop - start] for sample in samples]
                if losses is None or losses.shape[1] < n:
                    losses = None if labels is None else np.empty((2, n))
                    numbers = None if found is None else np.empty((len(OF_ROWS), n))
                v = _layout.of_rows(weights, rows)
                faults = _core.add_to_comparison(
                    self, block, labels, options, v, own, losses, numbers, n_threads
                )
                bad, nonfinite = (None if row < 0 else self.n_rows + row for row in faults)
                self.first_bad = first(self.first_bad, bad)
                self.first_nonfinite = first(self.first_nonfinite, nonfinite)
                self.n_rows += n
                if found is not None:
                    for name, values in zip(OF_ROWS, numbers, strict=True):
                        if name in found:
                            found[name][rows] = values[:n]
                    if losses is not None:
                        found["base_loss"][rows], found["loss"][rows] = losses[:, :n]
            n_good = self.count("good") - n_good
            self._add_samples(samples, _layout.of_rows(weights, whole.rows), n_good)

    def _add_samples(self, samples, weights, n_good):
        v = weights
        if n_good < len(samples[0]):
            good = samples[0] == samples[0]
            samples = [values[good] for values in samples]
            v = v if v is None else v[good]
        elif v is not None:
            v = v.copy()
        for sample, values in zip((self.kl, self.dp), samples, strict=False):
            sample.add(values, v)

    @property
    def _weighs_anything(self):
        return self.count("good") + self.count("bad") > 0

    def _change_exponent(self, exponent):
        change = self.exponent - exponent
        self.exponent = exponent
        if change:
            self.sums = of_weights_times(self.sums, change, _POWERS)
            self.losses.sums = np.ldexp(self.losses.sums, change)
            for sample in (self.kl, self.dp):
                sample.change_weights(change)

    def merge(self, other):
        """Add the rows of another state, which come after those of this one."""
        if other.exponent != self.exponent:
            exponent = max((s.exponent for s in (self, other) if s._weighs_anything), default=0)
            other = copy.deepcopy(other)
            for state in (self, other):
                state._change_exponent(exponent)
        for name in ("first_bad", "first_nonfinite"):
            row = getattr(other, name)
            later = None if row is None else self.n_rows + row
            setattr(self, name, first(getattr(self, name), later))
        self.n_rows += other.n_rows
        self.counts += other.counts
        if self.n_classes is None:
            self.n_classes, self.has_labels = other.n_classes, other.has_labels
        accumulate(self.sums, *other.sums)
        self.losses.merge(other.losses)
        self.largest = max(self.largest, other.largest)
        self.kl.merge(other.kl)
        self.dp.merge(other.dp)
