"""The linear layer with softmax loss equals logits-then-loss, within the product's error."""

import numpy as np
import oracle
import pytest
from cases import (
    REDUCTIONS,
    distributions,
    every_combination_of_options,
    generator,
    labels,
    loss_options,
    positive,
)

import softmax_fast as sf
from softmax_fast import linear

SHAPES = [(1, 1, 1), (1, 5, 3), (7, 3, 1), (33, 16, 10), (70, 32, 257), (3, 8, 5000), (2500, 4, 3)]


def problem(shape, dtype, bias=True):
    """Features (N, D), weights (C, D) and bias (C,)."""
    n, d, c = shape
    rng = generator(*shape, 20)
    features = rng.standard_normal((n, d)).astype(dtype)
    weights = (rng.standard_normal((c, d)) / np.sqrt(d)).astype(dtype)
    return features, weights, rng.standard_normal(c).astype(dtype) if bias else None


def expected_loss(features, weights, bias, targets, **options):
    """Reference loss on the exact logits, with a bound that admits the product's rounding.

    A logit off by at most e moves every log-probability by at most 2e/T.
    """
    logits, logit_error = oracle.linear_logits(features, weights, bias)
    expected = oracle.softmax_loss(logits, targets, with_grad=True, **options)
    moved = 2 * logit_error.max(axis=-1, initial=0) / np.asarray(options.get("temperature", 1.0))
    return expected, moved


def check_loss(loss, expected, moved, reduction, dtype):
    bound = expected.bound("none", dtype) + moved * expected.magnitude
    exact = expected.rows
    if reduction != "none":
        eps = np.finfo(np.float64).eps
        bound = bound.sum() + eps * (2 + exact.size) * np.abs(exact).sum()
        exact = exact.sum()
        if reduction == "mean":
            exact, bound = exact / expected.denominator, bound / expected.denominator
        assert isinstance(loss, float)
    oracle.assert_within(
        loss, exact, bound, dtype if reduction == "none" else np.float64, reduction
    )


def check_grads(grads, features, weights, bias, expected, moved, reduction, dtype):
    """Where G = d loss/d logits errs by e, its products err by those of e and by rounding."""
    eps = np.finfo(dtype).eps
    n, c = features.shape[0], weights.shape[0]
    scale = expected.scale(reduction)
    g = expected.grad * scale
    # a log-probability moved by e moves p by the factor exp(e): e p, and e <= 1 in these problems
    total = np.abs(expected.grad) + expected.magnitude[:, None]
    smallest = np.finfo(dtype).tiny  # contributions below may count as 0
    e = (expected.grad_bound + np.reshape(moved, (-1, 1)) * total) * scale + 2 * smallest
    f, w = np.abs(features.astype(np.longdouble)), np.abs(weights.astype(np.longdouble))
    room_f = e @ w + (c + 2) * (eps * (np.abs(g) @ w) + smallest)
    room_w = e.T @ f + (n + 2) * (eps * (np.abs(g).T @ f) + smallest)
    oracle.assert_within(
        grads.features, g @ weights.astype(np.longdouble), room_f, dtype, "features"
    )
    oracle.assert_within(
        grads.weights, g.T @ features.astype(np.longdouble), room_w, dtype, "weights"
    )
    if bias is None:
        assert grads.bias is None
    else:
        room_b = e.sum(axis=0) + (n + 2) * eps * np.abs(g).sum(axis=0)
        oracle.assert_within(grads.bias, g.sum(axis=0), room_b, dtype, "bias")


