"""softmax, log_softmax, logsumexp and selected_log_probs."""

from . import _core


def softmax(x, axis=-1, *, temperature=1.0, out=None, n_threads=None):
    r"""Softmax of the rows along an axis: ``exp(x / T) / sum(exp(x / T))``.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits: float16, bfloat16 (of the package ``ml_dtypes``), float32, float64, an integer dtype
        or bool, of any layout and at least one dimension. Read without a copy, except integers,
        bool, and byte-swapped or unaligned arrays.
    axis : int, optional
        The class axis, the last by default.
    temperature : float or array_like, optional
        T, finite and > 0: one number, or an array that broadcasts to the shape of the rows (that of
        ``x`` without ``axis``), one T a row.
    out : ndarray, optional
        Where the result goes: shape of ``x``, the result's dtype, native byte order, any strides
        that do not overlap themselves. ``out=x`` works in place.
    n_threads : int, optional
        At most this many threads; None for as many as are allowed and worth it, see
        `get_num_threads`.

    Returns
    -------
    ndarray, shape of ``x``
        float64 for float64, integers and bool, float32 otherwise. In C order, or ``out``.

    Raises
    ------
    TypeError
        If ``x`` is complex, object, string or datetime or a masked array, if ``axis`` is no int, or
        if ``out`` has another dtype or is no ndarray.
    ValueError
        If ``x`` is 0-dimensional, ``temperature`` or ``n_threads`` is out of range, or ``out`` is
        of another shape, read-only, or overlaps ``x`` in part.
    numpy.exceptions.AxisError
        If ``axis`` is out of range.

    See Also
    --------
    log_softmax, logsumexp, softmax_loss

    Notes
    -----
    .. math:: p_c = \frac{\exp((x_c - m) / T)}{\sum_k \exp((x_k - m) / T)}, \quad m = \max_k x_k

    The shift by the row maximum is exact and rules overflow out [1]_; T is the temperature of [2]_.
    A row that holds NaN or +inf, or nothing but -inf, is NaN throughout; no other row is touched
    and nothing warns. -inf among finite values has probability 0. A row's result has the same
    bits whatever the number of threads, the strides, and the other rows.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA Journal of Numerical Analysis 41 (2021), 2311-2330,
       :doi:`10.1093/imanum/draa038`.
    .. [2] G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015),
       :arxiv:`1503.02531`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import softmax
    >>> x = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -np.inf]])
    >>> print(softmax(x).round(4))
    [[0.09   0.2447 0.6652]
     [1.     0.     0.    ]]
    >>> softmax(x, out=x) is x
    True
    """
    return _core.softmax(x, axis, temperature, out, n_threads)


def log_softmax(x, axis=-1, *, temperature=1.0, out=None, n_threads=None):
    r"""Logarithm of the softmax of the rows along an axis, without loss of small probabilities.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `softmax`.
    axis : int, optional
        The class axis, the last by default.
    temperature : float or array_like, optional
        T, finite and > 0: one number, or an array that broadcasts to the shape of the rows.
    out : ndarray, optional
        Shape of ``x`` and the result's dtype, as for `softmax`; ``out=x`` works in place.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    ndarray, shape of ``x``
        float64 for float64, integers and bool, float32 otherwise. In C order, or ``out``.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    See Also
    --------
    softmax, selected_log_probs

    Notes
    -----
    .. math:: \log p_c = \frac{x_c - m}{T} - \log \sum_k \exp\frac{x_k - m}{T},
              \quad m = \max_k x_k

    in the form recommended in [1]_, so that no digits are lost under a large common offset. A row
    that holds NaN or +inf, or nothing but -inf, is NaN throughout; -inf among finite values stays
    -inf.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA Journal of Numerical Analysis 41 (2021), 2311-2330,
       :doi:`10.1093/imanum/draa038`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import log_softmax
    >>> print(log_softmax(np.array([0.0, -1000.0])))
    [    0. -1000.]
    """
    return _core.log_softmax(x, axis, temperature, out, n_threads)


