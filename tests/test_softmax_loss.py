"""softmax_loss with every combination of its options keeps the row loss bound."""

import numpy as np
import oracle
import pytest
from cases import (
    LENGTH_GROUPS,
    REDUCTIONS,
    TEMPERATURES,
    distributions,
    every_combination_of_options,
    generator,
    kinds_block,
    labels,
    logits,
    loss_options,
    positive,
    row_temperatures,
)

import softmax_fast as sf


def check(x, targets, reductions=REDUCTIONS, n_threads=None, **options):
    expected = oracle.softmax_loss(x, targets, **options)
    dtype = oracle.result_dtype(x.dtype)
    for reduction in reductions:
        got = sf.softmax_loss(x, targets, reduction=reduction, n_threads=n_threads, **options)
        context = f"C={x.shape[-1]}, {x.dtype}, {reduction}, {sorted(options)}"
        oracle.check_loss(got, expected, reduction, dtype, context)


@pytest.mark.parametrize("group", LENGTH_GROUPS)
def test_error_bound_holds_for_every_row_length(group, isa, dtype):
    for n_classes in LENGTH_GROUPS[group]:
        x, _ = kinds_block(n_classes, dtype)
        check(x, labels(len(x), n_classes), ["none"])


@pytest.mark.parametrize("group", list(LENGTH_GROUPS)[:-1])
def test_error_bound_holds_for_probability_targets(group, isa, dtype):
    for n_classes in LENGTH_GROUPS[group][::4]:
        x, _ = kinds_block(n_classes, dtype)
        check(x, distributions(x.shape, dtype), ["none"])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_error_bound_holds_for_every_temperature(temperature, isa, dtype):
    for n_classes in (1, 7, 64, 1003, 4100):
        x, _ = kinds_block(n_classes, dtype)
        check(x, labels(len(x), n_classes), ["none"], temperature=temperature)


def test_error_bound_holds_for_the_label_at_every_position(isa, dtype):
    for n_classes in (1, 16, 33, 130):
        x = np.broadcast_to(logits((n_classes,), dtype), (n_classes, n_classes))
        check(x, np.arange(n_classes))
    x = np.broadcast_to(logits((5000,), dtype), (7, 5000))
    check(x, np.array([0, 1, 2047, 2048, 4095, 4096, 4999]))


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@every_combination_of_options
def test_every_combination_of_options(names, kind, isa, dtype):
    if kind == "probabilities" and "ignore_index" in names:
        return  # a ValueError: see test_errors.py
    for shape in ((1, 1), (5, 3), (33, 10), (9, 100), (4, 2500)):
        options = loss_options(names, shape)
        x = logits(shape, dtype)
        check(
            x,
            labels(shape[0], shape[1]) if kind == "labels" else distributions(shape, dtype),
            **options,
        )


@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 0.5, 1.0])
def test_label_smoothing_over_its_whole_range(smoothing, isa, dtype):
    x = logits((20, 37), dtype)
    check(x, labels(20, 37), label_smoothing=smoothing, weight=positive(37))
    check(x, distributions(x.shape, dtype), label_smoothing=smoothing, weight=positive(37))


def test_smoothing_of_zero_changes_no_bit(isa, dtype):
    x, y = logits((20, 37), dtype), labels(20, 37)
    for reduction in REDUCTIONS:
        expected = sf.softmax_loss(x, y, reduction=reduction)
        oracle.assert_same_bits(
            sf.softmax_loss(x, y, reduction=reduction, label_smoothing=0), expected
        )


def test_probability_targets_need_not_sum_to_one(isa, dtype):
    x = logits((9, 30), dtype)
    t = generator(10).random((9, 30)).astype(dtype)
    check(x, t)
    check(x, np.zeros_like(t))
    check(x, np.ones_like(t), label_smoothing=0.3)


def test_one_hot_targets_equal_labels_within_the_bound(isa, dtype):
    x, y = logits((20, 37), dtype), labels(20, 37)
    expected = oracle.softmax_loss(x, y)
    one_hot = np.eye(37, dtype=dtype)[y]
    for reduction in REDUCTIONS:
        oracle.check_loss(
            sf.softmax_loss(x, one_hot, reduction=reduction), expected, reduction, dtype
        )


