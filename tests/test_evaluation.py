"""row_statistics, evaluate, Evaluator and Evaluation: their numbers, their edges, their sums."""

import copy
import dataclasses
import functools
import itertools
import json
import math
import pickle
import sys
import types

import ml_dtypes
import mpmath
import numpy as np
import pytest
from cases import generator, kinds_block, labels, logits, positive, scattered
from hypothesis import given, settings
from hypothesis import strategies as st

import softmax_fast as sf
from softmax_fast import Evaluator, _core, evaluate, row_statistics
from softmax_fast._evaluation_state import N_CELLS, cell_ends, edges_of

NAN, INF = math.nan, math.inf
BAD_ROWS = {"NaN": [0.0, NAN, 1.0], "+inf": [0.0, INF, 1.0], "all -inf": [-INF, -INF, -INF]}
every_bad_row = pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS)


def same(a, b, rel=1e-15):
    """Whether two evaluations, or their dicts, agree; counts exactly."""
    a, b = (e if isinstance(e, dict) else e.as_dict() for e in (a, b))
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            same(value, b[key], rel)
        elif isinstance(value, float):
            # Of a spread below 1e-8 of the mean, pairs of float64 keep fewer digits.
            mean = abs(a.get(key.removesuffix("_stderr"), 0.0)) if key.endswith("_stderr") else 0.0
            near_zero = 1e-17 * mean if rel and mean < INF else 0.0
            assert value == pytest.approx(b[key], rel=rel, abs=near_zero, nan_ok=True), key
        else:
            assert value == b[key], key


# What an evaluation says, row by row and sum by sum, from probabilities in float64


def oracle(x, y, *, temperature=1.0, weights=None, ignored=-100, n_bins=15, top_k=(1, 5)):
    """The means of rows that all have probabilities, of logits (N, C)."""
    n_classes = x.shape[1]
    rows = []
    for i, label in enumerate(y):
        v = 1.0 if weights is None else float(weights[i])
        if label == ignored or v == 0:
            continue
        z = [float(value) / temperature for value in x[i]]
        top = max(z)
        e = [math.exp(value - top) for value in z]
        total = math.fsum(e)
        p = [value / total for value in e]
        order = sorted(range(n_classes), key=lambda k, z=z: (-z[k], k))
        mean = math.fsum(a * b for a, b in zip(p, x[i].tolist(), strict=True))
        rows.append(
            {
                "v": v,
                "p": p,
                "y": int(label),
                "loss": top - z[label] + math.log(total),
                "rank": order.index(label),
                "confidence": p[order[0]],
                "entropy": -math.fsum(q * math.log(q) for q in p if q > 0),
                "brier": math.fsum((q - (k == label)) ** 2 for k, q in enumerate(p)),
                "slope": mean - float(x[i, label]),
                "curvature": math.fsum(
                    q * (value - mean) ** 2 for q, value in zip(p, x[i].tolist(), strict=True)
                ),
            }
        )
    n, weight = len(rows), math.fsum(r["v"] for r in rows)

    def total(f):
        return math.fsum(r["v"] * f(r) for r in rows)

    def mean(f):
        return total(f) / weight if n else NAN

    def stderr(f):
        if n < 2:
            return NAN
        m = mean(f)
        square = math.fsum((r["v"] * (f(r) - m)) ** 2 for r in rows)
        return math.sqrt(square) / weight * math.sqrt(n / (n - 1))

    edges = [i / n_bins for i in range(n_bins + 1)]

    def bin_of(q):
        return max(i for i in range(n_bins) if i == 0 or edges[i] < q)

    def hit(r):
        return float(r["rank"] == 0)

    gaps, spreads, in_bins = [0.0] * n_bins, [0.0] * n_bins, [0.0] * n_bins
    by_class = np.zeros((n_classes, n_bins))
    for r in rows:
        b = bin_of(r["confidence"])
        in_bins[b] += r["v"]
        gaps[b] += r["v"] * (hit(r) - r["confidence"])
        spreads[b] += r["v"] ** 2 * r["confidence"] * (1 - r["confidence"])
        for k, q in enumerate(r["p"]):
            by_class[k, bin_of(q)] += r["v"] * ((k == r["y"]) - q)
    filled = [(abs(g), w) for g, w in zip(gaps, in_bins, strict=True) if w]
    loss = mean(lambda r: r["loss"])
    return {
        "n": n,
        "n_ignored": len(y) - n,
        "weight_sum": weight,
        "loss": loss,
        "loss_stderr": stderr(lambda r: r["loss"]),
        "perplexity": math.exp(loss) if loss < math.log(sys.float_info.max) else loss * math.inf,
        "accuracy": mean(hit),
        "accuracy_stderr": stderr(hit),
        "top_k": {str(k): mean(lambda r, k=k: float(r["rank"] < k)) for k in top_k},
        "mean_reciprocal_rank": mean(lambda r: 1 / (1 + r["rank"])),
        "brier": mean(lambda r: r["brier"]),
        "brier_stderr": stderr(lambda r: r["brier"]),
        "entropy": mean(lambda r: r["entropy"]),
        "confidence": mean(lambda r: r["confidence"]),
        "ece": sum(g for g, _ in filled) / weight if n else NAN,
        "mce": max(g / w for g, w in filled) if n else NAN,
        "rms_ce": math.sqrt(sum(g * g / w for g, w in filled) / weight) if n else NAN,
        "ece_floor": math.sqrt(2 / math.pi) * sum(map(math.sqrt, spreads)) / weight if n else NAN,
        "classwise_ece": np.abs(by_class).sum() / n_classes / weight if n else NAN,
        "slope": total(lambda r: r["slope"]),
        "curvature": total(lambda r: r["curvature"]),
    }


def agrees(evaluation, expected, rel=1e-11, near_zero=1e-13):
    found = evaluation.as_dict()
    for key, value in expected.items():
        if key in ("slope", "curvature") or (key == "classwise_ece" and found[key] is None):
            continue
        if key == "top_k":
            assert found[key].keys() == value.keys()
            for k in value:
                assert found[key][k] == pytest.approx(value[k], rel=rel, nan_ok=True), k
        else:
            # What is nearly 0 is the difference of probabilities, or of losses.
            assert found[key] == pytest.approx(value, rel=rel, abs=near_zero, nan_ok=True), key


# Each row


def mp_row(x, y, t):
    """The statistics of a row as mpmath numbers."""
    with mpmath.workdps(340):
        z = [mpmath.mpf(float(v)) / mpmath.mpf(float(t)) for v in x]
        top = max(z)
        e = [mpmath.exp(v - top) for v in z]
        total = mpmath.fsum(e)
        p = [v / total for v in e]
        lse = top + mpmath.log(total)
        return {
            "logsumexp": lse,
            "confidence": max(p),
            "entropy": mpmath.fsum(q * (lse - v) for q, v in zip(p, z, strict=True) if q),
            "loss": lse - z[y],
            "brier": mpmath.fsum((q - (k == y)) ** 2 for k, q in enumerate(p)),
        }


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("n_classes", [1, 3, 17, 130])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 7.0])
def test_row_statistics_agree_with_mpmath(dtype, n_classes, temperature):
    x, names = kinds_block(n_classes, dtype)
    y = labels(len(x), n_classes)
    found = row_statistics(x, y, temperature=temperature)
    eps = np.finfo(dtype).eps
    rel = 4 * eps if dtype == np.float32 else 1e-12
    for i, name in enumerate(names):
        # Of two terms that cancel there remains the error of the terms.
        top = float(x[i].max()) / temperature
        near_zero = {"logsumexp": abs(top), "brier": 1.0}
        if not math.isfinite(top):
            continue
        for key, value in mp_row(x[i], y[i], temperature).items():
            got = float(getattr(found, key)[i])
            if value > float(np.finfo(dtype).max):
                assert got == INF, (name, key)
                continue
            error = abs(mpmath.mpf(got) - value)
            bound = rel * abs(value) + 2 * eps * near_zero.get(key, 0)
            assert error <= bound + np.finfo(dtype).tiny, (name, key)
        order = np.lexsort((np.arange(n_classes), -x[i].astype(np.float64)))
        assert found.prediction[i] == order[0] == x[i].argmax()
        assert found.rank[i] == np.flatnonzero(order == y[i])[0], name


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_row_statistics_are_those_of_the_other_functions(dtype):
    x, y = logits((50, 40), dtype), labels(50, 40)
    found = row_statistics(x, y, temperature=0.6)
    near = {"rtol": 1e-5 if dtype == np.float32 else 1e-12, "atol": 0}
    p = sf.softmax(x, temperature=0.6)
    np.testing.assert_allclose(found.confidence, p.max(axis=1), **near)
    np.testing.assert_allclose(found.logsumexp, sf.logsumexp(x, temperature=0.6), **near)
    losses = sf.softmax_loss(x, y, temperature=0.6, reduction="none")
    np.testing.assert_array_equal(found.loss, losses)


