"""Evaluation of a classifier's logits in one pass: row by row, and all that sums over rows tell."""

import copy
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout, _threads
from ._arguments import Options
from ._evaluation_state import COUNTS, OF_BINS, SUMS, State, cell_ends, edges_of, near_1, sum_by
from ._row_statistics import Columns, row_columns
from .functional import softmax

# The normal distribution is within this of its mean with probability 0.95.
_Z = 1.959963984540054

# Sums of squares that are less than 2^-960 a row have lost digits to those below 2^-1074.
_LEAST_SQUARE = 960

# A bin whose squared weights are less than this beside those of others has lost their digits.
_LEAST_SQUARED_WEIGHT = 2.0**-960

# About so many probabilities at a time are there for the classwise error.
_PROBABILITIES = 1 << 18


class RowStatistics(NamedTuple):
    """What `row_statistics` tells of each row, arrays of the shape of the rows."""

    logsumexp: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    loss: np.ndarray | None
    rank: np.ndarray | None
    brier: np.ndarray | None


class Reliability(NamedTuple):
    """A reliability diagram: bins of confidence, the bin b being (edges[b], edges[b + 1]]."""

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def row_statistics(
    logits, targets=None, *, axis=-1, temperature=1.0, ignore_index=-100, n_threads=None
):
    r"""Everything about each row of logits that one look at it tells.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Logits, as of `softmax_loss`.
    targets : array_like of int, shape of the rows, optional
        Class indices of any integer dtype. Without them ``loss``, ``rank`` and ``brier`` are None.
    axis : int, optional
        The class axis, the last by default.
    temperature : float or array_like, optional
        T, finite and > 0: one number, or an array that broadcasts to the shape of the rows.
    ignore_index : int or None, optional
        Rows with this label have loss 0, rank -1 and Brier score 0, and all else like any row;
        None for no such label.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    RowStatistics
        A named tuple ``(logsumexp, prediction, confidence, entropy, loss, rank, brier)`` of arrays
        of the shape of the rows (scalars for one row). ``prediction`` and ``rank`` are int64, the
        others float64 for logits of float64, integers and bool, and float32 otherwise.

    Raises
    ------
    IndexError
        If a label is outside [0, C) and not ``ignore_index``.
    TypeError
        If an argument has a dtype that is not accepted.
    ValueError
        If an argument has another shape than expected or is out of range, or without classes.
    numpy.exceptions.AxisError
        If ``axis`` is out of range.

    See Also
    --------
    evaluate : means over the rows.
    softmax_loss, logsumexp

    Notes
    -----
    With p = softmax(x / T) and the label y

    .. math:: \text{logsumexp} = \log \sum_k e^{x_k / T}, \quad
              \text{confidence} = \max_k p_k, \quad
              \text{entropy} = -\sum_k p_k \log p_k, \quad
              \text{loss} = -\log p_y, \quad
              \text{brier} = \sum_k (p_k - [k = y])^2

    the last as of [1]_, in [0, 2]. The entropy is in nats. ``prediction`` is the class of the
    greatest logit, the lowest of equals, and ``rank`` the number of classes before the label in
    descending order, equal ones in that of their number: rank 0 is the top, and rank < k is a hit
    within the top k.

    A row that holds NaN or +inf, or nothing but -inf, has prediction -1, rank C, and NaN for loss,
    confidence, entropy and Brier score, without a warning. Where only the label's logit is -inf the
    loss is inf.

    References
    ----------
    .. [1] G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly
       Weather Review 78 (1950).

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import row_statistics
    >>> rows = row_statistics(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), [1, 2])
    >>> rows.prediction, rows.rank
    (array([0, 2]), array([1, 0]))
    >>> print(rows.confidence.round(6), rows.entropy.round(6), rows.brier.round(6))
    [0.5 0.8] [1.039721 0.639032] [0.875 0.06 ]
    """
    x = _arguments.logits("logits", logits)
    shape = x.array.shape
    axis = _arguments.axis(axis, len(shape))
    return _row_statistics_of(
        _whole(x, axis), shape, axis, x.result_dtype, targets, temperature, ignore_index, n_threads
    )


