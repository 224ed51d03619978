"""How far one array of logits is from another."""

from . import _core


def kl_divergence(
    base_logits,
    logits,
    *,
    axis=-1,
    temperature=1.0,
    sample_weight=None,
    scale=1.0,
    reduction="mean",
    out=None,
    n_threads=None,
):
    r"""Kullback-Leibler divergence between softmax distributions, of logits, without a temporary.

    Parameters
    ----------
    base_logits : array_like, shape (..., C, ...)
        Logits of the distributions p that are taken for the truth: a teacher's, or those of a model
        before it was quantised. Of the dtypes and layouts of ``logits``, not necessarily the same.
    logits : array_like, shape of ``base_logits``
        Logits of the distributions q that are to come near them: float16, bfloat16 (of the package
        ``ml_dtypes``), float32, float64, an integer dtype or bool, of any layout and at least one
        dimension. The wider dtype of both is computed in.
    axis : int, optional
        The class axis, the last by default.
    temperature : float or array_like, optional
        T of both, finite and > 0: one number, or an array that broadcasts to the shape of the rows.
    sample_weight : array_like, shape of the rows, optional
        Weight v of each row, finite and >= 0. A row of weight 0 counts for nothing, whatever its
        logits.
    scale : float, optional
        A factor of the result, finite and >= 0.
    reduction : {"mean", "sum", "none"}, optional
        "mean" divides by Σ v, which is the number of rows without ``sample_weight``. "none" gives
        the divergences of the rows, each times its weight.
    out : ndarray, optional
        Where the result goes: a 0-d float64 array for "mean" and "sum", the shape of the rows in
        the result's dtype for "none".
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    numpy.float64 or ndarray
        The divergence in nats, never negative: a float64 for "mean" and "sum" (NaN for the mean over
        nothing, 0 for the sum). For "none", an array of the shape of the rows (a scalar for one
        row): float64 where one of the two is float64, of integers or bool, float32 otherwise.
        ``out`` when that is given.

    Raises
    ------
    TypeError
        If an argument has a dtype that is not accepted.
    ValueError
        If an argument has another shape than expected or is out of range, or without classes.
    numpy.exceptions.AxisError
        If ``axis`` is out of range.

    See Also
    --------
    kl_divergence_and_grad, softmax_loss

    Notes
    -----
    .. math:: L = \frac{s}{D} \sum_i v_i \sum_k p_{ik} \log \frac{p_{ik}}{q_{ik}},
              \quad p_i = \operatorname{softmax}(a_i / T), \; q_i = \operatorname{softmax}(x_i / T)

    with s the scale and D the denominator of the reduction [1]_. It is summed as p·h(t) with
    h(t) = exp(t) − 1 − t and t = log q − log p, of which no term is negative, so that small
    divergences keep their digits.

    A class with p = 0 adds q, which is nothing to the sum above; one with p > 0 = q makes the
    divergence inf. A row that holds NaN or +inf in one of the two, or nothing but -inf, has
    divergence NaN, without a warning.

    The divergence of a row has the same bits whatever the number of threads, the strides and the
    other rows, and so has the mean of given rows.

    References
    ----------
    .. [1] T. M. Cover, J. A. Thomas, "Elements of information theory", Wiley (2006), section 2.3.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import kl_divergence
    >>> base_logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> logits = np.log([[0.25, 0.25, 0.5], [0.1, 0.1, 0.8]])
    >>> float(kl_divergence(base_logits, logits).round(6))
    0.086643
    >>> print(kl_divergence(base_logits, logits, reduction="none").round(6))
    [0.173287 0.      ]
    """
    return _core.kl_divergence(
        base_logits,
        logits,
        axis,
        temperature,
        sample_weight,
        scale,
        reduction,
        out,
        n_threads,
    )


def kl_divergence_and_grad(
    base_logits,
    logits,
    *,
    axis=-1,
    temperature=1.0,
    sample_weight=None,
    scale=1.0,
    reduction="mean",
    out=None,
    grad_out=None,
    n_threads=None,
):
    r"""Kullback-Leibler divergence of logits, and its gradient with respect to the second ones.

    Parameters
    ----------
    base_logits, logits, axis, temperature, sample_weight, out
        As for `kl_divergence`.
    scale : float, optional
        A factor of the divergence and of its gradient, finite and >= 0. Distillation takes T².
    reduction : {"mean", "sum", "none"}, optional
        The gradient is scaled as the divergence is: by the denominator of the mean, or by 1 for
        "sum" and "none".
    grad_out : ndarray, optional
        Where the gradient goes: shape of ``logits``, the result's dtype, native byte order, any
        strides that do not overlap themselves. ``grad_out=logits`` overwrites the logits.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    divergence : numpy.float64 or ndarray
        As of `kl_divergence`.
    grad : ndarray, shape of ``logits``
        Gradient with respect to ``logits`` before the temperature, so that it carries 1/T: float64
        where one of the two is float64, of integers or bool, float32 otherwise. In C order, or
        ``grad_out``. Exactly 0 in rows of weight 0.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `kl_divergence`.

    See Also
    --------
    kl_divergence, softmax_loss_and_grad

    Notes
    -----
    .. math:: \frac{\partial L}{\partial x_{ik}} = \frac{s \, v_i}{D\,T} (q_{ik} - p_{ik})

    with the letters of `kl_divergence`, also in rows whose divergence is inf. Next to q = p the
    difference is p·expm1(log q − log p), which keeps its digits.

    The gradients of distributions softened by T are smaller by 1/T²; ``scale=T**2`` makes up for
    that [1]_.

    References
    ----------
    .. [1] G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015),
       section 2, :arxiv:`1503.02531`.

    Examples
    --------
    The loss of distillation, of a student's logits against a teacher's:

    >>> import numpy as np
    >>> from softmax_fast import kl_divergence_and_grad
    >>> teacher = np.array([[6.0, 2.0, 0.0], [0.0, 1.0, 5.0]])
    >>> student = np.array([[3.0, 3.0, 0.0], [0.0, 1.0, 5.0]])
    >>> T = 4.0
    >>> loss, grad = kl_divergence_and_grad(teacher, student, temperature=T, scale=T**2)
    >>> float(loss.round(6))
    0.835199
    >>> print(grad.round(6))
    [[-0.448122  0.346494  0.101628]
     [ 0.        0.        0.      ]]
    """
    return _core.kl_divergence_and_grad(
        base_logits,
        logits,
        axis,
        temperature,
        sample_weight,
        scale,
        reduction,
        out,
        grad_out,
        n_threads,
    )
