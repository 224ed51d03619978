"""What one call of the fully connected layer's loss makes of a margin (margins.py): numbers for the
kernels before, and what they leave of the gradients after.
"""

import numpy as np

from . import _core

# Rows that are worked on together, and entries of those that have to be copied for it.
_ROWS_AT_ONCE = 1 << 12
_COPIED_AT_ONCE = 1 << 16
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


class Vectors:
    """Rows of a matrix of float32 or float64, each contiguous, and their norms.

    Which rows, an array of int64 tells; all unless there is one.
    """

    def __init__(self, matrix, rows, n_threads, norms=None):
        self.matrix, self.rows = matrix, rows
        self.norms = self._norms(n_threads) if norms is None else norms

    def __len__(self):
        return len(self.matrix if self.rows is None else self.rows)

    def _norms(self, n_threads):
        """Euclidean norms, 0 for those below `_SMALLEST_NORM`."""
        self.norms = None
        squares = _core.squares(self, n_threads)
        result = np.sqrt(squares)
        least, most = _SAFE_SQUARES
        for k in np.flatnonzero((squares < least) | (squares > most)):
            vector = self.matrix[k if self.rows is None else self.rows[k]].astype(np.float64)
            largest = np.abs(vector).max(initial=0)
            if 0 < largest < np.inf:
                result[k] = largest * np.sqrt(np.dot(vector / largest, vector / largest))
        return np.where(result < _SMALLEST_NORM, 0.0, result)


class Pairs:
    """Norms of features of some rows and of the weights of their labels, and the angles between."""

    def __init__(self, x, w, n_threads):
        self.x_norm, self.w_norm = x.norms, w.norms
        self.either_is_zero = (self.x_norm == 0) | (self.w_norm == 0)
        cosine, sine = _core.angles(x, w, n_threads)
        self.sine = np.where(self.either_is_zero, 1.0, sine)
        self.cosine = np.clip(cosine, -1.0, 1.0)


class Applied:
    """One call's margin: what it changes for the kernels, and the rest of the gradients."""

    def __init__(self, margin, layer, problem):
        self.margin, self.layer, self.labels = margin, layer, problem.targets.codes
        self.feature_scale = self.weight_scale = None
        n_rows = len(layer.features.array)
        self.label_logits, self.label_gradients = np.zeros(n_rows), np.zeros(n_rows)

    def prepare(self, rows, n_threads):
        """Before the work, for the rows that count: their numbers."""
        self.rows, self.n_threads = rows, n_threads
        if self.margin._normalises:
            self.feature_scale = np.zeros(len(self.labels))
            self.weight_norms = np.concatenate([w.norms for _, w in self._all_weights()])
            self.weight_scale = _quotient(1.0, self.weight_norms)
        for part, x, w in self._pairs():
            pairs = Pairs(x, w, n_threads)
            self.label_logits[part] = self.margin._label(pairs).logits
            if self.margin._normalises:
                self.feature_scale[part] = _quotient(self.margin.scale, pairs.x_norm)

    def complete(self, grads):
        """After the work, which has left the labels' own part to this."""
        if self.margin._normalises and grads.weights is not None:
            for part, w in self._all_weights(self.weight_norms):
                scale = self.weight_scale[part]
                self._add(grads.weights[part], None, w, scale=scale)
        for part, x, w in self._pairs():
            label = self.margin._label(Pairs(x, w, self.n_threads))
            by_x = self.label_gradients[part] * label.by_x
            by_w = self.label_gradients[part] * label.by_w
            if grads.features is not None:
                scale = self.feature_scale[part] if self.margin._normalises else None
                parts = by_x * label.own, by_x * label.other
                self._add(grads.features, _numbers(part), x, w, parts, scale)
            if grads.weights is not None:
                parts = by_w * label.own, by_w * label.other
                y = self.labels[part].astype(np.int64)
                self._add(grads.weights, y, w, x, parts, are_repeated=True)

    def _add(self, grad, rows, own, other=None, parts=(None, None), scale=None, are_repeated=False):
        _core.add_vector_gradients(
            grad, rows, own, other, scale, *parts, are_repeated, self.n_threads
        )

    def _all_weights(self, norms=None):
        """Slices of the classes, and `Vectors` of their weights."""
        weights = self.layer.weights
        for part in _parts(range(len(weights.array)), self._step(weights)):
            some = None if norms is None else norms[part]
            yield part, self._vectors(weights, part, some)

    def _pairs(self):
        """Numbers of rows, and `Vectors` of their features and of the weights of their labels."""
        features, weights = self.layer.features, self.layer.weights
        for part in _parts(self.rows, min(self._step(features), self._step(weights))):
            y = self.labels[part]
            norms = self.weight_norms[y] if self.margin._normalises else None
            yield part, self._vectors(features, part), self._vectors(weights, y, norms)

    def _step(self, source):
        """How many rows are worked on together: few where they are copied."""
        n_features = source.array.shape[1]
        return _ROWS_AT_ONCE if _is_ready(source) else max(1, _COPIED_AT_ONCE // max(1, n_features))

    def _vectors(self, source, rows, norms=None):
        if not _is_ready(source):
            matrix = source._replace(array=source.array[rows]).widened(self.layer.dtype)
            return Vectors(matrix, None, self.n_threads, norms)
        if isinstance(rows, slice):
            return Vectors(source.array[rows], None, self.n_threads, norms)
        return Vectors(source.array, rows.astype(np.int64), self.n_threads, norms)


def _parts(numbers, step):
    """Some at a time: slices of a range, arrays of other numbers."""
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]
        yield slice(part.start, part.stop) if isinstance(part, range) else part


def _numbers(part):
    return np.arange(part.start, part.stop) if isinstance(part, slice) else part


def _is_ready(source):
    """Whether the vectors can be read where they are."""
    array = source.array
    is_float = array.dtype in (np.float32, np.float64) and array.flags.aligned
    return is_float and array.strides[1] == array.itemsize


def _quotient(a, norm):
    """``a / norm``, and 0 where that is 0."""
    return np.divide(a, norm, out=np.zeros_like(norm), where=norm != 0)