def test_row_statistics_have_the_shape_of_the_rows_and_the_dtypes_of_softmax():
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int32, bool):
        x = (np.arange(24).reshape(2, 4, 3) % 5 * 0.5).astype(dtype)
        y = np.array([[0, 1, 3], [3, 2, 1]], np.uint8)
        found = row_statistics(x, y, axis=1)
        for name, values in found._asdict().items():
            integer = name in ("prediction", "rank")
            assert values.dtype == (np.int64 if integer else sf.softmax(x).dtype), name
            assert values.shape == (2, 3)
        last = row_statistics(np.ascontiguousarray(np.moveaxis(x, 1, -1)), y)
        for a, b in zip(found, last, strict=True):
            np.testing.assert_array_equal(a, b)


def test_row_statistics_of_one_row_are_scalars_and_of_none_empty():
    found = row_statistics([1.0, 3.0, 2.0], 2)
    assert all(np.ndim(v) == 0 for v in found)
    assert (found.prediction, found.rank) == (1, 1)
    empty = row_statistics(np.empty((0, 4), np.float32), np.empty(0, int))
    assert [v.shape for v in empty] == [(0,)] * 7
    assert empty.loss.dtype == np.float32


def test_row_statistics_without_labels_are_the_same_but_for_three():
    x = logits((20, 7), np.float32)
    with_labels, without = row_statistics(x, labels(20, 7)), row_statistics(x)
    assert without[4:] == (None, None, None)
    for a, b in zip(with_labels[:4], without[:4], strict=True):
        np.testing.assert_array_equal(a, b)


def test_row_statistics_take_a_temperature_a_row():
    x, y = logits((6, 5), np.float64), labels(6, 5)
    t = np.array([0.1, 0.5, 1.0, 2.0, 10.0, 1e5])
    found = row_statistics(x, y, temperature=t)
    for i in range(6):
        alone = row_statistics(x[i], y[i], temperature=t[i])
        for a, b in zip(found, alone, strict=True):
            assert a[i] == b


@every_bad_row
def test_a_row_without_probabilities(bad):
    found = row_statistics(np.array([bad, [0.0, 1.0, 2.0]]), [1, 2])
    assert found.prediction.tolist() == [-1, 2]
    assert found.rank.tolist() == [3, 0]
    for name in ("confidence", "entropy", "loss", "brier"):
        assert np.isnan(getattr(found, name)).tolist() == [True, False], name
    expected = sf.logsumexp([bad, [0.0, 1.0, 2.0]])
    np.testing.assert_allclose(found.logsumexp, expected, rtol=1e-15, equal_nan=True)


def test_an_ignored_row_keeps_what_needs_no_label():
    x = np.array([[0.0, 1.0, 2.0], [0.0, NAN, 0.0]])
    found, without = row_statistics(x, [-100, -100]), row_statistics(x)
    assert found.loss.tolist() == found.brier.tolist() == [0, 0]
    assert found.rank.tolist() == [-1, -1]
    for a, b in zip(found[:4], without[:4], strict=True):
        np.testing.assert_array_equal(a, b)


def test_masked_logits_have_no_share_and_a_masked_label_an_infinite_loss():
    x = np.array([[1.0, -INF, 2.0, -INF], [1.0, -INF, 2.0, -INF]])
    found, short = row_statistics(x, [0, 3]), row_statistics(x[:, ::2], [0, 1])
    for name in ("logsumexp", "confidence", "entropy"):
        np.testing.assert_allclose(getattr(found, name), getattr(short, name), rtol=1e-15)
    assert found.loss[1] == INF
    assert found.rank.tolist() == [1, 3]
    assert found.brier[1] == pytest.approx((found.confidence[1] ** 2) * (1 + math.exp(-2)) + 1)


def test_of_equal_logits_the_lowest_class_comes_first():
    x = np.zeros((4, 4))
    found = row_statistics(x, [0, 1, 2, 3])
    assert found.prediction.tolist() == [0] * 4
    assert found.rank.tolist() == [0, 1, 2, 3]
    result = evaluate(x, [0, 1, 2, 3], top_k=(1, 2, 3))
    assert result.top_k == {1: 0.25, 2: 0.5, 3: 0.75}
    assert result.accuracy == 0.25
    assert result.mean_reciprocal_rank == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [*range(1, 40), 192, 256, 257, 1030, 2049, 4200])
