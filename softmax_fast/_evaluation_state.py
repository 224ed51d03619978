"""What the rows of an evaluation have added up to: counts and sums that merge in any order.

A sum is a pair of float64, the sum and what its rounding lost, kept along the first dimension of an
array. What a row adds is rounded to float64 before it is added, so that sums, and all that follows
from them, are the same to 1e-15 whatever the order of rows, blocks and merges. Confidences of rows
without weights are summed in whole numbers.
"""

import copy
import functools
import math

import numpy as np

from . import _arguments, _core, _layout
from ._row_statistics import some_rows

# The orders are those of kernels/evaluation.c.

# Σ over the rows that count. v is the weight, hit whether the prediction is the label; "vv" stands
# for v². Rows without probabilities add to "v bad" and "vv bad" alone, those of infinite loss
# nothing to the loss's sums, the slope and the curvature; "far" losses are those that
# kernels/evaluation.h keeps apart.
SUMS = (
    "v",
    "vv",
    "v bad",
    "vv bad",
    "v loss",
    "vv loss",
    "vv loss²",
    "v brier",
    "vv brier",
    "vv brier²",
    "v hit",
    "vv hit",
    "v reciprocal rank",
    "v entropy",
    "v slope",
    "v curvature",
    "v far loss",
    "vv far loss",
    "vv far loss²",
)
COUNTS = ("good", "ignored", "bad", "infinite", "hit")

# Σ over the rows of a bin, or a cell
OF_BINS = ("v", "vv", "v confidence", "v hit", "vv confidence (1 - confidence)")

# Weights of which the greatest is within 2^-64 and 2^64 are taken as they are.
_NEAR_1 = 64

# The weight of a bin that would vanish beside others stays at 2^-1000.
_LEAST_OF_A_BIN = -1000

# To what power of the weights the sums are.
_POWERS, _POWERS_OF_BINS = (
    np.array([2 if name.startswith("vv") else 1 for name in names]) for names in (SUMS, OF_BINS)
)

# Whole numbers of a slot, which is number cell + bin and has the rows of both: rows, hits, and of Σ u
# and Σ u² / 2^48 the upper bits and the lower 32, u as of sf_cell_of in kernels/evaluation.h: there is
# room for 2^48 rows.
_OF_SLOTS = 6


