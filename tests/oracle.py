"""Reference answers in higher precision, and the error bounds the library promises.

Float32 and narrower inputs are worked out in float64, everything wider in ``np.longdouble``, whose
64-bit significand on x86 leaves 11 bits between the reference and the result under test.
``test_oracle.py`` checks the references themselves against mpmath at 400 digits.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

# Where longdouble is float64 under another name (Windows, macOS on ARM) the reference's rounding is
# as large as the library's, so float64 comparisons get twice the room there.
REFERENCE_IS_WIDER = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant

NARROW = ("float16", "bfloat16", "float32")


def result_dtype(dtype):
    """The dtype of a result computed from logits of ``dtype``."""
    return np.dtype(np.float32 if np.dtype(dtype).name in NARROW else np.float64)


def widened(x):
    """The values of ``x`` as the library reads them, in the reference's precision."""
    x = np.asarray(x)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        if x.dtype.name in NARROW:
            return x.astype(np.float64)
        if x.dtype != np.longdouble:  # integers and bool are read as float64
            x = x.astype(np.float64)
        return x.astype(np.longdouble)


@dataclass
class Rows:
    """The parts every reference is made of; the class axis is last, the others count the rows."""

    exponent: np.ndarray  # d = (x - m)/T, NaN throughout a row whose maximum is not finite
    maximum: np.ndarray  # m, NaN if the row holds one, -inf if the row is empty
    rest: np.ndarray  # s - 1, summed without the maximum's own term
    temperature: np.ndarray
    axis: int

    @property
    def log_sum(self):
        return np.log1p(self.rest)

    def along_axis(self, values):
        return np.moveaxis(values, -1, self.axis)


def rows_of(x, axis=-1, temperature=1.0):
    x = np.moveaxis(widened(x), axis, -1)
    shape = x.shape[:-1]
    temperature = np.broadcast_to(np.asarray(temperature, np.float64).astype(x.dtype), shape)
    with np.errstate(all="ignore"):
        m = np.max(x, axis=-1, initial=-np.inf)
        finite = np.isfinite(m)
        d = (x - np.where(finite, m, np.nan)[..., None]) / temperature[..., None]
        terms = np.exp(d)
        if x.shape[-1]:
            top = np.argmax(x, axis=-1)[..., None]
            np.put_along_axis(terms, top, 0, axis=-1)
        rest = np.where(finite, terms.sum(axis=-1), np.nan)
    return Rows(d, m, rest, temperature, axis)


def softmax(x, axis=-1, temperature=1.0):
    rows = rows_of(x, axis, temperature)
    with np.errstate(all="ignore"):
        return rows.along_axis(np.exp(rows.exponent) / (1 + rows.rest)[..., None])


def log_softmax(x, axis=-1, temperature=1.0):
    rows = rows_of(x, axis, temperature)
    return rows.along_axis(rows.exponent - rows.log_sum[..., None])


def logsumexp(x, axis=-1, temperature=1.0):
    rows = rows_of(x, axis, temperature)
    with np.errstate(all="ignore"):
        finite = rows.maximum / rows.temperature + rows.log_sum
    return np.where(np.isfinite(rows.maximum), finite, rows.maximum)


