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
)

import softmax_fast as sf

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
    e = (expected.grad_bound + np.reshape(moved, (-1, 1)) * total) * scale
    f, w = np.abs(features.astype(np.longdouble)), np.abs(weights.astype(np.longdouble))
    room_f = e @ w + (c + 2) * eps * (np.abs(g) @ w)
    room_w = e.T @ f + (n + 2) * eps * (np.abs(g).T @ f)
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
def test_every_combination_of_options(names, dtype):
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
