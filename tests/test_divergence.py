"""Divergences of two arrays of logits: digits, edges, dtypes and layouts of both, gradients."""

import mpmath
import numpy as np
import oracle
import pytest
from cases import generator, laid_out, logits, positive, row_temperatures, scattered

import softmax_fast as sf
from softmax_fast import _core

INF, NAN = np.inf, np.nan
LENGTHS = [*range(1, 10), 15, 16, 17, 33, 64, 65, 256, 257, 1000, 2047, 2048, 2049, 5000]
NEAR = [3.0, 0.1, 1e-5]


def two_models(shape, dtype, spread, offset=0.0):
    """Logits, and others of a model that is as near as ``spread`` says."""
    base = logits(shape, np.float64)
    other = base + offset + spread * generator(*shape, 5).standard_normal(shape)
    grid = 2.0**46  # on which differences are exact in the oracle
    return [(np.rint(a * grid) / grid).astype(dtype) for a in (base, other)]


@pytest.mark.parametrize("spread", NEAR)
def test_divergences_and_gradients_agree_with_the_oracle(spread, isa, dtype):
    for n_classes in LENGTHS:
        n_rows = 37 if n_classes < 100 else 3
        base, x = two_models((n_rows, n_classes), dtype, spread, 20.0)
        for options in (
            {},
            {"temperature": 0.7, "scale": 0.49},
            {"temperature": row_temperatures(n_rows), "sample_weight": positive(n_rows)},
        ):
            exact = oracle.kl_divergence(base, x, **options)
            for reduction in ("none", "mean") if n_classes % 5 == 0 else ("none",):
                context = f"{n_classes} classes, {options}, {reduction}"
                value, grad = sf.kl_divergence_and_grad(base, x, reduction=reduction, **options)
                oracle.check_loss(value, exact, reduction, dtype, context)
                oracle.check_grad(grad, exact, reduction, dtype, context)
                alone = sf.kl_divergence(base, x, reduction=reduction, **options)
                oracle.assert_same_bits(alone, value, context)


def test_gradients_of_nearly_sure_rows(isa, dtype):
    base = 30 * generator(1).standard_normal((40, 2049))
    x = base + 30 * generator(2).standard_normal(base.shape)
    base, x = base.astype(dtype), x.astype(dtype)
    _, grad = sf.kl_divergence_and_grad(base, x, reduction="none")
    oracle.check_grad(grad, oracle.kl_divergence(base, x), "none", dtype)


# Was a segmentation fault with AVX-512: musl gives a thread 128 KiB of stack.
@pytest.mark.skipif(not _core.has_openmp, reason="built without OpenMP")
def test_a_small_stack_is_enough(dtype, run_python):
    run_python(
        f"""
        import numpy as np, softmax_fast as sf
        base, x = np.random.default_rng(0).normal(size=(2, 20000, 50)).astype("{dtype}")
        for _ in range(9):
            sf.kl_divergence_and_grad(base, x, n_threads=2)
            sf.compare(base, x, n_threads=2)
        """,
        env={"OMP_STACKSIZE": "128k", "SOFTMAX_FAST_ADAPTIVE": "0"},
    )


def test_rows_by_themselves_have_the_bits_of_rows_among_others(isa, dtype):
    for n_classes in (1, 3, 17, 100, 256, 257, 3000):
        base, x = two_models((37, n_classes), dtype, 1.0)
        values, grads = sf.kl_divergence_and_grad(base, x, reduction="none")
        for row in range(37):
            value, grad = sf.kl_divergence_and_grad(base[row], x[row], reduction="none")
            oracle.assert_same_bits(value, values[row])
            oracle.assert_same_bits(grad, grads[row])


def exactly(base, x, temperature=1.0):
    """Σ p (log p − log q) in mpmath, of the values as they are."""
    with mpmath.workdps(60):
        log_p, log_q = [], []
        for row, logs in ((base, log_p), (x, log_q)):
            z = [mpmath.mpf(float(v)) / mpmath.mpf(temperature) for v in row]
            log_sum = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in z))
            logs.extend(v - log_sum for v in z)
        return mpmath.fsum(mpmath.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))


@pytest.mark.parametrize("n_classes", [2, 10, 200, 2500])
@pytest.mark.parametrize("offset", [0.0, -37.3])
def test_small_divergences_keep_their_digits(n_classes, offset, isa, dtype):
    smallest, digits = (1e-9, 1e-3) if dtype == np.float32 else (1e-12, 1e-9)
    for temperature in (1.0, 0.3):
        base, x = two_models((1, n_classes), dtype, 3 * temperature * smallest**0.5, offset)
        got = float(sf.kl_divergence(base, x, temperature=temperature, reduction="none")[0])
        exact = exactly(base[0], x[0], temperature)
        assert 0.01 * smallest < exact < 100 * smallest
        assert abs(got - exact) < digits * exact * max(1, smallest / float(exact))


