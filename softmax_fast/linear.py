"""Softmax loss of a fully connected layer, tile by tile, without the logits of all rows.

Fused kernels do it (kernels/linear.c), but for what `_Evaluation._is_fused` leaves: then NumPy's BLAS
multiplies, tile by tile.
"""

import math
from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout, _threads
from ._core import loss_problem
from ._margins import Applied
from .margins import AngularMargin, CosineMargin, LargeMargin

BUFFER_BYTES = 32 << 20
"""Bytes of working memory of `linear_softmax_loss` and `linear_softmax_loss_and_grad`, about, where
NumPy's BLAS multiplies; the fused kernels take no more than half of the default.

Half holds a tile of logits, a quarter each tiles of features and of weights. Read at each call; set
``softmax_fast.linear.BUFFER_BYTES`` to change it. Where one row of logits or features does not fit
its share, the buffer is that row. Results may differ in their last bits between sizes.
"""

# Rows in a tile: enough to hide the reading of the weights behind the products.
_TILE_ROWS = 1024
# With tiles of at least this many whole rows, each logit is computed once for the gradient.
_FEWEST_WHOLE_ROWS = 256
# Class probabilities that are looked at together.
_TARGETS_AT_ONCE = 1 << 16
# Rows whose float32 gradients are summed as such before the sum goes on in float64.
_BIAS_ROWS = 32


class LinearGrads(NamedTuple):
    """Gradients of `linear_softmax_loss`, each of the shape of its argument, or None."""

    features: np.ndarray | None
    weights: np.ndarray | None
    bias: np.ndarray | None


