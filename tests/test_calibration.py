"""`fit_temperature` beside a search in high precision, at its edges, and as statistics."""

import math

import mpmath
import numpy as np
import pytest
from cases import generator, laid_out

import softmax_fast as sf
from softmax_fast import _temperature


def simulated(n_rows, n_classes, temperature=1.0, key=0, spread=2.0):
    """Logits that are calibrated at that temperature, and labels drawn accordingly."""
    rng = generator(n_rows, n_classes, key)
    x = rng.standard_normal((n_rows, n_classes)) * spread
    p = np.exp(x - x.max(axis=1, keepdims=True))
    edges = p.cumsum(axis=1) / p.sum(axis=1, keepdims=True)
    labels = (edges[:, :-1] < rng.random((n_rows, 1))).sum(axis=1)
    return x * temperature, labels


def exact_loss(x, y, v, beta):
    """Mean loss, of numbers of mpmath."""
    total = mpmath.mpf(0)
    for row, label, weight in zip(x, y, v, strict=True):
        terms = [mpmath.exp(beta * k) for k in row if k > -mpmath.inf]
        total += weight * (mpmath.log(mpmath.fsum(terms)) - beta * row[label])
    return total / mpmath.fsum(v)


def exact_fit(x, y, v=None, decades=4):
    """1/T and the mean loss by golden section in 60 digits, from 1/T between powers of ten."""
    v = [mpmath.mpf(1)] * len(y) if v is None else [mpmath.mpf(float(w)) for w in v]
    with mpmath.workdps(60):
        x = [[mpmath.mpf(float(k)) for k in row] for row in x]
        ratio = (mpmath.sqrt(5) - 1) / 2
        low, high = mpmath.mpf(0), mpmath.mpf(10) ** decades
        points = [high - ratio * (high - low), low + ratio * (high - low)]
        losses = [exact_loss(x, y, v, b) for b in points]
        while high - low > high * mpmath.mpf(10) ** -13:
            if losses[0] < losses[1]:
                high, points[1], losses[1] = points[1], points[0], losses[0]
                points[0] = high - ratio * (high - low)
                losses[0] = exact_loss(x, y, v, points[0])
            else:
                low, points[0], losses[0] = points[0], points[1], losses[1]
                points[1] = low + ratio * (high - low)
                losses[1] = exact_loss(x, y, v, points[1])
        return float((low + high) / 2), float(losses[0])


def slope_and_errors(x, y, v, beta):
    """Σ v·g and the sandwich error of 1/T, by float64 NumPy; masked classes are allowed."""
    s = beta * (x - x.max(axis=1, keepdims=True))
    p = np.exp(s)
    p /= p.sum(axis=1, keepdims=True)
    finite = np.where(p > 0, x, 0.0)
    mean = (p * finite).sum(axis=1)
    variance = (p * (finite - mean[:, None]) ** 2).sum(axis=1)
    g = mean - x[np.arange(len(x)), y]
    return (v * g).sum(), math.sqrt(((v * g) ** 2).sum()) / (v * variance).sum()


def check_optimum(fit, x, y, v=None, rtol=1e-6):
    """The slope changes its sign within ``rtol`` of the fitted T, and the error is the sandwich."""
    v = np.ones(len(y)) if v is None else v
    beta = 1 / fit.temperature
    assert slope_and_errors(x, y, v, beta * (1 - rtol))[0] < 0
    assert slope_and_errors(x, y, v, beta * (1 + rtol))[0] > 0
    expected = fit.temperature**2 * slope_and_errors(x, y, v, beta)[1]
    assert fit.stderr == pytest.approx(expected, rel=1e-4)
    loss = sf.softmax_loss(x, y, sample_weight=v, temperature=fit.temperature)
    assert fit.loss == pytest.approx(loss, rel=1e-12)
    assert fit.loss_before == pytest.approx(sf.softmax_loss(x, y, sample_weight=v), rel=1e-12)


@pytest.mark.parametrize(
    ("temperature", "weighted"), [(0.3, True), (1.0, False), (2.5, True), (2.5, False)]
)
def test_the_temperature_is_that_of_golden_section_in_high_precision(temperature, weighted):
    x, y = simulated(40, 4, temperature)
    v = generator(3).random(40) + 0.1 if weighted else None
    fit = sf.fit_temperature(x, y, sample_weight=v)
    beta, loss = exact_fit(x, y, v)
    assert fit.status == "converged"
    assert 1 / fit.temperature == pytest.approx(beta, rel=1e-10)
    assert fit.loss == pytest.approx(loss, rel=1e-13)


