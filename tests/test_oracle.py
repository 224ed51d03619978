"""The references are right: checked against mpmath at 400 digits and against math.fsum."""

import math

import mpmath
import numpy as np
import oracle
import pytest
from cases import distributions, generator, labels, logits, positive, row_kinds

needs_wide_reference = pytest.mark.skipif(
    not oracle.REFERENCE_IS_WIDER, reason="longdouble is float64 here"
)


@pytest.fixture(autouse=True)
def four_hundred_digits():
    # float64 reaches 1e308, and the tail of a sum beside it still counts
    with mpmath.workdps(400):
        yield


def exact_log_softmax(row, temperature):
    z = [mpmath.mpf(float(v)) / mpmath.mpf(float(temperature)) for v in row]
    log_sum = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in z))
    return [v - log_sum for v in z], log_sum


def assert_close(got, exact, eps):
    """Within a few of the reference's own roundings, relative to max(1, |exact|)."""
    for a, b in zip(np.ravel(got), exact, strict=True):
        if mpmath.isinf(b):
            assert np.isinf(a) and (a > 0) == (b > 0)
        else:
            a = mpmath.mpf(np.format_float_scientific(a, precision=40, unique=False))
            assert abs(a - b) <= eps * max(1, abs(b)), (a, b)


@needs_wide_reference
@pytest.mark.parametrize("temperature", [1.0, 0.37])
@pytest.mark.parametrize("n_classes", [1, 2, 37])
def test_softmax_references_agree_with_mpmath(n_classes, dtype, temperature):
    # float32 goes through float64; both leave at least eight bits below the tested precision
    eps = 8 * float(np.finfo(np.float64 if dtype == np.float32 else np.longdouble).eps)
    for name, row in row_kinds(n_classes, dtype).items():
        log_p, log_sum = exact_log_softmax(row, temperature)
        assert_close(oracle.log_softmax(row, temperature=temperature), log_p, eps)
        assert_close(oracle.logsumexp(row, temperature=temperature), [log_sum], eps), name
        d = oracle.rows_of(row, -1, temperature).exponent
        got = oracle.softmax(row, temperature=temperature)
        for a, b, exponent in zip(got, log_p, d, strict=True):
            relative = eps * (1 + abs(float(exponent)))
            exact = mpmath.exp(b)
            a = mpmath.mpf(np.format_float_scientific(a, precision=40, unique=False))
            # below float64's range the difference to the oracle cannot matter
            assert abs(a - exact) <= relative * exact + mpmath.mpf(10) ** -330 or exponent < -700


@needs_wide_reference
def test_loss_reference_agrees_with_mpmath():
    x = logits((5, 7), np.float64)
    t = distributions((5, 7), np.float64)
    w, v, alpha, temperature = positive(7), positive(5), 0.1, 1.7
    got = oracle.softmax_loss(
        x, t, weight=w, sample_weight=v, label_smoothing=alpha, temperature=temperature
    )
    exact = []
    for row, target, sample in zip(x, t, v, strict=True):
        log_p, _ = exact_log_softmax(row, temperature)
        exact.append(
            mpmath.fsum(
                -mpmath.mpf(float(sample))
                * mpmath.mpf(float(wc))
                * ((1 - mpmath.mpf(alpha)) * mpmath.mpf(float(tc)) + mpmath.mpf(alpha) / 7)
                * lp
                for lp, tc, wc in zip(log_p, target, w, strict=True)
            )
        )
    eps = 100 * float(np.finfo(np.longdouble).eps)
    assert_close(got.rows, exact, eps)
    assert_close(got.reduced("sum"), [mpmath.fsum(exact)], eps)


def test_long_sums_agree_with_fsum():
    x = generator(5).standard_normal(100_003)
    log_sum = math.log(math.fsum(math.exp(v) for v in x))
    assert abs(float(oracle.logsumexp(x)) - log_sum) <= 4 * np.finfo(np.float64).eps * log_sum


def test_dense_targets_of_labels_are_one_hot():
    y = np.array([2, -100, 0])
    x = logits((3, 4), np.float64)
    one_hot = np.zeros((3, 4))
    one_hot[[0, 2], [2, 0]] = 1
    by_label = oracle.softmax_loss(x, y, with_grad=True)
    by_probability = oracle.softmax_loss(x, one_hot, with_grad=True)
    np.testing.assert_array_equal(by_label.rows[[0, 2]], by_probability.rows[[0, 2]])
    np.testing.assert_array_equal(by_label.grad[[0, 2]], by_probability.grad[[0, 2]])
    assert by_label.rows[1] == 0 and not by_label.grad[1].any()
    assert by_label.denominator == 2


@needs_wide_reference
def test_gradient_reference_agrees_with_finite_differences():
    x = logits((3, 5), np.float64).astype(np.longdouble)
    y = labels((3,), 5)
    options = {"weight": positive(5), "label_smoothing": 0.2, "temperature": 0.8}
    grad = oracle.softmax_loss(x, y, with_grad=True, **options).grad
    numeric = oracle.finite_difference(
        lambda z: oracle.softmax_loss(z, y, **options).reduced("sum"), x, step=1e-6
    )
    assert np.abs(grad - numeric).max() < 1e-10  # the step's square times the third derivative


def test_shifting_a_target_of_zero_against_minus_infinity_contributes_nothing():
    x = np.array([[0.0, -np.inf, 1.0]])
    t = np.array([[0.5, 0.0, 0.5]])
    assert np.isfinite(oracle.softmax_loss(x, t).rows).all()
    assert oracle.softmax_loss(x, np.array([1])).rows[0] == np.inf
