"""Losses of classifiers: of logits, of probabilities, and of the binary case."""

from . import _core


def softmax_loss(
    logits,
    targets,
    *,
    axis=-1,
    temperature=1.0,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    out=None,
    n_threads=None,
):
    r"""Cross-entropy loss with softmax, of logits, in one pass and without a temporary.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Logits: float16, bfloat16 (of the package ``ml_dtypes``), float32, float64, an integer dtype
        or bool, of any layout and at least one dimension. Read without a copy, except integers,
        bool, and byte-swapped or unaligned arrays.
    targets : array_like
        Class indices of any integer dtype and the shape of the rows (that of ``logits`` without
        ``axis``), or class probabilities of a floating dtype and the shape of ``logits``, which
        need not sum to 1. int32 and int64 indices are not copied.
    axis : int, optional
        The class axis, the last by default.
    temperature : float or array_like, optional
        T, finite and > 0: one number, or an array that broadcasts to the shape of the rows.
    weight : array_like, shape (C,), optional
        Weight w of each class, finite and >= 0.
    sample_weight : array_like, shape of the rows, optional
        Weight v of each row, finite and >= 0. A row of weight 0, and one whose label's class has
        weight 0, counts for nothing, whatever its logits.
    ignore_index : int or None, optional
        Rows with this label count for nothing either; None for no such label. Class probabilities
        admit the default alone.
    label_smoothing : float, optional
        α in [0, 1]: the target becomes (1 - α)·t + α/C.
    reduction : {"mean", "sum", "none"}, optional
        "mean" divides by Σ v·w[y] over the rows that are not ignored (class indices), or by Σ v
        (class probabilities). "none" gives the losses of the rows, each times its weights.
    out : ndarray, optional
        Where the result goes: a 0-d float64 array for "mean" and "sum", the shape of the rows in
        the result's dtype for "none".
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    numpy.float64 or ndarray
        The loss in nats: a float64 for "mean" and "sum" (NaN for the mean over nothing, 0 for the
        sum). For "none", an array of the shape of the rows (a scalar for one row): float64 for
        float64, integers and bool, float32 otherwise. ``out`` when that is given.

    Raises
    ------
    IndexError
        If a label is outside [0, C) and not ``ignore_index``: the text has the first such row.
        Negative labels never count from the end. ``out`` may hold anything then.
    TypeError
        If an argument has a dtype that is not accepted.
    ValueError
        If an argument has another shape than expected or is out of range, or without classes.
    numpy.exceptions.AxisError
        If ``axis`` is out of range.

    See Also
    --------
    softmax_loss_and_grad, linear_softmax_loss, cross_entropy, selected_log_probs

    Notes
    -----
    .. math:: L = -\frac{1}{D} \sum_i v_i \sum_k w_k t_{ik} \log p_{ik},
              \quad p_i = \operatorname{softmax}(x_i / T)

    with D the denominator of the reduction. A term with t = 0 contributes 0 where log p = -inf.
    Weighting and the mean are those of ``torch.nn.CrossEntropyLoss``; label smoothing is that of
    [1]_. A row that holds NaN or +inf, or nothing but -inf, has loss NaN, without a warning.

    The loss of a row has the same bits whatever the number of threads, the strides and the other
    rows, and so has the mean of given rows.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR
       (2016), section 7, :arxiv:`1512.00567`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import softmax_loss
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> float(softmax_loss(logits, [0, 2]).round(6))
    0.458145
    >>> print(softmax_loss(logits, [0, 2], reduction="none").round(6))
    [0.693147 0.223144]
    >>> float(softmax_loss(logits, [0, -100]).round(6))
    0.693147
    """
    return _core.softmax_loss(
        logits,
        targets,
        axis,
        temperature,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        reduction,
        out,
        n_threads,
    )


