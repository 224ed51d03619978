"""`compare`: every measure against an oracle, edges, means and errors, quantiles, merges, bits."""

import itertools
import json
import math
import pickle

import mpmath
import numpy as np
import oracle
import pytest
from cases import generator, laid_out, logits, positive, row_temperatures

import softmax_fast as sf
from softmax_fast import _comparison_state, _core
from softmax_fast.comparison import _Comparer

INF, NAN = np.inf, np.nan
MEASURES = ("kl", "kl_reverse", "js", "total_variation", "max_abs_dp")


def two_models(shape, dtype, spread):
    """Logits, and others that are as near as ``spread`` says; differences are exact in long double."""
    base = logits(shape, np.float64)
    other = base + spread * generator(*shape, 5).standard_normal(shape)
    return [(np.rint(a * 2.0**46) / 2.0**46).astype(dtype) for a in (base, other)]


@np.errstate(all="ignore")
def exact_measures(base, x, temperature=1.0):
    """All measures of each row, in long double, by differences of logits and of log-sums."""
    T = np.asarray(temperature, np.longdouble)[..., None]
    base, x = (a.astype(np.longdouble) / T for a in (base, x))
    tops = [a.max(axis=-1, keepdims=True) for a in (base, x)]
    sums = [np.exp(a - m).sum(axis=-1, keepdims=True) for a, m in zip((base, x), tops, strict=True)]
    p, q = (np.exp(a - m) / s for a, m, s in zip((base, x), tops, sums, strict=True))
    t = ((x - tops[1]) - (base - tops[0])) - (np.log(sums[1]) - np.log(sums[0]))
    lacks = np.where(p > 0, p * np.expm1(t), 0).sum(axis=-1, keepdims=True)
    t = t - np.where(np.abs(lacks) < 0.5, np.log1p(lacks), 0)
    d = np.where(np.abs(t) < 1, p * np.expm1(t), q - p)
    series, back = (
        np.polynomial.polynomial.polyval(
            s, [0, 0] + [1 / np.longdouble(math.factorial(k)) for k in range(2, 14)]
        )
        for s in (t, -t)
    )
    near = np.abs(t) < 0.05
    z = np.minimum(np.abs(d) / (p + q), 1 - np.longdouble(2.0**-62))
    of_z = (
        z
        * z
        * np.polynomial.polynomial.polyval(
            z * z, [1 / np.longdouble(k * (2 * k - 1)) for k in range(1, 12)]
        )
    )
    of_z = np.where(z < 0.1, of_z, (1 + z) * np.log1p(z) + (1 - z) * np.log1p(-z))
    return {
        "kl": np.where(near, p * series, q - p - np.where(p > 0, p * t, 0)).sum(-1),
        "kl_reverse": np.where(near, q * back, p - q + np.where(q > 0, q * t, 0)).sum(-1),
        "js": np.where(p + q > 0, (p + q) * of_z, 0).sum(-1) / 4,
        "total_variation": np.abs(d).sum(-1) / 2,
        "max_abs_dp": np.abs(d).max(-1),
        "log_ratio": t,
        "dp": d,
    }


def bound_of_rows(base, x, temperature=1.0):
    """Relative, of the measures: the roundings of an exponential grow with its exponent."""
    if base.dtype != np.float32:
        return np.full(len(base), 1e-12)
    reach = np.maximum(np.ptp(base, axis=-1), np.ptp(x, axis=-1)) / temperature
    return 4 * np.finfo(np.float32).eps * (8 + np.minimum(reach, 110))


@pytest.mark.parametrize("spread", [3.0, 1e-4])
def test_measures_of_rows_agree_with_the_oracle(spread, isa, dtype):
    for n_classes in (1, 2, 7, 16, 17, 65, 256, 257, 2047, 2049, 5000):
        n_rows = 37 if n_classes < 20 else 3
        base, x = two_models((n_rows, n_classes), dtype, spread)
        for temperature in (1.0, row_temperatures(n_rows)):
            rows = sf.compare(base, x, temperature=temperature, rows=True).rows
            exact = exact_measures(base, x, temperature)
            bound = bound_of_rows(base, x, temperature)
            for name in MEASURES:
                oracle.assert_within(
                    getattr(rows, name), exact[name].astype(float), bound * exact[name] + 1e-37,
                    dtype, f"{name}, {n_classes} classes",
                )  # fmt: skip
            kl = sf.kl_divergence(base, x, temperature=temperature, reduction="none")
            oracle.assert_same_bits(rows.kl, kl)
            same = base.argmax(axis=-1) == x.argmax(axis=-1)
            assert (rows.same_top == same).all()


