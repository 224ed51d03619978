"""The temperature that calibrates a classifier: fitted in a few passes over its logits."""

import numpy as np

from . import _arguments, _threads
from ._temperature import TemperatureFit, fit, labelled_rows, start_of

__all__ = ["TemperatureFit", "fit_temperature"]


def fit_temperature(
    logits,
    targets,
    *,
    axis=-1,
    sample_weight=None,
    ignore_index=-100,
    nan_policy="raise",
    n_threads=None,
):
    r"""Temperature at which the mean softmax loss of logits is least, with its standard error.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Logits, as for `softmax_loss`. Masked classes (-inf) are allowed.
    targets : array_like
        Class indices of any integer dtype and the shape of the rows (that of ``logits`` without
        ``axis``).
    axis : int, optional
        The class axis, the last by default.
    sample_weight : array_like, shape of the rows, optional
        Weight v of each row, finite and >= 0. A row of weight 0 counts for nothing.
    ignore_index : int or None, optional
        Rows with this label count for nothing either; None for no such label.
    nan_policy : {"raise", "omit", "propagate"}, optional
        What becomes of a row that holds NaN or +inf, or nothing but -inf, or whose label's logit is
        -inf: an error that names it, nothing, or a temperature NaN.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    TemperatureFit
        ``(temperature, stderr, loss, loss_before, status, n_passes)``. The status is

        * "converged";
        * "separable": every label is a maximum of its row, so that the loss falls as long as T
          does. T is 0, and the loss its limit, the mean logarithm of the number of ties;
        * "uninformative": the labels' logits are, on average, no more than their rows' means. T is
          inf, and the loss the mean logarithm of the number of classes that are not masked;
        * "constant": all logits of each row are equal, and no T is better than another. T is 1;
        * "nonfinite": a row as told above under "propagate". All is NaN.

        The standard error is NaN but for "converged", and of a single row.

    Raises
    ------
    IndexError
        If a label is outside [0, C) and not ``ignore_index``: the text has the first such row.
    TypeError
        If an argument has a dtype that is not accepted.
    ValueError
        If an argument has another shape than expected or is out of range; if no row is left; of a
        row that ``nan_policy`` does not allow.
    numpy.exceptions.AxisError
        If ``axis`` is out of range.

    See Also
    --------
    evaluate : how well the confidences fit, before and after.
    softmax_loss

    Notes
    -----
    Temperature scaling [1]_ minimises

    .. math:: L(\beta) = \frac{1}{V} \sum_i v_i
              \Bigl(\log \sum_k e^{\beta x_{ik}} - \beta x_{i y_i}\Bigr),
              \quad \beta = 1/T, \quad V = \sum_i v_i,

    which is convex in β, as the logarithm of a sum of exponentials of linear functions is ([2]_,
    section 3.1.5). With p = softmax(βx) a row contributes v·g to the slope of V·L and v·Var_p[x] to
    its curvature, g = E_p[x] - x_y. The zero of the slope is found by Newton's steps from β = 1,
    inside a bracket of points where the slope is negative and positive, with bisection where a step
    leaves it or gains too little; there are no bounds on T. A last step too small to matter is taken
    without another pass. Of many rows, an evenly spaced sample (one in 16 or fewer) is fitted first
    to begin near the end; that is not counted as passes. Ordinary data takes 3 to 9 passes, without
    a copy but of the sample, and T is within 1e-6 relative of the optimum for float64 logits.

    The standard error is that of a misspecified model, the sandwich [3]_:
    se(β) = √(Σ v²g²) / Σ v·Var_p[x], and se(T) = T²·se(β).

    Weights may be of any size: a factor of all of them changes nothing. Logits whose squares are
    beyond float64 (1e200 or 1e-160, say) have no standard error, and the large ones take some fifty
    passes, by bisection. Logits so small that their own digits are few (1e-315, say) may leave T at
    1.

    The result has the same bits whatever the number of threads.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
       networks", ICML (2017), :arxiv:`1706.04599`.
    .. [2] S. Boyd and L. Vandenberghe, "Convex optimization", Cambridge University Press (2004).
    .. [3] H. White, "Maximum likelihood estimation of misspecified models", Econometrica 50 (1982),
       1-25.

    Examples
    --------
    A model that is always as sure as three to one, and right in three rows of five:

    >>> import numpy as np
    >>> from softmax_fast import fit_temperature
    >>> logits = np.log([[3.0, 1.0]] * 5)
    >>> fit = fit_temperature(logits, [0, 0, 0, 1, 1])
    >>> round(fit.temperature, 6), fit.status
    (2.709511, 'converged')
    >>> round(fit.loss_before, 6), round(fit.loss, 6)
    (0.727127, 0.673012)
    """
    rows = labelled_rows(
        logits, targets, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index
    )
    nan_policy = _arguments.nan_policy(nan_policy)
    n_threads = _threads.resolve(_arguments.threads(n_threads), rows.x.array.size)
    start = None
    sample = rows.sample()
    if sample is not None:
        start = start_of(lambda beta: sample.sums_at(beta, n_threads))
    return fit(
        lambda beta: rows.sums_at(beta, n_threads),
        nan_policy=nan_policy,
        row_error=lambda row: _arguments.nonfinite_row_error(np.unravel_index(row, rows.shape)),
        start=start,
    )