class State:
    """Counts and sums of ``n_rows`` rows.

    ``counts`` and ``sums`` are in the order of `COUNTS` and `SUMS`, each with an entry for every k
    of ``top_k`` after them. Rows without weights are in ``slots``, those with weights in ``bins`` of
    equal width and the ``cells`` of `_core.cells_of`, both (sums, counts); None before any.
    ``classes`` are None or the Σ v (y - p) of each class and bin. The weights of all sums but the
    slots' are those of the rows times 2^-``exponent``. With ``omits_bad`` rows without probabilities
    are only counted.
    """

    def __init__(self, top_k, n_bins, omits_bad=False):
        self.top_k = top_k
        self.omits_bad = omits_bad
        self.edges = edges_of(n_bins)
        self.n_classes = None
        self.n_rows = self.exponent = 0
        self.first_bad = self.first_nonfinite = None
        self.counts = np.zeros(len(COUNTS) + len(top_k), np.int64)
        self.sums = np.zeros((2, len(SUMS) + len(top_k)))
        self.slots = self.bins = self.cells = self.classes = None

    @property
    def n_bins(self):
        return len(self.edges) - 1

    def add(self, x, axis, labels, weights, temperature, ignore_index, keeps, n_threads):
        """Add the rows of a non-empty ``x``, a `_layout.Source`, with their labels, all checked, and
        weights, or None for 1 each; yield them after each step, as a slice and which of them count.

        The latter is None unless ``keeps``.
        """
        options = _arguments.Options(ignore_index=ignore_index)
        top_k = self._prepared(weights)
        for block in some_rows(x, axis, labels, temperature, _core.most_summed_rows):
            rows = block.rows
            n = rows.stop - rows.start
            v = _layout.of_rows(weights, rows)
            places = confidence = counts = None
            if v is not None or keeps:
                places = np.empty((2, n), np.int64)
            if v is not None:
                confidence = np.empty(n)
            found = _core.add_to_evaluation(
                self, block, options, v, top_k, places, confidence, n_threads
            )
            self._count(n, found)
            if keeps:
                counts = (places >= 0).all(axis=0)
                if v is not None:
                    counts &= v > 0
            yield rows, counts

    def add_columns(self, columns, weights, n_threads):
        """Add rows, no more than `_core` takes at once, of which `Columns` are there; as `add`."""
        top_k = self._prepared(weights)
        found = _core.add_columns_to_evaluation(self, columns, weights, top_k, n_threads)
        self._count(len(columns.rank), found)
        yield columns.rows, None

    def _prepared(self, weights):
        """Have room for rows with or without weights; the k of ``top_k`` that are no more than C."""
        if weights is None and self.slots is None:
            self.slots = np.zeros((_OF_SLOTS, N_CELLS + self.n_bins), np.int64)
        if weights is not None and self.bins is None:
            self.bins, self.cells = _no_bins(self.n_bins), _no_bins(N_CELLS)
        return np.array([min(k, self.n_classes) for k in self.top_k], np.int64)

    def _count(self, n_rows, found):
        bad, infinite = (None if row < 0 else self.n_rows + row for row in found)
        self.first_bad = _first(self.first_bad, bad)
        self.first_nonfinite = _first(self.first_nonfinite, bad, infinite)
        self.n_rows += n_rows

    def histograms(self):
        """Bins and cells of all rows, both (sums, counts)."""
        bins, cells = _no_bins(self.n_bins), _no_bins(N_CELLS)
        if self.slots is not None:
            filled = np.flatnonzero(self.slots[0])
            slots, (cell, at) = self.slots[:, filled], _slots(self.n_bins)[:, filled]
            for (sums, counts), index in ((bins, at), (cells, cell)):
                counts += np.bincount(index, slots[0], len(counts)).astype(np.int64)
            sums = _sums_of_slots(slots, cell)
            for row in (0, 1, 3, 4):
                bins[0][0, row] = np.bincount(at, sums[0, row], self.n_bins)
            total, lost = sum_by(at, sums[0, 2], self.n_bins)
            bins[0][:, 2] = total, lost + np.bincount(at, sums[1, 2], self.n_bins)
            # Cells that bins cut
            first = np.flatnonzero(np.diff(cell, prepend=-1))
            whole = np.add.reduceat(slots, first, axis=1) if len(first) else slots
            cells[0][:, :, cell[first]] = _sums_of_slots(whole, cell[first])
            if self.exponent:
                for sums, _ in (bins, cells):
                    sums[...] = _bins_of_weights_times(sums, -self.exponent)
        if self.bins is not None:
            for own, others in ((bins, self.bins), (cells, self.cells)):
                _accumulate(own[0], *others[0])
                own[1][...] += others[1]
        return bins, cells

    def add_classes(self, probabilities, labels, weights):
        """Add rows that count, of probabilities (n, C), to the bins of each class."""
        n, n_classes = probabilities.shape
        if self.classes is None:
            self.classes = np.zeros((2, n_classes, self.n_bins))
        p = probabilities
        v = np.ones(n) if weights is None else weights
        first = np.where(p <= edges_of(self.n_bins)[1], p, 0.0)
        hi, lo = _sum(-v[:, None] * first)
        _accumulate(self.classes[:, :, 0], hi, lo)
        # At most n_bins entries of a row are beyond the first bin.
        row, column = np.nonzero(first != p)
        beyond = p[row, column]
        at_label = p[np.arange(n), labels]
        place = np.concatenate(
            [
                column * self.n_bins + bins_of(beyond, self.n_bins),
                labels * self.n_bins + bins_of(at_label, self.n_bins),
            ]
        )
        place, index = np.unique(place, return_inverse=True)
        hi, lo = sum_by(index, np.concatenate([-v[row] * beyond, v]), len(place))
        flat = self.classes.reshape(2, -1)
        some = flat[:, place]
        _accumulate(some, hi, lo)
        flat[:, place] = some

    def merge(self, other):
        """Add the rows of another state, which come after those of this one."""
        if other.exponent != self.exponent:
            exponent = max((s.exponent for s in (self, other) if s._weigh_anything), default=0)
            other = copy.deepcopy(other)
            for state in (self, other):
                state._change_exponent(exponent)
        for name in ("first_bad", "first_nonfinite"):
            row = getattr(other, name)
            later = None if row is None else self.n_rows + row
            setattr(self, name, _first(getattr(self, name), later))
        self.n_rows += other.n_rows
        if self.n_classes is None:
            self.n_classes = other.n_classes
        self.counts += other.counts
        _accumulate(self.sums, *other.sums)
        if other.slots is not None:
            self.slots = other.slots + (0 if self.slots is None else self.slots)
            for upper in (2, 4):
                self.slots[upper] += self.slots[upper + 1] >> 32
                self.slots[upper + 1] &= 0xFFFFFFFF
        if other.bins is not None:
            if self.bins is None:
                self.bins, self.cells = _no_bins(self.n_bins), _no_bins(N_CELLS)
            for own, others in ((self.bins, other.bins), (self.cells, other.cells)):
                _accumulate(own[0], *others[0])
                own[1][...] += others[1]
        if other.classes is not None:
            if self.classes is None:
                self.classes = np.zeros_like(other.classes)
            _accumulate(self.classes, *other.classes)

    @property
    def _weigh_anything(self):
        bad = 0 if self.omits_bad else self.counts[COUNTS.index("bad")]
        return self.counts[COUNTS.index("good")] + bad > 0

    def _change_exponent(self, exponent):
        change = self.exponent - exponent
        self.exponent = exponent
        if not change:
            return
        powers = np.concatenate([_POWERS, np.ones(len(self.top_k), int)])
        self.sums = of_weights_times(self.sums, change, powers)
        for own in (self.bins, self.cells):
            if own is not None:
                own[0][...] = _bins_of_weights_times(own[0], change)
        if self.classes is not None:
            self.classes = np.ldexp(self.classes, change)