def test_an_offset_or_small_logits_hide_no_variation(isa):
    for n_classes, n_rows in ((10, 60), (193, 4), (5000, 2)):
        base = two_models((n_rows, n_classes), np.float32, 0)[0]
        pairs = [
            (base, (base + spread * generator(*base.shape, 6).standard_normal(base.shape) + offset))
            for offset in (16, 1e4, 2e6)
            for spread in (0, 1e-4)
        ]
        pairs.append((base[:, ::-1] * 1e-6, base[:, ::-1] * 1.0001e-6))
        one_hot = np.eye(n_rows, n_classes)
        pairs.append((one_hot * 1e-3, one_hot * 1.0000001e-3))
        for one, other in pairs:
            one, other = np.float32(one), np.float32(other)
            rows, exact = sf.compare(one, other, rows=True).rows, exact_measures(one, other)
            for name in MEASURES:
                oracle.assert_within(
                    getattr(rows, name), exact[name].astype(float),
                    bound_of_rows(one, other) * exact[name] + 2.0**-42,
                    np.float32, name,
                )  # fmt: skip
            oracle.assert_same_bits(rows.kl, sf.kl_divergence(one, other, reduction="none"))


def test_variations_of_nearly_sure_rows(isa):
    """Of the greatest class t is below what its parts are known to."""
    eps = np.finfo(np.float64).eps
    for gap, offset in itertools.product((20.0, 40.0, 60.0, 80.0), (0.0, 1e3, 1e6)):
        base = np.array([gap + 0.1, 0.7, 0.3])
        x = base + [0.3, 0.25, -0.125] + offset
        with mpmath.workdps(60):
            p, q = ([mpmath.exp(mpmath.mpf(v) - float(a[0])) for v in a] for a in (base, x))
            d = [b / sum(q) - a / sum(p) for a, b in zip(p, q, strict=True)]
            exact = float(sum(map(abs, d)) / 2), float(max(map(abs, d))), float(d[0])
        found = sf.compare(base[None], x[None], [0], rows=True).rows
        got = found.total_variation[0], found.max_abs_dp[0], found.dp[0]
        room = 1e-12 * 3 * exact[0] + (4 * eps) ** 2 * max(1.0, offset)
        assert np.abs(np.subtract(got, exact)).max() <= room


@pytest.mark.parametrize("offset", [0.0, 64.0, 5e6])
def test_changes_at_the_label_keep_the_digits_of_the_divergence(offset, isa, dtype):
    for n_classes, n_rows in ((2, 20), (10, 20), (193, 3), (5000, 3)):
        base, x = two_models((n_rows, n_classes), dtype, 1e-6)
        x = np.nextafter(x + dtype.type(offset), dtype.type(INF))
        y = generator(n_classes).integers(0, n_classes, n_rows)
        found, exact = sf.compare(base, x, y, rows=True), exact_measures(base, x)
        t, d = (exact[name][np.arange(n_rows), y] for name in ("log_ratio", "dp"))
        bound, moved = bound_of_rows(base, x), 2 * exact["total_variation"]
        share = d / np.expm1(t)
        oracle.assert_within(
            found.rows.dp, d.astype(float), bound * (np.abs(d) + share * moved), dtype, "dp"
        )
        assert abs(found.loss_difference + t.mean()) <= (bound * (np.abs(t) + moved)).mean()
        same = sf.compare(base, base + dtype.type(0), y)
        assert (same.loss_difference, same.dp, same.dp_rms, same.perplexity_ratio) == (0, 0, 0, 1)


