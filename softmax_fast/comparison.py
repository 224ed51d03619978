"""How far the distributions of one array of logits are from those of another, in one pass."""

import copy
import dataclasses
import decimal
import math
from typing import NamedTuple

import numpy as np

from . import _arguments, _threads
from ._comparison_state import OF_LABELS, State
from ._evaluation_state import near_1
from .evaluation import _exp, _labels, _mean, _mean_stderr

QUANTILES = (0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)


class RowComparison(NamedTuple):
    """What `compare` tells of each row, arrays of the shape of the rows."""

    kl: np.ndarray
    kl_reverse: np.ndarray
    js: np.ndarray
    total_variation: np.ndarray
    max_abs_dp: np.ndarray
    same_top: np.ndarray
    base_loss: np.ndarray | None
    loss: np.ndarray | None
    dp: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    r"""What a comparison has found: numbers of Python, worked out in float64.

    Made by `compare`. p = softmax(base_logits / T), q = softmax(logits / T), and v is the weight of
    a row. Means and their standard errors are those of `Evaluation`.

    Attributes
    ----------
    n, n_ignored : int
        Rows that count, and rows that do not: those with an ignored label or of weight 0.
    n_nonfinite : int
        Rows, of those that count, without probabilities in one of the two arrays (NaN or +inf, or
        nothing but -inf, among the logits), or of infinite divergence or loss.
    first_nonfinite : int or None
        The number of the first of them among all rows, ignored ones included, from 0.
    n_classes : int or None
        C, None before any rows.
    weight_sum : float
        Σ v, which is n without weights.
    temperature : float or None
        T, None where it was one a row.
    kl, kl_stderr : float
        Mean of KL(p ‖ q) in nats, as of `kl_divergence`, and its standard error.
    kl_quantiles : dict
        For each of the quantiles asked for that of the rows' KL(p ‖ q).
    kl_reverse, js, total_variation : float
        Means of KL(q ‖ p), of the Jensen-Shannon divergence (KL(p ‖ m) + KL(q ‖ m)) / 2 with
        m = (p + q) / 2 [1]_, at most log 2, and of Σ |p - q| / 2, at most 1.
    max_abs_dp : float
        The greatest \|p - q\| of all classes and rows.
    same_top, same_top_stderr : float
        Share of the rows whose greatest logit is at the same class, the lowest of equals, and its
        standard error.
    base_loss, loss, base_loss_stderr, loss_stderr : float or None
        Mean losses of both, and their standard errors; these and all that follow are None without
        targets.
    loss_difference, loss_difference_stderr : float or None
        ``loss - base_loss``, with the standard error of the rows' differences: rows are paired.
    base_perplexity, perplexity, perplexity_ratio, perplexity_ratio_stderr : float or None
        exp of the two losses and of their difference, and the last's standard error.
    correlation : float or None
        Of the losses of the rows, weighted by v.
    dp, dp_stderr, dp_rms, dp_rms_stderr : float or None
        Mean and root of the mean square of q_y - p_y, y being the label, and their standard errors.
    dp_quantiles : dict or None
        For each of the quantiles that of the rows' q_y - p_y.
    rows : RowComparison or None
        With ``rows=True`` the numbers of each row.

    Notes
    -----
    Where a row has no probabilities the means, quantiles and ``max_abs_dp`` are NaN, and the row
    counts as of another top. Where a divergence or a loss of a row is infinite its mean is, and
    what else depends on it is NaN. All means over nothing are NaN.

    References
    ----------
    .. [1] J. Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on
       Information Theory 37 (1991).

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import compare
    >>> base_logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> logits = np.log([[0.25, 0.25, 0.5], [0.1, 0.1, 0.8]])
    >>> result = compare(base_logits, logits, [0, 2])
    >>> round(result.kl, 6), result.same_top, round(result.loss_difference, 6)
    (0.086643, 0.5, 0.346574)
    """

    n: int
    n_ignored: int
    n_nonfinite: int
    first_nonfinite: int | None
    n_classes: int | None
    weight_sum: float
    temperature: float | None
    kl: float
    kl_stderr: float
    kl_quantiles: dict
    kl_reverse: float
    js: float
    total_variation: float
    max_abs_dp: float
    same_top: float
    same_top_stderr: float
    base_loss: float | None
    base_loss_stderr: float | None
    loss: float | None
    loss_stderr: float | None
    loss_difference: float | None
    loss_difference_stderr: float | None
    base_perplexity: float | None
    perplexity: float | None
    perplexity_ratio: float | None
    perplexity_ratio_stderr: float | None
    correlation: float | None
    dp: float | None
    dp_stderr: float | None
    dp_rms: float | None
    dp_rms_stderr: float | None
    dp_quantiles: dict | None
    rows: RowComparison | None = dataclasses.field(repr=False)
    _state: State = dataclasses.field(repr=False)

    def as_dict(self):
        """All attributes but ``rows`` by name, the quantiles' keys as strings.

        Returns
        -------
        dict
            ``json.dumps`` takes it. Numbers are Python's own; NaN and inf may be among them.

        Examples
        --------
        >>> from softmax_fast import compare
        >>> compare([[1.0, 0.0]], [[1.0, 0.0]], quantiles=0.5).as_dict()["kl_quantiles"]
        {'0.5': 0.0}
        """
        names = (field.name for field in dataclasses.fields(self))
        result = {n: getattr(self, n) for n in names if n != "rows" and not n.startswith("_")}
        for name in ("kl_quantiles", "dp_quantiles"):
            if result[name] is not None:
                result[name] = {_shortest(q): value for q, value in result[name].items()}
        return result

    def __str__(self):
        rows = f"{self.n}"
        if self.n_ignored:
            rows += f"  (and {self.n_ignored} ignored)"
        lines = [f"rows               {rows}", f"classes            {self.n_classes}"]
        if self.temperature is not None:
            lines.append(f"temperature        {self.temperature:g}")
        if self.weight_sum != self.n:
            lines.append(f"sum of weights     {self.weight_sum:.6g}")
        if self.n_nonfinite:
            text = f"{self.n_nonfinite} rows, the first is row {self.first_nonfinite}"
            lines.append(f"not finite         {text}")
        if self.loss is not None:
            lines += self._perplexity_lines()
        lines += ["", "====== KL divergence statistics ======"]
        lines.append(f"Mean    KLD: {_number(self.kl)} ± {_number(self.kl_stderr)}")
        lines += [
            f"{_quantile_name(q)} KLD: {_number(value)}"
            for q, value in sorted(self.kl_quantiles.items(), reverse=True)
        ]
        lines += [
            "",
            "====== Other distances ======",
            f"Mean    KLD(Q, base)     : {_number(self.kl_reverse)}",
            f"Mean    JSD              : {_number(self.js)}",
            f"Mean    total variation  : {_number(self.total_variation)}",
            f"Maximum |Δp|, any token  : {_percent(self.max_abs_dp)}%",
            "",
            "====== Token probability statistics ======",
        ]
        if self.dp is not None:
            lines.append(f"Mean    Δp: {_percent(self.dp)} ± {_percent(self.dp_stderr)} %")
            lines += [
                f"{_quantile_name(q)} Δp: {_percent(value)}%"
                for q, value in sorted(self.dp_quantiles.items(), reverse=True)
            ]
            lines.append(f"RMS Δp    : {_percent(self.dp_rms)} ± {_percent(self.dp_rms_stderr)} %")
        lines.append(f"Same top p: {_percent(self.same_top)} ± {_percent(self.same_top_stderr)} %")
        return "\n".join(lines)

    def _perplexity_lines(self):
        one, base = self.perplexity, self.base_perplexity
        stderr, base_stderr = one * self.loss_stderr, base * self.base_loss_stderr
        paired = (one - base) * (stderr * self.loss_stderr - base_stderr * self.base_loss_stderr)
        paired += one * base * (self.loss_difference_stderr * self.loss_difference_stderr)
        of_difference = math.nan if math.isnan(paired) else math.sqrt(max(paired, 0.0))
        ratio, ratio_stderr = self.perplexity_ratio, self.perplexity_ratio_stderr
        change, change_stderr = self.loss_difference, self.loss_difference_stderr
        return [
            "",
            "====== Perplexity statistics ======",
            f"Mean PPL(Q)                   : {_number(one)} ± {_number(stderr)}",
            f"Mean PPL(base)                : {_number(base)} ± {_number(base_stderr)}",
            f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * self.correlation:6.2f}%",
            f"Mean ln(PPL(Q)/PPL(base))     : {_number(change)} ± {_number(change_stderr)}",
            f"Mean PPL(Q)/PPL(base)         : {_number(ratio)} ± {_number(ratio_stderr)}",
            f"Mean PPL(Q)-PPL(base)         : {_number(one - base)} ± {_number(of_difference)}",
        ]

    def plot(self, ax=None):
        """Draw with matplotlib how KL(p ‖ q) and, with targets, q_y - p_y are distributed.

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

        return _plots.distributions(self, ax)


def _number(x):
    """Six decimals, or as many digits of a smaller number."""
    return f"{x:10.6f}" if x == 0 or not abs(x) < 1e-3 else f"{x:10.4e}"


def _percent(x):
    return f"{100 * x:6.3f}"


def _shortest(q):
    text = f"{q:g}"
    return text if float(text) == q else repr(q)


def _quantile_name(q):
    name = {0: "Minimum", 0.5: "Median ", 1: "Maximum"}.get(q)
    percent = decimal.Decimal(repr(q)) * 100
    text = f"{percent:4.1f}"
    if decimal.Decimal(text.strip()) != percent:
        text = f"{percent.normalize():f}"
    return f"{text}%  " if name is None else name


class _Options(NamedTuple):
    """What two comparers must share to be merged."""

    temperature: float | None
    quantiles: tuple
    ignore_index: int | None


class _Comparer:
    """`compare` of logits that come in pieces: sums, and the rows' numbers for the quantiles."""

    def __init__(self, *, temperature=1.0, quantiles=QUANTILES, ignore_index=-100, n_threads=None):
        self._options = _Options(
            temperature=None if temperature is None else _arguments.one_temperature(temperature),
            quantiles=_arguments.quantiles(quantiles),
            ignore_index=_arguments.ignore_index(ignore_index),
        )
        self.n_threads = _arguments.threads(n_threads)
        self._state = State()

    @property
    def n_classes(self):
        return self._state.n_classes

    @property
    def first_bad(self):
        """The first row that counts and has no probabilities, or None."""
        return self._state.first_bad

    def update(self, base_logits, logits, targets=None, *, sample_weight=None, axis=-1, rows=None):
        """Add rows; what is told of each goes to ``rows``, a dict of flat arrays, unless None."""
        return self._update(
            base_logits, logits, targets, sample_weight, axis, self._options.temperature, rows
        )[0]

    def _update(self, base_logits, logits, targets, sample_weight, axis, temperature, rows):
        """Itself, and the shape of the rows."""
        x = _arguments.logits("logits", logits)
        shape = x.array.shape
        base = _arguments.base_logits(base_logits, shape)
        axis = _arguments.axis(axis, len(shape))
        n_classes = _arguments.some_classes("logits", shape, axis)
        _arguments.same_classes(shape, axis, n_classes, self.n_classes)
        of_rows = _arguments.rows_shape(shape, axis)
        ignored = self._options.ignore_index
        labels = None
        if targets is not None:
            labels = _labels(targets, of_rows, ignored, n_classes).astype(np.int64, copy=False)
        weights = _arguments.sample_weight(sample_weight, of_rows)
        temperature = _arguments.temperature(temperature, of_rows)
        _arguments.same_columns(labels is not None, self._state.has_labels)
        added = State()
        added.n_classes, added.has_labels = n_classes, labels is not None
        weights, added.exponent = near_1(weights, labels, None if labels is None else ignored)
        if rows is not None:
            dtype = np.promote_types(base.result_dtype, x.result_dtype)
            for name in RowComparison._fields:
                if labels is not None or name not in OF_LABELS:
                    of_name = bool if name == "same_top" else dtype
                    rows[name] = np.empty(math.prod(of_rows), of_name)
        if x.array.size:
            n_threads = _threads.resolve(self.n_threads, x.array.size)
            with np.errstate(all="ignore"):
                added.add(x, base, axis, labels, weights, temperature, ignored, rows, n_threads)
        self._state.merge(added)
        return self, of_rows

    def merge(self, other):
        """Add the rows of another comparer, which count as coming after and is left as it is."""
        _arguments.mergeable(other, _Comparer, self._options, self.n_classes)
        if other._state.has_labels is not None:
            _arguments.same_columns(other._state.has_labels, self._state.has_labels)
        self._state.merge(other._state if other is not self else copy.deepcopy(other._state))
        return self

    def __add__(self, other):
        if not isinstance(other, _Comparer):
            return NotImplemented
        return copy.deepcopy(self).merge(other)

    def result(self, rows=None):
        with np.errstate(all="ignore"):
            return _comparison(copy.deepcopy(self._state), self._options, rows)


