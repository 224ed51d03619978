"""cross_entropy on probabilities and the two binary losses, at both ends and between."""

import functools

import numpy as np
import oracle
import pytest
from cases import REDUCTIONS, SHORT, distributions, generator, labels, logits, positive

import softmax_fast as sf

LENGTHS = [1, 2, 7, 8, 9, 16, 33, 130, 2049]


def probabilities(shape, dtype):
    """Rows inside [0, 1] from one end to the other, not only of the usual size."""
    p = sf.softmax(logits(shape, np.float64, scale=12.0)).astype(dtype)
    p[0, 0] = 1
    return p


def check(p, targets, reductions=REDUCTIONS, **options):
    expected = oracle.cross_entropy(p, targets, **options)
    for reduction in reductions:
        got = sf.cross_entropy(p, targets, reduction=reduction, **options)
        context = f"{p.shape}, {p.dtype}, {reduction}, {sorted(options)}"
        oracle.check_loss(got, expected, reduction, oracle.result_dtype(p.dtype), context)


def test_cross_entropy_for_every_row_length(isa, dtype):
    for n_classes in [*SHORT, 2047, 2048, 2049, 5003]:
        p = probabilities((6, n_classes), dtype)
        check(p, labels(6, n_classes), ["none"])
        check(p, distributions(p.shape, dtype), ["none"])


@pytest.mark.parametrize("n_classes", LENGTHS)
def test_cross_entropy_options(n_classes, isa, dtype):
    p = probabilities((20, n_classes), dtype)
    y, t = labels(20, n_classes), distributions(p.shape, dtype)
    for options in (
        {},
        {"weight": positive(n_classes)},
        {"sample_weight": positive(20)},
        {"weight": positive(n_classes), "sample_weight": positive(20)},
    ):
        check(p, y, **options)
        check(p, t, **options)
        check(p, y, ignore_index=0, **options)
    check(p, y, ignore_index=None)


def test_cross_entropy_along_every_axis(isa, dtype):
    p = probabilities((60, 6), dtype).reshape(3, 4, 5, 6)
    for axis in range(-4, 4):
        rows = p.shape[: axis % 4] + p.shape[axis % 4 + 1 :]
        check(p, labels(rows, p.shape[axis]), axis=axis)
        t = np.moveaxis(distributions((*rows, p.shape[axis]), dtype), -1, axis)
        check(p, t, axis=axis)


def test_cross_entropy_at_both_ends(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    p = np.array([[0, 1, tiny], [1, 0, 0.5], [1 - np.finfo(dtype).epsneg, tiny, 0]], dtype)
    for y in ([0, 0, 0], [1, 1, 1], [2, 2, 2]):
        check(p, np.array(y))
    assert sf.cross_entropy(p, [0, 0, 0], reduction="none")[0] == np.inf
    t = np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0]], dtype)
    check(p, t)
    assert np.isfinite(sf.cross_entropy(p, t))


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("n_classes", [1, 3, 16, 33])
def test_a_zero_of_either_sign_has_infinite_loss(n_classes, zero, isa, dtype):
    p = np.full((3, n_classes), zero, dtype)
    y, t = np.arange(3) % n_classes, np.full((3, n_classes), 0.25, dtype)
    for targets in (y, t):
        assert (sf.cross_entropy(p, targets, reduction="none") == np.inf).all()
        assert sf.cross_entropy(p, targets) == np.inf
    assert (sf.binary_cross_entropy(p, t, reduction="none") == np.inf).all()
    assert sf.binary_cross_entropy(p, np.zeros_like(p)) == 0


def test_cross_entropy_of_softmax_is_the_softmax_loss_within_both_bounds(isa):
    x, y = logits((50, 40), np.float64), labels(50, 40)
    loss = sf.softmax_loss(x, y, reduction="none")
    d = np.abs(oracle.rows_of(x).exponent).max()
    room = (8 + 0.5 * d + 4 * np.maximum(1, loss)) * np.finfo(np.float64).eps
    assert (np.abs(sf.cross_entropy(sf.softmax(x), y, reduction="none") - loss) <= room).all()