def _first(*rows):
    return min((row for row in rows if row is not None), default=None)


# Bins


def _no_bins(n):
    return np.zeros((2, len(OF_BINS), n)), np.zeros(n, np.int64)


def edges_of(n_bins):
    """The n_bins + 1 ends of bins of equal width, correctly rounded."""
    return np.arange(n_bins + 1) / n_bins


def bins_of(confidence, n_bins):
    """The bin of each confidence: (lo, hi] of `edges_of`, and 0 in the first."""
    return _core.bins_of(np.ascontiguousarray(confidence), n_bins)


@functools.lru_cache(maxsize=1)
def _cell_bases():
    """The lower ends of the cells of the confidence, and of those of 1 - confidence, which descend."""
    shift, lowest, nearest, half = _core.cell_bits
    low, doubt = (np.arange(least, half) << shift for least in (lowest, nearest))
    return low.view(np.float64), doubt[::-1].view(np.float64)


@functools.lru_cache(maxsize=1)
def cell_ends():
    """The upper end of each cell of `_core.cells_of`: no confidence of a later cell is as small."""
    low, doubt = _cell_bases()
    high = 1.0 - doubt
    high = np.where(1.0 - high < doubt, np.nextafter(high, 0), high)
    return np.concatenate([low[1:], [0.5], high, [1.0]])


N_CELLS = len(cell_ends())


# Slots


@functools.lru_cache(maxsize=4)
def _slots(n_bins):
    """Cell and bin of each slot, -1 for those that hold no confidence."""
    ends = cell_ends()
    starts = np.nextafter(np.concatenate([[0.0], ends[:-1]]), 1.0)
    first, last = bins_of(starts, n_bins), bins_of(ends, n_bins)
    n = last - first + 1
    cells = np.repeat(np.arange(N_CELLS), n)
    bins = np.arange(len(cells)) - np.repeat(np.cumsum(n) - n - first, n)
    result = np.full((2, N_CELLS + n_bins), -1)
    result[:, cells + bins] = cells, bins
    return result