@dataclass
class Loss:
    """Row losses with everything a reduction, a gradient or a bound needs."""

    rows: np.ndarray  # weighted loss of each row, 0 where ignored
    magnitude: np.ndarray  # v * sum_c |t_c| w_c, the row's weight: 1 in the plain case
    denominator: float
    grad: np.ndarray | None  # of the sum of the row losses, laid out like the logits
    grad_bound: np.ndarray | None  # its absolute error bound, without the reduction's scale

    def reduced(self, reduction):
        if reduction == "none":
            return self.rows
        total = self.rows.sum()
        if np.abs(total) > np.finfo(np.float64).max:
            total = np.copysign(np.inf, total)  # sums are float64, also on the way to a mean
        if reduction == "sum":
            return total
        with np.errstate(all="ignore"):
            return total / self.denominator

    def bound_of_rows(self, dtype):
        return row_loss_bound(self.rows, self.magnitude, dtype)

    def bound(self, reduction, dtype):
        per_row = self.bound_of_rows(dtype)
        if reduction == "none":
            return per_row
        # The sum itself is carried in float64 whatever the dtype of the logits.
        eps = np.finfo(np.float64).eps
        total = per_row.sum() + eps * (2 + self.rows.size) * np.abs(self.rows).sum()
        with np.errstate(all="ignore"):
            return total if reduction == "sum" else total / self.denominator

    def scale(self, reduction):
        if reduction != "mean":
            return self.rows.dtype.type(1)
        with np.errstate(all="ignore"):
            return 1 / self.denominator


@dataclass
class Divergence(Loss):
    row_bound: np.ndarray

    def bound_of_rows(self, dtype):
        return self.row_bound


@dataclass
class Targets:
    """Dense effective targets t_c * w_c of each row, and who counts."""

    weighted: np.ndarray
    sample_weight: np.ndarray
    ignored: np.ndarray
    denominator: float


def dense_targets(shape, targets, axis, weight, sample_weight, ignore_index, label_smoothing, wide):
    """Targets of logits of ``shape`` (class axis last) after smoothing and class weights."""
    rows, n_classes = shape[:-1], shape[-1]
    targets = np.asarray(targets)
    w = np.ones(n_classes, wide) if weight is None else np.asarray(weight).astype(wide)
    v = np.ones(rows, wide) if sample_weight is None else np.asarray(sample_weight).astype(wide)
    v = np.broadcast_to(v, rows)
    alpha = wide(label_smoothing)
    ignored = np.zeros(rows, bool)
    if targets.dtype.kind in "iu":
        if ignore_index is not None:
            ignored = targets == ignore_index
        labels = np.where(ignored, 0, targets).astype(np.intp)
        t = np.zeros(shape, wide)
        np.put_along_axis(t, labels[..., None], 1, axis=-1)
        ignored = ignored | (w[labels] == 0)
        denominator = np.where(ignored, 0, v * w[labels]).sum()
    else:
        t = np.moveaxis(targets, axis, -1).astype(wide)
        denominator = v.sum()
    # Weight 0, of the row or of its label's class, means that the row is not there.
    ignored = ignored | (v == 0)
    return Targets(((1 - alpha) * t + alpha / n_classes) * w, v, ignored, denominator)


def weighted_loss(minus_log_p, targets):
    """Row losses and their magnitude; a target of zero contributes zero, -log p = inf or not."""
    with np.errstate(all="ignore"):
        terms = np.where(targets.weighted == 0, 0, targets.weighted * minus_log_p)
        per_row = targets.sample_weight * terms.sum(axis=-1)
    magnitude = targets.sample_weight * np.abs(targets.weighted).sum(axis=-1)
    return per_row, np.where(targets.ignored, 0, magnitude)


def softmax_loss(
    logits,
    targets,
    axis=-1,
    temperature=1.0,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    with_grad=False,
):
    rows = rows_of(logits, axis, temperature)
    wide = rows.exponent.dtype.type
    t = dense_targets(
        rows.exponent.shape,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        wide,
    )
    per_row, magnitude = weighted_loss(rows.log_sum[..., None] - rows.exponent, t)
    per_row = np.where(np.isfinite(rows.maximum), per_row, np.nan)
    per_row = np.where(t.ignored, 0, per_row)
    grad = bound = None
    if with_grad:
        dtype = result_dtype(np.asarray(logits).dtype)
        eps = np.finfo(dtype).eps
        total = t.weighted.sum(axis=-1)[..., None]
        with np.errstate(all="ignore"):
            p = np.exp(rows.exponent) / (1 + rows.rest)[..., None]
            per_logit = (t.sample_weight / rows.temperature)[..., None]
            grad = per_logit * (p * total - t.weighted)
            slack = softmax_bound(p, rows.exponent, rows.temperature[..., None], dtype)
            # p's own error, then a handful of roundings of each of the two terms of the difference
            bound = np.abs(per_logit) * (
                slack * np.abs(total) + 4 * eps * (np.abs(p * total) + np.abs(t.weighted))
            )
        grad = rows.along_axis(np.where(t.ignored[..., None], 0, grad))
        bound = rows.along_axis(np.where(t.ignored[..., None], 0, bound))
    return Loss(per_row, magnitude, t.denominator, grad, bound)


