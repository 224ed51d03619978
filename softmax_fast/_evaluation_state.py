"""What the rows of an evaluation have added up to: counts and sums that merge in any order.

A sum is a pair of float64, the sum and what its rounding lost, kept along the first dimension of an
array. What a row adds is rounded to float64 before it is added, so that sums, and all that follows
from them, are the same to 1e-15 whatever the order of rows, blocks and merges.
"""

import numpy as np

from . import _core

# The orders are those of `_core.add_rows`.

# Σ over the rows that count. v is the weight, hit whether the prediction is the label; "vv" stands
# for v². Rows without probabilities add to "v bad" and "vv bad" alone, those of infinite loss
# nothing to the loss's sums, the slope and the curvature.
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
    "v confidence",
    "v slope",
    "v curvature",
)
COUNTS = ("good", "ignored", "bad", "infinite", "hit")

# Σ over the rows of a bin
OF_BINS = ("v", "vv", "v confidence", "v hit", "vv confidence (1 - confidence)")


class State:
    """Counts and sums of ``n_rows`` rows.

    ``counts`` and ``sums`` are in the order of `COUNTS` and `SUMS`, each with an entry for every k
    of ``top_k`` after them; ``bins`` and ``cells`` are (sums, counts) of bins of equal width and of
    the cells of `_core.cells_of`; ``classes`` are None or the Σ v (y - p) of each class and bin.
    """

    def __init__(self, top_k, n_bins):
        self.top_k = top_k
        self.n_bins = n_bins
        self.n_classes = None
        self.n_rows = 0
        self.first_bad = self.first_nonfinite = None
        self.counts = np.zeros(len(COUNTS) + len(top_k), np.int64)
        self.sums = np.zeros((2, len(SUMS) + len(top_k)))
        self.bins = _no_bins(n_bins)
        self.cells = _no_bins(N_CELLS)
        self.classes = None

    def add(self, columns, weights, n_threads):
        """Add the rows of `Columns` with their weights, or None for 1 each."""
        first_bad, first_infinite = (
            None if row < 0 else self.n_rows + row
            for row in _core.add_rows(
                columns,
                weights,
                np.array([min(k, self.n_classes) for k in self.top_k], np.int64),
                edges_of(self.n_bins),
                self.counts,
                self.sums,
                *self.bins,
                *self.cells,
                n_threads,
            )
        )
        self.first_bad = _first(self.first_bad, first_bad)
        self.first_nonfinite = _first(self.first_nonfinite, first_bad, first_infinite)
        self.n_rows += len(columns.rank)

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
        for name in ("first_bad", "first_nonfinite"):
            row = getattr(other, name)
            later = None if row is None else self.n_rows + row
            setattr(self, name, _first(getattr(self, name), later))
        self.n_rows += other.n_rows
        if self.n_classes is None:
            self.n_classes = other.n_classes
        self.counts += other.counts
        _accumulate(self.sums, *other.sums)
        for own, others in ((self.bins, other.bins), (self.cells, other.cells)):
            _accumulate(own[0], *others[0])
            own[1][...] += others[1]
        if other.classes is not None:
            if self.classes is None:
                self.classes = np.zeros_like(other.classes)
            _accumulate(self.classes, *other.classes)


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
    return _core.bins_of(np.ascontiguousarray(confidence), edges_of(n_bins))


def cell_ends():
    """The upper end of each cell of `_core.cells_of`: no confidence of a later cell is as small."""
    shift, lowest, nearest, half = _core.cell_bits
    low = (np.arange(lowest + 1, half + 1) << shift).view(np.float64)
    doubt = (np.arange(nearest, half)[::-1] << shift).view(np.float64)
    high = 1.0 - doubt
    high = np.where(1.0 - high < doubt, np.nextafter(high, 0), high)
    return np.concatenate([low, high, [1.0]])


N_CELLS = len(cell_ends())


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
