"""The gradient equals (p * sum(t w) - t w)/T, scaled as the reduction is."""

import numpy as np
import oracle
import pytest
from cases import (
    LENGTH_GROUPS,
    REDUCTIONS,
    TEMPERATURES,
    distributions,
    every_combination_of_options,
    guarded_out,
    kinds_block,
    labels,
    logits,
    loss_options,
    positive,
    row_temperatures,
)

import softmax_fast as sf


def check(x, targets, reductions=REDUCTIONS, n_threads=None, **options):
    expected = oracle.softmax_loss(x, targets, with_grad=True, **options)
    dtype = oracle.result_dtype(x.dtype)
    for reduction in reductions:
        loss, grad = sf.softmax_loss_and_grad(
            x, targets, reduction=reduction, n_threads=n_threads, **options
        )
        context = f"C={x.shape[-1]}, {x.dtype}, {reduction}, {sorted(options)}"
        oracle.check_grad(grad, expected, reduction, dtype, context)
        oracle.check_loss(loss, expected, reduction, dtype, context)


@pytest.mark.parametrize("group", LENGTH_GROUPS)
def test_closed_form_for_every_row_length(group, isa, dtype):
    for n_classes in LENGTH_GROUPS[group]:
        x, _ = kinds_block(n_classes, dtype)
        check(x, labels(len(x), n_classes), ["none"])


@pytest.mark.parametrize("group", list(LENGTH_GROUPS)[:-1])
def test_closed_form_for_probability_targets(group, isa, dtype):
    for n_classes in LENGTH_GROUPS[group][::4]:
        x, _ = kinds_block(n_classes, dtype)
        check(x, distributions(x.shape, dtype), ["none"])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_carries_one_over_the_temperature(temperature, isa, dtype):
    for n_classes in (1, 7, 64, 1003, 4100):
        x, _ = kinds_block(n_classes, dtype)
        check(x, labels(len(x), n_classes), ["none"], temperature=temperature)


# Was wrong: with any T above 2**900 in the call, all gradients were 2**128 times too large.
@pytest.mark.parametrize(
    "temperature", [1e300, 2.0**901, 1.7e308, [1e300, 1.0, 0.7], [2.0, 1.7e308, 1e-3]], ids=str
)
def test_gradient_of_the_largest_temperatures(temperature, isa, dtype):
    for n_classes in (2, 33, 300, 2053):
        x, y = logits((3, n_classes), dtype), labels(3, n_classes)
        x[:, 0] += 1
        for scale in (1.0, float(np.finfo(dtype).max) / 64):
            for targets in (y, distributions(x.shape, dtype)):
                check(x * dtype.type(scale), targets, temperature=temperature)
        check(x, y, temperature=temperature, label_smoothing=0.1, weight=positive(n_classes))


# Was wrong: a subnormal T acted as 1.6e-308.
@pytest.mark.parametrize("temperature", [5e-324, 5e-310, 1e-308])
def test_gradient_of_subnormal_temperatures(temperature, isa, dtype):
    for n_classes in (2, 33, 300):
        x = (np.round(logits((5, n_classes), np.float64)) * temperature).astype(dtype)
        check(x, labels(5, n_classes), ["none"], temperature=temperature)


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


def test_every_axis_of_four(isa, dtype):
    x = logits((3, 4, 5, 6), dtype)
    for axis in range(-4, 4):
        rows = x.shape[: axis % 4] + x.shape[axis % 4 + 1 :]
        check(
            x, labels(rows, x.shape[axis]), axis=axis, temperature=row_temperatures(60)[: rows[-1]]
        )
        t = np.moveaxis(distributions((*rows, x.shape[axis]), dtype), -1, axis)
        check(x, t, axis=axis)