def check(shape, dtype, targets, bias=True, reductions=REDUCTIONS, **options):
    features, weights, b = problem(shape, dtype, bias)
    expected, moved = expected_loss(features, weights, b, targets, **options)
    for reduction in reductions:
        keywords = {"bias": b, "reduction": reduction, **options}
        loss = sf.linear_softmax_loss(features, weights, targets, **keywords)
        check_loss(loss, expected, moved, reduction, dtype)
        loss, grads = sf.linear_softmax_loss_and_grad(features, weights, targets, **keywords)
        check_loss(loss, expected, moved, reduction, dtype)
        check_grads(grads, features, weights, b, expected, moved, reduction, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_logits_then_loss(shape, isa, dtype):
    n, _, c = shape
    check(shape, dtype, labels(n, c))
    check(shape, dtype, labels(n, c), bias=False, reductions=["mean"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_probability_targets(shape, isa, dtype):
    n, _, c = shape
    check(shape, dtype, distributions((n, c), dtype))


@every_combination_of_options
def test_every_combination_of_options(names, isa, dtype):
    shape = (33, 16, 10)
    check(shape, dtype, labels(33, 10), **loss_options(names, (33, 10)))
    if "ignore_index" not in names:
        check(shape, dtype, distributions((33, 10), dtype), **loss_options(names, (33, 10)))


def test_ignored_rows_are_not_read(isa, dtype):
    features, weights, bias = problem((20, 6, 5), dtype)
    y = labels(20, 5)
    y[[0, 7, 19]] = -100
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, bias=bias, reduction="none")
    features[[0, 7, 19]] = 1e30
    again, other = sf.linear_softmax_loss_and_grad(
        features, weights, y, bias=bias, reduction="none"
    )
    assert not loss[[0, 7, 19]].any() and not grads.features[[0, 7, 19]].any()
    oracle.assert_same_bits(again, loss)
    oracle.assert_same_bits(other.features, grads.features)


@pytest.mark.parametrize("buffer_bytes", [sf.linear.BUFFER_BYTES, 4096], ids=["rows", "classes"])
@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
def test_rows_of_weight_zero_are_not_there(value, buffer_bytes, isa, dtype, monkeypatch):
    monkeypatch.setattr(sf.linear, "BUFFER_BYTES", buffer_bytes)
    features, weights, bias = problem((40, 6, 300), dtype)
    y, v, w = labels(40, 300), generator(41).random(40), generator(42).random(300)
    v[[0, 7]] = 0
    w[y[[3, 39]]] = 0
    y[11] = -100
    absent = (v == 0) | (w[y] == 0) | (y == -100)
    ignored = np.where(absent, -100, y)
    garbage = np.where(absent[:, None], dtype.type(value), features)
    for reduction in REDUCTIONS:
        k = {"bias": bias, "weight": w, "sample_weight": v, "reduction": reduction}
        expected, others = sf.linear_softmax_loss_and_grad(features, weights, ignored, **k)
        loss, grads = sf.linear_softmax_loss_and_grad(garbage, weights, y, **k)
        oracle.assert_same_bits(loss, expected)
        oracle.assert_same_bits(sf.linear_softmax_loss(garbage, weights, y, **k), expected)
        for got, other in zip(grads, others, strict=True):
            oracle.assert_same_bits(got, other)
        assert not grads.features[absent].any() and grads.features[~absent].any()


def test_weight_zero_of_rows_with_probability_targets(dtype):
    features, weights, bias = problem((20, 6, 5), dtype)
    t, v = distributions((20, 5), dtype), np.ones(20)
    v[[2, 9]] = 0
    features[[2, 9]] = np.nan
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, t, bias=bias, sample_weight=v)
    part = np.flatnonzero(v)
    expected, others = sf.linear_softmax_loss_and_grad(features[part], weights, t[part], bias=bias)
    assert loss == expected and not grads.features[[2, 9]].any()
    oracle.assert_same_bits(grads.weights, others.weights)


def test_labels_of_rows_of_weight_zero_are_checked():
    for y, k in (([0, 9], {"sample_weight": [1, 0]}), ([0, -1], {"weight": np.zeros(3)})):
        with pytest.raises(IndexError, match=rf"targets\[1\] = {y[1]} "):
            sf.linear_softmax_loss(np.ones((2, 4)), np.ones((3, 4)), y, **k)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("temperature", [5e-324, 1e-309, 1e-300, 1e-40, 1e-3, 1e38, 1e300, 1.7e308])
def test_class_tiles_take_any_temperature(temperature, smoothing, dtype, monkeypatch):
    # of one row with one feature, 1, the weights are the logits, and so are their gradients
    monkeypatch.setattr(sf.linear, "BUFFER_BYTES", 512)
    logits = generator(43).uniform(-1, 1, 300).astype(dtype)
    logits *= dtype.type(max(1.0, min(temperature, 1e30)))
    options = {"temperature": temperature, "label_smoothing": smoothing}
    for label in (int(logits.argmax()), int(logits.argmin())):
        loss, grads = sf.linear_softmax_loss_and_grad(
            np.ones((1, 1), dtype), logits[:, None], [label], reduction="sum", **options
        )
        exact = oracle.softmax_loss(
            logits[None].astype(np.float64), np.array([label]), with_grad=True, **options
        )
        close = {"rtol": 1e-4 if dtype == np.float32 else 1e-12, "atol": np.finfo(dtype).tiny}
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(loss, exact.rows[0].astype(np.float64), **close)
            np.testing.assert_allclose(grads.weights[:, 0], exact.grad[0].astype(dtype), **close)


def test_a_nan_in_one_row_of_features_stays_in_that_row(isa, dtype):
    features, weights, bias = problem((20, 6, 5), dtype)
    y = labels(20, 5)
    clean, clean_grads = sf.linear_softmax_loss_and_grad(
        features, weights, y, bias=bias, reduction="none"
    )
    features[7, 2] = np.nan
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, bias=bias, reduction="none")
    others = np.arange(20) != 7
    assert np.isnan(loss[7]) and np.isnan(grads.features[7]).all() and np.isnan(grads.weights).all()
    oracle.assert_same_bits(loss[others], clean[others])
    oracle.assert_same_bits(grads.features[others], clean_grads.features[others])