def kl_divergence(base, logits, axis=-1, temperature=1.0, sample_weight=None, scale=1.0):
    """The divergence and its gradient with respect to ``logits``, both times ``scale``.

    Of p h(t) every factor may be off by the roundings of an exponential; log-sums count by the square
    of theirs. Differences of logits come first, so that what both have in common costs no digits.
    """
    dtype = np.result_type(result_dtype(base.dtype), result_dtype(logits.dtype))
    wide = np.dtype(np.float64 if dtype == np.float32 else np.longdouble)
    eps = np.finfo(dtype).eps
    base, logits = (widened(x).astype(wide) for x in (base, logits))
    p_rows, q_rows = (rows_of(x.astype(wide), axis, temperature) for x in (base, logits))
    base, logits = (np.moveaxis(x, axis, -1) for x in (base, logits))
    temperature = q_rows.temperature.astype(wide)[..., None]
    v = 1.0 if sample_weight is None else np.asarray(sample_weight)
    v = np.broadcast_to(v, q_rows.rest.shape).astype(wide)
    with np.errstate(all="ignore"):
        p = np.exp(p_rows.exponent) / (1 + p_rows.rest)[..., None]
        q = np.exp(q_rows.exponent) / (1 + q_rows.rest)[..., None]
        differences = (logits - base) - (q_rows.maximum - p_rows.maximum)[..., None]
        t = np.where(
            np.isfinite(differences),
            differences / temperature,
            q_rows.exponent - p_rows.exponent,
        )
        t = t - (q_rows.log_sum - p_rows.log_sum)[..., None]
        powers = [t**k / math.factorial(k) for k in range(2, 12)]
        h = np.where(np.abs(t) < 0.05, sum(powers), np.expm1(t) - t)
        near = np.abs(t) < 1.001
        of_p, of_q = (4 + 1.5 * np.abs(r.exponent) for r in (p_rows, q_rows))
        terms = np.where(p == 0, q, p * h)
        slack = np.where(near, (4 + of_p) * p * h, of_q * q + of_p * p * (1 + np.abs(t)))
        slack = np.where(p == 0, of_q * q, slack)
        slack = np.where(np.isnan(slack), 0, slack)
        grad = np.where(near & (p > 0), p * np.expm1(t), q - p)
        grad_slack = np.where(near, (4 + of_p) * p * np.abs(t), of_q * q + of_p * p)
        # where p is next to 1 its difference is that of all others; shifts have twice the digits, but for
        # their part that is the divergence
        shift = np.abs(q_rows.maximum - p_rows.maximum)[..., None] / temperature
        others = np.nansum(grad_slack, axis=-1, keepdims=True) + 16 * eps * (1 + shift)
        if dtype == np.float32:
            others -= 2 * np.expm1(-np.nansum(terms, axis=-1, keepdims=True))
        grad_slack += p * others
        # the log-sums here, whose difference t is
        own = 4 * np.finfo(wide).eps * (p_rows.log_sum + q_rows.log_sum)[..., None]
        grad_slack += p * own / eps
        per_row = terms.sum(axis=-1)
        bound = eps * slack.sum(axis=-1) + (4 * eps) ** 2
        known = np.isfinite(p_rows.maximum) & np.isfinite(q_rows.maximum)
        factor = scale * v
        per_row = np.where(v == 0, 0, factor * np.where(known, per_row, np.nan))
        per_class = (factor / temperature[..., 0])[..., None]
        grad = np.where((v == 0)[..., None], 0, per_class * grad)
        steps = 2 * np.finfo(dtype).smallest_subnormal  # before the factor
        grad_bound = np.where((v == 0)[..., None], 0, per_class * (eps * grad_slack + steps))
    return Divergence(
        per_row,
        v,
        v.sum(),
        q_rows.along_axis(grad),
        q_rows.along_axis(grad_bound),
        np.where(v == 0, 0, factor * bound) + eps * np.abs(per_row),
    )