@pytest.mark.skipif(not oracle.REFERENCE_IS_WIDER, reason="longdouble is float64 here")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_finite_differences_of_the_reference_loss(reduction, isa):
    x = logits((4, 6), np.float64)
    y = np.array([1, -100, 5, 0])
    step = 1e-5
    for targets in (y, distributions((4, 6), np.float64)):
        for options in (
            {},
            {"temperature": np.array([0.5, 1.0, 2.0, 3.0])},
            {"weight": positive(6), "sample_weight": positive(4), "label_smoothing": 0.2},
        ):
            numeric = oracle.finite_difference(
                lambda z, t=targets, o=options: oracle.softmax_loss(z, t, **o).reduced(reduction),
                x,
                step,
            )
            _, grad = sf.softmax_loss_and_grad(x, targets, reduction=reduction, **options)
            # the third derivative is below 1/T^3 times the weights; T >= 0.5, w <= 2.1
            assert np.abs(grad - numeric).max() <= step**2 / 6 * 8 * 2.1**2 * 4


@pytest.mark.skipif(not oracle.REFERENCE_IS_WIDER, reason="longdouble is float64 here")
def test_the_loss_falls_along_the_gradient_as_the_gradient_says(isa):
    x, y = logits((16, 10), np.float64), labels(16, 10)
    _, grad = sf.softmax_loss_and_grad(x, y)
    step = np.longdouble(1e-6)
    forward, backward = (
        oracle.softmax_loss(x + sign * step * grad, y).reduced("mean") for sign in (1, -1)
    )
    slope = (forward - backward) / (2 * step)
    square = np.square(grad, dtype=np.longdouble).sum()
    assert abs(slope - square) <= 1e-10 * square


def test_rows_of_the_gradient_sum_to_zero(isa, dtype):
    x, y = logits((33, 100), dtype), labels(33, 100)
    _, grad = sf.softmax_loss_and_grad(x, y, reduction="sum")
    # C entries of size up to 1 whose errors add up
    assert np.abs(grad.sum(axis=-1, dtype=np.longdouble)).max() <= 16 * np.finfo(dtype).eps


def test_gradient_in_place_over_the_logits(isa, dtype, n_threads):
    for shape in ((1, 1), (5, 17), (64, 130), (3, 5000)):
        for targets in (labels(shape[0], shape[1]), distributions(shape, dtype)):
            x = logits(shape, dtype)
            loss, grad = sf.softmax_loss_and_grad(x, targets, n_threads=n_threads)
            place = x.copy()
            again, got = sf.softmax_loss_and_grad(
                place, targets, grad_out=place, n_threads=n_threads
            )
            assert got is place and again == loss
            oracle.assert_same_bits(place, grad, f"in place, {shape}")


def test_given_grad_out_is_returned_and_its_surroundings_are_left_alone(isa, dtype):
    for shape in ((1, 1), (5, 17), (64, 130), (3, 5000)):
        x, y = logits(shape, dtype), labels(shape[0], shape[1])
        out, intact = guarded_out(shape, dtype)
        _, got = sf.softmax_loss_and_grad(x, y, grad_out=out)
        assert got is out and intact()
        oracle.assert_same_bits(out, sf.softmax_loss_and_grad(x, y)[1])


def test_none_and_sum_give_the_same_gradient(isa, dtype):
    x, y = logits((33, 65), dtype), labels(33, 65)
    none = sf.softmax_loss_and_grad(x, y, reduction="none")[1]
    oracle.assert_same_bits(sf.softmax_loss_and_grad(x, y, reduction="sum")[1], none)


def test_gradient_of_zero_targets_is_zero(isa, dtype):
    x = logits((9, 30), dtype)
    _, grad = sf.softmax_loss_and_grad(x, np.zeros_like(x), reduction="sum")
    assert not grad.any()


def test_gradient_of_integer_logits_is_float64():
    x = np.arange(12).reshape(3, 4)
    loss, grad = sf.softmax_loss_and_grad(x, [0, 1, 2])
    expected, expected_grad = sf.softmax_loss_and_grad(x.astype(np.float64), [0, 1, 2])
    assert loss == expected
    oracle.assert_same_bits(grad, expected_grad)