LOG_2 = math.log(2)
# base, logits, and their measures
EDGES = {
    "p = 0 < q": ([0, 0, -INF], [0, 0, 0], (math.log(1.5), INF, None, 1 / 3, 1 / 3)),
    "q = 0 < p": ([0, 0, 0], [0, 0, -INF], (INF, math.log(1.5), None, 1 / 3, 1 / 3)),
    "both masked": ([0, 0, -INF], [0, 0, -INF], (0, 0, 0, 0, 0)),
    "certain of the same": ([0, -INF, -INF], [5, -INF, -INF], (0, 0, 0, 0, 0)),
    "certain of others": ([0, -INF, -INF], [-INF, 5, -INF], (INF, INF, LOG_2, 1, 1)),
    "far": ([0, -3000, -INF], [0, 0, -INF], (LOG_2, 1500 - LOG_2, None, 0.5, 0.5)),
    "the lowest number": ([0, 0, -3e38], [0, 0, -3e38], (0, 0, 0, 0, 0)),
    "NaN in the base": ([0, NAN, 0], [0, 0, 0], (NAN,) * 5),
    "NaN": ([0, 0, 0], [NAN, 0, 0], (NAN,) * 5),
    "inf": ([0, 0, 0], [0, INF, 0], (NAN,) * 5),
    "all -inf in the base": ([-INF] * 3, [0, 0, 0], (NAN,) * 5),
}


