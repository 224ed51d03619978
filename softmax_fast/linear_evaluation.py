"""Evaluation and calibration of a fully connected layer, from what goes into it."""

from . import _arguments
from ._layer_logits import LabelledLayer, LayerLogits
from ._temperature import SharedPasses, checked_labels, fit
from .evaluation import Evaluator, _row_statistics_of


def row_statistics_linear(
    features,
    weights,
    targets=None,
    *,
    bias=None,
    temperature=1.0,
    ignore_index=-100,
    n_threads=None,
):
    r"""`row_statistics` of ``features @ weights.T + bias``, without holding these logits.

    Parameters
    ----------
    features, weights, bias
        The layer, as for `linear_softmax_loss`: shapes (N, D), (C, D) and (C,).
    targets : array_like of int, shape (N,), optional
        Class indices. Without them ``loss``, ``rank`` and ``brier`` are None.
    temperature : float or array_like of shape (N,), optional
        T, finite and > 0, that the logits are divided by.
    ignore_index, n_threads
        As for `row_statistics`.

    Returns
    -------
    RowStatistics
        Arrays of the shape (N,).

    Raises
    ------
    TypeError
        If a dtype is not accepted, or those of ``features``, ``weights`` and ``bias`` differ.
    IndexError, ValueError
        As `row_statistics`.

    See Also
    --------
    row_statistics : what the numbers are.
    evaluate_linear, linear_softmax_loss

    Notes
    -----
    Statistics of tiles of logits are merged, and the tiles forgotten, as in `linear_softmax_loss`,
    with its memory, and with its losses to the last bit (where more than eight of its rows count).
    Up to 192 classes, of extreme temperatures and where the kernels do not multiply, the logits of
    some rows at a time are there, at most 16 MiB of them or one row. A row's numbers depend on its
    features, the layer and the instruction set alone; where
    `linear_softmax_loss` leaves the products to NumPy's BLAS, on that and on the other rows too.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import row_statistics_linear
    >>> features, weights = np.eye(2), np.array([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
    >>> rows = row_statistics_linear(features, weights, [0, 1])
    >>> rows.prediction, rows.rank
    (array([0, 2]), array([0, 2]))
    """
    logits = LayerLogits(_arguments.layer(features, weights, bias), _arguments.threads(n_threads))
    return _statistics(logits, targets, temperature, ignore_index)


def _statistics(logits, targets, temperature, ignore_index):
    """`row_statistics` of `LayerLogits`."""
    return _row_statistics_of(
        logits.pieces(),
        logits.shape,
        1,
        logits.layer.dtype,
        targets,
        temperature,
        ignore_index,
        logits.n_threads,
    )


def evaluate_linear(
    features,
    weights,
    targets,
    *,
    bias=None,
    temperature=1.0,
    top_k=(1, 5),
    n_bins=15,
    classwise=False,
    sample_weight=None,
    ignore_index=-100,
    nan_policy="propagate",
    n_threads=None,
):
    r"""`evaluate` of ``features @ weights.T + bias``, without holding these logits.

    Parameters
    ----------
    features, weights, bias
        The layer, as for `linear_softmax_loss`: shapes (N, D), (C, D) and (C,).
    targets : array_like of int, shape (N,)
        Class indices.
    sample_weight : array_like, shape (N,), optional
        Weight of each row, finite and >= 0. A row of weight 0 is left out, like an ignored one.
    temperature, top_k, n_bins, classwise, ignore_index, nan_policy, n_threads
        As for `evaluate`.

    Returns
    -------
    Evaluation
        That of the logits.

    Raises
    ------
    TypeError
        If a dtype is not accepted, or those of ``features``, ``weights`` and ``bias`` differ.
    IndexError, ValueError
        As `evaluate`.

    See Also
    --------
    evaluate, row_statistics_linear, linear_softmax_loss

    Notes
    -----
    Hidden states of a language model take a small part of the space of its logits: D numbers for
    each token instead of C. They are multiplied as told at `row_statistics_linear`; with
    ``classwise`` the logits of some rows at a time are there.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import evaluate, evaluate_linear
    >>> rng = np.random.default_rng(0)
    >>> features, weights = rng.normal(size=(6, 4)), rng.normal(size=(3, 4))
    >>> targets = [0, 1, 2, 0, 1, 2]
    >>> result = evaluate_linear(features, weights, targets)
    >>> bool(np.isclose(result.loss, evaluate(features @ weights.T, targets).loss))
    True
    """
    evaluator = Evaluator(
        temperature=temperature,
        top_k=top_k,
        n_bins=n_bins,
        classwise=classwise,
        ignore_index=ignore_index,
        nan_policy=nan_policy,
        n_threads=n_threads,
    )
    logits = LayerLogits(_arguments.layer(features, weights, bias), evaluator.n_threads)
    return _update(evaluator, logits, targets, sample_weight).result()


def _update(evaluator, logits, targets, sample_weight):
    """Add the rows of `LayerLogits` to an `Evaluator`."""
    pieces = logits.pieces(with_logits=evaluator._options.classwise)
    return evaluator._add_rows(pieces, logits.shape, 1, targets, sample_weight)


def fit_temperature_linear(
    features,
    weights,
    targets,
    *,
    bias=None,
    sample_weight=None,
    ignore_index=-100,
    nan_policy="raise",
    n_threads=None,
):
    r"""`fit_temperature` of ``features @ weights.T + bias``, without holding these logits.

    Parameters
    ----------
    features, weights, bias
        The layer, as for `linear_softmax_loss`: shapes (N, D), (C, D) and (C,).
    targets : array_like of int, shape (N,)
        Class indices.
    sample_weight : array_like, shape (N,), optional
        Weight of each row, finite and >= 0.
    ignore_index, nan_policy, n_threads
        As for `fit_temperature`.

    Returns
    -------
    TemperatureFit
        That of the logits; ``n_passes`` is how often the layer was multiplied.

    Raises
    ------
    TypeError
        If a dtype is not accepted, or those of ``features``, ``weights`` and ``bias`` differ.
    IndexError, ValueError
        As `fit_temperature`.

    See Also
    --------
    fit_temperature, evaluate_linear

    Notes
    -----
    Each pass multiplies the layer again, and holds the logits of some rows at a time, at most 16 MiB
    of them or one row; those of few rows stay, and are multiplied once. Of many rows a sample is
    fitted first, multiplied once; the first product of all rows then serves both for T = 1 and for
    the T of the sample and others around it, and in most cases the second ends at the root between
    these.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import fit_temperature_linear
    >>> features, weights = np.ones((5, 1)), np.log([[3.0], [1.0]])
    >>> fit = fit_temperature_linear(features, weights, [0, 0, 0, 1, 1])
    >>> round(fit.temperature, 6), fit.status
    (2.709511, 'converged')
    """
    layer = _arguments.layer(features, weights, bias)
    logits = LayerLogits(layer, _arguments.threads(n_threads))
    ignored = _arguments.ignore_index(ignore_index)
    nan_policy = _arguments.nan_policy(nan_policy)
    labels, v, exponent = checked_labels(targets, logits.shape, 1, sample_weight, ignored)
    rows = LabelledLayer(logits, labels, v, ignored, exponent)
    sums_at = SharedPasses(rows.look, rows.starts())
    result = fit(
        sums_at,
        nan_policy=nan_policy,
        row_error=lambda row: _arguments.nonfinite_row_error((row,)),
        start=sums_at.start,
    )
    return result._replace(n_passes=rows.n_passes)