def compare(
    base_logits,
    logits,
    targets=None,
    *,
    axis=-1,
    temperature=1.0,
    sample_weight=None,
    ignore_index=-100,
    quantiles=QUANTILES,
    rows=False,
    n_threads=None,
):
    r"""How far the softmax distributions of logits are from those of others, in one pass.

    Of a quantised, pruned or distilled model against the model it comes from.

    Parameters
    ----------
    base_logits : array_like, shape (..., C, ...)
        Logits of the distributions p that are taken for the truth, as of `kl_divergence`.
    logits : array_like, shape of ``base_logits``
        Logits of the distributions q; not necessarily of the same dtype or layout.
    targets : array_like of int, shape of the rows, optional
        Class indices of any integer dtype, for the losses and the probabilities of the labels.
    axis : int, optional
        The class axis, the last by default.
    temperature : float or array_like, optional
        T of both, finite and > 0: one number, or an array that broadcasts to the shape of the rows.
    sample_weight : array_like, shape of the rows, optional
        Weight v of each row, finite and >= 0. A row of weight 0 is left out, like an ignored one.
    ignore_index : int or None, optional
        Rows with this label are left out; None for no such label.
    quantiles : float or sequence of float, optional
        Of which probabilities in [0, 1] there shall be quantiles.
    rows : bool, optional
        Whether the numbers of each row are wanted.
    n_threads : int, optional
        At most this many threads; None for automatic, see `get_num_threads`.

    Returns
    -------
    Comparison
        All that was found, with its standard errors, as attributes; ``str()`` of it is a table.

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
    kl_divergence, evaluate

    Notes
    -----
    .. math:: \mathrm{KL}(p \| q) = \sum_k p_k \log \frac{p_k}{q_k}, \quad
              \mathrm{JS} = \tfrac12 \mathrm{KL}(p \| m) + \tfrac12 \mathrm{KL}(q \| m), \quad
              m = \tfrac12 (p + q)

    Both arrays are read once from memory, some rows after the other, and nothing of their size is
    made. Small differences keep their digits, as those of `kl_divergence`, and ``rows.kl`` has its
    bits. Where p = 0 < q the reverse divergence is inf, where q = 0 < p the divergence is; all
    others are finite.

    The numbers of rows are float64 before they are summed, and ``rows`` has them in the wider
    result dtype of the two arrays. Of a row with an ignored label losses and ``dp`` are 0 there.

    Quantiles are those of `numpy.quantile`: between the rows' numbers "linear", with weights
    "inverted_cdf". They take 8 bytes a row and quantity. Of more than 10⁷ rows the numbers are
    rounded first and equal ones counted: the quantiles are then those of "inverted_cdf" within
    0.013 %.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import compare
    >>> base_logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> logits = np.log([[0.25, 0.25, 0.5], [0.1, 0.1, 0.8]])
    >>> result = compare(base_logits, logits, rows=True)
    >>> print(result.rows.total_variation.round(6), result.rows.same_top)
    [0.25 0.  ] [False  True]
    """
    wanted = {} if _arguments.flag("rows", rows) else None
    is_one = _arguments.as_array("temperature", temperature).ndim == 0
    comparer = _Comparer(
        temperature=temperature if is_one else None,
        quantiles=quantiles,
        ignore_index=ignore_index,
        n_threads=n_threads,
    )
    _, shape = comparer._update(
        base_logits, logits, targets, sample_weight, axis, temperature, wanted
    )
    arrays = None
    if wanted is not None:
        flat = (wanted.get(name) for name in RowComparison._fields)
        arrays = RowComparison(*(a if a is None else a.reshape(shape)[()] for a in flat))
    return comparer.result(arrays)