def test_ranks_and_predictions_are_exact_where_many_logits_are_equal(dtype, n_classes):
    n = 40
    rng = generator(n_classes)
    x = np.round(rng.standard_normal((n, n_classes))).astype(dtype)
    x[rng.random(x.shape) < 0.2] = -INF
    y = rng.integers(n_classes, size=n)
    x[np.arange(n), rng.integers(n_classes, size=n)] = 1
    x[:8, n_classes // 2] = 7  # one maximum, before or after the label
    at_label = x[np.arange(n), y][:, None]
    is_earlier = np.arange(n_classes) < y[:, None]
    found = row_statistics(x, y)
    expected = (x > at_label).sum(axis=1) + ((x == at_label) & is_earlier).sum(axis=1)
    np.testing.assert_array_equal(found.rank, expected)
    np.testing.assert_array_equal(found.prediction, x.argmax(axis=1))
    assert evaluate(x, y).mean_reciprocal_rank == pytest.approx((1 / (1 + expected)).mean())


@pytest.mark.parametrize("n_classes", [1, 5, 40, 300, 5000])
@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-300, 1e300, 1.7e308])
def test_ranks_and_predictions_are_those_of_the_logits_at_any_temperature(
    n_classes, temperature, dtype, isa
):
    """Of quotients beyond the range or below the least number many are equal."""
    rng = generator(n_classes)
    for scale in (1e-300, 1e-30, 1.0, 1e30, 1e300):
        x = np.round(4 * rng.standard_normal((9, n_classes))) * min(
            scale, float(np.finfo(dtype).max) / 64
        )
        x = x.astype(dtype)
        x[rng.random(x.shape) < 0.2] = -INF
        x[:, n_classes // 2] = 0
        if n_classes > 2:
            x[7, n_classes - 1], x[8, 0] = NAN, INF
        y = rng.integers(n_classes, size=9)
        y[6] = -100
        found = row_statistics(x, y, temperature=temperature)
        one = row_statistics(x, y)
        np.testing.assert_array_equal(found.rank, one.rank)
        np.testing.assert_array_equal(found.prediction, one.prediction)
        without = row_statistics(x, temperature=temperature)
        np.testing.assert_array_equal(without.prediction, one.prediction)


@pytest.mark.parametrize("n_classes", [3, 300])
def test_masked_classes_add_nothing_at_all(n_classes):
    """Rows that are constant but for what is masked have neither slope nor curvature."""
    x = np.full((5, n_classes), -INF, np.float32)
    x[:, -2:] = 3
    assert evaluate(x, np.full(5, n_classes - 1)).temperature_hint == 1
    assert row_statistics(x).entropy == pytest.approx(math.log(2))
    x[:, -1] = -INF
    assert row_statistics(x).entropy.tolist() == [0] * 5


# All rows


@st.composite
def problems(draw):
    n, c = draw(st.integers(0, 30)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((n, c)) * draw(st.sampled_from([0.1, 1, 5, 40]))
    if draw(st.booleans()):
        x = np.round(x)  # ties
    x = x.astype(draw(st.sampled_from([np.float64, np.float32, np.float16])))
    y = rng.integers(c, size=n)
    ignored = draw(st.sampled_from([-100, 0, None]))
    if ignored == -100:
        y[rng.random(n) < 0.2] = -100
    weights = draw(st.sampled_from([None, "some zero", "wide"]))
    if weights is not None:
        zero = rng.random(n) < 0.2
        weights = rng.random(n) if weights == "some zero" else 10 ** rng.uniform(-6, 6, n)
        weights[zero] = 0
    return x, y, weights, ignored


@settings(deadline=None, max_examples=60)
@given(
    problems(),
    st.floats(0.05, 20),
    st.integers(1, 20),
    st.sets(st.integers(1, 15), min_size=1, max_size=3),
    st.booleans(),
    st.integers(1, 10),
)
def test_an_evaluation_agrees_with_the_oracle(problem, temperature, n_bins, top_k, classwise, step):
    x, y, weights, ignored = problem
    options = {
        "temperature": temperature,
        "n_bins": n_bins,
        "top_k": sorted(top_k),
        "classwise": classwise,
        "ignore_index": ignored,
    }
    expected = oracle(
        x,
        y,
        temperature=temperature,
        weights=weights,
        ignored=ignored,
        n_bins=n_bins,
        top_k=sorted(top_k),
    )
    # A probability at a bin's edge may round to either side of it.
    p = sf.softmax(x.astype(np.float64), temperature=temperature)
    p = p if classwise else p.max(axis=1)
    exact = x.dtype == np.float64  # others have exponentials of float32
    near_edge = np.abs(p * n_bins - np.round(p * n_bins)) < (1e-9 if exact else 1e-4)
    if (near_edge & (p > 1e-6) & (p < 1)).any():
        for key in ("ece", "mce", "rms_ce", "ece_floor", "classwise_ece"):
            del expected[key]
    whole = evaluate(x, y, sample_weight=weights, **options)
    agrees(whole, expected, **({} if exact else {"rel": 3e-6, "near_zero": 3e-6}))
    assert (whole.classwise_ece is None) is not classwise

    pieces = Evaluator(**options)
    for i in range(0, len(x), step):
        w = None if weights is None else weights[i : i + step]
        pieces.update(x[i : i + step], y[i : i + step], sample_weight=w)
    if len(x):
        same(pieces.result(), whole)


def test_the_order_of_rows_pieces_and_merges_changes_nothing():
    n, c = 3000, 11
    x, y = logits((n, c), np.float32, scale=4.0), labels(n, c)
    weights = 10 ** generator(n).uniform(-8, 8, n)
    for w in (None, weights):
        expected = evaluate(x, y, sample_weight=w, classwise=True)
        for seed in range(3):
            rng = np.random.default_rng(seed)
            order = rng.permutation(n)
            cuts = np.sort(rng.choice(n, 7, replace=False))
            parts = [
                Evaluator(classwise=True).update(
                    x[rows], y[rows], sample_weight=None if w is None else w[rows]
                )
                for rows in np.split(order, cuts)
            ]
            while len(parts) > 1:  # a tree of merges, in any order
                one = parts.pop(rng.integers(len(parts)))
                other = parts.pop(rng.integers(len(parts)))
                parts.append(one + other)
            found = parts[0].result()
            same(found, expected)
            for strategy in ("uniform", "quantile"):
                for a, b in zip(
                    found.reliability(strategy=strategy),
                    expected.reliability(strategy=strategy),
                    strict=True,
                ):
                    np.testing.assert_allclose(a, b, rtol=4e-15, equal_nan=True)


def test_sums_that_cancel_do_not_depend_on_the_order_either():
    """Slopes of both signs, of which the hint's sum keeps almost nothing."""
    x = np.zeros((2000, 2))
    x[:, 0] = np.tile([3.0, -3.0], 1000) * generator(1).random(2000)
    x[1000:] = -x[:1000]
    y = np.zeros(2000, int)
    expected = evaluate(x, y)
    order = generator(2).permutation(2000)
    found = Evaluator()
    for rows in np.split(order, 50):
        found.update(x[rows], y[rows])
    same(found.result(), expected)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_change_no_bit(n_threads):
    x, y = logits((700, 300), np.float32), labels(700, 300)
    same(evaluate(x, y, n_threads=n_threads, classwise=True), evaluate(x, y, classwise=True), rel=0)


def test_axis_and_strides_change_nothing():
    x, y = logits((24, 9), np.float64), labels(24, 9)
    w = positive(24)
    expected = evaluate(x, y, sample_weight=w, classwise=True)
    box = x.reshape(4, 6, 9)
    for view, axis in (
        (box, -1),
        (np.moveaxis(box, -1, 0), 0),
        (np.moveaxis(box, -1, 1).copy(), 1),
    ):
        same(
            evaluate(
                view,
                y.reshape(4, 6),
                axis=axis,
                sample_weight=w.reshape(4, 6),
                classwise=True,
            ),
            expected,
        )
    spread = scattered(x)
    shape = spread.shape[:-1]
    same(
        evaluate(spread, y.reshape(shape), sample_weight=w.reshape(shape), classwise=True),
        expected,
    )
    one = evaluate(x[0], y[0], classwise=True)
    same(one, evaluate(x[:1], y[:1], classwise=True))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_width_logits_are_their_values(dtype):
    x, y = logits((40, 6), np.float32).astype(dtype), labels(40, 6)
    found, wide = (evaluate(a, y, classwise=True) for a in (x, x.astype(np.float64)))
    agrees(found, {k: v for k, v in wide.as_dict().items() if isinstance(v, float)}, rel=1e-6)


def test_whole_weights_are_repeated_rows_but_for_the_standard_errors():
    x, y = logits((60, 8), np.float64), labels(60, 8)
    times = generator(60).integers(0, 4, 60)
    found = evaluate(x, y, sample_weight=times, classwise=True).as_dict()
    expected = evaluate(x.repeat(times, axis=0), y.repeat(times), classwise=True).as_dict()
    assert found["n"] == np.count_nonzero(times)
    assert found["n_ignored"] == np.count_nonzero(times == 0)
    other = ("n", "n_ignored", "ece_floor", "loss_stderr", "accuracy_stderr", "brier_stderr")
    for d in (found, expected):
        for key in other:
            del d[key]
    same(found, expected, rel=1e-13)


@pytest.mark.parametrize("factor", [1e30, 1e-160, 1e-300, 1e300])
def test_a_factor_of_all_weights_changes_only_their_sum(factor):
    """The squares of the weights may be beyond float64."""
    x, y, w = logits((60, 8), np.float64), labels(60, 8), positive(60)
    results = [evaluate(x, y, sample_weight=f * w, classwise=True) for f in (1.0, factor)]
    for strategy in ("uniform", "quantile"):
        one, other = (r.reliability(strategy=strategy) for r in results)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    one, other = (r.as_dict() for r in results)
    assert other.pop("weight_sum") == pytest.approx(factor * one.pop("weight_sum"))
    same(one, other, rel=1e-12)


# Were NaN: standard errors where a row that is left out had a weight of 1e200.
@pytest.mark.parametrize("factor", [1.0, 1e-200])
def test_weights_of_ignored_rows_say_nothing(factor):
    x, y, w = logits((60, 8), np.float64), labels(60, 8), positive(60)
    y[::5] = -100
    other = np.where(y < 0, 1e200, factor * w)
    one, other = (evaluate(x, y, sample_weight=v, classwise=True).as_dict() for v in (w, other))
    assert other.pop("weight_sum") == pytest.approx(factor * one.pop("weight_sum"))
    same(one, other, rel=1e-12)


# Were NaN: standard errors and intervals where a row that is omitted had a weight of 1e200.
def test_weights_of_omitted_rows_say_nothing():
    x, y, w = logits((60, 8), np.float64), labels(60, 8), positive(60)
    expected = evaluate(x[:50], y[:50], sample_weight=w[:50], classwise=True)
    x[50:, 3] = NAN
    options = {"nan_policy": "omit", "classwise": True}
    w = np.where(np.arange(60) < 50, 1e-200 * w, 1e200)
    parts = [
        Evaluator(**options).update(x[i:j], y[i:j], sample_weight=w[i:j])
        for i, j in ((0, 50), (50, 60))
    ]
    for found in (
        evaluate(x, y, sample_weight=w, **options),
        (parts[0] + parts[1]).result(),
        (parts[1] + parts[0]).result(),
    ):
        for a, b in zip(found.reliability(), expected.reliability(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        one, other = found.as_dict(), expected.as_dict()
        assert one.pop("n_nonfinite") == 10 and other.pop("n_nonfinite") == 0
        assert one.pop("weight_sum") == pytest.approx(1e-200 * other.pop("weight_sum"))
        del one["first_nonfinite"], other["first_nonfinite"]
        same(one, other, rel=1e-12)


# Were NaN: of such a bin confidence, accuracy and interval.
def test_a_bin_whose_weight_vanishes_beside_others_shows_its_rows():
    x, y, w = np.log([[0.99, 0.01], [0.6, 0.4]]), [0, 1], [1e-300, 1e100]
    parts = [
        Evaluator().update(x[i : i + 1], y[i : i + 1], sample_weight=w[i : i + 1]) for i in (0, 1)
    ]
    alone = parts[0].result().reliability()
    for found in (
        evaluate(x, y, sample_weight=w),
        (parts[0] + parts[1]).result(),
        (parts[1] + parts[0]).result(),
    ):
        bins = found.reliability()
        assert bins.count[-1] == 1
        for a, b in zip(bins, alone, strict=True):
            assert a[-1] == pytest.approx(b[-1], rel=1e-12)


@pytest.mark.parametrize("weight", [1e308, 5e-324])
def test_weights_at_the_ends_of_their_range_do_no_harm(weight):
    x, y = logits((50, 4), np.float64), labels(50, 4)
    found = evaluate(x, y, sample_weight=np.full(50, weight), classwise=True).as_dict()
    expected = evaluate(x, y, classwise=True).as_dict()
    assert found.pop("weight_sum") == 50 * weight
    del expected["weight_sum"]
    same(found, expected, rel=1e-12)


def test_weights_of_all_sizes_merge():
    """Some pieces have no weights, and some none that is not 0."""
    x, y = logits((400, 6), np.float64), labels(400, 6)
    w = positive(400) * np.repeat([1e-250, 0.0, 1e-240, 1.0, 1.0, 1e200, 1e190, 1e200], 50)
    w[150:200] = 1.0
    for stop in (100, 200, 400):
        expected = evaluate(x[:stop], y[:stop], sample_weight=w[:stop], classwise=True)
        parts = []
        for start in range(0, stop, 50):
            rows = slice(start, start + 50)
            v = None if start == 150 else w[rows]
            parts.append(Evaluator(classwise=True).update(x[rows], y[rows], sample_weight=v))
        for order in (slice(None), slice(None, None, -1)):
            found = functools.reduce(lambda a, b: a + b, parts[order]).result()
            same(found, expected, rel=1e-13)
            for a, b in zip(found.reliability(), expected.reliability(), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-13)


# Were NaN: the greatest error, and the root of their mean square.
def test_a_bin_whose_weight_vanishes_beside_others_counts_for_nothing():
    x, y = np.log([[0.99, 0.01], [0.6, 0.4]]), [0, 0]
    parts = [
        Evaluator().update(x[i : i + 1], y[:1], sample_weight=[v])
        for i, v in enumerate((1e-300, 1e100))
    ]
    for found in ((parts[0] + parts[1]).result(), (parts[1] + parts[0]).result()):
        assert found.n == 2
        assert (found.ece, found.mce, found.rms_ce) == pytest.approx((0.4, 0.4, 0.4))
        assert found.ece_equal_mass == pytest.approx(0.4)


@pytest.mark.parametrize("scale", [1e120, 1e155, 1e200, 1.7e307])
@pytest.mark.parametrize("factor", [None, 1e-200, 1e-100, 1e150])
def test_losses_of_any_size_have_a_mean_and_a_standard_error(scale, factor):
    """Their squares, and with weights their sums, may be beyond float64; small ones are among them."""
    x, y = logits((90, 5), np.float64, scale=1.0), labels(90, 5)
    x[30:] *= scale
    x[60:] *= 1e-90
    w = None if factor is None else factor * (generator(2).random(90) + 0.1)
    loss = row_statistics(x, y).loss
    v = [mpmath.mpf(1)] * 90 if w is None else list(map(mpmath.mpf, w))
    with mpmath.workdps(60):
        weight = mpmath.fsum(v)
        mean = mpmath.fsum(a * b for a, b in zip(v, map(mpmath.mpf, loss), strict=True)) / weight
        terms = ((a * (mpmath.mpf(b) - mean)) ** 2 for a, b in zip(v, loss, strict=True))
        stderr = float(mpmath.sqrt(mpmath.fsum(terms) * 90 / 89) / weight)
    whole = evaluate(x, y, sample_weight=w)
    pieces = Evaluator()
    for rows in (slice(70, None), slice(40, 70), slice(40)):
        pieces.update(x[rows], y[rows], sample_weight=None if w is None else w[rows])
    for found in (whole, pieces.result()):
        assert found.loss == pytest.approx(float(mean), rel=1e-14)
        assert found.loss_stderr == pytest.approx(stderr, rel=1e-14)


def test_of_losses_whose_squares_vanish_no_standard_error_is_known():
    x = np.zeros((20, 2))
    x[:, 0] = 200 + np.arange(20)
    found = evaluate(x, np.zeros(20, int))
    assert found.loss_stderr > 0
    assert found.brier > 0 and math.isnan(found.brier_stderr)
    x[:, 0] += 200
    found = evaluate(x, np.zeros(20, int))
    assert found.loss > 0 and math.isnan(found.loss_stderr)
    x[:, 0] = 800
    found = evaluate(x, np.zeros(20, int))
    assert (found.loss, found.loss_stderr, found.brier_stderr) == (0, 0, 0)


def test_sums_in_whole_numbers_carry():
    """Lower halves were sums of up to 2^32 an update, without a carry: too many after 2^31."""
    x, y = logits((200, 3), np.float64), labels(200, 3)
    evaluator = Evaluator().update(x, y)
    slots = evaluator._state.slots
    lower = (3, 5)
    assert (slots[lower, :] < 2**32).all()
    for _ in range(40):  # 200 × 2^40 rows
        evaluator.merge(evaluator)
        assert (slots[lower, :] < 2**32).all()
        slots = evaluator._state.slots
    found, expected = evaluator.result(), evaluate(x, y)
    assert found.n == 200 << 40
    for name in ("loss", "ece", "mce", "rms_ce", "ece_equal_mass", "confidence"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-13), name
    slots[lower, :] = 2**32 - 1
    evaluator.update(x, y)
    assert (evaluator._state.slots[lower, :] < 2**32).all()
    assert (evaluator._state.slots >= 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_standard_error_of_nearly_equal_losses_keeps_its_digits(weighted):
    rng = generator(3)
    x = np.zeros((500, 2))
    x[:, 1] = 30 + 1e-9 * rng.random(500)  # losses of label 0: about 30
    w = rng.random(500) + 0.5 if weighted else None
    loss = row_statistics(x, np.zeros(500, int)).loss
    v = np.ones(500) if w is None else w
    mean = math.fsum(v * loss) / math.fsum(v)
    square = math.fsum((v * (loss - mean)) ** 2)
    expected = math.sqrt(square) / math.fsum(v) * math.sqrt(500 / 499)
    found = evaluate(x, np.zeros(500, int), sample_weight=w)
    assert found.loss_stderr == pytest.approx(expected, rel=1e-5)
    constant = evaluate(np.full((500, 7), 0.3), np.zeros(500, int), sample_weight=w)
    assert constant.loss_stderr <= 1e-16


@pytest.mark.parametrize(("n", "c"), [(600, 1000), (40_000, 3)])
def test_what_is_worked_through_in_parts_is_one_whole(n, c):
    x, y, w = logits((n, c), np.float64, scale=3.0), labels(n, c), positive(n)
    y[::7] = -100
    found = evaluate(x, y, sample_weight=w, classwise=True)
    counted = (y >= 0) & (w > 0)
    x, y, w = x[counted], y[counted], w[counted]
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    is_label = y[:, None] == np.arange(c)
    index = np.ceil(p * 15).astype(int) - 1
    errors = [
        np.abs(np.where(index == b, w[:, None] * (is_label - p), 0).sum(axis=0)) for b in range(15)
    ]
    assert found.n == len(y) and found.n_ignored == n - len(y)
    assert found.classwise_ece == pytest.approx(np.sum(errors) / w.sum() / c, rel=1e-10)
    losses = -np.log(p[is_label])
    assert found.loss == pytest.approx(np.average(losses, weights=w), rel=1e-12)
    brier = ((p - is_label) ** 2).sum(axis=1)
    assert found.brier == pytest.approx(np.average(brier, weights=w), rel=1e-12)
    rank = (x > x[is_label][:, None]).sum(axis=1)
    assert found.mean_reciprocal_rank == pytest.approx(np.average(1 / (1 + rank), weights=w))


def test_inputs_stay_as_they_are():
    x, y, w = logits((30, 5), np.float64), labels(30, 5), positive(30)
    before = x.copy(), y.copy(), w.copy()
    for array in (x, y, w):
        array.flags.writeable = False
    evaluate(x, y, sample_weight=w, classwise=True)
    for a, b in zip((x, y, w), before, strict=True):
        np.testing.assert_array_equal(a, b)


# The edges of the tables


@every_bad_row
def test_bad_rows_propagate(bad):
    x = np.array([[0.0, 1.0, 2.0], bad, [3.0, 1.0, 2.0]])
    found = evaluate(x, [2, 1, 0], top_k=(1, 3, 5), classwise=True)
    assert (found.n, found.n_nonfinite, found.first_nonfinite, found.n_ignored) == (3, 1, 1, 0)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.top_k == {
        1: pytest.approx(2 / 3),
        3: pytest.approx(2 / 3),
        5: pytest.approx(2 / 3),
    }
    assert found.accuracy_stderr == pytest.approx(np.std([1, 0, 1], ddof=1) / math.sqrt(3))
    assert found.mean_reciprocal_rank == pytest.approx(2 / 3)
    finite = {"accuracy", "accuracy_stderr", "mean_reciprocal_rank", "weight_sum", "temperature"}
    for key, value in found.as_dict().items():
        if isinstance(value, float):
            assert math.isnan(value) == (key not in finite), key
    assert found.reliability().count.sum() == 2


@every_bad_row
def test_bad_rows_are_omitted(bad):
    x = np.array([[0.0, 1.0, 2.0], bad, [3.0, 1.0, 2.0]])
    found = evaluate(x, [2, 1, 0], nan_policy="omit", classwise=True).as_dict()
    expected = evaluate(x[::2], [2, 0], classwise=True).as_dict()
    assert (found.pop("n_nonfinite"), found.pop("first_nonfinite")) == (1, 1)
    del expected["n_nonfinite"], expected["first_nonfinite"]
    same(found, expected)


@every_bad_row
def test_bad_rows_raise_and_are_named(bad):
    x = np.zeros((2, 3, 3))
    x[1, 2] = bad
    with pytest.raises(ValueError, match=r"logits\[1, 2, :\].*nan_policy"):
        evaluate(x, np.zeros((2, 3), int), nan_policy="raise")
    with pytest.raises(ValueError, match=r"logits\[:, 1, 2\]"):
        evaluate(np.moveaxis(x, -1, 0), np.zeros((2, 3), int), axis=0, nan_policy="raise")


@every_bad_row
@pytest.mark.parametrize("policy", ["propagate", "omit", "raise"])
def test_bad_rows_that_do_not_count_are_no_matter(bad, policy):
    x = np.array([bad, [0.0, 1.0, 2.0], bad])
    options = {"nan_policy": policy, "sample_weight": [1, 1, 0], "classwise": True}
    found = evaluate(x, [-100, 2, 1], **options)
    assert (found.n, found.n_ignored, found.n_nonfinite, found.first_nonfinite) == (1, 2, 0, None)
    assert found.loss == evaluate(x[1:2], [2]).loss


@pytest.mark.parametrize("policy", ["propagate", "omit", "raise"])
def test_a_masked_label_makes_the_loss_infinite_and_nothing_else(policy):
    x = np.array([[0.0, -INF, 1.0], [0.0, 1.0, 2.0]])
    found = evaluate(x, [1, 2], nan_policy=policy, classwise=True)
    assert found.loss == found.perplexity == INF
    assert (found.n, found.n_nonfinite, found.first_nonfinite) == (2, 1, 0)
    assert found.accuracy == 0.5
    finite = ["ece", "mce", "rms_ce", "ece_floor", "ece_equal_mass", "classwise_ece", "brier"]
    assert all(math.isfinite(getattr(found, name)) for name in finite)
    assert math.isnan(found.loss_stderr) and math.isnan(found.temperature_hint)


def test_the_first_row_not_finite_is_counted_among_all_that_were_given():
    good, bad = np.zeros((5, 2)), np.full((1, 2), NAN)
    one = Evaluator().update(good, [0, -100, 0, 1, 1])
    one.update(np.concatenate([good, bad]), [0] * 6)
    assert one.result().first_nonfinite == 10
    other = Evaluator().update(bad, [0])
    assert (one + other).result().first_nonfinite == 10
    assert (other + one).result().first_nonfinite == 0
    assert (Evaluator().update(good, [0] * 5) + other).result().first_nonfinite == 5


@pytest.mark.parametrize(
    "given",
    [
        lambda e: e,
        lambda e: e.update(np.empty((0, 4)), np.empty(0, int)),
        lambda e: e.update(np.zeros((2, 4)), [-100, -100]),
        lambda e: e.update(np.zeros((2, 4)), [1, 2], sample_weight=[0, 0]),
    ],
    ids=["no update", "no rows", "all ignored", "all of weight 0"],
)
def test_of_nothing_the_means_are_nan(given):
    found = given(Evaluator(classwise=True)).result()
    assert (found.n, found.n_nonfinite, found.weight_sum) == (0, 0, 0)
    for key, value in found.as_dict().items():
        if isinstance(value, float) and key not in ("weight_sum", "temperature"):
            assert math.isnan(value), key
    assert all(map(math.isnan, found.top_k.values()))
    for strategy in ("uniform", "quantile"):
        bins = found.reliability(strategy=strategy)
        assert not bins.count.any()
        assert np.isnan([bins.confidence, bins.accuracy, bins.lower, bins.upper]).all()
        assert bins.edges[0] == 0 and bins.edges[-1] == 1
    assert "nan" in str(found)


def test_one_row_has_no_standard_error():
    found = evaluate(np.array([[0.0, 1.0]]), [1])
    assert all(map(math.isnan, (found.loss_stderr, found.accuracy_stderr, found.brier_stderr)))
    two = evaluate(np.array([[0.0, 1.0]] * 2), [1, 0], sample_weight=[1, 0])
    assert two.n == 1 and math.isnan(two.loss_stderr)


def test_k_beyond_the_classes_gives_1():
    found = evaluate(logits((9, 3), np.float64), labels(9, 3), top_k=(3, 4, 100))
    assert found.top_k == {3: 1.0, 4: 1.0, 100: 1.0}


def test_one_class_is_certain():
    found = evaluate(logits((5, 1), np.float32), np.zeros(5, int), classwise=True)
    assert (found.loss, found.confidence, found.accuracy, found.perplexity) == (0, 1, 1, 1)
    assert (found.ece, found.ece_floor, found.brier, found.entropy) == (0, 0, 0, 0)
    assert (found.classwise_ece, found.temperature_hint, found.loss_stderr) == (0, 1, 0)
    assert found.reliability().count.tolist() == [0] * 14 + [5]


def test_the_greatest_logits_do_no_harm():
    x = np.array([[1e308, -1e308], [-1e308, 1e308]])
    found = evaluate(x, [0, 1])
    assert (found.loss, found.accuracy, found.confidence) == (0, 1, 1)
    wrong = evaluate(np.array([[1e300, 0.0], [1e300, 0.0]]), [1, 1])
    assert wrong.loss == 1e300 and wrong.perplexity == INF


# Bins


def with_confidence(confidence):
    """Logits of two or more classes whose greatest probability is exactly that, or nearly."""
    c = np.asarray(confidence, float)
    return np.log(np.stack([c, 1 - c], axis=1))


def test_a_confidence_at_an_edge_is_in_the_bin_below():
    half = np.zeros((1, 2))
    assert evaluate(half, [0], n_bins=2).reliability().count.tolist() == [1, 0]
    assert evaluate(half, [0], n_bins=4).reliability().count.tolist() == [0, 1, 0, 0]
    certain = np.array([[0.0, -INF]])
    for n_bins in (1, 2, 15):
        count = evaluate(certain, [0], n_bins=n_bins).reliability().count
        assert count.tolist() == [0] * (n_bins - 1) + [1]


def test_edges_are_correctly_rounded():
    for n in (1, 3, 7, 15, 100):
        assert edges_of(n).tolist() == [i / n for i in range(n + 1)]


@pytest.mark.parametrize("n_bins", [1, 2, 5, 15])
def test_reliability_is_what_the_bins_hold(n_bins):
    x, y = logits((300, 4), np.float64, scale=2.0), labels(300, 4)
    w = positive(300)
    rows = row_statistics(x, y)
    bins = evaluate(x, y, sample_weight=w, n_bins=15 if 15 % n_bins == 0 else n_bins).reliability(
        n_bins
    )
    index = np.digitize(rows.confidence, bins.edges[1:-1], right=True)
    for b in range(n_bins):
        here = (index == b) & (w > 0)
        assert bins.count[b] == here.sum()
        if not here.any():
            assert np.isnan([bins.confidence[b], bins.accuracy[b], bins.lower[b]]).all()
            continue
        v, hit = w[here], rows.rank[here] == 0
        q = (v * hit).sum() / v.sum()
        assert bins.confidence[b] == pytest.approx(np.average(rows.confidence[here], weights=v))
        assert bins.accuracy[b] == pytest.approx(q)
        # The interval's ends are where the score test's statistic is 1.96.
        m = v.sum() ** 2 / (v**2).sum()
        for end in (bins.lower[b], bins.upper[b]):
            if 0 < end < 1:
                assert abs(q - end) / math.sqrt(end * (1 - end) / m) == pytest.approx(1.959964)
        assert 0 <= bins.lower[b] <= q <= bins.upper[b] <= 1


def test_bins_of_equal_weight():
    x, y = logits((5000, 10), np.float64, scale=3.0), labels(5000, 10)
    confidence = row_statistics(x, y).confidence
    found = evaluate(x, y)
    for n_bins in (1, 4, 15):
        bins = found.reliability(n_bins, "quantile")
        assert bins.count.sum() == 5000
        assert np.abs(bins.count - 5000 / n_bins).max() < 120
        assert (np.diff(bins.edges) > 0).all() and bins.edges[0] == 0 and bins.edges[-1] == 1
        index = np.digitize(confidence, bins.edges[1:-1], right=True)
        np.testing.assert_array_equal(np.bincount(index, minlength=n_bins), bins.count)
        gap = np.abs(bins.accuracy - bins.confidence) * bins.count
        if n_bins == 15:
            assert found.ece_equal_mass == pytest.approx(gap.sum() / 5000)


def test_many_classes_fill_bins_of_equal_weight_too():
    """Confidences of a thousandth are told apart as well as those near 1."""
    x, y = logits((2000, 5000), np.float32, scale=0.5), labels(2000, 5000)
    found = evaluate(x, y)
    assert found.confidence < 0.01
    count = found.reliability(10, "quantile").count
    assert (count > 80).all() and count.max() < 400


def test_rows_of_equal_confidence_are_never_split():
    x = with_confidence([0.9] * 70 + [0.6] * 10 + [0.8] * 20)
    bins = evaluate(x, np.zeros(100, int)).reliability(5, "quantile")
    assert sorted(bins.count[bins.count > 0].tolist()) == [10, 20, 70]
    assert np.isnan(bins.accuracy[bins.count == 0]).all()
    # Confidences that are 1 in float64, from doubts of many sizes
    sure = np.stack([np.linspace(40, 700, 50), np.zeros(50)], axis=1)
    bins = evaluate(sure, np.zeros(50, int)).reliability(5, "quantile")
    assert sorted(bins.count.tolist()) == [0, 0, 0, 0, 50]


def test_cells_hold_what_their_ends_say():
    rng = generator(9)
    edges = 2.0 ** -np.arange(1, 54)
    some = np.concatenate([rng.random(2000), edges, 1 - edges, 10 ** rng.uniform(-9, 0, 2000)])
    some = np.concatenate([some, 1 - some, 1 - 10 ** rng.uniform(-16, 0, 2000), [1.0, 0.5]])
    some = np.concatenate([some, np.nextafter(some, 0), np.nextafter(some, 1)])
    some = some[(some > 2.0**-31) & (some <= 1)]
    ends = cell_ends()
    assert len(ends) == N_CELLS and ends[-1] == 1
    cells = _core.cells_of(some)
    assert (some <= ends[cells]).all()
    assert (some > np.concatenate([[0], ends])[cells]).all()
    order = np.argsort(some)
    assert (np.diff(cells[order]) >= 0).all()
    wide = (ends[1:] - ends[:-1]) / np.minimum(ends[1:], np.maximum(1 - ends[:-1], 1e-10))
    assert wide[100:-300].max() < 0.07


@pytest.mark.parametrize("n_bins", [1, 15, 3000])
def test_bins_without_weights_are_those_of_weights_of_one(n_bins):
    """The former are summed in whole numbers; rows that do not count, and all sizes, are among them."""
    rng = generator(12)
    x = rng.standard_normal((3000, 3)) * 10 ** rng.uniform(-3, 2, (3000, 1))
    x[rng.integers(0, 3000, 20), 1] = np.nan
    y = np.where(rng.random(3000) < 0.1, -100, labels(3000, 3))
    states = []
    for weights in (None, np.ones(3000)):
        evaluator = Evaluator(n_bins=n_bins, n_threads=1 + (weights is None))
        for rows in (slice(1), slice(1, 70), slice(70, None)):
            evaluator.update(
                x[rows], y[rows], sample_weight=None if weights is None else weights[rows]
            )
        states.append(evaluator._state)
    for (sums, counts), (expected, expected_counts) in zip(
        *(state.histograms() for state in states), strict=True
    ):
        np.testing.assert_array_equal(counts, expected_counts)
        sums, expected = sums.sum(axis=0), expected.sum(axis=0)
        np.testing.assert_allclose(sums[:4], expected[:4], rtol=1e-15)
        np.testing.assert_allclose(sums[4], expected[4], rtol=2e-12)


def test_a_number_of_bins_that_was_not_counted_is_refused_with_advice():
    found = evaluate(np.zeros((2, 2)), [0, 1], n_bins=10)
    assert found.n_bins == len(found.reliability().count) == 10
    assert len(found.reliability(5).count) == 5
    with pytest.raises(ValueError, match="n_bins = 15 does not divide the 10 bins"):
        found.reliability(15)
    assert len(found.reliability(15, "quantile").count) == 15
    for n_bins in (0, -1):
        with pytest.raises(ValueError, match="n_bins"):
            found.reliability(n_bins)
    with pytest.raises(ValueError, match="strategy"):
        found.reliability(strategy="equal")


# The hint


def test_the_hint_is_a_newton_step_and_leads_to_the_minimum():
    x, y = logits((400, 6), np.float64, scale=1.0), labels(400, 6)
    y = np.where(generator(5).random(400) < 0.6, x.argmax(axis=1), y)
    t = 1.3
    expected = oracle(x, y, temperature=t)
    beta = 1 / t - expected["slope"] / expected["curvature"]
    assert evaluate(x, y, temperature=t).temperature_hint == pytest.approx(1 / beta, rel=1e-11)

    def loss(beta):
        return sf.softmax_loss(x, y, temperature=1 / beta)

    h = 1e-4
    slope = (loss(1 / t + h) - loss(1 / t - h)) / (2 * h)
    curvature = (loss(1 / t + h) - 2 * loss(1 / t) + loss(1 / t - h)) / h**2
    assert 1 / beta == pytest.approx(1 / (1 / t - slope / curvature), rel=1e-4)
    for _ in range(8):
        t = evaluate(x, y, temperature=t).temperature_hint
    assert evaluate(x, y, temperature=t).temperature_hint == pytest.approx(t, rel=1e-12)
    for other in (0.99 * t, 1.01 * t):
        assert sf.softmax_loss(x, y, temperature=other) > sf.softmax_loss(x, y, temperature=t)


def test_the_hint_where_there_is_no_step():
    assert evaluate(np.full((3, 4), 2.5), [0, 1, 2], temperature=3.0).temperature_hint == 3.0
    least = np.array([[0.0, 1.0]] * 3)
    assert evaluate(least, [0, 0, 0]).temperature_hint == INF
    sure = np.array([[0.0, 2000.0]])
    assert math.isnan(evaluate(sure, [0]).temperature_hint)
    assert evaluate(sure, [1]).temperature_hint == 1.0


# Chance


def test_a_calibrated_model_shows_an_ece_near_its_floor():
    rng = generator(11)
    found, floors = [], []
    for _ in range(60):
        x = rng.standard_normal((500, 4)) * 1.5
        p = sf.softmax(x)
        y = (p.cumsum(axis=1) > rng.random((500, 1))).argmax(axis=1)
        w = rng.random(500) + 0.2
        for weights in (None, w):
            result = evaluate(x, y, sample_weight=weights)
            found.append(result.ece)
            floors.append(result.ece_floor)
    assert np.mean(found) == pytest.approx(np.mean(floors), rel=0.08)
    off = evaluate(x, y, temperature=0.3)
    assert off.ece > 3 * off.ece_floor


def test_standard_errors_cover_the_truth_as_often_as_they_should():
    rng = generator(12)
    p = np.array([0.6, 0.3, 0.1])
    truth = {
        "loss": -(p * np.log(p)).sum(),
        "accuracy": p.max(),
        "brier": sum(p[y] * ((p - np.eye(3)[y]) ** 2).sum() for y in range(3)),
    }
    covered = dict.fromkeys(truth, 0)
    n_runs = 400
    for _ in range(n_runs):
        y = rng.choice(3, 200, p=p)
        w = rng.random(200) * 2
        result = evaluate(np.tile(np.log(p), (200, 1)), y, sample_weight=w)
        for name, value in truth.items():
            off = abs(getattr(result, name) - value)
            covered[name] += off <= 1.96 * getattr(result, f"{name}_stderr")
    for name, count in covered.items():
        assert 0.91 < count / n_runs < 0.98, name


def test_wilson_intervals_cover_the_truth_as_often_as_they_should():
    rng = generator(13)
    for confidence, n in ((0.6, 30), (0.97, 40)):
        x = with_confidence(np.full(n, confidence))
        inside = 0
        for _ in range(300):
            y = (rng.random(n) > confidence).astype(int)
            bins = evaluate(x, y).reliability()
            b = int(bins.count.argmax())
            inside += bins.lower[b] <= confidence <= bins.upper[b]
        assert 0.90 < inside / 300 < 0.995


# Others


def test_scikit_learn_agrees():
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = logits((400, 7), np.float64), labels(400, 7)
    w = positive(400)
    p = sf.softmax(x)
    found = evaluate(x, y, sample_weight=w, top_k=(1, 3))
    classes = np.arange(7)
    assert found.loss == pytest.approx(
        metrics.log_loss(y, p, sample_weight=w, labels=classes), rel=1e-12
    )
    assert found.accuracy == pytest.approx(
        metrics.accuracy_score(y, p.argmax(axis=1), sample_weight=w), rel=1e-12
    )
    # Of equal scores its last class comes first; there are none here.
    assert found.top_k[3] == pytest.approx(
        metrics.top_k_accuracy_score(y, p, k=3, sample_weight=w, labels=classes), rel=1e-12
    )
    # Its Brier score of two classes is that of one of them, half of the sum over both.
    two = evaluate(x[:, :2], y % 2, sample_weight=w)
    p = sf.softmax(x[:, :2])[:, 1]
    brier = metrics.brier_score_loss(y % 2, p, sample_weight=w)
    assert two.brier == pytest.approx(2 * brier, rel=1e-12)


def test_torchmetrics_agrees():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    # It has a bin more, for confidences of exactly 1, and no weights; here no confidence is 1 or at
    # an edge. Its floats are those of the input.
    x, y = logits((500, 6), np.float64), labels(500, 6)
    p, t = torch.from_numpy(sf.softmax(x)), torch.from_numpy(y)
    found = evaluate(x, y, top_k=(2,))
    for norm, name in (("l1", "ece"), ("max", "mce"), ("l2", "rms_ce")):
        other = functional.multiclass_calibration_error(p, t, num_classes=6, n_bins=15, norm=norm)
        assert getattr(found, name) == pytest.approx(float(other), rel=1e-6), norm
    accuracy = functional.multiclass_accuracy(p, t, num_classes=6, average="micro", top_k=2)
    assert found.top_k[2] == pytest.approx(float(accuracy), rel=1e-6)


# Evaluators


def test_an_evaluator_can_be_pickled_and_goes_on():
    x, y = logits((200, 5), np.float32), labels(200, 5)
    evaluator = Evaluator(classwise=True, temperature=2.0).update(x[:120], y[:120])
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        other = pickle.loads(pickle.dumps(evaluator, protocol))
        same(
            other.update(x[120:], y[120:]).result(),
            evaluate(x, y, classwise=True, temperature=2.0),
        )
    result = evaluator.result()
    same(pickle.loads(pickle.dumps(result)), result, rel=0)


def test_the_state_does_not_grow_with_the_rows():
    evaluator = Evaluator(classwise=True)
    sizes = []
    for n in (10, 10_000):
        evaluator.update(logits((n, 5), np.float32), labels(n, 5))
        sizes.append(len(pickle.dumps(evaluator)))
    assert abs(sizes[1] - sizes[0]) < 64
    assert sizes[0] < 400_000


def test_sums_of_evaluators_leave_them_as_they_are():
    x, y = logits((30, 4), np.float64), labels(30, 4)
    one, other = Evaluator().update(x[:10], y[:10]), Evaluator().update(x[10:], y[10:])
    before = one.result(), other.result()
    total = one + other
    same(total.result(), evaluate(x, y))
    same(one.result(), before[0], rel=0)
    same(other.result(), before[1], rel=0)
    assert one.merge(other) is one
    same(one.result(), evaluate(x, y))
    same(other.result(), before[1], rel=0)
    twice = Evaluator().update(x, y)
    same(twice.merge(twice).result(), evaluate(np.tile(x, (2, 1)), np.tile(y, 2)))
    with pytest.raises(TypeError):
        one + 1


def test_a_result_stays_as_it_is():
    x, y = logits((30, 4), np.float64), labels(30, 4)
    evaluator = Evaluator().update(x, y)
    result = evaluator.result()
    before, bins = result.as_dict(), result.reliability()
    evaluator.update(x[:7], y[:7])
    same(result.as_dict(), before, rel=0)
    np.testing.assert_array_equal(result.reliability().count, bins.count)
    bins.count[:] = 0
    assert result.reliability().count.sum() == 30
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.loss = 0.0


DIFFERENT = {
    "temperature": 2.0,
    "top_k": (1, 3),
    "n_bins": 10,
    "classwise": True,
    "ignore_index": None,
    "nan_policy": "omit",
}


@pytest.mark.parametrize("option", DIFFERENT)
def test_evaluators_of_other_options_do_not_merge(option):
    one, other = Evaluator(), Evaluator(**{option: DIFFERENT[option]})
    for a, b in itertools.permutations((one, other)):
        with pytest.raises(ValueError, match=f"other has {option}="):
            a.merge(b)
        with pytest.raises(ValueError, match=option):
            a + b


def test_evaluators_of_other_classes_do_not_merge():
    one = Evaluator().update(np.zeros((2, 3)), [0, 1])
    other = Evaluator().update(np.zeros((2, 4)), [0, 1])
    with pytest.raises(ValueError, match="4 classes, but this evaluator of 3"):
        one.merge(other)
    with pytest.raises(ValueError, match="logits have shape .*4 classes .* before had 3"):
        one.update(np.zeros((2, 4)), [0, 1])
    assert one.result().n == 2
    assert (Evaluator() + one).result().n_classes == 3
    assert (one + Evaluator(n_threads=2)).result().n_classes == 3
    with pytest.raises(TypeError, match="other"):
        one.merge(3)


def test_a_refused_update_adds_nothing():
    good = logits((20, 3), np.float64), labels(20, 3)
    evaluator = Evaluator(nan_policy="raise").update(*good)
    before = copy.deepcopy(evaluator).result()
    bad = np.zeros((9, 3))
    bad[8, 1] = NAN
    for x, y, error in (
        (bad, [0] * 9, ValueError),
        (np.zeros((2, 3)), [0, 3], IndexError),
        (np.zeros((2, 3)), [0.0, 1.0], TypeError),
        (np.zeros((2, 4)), [0, 1], ValueError),
        (np.zeros((2, 0)), [0, 1], ValueError),
    ):
        with pytest.raises(error):
            evaluator.update(x, y)
    same(evaluator.result(), before, rel=0)
    fresh = Evaluator(nan_policy="raise")
    with pytest.raises(ValueError, match="logits"):
        fresh.update(bad, [0] * 9)
    assert fresh.n_classes is None


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"temperature": 0}, ValueError, "temperature"),
        ({"temperature": NAN}, ValueError, "temperature"),
        ({"temperature": [1.0, 2.0]}, ValueError, "temperature has shape"),
        ({"temperature": "1"}, ValueError, "temperature"),
        ({"top_k": 0}, ValueError, "top_k"),
        ({"top_k": ()}, ValueError, "top_k"),
        ({"top_k": (1, -5)}, ValueError, "top_k"),
        ({"top_k": (1, 2.5)}, TypeError, "top_k"),
        ({"top_k": "12"}, TypeError, "top_k"),
        ({"n_bins": 0}, ValueError, "n_bins"),
        ({"n_bins": 1.5}, TypeError, "n_bins"),
        ({"n_bins": True}, TypeError, "n_bins"),
        ({"classwise": 1}, TypeError, "classwise"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index"),
        ({"nan_policy": "drop"}, ValueError, "nan_policy"),
        ({"nan_policy": None}, ValueError, "nan_policy"),
        ({"n_threads": 0}, ValueError, "n_threads"),
    ],
)
def test_an_option_that_is_not_accepted_is_named(options, error, text):
    with pytest.raises(error, match=text):
        Evaluator(**options)
    with pytest.raises(error, match=text):
        evaluate(np.zeros((2, 3)), [0, 1], **options)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((np.zeros((2, 3)), [0, 3]), {}, IndexError, r"targets\[1\] = 3 is not in \[0, 3\)"),
        ((np.zeros((2, 3)), [-1, 0]), {}, IndexError, r"targets\[0\] = -1"),
        ((np.zeros((2, 3)), [0]), {}, ValueError, r"targets have shape \(1,\)"),
        ((np.zeros((2, 3)), np.zeros((2, 3))), {}, TypeError, "targets have dtype float64"),
        ((np.zeros((2, 0)), [0, 0]), {}, ValueError, "logits has shape"),
        ((3.0, 0), {}, ValueError, "logits is 0-dimensional"),
        ((["a"], [0]), {}, TypeError, "logits has dtype"),
        ((np.zeros((2, 3)), [0, 1]), {"axis": 2}, np.exceptions.AxisError, "axis 2"),
        ((np.zeros((2, 3)), [0, 1]), {"n_threads": 0}, ValueError, "n_threads"),
    ],
)
def test_an_argument_that_is_not_accepted_is_named(arguments, options, error, text):
    for function in (row_statistics, evaluate):
        with pytest.raises(error, match=text):
            function(*arguments, **options)