@pytest.mark.parametrize(
    "shape", [(50, 2), (500, 10), (2000, 100), (5000, 10), (40, 3000)], ids=str
)
@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 1.5, 4.0, 10.0])
def test_the_slope_changes_its_sign_there_and_passes_are_few(shape, temperature):
    for key in range(3 if math.prod(shape) <= 50_000 else 1):
        x, y = simulated(*shape, temperature, key)
        fit = sf.fit_temperature(x, y)
        assert fit.status == "converged"
        assert fit.n_passes <= 8
        check_optimum(fit, x, y)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_models_that_are_more_often_right_take_few_passes_too(temperature):
    """99 rows of 100 right, and confident where wrong, as trained models are."""
    rng = generator(77)
    x = rng.standard_normal((20_000, 50))
    y = rng.integers(50, size=20_000)
    x[np.arange(20_000), y] += 6
    wrong = rng.random(20_000) < 0.01
    x[wrong] = x[wrong][:, ::-1]
    x *= temperature
    for rows in (slice(None), slice(700)):
        fit = sf.fit_temperature(x[rows], y[rows])
        assert fit.n_passes <= 8
        check_optimum(fit, x[rows], y[rows])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_dtypes_find_nearly_the_temperature_of_float64(dtype):
    x, y = simulated(6000, 20, 1.7)
    x = x.astype(dtype)
    narrow, wide = sf.fit_temperature(x, y), sf.fit_temperature(x.astype(np.float64), y)
    assert narrow.temperature == pytest.approx(wide.temperature, rel=2e-6)
    assert narrow.stderr == pytest.approx(wide.stderr, rel=1e-4)
    assert narrow.loss == pytest.approx(wide.loss, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e-3, 1e3, 1e10, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_temperature_scales_as_the_logits_do(scale, dtype):
    for shape in ((300, 5), (3000, 20)):
        x, y = simulated(*shape)
        one = sf.fit_temperature(x.astype(dtype), y)
        other = sf.fit_temperature((x * scale).astype(dtype), y)
        rtol = 1e-6 if dtype == "float64" else 1e-5
        assert other.status == "converged"
        assert other.temperature == pytest.approx(one.temperature * scale, rel=rtol)
        assert other.stderr == pytest.approx(one.stderr * scale, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-100, 1e100, 1e200, 1e300])
def test_logits_whose_squares_are_no_numbers(scale):
    x, y = simulated(200, 5)
    fit = sf.fit_temperature(x * scale, y)
    assert fit.status == "converged"
    assert fit.temperature == pytest.approx(sf.fit_temperature(x, y).temperature * scale, rel=1e-6)
    assert math.isfinite(fit.stderr) == (1e-150 < scale < 1e150)


def test_an_offset_of_each_row_changes_little():
    x, y = simulated(400, 6, 1.3)
    one = sf.fit_temperature(x, y)
    other = sf.fit_temperature(x + np.arange(400)[:, None], y)
    assert other.temperature == pytest.approx(one.temperature, rel=1e-10)


def test_labels_that_are_nearly_all_first_are_no_trouble():
    x, y = simulated(300, 5)
    y = x.argmax(axis=1)
    y[3] = x[3].argsort()[-2]
    for scale in (1e-30, 1e-3, 1.0, 1e3, 1e30):
        fit = sf.fit_temperature(x * scale, y)
        assert fit.status == "converged"
        check_optimum(fit, x * scale, y)


def test_rows_of_very_different_scales():
    """Rows that are one-hot at any T the others would take."""
    x, y = simulated(200, 5)
    x[:100] *= 1e12
    fit = sf.fit_temperature(x, y)
    assert fit.status in ("converged", "uninformative")
    if fit.status == "converged":
        check_optimum(fit, x, y)
    else:
        assert (x.mean(axis=1) - x[np.arange(200), y]).sum() >= 0