def _comparison(state, options, rows):
    """The `Comparison` of a state, which it keeps."""
    n_bad = state.count("bad")
    n = state.count("good") + n_bad
    (v, vv, _), *_ = state.of("one")
    weight = sum(v)

    def mean(name):
        if n_bad and name != "same_top":
            return math.nan
        (vx, _, _), far, n_infinite = state.of(name)
        return math.inf if n_infinite else _mean(v, vx, far)

    def stderr(name):
        (vx, vvx, vvxx), far, n_infinite = state.of(name)
        if (n_bad and name != "same_top") or n_infinite:
            return math.nan
        return _mean_stderr(v, vv, vx, vvx, vvxx, n, far)

    def quantiles(sample):
        found = sample.quantiles(options.quantiles)
        return {q: math.nan if n_bad else x for q, x in zip(options.quantiles, found, strict=True)}

    largest = state.largest if n and not n_bad else math.nan
    result = dict.fromkeys(field.name for field in dataclasses.fields(Comparison))
    result.update(
        n=n,
        n_ignored=state.count("ignored"),
        n_nonfinite=state.count("nonfinite"),
        first_nonfinite=state.first_nonfinite,
        n_classes=state.n_classes,
        weight_sum=float(np.ldexp(weight, state.exponent)),
        temperature=options.temperature,
        kl=mean("kl"),
        kl_stderr=stderr("kl"),
        kl_quantiles=quantiles(state.kl),
        kl_reverse=mean("kl_reverse"),
        js=mean("js"),
        total_variation=mean("total_variation"),
        max_abs_dp=float(largest),
        same_top=mean("same_top"),
        same_top_stderr=stderr("same_top"),
        rows=rows,
        _state=state,
    )
    if state.has_labels:
        base_loss, loss = mean("base_loss"), mean("loss")
        difference = mean("loss_difference")
        if math.inf in (base_loss, loss):
            difference = loss - base_loss
        difference_stderr = stderr("loss_difference")
        ratio = _exp(difference)
        rms = math.sqrt(mean("dp²"))
        result.update(
            base_loss=base_loss,
            base_loss_stderr=stderr("base_loss"),
            loss=loss,
            loss_stderr=stderr("loss"),
            loss_difference=difference,
            loss_difference_stderr=difference_stderr,
            base_perplexity=_exp(base_loss),
            perplexity=_exp(loss),
            perplexity_ratio=ratio,
            perplexity_ratio_stderr=ratio * difference_stderr if difference_stderr else 0.0,
            correlation=math.nan if n_bad else state.losses.correlation(),
            dp=mean("dp"),
            dp_stderr=stderr("dp"),
            dp_rms=rms,
            dp_rms_stderr=stderr("dp²") / (2 * rms) if rms else 0.0 if n > 1 else math.nan,
            dp_quantiles=quantiles(state.dp),
        )
    return Comparison(**result)
