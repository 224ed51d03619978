"""softmax, log_softmax and logsumexp keep their error bounds for every row length and kind."""

import numpy as np
import oracle
import pytest
from cases import (
    LENGTH_GROUPS,
    TEMPERATURES,
    every_function,
    generator,
    kinds_block,
    logits,
    row_temperatures,
)

import softmax_fast as sf


def check(function, x, **options):
    lead = f"{function.__name__}, C={x.shape[-1]}, {x.dtype}, {options}"
    oracle.CHECKS[function.__name__](function(x, **options), x, context=lead, **options)


@every_function
@pytest.mark.parametrize("group", LENGTH_GROUPS)
def test_error_bound_holds_for_every_row_length(function, group, isa, dtype):
    for n_classes in LENGTH_GROUPS[group]:
        check(function, kinds_block(n_classes, dtype)[0])


@every_function
@pytest.mark.parametrize("group", list(LENGTH_GROUPS)[:-1])
def test_error_bound_holds_for_row_temperatures(function, group, isa, dtype):
    for n_classes in LENGTH_GROUPS[group][::3]:
        x, _ = kinds_block(n_classes, dtype)
        check(function, x, temperature=row_temperatures(len(x), n_classes))


@every_function
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_error_bound_holds_for_every_temperature(function, temperature, isa, dtype):
    for n_classes in (1, 7, 64, 1003, 4100):
        check(function, kinds_block(n_classes, dtype)[0], temperature=temperature)


@every_function
def test_error_does_not_grow_over_a_million_classes(function, isa, dtype):
    rng = generator(6, dtype.itemsize)
    x = rng.standard_normal((1, 1_000_000)).astype(dtype)
    check(function, x)
    check(function, np.full_like(x, 0.3))


@every_function
@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 8, 9, 63, 64, 65, 1000])
def test_error_bound_holds_for_every_number_of_rows(function, n_rows, isa, n_threads):
    for n_classes in (1, 2, 10, 33):
        x = logits((n_rows, n_classes), np.float32)
        oracle.CHECKS[function.__name__](function(x, n_threads=n_threads), x)


@every_function
def test_every_value_of_the_exponent_meets_the_bound(function, isa, dtype):
    # pairs (0, -d): the smallest row that shows exp over its whole range
    d = np.linspace(0, 110 if dtype == np.float32 else 760, 20_001)
    check(function, np.stack([np.zeros_like(d), -d], axis=-1).astype(dtype))


@every_function
def test_temperature_one_is_bit_identical_to_no_temperature(function, isa, dtype):
    x, _ = kinds_block(67, dtype)
    expected = function(x)
    oracle.assert_same_bits(function(x, temperature=1.0), expected)
    oracle.assert_same_bits(function(x, temperature=1), expected)
    oracle.assert_same_bits(function(x, temperature=np.ones(len(x))), expected)


@every_function
def test_one_temperature_equals_the_same_temperature_for_each_row(function, isa, dtype):
    x, _ = kinds_block(67, dtype)
    oracle.assert_same_bits(
        function(x, temperature=np.full(len(x), 0.7)), function(x, temperature=0.7)
    )


@every_function
def test_row_temperatures_broadcast_to_the_shape_of_the_rows(function):
    x = logits((3, 4, 5), np.float64)
    for temperature in (
        np.array([0.5, 1.0, 2.0, 4.0]),
        np.array([[0.5], [1.0], [2.0]]),
        np.array(0.5),
    ):
        check(function, x, temperature=temperature)
        check(function, x, temperature=temperature.tolist())
    check(function, x, temperature=np.array([0.5, 1, 2, 3, 4], np.float32), axis=1)


@every_function
@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-40, 1e300, 1.7e308])
def test_extreme_temperatures_keep_the_bound(function, temperature, isa, dtype):
    x = np.array([[0, 1, 1, -2.5], [-1, -1, -1, -1], [3, 2, -np.inf, 1]], dtype)
    check(function, x, temperature=temperature)


def rows_of_size(temperature, dtype, n_classes):
    """Rows of which a few classes lie within some temperatures of each other."""
    rows = np.stack([logits((n_classes,), np.float64, key) for key in range(5)])
    return (np.round(rows * 4) * temperature).astype(dtype)