def linear_softmax_loss(
    features,
    weights,
    targets,
    *,
    bias=None,
    margin=None,
    temperature=1.0,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    out=None,
    n_threads=None,
):
    r"""Softmax loss of ``features @ weights.T + bias``, without holding these logits.

    Parameters
    ----------
    features : array_like, shape (N, D)
        Input of the layer: float16, bfloat16 (of the package ``ml_dtypes``), float32, float64, an
        integer dtype or bool.
    weights : array_like, shape (C, D)
        Weights of the layer. They and ``bias`` are of the dtype of ``features``, where float16,
        bfloat16 and float32 count as one, and so do float64, integers and bool.
    targets : array_like, shape (N,) or (N, C)
        Class indices of an integer dtype, or class probabilities of a floating dtype.
    bias : array_like, shape (C,), optional
        Bias of the layer.
    margin : LargeMargin, CosineMargin or AngularMargin, optional
        What makes the label's logit harder to win with; for class indices, without a bias. The other
        options are of the logits that result.
    temperature : float or array_like of shape (N,), optional
        T, finite and > 0, that the logits are divided by.
    weight : array_like, shape (C,), optional
        Weight of each class in the loss, finite and >= 0.
    sample_weight, ignore_index, label_smoothing, reduction, out
        As for `softmax_loss`; the rows have the shape (N,).
    n_threads : int, optional
        At most this many threads. Where NumPy's BLAS multiplies (see Notes), the product's are its
        own.

    Returns
    -------
    numpy.float64 or ndarray
        As of `softmax_loss`; the dtype for "none" is float32 for float16, bfloat16 and float32
        features, float64 otherwise.

    Raises
    ------
    TypeError
        If a dtype is not accepted, or those of ``features``, ``weights`` and ``bias`` differ.
    IndexError, ValueError
        As `softmax_loss`.

    See Also
    --------
    linear_softmax_loss_and_grad, softmax_loss

    Notes
    -----
    The loss is that of `softmax_loss` with logits :math:`x = F W^T + b`. Rows go through in tiles;
    where C is large so do classes, with a running maximum m and sum s of exponentials [1]_ that
    merge as

    .. math:: (m, s) = \Bigl(\max(m_1, m_2),\;
              s_1 e^{(m_1 - m) / T} + s_2 e^{(m_2 - m) / T}\Bigr)

    as soon as they have been multiplied, in kernels that need no BLAS. The memory beside the
    arguments is some MiB, one more for each thread, and a few bytes a row. Rows with the label
    ``ignore_index`` and rows of weight 0 are left out of the products. The bits of the result depend
    on N, C, D, the instruction set, and on whether gradients are asked for, not on ``n_threads``.

    Without vector instructions, with more features than a panel of rows has room for (65536 in
    float32 with AVX-512, 7680 for gradients), and where a temperature or weight lies beyond the
    range of the features' dtype, the products are those of NumPy's BLAS, into reused buffers of
    about `softmax_fast.linear.BUFFER_BYTES`, and the bits depend on that too.

    References
    ----------
    .. [1] M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax" (2018),
       :arxiv:`1805.02867`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import linear_softmax_loss, softmax_loss
    >>> rng = np.random.default_rng(0)
    >>> features, weights = rng.normal(size=(6, 4)), rng.normal(size=(3, 4))
    >>> targets = [0, 1, 2, 0, 1, 2]
    >>> loss = linear_softmax_loss(features, weights, targets)
    >>> bool(np.isclose(loss, softmax_loss(features @ weights.T, targets)))
    True
    """
    layer, problem, margin, checked, n_threads = _checked(
        features,
        weights,
        targets,
        bias,
        margin,
        out,
        n_threads,
        temperature=temperature,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    loss = _Evaluation(layer, problem, margin, checked, n_threads)
    loss.run()
    return loss.reduced(out)


def linear_softmax_loss_and_grad(
    features,
    weights,
    targets,
    *,
    bias=None,
    margin=None,
    wrt=("features", "weights", "bias"),
    temperature=1.0,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    out=None,
    n_threads=None,
):
    r"""Softmax loss of ``features @ weights.T + bias``, and its gradients.

    Parameters
    ----------
    features, weights, targets, bias, margin, temperature, weight, sample_weight, ignore_index, \
    label_smoothing, out, n_threads
        As for `linear_softmax_loss`.
    wrt : str or tuple of str, optional
        Which gradients are wanted: "features", "weights", "bias". What is not costs nothing, as of a
        layer whose weights are frozen.
    reduction : {"mean", "sum", "none"}, optional
        The gradients are scaled as the loss is: by the denominator of the mean, or by 1 for "sum"
        and "none".

    Returns
    -------
    loss : numpy.float64 or ndarray
        As of `linear_softmax_loss`.
    grads : LinearGrads
        Named tuple ``(features, weights, bias)`` of new arrays of the shapes (N, D), (C, D), (C,),
        float32 or float64 as the loss for "none"; None what is not wanted, and ``bias`` without a
        bias. The gradient of the features of a row that is ignored or of weight 0 is exactly 0, and
        the row counts for nothing in the others even if it holds NaN.

    Raises
    ------
    TypeError, IndexError, ValueError
        As `linear_softmax_loss`.

    See Also
    --------
    linear_softmax_loss, softmax_loss_and_grad

    Notes
    -----
    With G the gradient of `softmax_loss` with respect to the logits, (N, C),

    .. math:: \frac{\partial L}{\partial F} = G W, \quad
              \frac{\partial L}{\partial W} = G^T F, \quad
              \frac{\partial L}{\partial b} = \sum_i G_i

    tile by tile, with the memory of `linear_softmax_loss` and that of the results. Where C is large
    the logits are computed twice, for the sums and for G, as in [1]_.

    References
    ----------
    .. [1] E. Wijmans et al., "Cut your losses in large-vocabulary language models" (2024),
       :arxiv:`2411.09009`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import linear_softmax_loss_and_grad
    >>> features, weights = np.eye(2), np.zeros((2, 2))
    >>> loss, grads = linear_softmax_loss_and_grad(features, weights, [0, 1])
    >>> float(loss.round(6))
    0.693147
    >>> print(grads.weights)
    [[-0.25  0.25]
     [ 0.25 -0.25]]
    >>> grads.bias is None
    True
    """
    wanted = _arguments.wanted(wrt)
    layer, problem, margin, checked, n_threads = _checked(
        features,
        weights,
        targets,
        bias,
        margin,
        out,
        n_threads,
        temperature=temperature,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    like = {"features": layer.features.array, "weights": layer.weights.array, "bias": layer.bias}
    grads = LinearGrads(
        **{
            name: np.zeros(array.shape, np.float64 if name == "bias" else layer.dtype)
            if name in wanted and array is not None
            else None
            for name, array in like.items()
        }
    )
    loss = _Evaluation(layer, problem, margin, checked, n_threads, grads)
    loss.run()
    if grads.bias is not None:
        with np.errstate(all="ignore"):
            grads = grads._replace(bias=grads.bias.astype(layer.dtype, copy=False))
    return loss.reduced(out), grads


def _checked(features, weights, targets, bias, margin, out, n_threads, **options):
    layer = _arguments.layer(features, weights, bias)
    shape = layer.features.array.shape[0], layer.weights.array.shape[0]
    problem = loss_problem(targets, shape, 1, shape[1], **options)
    kinds = LargeMargin, CosineMargin, AngularMargin
    margin = _arguments.margin(margin, kinds, layer.bias, problem.has_labels)
    margin = None if margin is None or margin._is_plain else Applied(margin, layer, problem)
    n_threads = _arguments.threads(n_threads)
    inputs = {
        "features": layer.features.array,
        "weights": layer.weights.array,
        "bias": layer.bias,
    }
    checked = problem.output(out, layer.dtype, inputs)
    return layer, problem, margin, checked, n_threads


class _Evaluation:
    """One evaluation of the loss, and of the gradients when ``grads`` holds their zeroed arrays."""

    def __init__(self, layer, problem, margin, checked, n_threads, grads=None):
        self.layer, self.margin, self.grads = layer, margin, grads
        self.feature_scale = self.weight_scale = None
        self.checked, self.n_threads = checked, n_threads
        self.n_rows, self.n_features = layer.features.array.shape
        self.n_classes = problem.n_classes
        self.problem, self.weight_sum = problem, problem.weigh()
        self.scale = problem.gradient_scale(self.weight_sum)
        self.row_losses = problem.row_losses(checked, layer.dtype)
        self.kind = "f32" if layer.dtype == np.float32 else "f64"

    def reduced(self, out):
        return self.problem.reduced(self.row_losses, out, self.checked, self.weight_sum)

    def run(self):
        rows = self._rows_that_count()
        if self.row_losses is not None and len(rows) < self.n_rows:
            self.row_losses[...] = 0
        if not len(rows):
            return
        with np.errstate(all="ignore"):
            if self.margin:
                self.margin.prepare(
                    rows, _threads.resolve(self.n_threads, self.layer.weights.array.size)
                )
                self.feature_scale = self.margin.feature_scale
                self.weight_scale = self.margin.weight_scale
            if not self._is_fused():
                self._plan(copies_features=len(rows) < self.n_rows)
                for start in range(0, len(rows), self.tile_rows):
                    self._tile(rows[start : start + self.tile_rows], first=start == 0)
            if self.margin and self.grads:
                self.margin.complete(self.grads)

    def _is_fused(self):
        """Work all out by the fused kernels, unless they leave such a layer to BLAS."""
        products = self.n_rows * self.n_classes * self.n_features
        return _core.fused_linear_loss(
            self.layer.features,
            self.layer.weights,
            self.layer.bias,
            self.problem,
            self.row_losses,
            self.grads,
            self.scale,
            self.margin,
            self._are_targets_fit,
            _threads.resolve(self.n_threads, products),
        )

    def _are_targets_fit(self):
        """Whether sums of a row's class probabilities, weighted, keep their digits in float32."""
        targets, weight = self.problem.targets, self.problem.options.weight
        weight = np.ones(self.n_classes) if weight is None else weight
        some = max(1, _TARGETS_AT_ONCE // self.n_classes)
        with np.errstate(all="ignore"):
            for start in range(0, self.n_rows, some):
                part = targets._replace(array=targets.array[start : start + some])
                shares = np.einsum("rc,c->r", part.widened(np.dtype(np.float64)), weight)
                if not np.all((shares == 0) | ((shares >= 2.0**-64) & (shares <= 2.0**64))):
                    return False
        return True

    def _rows_that_count(self):
        """Numbers of the rows that are not ignored nor of weight 0: a range when these are all."""
        counts = self.problem.counts()
        return range(self.n_rows) if counts is None else np.flatnonzero(counts)

    def _plan(self, copies_features):
        """Choose the tiles; `BUFFER_BYTES` says how the memory is shared out."""
        budget = max(1, BUFFER_BYTES // self.layer.dtype.itemsize)
        row_share = max(1, budget // 4 // max(1, self.n_features))
        rows = min(self.n_rows, _TILE_ROWS)
        if (
            self.grads
            or copies_features
            or not _is_product_ready(self.layer.features, self.feature_scale)
        ):
            rows = min(rows, row_share)
        logits_share = budget // 2
        fits = logits_share // self.n_classes
        if rows <= fits:
            classes = self.n_classes
        elif fits >= _FEWEST_WHOLE_ROWS or self.margin or not self.problem.has_labels:
            rows, classes = max(1, fits), self.n_classes
        else:
            classes = max(1, logits_share // rows)
        self.tile_rows, self.tile_classes = rows, classes
        self.weight_step = min(classes, row_share)
        self.logits_buffer = np.empty(rows * classes, self.layer.dtype)
        self.scratch_buffer = np.empty(0, self.layer.dtype)
        self.smoothing = None
        self.threads = _threads.resolve(self.n_threads, rows * classes)

    def _tile(self, numbers, first):
        rows = numbers
        if isinstance(numbers, range):
            rows = slice(numbers.start, numbers.stop)
        features = _product_ready(self.layer.features, rows, self.feature_scale)
        problem = self.problem.of_rows(rows)
        losses = d_features = None
        if self.row_losses is not None:
            losses = np.empty(len(features), self.layer.dtype)
        if self.grads and self.grads.features is not None:
            d_features = np.empty(features.shape, self.layer.dtype)
        if self.tile_classes == self.n_classes:
            self._whole_rows(features, problem, losses, d_features, first, rows)
        else:
            self._class_tiles(features, problem, losses, d_features, first)
        if losses is not None:
            self.row_losses[rows] = losses
        if d_features is not None:
            self.grads.features[rows] = d_features

    def _whole_rows(self, features, problem, losses, d_features, first, rows):
        logits = self._logits(features, 0, self.n_classes)
        if self.margin:
            at_label = np.arange(len(logits)), problem.targets.codes
            logits[at_label] = self.margin.label_logits[rows]
        x = _layout.Source(logits, self.kind)
        if self.grads:
            problem.evaluate(
                _core.SOFTMAX_LOSS_GRAD,
                x,
                1,
                self.threads,
                row_losses=losses,
                grad=logits,
                scale=self.scale,
            )
            if self.margin:
                self.margin.label_gradients[rows] = logits[at_label]
                logits[at_label] = 0
            self._add_gradients(d_features, logits, features, 0, first)
        else:
            problem.evaluate(_core.SOFTMAX_LOSS, x, 1, self.threads, row_losses=losses)

    def _class_tiles(self, features, problem, losses, d_features, first):
        """The rows of a tile, of all classes, from tiles of a part of the classes (labels only)."""
        labels, temperature = problem.targets.codes, problem.temperature
        stats = _RowStats(len(features))
        label_logits = np.empty(len(features))
        spans = range(0, self.n_classes, self.tile_classes)
        for start in spans:
            logits = self._logits(features, start, start + self.tile_classes)
            stats.merge(self._row_stats(logits, temperature), temperature)
            inside = _inside(labels, start, logits)
            label_logits[inside] = logits[inside, labels[inside] - start]

        parts = self._row_parts(features, problem, stats, label_logits)
        problem.sums.add(parts.losses)
        if losses is not None:
            losses[...] = parts.losses
        if not self.grads:
            return
        for start in spans:
            grad = self._logits(features, start, start + self.tile_classes)
            self._exponentials(grad, stats.maximum, parts.scale, temperature)
            if parts.smoothing is not None:
                _subtract_outer(grad, parts.smoothing, self._class_weights(start, grad))
            inside = _inside(labels, start, grad)
            grad[inside, labels[inside] - start] = parts.label_grads[inside]
            for row in np.flatnonzero(parts.left != 1):
                grad[row] = grad[row] / parts.left[row]
            self._add_gradients(d_features, grad, features, start, first)

    def _row_parts(self, features, problem, stats, label_logits):
        """Loss and parts of the gradient of rows, by the formulas of `softmax_loss`, in float64."""
        temperature, options = problem.temperature, problem.options
        alpha = options.label_smoothing
        log_sum = np.log1p(stats.rest)
        log_p = _quotient(label_logits, stats.maximum, temperature) - log_sum
        log_p[~np.isfinite(stats.maximum)] = np.nan
        v = 1.0 if problem.sample_weight is None else problem.sample_weight
        label_weight = 1.0 if options.weight is None else options.weight[problem.targets.codes]
        on_label = np.broadcast_to((1 - alpha) * v * label_weight, log_p.shape)
        losses = -_weighted(on_label, log_p)
        total, on_class = on_label, 0.0
        if alpha:
            weight_sum, weighted_logits = self._weighted_logits(features)
            on_class = alpha / self.n_classes * v
            on_each = np.broadcast_to(on_class, log_p.shape)
            losses += _weighted(on_each, weight_sum * log_sum)
            below = weight_sum * stats.maximum - weighted_logits
            losses += _weighted(on_each, below) / temperature
            total = on_label + on_class * weight_sum
        # The gradient is divided by T here, but for rows where the factors would overflow by it, or
        # do without it: what is left to divide by comes at the end.
        factor = total * self.scale
        largest = np.finfo(self.layer.dtype).max
        undivided = (factor <= largest) & (factor / temperature > largest)
        divisor = np.where(undivided, 1.0, temperature)
        too_large = np.isfinite(factor / divisor) & (factor / divisor > largest)
        power = np.where(too_large, np.exp2(np.frexp(factor / divisor / largest)[1] + 1.0), 1.0)
        left = np.where(undivided, temperature, 1.0) / power
        divisor = divisor * power
        smoothing = np.broadcast_to(on_class * self.scale / divisor, log_p.shape) if alpha else None
        # d/dx = (total·p − target) / T, at the label without cancellation for p near 1.
        off_label = total - on_label - on_class * label_weight
        label_grads = (total * np.expm1(log_p) + off_label) * self.scale / divisor
        scale = factor / divisor / (1 + stats.rest)
        scale = np.where(np.isfinite(stats.maximum), scale, np.nan)
        return _RowParts(losses, scale, label_grads, smoothing, left)

    def _weighted_logits(self, features):
        """Σ w, and Σ w·logits of rows, where w > 0, as one product: F (Σ w W) + Σ w b."""
        if self.smoothing is None:
            vector, offset, total = np.zeros(self.n_features), 0.0, 0.0
            step = max(1, self.weight_step // 4)
            for start in range(0, self.n_classes, step):
                stop = min(start + step, self.n_classes)
                w = np.ones(stop - start)
                if self.problem.options.weight is not None:
                    w = self.problem.options.weight[start:stop]
                used = w > 0
                rows = start + np.flatnonzero(used)
                part = _layout.Source(self.layer.weights.array[rows], self.layer.weights.kind)
                vector += w[used] @ part.widened(np.float64)
                if self.layer.bias is not None:
                    offset += float(w[used] @ self.layer.bias[rows])
                total += float(w.sum())
            self.smoothing = vector, offset, total
        vector, offset, total = self.smoothing
        return total, features @ vector + offset

    def _class_weights(self, start, logits):
        if self.problem.options.weight is None:
            return np.ones(logits.shape[1])
        return self.problem.options.weight[start : start + logits.shape[1]]

    def _logits(self, features, start, stop):
        """features @ weights[start:stop].T + bias[start:stop], in the one buffer for logits."""
        stop = min(stop, self.n_classes)
        shape = len(features), stop - start
        logits = self.logits_buffer[: math.prod(shape)].reshape(shape)
        return _product(
            self.layer, features, start, stop, self.weight_step, logits, self.weight_scale
        )

    def _add_gradients(self, d_features, grad, features, start, first):
        """Add what the classes of one tile of logit gradients contribute to the three gradients."""
        stop = start + grad.shape[1]
        tiles = _weight_tiles(self.layer.weights, start, stop, self.weight_step, self.weight_scale)
        for low, high, weights in tiles if d_features is not None else ():
            part = grad[:, low - start : high - start]
            if low == 0:
                np.matmul(part, weights, out=d_features)
            else:
                d_features += np.matmul(part, weights, out=self._scratch(d_features.shape))
        steps = range(start, stop, self.weight_step)
        for low in steps if self.grads.weights is not None else ():
            part = grad[:, low - start : low - start + self.weight_step]
            d_weights = self.grads.weights[low : low + part.shape[1]]
            if first:
                np.matmul(part.T, features, out=d_weights)
            else:
                d_weights += np.matmul(part.T, features, out=self._scratch(d_weights.shape))
        if self.grads.bias is not None:
            for row in range(0, len(grad), _BIAS_ROWS):
                self.grads.bias[start:stop] += grad[row : row + _BIAS_ROWS].sum(axis=0)

    def _scratch(self, shape):
        """A buffer for a product that is added to a gradient."""
        size = math.prod(shape)
        if self.scratch_buffer.size < size:
            self.scratch_buffer = np.empty(size, self.layer.dtype)
        return self.scratch_buffer[:size].reshape(shape)

    def _block(self, logits, temperature, out=None):
        x = _layout.Source(logits, self.kind)
        (block,) = _layout.row_blocks(x, 1, out=out, temperature=temperature)
        return block

    def _row_stats(self, logits, temperature):
        maximum, rest = np.empty(len(logits)), np.empty(len(logits))
        _core.row_stats(self._block(logits, temperature), maximum, rest, self.threads)
        return maximum, rest

    def _exponentials(self, logits, shift, scale, temperature):
        """Overwrite logits by scale · exp((logits - shift) / T)."""
        _core.exponentials(self._block(logits, temperature, logits), shift, scale, self.threads)


class _RowParts(NamedTuple):
    """Per row: the loss; factor of the exponentials; gradient at the label; share of each class.

    ``left`` is what the gradient of a row is still to be divided by.
    """

    losses: np.ndarray
    scale: np.ndarray
    label_grads: np.ndarray
    smoothing: np.ndarray | None
    left: np.ndarray


class _RowStats:
    """Running maximum m of rows and rest = Σ exp((x - m)/T) - 1; -inf and -1 over nothing."""

    def __init__(self, n_rows):
        self.maximum = np.full(n_rows, -np.inf)
        self.rest = np.full(n_rows, -1.0)

    def merge(self, other, temperature):
        maximum, rest = other
        gap = np.abs(_quotient(maximum, self.maximum, temperature))
        fade = np.exp(-np.where(maximum == self.maximum, 0.0, gap))
        self.rest = np.where(
            self.maximum >= maximum,
            self.rest + (1 + rest) * fade,
            rest + (1 + self.rest) * fade,
        )
        self.maximum = np.maximum(self.maximum, maximum)


def _quotient(x, m, temperature):
    """(x - m)/T, also where x - m overflows."""
    difference = x - m
    overflows = np.isinf(difference) & np.isfinite(x) & np.isfinite(m)
    halves = (0.5 * x - 0.5 * m) / temperature * 2
    return np.where(overflows, halves, difference / temperature)


def _is_product_ready(source, scale=None):
    """Whether BLAS takes the matrix as it is: of full width, with contiguous rows or columns."""
    if source.is_half or scale is not None:
        return False
    (n, m), (row, column) = source.array.shape, source.array.strides
    size = source.array.itemsize
    return (column == size and row >= m * size) or (row == size and column >= n * size)


def _product_ready(source, rows=slice(None), scale=None):
    """Some rows of a matrix as BLAS takes them, each times its ``scale`` unless that is None."""
    part = source._replace(array=source.array[rows])
    if scale is not None:
        scaled = part.widened(np.dtype(np.float64)) * scale[rows, None]
        return scaled.astype(source.result_dtype, copy=False)
    return part.array if _is_product_ready(source) else part.widened(source.result_dtype)


def _weight_tiles(weights, start, stop, step, scale=None):
    """Weights of the classes as BLAS takes them: one view, or copies of ``step`` classes each."""
    step = stop - start if _is_product_ready(weights, scale) else step
    for first in range(start, stop, step):
        last = min(first + step, stop)
        yield first, last, _product_ready(weights, slice(first, last), scale)


def _product(layer, features, start, stop, step, out, scale=None):
    """features @ weights[start:stop].T + bias[start:stop] by BLAS, which takes these features.

    Weights are multiplied by a ``scale`` a class unless that is None.
    """
    for first, last, weights in _weight_tiles(layer.weights, start, stop, step, scale):
        part = out[:, first - start : last - start]
        np.matmul(features, weights.T, out=part)
        if layer.bias is not None:
            part += layer.bias[first:last]
    return out


def _inside(labels, start, logits):
    return np.flatnonzero((labels >= start) & (labels < start + logits.shape[1]))


def _weighted(weight, value):
    """``weight * value``, and 0 where a weight of 0 meets an infinity."""
    return np.where((weight == 0) & np.isinf(value), 0.0, weight * value)


def _subtract_outer(grad, rows, classes):
    """``grad -= outer(rows, classes)`` by a few rows at a time."""
    step = 32
    for start in range(0, len(grad), step):
        part = slice(start, start + step)
        grad[part] -= np.multiply.outer(rows[part], classes).astype(grad.dtype, copy=False)
