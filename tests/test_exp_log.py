"""The vector exp and log1p keep the errors stated beside them, in every lane of every kernel.

Stated: both within 1.5 ULP in every dtype they have, subnormal results included, exp for x <= 0
and log1p for x >= 0.
"""

import numpy as np
import oracle
from cases import NAN_BITS, generator

from softmax_fast import _core

EXP_ULP = 1.5
LOG1P_ULP = 1.5


def vector_exp(x):
    out = np.empty_like(x)
    _core._exp(x, out)
    return out


def vector_log1p(x):
    out = np.empty_like(x)
    _core._log1p(x, out)
    return out


def assert_ulp(function, exact_function, x, limit):
    # in runs of odd lengths, so that every lane and the tail see every kind of value
    got = np.concatenate([function(np.ascontiguousarray(part)) for part in np.array_split(x, 7)])
    with np.errstate(all="ignore"):
        exact = exact_function(oracle.widened(x))
        error = oracle.ulp_error(got, exact)
    # the reference is rounded too: half a unit of its own last place, 2**-11 or less of ours
    worst = int(np.argmax(error))
    assert (error <= limit + 2**-10).all(), f"{error[worst]:.3f} ULP at {x[worst]!r}"


def negative_arguments(dtype):
    """Dense where exp is hard: every binade, the multiples of log(2), the ends of the range."""
    rng = generator(50, dtype.itemsize)
    info = np.finfo(dtype)
    lowest = -np.log(float(info.smallest_subnormal))
    multiples = np.arange(0, int(lowest / np.log(2)) + 2) * np.log(2) / 2
    near = (multiples[:, None] + np.linspace(-1e-3, 1e-3, 101)).ravel()
    exactly = multiples.astype(dtype)
    beside = [exactly]
    for _ in range(4):
        beside += [np.nextafter(beside[-1], dtype.type(np.inf))]
    binades = 2.0 ** rng.uniform(info.minexp - info.nmant, 11, 100_000)
    x = np.concatenate(
        [
            -rng.uniform(0, lowest + 4, 400_000),
            -np.abs(near),
            -binades,
            *[-b.astype(np.float64) for b in beside],
            -np.linspace(lowest - 60, lowest + 3, 50_000),
            [0.0, -0.0, -float(info.tiny), -float(info.smallest_subnormal), -float(info.max)],
        ]
    ).astype(dtype)
    return x[x <= 0]


def test_exp_is_within_its_stated_error(isa, dtype):
    x = negative_arguments(dtype)
    generator(51).shuffle(x)
    assert_ulp(vector_exp, np.exp, x, EXP_ULP)


def test_exp_over_the_float32_numbers_of_its_range(isa):
    # every 997th of the 1.1e9 numbers between -0.0 and -104.5; run whole in benchmarks/accuracy.py
    last = int(np.float32(-104.5).view(np.uint32))
    x = np.arange(0x80000000, last, 997, dtype=np.uint32).view(np.float32)
    assert_ulp(vector_exp, np.exp, x, EXP_ULP)


def test_exp_of_zero_is_one_and_of_minus_infinity_zero(isa, dtype):
    for n in (1, 3, 16, 33):
        for value, expected in (
            (0.0, 1.0),
            (-0.0, 1.0),
            (-np.inf, 0.0),
            (np.finfo(dtype).min, 0.0),
        ):
            np.testing.assert_array_equal(
                vector_exp(np.full(n, value, dtype)), np.full(n, expected)
            )


def test_exp_never_exceeds_one(isa, dtype):
    x = -np.abs(negative_arguments(dtype))
    got = vector_exp(x)
    assert ((0 <= got) & (got <= 1)).all()


def test_exp_underflows_gradually(isa, dtype):
    info = np.finfo(dtype)
    x = np.linspace(
        np.log(float(info.smallest_subnormal)) + 1, np.log(float(info.tiny)), 101
    ).astype(dtype)
    got = vector_exp(x)
    assert (got > 0).all() and (got[:-1] < info.tiny).all()


def test_a_nan_stays_a_nan_in_every_lane(isa, dtype):
    for function in (vector_exp, vector_log1p):
        for pattern in NAN_BITS[dtype.name]:
            for lane in range(37):
                x = np.zeros(37, dtype)
                x.view(f"u{dtype.itemsize}")[lane] = pattern
                got = function(x)
                assert np.isnan(got[lane]) and np.isnan(got).sum() == 1, hex(pattern)


def test_lanes_and_lengths_do_not_change_a_value(isa, dtype):
    x = negative_arguments(dtype)[:200]
    whole = vector_exp(x)
    for start in range(33):
        for n in (1, 2, 7, 8, 15, 16, 17, 40):
            part = np.ascontiguousarray(x[start : start + n])
            oracle.assert_same_bits(vector_exp(part), whole[start : start + n], f"{start}, {n}")


def test_log1p_is_within_its_stated_error(isa, dtype):
    rng = generator(52)
    info = np.finfo(dtype)
    lowest, highest = info.minexp - info.nmant, info.maxexp
    x = np.concatenate(
        [
            2.0 ** rng.uniform(lowest, highest, 200_000),
            2.0 ** rng.uniform(-60, 30, 200_000),
            rng.uniform(0, 4, 200_000),
            np.arange(0, 5000.0),
            2.0 ** np.arange(lowest, highest),
            [0.0, float(info.max), float(info.tiny), float(info.smallest_subnormal), 1e6, 1e9],
        ]
    )
    # around the borders where 1 + x changes its exponent or its halves meet
    for border in np.concatenate([2.0 ** np.arange(-2, 21), np.sqrt(2) * 2.0 ** np.arange(-2, 21)]):
        x = np.concatenate([x, np.abs((border - 1) * (1 + np.linspace(-1e-9, 1e-9, 101)))])
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    x = x[np.isfinite(x)]
    rng.shuffle(x)
    assert_ulp(vector_log1p, np.log1p, x, LOG1P_ULP)


def test_log1p_at_its_ends(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    got = vector_log1p(np.array([0.0, tiny, np.inf], dtype))
    np.testing.assert_array_equal(got, [0.0, tiny, np.inf])


def test_masked_entries_give_exactly_0(isa, dtype):
    x = np.array([-np.inf, -np.finfo(dtype).max, -1e30, -2000.0] * 9, dtype)
    out = np.ones_like(x)
    _core._exp(x, out)
    assert (out == 0).all() and not np.signbit(out).any()