def _sums_of_slots(slots, cells):
    """The sums of `OF_BINS` of some slots in these cells, as pairs."""
    low, doubt = _cell_bases()
    is_low = cells < len(low)
    base = np.concatenate([low, doubt, [0.0]])[cells]
    unit = np.spacing(base)
    n, hits, *parts = (part.astype(float) for part in slots)
    upper, lower, squares = (
        parts[0] * 2.0**32 * unit,
        parts[1] * unit,
        parts[2] * 2.0**32 + parts[3],
    )
    # Of x, the confidence or 1 - confidence: n * base is exact.
    x = np.stack([n * base, np.zeros_like(n)])
    _accumulate(x, upper, 0.0)
    _accumulate(x, lower, 0.0)
    x_squared = n * base * base + 2 * base * (upper + lower) + squares * (2.0**24 * unit) ** 2
    sums = np.zeros((2, len(OF_BINS), len(n)))
    sums[0, 0] = sums[0, 1] = n
    sums[0, 3] = hits
    sums[0, 4] = x[0] - x_squared
    confidence = np.where(is_low, x, -x)
    _accumulate(confidence, np.where(is_low, 0.0, n), 0.0)
    sums[:, 2] = confidence
    return sums


# Weights


def near_1(weights, labels, ignore_index):
    """Weights times 2^-exponent, of which the greatest is about 1, and exponent; weights that are
    not far from 1 as they are, and 0. Those of ignored rows may become 0, no other that is > 0.
    """
    if weights is None:
        return None, 0
    if ignore_index is not None and (ignored := labels == ignore_index).any():
        weights = np.where(ignored, 0.0, weights)
    greatest = float(weights.max(initial=0.0))
    exponent = math.frexp(greatest)[1]
    if abs(exponent) <= _NEAR_1:
        return weights, 0
    scaled = np.ldexp(weights, -exponent)
    return np.where(weights > 0, np.maximum(scaled, np.finfo(float).tiny), 0.0), exponent


def of_weights_times(sums, exponent, powers):
    """The sums of weights times 2^exponent."""
    with np.errstate(under="ignore"):
        return np.ldexp(sums, exponent * powers)


def _bins_of_weights_times(sums, exponent):
    """`of_weights_times` of bins, of which none with a weight comes to have none: it stays tiny."""
    weight = sums[0, 0]
    least = np.where(weight > 0, _LEAST_OF_A_BIN - np.frexp(weight)[1], exponent)
    exponent = np.minimum(0, np.maximum(exponent, least)) if exponent < 0 else exponent
    return of_weights_times(sums, exponent, _POWERS_OF_BINS[:, None])


# Sums


def _accumulate(pair, hi, lo):
    """Add sums and what they have lost to those in ``pair``, by Knuth's two-sum."""
    with np.errstate(all="ignore"):
        total = pair[0] + hi
        part = total - pair[0]
        lost = (pair[0] - (total - part)) + (hi - part)
        # Beyond the range there is nothing to keep.
        pair[1] += np.where(np.isfinite(total), lost + lo, 0.0)
    pair[0] = total


def _parts(values):
    """Values as two parts whose sums are exact in any order, and a rest below them by 2^-53 n each.

    The extraction of Rump, Ogita and Oishi, "Accurate floating-point summation", SIAM J. Sci.
    Comput. 31 (2008).
    """
    for _ in range(2):
        largest = np.abs(values).max(initial=0.0)
        exponent = int(np.frexp(largest)[1]) + len(values).bit_length() + 1
        if not (0 < largest < np.inf and -1000 < exponent < 1023):
            yield values
            return
        sigma = 2.0**exponent
        part = (sigma + values) - sigma
        yield part
        values = values - part
    yield values


def _sum(values):
    """Σ along the first dimension, and what it lost."""
    hi, *lost = (part.sum(axis=0) for part in _parts(values))
    return hi, sum(lost, np.zeros_like(hi))


def sum_by(index, values, n):
    """Σ of the values of each index below n, and what they lost."""
    hi, *lost = (np.bincount(index, part, n) for part in _parts(values))
    return hi, sum(lost, np.zeros(n))
