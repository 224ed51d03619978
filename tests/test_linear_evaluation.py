"""Evaluation of a layer from its features: the logits' functions on the product, and its edges."""

import numpy as np
import oracle
import pytest
from cases import generator, labels, positive

import softmax_fast as sf
from softmax_fast import _core, _layer_logits

# Rows around a panel, features around a depth and a pack, classes around a group, a tile and a block.
SHAPES = [(1, 1, 1), (5, 3, 13), (33, 385, 192), (65, 16, 193), (17, 1600, 40), (40, 7, 2100)]


def layer(shape, dtype, key=0):
    """Small integers, whose products are exact in any order."""
    n, d, c = shape
    rng = generator(*shape, key, 31)
    features, weights, bias = (rng.integers(-3, 4, size) for size in ((n, d), (c, d), (c,)))
    return features.astype(dtype), weights.astype(dtype), (bias * 0.25).astype(dtype)


def product(features, weights, bias):
    wide = np.float64 if features.dtype == np.float64 else np.float32
    logits = features.astype(np.float64) @ weights.astype(np.float64).T
    return (logits + (0 if bias is None else bias.astype(np.float64))).astype(wide)


def same_rows(got, expected):
    for name, a, b in zip(got._fields, got, expected, strict=True):
        if b is None:
            assert a is None
        else:
            oracle.assert_same_bits(a, b, name)


def nearly_same_rows(got, expected, dtype):
    """The same of logits that are added up in other parts."""
    near = 16 * np.finfo(dtype).eps
    for name, a, b in zip(got._fields, got, expected, strict=True):
        rtol = 0 if b.dtype.kind == "i" else near
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=name)


def same_numbers(got, expected, rel=1e-14):
    """Sums of the same rows in other pieces."""
    got, expected = got.as_dict(), expected.as_dict()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, float | dict):
            value = pytest.approx(value, rel=float(rel), abs=float(rel), nan_ok=True)
        assert got[name] == value, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_rows_are_those_of_the_exact_logits(shape, isa, dtype):
    n, _, c = shape
    features, weights, bias = layer(shape, dtype)
    logits, y = product(features, weights, bias), labels(n, c)
    y[0] = -100
    temperature = 0.5 + np.arange(n)
    got = sf.row_statistics_linear(features, weights, y, bias=bias, temperature=temperature)
    expected = sf.row_statistics(logits, y, temperature=temperature)
    near = 16 * np.finfo(dtype).eps
    if c <= 192 or isa == "generic":
        same_rows(got, expected)
        near = 1e-14
    else:
        nearly_same_rows(got, expected, dtype)
    for classwise in (False, True) if c < 200 else (False,):
        options = {"temperature": 2.0, "classwise": classwise, "sample_weight": positive(n)}
        same_numbers(
            sf.evaluate_linear(features, weights, y, bias=bias, **options),
            sf.evaluate(logits, y, **options),
            near,
        )


@pytest.mark.parametrize("c", [193, 2100, 20_000])
def test_the_losses_have_the_bits_of_the_linear_loss(c, isa, dtype):
    features, weights, bias = (a / 3 for a in layer((40, 20, c), dtype))
    y = labels(40, c)
    options = {"bias": bias, "temperature": 0.7}
    got = sf.row_statistics_linear(features, weights, y, **options)
    loss = sf.linear_softmax_loss(features, weights, y, reduction="none", **options)
    if isa == "generic":
        np.testing.assert_allclose(got.loss, loss, rtol=4 * np.finfo(dtype).eps)
    else:
        oracle.assert_same_bits(got.loss, loss)