def test_the_masses_of_blocks_keep_their_digits(isa, dtype):
    # all of the divergence is between blocks, each of which has two large entries
    rng = generator(8)
    spread = 3e-5 if dtype == np.float32 else 1e-6
    base = np.full(10_240, -30.0)
    for block in range(10):
        base[1024 * block + 7], base[1024 * block + 400] = rng.uniform(0, 2, 2)
    x = base + np.repeat(rng.standard_normal(10), 1024) * spread
    base, x = base.astype(dtype), x.astype(dtype)
    got, exact = float(sf.kl_divergence(base, x, reduction="sum")), exactly(base, x)
    assert abs(got - exact) < (1e-4 if dtype == np.float32 else 1e-9) * exact


def test_divergences_are_never_negative_and_0_of_equal_ones(isa, dtype):
    for n_classes in (1, 7, 150, 2100, 9000):
        base = logits((20, n_classes), dtype, scale=8.0)
        masked = np.where(np.arange(n_classes) % 3 == 1, -INF, base).astype(dtype)
        for same in (base, masked):
            value, grad = sf.kl_divergence_and_grad(same, same.copy(), reduction="none")
            assert not value.any() and not grad.any()
        for offset in (0.1, 1000.3, -1e7):
            moved = base + dtype.type(offset)
            assert (sf.kl_divergence(base, moved, reduction="none") >= 0).all()
        for step in (np.finfo(dtype).eps, 1e-4):
            near = base * dtype.type(1 + step)
            assert (sf.kl_divergence(base, near, reduction="none") >= 0).all()


EDGES = {
    "p = 0 adds q": ([0, 0, -INF], [0, 0, 0], np.log(1.5)),
    "p > 0 = q": ([0, 0, 0], [0, 0, -INF], INF),
    "p = q = 0": ([0, 0, -INF], [0, 0, -INF], 0.0),
    "certain of the same": ([0, -INF, -INF], [5, -INF, -INF], 0.0),
    "certain of others": ([0, -INF, -INF], [-INF, 5, -INF], INF),
    "NaN in the base": ([0, NAN, 0], [0, 0, 0], NAN),
    "NaN": ([0, 0, 0], [NAN, 0, 0], NAN),
    "inf in the base": ([0, INF, 0], [0, 0, 0], NAN),
    "inf": ([0, 0, 0], [0, INF, 0], NAN),
    "all -inf in the base": ([-INF] * 3, [0, 0, 0], NAN),
    "all -inf": ([0, 0, 0], [-INF] * 3, NAN),
    "p that is 0 in float64, q = 0": ([0, 0, -1e4], [0, 0, -INF], 0.0),
    "the lowest number as a mask": ([0, 0, -3e38], [0, 0, -3e38], 0.0),
    "masked by other means": ([0, 0, -3e38], [0, 0, -INF], 0.0),
    "p that is 0 in float32 alone, q = 0": ([0, 0, -500], [0, 0, -INF], INF),
}