@pytest.mark.parametrize(
    ("weights", "text"),
    [([1.0], "shape"), ([1.0, -1.0], r"sample_weight\[1\]"), ([NAN, 1.0], r"sample_weight\[0\]")],
)
def test_weights_that_are_not_accepted_are_named(weights, text):
    with pytest.raises(ValueError, match=f"sample_weight.*{text}|{text}"):
        evaluate(np.zeros((2, 3)), [0, 1], sample_weight=weights)


# As a dict, a table, a picture


def test_the_numbers_are_pythons_own_and_go_through_json():
    for weights in (None, [1.0, 0.5]):
        result = evaluate(
            np.eye(2, dtype=np.float32), [0, 1], sample_weight=weights, classwise=True
        )
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            if field.name != "_state":
                assert type(value) in (int, float, dict, type(None)), field.name
        for k, share in result.top_k.items():
            assert type(k) is int and type(share) is float
        assert json.loads(json.dumps(result.as_dict())) == result.as_dict()
    assert list(result.as_dict()["top_k"]) == ["1", "5"]


def test_the_table_has_a_line_for_each_number():
    x = np.eye(4)
    x[3, 3] = -INF
    result = evaluate(x, [0, 1, -100, 3], sample_weight=[1, 2, 1, 1], classwise=True, temperature=2)
    lines = str(result).splitlines()
    table = {line[:19].strip(): line[19:] for line in lines}
    assert all(line[:18].strip() and line[18] == " " for line in lines)
    assert table["rows"] == "3  (and 1 ignored)"
    assert table["classes"] == "4"
    assert table["temperature"] == "2"
    assert table["sum of weights"] == "4"
    assert table["mean loss"] == table["perplexity"] == "inf"
    assert table["accuracy"] == "0.750000  (2 rows)"
    assert table["top-5 accuracy"] == "1.000000  (3 rows)"
    assert table["calibration error"].startswith(f"{result.ece:.6f}  (by chance alone")
    assert table["classwise"] == f"{result.classwise_ece:.6g}"
    assert table["loss not finite"] == "1 rows, the first is row 3"
    assert str(result).isascii()
    sure = evaluate(np.array([[0.0, 1.0]] * 3), [0, 0, 0])
    assert "temperature hint   greater than 1" in str(sure)


def test_plot_draws_with_what_it_is_given(monkeypatch):
    seen = []
    module = types.ModuleType("softmax_fast._plots")
    module.reliability_diagram = lambda *arguments: seen.append(arguments) or "axes"
    monkeypatch.setitem(sys.modules, "softmax_fast._plots", module)
    monkeypatch.setattr(sf, "_plots", module, raising=False)
    result = evaluate(np.eye(2), [0, 1])
    assert result.plot() == "axes" == result.plot(3)
    assert seen == [(result, None), (result, 3)]