@pytest.mark.parametrize(
    "name", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_every_integer_dtype_names_classes(name, isa):
    x, y = logits((50, 11), np.float32), labels(50, 11)
    for reduction in REDUCTIONS:
        oracle.assert_same_bits(
            sf.softmax_loss(x, y.astype(name), reduction=reduction),
            sf.softmax_loss(x, y, reduction=reduction),
        )


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_probability_targets_of_any_floating_dtype(name, isa, dtype):
    x = logits((9, 30), dtype)
    check(x, distributions(x.shape, np.float64).astype(name), weight=positive(30))


@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 3, 10**6, None])
def test_ignore_index_takes_any_integer(ignore_index, isa, dtype):
    x, y = logits((40, 7), dtype), labels(40, 7)
    if ignore_index is not None:
        y[[0, 17, 39]] = ignore_index
    check(x, y, ignore_index=ignore_index)
    check(x, y, ignore_index=ignore_index, weight=positive(7), sample_weight=positive(40))


def test_an_ignored_label_need_not_fit_its_dtype():
    x, y = logits((4, 3), np.float32), np.array([0, 1, 2, 1], np.uint8)
    check(x, y, ignore_index=-100)
    check(x, y, ignore_index=300)


def test_more_dimensions_and_every_axis(isa, dtype):
    x = logits((3, 4, 5, 6), dtype)
    for axis in range(-4, 4):
        rows = x.shape[: axis % 4] + x.shape[axis % 4 + 1 :]
        options = {"axis": axis, "weight": positive(x.shape[axis]), "sample_weight": positive(rows)}
        check(x, labels(rows, x.shape[axis]), **options)
        t = np.moveaxis(distributions((*rows, x.shape[axis]), dtype), -1, axis)
        check(x, t, **options)


def test_one_row_without_a_batch_dimension(isa, dtype):
    x = logits((9,), dtype)
    check(x, np.int64(4))
    check(x, 4)
    check(x, distributions((9,), dtype))
    assert np.shape(sf.softmax_loss(x, 4, reduction="none")) == ()


def test_loss_and_gradient_give_the_same_loss_as_the_loss_alone(isa, dtype):
    x, y = logits((33, 65), dtype), labels(33, 65)
    y[5] = -100
    t = distributions(x.shape, dtype)
    for targets, options in (
        (y, {}),
        (y, {"weight": positive(65), "sample_weight": positive(33), "label_smoothing": 0.1}),
        (y, {"temperature": row_temperatures(33)}),
        (t, {}),
        (t, {"weight": positive(65), "temperature": 2.0}),
    ):
        expected = oracle.softmax_loss(x, targets, **options)
        for reduction in REDUCTIONS:
            loss, _ = sf.softmax_loss_and_grad(x, targets, reduction=reduction, **options)
            oracle.check_loss(loss, expected, reduction, dtype, f"{reduction}, {sorted(options)}")


def test_row_losses_in_a_given_out(dtype):
    x, y = logits((33, 65), dtype), labels(33, 65)
    expected = sf.softmax_loss(x, y, reduction="none")
    out = np.empty(33, dtype)
    assert sf.softmax_loss(x, y, reduction="none", out=out) is out
    oracle.assert_same_bits(out, expected)
    spread = np.full(66, 7, dtype)
    assert sf.softmax_loss(x, y, reduction="none", out=spread[::2]) is not None
    oracle.assert_same_bits(spread[::2], expected)
    assert (spread[1::2] == 7).all()


def test_reduced_losses_of_float32_logits_are_sums_in_float64(isa):
    # 2**17 rows of the same loss: a float32 sum would be wrong in the third digit
    row = np.array([0.3, -1.2, 2.0], np.float32)
    x = np.broadcast_to(row, (2**17, 3))
    y = np.zeros(2**17, np.int64)
    exact = oracle.softmax_loss(row[None], y[:1]).rows[0]
    eps = np.finfo(np.float32).eps
    assert abs(sf.softmax_loss(x, y) - exact) <= 4 * eps * max(1, exact)
    assert abs(sf.softmax_loss(x, y, reduction="sum") / 2**17 - exact) <= 4 * eps * max(1, exact)