@pytest.mark.parametrize("n_classes", [3, 40, 257, 2500, 7000])
@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge, n_classes, isa, dtype):
    base, x, expected = EDGES[edge]
    # entries that count for nothing in between
    rows = np.full((2, 5, n_classes), -INF if edge != "the lowest number as a mask" else -3e38)
    at = [0, n_classes // 2, n_classes - 1]
    rows[0, :, at], rows[1, :, at] = np.array(base)[:, None], np.array(x)[:, None]
    rows = rows.astype(dtype)
    value, grad = sf.kl_divergence_and_grad(*rows, reduction="none")
    bound = 8 * np.finfo(dtype).eps
    oracle.assert_within(value, np.full(5, expected), bound, dtype)
    softmaxes = sf.softmax(rows)
    with np.errstate(invalid="ignore"):
        oracle.assert_within(grad, softmaxes[1] - softmaxes[0], bound, dtype)
    assert np.isnan(sf.kl_divergence(*rows)) == np.isnan(expected)


@pytest.mark.parametrize("n_classes", [2, 50, 600, 5000])
def test_logits_whose_differences_overflow(n_classes, isa, dtype):
    most = float(np.finfo(dtype).max)
    rng = generator(n_classes, 3)
    for temperature in (1.0, most / 50, 1e3):
        base = -most * (1 - 1e-6 * rng.random((3, n_classes)))
        x = most * (1 - 1e-6 * rng.random((3, n_classes)))
        x[1] = most * rng.uniform(-1, 1, n_classes)
        base[2] = most * rng.uniform(-1, 1, n_classes)
        base, x = base.astype(dtype), x.astype(dtype)
        value, grad = sf.kl_divergence_and_grad(base, x, temperature=temperature, reduction="none")
        exact = oracle.kl_divergence(base, x, temperature=temperature)
        p, q = sf.softmax(base, temperature=temperature), sf.softmax(x, temperature=temperature)
        for row in range(3):
            context = f"T = {temperature}, row {row}"
            bound = 1e-4 if dtype == np.float32 else 1e-11
            bound = bound * exact.rows[row] + exact.row_bound[row]
            oracle.assert_within(value[row], exact.rows[row], bound, dtype, context)
        expected = (q.astype(np.float64) - p) / temperature
        bound = 1e-4 if dtype == np.float32 else 1e-11
        oracle.assert_within(grad, expected, bound / temperature + 1e-44, dtype)


@pytest.mark.parametrize("n_classes", [3, 50, 600, 5000])
def test_ratios_beyond_the_range_of_double(n_classes, isa):
    base, x = np.full((2, n_classes), -INF)
    base[[0, 1, -1]], x[[0, 1, -1]] = (10, 0, 3), (1.7e308, -1.7e308, 1.7e308)
    for temperature in (1.0, 0.3, 0.02):
        p = np.exp(-10 / temperature) / np.exp((base - 10) / temperature).sum()
        expected = p * 1.7e308 / temperature * 2
        value = sf.kl_divergence(base, x, temperature=temperature)
        assert np.isclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("n_classes", [13, 300, 5000])
def test_temperatures_far_below_the_distance_of_the_maxima(n_classes, isa, dtype):
    base, x = np.full((2, n_classes), -14.0, dtype)
    base[[0, 1]], x[[0, 1]] = (1e36, 1e-24), 9.875
    value, grad = sf.kl_divergence_and_grad(base, x, temperature=1e-30)
    assert np.isclose(value, np.log(2))
    assert np.allclose(grad[:2] * 1e-30, (-0.5, 0.5)) and not grad[2:].any()


DTYPES = ["float16", "bfloat16", "float32", "float64", "int32"]


@pytest.mark.parametrize("of_base", DTYPES)
@pytest.mark.parametrize("of_logits", DTYPES)
def test_the_wider_dtype_of_both_is_computed_in(of_base, of_logits, isa):
    if "bfloat16" in (of_base, of_logits):
        pytest.importorskip("ml_dtypes")
    for shape in ((40, 10), (3, 190), (3, 700), (2, 5001)):
        base, x = (
            a.astype(d)
            for a, d in zip(two_models(shape, float, 1.0), (of_base, of_logits), strict=True)
        )
        wide = np.result_type(oracle.result_dtype(base.dtype), oracle.result_dtype(x.dtype))
        got = sf.kl_divergence_and_grad(base, x, reduction="none")
        expected = sf.kl_divergence_and_grad(base.astype(wide), x.astype(wide), reduction="none")
        for a, b in zip(got, expected, strict=True):
            oracle.assert_same_bits(a, b, f"{of_base} and {of_logits} of {shape}")
        oracle.assert_same_bits(sf.kl_divergence(base, x, reduction="none"), got[0])


@pytest.mark.parametrize("shape", [(30, 11), (6, 200), (6, 2500)], ids=str)
def test_layouts_of_both_change_no_bit(shape, isa, dtype):
    base, x = two_models(shape, dtype, 1.0)
    expected = sf.kl_divergence_and_grad(base, x, reduction="none")
    for (layout, a), (_, b) in zip(laid_out(base), reversed(list(laid_out(x))), strict=True):
        for one, other in ((a, x), (base, b), (a, b)):
            got = sf.kl_divergence_and_grad(one, other, reduction="none")
            for part, whole in zip(got, expected, strict=True):
                oracle.assert_same_bits(part, whole, layout)
    a, b = scattered(base), scattered(x)
    value, grad = sf.kl_divergence_and_grad(a, b, reduction="none")
    oracle.assert_same_bits(value.reshape(-1), expected[0])
    oracle.assert_same_bits(grad.reshape(shape), expected[1])
    for axis in (0, 1):
        turned = [np.moveaxis(y.reshape(2, -1, shape[1]), -1, axis) for y in (base, x)]
        value, grad = sf.kl_divergence_and_grad(*turned, axis=axis, reduction="none")
        oracle.assert_same_bits(value.reshape(-1), expected[0])
        oracle.assert_same_bits(np.moveaxis(grad, axis, -1).reshape(shape), expected[1])


def test_the_gradient_is_the_slope_of_the_divergence(dtype):
    base, x = two_models((4, 6), np.float64, 1.0)
    options = {"temperature": 1.7, "scale": 1.7**2, "sample_weight": np.array([1.0, 0, 2, 0.5])}

    def mean(y):
        return oracle.kl_divergence(base, y.astype(np.float64), **options).reduced("mean")

    _, grad = sf.kl_divergence_and_grad(base.astype(dtype), x.astype(dtype), **options)
    slopes = oracle.finite_difference(mean, x, 1e-5)
    np.testing.assert_allclose(grad, slopes.astype(float), atol=1e-6)
    assert not grad[1].any()


def test_scale_multiplies_both():
    base, x = two_models((5, 9), np.float64, 1.0)
    for reduction in ("none", "sum", "mean"):
        value, grad = sf.kl_divergence_and_grad(base, x, reduction=reduction)
        for scale in (0, 2, 0.25):
            got = sf.kl_divergence_and_grad(base, x, reduction=reduction, scale=scale)
            np.testing.assert_allclose(got[0], scale * value, rtol=1e-15)
            np.testing.assert_allclose(got[1], scale * grad, rtol=1e-15, atol=1e-18)
            assert (sf.kl_divergence(base, x, reduction=reduction, scale=scale) == got[0]).all()


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_scales_beyond_float32_keep_the_digits_of_the_gradient(scale):
    base, x = two_models((5, 300), np.float32, 1.0)
    weight = np.full(5, 1 / scale)
    value, grad = sf.kl_divergence_and_grad(
        base, x, reduction="none", scale=scale, sample_weight=weight
    )
    expected = sf.kl_divergence_and_grad(base, x, reduction="none")
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-4, atol=1e-9)