def cross_entropy(probs, targets, axis=-1, weight=None, sample_weight=None, ignore_index=-100):
    p = np.moveaxis(widened(probs), axis, -1)
    t = dense_targets(
        p.shape, targets, axis, weight, sample_weight, ignore_index, 0.0, p.dtype.type
    )
    with np.errstate(all="ignore"):
        per_row, magnitude = weighted_loss(-np.log(p), t)
    per_row = np.where(np.isnan(p).any(axis=-1), np.nan, per_row)
    return Loss(np.where(t.ignored, 0, per_row), magnitude, t.denominator, None, None)


def _binary_loss(minus_log_p, minus_log_q, targets, sample_weight, pos_weight):
    wide = minus_log_p.dtype.type
    t = np.asarray(targets).astype(wide)
    v = np.ones(t.shape, wide) if sample_weight is None else np.asarray(sample_weight).astype(wide)
    on = np.broadcast_to(np.asarray(pos_weight, np.float64).astype(wide), t.shape) * t
    off = 1 - t
    nan = np.isnan(minus_log_p)
    with np.errstate(all="ignore"):
        loss = np.where(on == 0, 0, on * minus_log_p) + np.where(off == 0, 0, off * minus_log_q)
        loss = np.where(v == 0, 0, v * np.where(nan, np.nan, loss))
    return Loss(loss, v * (np.abs(on) + np.abs(off)), np.broadcast_to(v, t.shape).sum(), None, None)


def binary_cross_entropy(probs, targets, sample_weight=None):
    p = widened(probs)
    with np.errstate(all="ignore"):
        return _binary_loss(-np.log(p), -np.log1p(-p), targets, sample_weight, 1.0)


def binary_cross_entropy_with_logits(
    logits, targets, temperature=1.0, sample_weight=None, pos_weight=1.0
):
    x = widened(logits)
    z = x / np.asarray(temperature, np.float64).astype(x.dtype)
    with np.errstate(all="ignore"):
        tail = np.log1p(np.exp(-np.abs(z)))
        minus_log_p = tail + np.maximum(-z, 0)
        minus_log_q = tail + np.maximum(z, 0)
    return _binary_loss(minus_log_p, minus_log_q, targets, sample_weight, pos_weight)


def selected_log_probs(logits, indices, temperature=1.0, ignore_index=-100):
    log_p = log_softmax(logits, -1, temperature)
    indices = np.asarray(indices)
    columns = indices if indices.ndim == log_p.ndim else indices[..., None]
    ignored = np.zeros(columns.shape, bool) if ignore_index is None else columns == ignore_index
    chosen = np.take_along_axis(log_p, np.where(ignored, 0, columns).astype(np.intp), axis=-1)
    return np.where(ignored, 0, chosen).reshape(indices.shape)


def linear_logits(features, weights, bias):
    """Exact-enough logits of the fully connected layer, and a bound on the error of a BLAS product.

    A dot product of D terms in working precision errs by at most (D + 2) eps times the sum of the
    terms' magnitudes, whatever the order of the sum; the bias adds one more term.
    """
    f, w = widened(features).astype(np.longdouble), widened(weights).astype(np.longdouble)
    b = np.zeros(w.shape[0]) if bias is None else np.asarray(bias)
    b = widened(b).astype(np.longdouble)
    dtype = result_dtype(np.asarray(features).dtype)
    eps = np.finfo(dtype).eps
    bound = (f.shape[1] + 2) * eps * (np.abs(f) @ np.abs(w).T + np.abs(b))
    return f @ w.T + b, bound


