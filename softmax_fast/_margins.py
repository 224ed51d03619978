"""What one call of the fully connected layer's loss makes of a margin (margins.py): numbers for the
kernels before, and what they leave of the gradients after.
"""

import numpy as np

from . import _core

# Entries of the rows that are worked on together, in float64.
_ENTRIES_AT_ONCE = 1 << 16
# Below, a norm counts as 0: its inverse is to be finite.
_SMALLEST_NORM = 2.0**-1000
# Squares of norms that neither overflow nor lose digits.
_SAFE_SQUARES = 1e-280, 1e280
SINE_ERROR = 4 * np.finfo(np.float64).eps
"""Of a unit vector, what rounding leaves across another one that is parallel to it."""


class Label:
    """The label's logits of some rows, and their gradients as what unit vectors are multiplied by.

    With respect to the features that is by_x (own u + other v), u along them and v along the weights,
    and with respect to the weights by_w (own v + other u).
    """

    def __init__(self, logits, own, other, by_x, by_w):
        self.logits, self.own, self.other = logits, own, other
        self.by_x, self.by_w = by_x, by_w

    @classmethod
    def of_cosine(cls, margin, pairs, value, slope):
        """The scale times a function of the cosine, of that value and slope."""
        by = (_quotient(margin.scale, norm) for norm in (pairs.x_norm, pairs.w_norm))
        return cls(margin.scale * value, -pairs.cosine * slope, slope, *by)


class Pairs:
    """Features of some rows and the weights of their labels: unit vectors, norms and angles."""

    def __init__(self, x, w):
        self.x_norm, self.w_norm = norms(x), norms(w)
        self.either_is_zero = (self.x_norm == 0) | (self.w_norm == 0)
        self.x, self.w = _units(x, self.x_norm), _units(w, self.w_norm)
        cosine = _dots(self.x, self.w)
        across = self.w - cosine[:, None] * self.x
        # What the first step left along x is as large as the rounding of the cosine.
        across -= _dots(across, self.x)[:, None] * self.x
        self.sine = np.where(self.either_is_zero, 1.0, np.sqrt(_dots(across, across)))
        self.cosine = np.clip(cosine, -1.0, 1.0)


class Applied:
    """One call's margin: what it changes for the kernels, and the rest of the gradients."""

    def __init__(self, margin, layer, problem):
        self.margin, self.layer, self.labels = margin, layer, problem.targets.codes
        n_rows, n_features = layer.features.array.shape
        self.step = max(1, _ENTRIES_AT_ONCE // max(1, n_features))
        self.feature_scale = self.weight_scale = None
        self.label_logits, self.label_gradients = np.zeros(n_rows), np.zeros(n_rows)

    def prepare(self, rows, n_threads):
        """Before the work, for the rows that count: their numbers."""
        self.rows = rows
        if self.margin._normalises:
            self.feature_scale = np.zeros(len(self.labels))
            self.weight_norms = self._norms_of_weights(n_threads)
            self.weight_scale = _quotient(1.0, self.weight_norms)
        for part in self._parts(rows):
            pairs = self._pairs(part)
            self.label_logits[part] = self.margin._label(pairs).logits
            if self.margin._normalises:
                self.feature_scale[part] = _quotient(self.margin.scale, pairs.x_norm)

    def complete(self, grads):
        """After the work, which has left the labels' own part to this."""
        if self.margin._normalises and grads.weights is not None:
            for part in self._parts(range(len(self.weight_scale))):
                scale = self.weight_scale[part]
                weights = self._weights(part)
                units = _units(weights, self.weight_norms[part])
                grads.weights[part] = _across(grads.weights[part], units) * scale[:, None]
        for part in self._parts(self.rows):
            pairs = self._pairs(part)
            label = self.margin._label(pairs)
            by_x = (self.label_gradients[part] * label.by_x)[:, None]
            by_w = (self.label_gradients[part] * label.by_w)[:, None]
            own, other = label.own[:, None], label.other[:, None]
            if grads.features is not None:
                d_features = grads.features[part].astype(np.float64)
                if self.margin._normalises:
                    d_features = _across(d_features, pairs.x) * self.feature_scale[part][:, None]
                grads.features[part] = d_features + by_x * (own * pairs.x + other * pairs.w)
            if grads.weights is not None:
                d_weights = by_w * (own * pairs.w + other * pairs.x)
                _core.add_to_rows(grads.weights, self.labels[part].astype(np.int64), d_weights)

    def _parts(self, numbers):
        """Some at a time: slices of a range, arrays of other numbers."""
        for start in range(0, len(numbers), self.step):
            part = numbers[start : start + self.step]
            yield slice(part.start, part.stop) if isinstance(part, range) else part

    def _pairs(self, rows):
        features = self.layer.features
        x = features._replace(array=features.array[rows]).widened(np.dtype(np.float64))
        return Pairs(x, self._weights(self.labels[rows]))

    def _norms_of_weights(self, n_threads):
        array = self.layer.weights.array
        is_ready = array.dtype in (np.float32, np.float64) and array.flags.aligned
        if is_ready and array.strides[1] == array.itemsize:
            return _roots(_core.row_squares(array, n_threads), self._weights)
        result = np.empty(len(array))
        for part in self._parts(range(len(array))):
            result[part] = norms(self._weights(part))
        return result

    def _weights(self, classes):
        weights = self.layer.weights
        return weights._replace(array=weights.array[classes]).widened(np.dtype(np.float64))


def norms(rows):
    """Euclidean norms of the rows of a float64 matrix, 0 for those below `_SMALLEST_NORM`."""
    return _roots(_core.row_squares(rows, 1), rows.__getitem__)


def _roots(squares, rows):
    result = np.sqrt(squares)
    least, most = _SAFE_SQUARES
    for row in np.flatnonzero((squares < least) | (squares > most)):
        (vector,) = rows(slice(row, row + 1))
        largest = np.abs(vector).max(initial=0)
        if 0 < largest < np.inf:
            result[row] = largest * np.sqrt(np.dot(vector / largest, vector / largest))
    return np.where(result < _SMALLEST_NORM, 0.0, result)


def _units(vectors, norms):
    return vectors / np.where(norms == 0, 1.0, norms)[:, None]


def _across(vectors, units):
    """What of the vectors is across the unit vectors; those that are 0 take nothing away."""
    return vectors - _dots(vectors, units)[:, None] * units


def _dots(a, b):
    return np.einsum("rd,rd->r", a, b)


def _quotient(a, norm):
    """``a / norm``, and 0 where that is 0."""
    return np.divide(a, norm, out=np.zeros_like(norm), where=norm != 0)