def softmax_loss_and_grad(
    logits,
    targets,
    *,
    axis=-1,
    temperature=1.0,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    out=None,
    grad_out=None,
    n_threads=None,
):
    r"""Cross-entropy loss with softmax, and its gradient with respect to the logits, in one sweep.

    Parameters
    ----------
    logits, targets, axis, temperature, weight, sample_weight, ignore_index, label_smoothing, out
        As for `softmax_loss`.
    reduction : {"mean", "sum", "none"}, optional
        The gradient is scaled as the loss is: by the denominator of the mean, or by 1 for "sum" and
        "none".
    grad_out : ndarray, optional
        Where the gradient goes: shape of ``logits``, the result's dtype, native byte order, any
        strides that do not overlap themselves. ``grad_out=logits`` overwrites the logits.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    loss : numpy.float64 or ndarray
        As of `softmax_loss`.
    grad : ndarray, shape of ``logits``
        Gradient with respect to the logits before the temperature, so that it carries 1/T: float64
        for float64, integers and bool, float32 otherwise. In C order, or ``grad_out``. Exactly 0 in
        rows that are ignored or of weight 0.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax_loss`; labels are checked before anything is written.

    See Also
    --------
    softmax_loss, linear_softmax_loss_and_grad

    Notes
    -----
    .. math:: \frac{\partial L}{\partial x_{ik}} = \frac{v_i}{D\,T}
              \Bigl(p_{ik} \sum_j w_j t_{ij} - w_k t_{ik}\Bigr)

    with D as in `softmax_loss` for "mean" and 1 otherwise, which follows from the chain rule (e.g.
    [1]_, section 4.3.4) and holds for targets that do not sum to 1.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern recognition and machine learning", Springer (2006).

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import softmax_loss_and_grad
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> loss, grad = softmax_loss_and_grad(logits, [0, 2], reduction="sum")
    >>> float(loss.round(6))
    0.916291
    >>> print(grad.round(6))
    [[-0.5   0.25  0.25]
     [ 0.1   0.1  -0.2 ]]
    """
    return _core.softmax_loss_and_grad(
        logits,
        targets,
        axis,
        temperature,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        reduction,
        out,
        grad_out,
        n_threads,
    )


def cross_entropy(
    probs,
    targets,
    *,
    axis=-1,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    reduction="mean",
    out=None,
    n_threads=None,
):
    r"""Cross-entropy of probabilities, such as `softmax` returns; for logits use `softmax_loss`.

    Parameters
    ----------
    probs : array_like, shape (..., C, ...)
        Probabilities in [0, 1], of the dtypes of `softmax_loss`; they need not sum to 1. NaN is let
        through.
    targets, axis, weight, sample_weight, ignore_index, reduction, out, n_threads
        As for `softmax_loss`.

    Returns
    -------
    numpy.float64 or ndarray
        As of `softmax_loss`.

    Raises
    ------
    ValueError
        If a probability of a row that is not ignored is outside [0, 1], or as `softmax_loss`.
    IndexError, TypeError, numpy.exceptions.AxisError
        As `softmax_loss`.

    See Also
    --------
    softmax_loss : the same of logits, faster and without underflow.
    binary_cross_entropy

    Notes
    -----
    .. math:: L = -\frac{1}{D} \sum_i v_i \sum_k w_k t_{ik} \log p_{ik}

    with D as in `softmax_loss` [1]_. A term with t = 0 contributes 0 even where p = 0.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep learning", MIT Press (2016), section 3.13.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import cross_entropy
    >>> probs = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> float(cross_entropy(probs, [0, 2]).round(6))
    0.458145
    """
    return _core.cross_entropy(
        probs, targets, axis, weight, sample_weight, ignore_index, reduction, out, n_threads
    )