def test_rows_of_weight_0_are_not_there(isa, dtype):
    for n_classes in (5, 300, 2500):
        base, x = two_models((20, n_classes), dtype, 1.0)
        weight = positive(20)
        weight[3] = weight[7] = 0
        base[3], x[7] = np.nan, np.inf
        value, grad = sf.kl_divergence_and_grad(base, x, sample_weight=weight)
        kept = weight > 0
        expected = sf.kl_divergence(base[kept], x[kept], sample_weight=weight[kept])
        assert abs(value - expected) <= 1e-15 * expected
        assert not grad[~kept].any() and grad[kept].all(axis=-1).any()
        rows = sf.kl_divergence(base, x, sample_weight=weight, reduction="none")
        assert not rows[~kept].any()


def test_the_gradient_may_overwrite_the_logits_but_not_the_base():
    base, x = two_models((6, 300), np.float32, 1.0)
    value, grad = sf.kl_divergence_and_grad(base, x)
    place = x.copy()
    got, given = sf.kl_divergence_and_grad(base, place, grad_out=place)
    assert given is place and got == value
    oracle.assert_same_bits(place, grad)
    with pytest.raises(ValueError, match="grad_out shares memory with base_logits"):
        sf.kl_divergence_and_grad(base, x, grad_out=base)
    with pytest.raises(ValueError, match="out shares memory with base_logits"):
        sf.kl_divergence(base, x, reduction="none", out=base[0, :6])
    with pytest.raises(TypeError, match="grad_out has dtype float32, expected native float64"):
        sf.kl_divergence_and_grad(base.astype(float), x, grad_out=np.empty_like(x))


def test_what_is_wrong_is_named():
    x = np.zeros((4, 3))
    for function in (sf.kl_divergence, sf.kl_divergence_and_grad):
        with pytest.raises(ValueError, match=r"base_logits have shape \(3, 4\).*\(4, 3\)"):
            function(x.T, x)
        with pytest.raises(TypeError, match="base_logits has dtype complex128"):
            function(x.astype(complex), x)
        for scale in (-1, np.nan, np.inf, "1", None):
            with pytest.raises(ValueError, match="scale must be a finite number >= 0"):
                function(x, x, scale=scale)
        with pytest.raises(ValueError, match="at least one class"):
            function(x[:, :0], x[:, :0])
    assert np.isnan(sf.kl_divergence(x[:0], x[:0]))
    assert sf.kl_divergence(x[:0], x[:0], reduction="sum") == 0


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    base, x = (torch.from_numpy(a) for a in two_models((30, 400), np.float64, 1.0))
    x.requires_grad_(True)
    log_p, log_q = (torch.log_softmax(y / 1.5, -1) for y in (base, x))
    loss = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    loss.backward()
    value, grad = sf.kl_divergence_and_grad(base, x.detach(), temperature=1.5)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(grad, x.grad.numpy(), atol=1e-15)