def test_loss_alone_and_with_gradient_agree(isa, dtype):
    features, weights, bias = problem((33, 16, 257), dtype)
    y = labels(33, 257)
    expected, moved = expected_loss(features, weights, bias, y)
    for reduction in REDUCTIONS:
        loss, _ = sf.linear_softmax_loss_and_grad(
            features, weights, y, bias=bias, reduction=reduction
        )
        check_loss(loss, expected, moved, reduction, dtype)


def test_shapes_and_dtypes_of_the_gradients(dtype):
    features, weights, bias = problem((4, 3, 5), dtype)
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, [0, 1, 2, 3], bias=bias)
    assert isinstance(grads, sf.LinearGrads)
    assert isinstance(loss, float)
    for got, like in zip(grads, (features, weights, bias), strict=True):
        assert got.shape == like.shape and got.dtype == like.dtype


def test_no_rows(dtype):
    features, weights, bias = problem((1, 3, 5), dtype)
    features = features[:0]
    y = np.empty(0, np.int64)
    assert np.isnan(sf.linear_softmax_loss(features, weights, y, bias=bias))
    assert sf.linear_softmax_loss(features, weights, y, bias=bias, reduction="sum") == 0
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, bias=bias, reduction="none")
    assert loss.shape == (0,) and grads.features.shape == (0, 3)
    assert not grads.weights.any() and not grads.bias.any()


def test_layouts_of_features_and_weights_do_not_matter(dtype):
    features, weights, bias = problem((33, 16, 10), dtype)
    y = labels(33, 10)
    expected, moved = expected_loss(features, weights, bias, y)
    for f, w in (
        (np.asfortranarray(features), weights),
        (features, np.asfortranarray(weights)),
        (np.repeat(features, 2, axis=1)[:, ::2], weights[::-1][::-1]),
    ):
        check_loss(sf.linear_softmax_loss(f, w, y, bias=bias), expected, moved, "mean", dtype)