@pytest.mark.parametrize("n_classes", [3, 40, 257, 5000])
def test_edges(n_classes, isa, dtype):
    for edge, (base, x, expected) in EDGES.items():
        rows = np.full((2, 5, n_classes), -INF if edge != "the lowest number" else -3e38)
        at = [0, n_classes // 2, n_classes - 1]
        rows[0, :, at], rows[1, :, at] = np.array(base)[:, None], np.array(x)[:, None]
        found = sf.compare(*rows.astype(dtype), rows=True)
        for name, value in zip(MEASURES, expected, strict=True):
            if value is None:  # JS of (½, ½, 0) and thirds, or of (1, 0) and halves
                value = 0.75 * math.log(4 / 3)
                if edge != "far":
                    value = (math.log(1.2) + math.log(0.8) * 2 / 3 + math.log(2) / 3) / 2
            values = getattr(found.rows, name)
            assert values == pytest.approx([value] * 5, rel=2e-5, abs=1e-30, nan_ok=True), edge
        is_nan = math.isnan(expected[0])
        assert found.rows.same_top.any() != (is_nan or edge == "certain of others"), edge
        infinite = INF in expected
        assert found.n_nonfinite == 5 * (is_nan or infinite)
        assert found.first_nonfinite == (0 if is_nan or infinite else None)
        assert math.isnan(found.js) == math.isnan(found.max_abs_dp) == is_nan
        assert math.isnan(found.kl_stderr) == (is_nan or expected[0] == INF)


def weighted(values, v):
    """Mean and standard error, as EVALUATION has them."""
    n, mean = len(v), (v * values).sum() / v.sum()
    error = math.sqrt((v**2 * (values - mean) ** 2).sum()) / v.sum() * math.sqrt(n / (n - 1))
    return mean, error


@pytest.mark.parametrize("with_weights", [False, True])
def test_means_and_errors_are_those_of_the_rows(with_weights, dtype):
    base, x = two_models((300, 11), dtype, 0.5)
    y = np.where(generator(1).random(300) < 0.5, base.argmax(-1), 3)
    y[[2, 90]] = -100
    v = positive(300) if with_weights else np.ones(300)
    v[7] = v[7] if not with_weights else 0
    result = sf.compare(base, x, y, sample_weight=v if with_weights else None, rows=True)
    keep = (y != -100) & (v > 0)
    v, rows = v[keep], result.rows
    wide = sf.compare(base.astype(float), x.astype(float), y, rows=True).rows
    assert (result.n, result.n_ignored) == (keep.sum(), 300 - keep.sum())
    of_rows = {name: getattr(wide, name)[keep].astype(float) for name in wide._fields}
    of_rows["loss_difference"] = of_rows["loss"] - of_rows["base_loss"]
    rel = 1e-5 if dtype == np.float32 else 1e-11
    for name in (
        "kl", "kl_reverse", "js", "total_variation", "same_top", "base_loss", "loss",
        "loss_difference", "dp",
    ):  # fmt: skip
        mean, error = weighted(of_rows[name], v)
        assert getattr(result, name) == pytest.approx(mean, rel=rel, abs=1e-7 * rel), name
        if name not in ("kl_reverse", "js", "total_variation"):
            assert getattr(result, f"{name}_stderr") == pytest.approx(error, rel=rel), name
    assert result.max_abs_dp == pytest.approx(of_rows["max_abs_dp"].max(), rel=rel)
    square, error = weighted(of_rows["dp"] ** 2, v)
    assert result.dp_rms == pytest.approx(math.sqrt(square), rel=rel)
    assert result.dp_rms_stderr == pytest.approx(error / 2 / math.sqrt(square), rel=rel)
    centred = [of_rows[n] - weighted(of_rows[n], v)[0] for n in ("base_loss", "loss")]
    covariances = [(v * a * b).sum() for a in centred for b in centred]
    expected = covariances[1] / math.sqrt(covariances[0] * covariances[3])
    assert result.correlation == pytest.approx(expected, rel=rel)
    assert result.perplexity_ratio == pytest.approx(math.exp(result.loss_difference), rel=1e-15)
    error = result.perplexity_ratio * result.loss_difference_stderr
    assert result.perplexity_ratio_stderr == pytest.approx(error, rel=1e-15)
    p, q = sf.softmax(base.astype(float)), sf.softmax(x.astype(float))
    at = np.flatnonzero(keep), y[keep]
    np.testing.assert_allclose(rows.dp[keep], q[at] - p[at], rtol=1e-4, atol=2e-7)
    oracle.assert_same_bits(rows.loss, sf.softmax_loss(x, y, reduction="none"))
    oracle.assert_same_bits(rows.base_loss, sf.softmax_loss(base, y, reduction="none"))
    method = {"method": "inverted_cdf", "weights": v} if with_weights else {}
    for name in ("kl", "dp"):
        found = getattr(result, f"{name}_quantiles")
        if with_weights and np.lib.NumpyVersion(np.__version__) < "2.0.0":
            continue
        expected = np.quantile(of_rows[name], list(found), **method)
        assert list(found.values()) == pytest.approx(expected.tolist(), rel=rel, abs=1e-7 * rel)


def test_small_differences_of_probabilities_keep_their_digits():
    base = np.array([[3.0, 1.0, 0.0]])
    x = base + [[0.0, 2.0**-40, 0.0]]
    found = sf.compare(base, x, [1])
    p = np.exp(base[0]) / np.exp(base[0]).sum()
    assert found.dp == pytest.approx(p[1] * (1 - p[1]) * 2.0**-40, rel=1e-3)
    assert found.total_variation == pytest.approx(p[1] * (1 - p[1]) * 2.0**-40, rel=1e-11)
    variance = p[1] * (1 - p[1])
    assert found.js == pytest.approx(variance * 2.0**-83, rel=1e-10)


def test_losses_of_masked_labels_are_infinite_and_their_difference_what_it_can_be():
    base, x = np.zeros((4, 3)), np.zeros((4, 3))
    x[1, 2] = -INF
    found = sf.compare(base, x, [0, 2, 1, 1])
    assert found.loss == found.loss_difference == found.perplexity_ratio == INF
    assert found.base_loss == pytest.approx(math.log(3))
    assert math.isnan(found.loss_difference_stderr) and math.isnan(found.correlation)
    assert found.dp == pytest.approx((-1 / 3 + 0 * 3) / 4)
    assert (found.kl, found.n_nonfinite, found.first_nonfinite) == (INF, 1, 1)
    assert found.kl_quantiles[1] == INF and found.kl_quantiles[0.5] == 0
    base[1, 2] = -INF
    found = sf.compare(base, x, [0, 2, 1, 1])
    assert math.isnan(found.loss_difference) and found.kl == 0


@pytest.mark.parametrize("with_weights", [False, True])
def test_correlations_keep_their_digits_where_losses_are_nearly_constant(with_weights):
    rng, n = generator(11), 300
    v = positive(n) if with_weights else None
    for spreads in ((1, 1), (1, 1e-10), (1e-14, 1e-14)):
        base, x = (rng.normal(size=5) + s * rng.normal(size=(n, 5)) for s in spreads)
        found = sf.compare(base, x, np.zeros(n, int), sample_weight=v, rows=True)
        losses = np.stack([found.rows.base_loss, found.rows.loss]).astype(np.longdouble)
        w = np.ones(n) if v is None else v
        losses -= losses[:, :1]  # exact where they are close
        losses -= (losses * w).sum(axis=1, keepdims=True) / w.sum()
        xx, xy, yy = ((w * losses[i] * losses[j]).sum() for i, j in ((0, 0), (0, 1), (1, 1)))
        expected = xy / np.sqrt(xx * yy)
        assert found.correlation == pytest.approx(float(expected), rel=1e-9)
        parts = [
            _Comparer().update(
                base[i::3], x[i::3], np.zeros(100, int), sample_weight=v if v is None else v[i::3]
            )
            for i in range(3)
        ]
        merged = (parts[0] + (parts[1] + parts[2])).result()
        assert merged.correlation == pytest.approx(float(expected), rel=1e-9)
    constant = sf.compare(np.full((n, 5), 0.1), x, np.zeros(n, int), sample_weight=v)
    assert math.isnan(constant.correlation)
    assert sf.compare(base, base, np.zeros(n, int), sample_weight=v).correlation == 1


def exact_mean(values, v):
    """The mean and its standard error of finite numbers, whatever their size."""
    with mpmath.workdps(60):
        x, v = ([mpmath.mpf(float(a)) for a in numbers] for numbers in (values, v))
        mean = mpmath.fsum(a * b for a, b in zip(v, x, strict=True)) / mpmath.fsum(v)
        square = mpmath.fsum((a * (b - mean)) ** 2 for a, b in zip(v, x, strict=True))
        error = mpmath.sqrt(square * len(x) / (len(x) - 1)) / mpmath.fsum(v)
        return float(mean), float(error)


def exact_correlation(x, y, v):
    with mpmath.workdps(60):
        x, y, v = ([mpmath.mpf(float(a)) for a in numbers] for numbers in (x, y, v))
        total = mpmath.fsum(v)
        means = [mpmath.fsum(a * b for a, b in zip(v, z, strict=True)) / total for z in (x, y)]
        x, y = ([a - mean for a in z] for z, mean in zip((x, y), means, strict=True))
        xx, xy, yy = (
            mpmath.fsum(a * b * c for a, b, c in zip(v, one, other, strict=True))
            for one, other in ((x, x), (x, y), (y, y))
        )
        return float(xy / mpmath.sqrt(xx * yy))


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e140, 1e250])
@pytest.mark.parametrize("weight", [None, 1.0, 1e-100, 1e-200, 1e200])
def test_large_losses_have_errors_and_those_beyond_float64_are_infinite_or_none(scale, weight):
    base = np.array([[0, 1.0], [0, 2.0], [0, 0], [0, 3.0]])
    v = np.array([1, 0.5, 0.25, 2])
    weights = None if weight is None else v * weight
    v = np.ones(4) if weight is None else v
    for pair in ((base, base * scale), (base * scale, base)):
        found = sf.compare(*pair, np.zeros(4, int), sample_weight=weights, rows=True)
        rows, expected = found.rows, {}
        for name in ("kl", "base_loss", "loss"):
            expected[name] = exact_mean(getattr(rows, name), v)
        expected["loss_difference"] = exact_mean(rows.loss - rows.base_loss, v)
        for name, (mean, error) in expected.items():
            near = {"rel": 1e-12, "abs": 1e-12}
            assert getattr(found, name) == pytest.approx(mean, **near), name
            assert getattr(found, f"{name}_stderr") == pytest.approx(error, **near), name
        ratio = mpmath.exp(found.loss_difference)
        assert found.perplexity_ratio == pytest.approx(float(ratio), rel=1e-12)
        # The product of two numbers of the size of the losses is one of float64.
        if scale <= 1e140:
            correlation = exact_correlation(rows.base_loss, rows.loss, v)
            assert found.correlation == pytest.approx(correlation, rel=1e-12)
        else:
            assert math.isnan(found.correlation)
        assert "Mean PPL(Q)/PPL(base)" in str(found)