@pytest.mark.parametrize("margin", [1, 5, 10, 20, 30])
@pytest.mark.parametrize("n_classes", [2, 10, 100, 3000])
def test_small_losses_keep_their_digits(n_classes, margin, isa, dtype):
    # log1p of the sum without the maximum: relative, not absolute, accuracy of a confident row
    x = -(margin + generator(11, n_classes).random((8, n_classes)) * 3).astype(dtype)
    y = labels(8, n_classes)
    x[np.arange(8), y] = 0
    exact = oracle.softmax_loss(x, y).rows
    d = margin + 3
    room = (
        (4 + 0.5 * d) * np.finfo(dtype).eps * exact
    )  # that of the softmax entries that make it up
    oracle.assert_within(sf.softmax_loss(x, y, reduction="none"), exact, room, dtype)
    loss, _ = sf.softmax_loss_and_grad(x, y, reduction="none")
    oracle.assert_within(loss, exact, room, dtype)


@pytest.mark.parametrize("n_classes", [257, 1000, 2049])
def test_a_small_loss_keeps_its_digits_wherever_the_maximum_stands(n_classes, isa, dtype):
    # Long rows: the place is looked for among sixteen vectors, and its exponential taken out of a sum.
    places = np.unique(np.r_[0:n_classes:7, :40, n_classes - 40 : n_classes])
    x = -(12 + generator(12, n_classes).random((len(places), n_classes)) * 3).astype(dtype)
    x[np.arange(len(places)), places] = 0
    exact = oracle.softmax_loss(x, places).rows
    room = 12 * np.finfo(dtype).eps * exact
    oracle.assert_within(sf.softmax_loss(x, places, reduction="none"), exact, room, dtype)
    statistics = sf.row_statistics(x, places)
    assert (statistics.prediction == places).all()
    assert (statistics.loss.astype(dtype) == sf.softmax_loss(x, places, reduction="none")).all()
    x[:, n_classes // 2] = 0  # where the maximum stands already, nothing changes
    twice = oracle.softmax_loss(x, places).rows
    room = 4 * np.finfo(dtype).eps * np.maximum(1, twice)
    got = sf.softmax_loss(x, places, reduction="none")
    oracle.assert_within(
        got, twice, np.where(twice < 0.5, 12 * np.finfo(dtype).eps * twice, room), dtype
    )
    assert (sf.row_statistics(x).prediction == np.minimum(places, n_classes // 2)).all()


def test_a_larger_logit_at_the_label_never_raises_the_loss_beyond_rounding(isa, dtype):
    x = np.zeros((200, 10), dtype)
    x[:, 3] = np.linspace(-50, 50, 200)
    loss = sf.softmax_loss(x, np.full(200, 3), reduction="none").astype(np.float64)
    assert (np.diff(loss) <= 8 * np.finfo(dtype).eps * np.maximum(1, loss[1:])).all()


def test_weighted_losses_do_not_overflow_where_the_result_does_not(isa):
    x = np.array([[1e308, -1e308, 0.0]])
    halves = sf.softmax_loss(x, np.array([[0.5, 0.5, 0.0]]), reduction="sum")
    smoothed = sf.softmax_loss(x, np.array([0]), label_smoothing=0.1, reduction="sum")
    np.testing.assert_allclose([halves, smoothed], [1e308, 1e307], rtol=1e-14)


# Was wrong: a subnormal T acted as 1.6e-308.
@pytest.mark.parametrize("temperature", [5e-324, 1e-323, 5e-310, 1e-308])
def test_subnormal_temperatures_are_themselves(temperature, isa, dtype):
    for n_classes in (2, 33, 300):
        x = (np.round(logits((5, n_classes), np.float64)) * temperature).astype(dtype)
        y, t = labels(5, n_classes), distributions((5, n_classes), dtype)
        check(x, y, ["none"], temperature=temperature)
        check(x, t, ["none"], temperature=temperature, label_smoothing=0.1)
        indices = labels((5, 2), n_classes)
        exact = oracle.selected_log_probs(x, indices, temperature)
        got = sf.selected_log_probs(x, indices, temperature=temperature)
        oracle.assert_within(got, exact, oracle.log_softmax_bound(exact, dtype), dtype)


# Was wrong: the loss beside the gradient was infinite where softmax_loss gave 1.7e297.
@pytest.mark.parametrize("n_classes", [10, 192, 256, 257, 2053])
def test_the_loss_beside_a_gradient_does_not_overflow_where_the_result_does_not(n_classes, isa):
    x = np.zeros((3, n_classes))
    x[:, 0], x[:, 1], x[2] = 1.5e308, -1.5e308, x[2, ::-1]
    t = np.zeros_like(x)
    t[:, [0, 1]] = 1 - 1e-11, 1e-11
    for targets, options in ((np.array([0, 0, 0]), {"label_smoothing": 1e-9}), (t, {})):
        expected = oracle.softmax_loss(x, targets, **options)
        assert np.isfinite(expected.rows.astype(np.float64)).all()
        check(x, targets, **options)
        for reduction in REDUCTIONS:
            loss, _ = sf.softmax_loss_and_grad(x, targets, reduction=reduction, **options)
            oracle.check_loss(loss, expected, reduction, np.float64)


# Was wrong: these were 0 or infinite in float32, and the mean NaN.
@pytest.mark.parametrize("size", [1e-60, 1e-50, 1e40, 1e200])
@pytest.mark.parametrize("n_classes", [3, 33, 300])
def test_weights_and_targets_beyond_the_range_of_float32(n_classes, size, isa):
    x, y = logits((20, n_classes), np.float32), labels(20, n_classes)
    t = distributions(x.shape, np.float64)
    w, v = positive(n_classes) + 0.1, positive(20) + 0.1
    mixed = np.where(np.arange(20) % 3, v, v * size)
    for targets, options in (
        (y, {"weight": w * size}),
        (y, {"sample_weight": v * size}),
        (y, {"sample_weight": mixed}),
        (y, {"weight": w * size, "sample_weight": v / size, "label_smoothing": 0.1}),
        (t * size, {}),
        (t, {"weight": w * size}),
        (t, {"sample_weight": mixed, "label_smoothing": 0.1}),
        (t * size, {"weight": w / size}),
    ):
        expected = oracle.softmax_loss(x, targets, with_grad=True, **options)
        context = f"{targets.dtype}, {sorted(options)}"
        for reduction in ("mean", "sum"):
            got = sf.softmax_loss(x, targets, reduction=reduction, **options)
            oracle.check_loss(got, expected, reduction, np.float32, context)
            got, grad = sf.softmax_loss_and_grad(x, targets, reduction=reduction, **options)
            oracle.check_loss(got, expected, reduction, np.float32, context)
            oracle.check_grad(grad, expected, reduction, np.float32, context)


# Was wrong: sums of float32 targets or weights that overflow or vanish in float32 were NaN or 0.
@pytest.mark.parametrize("n_classes", [2, 256, 1000, 5000])
@pytest.mark.parametrize("size", [1e38, 1e36, 1e-40])
def test_sums_of_targets_beyond_the_range_of_float32(n_classes, size, isa):
    x = logits((3, n_classes), np.float32)
    t = np.full(x.shape, size, np.float32)
    expected = float(t[0, 0]) * -log_softmax_of(x).sum(axis=1)
    got = sf.softmax_loss(x, t, reduction="sum")
    np.testing.assert_allclose(got, expected.sum(), rtol=1e-5)
    loss, grad = sf.softmax_loss_and_grad(x, t, reduction="sum")
    assert loss == got
    p = np.exp(log_softmax_of(x))
    with np.errstate(over="ignore"):
        exact = (float(t[0, 0]) * (n_classes * p - 1)).astype(np.float32)
    np.testing.assert_allclose(grad, exact, rtol=1e-4, atol=size * n_classes * 1e-6)


def log_softmax_of(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


# Was wrong: a smoothing below the range of float32 left nothing of a masked class.
def test_the_smallest_smoothing_sees_a_masked_class(isa, dtype):
    x = np.array([[0, -np.inf]], dtype)
    assert sf.softmax_loss(x, [0], label_smoothing=1e-60) == np.inf
