"""float16 and bfloat16 are widened as they are loaded: results are those of the float32 values."""

import numpy as np
import oracle
import pytest
from cases import (
    MEANS,
    NAN_BITS,
    REDUCTIONS,
    ROW_FUNCTIONS,
    SHORT,
    TEMPERATURES,
    distributions,
    generator,
    labels,
    logits,
    positive,
    put_nan,
)

import softmax_fast as sf

HALVES = ["float16", "bfloat16"]


@pytest.fixture(params=HALVES)
def half(request):
    if request.param == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(request.param)


def test_every_function_gives_the_bits_of_the_widened_values(half, isa, n_threads):
    for n_rows, n_classes in [(3, n) for n in SHORT] + [(65, 10), (4, 2053), (2, 8191)]:
        x = logits((n_rows, n_classes), half)
        probs = generator(n_rows, n_classes).random(x.shape).astype(half)
        y = labels(n_rows, n_classes)
        wide = x.astype(np.float32), y, probs.astype(np.float32)
        for name, function in (ROW_FUNCTIONS | MEANS).items():
            got = function(x, y, probs, n_threads=n_threads)
            expected = function(*wide, n_threads=n_threads)
            oracle.assert_same_bits(got, expected, f"{name}, {n_rows}x{n_classes}")


def test_every_bit_pattern_is_widened_exactly(half, isa):
    # logsumexp of one class is the class itself: all 65536 values, subnormals and infinities too
    x = np.arange(2**16, dtype=np.uint16).view(half).reshape(-1, 1)
    expected = x.astype(np.float32)[:, 0]
    np.testing.assert_array_equal(sf.logsumexp(x), expected)
    row = np.arange(2**16, dtype=np.uint16)
    finite = row[np.isfinite(row.view(half).astype(np.float32))].view(half)
    oracle.check_log_softmax(sf.log_softmax(finite), finite)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_error_bounds(temperature, half, isa):
    for n_classes in (1, 10, 33, 5000):
        x = logits((7, n_classes), half)
        for name, check in oracle.CHECKS.items():
            check(getattr(sf, name)(x, temperature=temperature), x, temperature=temperature)


def test_loss_options(half, isa):
    x, y = logits((40, 33), half), labels(40, 33)
    y[3] = -100
    options = {
        "weight": positive(33),
        "sample_weight": positive(40),
        "label_smoothing": 0.1,
        "temperature": 1.7,
    }
    for targets in (
        y,
        distributions(x.shape, np.float32),
        distributions(x.shape, np.float32).astype(half),
    ):
        expected = oracle.softmax_loss(x, targets, with_grad=True, **options)
        for reduction in REDUCTIONS:
            loss, grad = sf.softmax_loss_and_grad(x, targets, reduction=reduction, **options)
            oracle.check_loss(loss, expected, reduction, np.float32)
            oracle.check_grad(grad, expected, reduction, np.float32)
            loss = sf.softmax_loss(x, targets, reduction=reduction, **options)
            oracle.check_loss(loss, expected, reduction, np.float32)


def test_a_nan_of_any_payload_makes_its_row_nan(half, isa):
    for n_classes in (1, 16, 33, 2053):
        clean = logits((3, n_classes), half)
        expected = sf.softmax(clean)
        for pattern in NAN_BITS[half.name]:
            for position in {0, n_classes // 2, n_classes - 1}:
                x = clean.copy()
                put_nan(x[1], position, pattern)
                p = sf.softmax(x)
                assert np.isnan(p[1]).all()
                oracle.assert_same_bits(p[[0, 2]], expected[[0, 2]])


def test_a_given_out_is_float32(half):
    x = logits((5, 9), half)
    out = np.empty((5, 9), np.float32)
    assert sf.softmax(x, out=out) is out
    oracle.assert_same_bits(out, sf.softmax(x))
    with pytest.raises((TypeError, ValueError), match="float32"):
        sf.softmax(x, out=np.empty((5, 9), half))
    with pytest.raises((TypeError, ValueError), match="float32"):
        sf.softmax(x, out=x)


def test_strides_and_axes(half, isa):
    x = logits((12, 14, 16), half)
    for view in (x, x[::2, ::-1, ::3], x.transpose(2, 0, 1), np.asfortranarray(x)):
        for axis in (0, 1, 2):
            oracle.assert_same_bits(
                sf.softmax(view, axis), sf.softmax(view.astype(np.float32), axis), f"axis {axis}"
            )


def test_linear_softmax_loss_of_halves(half):
    features = logits((20, 6), half)
    weights = logits((5, 6), half, key=1)
    y = labels(20, 5)
    wide = sf.linear_softmax_loss(features.astype(np.float32), weights.astype(np.float32), y)
    got = sf.linear_softmax_loss(features, weights, y)
    assert abs(got - wide) <= 64 * np.finfo(np.float32).eps * max(1, wide)