def test_nothing_but_the_ratios_of_weights_tells():
    base, x = two_models((300, 11), np.float64, 0.5)
    y, v = base.argmax(axis=-1), positive(300)
    v[3] = 0
    base[5, y[5]] = -1e200
    one = sf.compare(base, x, y, sample_weight=v)
    for exponent in (-1000, -600, -65, 65, 600, 1000):
        scaled = np.ldexp(v, exponent)
        found = sf.compare(base, x, y, sample_weight=scaled)
        a, b = (c.as_dict() for c in (one, found))
        assert b.pop("weight_sum") == math.ldexp(a.pop("weight_sum"), exponent)
        assert json.dumps(a) == json.dumps(b)
    base[5] = base[6]
    parts = [
        _Comparer().update(base[some], x[some], y[some], sample_weight=np.ldexp(v[some], exponent))
        for some, exponent in ((slice(0, 150), -500), (slice(150, 300), 500))
    ]
    after = sf.compare(base[150:], x[150:], y[150:], sample_weight=v[150:]).as_dict()
    for merged in (parts[0] + parts[1], _Comparer() + parts[1] + parts[0]):
        found = merged.result().as_dict()
        for name in ("kl", "js", "base_loss", "loss", "correlation", "dp_rms", "same_top"):
            assert found[name] == pytest.approx(after[name], rel=1e-13), name