@pytest.mark.parametrize("shape", [(37, 700, 300), (2100, 5, 30)], ids=str)
def test_real_numbers_are_within_the_rounding_of_the_product(shape, isa, dtype):
    n, d, c = shape
    rng = generator(*shape, 32)
    features, weights = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(c, d)).astype(dtype)
    bias, y = rng.normal(size=c).astype(dtype), labels(n, c)
    logits, error = oracle.linear_logits(features, weights, bias)
    moved = 2 * error.max(axis=1).astype(np.float64)
    got = sf.row_statistics_linear(features, weights, y, bias=bias)
    exact = sf.row_statistics(logits.astype(np.float64), y)
    eps = np.finfo(dtype).eps
    for name in ("logsumexp", "loss"):
        bound = moved + 4 * eps * np.maximum(1, abs(getattr(exact, name)))
        assert (abs(getattr(got, name) - getattr(exact, name)) <= bound).all(), name
    bound = exact.confidence * np.expm1(moved) + 8 * eps
    assert (abs(got.confidence - exact.confidence) <= bound).all()
    result = sf.evaluate_linear(features, weights, y, bias=bias)
    assert abs(result.loss - exact.loss.mean()) <= moved.mean() + 4 * eps * exact.loss.mean()
    assert result.accuracy == pytest.approx(np.mean(got.rank == 0), abs=1e-15)


def test_every_option_means_what_it_means_to_evaluate(isa, monkeypatch):
    shape = n, _, c = 90, 6, 20
    features, weights, bias = layer(shape, np.float32)
    logits, y, v = product(features, weights, bias), labels(n, c), positive(n)
    v[3], y[40] = 0, 7
    options = {
        "top_k": (2, 3),
        "n_bins": 4,
        "classwise": True,
        "sample_weight": v,
        "ignore_index": 7,
        "temperature": 1.5,
    }
    expected = sf.evaluate(logits, y, **options)
    same_numbers(sf.evaluate_linear(features, weights, y, bias=bias, **options), expected)
    monkeypatch.setattr(_layer_logits, "SLAB_BYTES", 33 * c * 4)  # three slabs
    same_numbers(sf.evaluate_linear(features, weights, y, bias=bias, **options), expected)
    fits = [
        sf.fit_temperature_linear(
            features, weights, y, bias=bias, sample_weight=v, ignore_index=7, n_threads=1
        ),
        sf.fit_temperature(logits, y, sample_weight=v, ignore_index=7),
    ]
    assert fits[0][:4] == pytest.approx(fits[1][:4], rel=1e-5, nan_ok=True)
    assert fits[0].status == fits[1].status


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_are_widened(kind, isa):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[kind]
    shape = n, _, c = 35, 20, 30
    features, weights, bias = layer(shape, np.float32)
    logits, y = product(features, weights, bias), labels(n, c)
    halves = [a.astype(dtype) for a in (features, weights, bias)]
    got = sf.row_statistics_linear(halves[0], halves[1], y, bias=halves[2])
    same_rows(got, sf.row_statistics(logits, y))
    # Only the weights, and not contiguous
    wide = np.asfortranarray(halves[1])
    same_rows(sf.row_statistics_linear(features, wide, y, bias=bias), got)


def test_a_row_does_not_depend_on_its_place_or_on_threads(isa, dtype, monkeypatch):
    if isa == "generic":
        pytest.skip("NumPy's BLAS multiplies")
    rng = generator(33)
    features = rng.normal(size=(70, 900)).astype(dtype)
    weights = rng.normal(size=(230, 900)).astype(dtype)
    y = labels(70, 230)
    whole = sf.row_statistics_linear(features, weights, y, n_threads=1)
    same_rows(sf.row_statistics_linear(features, weights, y, n_threads=2), whole)
    order = rng.permutation(70)
    spread = np.zeros((70, 1800), dtype)
    spread[:, ::2] = features[order]
    shuffled = sf.row_statistics_linear(spread[:, ::2], weights, y[order])
    same_rows(shuffled, type(whole)(*(a[order] for a in whole)))
    one = sf.row_statistics_linear(features[7:8], weights, y[7:8])
    same_rows(one, type(whole)(*(a[7:8] for a in whole)))
    monkeypatch.setattr(_layer_logits, "_MOST_COLUMNS", 5)
    same_rows(sf.row_statistics_linear(features, weights, y), whole)