def binary_cross_entropy(
    probs, targets, *, sample_weight=None, reduction="mean", out=None, n_threads=None
):
    r"""Binary cross-entropy of probabilities of the positive class, entry by entry.

    Parameters
    ----------
    probs : array_like
        Probabilities in [0, 1], of the dtypes of `softmax_loss` and at least one dimension. NaN is
        let through.
    targets : array_like, shape of ``probs``
        Probability of the positive class in [0, 1], or 0 and 1 of an integer dtype or bool.
    sample_weight : array_like, optional
        Weight v of each entry, finite and >= 0: broadcasts to the shape of ``probs``.
    reduction : {"mean", "sum", "none"}, optional
        "mean" divides by Σ v, which is the number of entries without ``sample_weight``. "none"
        gives the losses of the entries, each times its weight.
    out : ndarray, optional
        A 0-d float64 array for "mean" and "sum"; shape of ``probs`` and the result's dtype for
        "none", where ``out=probs`` works in place.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    numpy.float64 or ndarray
        The loss in nats: a float64 for "mean" and "sum". For "none", an array of the shape of
        ``probs``: float64 for float64, integers and bool, float32 otherwise. ``out`` when given.

    Raises
    ------
    ValueError
        If a probability or a target is outside [0, 1] (``out`` may hold anything then), or an
        argument has another shape than expected or is out of range.
    TypeError
        If an argument has a dtype that is not accepted.

    See Also
    --------
    binary_cross_entropy_with_logits : the same of logits, exact at both ends.
    cross_entropy

    Notes
    -----
    .. math:: \ell = -v \, \bigl( t \log p + (1 - t) \log(1 - p) \bigr)

    with log1p for the second term, and 0 · log 0 = 0 [1]_. Unlike ``torch.nn.BCELoss`` the
    logarithms are not clamped: a certain prediction that is wrong has loss inf.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern recognition and machine learning", Springer (2006), eq. 4.90.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import binary_cross_entropy
    >>> float(binary_cross_entropy([0.5, 0.25], [1, 0]).round(6))
    0.490415
    """
    return _core.binary_cross_entropy(probs, targets, sample_weight, reduction, out, n_threads)


def binary_cross_entropy_with_logits(
    logits,
    targets,
    *,
    temperature=1.0,
    sample_weight=None,
    pos_weight=None,
    reduction="mean",
    out=None,
    n_threads=None,
):
    r"""Binary cross-entropy of the sigmoid of logits, entry by entry, exact at both ends.

    Parameters
    ----------
    logits : array_like
        Logits of the positive class, of the dtypes of `softmax_loss` and at least one dimension.
    targets : array_like, shape of ``logits``
        Probability of the positive class in [0, 1], or 0 and 1 of an integer dtype or bool.
    temperature : float or array_like, optional
        T, finite and > 0: one number, or an array that broadcasts to the shape of ``logits``.
    sample_weight : array_like, optional
        Weight v of each entry, finite and >= 0: broadcasts to the shape of ``logits``.
    pos_weight : array_like, optional
        Weight q of the positive term, finite and >= 0: broadcasts to the shape of ``logits``.
    reduction : {"mean", "sum", "none"}, optional
        "mean" divides by Σ v, which is the number of entries without ``sample_weight``. "none"
        gives the losses of the entries, each times its weight.
    out : ndarray, optional
        A 0-d float64 array for "mean" and "sum"; shape of ``logits`` and the result's dtype for
        "none", where ``out=logits`` works in place.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    numpy.float64 or ndarray
        As of `binary_cross_entropy`.

    Raises
    ------
    ValueError
        If a target is outside [0, 1] (``out`` may hold anything then), or an argument has another
        shape than expected or is out of range.
    TypeError
        If an argument has a dtype that is not accepted.

    See Also
    --------
    binary_cross_entropy

    Notes
    -----
    .. math:: \ell = v \, \bigl( (1 - t) z + (1 + (q - 1) t)
              (\log(1 + e^{-|z|}) + \max(-z, 0)) \bigr), \quad z = x / T

    the form of ``torch.nn.BCEWithLogitsLoss``, which neither overflows nor loses the tails.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import binary_cross_entropy_with_logits
    >>> float(binary_cross_entropy_with_logits([0.0, -np.log(3)], [1, 0]).round(6))
    0.490415
    >>> print(binary_cross_entropy_with_logits([1000.0, -1000.0], [0, 0], reduction="none"))
    [1000.    0.]
    """
    return _core.binary_cross_entropy_with_logits(
        logits, targets, temperature, sample_weight, pos_weight, reduction, out, n_threads
    )