def test_separable_labels_have_temperature_0_and_the_loss_of_their_ties():
    x, _ = simulated(100, 5)
    fit = sf.fit_temperature(x, x.argmax(axis=1))
    before = sf.softmax_loss(x, x.argmax(axis=1))
    assert (fit.temperature, fit.loss, fit.status) == (0.0, 0.0, "separable")
    assert math.isnan(fit.stderr)
    assert fit.loss_before == pytest.approx(before, rel=1e-13)
    x[:30] = [2.0, 7.0, 7.0, -np.inf, 7.0]
    labels = x.argmax(axis=1)
    labels[:30] = np.arange(30) % 2 * 2 + 2  # 2 and 4: not the first of the equal ones
    fit = sf.fit_temperature(x, labels)
    assert (fit.temperature, fit.status) == (0.0, "separable")
    assert fit.loss == pytest.approx(0.3 * math.log(3), rel=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_uninformative_labels_have_an_infinite_temperature(scale):
    x, _ = simulated(100, 5)
    x *= scale
    fit = sf.fit_temperature(x, x.argmin(axis=1))
    assert (fit.temperature, fit.status) == (math.inf, "uninformative")
    assert math.isnan(fit.stderr)
    assert fit.loss == pytest.approx(math.log(5), rel=1e-14)
    x[:40, 2] = -np.inf
    fit = sf.fit_temperature(x, np.where(x == -np.inf, np.inf, x).argmin(axis=1))
    assert (fit.temperature, fit.status) == (math.inf, "uninformative")
    assert fit.loss == pytest.approx(0.4 * math.log(4) + 0.6 * math.log(5), rel=1e-14)


def test_labels_as_good_as_the_average_are_uninformative():
    assert sf.fit_temperature([[0.0, 1.0]] * 2, [0, 1]).status == "uninformative"
    fit = sf.fit_temperature(np.tile([0.1, 0.7, -0.8], (3, 1)), [0, 1, 2])
    assert (fit.status, fit.temperature) == ("uninformative", math.inf)


def test_labels_slightly_better_than_the_average_have_a_large_temperature():
    x = np.array([[0.0, 1.0]] * 2001)
    y = np.arange(2001) % 2
    y[0] = 1
    fit = sf.fit_temperature(x, y)
    # p(1) of all rows is 1002/2001 or so
    share = np.count_nonzero(y) / 2001
    assert fit.temperature == pytest.approx(1 / math.log(share / (1 - share)), rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_rows_have_temperature_1(dtype):
    x = np.repeat(generator(1).standard_normal((30, 1)) * 1e3, 7, axis=1).astype(dtype)
    x[::3, :4] = -np.inf
    fit = sf.fit_temperature(x, np.full(30, 5))
    expected = math.log(7) * 2 / 3 + math.log(3) / 3
    assert (fit.temperature, fit.status) == (1.0, "constant")
    assert fit.loss == fit.loss_before == pytest.approx(expected, rel=1e-6)
    assert math.isnan(fit.stderr)
    assert sf.fit_temperature(x[:, 5:6], np.zeros(30, int)).status == "constant"  # C = 1
    x[4, 5] *= 1.001  # one is not constant any more, but the label is its maximum, or never
    status = "separable" if x[4, 5] > x[4, 6] else "uninformative"
    assert sf.fit_temperature(x, np.full(30, 5)).status == status


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_are_one_hot_to_rounding_are_not_constant(dtype):
    x = np.zeros((20, 3), dtype)
    x[:, 1] = 1e6
    assert sf.fit_temperature(x, np.full(20, 1)).status == "separable"
    x[:, 1] = 1e-30
    assert sf.fit_temperature(x, np.full(20, 1)).status == "separable"


def test_a_single_row_of_any_kind():
    x = [0.0, 2.0, 3.0, -1.0]
    assert sf.fit_temperature(x, 2).status == "separable"
    assert sf.fit_temperature(x, 3).status == "uninformative"
    fit = sf.fit_temperature(x, 1)
    assert fit.status == "converged"
    assert math.isnan(fit.stderr)
    check = exact_fit([x], [1])
    assert 1 / fit.temperature == pytest.approx(check[0], rel=1e-10)


def test_weights_are_repetitions():
    x, y = simulated(300, 6, 1.6)
    v = generator(8).integers(0, 4, 300)
    weighted = sf.fit_temperature(x, y, sample_weight=v)
    repeated = sf.fit_temperature(np.repeat(x, v, axis=0), np.repeat(y, v))
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-11)
    assert weighted.loss == pytest.approx(repeated.loss, rel=1e-13)
    check_optimum(weighted, x, y, v)


@pytest.mark.parametrize("factor", [1e-20, 1e-160, 1e-300, 1e160, 1e300, 1e307])
def test_scaling_the_weights_changes_nothing(factor):
    """The squares of the weights, and their sum, may be beyond float64."""
    v = generator(8).random(300) + 0.01
    for kind in ("converged", "separable", "uninformative", "constant"):
        x, y = simulated(300, 6, 1.6)
        if kind == "separable":
            y = x.argmax(axis=1)
        elif kind == "uninformative":
            y = x.argmin(axis=1)
        elif kind == "constant":
            x[:] = 2.0
        one, other = (sf.fit_temperature(x, y, sample_weight=v * k) for k in (1.0, factor))
        assert one.status == other.status == kind
        assert one[:4] == pytest.approx(other[:4], rel=1e-10, nan_ok=True)
        layer = (x, np.eye(6), y)
        linear = sf.fit_temperature_linear(*layer, sample_weight=v * factor)
        assert linear[:4] == pytest.approx(one[:4], rel=1e-10, nan_ok=True)
        if kind == "converged":
            check_optimum(other, x, y, v)


def test_pieces_with_weights_of_all_sizes_add_up():
    x, y = simulated(400, 6, 1.6)
    v = generator(8).random(400) * np.repeat([1e-200, 0.0, 1.0, 1.0, 1e150, 1e160, 1e160, 0], 50)
    v[100:200] = 1.0
    cuts = range(50, 400, 50)
    for stop in (100, 200, 400):
        expected = sf.fit_temperature(x[:stop], y[:stop], sample_weight=v[:stop])
        pieces = [
            _temperature.labelled_rows(a, b, sample_weight=None if (w == 1).all() else w)
            for a, b, w in zip(*(np.split(a, cuts)[: stop // 50] for a in (x, y, v)), strict=True)
        ]
        found = _temperature.fit(
            lambda beta, pieces=pieces: sum(
                (p.sums_at(beta, 1) for p in pieces), start=_temperature.PassSums()
            ),
            nan_policy="raise",
            row_error=None,
        )
        assert found[:4] == pytest.approx(expected[:4], rel=1e-9)


def test_rows_that_are_ignored_or_of_weight_0_count_for_nothing():
    x, y = simulated(400, 6, 1.6)
    out = generator(9).random(400) < 0.3
    expected = sf.fit_temperature(x[~out], y[~out])
    x[out] = generator(10).choice([np.nan, np.inf, 1e300, -np.inf], (np.count_nonzero(out), 6))
    by_weight = sf.fit_temperature(x, y, sample_weight=~out)
    y[out] = -100
    ignored = sf.fit_temperature(x, y)
    heavy = sf.fit_temperature(x, y, sample_weight=np.where(out, 1e250, 1.0))
    for fit in (by_weight, ignored, heavy):
        assert fit[:4] == pytest.approx(expected[:4], rel=1e-12)
    y[out] = 2**40
    assert sf.fit_temperature(x, y, ignore_index=2**40) == ignored


def test_masked_classes_are_left_out_of_their_rows():
    x, y = simulated(500, 8, 0.6)
    masked = generator(11).random(x.shape) < 0.3
    masked[np.arange(500), y] = False
    x[masked] = -np.inf
    fit = sf.fit_temperature(x, y)
    assert fit.status == "converged"
    check_optimum(fit, x, y)
    lowest = sf.fit_temperature(np.where(masked, -1e5, x), y)
    assert fit.temperature == pytest.approx(lowest.temperature, rel=1e-9)


BAD_ROWS = {
    "NaN": [0.0, np.nan, 1.0, 0.5],
    "inf": [0.0, np.inf, 1.0, 0.5],
    "all masked": [-np.inf] * 4,
    "label masked": [0.0, 1.0, -np.inf, 0.5],
}


@pytest.mark.parametrize("kind", BAD_ROWS)
@pytest.mark.parametrize("n_rows", [60, 4000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_without_a_loss_are_what_nan_policy_says(kind, n_rows, dtype):
    x, y = simulated(n_rows, 4, 1.4)
    x = x.astype(dtype)
    expected = sf.fit_temperature(np.delete(x, [17, 40], axis=0), np.delete(y, [17, 40]))
    x[[17, 40]] = BAD_ROWS[kind]
    y[[17, 40]] = 2
    with pytest.raises(ValueError, match=r"^row 17 of logits holds NaN or"):
        sf.fit_temperature(x, y)
    omitted = sf.fit_temperature(x, y, nan_policy="omit")
    assert omitted[:4] == pytest.approx(expected[:4], rel=2e-6)
    propagated = sf.fit_temperature(x, y, nan_policy="propagate")
    assert all(math.isnan(number) for number in propagated[:4])
    assert propagated[4:] == ("nonfinite", 1)


def test_the_error_names_the_row_of_any_axis():
    x, y = simulated(60, 4)
    x = x.reshape(5, 12, 4).transpose(0, 2, 1).copy()
    x[3, :, 7] = np.nan
    with pytest.raises(ValueError, match=r"^row \(3, 7\) of logits"):
        sf.fit_temperature(x, y.reshape(5, 12), axis=1)
    with pytest.raises(ValueError, match=r"^the row of logits"):
        sf.fit_temperature([0.0, np.nan], 0)


def test_an_infinite_loss_of_finite_logits_is_no_masked_label():
    """At T = 1 the loss is 1e39, beyond float32, on the way to a finite one."""
    x = np.array([[0.0, 3e38, -3e38], [0.0, 3e38, -3e38], [1e38, 3e38, -3e38]], np.float32)
    y = [1, 1, 0]
    fit = sf.fit_temperature(x, y)
    small = sf.fit_temperature(x.astype(np.float64) / 1e38, y)
    assert fit.status == "converged"
    assert fit.temperature == pytest.approx(small.temperature * 1e38, rel=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (4, 3)], ids=str)
def test_nothing_left_is_an_error(shape):
    x, y = np.zeros(shape), np.full(shape[0], -100)
    for options in ({}, {"nan_policy": "omit"}, {"nan_policy": "propagate"}):
        with pytest.raises(ValueError, match="no row is left to fit a temperature to"):
            sf.fit_temperature(x, y, **options)
    with pytest.raises(ValueError, match="no row is left"):
        sf.fit_temperature(x * np.nan, y * 0, nan_policy="omit")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"nan_policy": "ignore"}, ValueError, "nan_policy must be"),
        ({"nan_policy": None}, ValueError, "nan_policy must be"),
        ({"sample_weight": [1.0]}, ValueError, "sample_weight has shape"),
        ({"sample_weight": [1, -1, 1]}, ValueError, "sample_weight"),
        ({"axis": 2}, np.exceptions.AxisError, "axis 2"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"targets": [0, 1, 3]}, IndexError, r"targets\[2\] = 3"),
        ({"targets": [0, -1, 3]}, IndexError, r"targets\[1\] = -1"),
        ({"targets": [0.0, 1.0, 2.0]}, TypeError, "targets have dtype float64"),
        ({"targets": np.eye(3)}, TypeError, "targets have dtype float64"),
        ({"targets": [0, 1]}, ValueError, "targets have shape"),
        ({"logits": 3.0}, ValueError, "logits is 0-dim"),
        ({"logits": np.zeros((3, 0))}, ValueError, "at least one class"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, error, text):
    arguments = {"logits": np.eye(3), "targets": [0, 1, 0]} | options
    with pytest.raises(error, match=text):
        sf.fit_temperature(arguments.pop("logits"), arguments.pop("targets"), **arguments)


@pytest.mark.parametrize("shape", [(2500, 12), (60, 700)], ids=str)
def test_the_same_bits_for_any_threads_and_layout(shape, dtype):
    x, y = simulated(*shape, 1.8)
    x = x.astype(dtype)
    expected = sf.fit_temperature(x, y, n_threads=1)
    for n_threads in (2, None):
        assert sf.fit_temperature(x, y, n_threads=n_threads) == expected
    for layout, view in laid_out(x):
        assert sf.fit_temperature(view, y) == expected, layout
    assert sf.fit_temperature(x.T, y, axis=0) == expected
    folded = x.reshape(10, -1, shape[1])
    assert sf.fit_temperature(folded, y.reshape(10, -1)) == expected


@pytest.mark.parametrize("cuts", [[1], [13, 14, 700], list(range(0, 2000, 97))], ids=len)
@pytest.mark.parametrize("kind", ["converged", "uninformative", "separable"])
def test_rows_in_pieces_give_the_same(cuts, kind):
    x, y = simulated(2000, 7, 1.5)
    if kind == "separable":
        y = x.argmax(axis=1)
    elif kind == "uninformative":
        y = x.argmin(axis=1)
    v = generator(5).random(2000)
    pieces = [
        _temperature.labelled_rows(*piece[:2], sample_weight=piece[2])
        for piece in zip(*(np.split(a, cuts) for a in (x, y, v)), strict=True)
    ]

    def sums_at(beta):
        return sum((p.sums_at(beta, 1) for p in pieces), start=_temperature.PassSums())

    found = _temperature.fit(sums_at, nan_policy="raise", row_error=None)
    whole = sf.fit_temperature(x, y, sample_weight=v)
    assert found.status == whole.status == kind
    numbers = [(fit.temperature, fit.loss, fit.loss_before) for fit in (found, whole)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-10)
    assert found.stderr == pytest.approx(whole.stderr, rel=1e-6, nan_ok=True)
    one = _temperature.labelled_rows(x, y, sample_weight=v).sums_at(0.7, 1)
    other = sums_at(0.7)
    np.testing.assert_allclose(other.sums + other.lost, one.sums + one.lost, rtol=2e-14)
    assert (other.n, other.n_rows) == (one.n, one.n_rows)


def test_pieces_number_their_rows_one_after_the_other():
    x, y = simulated(50, 4)
    x[[31, 40], 1] = np.nan
    pieces = [
        _temperature.labelled_rows(a, b).sums_at(1.0, 1)
        for a, b in zip(np.split(x, [10, 20, 35]), np.split(y, [10, 20, 35]), strict=True)
    ]
    assert (pieces[0] + pieces[1] + pieces[2] + pieces[3]).first_nonfinite == 31
    assert ((pieces[0] + pieces[1]) + (pieces[2] + pieces[3])).first_nonfinite == 31


def test_a_sample_shortens_the_way_and_changes_nothing():
    x, y = simulated(20_000, 10, 6.0)
    rows = _temperature.labelled_rows(x, y)
    sample = rows.sample()
    assert 16 * len(sample.labels) <= len(rows.labels)
    without = _temperature.fit(
        lambda beta: rows.sums_at(beta, 1), nan_policy="raise", row_error=None
    )
    fit = sf.fit_temperature(x, y)
    assert fit.temperature == pytest.approx(without.temperature, rel=1e-9)
    assert fit.n_passes < without.n_passes
    assert _temperature.labelled_rows(x[:500], y[:500]).sample() is None


def test_a_sample_that_misleads_does_no_harm():
    x, y = simulated(8000, 6, 2.0)
    n = len(_temperature.labelled_rows(x, y).sample().labels)
    chosen = (2 * np.arange(n) + 1) * 8000 // (2 * n)
    for labels in (x[chosen].argmax(axis=1), x[chosen].argmin(axis=1)):
        y[chosen] = labels
        fit = sf.fit_temperature(x, y)
        assert fit.status == "converged"
        check_optimum(fit, x, y)
    x[chosen] *= 1e-6
    y[chosen] = simulated(n, 6)[1]
    fit = sf.fit_temperature(x, y)
    check_optimum(fit, x, y)


def test_the_standard_error_covers_the_true_temperature():
    """Of 400 simulated fits 95 % lie within 1.96 standard errors: here 92 to 98 %."""
    hits = 0
    z = []
    for key in range(400):
        x, y = simulated(600, 5, 1.5, 1000 + key)
        fit = sf.fit_temperature(x, y)
        z.append((fit.temperature - 1.5) / fit.stderr)
        hits += abs(z[-1]) < 1.96
    assert 0.92 <= hits / 400 <= 0.98
    assert 0.9 < np.std(z) < 1.1


def test_the_standard_error_covers_what_a_wrong_model_tends_to():
    """No temperature makes these calibrated: noise beside the logits, labels not independent of it."""

    def wrong(n_rows, key):
        x, y = simulated(n_rows, 4, 1.0, key)
        noise = generator(key, 2).standard_normal((n_rows, 4)) * np.where(x[:, :1] > 0, 4.0, 0.2)
        return x * 1.3 + noise, y

    limit = sf.fit_temperature(*wrong(200_000, 5)).temperature
    z = [
        (fit.temperature - limit) / fit.stderr
        for fit in (sf.fit_temperature(*wrong(500, 3000 + key)) for key in range(300))
    ]
    assert 0.85 < np.std(z) < 1.15


def test_scikit_learn_finds_the_same_temperature():
    calibration = pytest.importorskip("sklearn.calibration")
    if not hasattr(calibration, "_TemperatureScaling"):
        pytest.skip("this scikit-learn has no temperature scaling")
    x, y = simulated(2000, 5, 1.8)
    theirs = calibration._TemperatureScaling().fit(x, y)
    assert sf.fit_temperature(x, y).temperature == pytest.approx(1 / theirs.beta_, rel=1e-3)