def logsumexp(x, axis=-1, *, temperature=1.0, keepdims=False, out=None, n_threads=None):
    r"""Logarithm of the sum of exponentials of the rows along an axis: ``log(sum(exp(x / T)))``.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `softmax`.
    axis : int, optional
        The class axis, the last by default.
    temperature : float or array_like, optional
        T, finite and > 0: one number, or an array that broadcasts to the shape of the rows.
    keepdims : bool, optional
        Whether the result keeps ``axis`` with length one.
    out : ndarray, optional
        Shape and dtype of the result, native byte order, any strides that do not overlap
        themselves, and no memory of ``x``.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    ndarray or scalar
        Shape of ``x`` without ``axis``: float64 for float64, integers and bool, float32 otherwise.
        A NumPy scalar for 1-dimensional ``x``, or ``out``.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    See Also
    --------
    softmax_loss

    Notes
    -----
    .. math:: \operatorname{lse}(x) = \frac{m}{T} + \log \sum_k \exp\frac{x_k - m}{T},
              \quad m = \max_k x_k

    where the largest term is left out of the sum and comes back through log1p [1]_, so that
    ``logsumexp([0, -40])`` keeps its tail in float64. A row with +inf and no NaN gives +inf, a
    row of -inf or without classes -inf, a row with NaN NaN.

    Results merge: the logsumexp of several shards' logsumexp (at temperature 1) is that of the
    whole, which evaluates rows too long or too scattered for one array (see the example). The loss
    of the whole is then ``logsumexp(shards) - x[label] / T``.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA Journal of Numerical Analysis 41 (2021), 2311-2330,
       :doi:`10.1093/imanum/draa038`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import logsumexp
    >>> x = np.log(np.arange(1.0, 7.0))
    >>> print(logsumexp(x).round(6), np.log(21).round(6))
    3.044522 3.044522
    >>> shards = np.array([logsumexp(x[:2]), logsumexp(x[2:])])
    >>> print(logsumexp(shards).round(6))
    3.044522
    """
    return _core.logsumexp(x, axis, temperature, keepdims, out, n_threads)


def selected_log_probs(
    logits, indices, *, temperature=1.0, ignore_index=-100, out=None, n_threads=None
):
    r"""Log-probabilities of chosen classes: ``log_softmax(logits / T)`` at ``indices`` alone.

    Parameters
    ----------
    logits : array_like, shape (..., C)
        Logits, as for `softmax`; the class axis is the last.
    indices : array_like of int, shape (...) or (..., K)
        The chosen classes, one or K a row, in [0, C) or ``ignore_index``. int64 is not copied.
    temperature : float or array_like, optional
        T, finite and > 0: one number, or an array that broadcasts to the shape of the rows.
    ignore_index : int or None, optional
        Where an index has this value the result is 0, whatever the row holds; None for no such
        value.
    out : ndarray, optional
        Shape of ``indices`` and the result's dtype, native byte order, any strides that do not
        overlap themselves, and no memory of an input.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    ndarray or scalar, shape of ``indices``
        float64 for float64, integers and bool, float32 otherwise. A NumPy scalar for one index, or
        ``out``.

    Raises
    ------
    IndexError
        If an index is outside [0, C) and not ``ignore_index``: the text has the first of them.
    TypeError, ValueError
        If an argument has the wrong dtype or shape or is out of range, or without classes (C = 0).

    See Also
    --------
    log_softmax, softmax_loss

    Notes
    -----
    .. math:: \log p_y = \frac{x_y - m}{T} - \log \sum_k \exp\frac{x_k - m}{T},
              \quad m = \max_k x_k

    as in `log_softmax`, without an array of the size of ``logits``.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import selected_log_probs
    >>> x = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> print(np.exp(selected_log_probs(x, [0, 2])).round(4))
    [0.5 0.8]
    >>> print(np.exp(selected_log_probs(x, [[0, 1], [2, 0]])).round(4))
    [[0.5  0.25]
     [0.8  0.1 ]]
    """
    return _core.selected_log_probs(logits, indices, temperature, ignore_index, out, n_threads)