def test_the_same_bits_for_any_number_of_our_threads(isa, dtype):
    features, weights, bias = problem((130, 64, 257), dtype)
    y = labels(130, 257)
    first, first_grads = sf.linear_softmax_loss_and_grad(
        features, weights, y, bias=bias, n_threads=1
    )
    for n_threads in (2, 3, 8):
        loss, grads = sf.linear_softmax_loss_and_grad(
            features, weights, y, bias=bias, n_threads=n_threads
        )
        assert loss == first
        for got, expected in zip(grads, first_grads, strict=True):
            oracle.assert_same_bits(got, expected, f"{n_threads} threads")


def test_extra_memory_does_not_grow_with_the_number_of_rows(run_python):
    code = """
        import resource
        import numpy as np
        import softmax_fast as sf
        n, d, c = {n}, 8, 20_000
        features = np.zeros((n, d), np.float32)
        weights = np.zeros((c, d), np.float32)
        sf.linear_softmax_loss(features[:64], weights, np.zeros(64, np.int64))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sf.linear_softmax_loss(features, weights, np.zeros(n, np.int64))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    pytest.importorskip("resource")
    n = 10_000
    used = int(run_python(code.format(n=n)).stdout) * 1024
    assert used < 100e6, (
        f"{used / 1e6:.0f} MB, where the logits would need {n * 20_000 * 4 / 1e6:.0f}"
    )


# Of these shapes the loss takes all classes of some rows at a time; with the smaller buffer, some
# classes of all rows.
WAYS = {"whole rows": linear.BUFFER_BYTES, "class tiles": 4800}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(linear, "BUFFER_BYTES", WAYS[request.param])
    return request.param


# Was wrong: the loss was 3.4e38 for 1.3133, and the gradients 2**128 times too large.
@pytest.mark.parametrize(
    "temperature", [1e300, 1.7e308, [1e300, 1.0, 0.7, 1.7e308, 2.0, 1e-3]], ids=str
)
def test_the_largest_temperatures(temperature, way, isa, dtype):
    temperature = np.array(temperature) if np.ndim(temperature) else temperature
    for targets, options in ((labels(6, 300), {}), (labels(6, 300), {"label_smoothing": 0.1})):
        check((6, 2, 300), dtype, targets, temperature=temperature, **options)


# Was wrong: a subnormal T acted as 1.6e-308.
@pytest.mark.parametrize("temperature", [5e-324, 5e-310, 1e-308])
def test_subnormal_temperatures(temperature, way, isa, dtype):
    # of one feature that is 1, so that the logits are the weights
    logits = (np.round(generator(30).standard_normal((1, 300)) * 4) * temperature).astype(dtype)
    features, weights = np.ones((6, 1), dtype), np.ascontiguousarray(logits.T)
    expected = oracle.softmax_loss(
        logits.repeat(6, axis=0), labels(6, 300), temperature=temperature
    )
    options = {"temperature": temperature, "reduction": "none"}
    loss = sf.linear_softmax_loss(features, weights, labels(6, 300), **options)
    oracle.check_loss(loss, expected, "none", dtype)
    loss, _ = sf.linear_softmax_loss_and_grad(features, weights, labels(6, 300), **options)
    oracle.check_loss(loss, expected, "none", dtype)


# Was wrong: what a row of weight 0 added was NaN or 0, as it came.
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("zero", ["sample_weight", "weight"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_row_of_weight_zero_is_not_there(smoothing, zero, garbage, way, isa, dtype):
    features, weights, bias = problem((6, 2, 300), dtype)
    y = np.array([3, 250, 7, 0, 299, 8])
    counted = np.arange(6) != 2
    weight = np.ones(6) if zero == "sample_weight" else np.ones(300)
    weight[2 if zero == "sample_weight" else 7] = 0
    options = {zero: weight, "label_smoothing": smoothing, "bias": bias}
    targets = [y] if zero == "weight" else [y, np.eye(300, dtype=dtype)[y]]
    for given in targets:
        for reduction in REDUCTIONS:
            k = options | {"reduction": reduction}
            clean, clean_grads = sf.linear_softmax_loss_and_grad(features, weights, given, **k)
            spoilt = features.copy()
            spoilt[2] = garbage
            loss, grads = sf.linear_softmax_loss_and_grad(spoilt, weights, given, **k)
            oracle.assert_same_bits(loss, clean, reduction)
            for got, part in zip(grads, clean_grads, strict=True):
                oracle.assert_same_bits(got, part, reduction)
            assert not grads.features[2].any() and grads.features[counted].any()
            alone = sf.linear_softmax_loss(features, weights, given, **k)
            oracle.assert_same_bits(sf.linear_softmax_loss(spoilt, weights, given, **k), alone)
            if reduction == "none":
                assert loss[2] == 0 and loss[counted].all()


# Was wrong: these were 0 or infinite in float32, and the mean NaN.
@pytest.mark.parametrize("size", [1e-60, 1e-50, 1e40])
def test_weights_beyond_the_range_of_float32(size, way, isa):
    y = labels(6, 300)
    for targets, options in (
        (y, {"weight": (positive(300) + 0.1) * size}),
        (y, {"sample_weight": (positive(6) + 0.1) * size}),
        (y, {"weight": (positive(300) + 0.1) * size, "label_smoothing": 0.1}),
        (distributions((6, 300), np.float64) * size, {}),
    ):
        check((6, 2, 300), np.dtype(np.float32), targets, reductions=["mean"], **options)


# Was wrong: in tiles of classes, factors beyond float32 made gradients inf and NaN that were neither.
def test_a_row_of_huge_weight_in_tiles_of_classes(isa, monkeypatch):
    features = np.array([[30, 0]] * 2, np.float32)
    weights = np.zeros((4000, 2), np.float32)
    weights[0, 0] = 1
    options = {"sample_weight": [1e39, 1], "reduction": "sum", "bias": np.zeros(4000, np.float32)}
    _, whole = linear.linear_softmax_loss_and_grad(features, weights, [0, 0], **options)
    monkeypatch.setattr(linear, "BUFFER_BYTES", 1000)
    _, tiled = linear.linear_softmax_loss_and_grad(features, weights, [0, 0], **options)
    for a, b in zip(whole, tiled, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-5)


# Around a group, a panel, a block and a depth of the fused kernels of every instruction set, more
# blocks than chunks, weights in packs, and several slabs of rows.
FUSED_SHAPES = [
    *((n, 7, 13) for n in (1, 2, 7, 8, 9, 15, 17, 31, 33)),
    *((9, d, 29) for d in (0, 1, 2, 3, 5, 31, 33, 255, 257, 385, 1100, 1601)),
    *((9, 5, c) for c in (1, 2, 5, 6, 11, 12, 191, 192, 193, 385)),
    *((n, 2, 12_700) for n in (3, 9)),
    (2100, 3, 200),
    (20, 4, 9000),
]


@pytest.mark.parametrize("shape", FUSED_SHAPES, ids=str)
def test_around_every_edge_of_the_fused_kernels(shape, isa, dtype):
    if isa == "generic":
        pytest.skip("there are none")
    n, _, c = shape
    y = labels(n, c)
    check(shape, dtype, y, reductions=["mean"])
    options = {
        "label_smoothing": 0.1,
        "weight": positive(c) + 0.1,
        "temperature": positive(n) + 0.5,
    }
    check(shape, dtype, y, bias=False, reductions=["sum"], **options)
    if n * c < 10_000:
        check(shape, dtype, distributions((n, c), dtype), reductions=["mean"])


@pytest.mark.parametrize("shape", [(5, 300, 500), (40, 300, 500)], ids=str)
def test_bits_do_not_depend_on_strides_threads_or_other_rows(shape, isa, dtype):
    if isa == "generic":
        pytest.skip("BLAS chooses its own order of sums")
    features, weights, bias = problem(shape, dtype)
    y = labels(shape[0], shape[2])
    expected, grads = sf.linear_softmax_loss_and_grad(
        features, weights, y, bias=bias, reduction="none", n_threads=1
    )
    alone = sf.linear_softmax_loss(features, weights, y, bias=bias, reduction="none", n_threads=1)
    spread = np.repeat(np.repeat(features, 2, axis=1), 2, axis=0)[::2, ::2]
    for f, w, n_threads in (
        (np.asfortranarray(features), np.asfortranarray(weights), 2),
        (spread, weights[::-1].copy()[::-1], 3),
    ):
        k = {"bias": bias, "reduction": "none", "n_threads": n_threads}
        loss, others = sf.linear_softmax_loss_and_grad(f, w, y, **k)
        oracle.assert_same_bits(loss, expected)
        for got, same in zip(others, grads, strict=True):
            oracle.assert_same_bits(got, same)
        oracle.assert_same_bits(sf.linear_softmax_loss(f, w, y, **k), alone)
    order = np.arange(shape[0])[::-1]
    turned = sf.linear_softmax_loss(features[order], weights, y[order], bias=bias, reduction="none")
    oracle.assert_same_bits(turned[order], alone)


@pytest.mark.parametrize("rows", [3, 40])
def test_nonfinite_logits_mean_what_they_mean_to_softmax_loss(rows, isa, dtype):
    # of one feature that is 1, so that the logits are exact
    rng = generator(50)
    logits = np.round(rng.standard_normal(400) * 4).astype(dtype)
    weights, bias = logits[:, None], np.zeros(400, dtype)
    features = np.ones((rows, 1), dtype)
    y = labels(rows, 400)
    for value, places in (
        (-np.inf, [0, 7, 250]),
        (-np.inf, range(400)),
        (np.inf, [250]),
        (np.nan, [399]),
        (-np.inf, y[:2]),
    ):
        bias[...] = 0
        bias[list(places)] = value
        x = np.broadcast_to(logits + bias, (rows, 400))
        for targets, options in (
            (y, {}),
            (y, {"label_smoothing": 0.1}),
            (y, {"label_smoothing": 1.0}),
            (np.eye(400, dtype=dtype)[y], {}),
        ):
            options = {"reduction": "none", **options}
            expected, g = sf.softmax_loss_and_grad(x, targets, **options)
            loss, grads = sf.linear_softmax_loss_and_grad(
                features, weights, targets, bias=bias, **options
            )
            close = {"rtol": 64 * np.finfo(dtype).eps, "atol": 64 * np.finfo(dtype).eps}
            np.testing.assert_allclose(loss, expected, **close)
            with np.errstate(all="ignore"):
                sums = g.sum(axis=0, dtype=np.float64)
            np.testing.assert_allclose(grads.bias, sums, rtol=1e-4, atol=rows * 1e-5)
            alone = sf.linear_softmax_loss(features, weights, targets, bias=bias, **options)
            np.testing.assert_allclose(alone, expected, **close)


def test_small_losses_keep_their_digits_in_the_fused_kernels(isa, dtype):
    for rows in (2, 20):
        logits = np.full(300, -20.0, dtype)
        logits[250] = 0
        loss = sf.linear_softmax_loss(
            np.ones((rows, 1), dtype), logits[:, None], np.full(rows, 250), reduction="none"
        )
        np.testing.assert_allclose(
            loss, np.log1p(299 * np.exp(-20.0)), rtol=8 * np.finfo(dtype).eps
        )


def test_weights_of_halves_beside_float_features(isa):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for n, d in ((1, 33), (2, 7), (3, 70), (40, 70)):
        features, weights, bias = problem((n, d, 301), np.dtype(np.float32))
        for half in (np.float16, ml_dtypes.bfloat16):
            w = weights.astype(half)
            wide = w.astype(np.float32)
            y = labels(n, 301)
            got, grads = sf.linear_softmax_loss_and_grad(features, w, y, bias=bias)
            expected, others = sf.linear_softmax_loss_and_grad(features, wide, y, bias=bias)
            assert got == expected
            for a, b in zip(grads, others, strict=True):
                oracle.assert_same_bits(a, b)
            assert sf.linear_softmax_loss(features, w, y) == sf.linear_softmax_loss(
                features, wide, y
            )


def test_the_fused_kernels_take_sixteen_mebibytes_at_most(run_python):
    code = """
        import resource
        import numpy as np
        import softmax_fast as sf
        n, d, c = 1500, 1024, 9000
        rng = np.random.default_rng(0)
        features = rng.standard_normal((n, d), dtype=np.float32)
        weights = rng.standard_normal((c, d), dtype=np.float32) / 32
        y = np.zeros(n, np.int64)
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sf.linear_softmax_loss_and_grad(features[:9, :9], weights[:9, :9], y[:9])
        before = peak()
        sf.linear_softmax_loss(features, weights, y, n_threads=2)
        print(peak() - before)
        before = peak()
        sf.linear_softmax_loss_and_grad(features, weights, y, n_threads=2)
        print(peak() - before - (features.nbytes + weights.nbytes) // 1024)
    """
    pytest.importorskip("resource")
    if sf.show_config("dicts")["instruction set"]["in use"] == "generic":
        pytest.skip("there are none")
    for used in run_python(code).stdout.split():
        assert int(used) < 18 * 1024


# Was slow, by a factor of a hundred: products of subnormal gradients.
def test_gradients_that_would_be_subnormal_are_those_of_the_exact_logits(isa, dtype):
    logits = np.linspace(-1000 if dtype == np.float64 else -130, 0, 300).astype(dtype)
    options = {"reduction": "sum"}
    for targets in (np.full(20, 299), distributions((20, 300), dtype)):
        _, grads = sf.linear_softmax_loss_and_grad(
            np.ones((20, 1), dtype), logits[:, None], targets, **options
        )
        x = np.broadcast_to(logits, (20, 300)).astype(np.longdouble)
        exact = oracle.softmax_loss(x, targets, with_grad=True).grad.sum(axis=0)
        np.testing.assert_allclose(
            grads.weights[:, 0],
            exact.astype(np.float64),
            rtol=1e-4 if dtype == np.float32 else 1e-12,
            atol=20 * np.finfo(dtype).tiny,
        )


# Was slow where subnormals are: products of small gradients with features and weights are subnormal.
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradients_of_large_logits(size, bias, isa, dtype):
    n, d, c = 40, 64, 300
    features, weights, b = problem((n, d, c), dtype, bias)
    features *= dtype.type(size * (12 if dtype == np.float32 else 96))
    weights[::7] *= dtype.type(2.0**-20)
    y = labels(n, c)
    y[::2] = oracle.linear_logits(features, weights, b)[0][::2].argmax(axis=1)
    expected, moved = expected_loss(features, weights, b, y)
    _, grads = sf.linear_softmax_loss_and_grad(features, weights, y, bias=b)
    check_grads(grads, features, weights, b, expected, moved, "mean", dtype)


@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize(
    ("size", "weight"), [(1e38, 1.0), (1e25, 1e18), (1e-25, 1e-18), (1e-30, 1e-30)]
)
def test_probability_targets_whose_sums_float32_does_not_hold(size, weight, rows, isa):
    x, w = np.ones((rows, 1), np.float32), np.zeros((6, 1), np.float32)
    t, weights = np.full((rows, 6), size, np.float32), np.full(6, weight)
    expected, of_logits = sf.softmax_loss_and_grad(x @ w.T, t, weight=weights)
    loss, grads = sf.linear_softmax_loss_and_grad(
        x, w, t, bias=np.zeros(6, np.float32), weight=weights
    )
    close = {"rtol": 1e-6, "atol": 0}
    assert np.isclose(loss, expected, **close)
    assert np.isclose(sf.linear_softmax_loss(x, w, t, weight=weights), expected, **close)
    assert np.allclose(grads.bias, of_logits.sum(0), rtol=1e-5, atol=1e-6 * size * weight)


def test_one_class_with_smoothing_has_no_gradient(isa, dtype):
    x, w = np.ones((20, 3), dtype), np.ones((1, 3), dtype)
    _, grads = sf.linear_softmax_loss_and_grad(
        x, w, np.zeros(20, int), label_smoothing=0.1, reduction="none"
    )
    assert not grads.features.any() and not grads.weights.any()