def test_the_last_quantile_is_the_maximum_though_its_weight_vanishes_beside_the_others():
    base, x = two_models((300, 11), np.float64, 0.5)
    kl = sf.compare(base, x, rows=True).rows.kl
    for of_largest in (1e-100, 1e-30, 1.0, 1e30):
        v = np.where(kl == kl.max(), of_largest, positive(300))
        assert sf.compare(base, x, sample_weight=v).kl_quantiles[1] == kl.max()
        v[kl == kl.max()] = 0
        assert sf.compare(base, x, sample_weight=v).kl_quantiles[1] == kl[v > 0].max()


@pytest.mark.parametrize("with_weights", [False, True])
def test_order_statistics_are_those_of_sorted_numbers(with_weights):
    rng = generator(3)
    wide = np.ldexp(rng.standard_normal(5000), rng.integers(-1074, 1000, 5000))
    for values in (
        rng.standard_normal(5000),
        wide,
        rng.integers(-3, 3, 5000) * 0.5,
        1 + rng.integers(0, 4, 5000) * np.finfo(float).eps,
        np.full(50, -0.0),
        np.array([np.inf, -np.inf, 1.0, np.inf]),
        np.array([2.0]),
    ):
        n = len(values)
        order = np.argsort(values, kind="stable")
        if not with_weights:
            places = np.unique([0, n // 3, n // 2, n // 2 + 1, n - 1, n - 1])
            places = places[places < n].astype(float)
            found = _core.order_statistics(values, None, places)
            assert found.tolist() == values[order][places.astype(int)].tolist()
            continue
        v = rng.integers(1, 9, n) / 8  # whose sums are exact
        shares = np.array([0, 0.001, 0.25, 0.5, 0.75, 1])
        up_to = np.cumsum(v[order])
        at = np.searchsorted(up_to, shares * up_to[-1])
        found = _core.order_statistics(values, v, shares)
        assert found.tolist() == values[order][at].tolist()


def test_nothing_left_a_single_row_and_a_single_class():
    base, x = two_models((3, 5), np.float64, 1.0)
    for found in (
        sf.compare(base[:0], x[:0], np.empty(0, int)),
        sf.compare(base, x, [-100] * 3),
        sf.compare(base, x, [0, 1, 2], sample_weight=np.zeros(3)),
    ):
        assert found.n == 0 and found.first_nonfinite is None
        for name, value in found.as_dict().items():
            if isinstance(value, float) and name not in ("weight_sum", "temperature"):
                assert math.isnan(value), name
        assert all(math.isnan(value) for value in found.kl_quantiles.values())
        str(found)
    one = sf.compare(base[0], x[0], 2, rows=True)
    assert one.n == 1 and one.rows.kl.shape == ()
    assert math.isnan(one.kl_stderr) and math.isnan(one.dp_rms_stderr)
    assert one.kl_quantiles[0.5] == one.kl
    single = sf.compare([[1.0], [2.0]], [[3.0], [-1.0]], [0, 0])
    assert (single.kl, single.js, single.max_abs_dp, single.same_top) == (0, 0, 0, 1)
    assert single.perplexity_ratio == 1 and math.isnan(single.correlation)
    assert sf.compare(base, x).dp is sf.compare(base, x).loss is None


def test_rows_without_probabilities_are_named(isa):
    base, x = two_models((50, 40), np.float32, 1.0)
    base[31, 3] = NAN
    y = np.zeros(50, int)
    x[[12, 40]], y[12] = -INF, -100
    found = sf.compare(base, x, y)
    assert (found.n, found.n_ignored, found.n_nonfinite, found.first_nonfinite) == (49, 1, 2, 31)
    assert all(map(math.isnan, (found.kl, found.dp, found.max_abs_dp, found.kl_quantiles[0])))
    assert 0 < found.same_top < 1
    assert "2 rows, the first is row 31" in str(found)


@pytest.mark.parametrize("limit", [10**7, 150])
def test_pieces_add_up_to_the_whole_in_any_order(limit, monkeypatch):
    monkeypatch.setattr(_comparison_state, "MOST_VALUES", limit)
    base, x = two_models((400, 9), np.float64, 1.0)
    y, v = base.argmax(axis=-1), positive(400)
    y[3], x[200, 1] = -100, NAN
    for weights in (None, v):
        whole = sf.compare(base, x, y, sample_weight=weights).as_dict()
        parts = []
        for some in (slice(0, 7), slice(7, 250), slice(250, 251), slice(251, 400)):
            part = _Comparer().update(
                base[some], x[some], y[some],
                sample_weight=None if weights is None else weights[some],
            )  # fmt: skip
            parts.append(pickle.loads(pickle.dumps(part)))
        a, b, c, d = parts
        for merged in ((a + b) + (c + d), a + (b + (c + d)), _Comparer() + a + b + c + d):
            found = merged.result().as_dict()
            assert json.dumps(found).count("NaN") == json.dumps(whole).count("NaN") > 0
            for name, value in whole.items():
                assert found[name] == pytest.approx(value, rel=1e-13, nan_ok=True), name
        assert (d + c).result().kl == pytest.approx((c + d).result().kl, rel=1e-15)
    with pytest.raises(ValueError, match="but this comparer temperature=1.0"):
        _Comparer().merge(_Comparer(temperature=2.0))
    with pytest.raises(ValueError, match="targets are missing, but the rows before had some"):
        a.merge(_Comparer().update(base, x))


def test_quantiles_of_very_many_rows_are_within_their_error(monkeypatch):
    base, x = two_models((3000, 5), np.float64, 1.0)
    y = np.zeros(3000, int)
    exact = sf.compare(base, x, y, rows=True)
    monkeypatch.setattr(_comparison_state, "MOST_VALUES", 1000)
    found = sf.compare(base, x, y)
    assert len(found._state.kl.distribution()[0]) < 3000
    assert found.kl == exact.kl and found.dp_stderr == exact.dp_stderr
    for name in ("kl", "dp"):
        quantiles = getattr(found, f"{name}_quantiles")
        values = np.quantile(getattr(exact.rows, name), list(quantiles), method="inverted_cdf")
        np.testing.assert_allclose(list(quantiles.values()), values, rtol=2.0**-13 * 1.01)


def test_threads_place_layout_and_dtypes_change_no_bit(isa, dtype):
    for shape in ((70, 10), (6, 300), (3, 40_000)):
        base, x = two_models(shape, dtype, 1.0)
        y = base.argmax(axis=-1)
        whole = sf.compare(base, x, y, rows=True, n_threads=1)
        others = [sf.compare(base, x, y, rows=True, n_threads=2)]
        if shape[1] < 1000:
            layouts = zip(laid_out(base), reversed(list(laid_out(x))), strict=True)
            others += [sf.compare(a, b, y, rows=True) for (_, a), (_, b) in layouts]
            others.append(sf.compare(base.T, x.T, y, axis=0, rows=True))
        for other in others:
            assert json.dumps(other.as_dict()) == json.dumps(whole.as_dict())
            for a, b in zip(other.rows, whole.rows, strict=True):
                oracle.assert_same_bits(a, b)
        last = sf.compare(base[-1], x[-1], y[-1], rows=True).rows
        for a, b in zip(last, whole.rows, strict=True):
            oracle.assert_same_bits(a, b[-1])
        mixed = sf.compare(base.astype(float), x, rows=True).rows
        wide = sf.compare(base.astype(float), x.astype(float), rows=True).rows
        for name in MEASURES:
            oracle.assert_same_bits(getattr(mixed, name), getattr(wide, name))


def test_temperatures_beyond_the_kernels(isa, dtype):
    base, x = two_models((5, 7), dtype, 1.0)
    for scale in (1e-35, 1e35):
        found = sf.compare(base, x, temperature=scale, rows=True).rows
        exact = exact_measures(base, x, np.full(5, scale))
        assert found.same_top.tolist() == (base.argmax(-1) == x.argmax(-1)).tolist()
        for name in MEASURES:
            of_type = exact[name].astype(found.kl.dtype)
            np.testing.assert_allclose(getattr(found, name), of_type, rtol=1e-6, atol=1e-40)


def test_what_is_wrong_is_named():
    x = np.zeros((4, 3))
    with pytest.raises(ValueError, match=r"base_logits have shape \(3, 4\).*\(4, 3\)"):
        sf.compare(x.T, x)
    with pytest.raises(IndexError, match=r"targets\[1\] = 3"):
        sf.compare(x, x, [0, 3, 0, 0])
    with pytest.raises(TypeError, match="targets have dtype float64"):
        sf.compare(x, x, np.zeros(4))
    for quantiles in (1.5, [0.5, np.nan], [[0.5]]):
        with pytest.raises(ValueError, match="quantiles must be numbers from 0 to 1"):
            sf.compare(x, x, quantiles=quantiles)
    with pytest.raises(TypeError, match="rows must be True or False"):
        sf.compare(x, x, rows=1)
    with pytest.raises(ValueError, match="temperature"):
        sf.compare(x, x, temperature=0)
    for ragged in ([[1, 2], [1]], [1.0, 2.0, 3.0], np.ones((4, 3))):
        with pytest.raises(ValueError, match="^temperature"):
            sf.compare(x, x, temperature=ragged)
    assert sf.compare(x, x, quantiles=[0.5, 0.25, 0.5]).kl_quantiles == {0.25: 0, 0.5: 0}


def test_quantiles_next_to_each_other_have_keys_and_names_of_their_own():
    close = (0.5, np.nextafter(0.5, 1), 0.9999, 0.9999999, 1.0)
    base, x = two_models((50, 5), np.float64, 1.0)
    found = sf.compare(base, x, quantiles=close)
    assert [float(q) for q in found.as_dict()["kl_quantiles"]] == list(close)
    names = [line.split("KLD:")[0] for line in str(found).splitlines() if "KLD:" in line]
    assert len(set(names)) == 6 and "99.99999%   " in names


def test_the_table_has_the_order_and_words_of_llama_cpp():
    base, x = two_models((100, 6), np.float64, 0.1)
    table = str(sf.compare(base, x, base.argmax(axis=-1)))
    places = [
        table.index(words)
        for words in (
            "====== Perplexity statistics ======", "Mean PPL(Q)                   : ",
            "Mean PPL(base)                : ", "Cor(ln(PPL(Q)), ln(PPL(base))): ",
            "Mean ln(PPL(Q)/PPL(base))     : ", "Mean PPL(Q)/PPL(base)         : ",
            "Mean PPL(Q)-PPL(base)         : ", "====== KL divergence statistics ======",
            "Mean    KLD: ", "Maximum KLD: ", "99.9%   KLD: ", "99.0%   KLD: ", "95.0%   KLD: ",
            "90.0%   KLD: ", "Median  KLD: ", "10.0%   KLD: ", " 5.0%   KLD: ", " 1.0%   KLD: ",
            " 0.1%   KLD: ", "Minimum KLD: ", "====== Token probability statistics ======",
            "Mean    Δp: ", "Maximum Δp: ", "75.0%   Δp: ", "Median  Δp: ", "25.0%   Δp: ",
            "Minimum Δp: ", "RMS Δp    : ", "Same top p: ",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    without = str(sf.compare(base, x))
    assert "PPL" not in without and "Mean    Δp" not in without and "Same top p" in without