def test_slabs_of_logits_do_not_matter(isa, monkeypatch):
    features, weights, _ = layer((70, 900, 100), np.float32)
    y = labels(70, 100)
    whole = sf.row_statistics_linear(features, weights, y)
    monkeypatch.setattr(_layer_logits, "SLAB_BYTES", 5 * 100 * 4)
    same_rows(sf.row_statistics_linear(features, weights, y), whole)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e15, 1e300])
def test_temperatures_that_need_another_look_at_the_logits(temperature, isa):
    shape = n, _, c = 20, 3, 200
    features, weights, bias = layer(shape, np.float32)
    logits, y = product(features, weights, bias), labels(n, c)
    each = np.where(np.arange(n) < 10, temperature, 1.0)
    got = sf.row_statistics_linear(features, weights, y, bias=bias, temperature=each)
    nearly_same_rows(got, sf.row_statistics(logits, y, temperature=each), np.float32)


def test_edges_are_those_of_the_logits(isa, dtype):
    shape = n, _, c = 40, 4, 200
    features, weights, bias = layer(shape, dtype)
    bias[5], bias[7:9] = -np.inf, -np.inf
    features[3], features[11, 0], weights[:, 0] = np.nan, np.inf, 1.0
    with np.errstate(all="ignore"):
        logits, y = features @ weights.T + bias, labels(n, c)
    y[20], y[21] = 5, -100
    got = sf.row_statistics_linear(features, weights, y, bias=bias)
    nearly_same_rows(got, sf.row_statistics(logits, y), dtype)
    unlabelled = sf.row_statistics_linear(features, weights, bias=bias)
    same_rows(unlabelled, got._replace(loss=None, rank=None, brier=None))
    assert got.loss[20] == np.inf and got.prediction[3] == -1
    for policy in ("propagate", "omit"):
        options = {"nan_policy": policy}
        result = sf.evaluate_linear(features, weights, y, bias=bias, **options)
        same_numbers(result, sf.evaluate(logits, y, **options), 16 * np.finfo(dtype).eps)
        assert result.first_nonfinite == 3
    with pytest.raises(ValueError, match=r"logits\[3, :\]"):
        sf.evaluate_linear(features, weights, y, bias=bias, nan_policy="raise")
    with pytest.raises(ValueError, match="row 3 of logits"):
        sf.fit_temperature_linear(features, weights, y, bias=bias)
    fit = sf.fit_temperature_linear(features, weights, y, bias=bias, nan_policy="omit")
    expected = sf.fit_temperature(logits, y, nan_policy="omit")
    assert fit[:4] == pytest.approx(expected[:4], rel=1e-6, nan_ok=True)


def test_nothing_and_next_to_nothing():
    no_rows = sf.row_statistics_linear(np.ones((0, 3)), np.ones((4, 3)), np.ones(0, int))
    assert [a.shape for a in no_rows] == [(0,)] * 7
    assert sf.evaluate_linear(np.ones((0, 3)), np.ones((4, 3)), np.ones(0, int)).n == 0
    with pytest.raises(ValueError, match="no row is left"):
        sf.fit_temperature_linear(np.ones((0, 3)), np.ones((4, 3)), np.ones(0, int))
    without_features = sf.row_statistics_linear(np.ones((2, 0)), np.ones((3, 0)), [1, 2])
    same_rows(without_features, sf.row_statistics(np.zeros((2, 3)), [1, 2]))
    biased = sf.row_statistics_linear(np.ones((1, 0)), np.ones((2, 0)), bias=[1.0, 0.0])
    same_rows(biased, sf.row_statistics([[1.0, 0.0]]))
    one_class = sf.evaluate_linear(np.ones((2, 3)), np.ones((1, 3)), [0, 0])
    assert (one_class.loss, one_class.confidence) == (0, 1)


