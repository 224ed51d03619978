"""The logits of a fully connected layer, some rows at a time."""

import numpy as np

from . import _arguments, _core, _layout, _threads
from ._row_statistics import columns_of
from ._temperature import LabelledRows, PassSums, sample_of, starts_of
from .linear import _product, _product_ready

# The logits of some rows that are there at once, the copy of their features, and where NumPy's BLAS
# multiplies weights that have to be copied for it, that of some of these.
SLAB_BYTES = 16 << 20
_FEATURES_BYTES = 4 << 20
_WEIGHTS_BYTES = 8 << 20
# More rows hide the reading of the weights no better.
_MOST_ROWS = 2048
# Rows whose columns are there at once.
_MOST_COLUMNS = 16_384
# Rows that the kernels multiply together, or a multiple.
_PANEL = 32
# With so many features or more a pass takes far longer to multiply than to look at the logits.
_SHARED_FROM = 64


class LayerLogits:
    """features @ weights.T + bias of a checked `_arguments.Layer` with at least one class.

    What is computed of a row depends on its features alone, where the kernels multiply.
    """

    def __init__(self, layer, n_threads):
        self.layer, self.n_threads = layer, n_threads
        self.n_rows, self.n_features = layer.features.array.shape
        self.n_classes = len(layer.weights.array)
        self.shape = self.n_rows, self.n_classes
        self.kind = "f32" if layer.dtype == np.float32 else "f64"
        item = layer.dtype.itemsize
        most = SLAB_BYTES // (item * self.n_classes)
        of_features = max(_PANEL, _FEATURES_BYTES // (item * max(1, self.n_features)))
        most = max(1, min(most, of_features, _MOST_ROWS))
        self.slab_rows = most if most < _PANEL else most // _PANEL * _PANEL

    def pieces(self, with_logits=False):
        """What `_row_statistics_of` takes: the columns of rows where the kernels can, and where they
        need no logits, or slabs.
        """

        def pieces(labels, temperature, ignore_index):
            for start in range(0, self.n_rows, _MOST_COLUMNS):
                rows = slice(start, min(start + _MOST_COLUMNS, self.n_rows))
                y, t = (_layout.of_rows(values, rows) for values in (labels, temperature))
                columns = None if with_logits else self.columns(rows, y, t, ignore_index)
                if columns is None:
                    yield from self.slabs(rows)
                else:
                    yield rows, columns

        return pieces

    def slabs(self, within=slice(None)):
        """Yield (slice of rows, `_layout.Source` of their logits), each written over by the next."""
        first, end, _ = within.indices(self.n_rows)
        slab = Slab(self, end - first)
        for start in range(first, end, self.slab_rows):
            rows = slice(start, min(start + self.slab_rows, end))
            yield rows, slab.filled(rows)

    def _features(self, rows):
        features = self.layer.features
        return features._replace(array=features.array[rows])

    def columns(self, rows, labels, temperature, ignore_index):
        """`_row_statistics.Columns` of some rows, without their logits; None where that cannot be.

        ``labels`` are int64 or int32, one a row and checked, or None.
        """
        features = self._features(rows)
        if not features.array.size:
            return None
        n_rows = len(features.array)
        numbers = np.empty((4 if labels is None else 8, n_rows))
        places = np.empty((1 if labels is None else 2, n_rows), np.int64)
        taken = _core.layer_statistics(
            features,
            self.layer.weights,
            self.layer.bias,
            labels,
            temperature,
            _arguments.Options(ignore_index=ignore_index),
            numbers,
            places,
            _threads.resolve(self.n_threads, n_rows * self.n_classes * self.n_features),
        )
        return columns_of(slice(0, n_rows), numbers, places) if taken else None

    def of(self, rows, out=None):
        """The logits of some rows, which a slice or an array of their numbers tells."""
        features = self._features(rows)
        if out is None:
            out = np.empty((len(features.array), self.n_classes), self.layer.dtype)
        size = out.size * max(1, self.n_features)
        n_threads = _threads.resolve(self.n_threads, size)
        if not out.size:
            pass
        elif not self.n_features:
            out[...] = 0 if self.layer.bias is None else self.layer.bias
        elif not _core.layer_logits(features, self.layer.weights, self.layer.bias, out, n_threads):
            step = max(1, _WEIGHTS_BYTES // (self.layer.dtype.itemsize * self.n_features))
            with np.errstate(all="ignore"):
                _product(self.layer, _product_ready(features), 0, self.n_classes, step, out)
        return _layout.Source(out, self.kind)


class Slab:
    """Room for the logits of some rows, at most ``n_rows``, and which rows' are there."""

    def __init__(self, logits, n_rows):
        self.logits, self.rows = logits, None
        self.n_products = 0
        shape = min(logits.slab_rows, n_rows), logits.n_classes
        self.buffer = np.empty(shape, logits.layer.dtype)

    def filled(self, rows):
        """The `_layout.Source` of their logits."""
        out = self.buffer[: rows.stop - rows.start]
        if rows == self.rows:
            return _layout.Source(out, self.logits.kind)
        self.rows = rows
        self.n_products += 1
        return self.logits.of(rows, out)


class LabelledLayer:
    """`LayerLogits` with a label and perhaps a weight for each row, as `LabelledRows` of logits."""

    def __init__(self, logits, labels, sample_weight, ignore_index, exponent):
        self.logits, self.exponent = logits, exponent
        self.labels, self.sample_weight = labels, sample_weight
        self.ignore_index = ignore_index
        n, step = logits.n_rows, logits.slab_rows
        self.parts = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        # As many slabs as there is room for: all but the last stay.
        fitting = SLAB_BYTES // (step * logits.n_classes * logits.layer.dtype.itemsize)
        self.slabs = [Slab(logits, n) for _ in self.parts[: max(1, fitting)]]

    @property
    def n_passes(self):
        """How often the layer was multiplied, rounded up: less often where slabs are still there."""
        return -(-sum(slab.n_products for slab in self.slabs) // max(1, len(self.parts)))

    def _slab(self, part):
        return self.slabs[min(part, len(self.slabs) - 1)]

    def _rows(self, rows, x):
        v = None if self.sample_weight is None else self.sample_weight[rows]
        labels = self.labels[rows]
        return LabelledRows(x, (len(labels),), labels, v, self.ignore_index, self.exponent)

    def _threads(self, size):
        return _threads.resolve(self.logits.n_threads, size)

    def starts(self):
        """`starts_of` some of the rows, evenly spaced, or where they would be too few of the first
        slab; none where all logits stay.
        """
        if len(self.parts) == len(self.slabs):
            return ()
        chosen = sample_of(self.logits.n_rows, self.logits.n_classes)
        if chosen is None:
            sample = self._rows(self.parts[0], self._slab(0).filled(self.parts[0]))
        else:
            sample = self._rows(chosen, self.logits.of(chosen))
        n_threads = self._threads(sample.x.array.size)
        starts = starts_of(lambda beta: sample.sums_at(beta, n_threads))
        return starts if self.logits.n_features >= _SHARED_FROM else starts[1:2]

    def look(self, betas):
        """One pass: the `PassSums` of the rows at each of ``betas``; slabs that are there first."""
        found = {}
        numbers = range(len(self.parts))
        for part in sorted(numbers, key=lambda k: self._slab(k).rows != self.parts[k]):
            rows = self.parts[part]
            x = self._slab(part).filled(rows)
            some, n_threads = self._rows(rows, x), self._threads(x.array.size)
            found[part] = {beta: some.sums_at(beta, n_threads) for beta in betas}
        return {beta: sum((found[k][beta] for k in numbers), PassSums()) for beta in betas}