# Was wrong: a subnormal T acted as 1.6e-308, softmax([0, 1e-307], temperature=1e-308) was 1.96e-3.
@every_function
@pytest.mark.parametrize("temperature", [5e-324, 1e-323, 5e-310, 1e-308, 2e-308, 1e-45, 3e-39])
def test_subnormal_temperatures_are_themselves(function, temperature, isa, dtype):
    for n_classes in (2, 33, 300):
        x = rows_of_size(max(temperature, np.finfo(dtype).smallest_subnormal), dtype, n_classes)
        check(function, x, temperature=temperature)
        check(function, x, temperature=np.full(len(x), temperature))
        check(function, x, temperature=np.array([1.0, temperature, 1e300, temperature, 0.7]))


@every_function
@pytest.mark.parametrize("temperature", [1.0, 10.0, 1e38, 1e308])
def test_a_spread_beyond_the_largest_number_keeps_the_bound(function, temperature, isa, dtype):
    # x - m overflows in the working precision, (x - m)/T need not
    largest = float(np.finfo(dtype).max)
    x = np.array([[largest, -largest, 0, 1], [0.75 * largest, -0.75 * largest, -1, 1]], dtype)
    check(function, x, temperature=temperature)


def test_logsumexp_keeps_the_tail_of_0_and_minus_40(isa):
    got = sf.logsumexp(np.array([0.0, -40.0]))
    exact = oracle.logsumexp(np.array([0.0, -40.0]))
    assert abs(got - exact) <= 4 * np.finfo(np.float64).eps * exact


def test_a_common_offset_costs_no_digits(isa, dtype):
    # integers, so that shifted and unshifted rows hold exactly the same differences
    x = generator(7).integers(-20, 20, (5, 100)).astype(dtype)
    offset = dtype.type(2**20 if dtype == np.float32 else 2**48)
    oracle.assert_same_bits(sf.softmax(x + offset), sf.softmax(x))
    oracle.assert_same_bits(sf.log_softmax(x + offset), sf.log_softmax(x))


def test_softmax_is_the_exponential_of_log_softmax(isa, dtype):
    x, _ = kinds_block(100, dtype)
    p, log_p = sf.softmax(x), sf.log_softmax(x)
    eps = np.finfo(dtype).eps
    d = oracle.rows_of(x).exponent
    with np.errstate(all="ignore"):
        relative = 4 + 0.5 * np.abs(d) + 4 * np.maximum(1, np.abs(log_p)) + np.abs(log_p)
        room = relative * eps * p + 4 * np.finfo(dtype).smallest_subnormal
        difference = np.abs(p - np.exp(log_p.astype(np.longdouble)))
    assert (difference[p > 0] <= room[p > 0]).all()


def test_probabilities_sum_to_one(isa, dtype):
    for n_classes in (1, 10, 1000, 5000):
        p = sf.softmax(logits((20, n_classes), dtype))
        assert (np.abs(p.sum(axis=-1, dtype=np.longdouble) - 1) <= 16 * np.finfo(dtype).eps).all()


def test_permuting_the_classes_permutes_the_result_within_the_bound(isa, dtype):
    x, _ = kinds_block(4097, dtype)
    order = generator(8).permutation(4097)
    oracle.check_softmax(sf.softmax(x[:, order])[:, np.argsort(order)], x)


def test_logsumexp_keepdims(dtype):
    x = logits((3, 4, 5), dtype)
    for axis in (-1, 0, 1):
        kept = sf.logsumexp(x, axis, keepdims=True)
        assert kept.shape == tuple(1 if i == axis % 3 else n for i, n in enumerate(x.shape))
        oracle.assert_same_bits(kept.squeeze(axis), sf.logsumexp(x, axis))


def test_one_dimensional_rows_and_scalar_results():
    x = np.array([1.0, 2.0, 3.0])
    assert sf.softmax(x).shape == (3,)
    got = sf.logsumexp(x)
    assert np.shape(got) == () and got.dtype == np.float64
    assert sf.logsumexp(x, keepdims=True).shape == (1,)


@every_function
@pytest.mark.parametrize("name", ["int8", "uint8", "int32", "uint64", "bool"])
def test_integers_are_read_as_float64(function, name):
    x = generator(9).integers(0, 2 if name == "bool" else 100, (4, 9)).astype(name)
    oracle.assert_same_bits(function(x), function(x.astype(np.float64)))