@pytest.mark.parametrize(("slab_bytes", "n_passes"), [(16 << 20, 1), (500_000, 2), (30_000, 2)])
@pytest.mark.parametrize("n", [900, 4000])
def test_a_fit_multiplies_few_times(n, slab_bytes, n_passes, monkeypatch):
    monkeypatch.setattr(_layer_logits, "SLAB_BYTES", slab_bytes)
    rng = generator(34)
    features, weights = rng.normal(size=(n, 64)), rng.normal(size=(30, 64)) / 3
    logits = features @ weights.T
    y = (logits / 2.5 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    fit = sf.fit_temperature_linear(features, weights, y)
    assert fit.n_passes <= n_passes
    expected = sf.fit_temperature(logits, y)
    assert fit.status == "converged"
    assert fit[:4] == pytest.approx(expected[:4], rel=1e-6)
    assert fit == sf.fit_temperature_linear(features, weights, y, n_threads=1)


def test_a_sample_that_misleads_a_fit_does_no_harm(monkeypatch):
    monkeypatch.setattr(_layer_logits, "SLAB_BYTES", 30_000)
    rng = generator(35)
    features, weights = rng.normal(size=(900, 64)), rng.normal(size=(30, 64)) / 3
    logits = features @ weights.T
    # of the first rows T is 0.4, of the others 3
    temperature = np.where(np.arange(900) < 100, 0.4, 3.0)[:, None]
    y = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)
    fit, expected = sf.fit_temperature_linear(features, weights, y), sf.fit_temperature(logits, y)
    assert fit[:4] == pytest.approx(expected[:4], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"features": np.ones(3)}, ValueError, r"features have shape \(3,\)"),
        ({"weights": np.ones((5, 2))}, ValueError, r"weights have shape \(5, 2\)"),
        ({"weights": np.ones((0, 3))}, ValueError, "at least one class"),
        ({"weights": np.ones((5, 3), np.float32)}, TypeError, "weights of dtype float32"),
        ({"bias": np.ones(4)}, ValueError, r"bias has shape \(4,\)"),
        ({"targets": [0, 1, 5]}, IndexError, "5"),
        ({"targets": [0, 1]}, ValueError, "targets"),
        ({"n_threads": 0}, ValueError, "n_threads"),
    ],
)
@pytest.mark.parametrize("name", ["row_statistics", "evaluate", "fit_temperature"])
def test_bad_arguments_are_named(name, change, error, text):
    arguments = {"features": np.ones((3, 3)), "weights": np.ones((5, 3)), "targets": [0, 1, 2]}
    with pytest.raises(error, match=text):
        getattr(sf, f"{name}_linear")(**arguments | change)


def test_temperatures_of_rows_and_options_are_checked():
    x, w = np.ones((3, 3)), np.ones((5, 3))
    with pytest.raises(ValueError, match="temperature"):
        sf.row_statistics_linear(x, w, temperature=[1.0, 2.0])
    with pytest.raises(ValueError, match="n_bins"):
        sf.evaluate_linear(x, w, [0, 1, 2], n_bins=0)
    with pytest.raises(ValueError, match="nan_policy"):
        sf.fit_temperature_linear(x, w, [0, 1, 2], nan_policy="skip")
    with pytest.raises(ValueError, match="sample_weight"):
        sf.evaluate_linear(x, w, [0, 1, 2], sample_weight=[1.0, -1.0, 0.0])


def test_the_kernels_multiply_where_there_are_vectors(isa):
    layer_ = sf._arguments.layer(np.ones((3, 4), np.float32), np.ones((5, 4), np.float32), None)
    out = np.empty((3, 5), np.float32)
    took = _core.layer_logits(layer_.features, layer_.weights, None, out, 1)
    assert took == (isa != "generic")