# Error bounds, as docs/contract.md states them


def softmax_bound(p, d, temperature, dtype):
    """(4 + 0.5|d|) eps relative for T = 1, (4 + 1.5|d|) eps otherwise; two steps if p is subnormal.

    The exponent's own rounding is there for subnormal results as well: the larger of the two holds.
    """
    info = np.finfo(dtype)
    slope = np.where(np.asarray(temperature) == 1, 0.5, 1.5)
    with np.errstate(all="ignore"):
        relative = np.where(p == 0, 0, (4 + slope * np.abs(d)) * info.eps * p)
    return np.where(p < info.tiny, np.maximum(relative, 2 * info.smallest_subnormal), relative)


def log_softmax_bound(log_p, dtype):
    return 4 * np.finfo(dtype).eps * np.maximum(1, np.abs(log_p))


def row_loss_bound(loss, magnitude, dtype):
    """4 eps max(1, |loss|) in the plain case, where the row's weight ``magnitude`` is 1."""
    return 4 * np.finfo(dtype).eps * np.maximum(magnitude, np.abs(loss))


def logsumexp_bound(maximum, temperature, result, dtype):
    with np.errstate(all="ignore"):
        scaled = np.abs(maximum / temperature)
    return 4 * np.finfo(dtype).eps * np.maximum(1, np.maximum(scaled, np.abs(result)))


def ulp_error(got, exact):
    """Distance in units of the last place of ``exact``, as ``got``'s dtype would hold it."""
    info = np.finfo(got.dtype)
    _, exponent = np.frexp(exact)
    exponent = np.maximum(exponent - 1, info.minexp)
    return np.abs(got.astype(exact.dtype) - exact) / np.ldexp(
        exact.dtype.type(1), exponent - info.nmant
    )


# Comparisons


def bits(x):
    """The bytes of an array: equal exactly when two results are the same to the last bit, but for the
    sign and the payload of NaN, which mean nothing.
    """
    return _without_payloads(x).tobytes()


def _without_payloads(x):
    x = np.ascontiguousarray(x)
    return np.where(np.isnan(x), x.dtype.type(np.nan), x) if x.dtype.kind == "f" else x


def assert_same_bits(got, expected, context=""):
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype, f"{context}: {got.dtype} against {expected.dtype}"
    assert got.shape == expected.shape, f"{context}: {got.shape} against {expected.shape}"
    if bits(got) != bits(expected):
        integer = np.dtype(f"u{got.dtype.itemsize}")
        differ = _without_payloads(got).view(integer) != _without_payloads(expected).view(integer)
        differ = np.atleast_1d(differ)
        where = tuple(int(i) for i in np.argwhere(differ)[0])
        a, b = np.atleast_1d(got)[where], np.atleast_1d(expected)[where]
        raise AssertionError(
            f"{context}: {int(differ.sum())} of {differ.size} differ, first at {where}: "
            f"{a!r} against {b!r}"
        )