def _whole(x, axis):
    """All rows of a `Source` as the only piece of them, where there are any."""

    def pieces(labels, temperature, ignore_index):
        if x.array.size:
            yield slice(0, x.array.size // x.array.shape[axis]), x

    return pieces


def _row_statistics_of(pieces, shape, axis, dtype, targets, temperature, ignore_index, n_threads):
    """`row_statistics` of logits of this shape and result dtype, which come in pieces.

    ``pieces(labels, temperature, ignore_index)`` yields pairs: the slice of some rows among all, and
    a `_layout.Source` of their logits, with classes along ``axis``, or their `Columns`.
    """
    n_classes = _arguments.some_classes("logits", shape, axis)
    rows = _arguments.rows_shape(shape, axis)
    ignored = _arguments.ignore_index(ignore_index)
    codes = None if targets is None else _labels(targets, rows, ignored, n_classes)
    temperature = _arguments.temperature(temperature, rows)
    n_threads = _arguments.threads(n_threads)
    integers = ("prediction", "rank")
    result = {}
    for name in RowStatistics._fields:
        if codes is not None or name not in ("loss", "rank", "brier"):
            of_type = np.int64 if name in integers else dtype
            result[name] = np.empty(math.prod(rows), of_type)
    with np.errstate(all="ignore"):
        for some, x in pieces(codes, temperature, ignored):
            found = [x]
            if not isinstance(x, Columns):
                y, t = (_layout.of_rows(values, some) for values in (codes, temperature))
                most = _threads.resolve(n_threads, x.array.size)
                found = row_columns(x, axis, y, t, ignored, most)
            for columns in found:
                for name, values in result.items():
                    values[some][columns.rows] = getattr(columns, name)
    arrays = (result.get(name) for name in RowStatistics._fields)
    return RowStatistics(*(a if a is None else a.reshape(rows)[()] for a in arrays))


def _labels(targets, rows, ignored, n_classes):
    """The class indices of the rows, all in range."""
    labels = _arguments.labels(targets, rows, ignored)
    sums = _core.Sums()
    options = Options(ignore_index=ignored)
    _core.add_target_weights(labels.codes, len(labels.codes), n_classes, None, options, sums)
    if sums.bad_label_row >= 0:
        raise _arguments.label_error("targets", labels, sums.bad_label_row, n_classes, ignored)
    return labels.codes


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    r"""What an evaluation has found: numbers of Python, worked out in float64.

    Made by `evaluate` and `Evaluator.result`. With v the weight of a row, sums over the rows that
    count and W = Σ v, a mean is Σ v x / W, and its standard error

    .. math:: \frac{\sqrt{\sum v^2 (x - \bar x)^2}}{W} \sqrt{\frac{n}{n - 1}}

    which is NaN for a single row.

    Attributes
    ----------
    n, n_ignored : int
        Rows that count, and rows that do not: those with an ignored label or of weight 0.
    n_nonfinite : int
        Rows, of those not ignored, without probabilities (NaN or +inf, or nothing but -inf, among
        their logits) or of infinite loss. With ``nan_policy="omit"`` the former are counted here
        and not in ``n``.
    first_nonfinite : int or None
        The number of the first of them among all rows given, ignored ones included, from 0.
    n_classes : int or None
        C, None before any rows.
    n_bins : int
        Number of bins of the calibration errors.
    weight_sum, temperature : float
        W, which is n without weights, and T.
    loss, loss_stderr, perplexity : float
        Mean of -log p_y in nats, its standard error, and exp of the mean.
    accuracy, accuracy_stderr : float
        Share of the rows whose label is the prediction, and its standard error.
    top_k : dict
        For each k asked for, the share of the rows whose label is among the first k classes.
    mean_reciprocal_rank : float
        Mean of 1 / (1 + rank), 0 for a row without probabilities.
    brier, brier_stderr : float
        Mean of Σ (p_k - [k = y])², in [0, 2], and its standard error.
    entropy, confidence : float
        Means of the entropy of p, in nats, and of the greatest p.
    ece, mce, rms_ce : float
        Calibration errors [1]_ over bins of equal width: Σ_b | Σ v (hit - confidence) | / W, the
        greatest difference of a bin's accuracy and mean confidence, and the root of their mean
        square, weighted by the bins' weights.
    ece_floor : float
        What ``ece`` would be about, by chance alone, if every confidence c were the probability of
        a hit: √(2/π) / W · Σ_b √(Σ v² c (1 - c)), from E|z| = σ √(2/π) of a normal z. An ``ece``
        near it tells of no miscalibration.
    ece_equal_mass : float
        The same as ``ece`` over bins of nearly equal weight, see `reliability`.
    classwise_ece : float or None
        Mean over the classes c of the ECE of p_c against [y = c] [2]_, in the same bins of equal
        width; None unless asked for.
    temperature_hint : float
        T after one step of Newton's method for the mean loss in β = 1/T from the temperature of
        this evaluation, β - Σ v g / Σ v Var, with g = E_p[x] - x_y and Var = Var_p[x]. inf where
        the step leads to β <= 0, beyond all temperatures: T is too low by far, or the labels are no
        likelier than the other classes. T itself where nothing depends on it, all logits of every
        row being equal, or all rows so sure that the other probabilities are 0. NaN where there is
        no such step: no rows, a mean loss that is not finite, no curvature, or sums beyond float64,
        as of logits of 1e160, whose squares are. From logits of float32 about six digits of 1/T are
        those of float64, fewer where the step nearly leads to 0. See `fit_temperature` for the
        minimum itself.

    Notes
    -----
    Of a row without probabilities the prediction counts as wrong, and the means of loss, entropy,
    Brier score and confidence and all that is about calibration are NaN with
    ``nan_policy="propagate"``. Where only a label's logit is -inf ``loss`` and ``perplexity`` are
    inf, ``loss_stderr`` is NaN, and all but the hint stays finite. All means over nothing are NaN.

    Weights may be of any size: a factor of all of them changes nothing but ``weight_sum``. So may
    losses. Where a mean is not 0, but all v x / max(v) are so small (1e-140, say) that their squares
    are beyond float64, its standard error is NaN.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks",
       ICML (2017), :arxiv:`1706.04599`.
    .. [2] M. Kull et al., "Beyond temperature scaling: obtaining well-calibrated multiclass
       probabilities with Dirichlet calibration", NeurIPS (2019), :arxiv:`1910.12656`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import evaluate
    >>> result = evaluate(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), [1, 2])
    >>> result.accuracy, result.top_k
    (0.5, {1: 0.5, 5: 1.0})
    >>> round(result.ece, 6), round(result.ece_floor, 6)
    (0.35, 0.359048)
    """

    n: int
    n_ignored: int
    n_nonfinite: int
    first_nonfinite: int | None
    n_classes: int | None
    n_bins: int
    weight_sum: float
    temperature: float
    loss: float
    loss_stderr: float
    perplexity: float
    accuracy: float
    accuracy_stderr: float
    top_k: dict
    mean_reciprocal_rank: float
    brier: float
    brier_stderr: float
    entropy: float
    confidence: float
    ece: float
    mce: float
    rms_ce: float
    ece_floor: float
    ece_equal_mass: float
    classwise_ece: float | None
    temperature_hint: float
    _state: State = dataclasses.field(repr=False)

    def reliability(self, n_bins=None, strategy="uniform"):
        r"""The reliability diagram: accuracy against confidence, bin by bin.

        Parameters
        ----------
        n_bins : int, optional
            Number of bins, that of the evaluation (15 by default) unless given. Bins of equal width
            are those of the evaluation or some of them together: a number that divides theirs.
        strategy : {"uniform", "quantile"}, optional
            Bins of equal width, or of nearly equal weight.

        Returns
        -------
        Reliability
            A named tuple ``(edges, count, confidence, accuracy, lower, upper)`` of arrays: the ends
            of the bins, and of each bin the number of rows, mean confidence, accuracy, and its
            Wilson interval [1]_ of 95 %. An empty bin has count 0 and holds NaN. Rows without
            probabilities are in no bin.

        Raises
        ------
        TypeError, ValueError
            If an argument is out of range.

        Notes
        -----
        A confidence c is in the bin with edges[b] < c <= edges[b + 1], 0 in the first. The interval
        of a bin of accuracy q is

        .. math:: \frac{q + z^2 / 2m \pm z \sqrt{q (1 - q) / m + z^2 / 4m^2}}{1 + z^2 / m},
                  \quad z = 1.96, \quad m = (\sum v)^2 / \sum v^2

        with m the number of rows where all have the same weight, and 1 where the weights of a bin are
        so small beside those of others (1e-145) that their squares are lost.

        Bins of equal weight are put together from cells of confidence, 32 to the octave of c below
        1/2 and of 1 - c above, each going to the bin in which the middle of its weight falls. So
        rows of equal confidence are never split, a bin may be empty where many are equal, and the
        bins depend neither on the order of the rows nor on how they came. Nor are confidences told
        apart that differ by less than a cell, 2 to 3 % of c or of 1 - c: where all are as near to
        each other, few bins have rows.

        References
        ----------
        .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
           Journal of the American Statistical Association 22 (1927).

        Examples
        --------
        >>> import numpy as np
        >>> from softmax_fast import evaluate
        >>> result = evaluate(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), [1, 2], n_bins=2)
        >>> bins = result.reliability()
        >>> bins.count, bins.confidence.round(6), bins.accuracy
        (array([1, 1]), array([0.5, 0.8]), array([0., 1.]))
        """
        uniform = _arguments.strategy(strategy) == "uniform"
        count = self.n_bins if n_bins is None else _arguments.n_bins(n_bins)
        with np.errstate(all="ignore"):
            if not uniform:
                return _reliability(*_equal_mass(self._state.histograms()[1], count))
            width = self.n_bins // _arguments.uniform_bins(count, self.n_bins)
            group = np.arange(self.n_bins) // width
            bins, _ = self._state.histograms()
            return _reliability(edges_of(count), *_grouped(bins, group, count))

    def as_dict(self):
        """All attributes by name, with the keys of ``top_k`` as strings: ``json.dumps`` takes it.

        Returns
        -------
        dict
            Numbers are Python's own; NaN and inf may be among them.

        Examples
        --------
        >>> from softmax_fast import evaluate
        >>> evaluate([[1.0, 0.0]], [0]).as_dict()["top_k"]
        {'1': 1.0, '5': 1.0}
        """
        names = (field.name for field in dataclasses.fields(self))
        result = {name: getattr(self, name) for name in names if not name.startswith("_")}
        result["top_k"] = {str(k): share for k, share in self.top_k.items()}
        return result

    def __str__(self):
        state = self._state
        right, *within = (int(n) for n in state.counts[COUNTS.index("hit") :])
        rows = f"{self.n}"
        if self.n_ignored:
            rows += f"  (and {self.n_ignored} ignored)"
        lines = [
            ("rows", rows),
            ("classes", f"{self.n_classes}"),
            ("temperature", f"{self.temperature:g}"),
        ]
        if self.weight_sum != self.n:
            lines.append(("sum of weights", f"{self.weight_sum:.6g}"))
        lines += [
            ("mean loss", f"{self.loss:.6g}"),
            ("standard error", f"{self.loss_stderr:.3g}"),
            ("perplexity", f"{self.perplexity:.6g}"),
            ("accuracy", f"{self.accuracy:.6f}  ({right} rows)"),
            ("  standard error", f"{self.accuracy_stderr:.3g}"),
        ]
        for (k, share), count in zip(self.top_k.items(), within, strict=True):
            if k > 1:
                lines.append((f"top-{k} accuracy", f"{share:.6f}  ({count} rows)"))
        lines += [
            ("reciprocal rank", f"{self.mean_reciprocal_rank:.6f}"),
            ("Brier score", f"{self.brier:.6f}"),
            ("  standard error", f"{self.brier_stderr:.3g}"),
            ("entropy", f"{self.entropy:.6g}"),
            ("confidence", f"{self.confidence:.6f}"),
            ("calibration error", f"{self.ece:.6f}  (by chance alone: {self.ece_floor:.6f})"),
            ("  equal mass", f"{self.ece_equal_mass:.6f}"),
            ("  root mean square", f"{self.rms_ce:.6f}"),
            ("  greatest", f"{self.mce:.6f}"),
        ]
        if self.classwise_ece is not None:
            lines.append(("  classwise", f"{self.classwise_ece:.6g}"))
        hint = f"{self.temperature_hint:.4g}"
        if self.temperature_hint == math.inf:
            hint = f"greater than {self.temperature:g}"
        lines.append(("temperature hint", hint))
        if self.n_nonfinite:
            text = f"{self.n_nonfinite} rows, the first is row {self.first_nonfinite}"
            lines.append(("loss not finite", text))
        return "\n".join(f"{label:<19}{value}" for label, value in lines)

    def plot(self, ax=None):
        """Draw the reliability diagram with matplotlib.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            ``ax``, or that of the new figure.

        Raises
        ------
        ImportError
            Without matplotlib, which ``pip install "softmax-fast[plot]"`` brings.
        """
        from . import _plots

        return _plots.reliability_diagram(self, ax)


class _EvaluatorOptions(NamedTuple):
    """What two evaluators must share to be merged."""

    temperature: float
    top_k: tuple
    n_bins: int
    classwise: bool
    ignore_index: int | None
    nan_policy: str


class Evaluator:
    """`evaluate` of logits that come in pieces, on one machine or on several.

    Parameters
    ----------
    temperature, top_k, n_bins, classwise, ignore_index, nan_policy, n_threads
        As for `evaluate`.

    Raises
    ------
    TypeError, ValueError
        If an option is not accepted.

    See Also
    --------
    evaluate

    Notes
    -----
    It keeps counts and sums alone, O(``n_bins``) numbers and with ``classwise`` O(C ``n_bins``),
    whatever the number of rows; it can be pickled. Sums are compensated: the result is the same to
    1e-15 relative whatever the pieces and the order of updates and merges (standard errors to 1e-17
    of the mean where that is more); ``first_nonfinite`` counts the rows in that order.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import Evaluator
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> one = Evaluator().update(logits[:1], [1])
    >>> other = Evaluator().update(logits[1:], [2])
    >>> result = (one + other).result()
    >>> result.n, round(result.loss, 6)
    (2, 0.804719)
    """

    def __init__(
        self,
        *,
        temperature=1.0,
        top_k=(1, 5),
        n_bins=15,
        classwise=False,
        ignore_index=-100,
        nan_policy="propagate",
        n_threads=None,
    ):
        self._options = _EvaluatorOptions(
            temperature=_arguments.one_temperature(temperature),
            top_k=_arguments.top_k(top_k),
            n_bins=_arguments.n_bins(n_bins),
            classwise=_arguments.flag("classwise", classwise),
            ignore_index=_arguments.ignore_index(ignore_index),
            nan_policy=_arguments.nan_policy(nan_policy),
        )
        self.n_threads = _arguments.threads(n_threads)
        self._state = self._no_rows()

    def _no_rows(self):
        options = self._options
        return State(options.top_k, options.n_bins, options.nan_policy == "omit")

    @property
    def n_classes(self):
        """C, None before any rows."""
        return self._state.n_classes

    def update(self, logits, targets, *, sample_weight=None, axis=-1):
        """Add rows.

        Parameters
        ----------
        logits, targets, sample_weight, axis
            As for `evaluate`; the number of classes is that of the rows before.

        Returns
        -------
        Evaluator
            Itself.

        Raises
        ------
        IndexError, TypeError, ValueError, numpy.exceptions.AxisError
            As `evaluate`; nothing is added then.
        """
        x = _arguments.logits("logits", logits)
        shape = x.array.shape
        axis = _arguments.axis(axis, len(shape))
        return self._add_rows(_whole(x, axis), shape, axis, targets, sample_weight)

    def _add_rows(self, pieces, shape, axis, targets, sample_weight):
        """Add rows of logits of this shape, which come in pieces as for `_row_statistics_of`."""
        n_classes = _arguments.some_classes("logits", shape, axis)
        _arguments.same_classes(shape, axis, n_classes, self.n_classes)
        rows = _arguments.rows_shape(shape, axis)
        options = self._options
        codes = _labels(targets, rows, options.ignore_index, n_classes)
        given = _arguments.sample_weight(sample_weight, rows)
        weights, exponent = near_1(given, codes, options.ignore_index)
        added = self._sums_of(pieces, shape, axis, codes, weights, exponent)
        if weights is not None and added.omits_bad and added.first_bad is not None:
            # Rows that are left out say nothing about the size of the others' weights.
            is_bad = self._bad_rows(pieces, shape, axis)
            weights, of_good = near_1(np.where(is_bad, 0.0, given), codes, options.ignore_index)
            if of_good != exponent:
                weights[is_bad & (given > 0)] = 1.0
                added = self._sums_of(pieces, shape, axis, codes, weights, of_good)
        self._state.merge(added)
        return self

    def _bad_rows(self, pieces, shape, axis):
        """Which rows have no probabilities."""
        found = _row_statistics_of(pieces, shape, axis, np.float64, None, 1.0, None, self.n_threads)
        return np.reshape(found.prediction, -1) < 0

    def _sums_of(self, pieces, shape, axis, codes, weights, exponent):
        """What the rows add up to, of weights times 2^-exponent."""
        options = self._options
        n_classes = shape[axis]
        added = self._no_rows()
        added.n_classes = n_classes
        added.exponent = exponent
        for some, x in pieces(codes, options.temperature, options.ignore_index):
            y, v = codes[some], _layout.of_rows(weights, some)
            n_threads = _threads.resolve(self.n_threads, len(y) * n_classes)
            if isinstance(x, Columns):
                steps = added.add_columns(x, v, n_threads)
            else:
                steps = added.add(
                    x,
                    axis,
                    y,
                    v,
                    options.temperature,
                    options.ignore_index,
                    options.classwise,
                    n_threads,
                )
            for part, counted in steps:
                if options.nan_policy == "raise" and added.first_bad is not None:
                    raise _arguments.no_probabilities_error(shape, axis, added.first_bad)
                if options.classwise:
                    self._add_classes(added, x, axis, y, v, part, counted)
        if added.omits_bad:
            added.sums[:, [SUMS.index("v bad"), SUMS.index("vv bad")]] = 0.0
        return added

    def _add_classes(self, state, x, axis, codes, weights, rows, counted):
        step = max(1, _PROBABILITIES // state.n_classes)
        for start in range(rows.start, rows.stop, step):
            some = slice(start, min(start + step, rows.stop))
            part = counted[some.start - rows.start : some.stop - rows.start]
            values = _matrix_of(x, axis, some.start, some.stop)[part]
            if len(values):
                p = softmax(
                    values,
                    temperature=self._options.temperature,
                    out=values,
                    n_threads=self.n_threads,
                )
                v = None if weights is None else weights[some][part]
                state.add_classes(p, codes[some][part], v)

    def merge(self, other):
        """Add the rows of another evaluator, which is left as it is.

        Parameters
        ----------
        other : Evaluator
            Of the same options (``n_threads`` apart) and classes. Its rows count as coming after.

        Returns
        -------
        Evaluator
            Itself.

        Raises
        ------
        TypeError
            If ``other`` is no evaluator.
        ValueError
            If its options or its number of classes differ.
        """
        _arguments.mergeable(other, Evaluator, self._options, self.n_classes)
        self._state.merge(other._state if other is not self else copy.deepcopy(other._state))
        return self

    def __add__(self, other):
        if not isinstance(other, Evaluator):
            return NotImplemented
        return copy.deepcopy(self).merge(other)

    def result(self):
        """What the rows so far have shown.

        Returns
        -------
        Evaluation
            It stays as it is when more rows are added.
        """
        with np.errstate(all="ignore"):
            return _evaluation(copy.deepcopy(self._state), self._options)


def evaluate(
    logits,
    targets,
    *,
    axis=-1,
    temperature=1.0,
    top_k=(1, 5),
    n_bins=15,
    classwise=False,
    sample_weight=None,
    ignore_index=-100,
    nan_policy="propagate",
    n_threads=None,
):
    r"""Loss, accuracy, Brier score and calibration of logits against labels, in one pass.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Logits, as of `softmax_loss`. They are read once, and nothing of their size is made.
    targets : array_like of int, shape of the rows
        Class indices of any integer dtype.
    axis : int, optional
        The class axis, the last by default.
    temperature : float, optional
        T, finite and > 0, the same for all rows.
    top_k : int or sequence of int, optional
        For each of these k the share of rows with the label among the first k classes is given.
    n_bins : int, optional
        Number of bins of confidence for the calibration errors.
    classwise : bool, optional
        Whether ``classwise_ece`` is wanted, which takes a second look at the logits while they are
        in the cache, the probabilities of some rows, and C ``n_bins`` sums.
    sample_weight : array_like, shape of the rows, optional
        Weight v of each row, finite and >= 0. A row of weight 0 is left out, like an ignored one.
    ignore_index : int or None, optional
        Rows with this label are left out; None for no such label.
    nan_policy : {"propagate", "omit", "raise"}, optional
        What a row without probabilities (NaN or +inf, or nothing but -inf, among its logits) does:
        makes the means NaN, is left out and counted in ``n_nonfinite``, or raises ValueError.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    Evaluation
        All there is to know, as attributes; ``print`` shows it as a table.

    Raises
    ------
    IndexError
        If a label is outside [0, C) and not ``ignore_index``.
    TypeError
        If an argument has a dtype that is not accepted.
    ValueError
        If an argument has another shape than expected or is out of range, or without classes; or
        because of ``nan_policy="raise"``, with the first such row in the text.
    numpy.exceptions.AxisError
        If ``axis`` is out of range.

    See Also
    --------
    Evaluator : the same of logits that come in pieces.
    Evaluation : what each number means.
    row_statistics : the numbers of each row.

    Notes
    -----
    With p = softmax(x / T), v the weights and hit = [argmax p = y], the mean loss and the expected
    calibration error [1]_ are

    .. math:: \frac{\sum_i v_i (-\log p_{i y_i})}{\sum_i v_i}, \qquad
              \frac{\sum_b \bigl| \sum_{i \in b} v_i (\text{hit}_i - \max_k p_{ik}) \bigr|}
                   {\sum_i v_i}

    See `Evaluation` for the others. Of equal logits the lowest class comes first, everywhere. A k of
    C or more gives 1.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks",
       ICML (2017), :arxiv:`1706.04599`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import evaluate
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> result = evaluate(logits, [1, 2])
    >>> round(result.loss, 6), result.accuracy, round(result.brier, 6)
    (0.804719, 0.5, 0.4675)
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
    evaluator.update(logits, targets, sample_weight=sample_weight, axis=axis)
    with np.errstate(all="ignore"):
        return _evaluation(evaluator._state, evaluator._options)


def _matrix_of(x, axis, start, stop):
    """Rows of a `Source` by their numbers, as a new float64 array (n, C)."""
    array = _layout.axis_last(x.array, axis)
    if array.ndim == 1:
        array = array[None]
    result = np.empty((stop - start, array.shape[-1]))
    place = 0
    for index in _layout.rectangles(array.shape[:-1], start, stop):
        part = x._replace(array=array[index]).widened(np.float64).reshape(-1, array.shape[-1])
        result[place : place + len(part)] = part
        place += len(part)
    return result


# From sums to results


def _ratio(sum_, weight):
    return sum_ / weight if weight else math.nan


def _mean(v, vx, far=()):
    """Σ v x / Σ v from sums as pairs, and ``far`` ones as of `_mean_stderr`."""
    if not far:
        return _ratio(sum(vx), sum(v))
    v, vx, far_vx, _ = _as_integers((v, vx, far[0]))
    return (vx + (far_vx << _core.far_exponent)) / v


def _mean_stderr(v, vv, vx, vvx, vvxx, n, far=()):
    """Standard error of Σ v x / Σ v from sums as pairs, in exact arithmetic up to the root.

    ``far`` are the last three sums of other x, times 2^-`_core.far_exponent`. NaN where squares are
    so small, or large, that the sums have lost them.
    """
    pairs = (v, vv, vx, vvx, vvxx, *far)
    if n < 2 or not all(math.isfinite(part) for pair in pairs for part in pair):
        return math.nan
    v, vv, vx, vvx, vvxx, *far, exponent = _as_integers(pairs)
    least = n << exponent
    if far:
        shift = _core.far_exponent
        vx, vvx, vvxx = (
            vx + (far[0] << shift),
            vvx + (far[1] << shift),
            vvxx + (far[2] << 2 * shift),
        )
        least <<= 2 * shift
    if vx and vvxx << _LEAST_SQUARE < least:
        return math.nan
    # Σ v²(x - mean)², times v²
    square = vvxx * v * v - 2 * vx * vvx * v + vx * vx * vv
    if square << 96 < vvxx * v * v:  # Less than pairs of float64 can tell from 0
        return 0.0
    return _root((square << exponent) * n, v**4 * (n - 1))


def _root(top, bottom):
    """√(top / bottom) of whole numbers, wherever they are."""
    half = (top.bit_length() - bottom.bit_length()) // 2
    up, down = max(-half, 0), max(half, 0)
    return math.ldexp(math.sqrt((top << 2 * up) / (bottom << 2 * down)), half)


def _as_integers(pairs):
    """The sums of pairs times 2^exponent, and exponent, the least for which they are whole numbers."""
    ratios = [[part.as_integer_ratio() for part in pair] for pair in pairs]
    exponent = max(bottom for pair in ratios for _, bottom in pair).bit_length() - 1
    return *(sum((top << exponent) // bottom for top, bottom in pair) for pair in ratios), exponent


def _plus(one, other):
    return one[0] + other[0], one[1] + other[1]


def _exp(x):
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _evaluation(state, options):
    """The `Evaluation` of a state, which it keeps."""
    good, ignored, bad, infinite, _, *_ = (int(n) for n in state.counts)
    pairs = [(float(hi), float(lo)) for hi, lo in state.sums.T]
    s = dict(zip(SUMS, pairs, strict=False))
    has_bad = bad > 0 and options.nan_policy != "omit"
    n = good + bad if has_bad else good
    v, vv = s["v"], s["vv"]
    if has_bad:
        v, vv = _plus(v, s["v bad"]), _plus(vv, s["vv bad"])
    weight = sum(v)

    def share(pair):
        return _ratio(sum(pair), weight)

    def known(value):
        return math.nan if has_bad else value

    far = s["v far loss"], s["vv far loss"], s["vv far loss²"]
    far = far if sum(far[0]) else ()
    loss = known(math.inf if infinite else _mean(v, s["v loss"], far))
    histogram, cells = state.histograms()
    bins = _gaps(histogram[0])
    off = np.abs(bins.gap) / bins.weight
    mass = _gaps(_equal_mass(cells, options.n_bins)[1])
    floor = math.sqrt(2 / math.pi) * float(np.sqrt(histogram[0].sum(axis=0)[-1]).sum())
    classwise = None
    if options.classwise:
        classwise = math.nan
        if state.classes is not None and not has_bad:
            errors = np.abs(state.classes[0] + state.classes[1]).sum(axis=1)
            classwise = _ratio(float(errors.sum()) / state.n_classes, weight)
    return Evaluation(
        n=n,
        n_ignored=ignored,
        n_nonfinite=bad + infinite,
        first_nonfinite=state.first_nonfinite,
        n_classes=state.n_classes,
        n_bins=options.n_bins,
        weight_sum=float(np.ldexp(weight, state.exponent)),
        temperature=options.temperature,
        loss=loss,
        loss_stderr=math.nan
        if has_bad or infinite
        else _mean_stderr(v, vv, s["v loss"], s["vv loss"], s["vv loss²"], n, far),
        perplexity=_exp(loss),
        accuracy=share(s["v hit"]),
        accuracy_stderr=_mean_stderr(v, vv, s["v hit"], s["vv hit"], s["vv hit"], n),
        top_k={k: share(p) for k, p in zip(state.top_k, pairs[len(SUMS) :], strict=True)},
        mean_reciprocal_rank=share(s["v reciprocal rank"]),
        brier=known(share(s["v brier"])),
        brier_stderr=known(_mean_stderr(v, vv, s["v brier"], s["vv brier"], s["vv brier²"], n)),
        entropy=known(share(s["v entropy"])),
        confidence=known(share(map(math.fsum, histogram[0][:, OF_BINS.index("v confidence")]))),
        ece=known(_ratio(float(np.abs(bins.gap).sum()), weight)),
        mce=known(float(off.max(initial=0.0)) if n else math.nan),
        rms_ce=known(float(np.sqrt((off * off * (bins.weight / weight)).sum())) if n else math.nan),
        ece_floor=known(_ratio(floor, weight)),
        ece_equal_mass=known(_ratio(float(np.abs(mass.gap).sum()), weight)),
        classwise_ece=classwise,
        temperature_hint=_hint(options.temperature, s, n)
        if not has_bad and not infinite
        else math.nan,
        _state=state,
    )


def _hint(temperature, s, n):
    slope, curvature = sum(s["v slope"]), sum(s["v curvature"])
    if n == 0 or not (math.isfinite(slope) and math.isfinite(curvature)):
        return math.nan
    if curvature == 0:
        return temperature if slope == 0 else math.nan
    # 1/T overflows where T is subnormal; T' = T / (1 - T g / Var) does not.
    rest = 1.0 - temperature * (slope / curvature)
    return temperature / rest if rest > 0 else math.inf


class _Gaps(NamedTuple):
    weight: np.ndarray
    gap: np.ndarray  # Σ v (hit - confidence)


def _gaps(sums):
    """Weight and gap of the bins that have weight; beside much greater ones that of a bin may vanish."""
    hi, lo = sums[:, :, sums[0, 0] > 0]
    return _Gaps(hi[0] + lo[0], (hi[3] - hi[2]) + (lo[3] - lo[2]))


def _grouped(bins, group, n):
    """Sums and counts of groups of bins, by the group below n of each."""
    sums, counts = bins
    result = np.empty((2, sums.shape[1], n))
    for i, (hi, lo) in enumerate(zip(*sums, strict=True)):
        total, lost = sum_by(group, hi, n)
        result[:, i] = total, lost + np.bincount(group, lo, n)
    together = np.zeros(n, np.int64)
    np.add.at(together, group, counts)
    return result, together


def _equal_mass(cells, n):
    """Edges, sums and counts of n bins of nearly equal weight."""
    sums, counts = cells
    filled = np.flatnonzero(counts)
    weight = sums[:, 0, filled].sum(axis=0)
    before = np.cumsum(weight)
    edges = np.zeros(n + 1)
    edges[-1] = 1.0
    group = filled
    if len(filled):
        middle = (before - weight / 2) / before[-1]
        group = np.clip((middle * n).astype(np.int64), 0, n - 1)
        ends = np.concatenate([[0.0], cell_ends()[filled]])
        edges[1:-1] = ends[np.searchsorted(group, np.arange(1, n))]
    return edges, *_grouped((sums[:, :, filled], counts[filled]), group, n)


def _reliability(edges, sums, counts):
    weight, squares, confidence, hits, _ = sums.sum(axis=0)
    q = hits / weight
    # Where the squares of weights vanish beside those of other bins, as for one row alone
    m = np.where(squares < _LEAST_SQUARED_WEIGHT, 1.0, weight * weight / squares)
    z = _Z * _Z / m
    middle = (q + z / 2) / (1 + z)
    half = _Z * np.sqrt(q * (1 - q) / m + z / (4 * m)) / (1 + z)
    lower = np.where(q == 0, 0.0, np.maximum(middle - half, 0.0))
    upper = np.where(q == 1, 1.0, np.minimum(middle + half, 1.0))
    return Reliability(edges, counts.copy(), confidence / weight, q, lower, upper)