@pytest.mark.parametrize("n_classes", [1, 16, 33, 2053])
def test_a_nan_probability_makes_its_row_nan_and_no_other(n_classes, isa, dtype):
    p = probabilities((5, n_classes), dtype)
    y, t = labels(5, n_classes), distributions(p.shape, dtype)
    clean, clean_t = (sf.cross_entropy(p, targets, reduction="none") for targets in (y, t))
    for position in {0, n_classes // 2, n_classes - 1}:
        q = p.copy()
        q[2, position] = np.nan
        for targets, before in ((y, clean), (t, clean_t)):
            got = sf.cross_entropy(q, targets, reduction="none")
            assert np.isnan(got[2]), f"NaN at {position}"
            oracle.assert_same_bits(got[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


@pytest.mark.parametrize("bad", [-1e-6, 1.0001, -np.inf, np.inf, 3.0])
@pytest.mark.parametrize("n_classes", [1, 16, 33, 2053])
def test_values_outside_the_unit_interval_point_to_the_function_of_logits(
    n_classes, bad, isa, dtype
):
    y = labels(5, n_classes)
    for position in {0, n_classes // 2, n_classes - 1}:
        p = probabilities((5, n_classes), dtype)
        p[2, position] = bad
        for targets in (y, distributions(p.shape, dtype)):
            with pytest.raises(ValueError, match="softmax_loss"):
                sf.cross_entropy(p, targets)
        ignored = y.copy()
        ignored[2] = -100
        assert np.isfinite(sf.cross_entropy(p, ignored, reduction="none")[2])


def test_cross_entropy_over_nothing():
    p = np.full((3, 4), 0.25)
    assert np.isnan(sf.cross_entropy(p, np.full(3, -100)))
    assert np.isnan(sf.cross_entropy(p[:0], np.empty(0, int)))
    assert sf.cross_entropy(p[:0], np.empty(0, int), reduction="sum") == 0
    with pytest.raises(ValueError, match="class"):
        sf.cross_entropy(np.empty((3, 0)), np.zeros(3, int))


# Binary losses


def check_binary(function, reference, values, targets, **options):
    expected = reference(values, targets, **options)
    dtype = oracle.result_dtype(values.dtype)
    for reduction in REDUCTIONS:
        got = function(values, targets, reduction=reduction, **options)
        context = (
            f"{function.__name__}, {values.shape}, {values.dtype}, {reduction}, {sorted(options)}"
        )
        oracle.check_loss(got, expected, reduction, dtype, context)


def check_probs(p, t, **options):
    check_binary(sf.binary_cross_entropy, oracle.binary_cross_entropy, p, t, **options)


def check_logits(x, t, **options):
    check_binary(
        sf.binary_cross_entropy_with_logits,
        oracle.binary_cross_entropy_with_logits,
        x,
        t,
        **options,
    )


def binary_targets(shape, dtype):
    """Zeros, ones and values between."""
    rng = generator(*np.atleast_1d(shape), 30)
    return np.clip(rng.random(shape) * 2 - 0.5, 0, 1).astype(dtype)


def test_binary_losses_for_every_length(isa, dtype):
    for n in [*SHORT, 2047, 2048, 2049, 5003]:
        t = binary_targets(n, dtype)
        check_probs(generator(n).random(n).astype(dtype), t)
        check_logits(logits((n,), dtype, scale=20), t)


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 33)])
def test_binary_options(shape, isa, dtype):
    t = binary_targets(shape, dtype)
    p = generator(*shape).random(shape).astype(dtype)
    x = logits(shape, dtype, scale=10)
    v = positive(shape)
    check_probs(p, t, sample_weight=v)
    temperature = 10 ** generator(*shape, 31).uniform(-2, 2, shape)
    for options in (
        {"temperature": 0.7},
        {"temperature": temperature},
        {"pos_weight": 2.5},
        {"pos_weight": positive(shape[-1])},
        {"sample_weight": v, "pos_weight": 0.0, "temperature": 3.0},
    ):
        check_logits(x, t, **options)


def test_binary_cross_entropy_at_both_ends(isa, dtype):
    info = np.finfo(dtype)
    p = np.array([0, 1, 0, 1, info.smallest_subnormal, 1 - info.epsneg, info.tiny, 0.5], dtype)
    t = np.array([0, 1, 1, 0, 1, 0, 0.5, 0.5], dtype)
    check_probs(p, t)
    loss = sf.binary_cross_entropy(p, t, reduction="none")
    assert loss[0] == loss[1] == 0 and loss[2] == loss[3] == np.inf


def test_binary_cross_entropy_with_logits_is_stable_at_both_ends(isa, dtype):
    largest = float(np.finfo(dtype).max)
    x = np.array(
        [0, 1e-30, 30, -30, 100, -100, 800, -800, largest, -largest, np.inf, -np.inf], dtype
    )
    for value in (0, 0.25, 1):
        check_logits(x, np.full(x.shape, value, dtype))
    # Sure and right: the tail is exp(-|x|), not 0
    room = (4 + 50) * np.finfo(dtype).eps
    tail = sf.binary_cross_entropy_with_logits(
        dtype.type([50, -50]), dtype.type([1, 0]), reduction="none"
    )
    assert (np.abs(tail - np.exp(-50.0)) <= room * np.exp(-50.0)).all()


def test_a_nan_makes_its_own_binary_loss_nan(isa, dtype):
    for n in (1, 16, 33, 2053):
        t = binary_targets(n, dtype)
        p, x = generator(n).random(n).astype(dtype), logits((n,), dtype)
        for position in {0, n // 2, n - 1}:
            q, z = p.copy(), x.copy()
            q[position] = z[position] = np.nan
            for got in (
                sf.binary_cross_entropy(q, t, reduction="none"),
                sf.binary_cross_entropy_with_logits(z, t, reduction="none"),
            ):
                assert np.isnan(got[position]) and np.isnan(got).sum() == 1


@pytest.mark.parametrize("bad", [-1e-6, 1.0001, -np.inf, np.inf])
def test_binary_probabilities_outside_the_unit_interval(bad, isa, dtype):
    for n in (1, 16, 33, 2053):
        for position in {0, n // 2, n - 1}:
            p = np.full(n, 0.5, dtype)
            p[position] = bad
            with pytest.raises(ValueError, match="binary_cross_entropy_with_logits"):
                sf.binary_cross_entropy(p, np.zeros(n, dtype))


BITS = ["bool", *(f"{sign}int{8 << k}" for sign in ("", "u") for k in range(4))]
BINARY = [sf.binary_cross_entropy, sf.binary_cross_entropy_with_logits]


@pytest.mark.parametrize("function", BINARY)
def test_targets_of_any_dtype_give_the_bits_of_their_values(function, isa, dtype):
    n = 1201
    p = generator(n).random(n).astype(dtype)
    t = generator(32).integers(0, 2, n)
    expected = function(p, t.astype(dtype), reduction="none")
    names = [*BITS, "float16", "float32"]
    for given in (t.astype(name) for name in names):
        for values in (given, np.repeat(given, 2)[::2], given.astype(given.dtype.newbyteorder())):
            oracle.assert_same_bits(function(p, values, reduction="none"), expected, given.dtype)
    halves = (t / 4 + 0.125).astype("float16")
    oracle.assert_same_bits(function(p, halves), function(p, halves.astype(dtype)))
    check_probs(p, t)


@pytest.mark.parametrize("name", BITS[1:])
def test_integers_that_are_no_targets_are_named(name, isa):
    info = np.iinfo(name)
    for bad in {2, info.min or 2, info.max, info.max // 2 + 1, 2 ** (info.bits // 2)}:
        for function in BINARY:
            for position in (0, 300, 599):
                t = np.ones(600, name)
                t[position] = bad
                with pytest.raises(ValueError, match=rf"^targets\[{position}\] = {bad} is not in"):
                    function(np.full(600, 0.5, np.float32), t)


@pytest.mark.parametrize("function", BINARY)
def test_any_byte_of_a_bool_target_but_0_is_true(function, isa, dtype):
    t = np.array([0, 5, 1, 255] * 75, np.uint8)
    p = np.linspace(0.1, 0.9, 300).astype(dtype)
    for values in (t.view(bool), np.repeat(t, 2).view(bool)[::2]):
        oracle.assert_same_bits(
            function(p, values, reduction="none"), function(p, t > 0, reduction="none")
        )


def test_binary_losses_of_no_elements():
    for function in (sf.binary_cross_entropy, sf.binary_cross_entropy_with_logits):
        empty = np.empty((0, 3))
        assert np.isnan(function(empty, empty))
        assert function(empty, empty, reduction="sum") == 0
        assert function(empty, empty, reduction="none").shape == (0, 3)


def test_binary_losses_of_strided_arrays(dtype):
    x = logits((12, 30), dtype)
    t = binary_targets((12, 30), dtype)
    for view in (np.s_[::2, ::3], np.s_[::-1, ::-1], np.s_[:, 5]):
        check_logits(x[view], t[view])
        check_probs(np.abs(np.tanh(x[view])), t[view])
    check_logits(np.asfortranarray(x), t)
    check_logits(x.T, t.T)


def test_a_small_probability_of_a_negative_keeps_its_digits(isa):
    p = np.array([1e-20, 1e-300, 0.25])
    got = sf.binary_cross_entropy(p, np.zeros(3), reduction="none")
    np.testing.assert_allclose(got, -np.log1p(-p), rtol=4 * np.finfo(np.float64).eps)


# Was wrong: with float32 a temperature for each entry divided otherwise than one for all, and than
# none: 336 of 1000 losses differed in their last bit.
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1e-3, 37.5])
def test_one_temperature_equals_the_same_temperature_for_each_entry(temperature, isa, dtype):
    x, t = logits((40, 33), dtype), distributions((40, 33), dtype)
    for options in ({}, {"sample_weight": t}, {"pos_weight": 2.0}):
        for reduction in REDUCTIONS:
            call = functools.partial(
                sf.binary_cross_entropy_with_logits, x, t, reduction=reduction, **options
            )
            expected = call(temperature=temperature)
            for given in (np.full(x.shape, temperature), np.full((1, 33), temperature)):
                oracle.assert_same_bits(call(temperature=given), expected, reduction)
            if temperature == 1:
                oracle.assert_same_bits(call(), expected, reduction)


# Was wrong: one extreme temperature took all entries of the call another way, and a subnormal one
# acted as 1.6e-308.
@pytest.mark.parametrize("other", [5e-324, 1e-310, 1e-299, 1e-31, 1e31, 1e280, 1e300, 1.7e308])
def test_extreme_temperatures_keep_the_bound_and_leave_other_entries_alone(other, isa, dtype):
    t = distributions((9, 33), dtype)
    temperature = np.where(np.arange(33) % 2, 0.7, other) * np.ones((9, 1))
    x = (np.round(logits((9, 33), np.float64)) * np.minimum(temperature, 1)).astype(dtype)
    got = sf.binary_cross_entropy_with_logits(x, t, temperature=temperature, reduction="none")
    expected = oracle.binary_cross_entropy_with_logits(x, t, temperature=temperature)
    oracle.check_loss(got, expected, "none", dtype)
    alone = sf.binary_cross_entropy_with_logits(x, t, temperature=0.7, reduction="none")
    oracle.assert_same_bits(got[:, 1::2], alone[:, 1::2])


# Was wrong: these were 0 or infinite in float32.
@pytest.mark.parametrize("size", [1e-60, 1e-50, 1e40])
def test_weights_and_targets_beyond_the_range_of_float32(size, isa):
    p = probabilities((20, 33), np.float32)
    y, t = labels(20, 33), distributions(p.shape, np.float64)
    p[p == 0] = 1e-30
    w, v = positive(33) + 0.1, positive(20) + 0.1
    for targets, options in (
        (y, {"weight": w * size}),
        (y, {"sample_weight": v * size}),
        (t * size, {}),
        (t, {"weight": w * size, "sample_weight": v / size}),
    ):
        check(p, targets, ["mean", "sum"], **options)
    x = logits(p.shape, np.float32)
    p = np.clip(p, 1e-6, 1 - 1e-6)
    for options in (
        {"sample_weight": np.full(p.shape, size)},
        {"pos_weight": np.full(p.shape, size)},
        {"pos_weight": size},
    ):
        expected = oracle.binary_cross_entropy_with_logits(x, t, **options)
        for reduction in ("mean", "sum"):
            got = sf.binary_cross_entropy_with_logits(x, t, reduction=reduction, **options)
            oracle.check_loss(got, expected, reduction, np.float32, f"{sorted(options)}")
        if "sample_weight" in options:
            expected = oracle.binary_cross_entropy(p, t, **options)
            got = sf.binary_cross_entropy(p, t, **options)
            oracle.check_loss(got, expected, "mean", np.float32)


# Was wrong: a target was rounded to float32 before it was looked at.
@pytest.mark.parametrize("target", [1 + 1e-12, -1e-50, np.nextafter(1, 2)])
def test_a_binary_target_just_outside_the_unit_interval(target, dtype):
    t = np.full((3, 4), 0.5)
    t[1, 2] = target
    for function in (sf.binary_cross_entropy, sf.binary_cross_entropy_with_logits):
        with pytest.raises(ValueError, match="targets"):
            function(np.full((3, 4), 0.5, dtype), t)


# Was wrong: 0 with float32.
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pos_weight", [0.0, 1e-60, 2.0])
def test_a_nan_is_a_nan_whatever_the_weight_of_positives(pos_weight, target, isa, dtype):
    x = logits((3, 33), dtype)
    x[1, ::4] = np.nan
    got = sf.binary_cross_entropy_with_logits(
        x, np.full_like(x, target), pos_weight=pos_weight, reduction="none"
    )
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