def assert_within(got, exact, bound, dtype, context=""):
    """Same shape, NaN and infinities in the same places, everything else within ``bound``."""
    got = np.asarray(got)
    dtype = np.dtype(dtype)
    exact = np.asarray(exact)
    assert got.dtype == dtype, f"{context}: dtype {got.dtype}, expected {dtype}"
    assert got.shape == exact.shape, f"{context}: shape {got.shape}, expected {exact.shape}"
    bound = np.broadcast_to(np.asarray(bound), exact.shape)
    if not REFERENCE_IS_WIDER and dtype == np.float64:
        bound = 2 * bound
    wide = exact.dtype if exact.dtype.kind == "f" else np.dtype(np.longdouble)
    largest = wide.type(np.finfo(dtype).max)
    with np.errstate(all="ignore"):
        overflows = np.isfinite(exact) & (np.abs(exact) + bound > largest)
        rounds_to_inf = overflows & np.isinf(got) & (np.sign(got) == np.sign(exact))
        error = np.abs(got.astype(wide) - exact)
        good = (error <= bound) | (got == exact) | (np.isnan(got) & np.isnan(exact)) | rounds_to_inf
    if good.all():
        return
    with np.errstate(all="ignore"):
        badness = np.where(good, -1, np.where(np.isfinite(error), error / bound, np.inf))
    worst = np.unravel_index(int(np.argmax(badness)), exact.shape)
    where = tuple(int(i) for i in worst)
    raise AssertionError(
        f"{context}: {int((~good).sum())} of {good.size} outside the bound, worst at {where}: "
        f"got {got[worst]!r}, exact {exact[worst]!r}, error {error[worst]:.3e} "
        f"where {bound[worst]:.3e} is allowed"
    )


def check_softmax(got, x, axis=-1, temperature=1.0, context="softmax"):
    rows = rows_of(x, axis, temperature)
    dtype = result_dtype(np.asarray(x).dtype)
    with np.errstate(all="ignore"):
        p = np.exp(rows.exponent) / (1 + rows.rest)[..., None]
    bound = softmax_bound(p, rows.exponent, rows.temperature[..., None], dtype)
    assert_within(got, rows.along_axis(p), rows.along_axis(bound), dtype, context)


def check_log_softmax(got, x, axis=-1, temperature=1.0, context="log_softmax"):
    dtype = result_dtype(np.asarray(x).dtype)
    exact = log_softmax(x, axis, temperature)
    assert_within(got, exact, log_softmax_bound(exact, dtype), dtype, context)


def check_logsumexp(got, x, axis=-1, temperature=1.0, context="logsumexp"):
    rows = rows_of(x, axis, temperature)
    dtype = result_dtype(np.asarray(x).dtype)
    exact = logsumexp(x, axis, temperature)
    bound = logsumexp_bound(rows.maximum, rows.temperature, exact, dtype)
    assert_within(got, exact, bound, dtype, context)


CHECKS = {
    "softmax": check_softmax,
    "log_softmax": check_log_softmax,
    "logsumexp": check_logsumexp,
}


def check_loss(got, expected, reduction, dtype, context="loss"):
    """``got`` against a `Loss`: reduced losses are float64, row losses of the result dtype."""
    exact = np.asarray(expected.reduced(reduction))
    bound = expected.bound(reduction, dtype)
    if reduction == "none":
        assert_within(got, exact, bound, dtype, context)
    else:
        assert isinstance(got, float), (
            f"{context}: {type(got).__name__} instead of a float64 scalar"
        )
        assert_within(np.float64(got), exact, bound, np.float64, context)


def check_grad(got, expected, reduction, dtype, context="gradient"):
    scale = expected.scale(reduction)
    with np.errstate(all="ignore"):
        exact = np.where(expected.grad == 0, 0, expected.grad * scale)
        bound = np.where(expected.grad_bound == 0, 0, expected.grad_bound * scale)
    # The scale's own rounding, and one more step where the scaled gradient is subnormal
    bound = np.where(bound == 0, 0, bound + np.finfo(dtype).eps * np.abs(exact))
    bound = np.where(bound == 0, 0, bound + 2 * np.finfo(dtype).smallest_subnormal)
    assert_within(got, exact, bound, dtype, context)


def finite_difference(function, x, step):
    """Central differences of a scalar function in ``np.longdouble``, entry by entry."""
    x = np.array(x, np.longdouble)
    out = np.empty_like(x)
    for index in itertools.product(*map(range, x.shape)):
        kept = x[index]
        x[index] = kept + step
        above = function(x)
        x[index] = kept - step
        below = function(x)
        x[index] = kept
        out[index] = (above - below) / (2 * step)
    return out
