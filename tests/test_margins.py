"""Margins of the linear layer's loss, and which of its gradients are asked for."""

import dataclasses
import itertools

import mpmath
import numpy as np
import oracle
import pytest
from cases import REDUCTIONS, distributions, generator, labels, positive

import softmax_fast as sf
from softmax_fast import linear

MARGINS = [
    sf.LargeMargin(2),
    sf.LargeMargin(3, blend=0.5),
    sf.LargeMargin(4),
    sf.CosineMargin(0.35, 6),
    sf.AngularMargin(0.5, 6),
]
every_margin = pytest.mark.parametrize("margin", MARGINS, ids=str)


# ---- the reference: numbers of mpmath, and their finite differences


def label_logit(margin, x, w):
    """The label's logit; that of the plain layer where a vector is 0 has no ψ."""
    a, b = mpmath.norm(x), mpmath.norm(w)
    dot = mpmath.fdot(x, w)
    cosine = dot / (a * b) if a * b else mpmath.mpf(0)
    cosine = min(max(cosine, mpmath.mpf(-1)), mpmath.mpf(1))
    theta = mpmath.acos(cosine)
    if isinstance(margin, sf.LargeMargin):
        k = min(int(mpmath.floor(margin.m * theta / mpmath.pi)), margin.m - 1)
        psi = (-1) ** k * mpmath.cos(margin.m * theta) - 2 * k
        return (margin.blend * dot + a * b * psi) / (1 + mpmath.mpf(margin.blend))
    if isinstance(margin, sf.CosineMargin):
        return margin.scale * (cosine - mpmath.mpf(margin.m))
    return margin.scale * mpmath.cos(theta + mpmath.mpf(margin.m))


def logit(margin, x, w):
    dot, norms = mpmath.fdot(x, w), mpmath.norm(x) * mpmath.norm(w)
    if isinstance(margin, sf.LargeMargin):
        return dot
    return margin.scale * dot / norms if norms else mpmath.mpf(0)


def row_loss(margin, x, weights, y, temperature, smoothing):
    z = [logit(margin, x, w) for w in weights]
    z[y] = label_logit(margin, x, weights[y])
    z = [value / mpmath.mpf(temperature) for value in z]
    log_sum = mpmath.log(mpmath.fsum(map(mpmath.exp, z)))
    uniform = mpmath.mpf(smoothing) / len(z)
    return (1 - mpmath.mpf(smoothing)) * (log_sum - z[y]) + uniform * mpmath.fsum(
        log_sum - value for value in z
    )


def exact(margin, features, weights, y, temperature=1.0, smoothing=0.0):
    """Losses of the rows, and the gradients of their sum by central differences at 100 digits."""
    h = mpmath.mpf(10) ** -30
    x, w = ([[mpmath.mpf(float(v)) for v in row] for row in m] for m in (features, weights))
    losses = [row_loss(margin, *r, temperature, smoothing) for r in zip(x, [w] * len(x), y)]
    d_features, d_weights = np.zeros(features.shape), np.zeros(weights.shape)

    def slope(rows, vector, j):
        kept, sums = vector[j], []
        for step in (h, -h):
            vector[j] = kept + step
            terms = [row_loss(margin, x[i], w, y[i], temperature, smoothing) for i in rows]
            sums.append(mpmath.fsum(terms))
        vector[j] = kept
        return float((sums[0] - sums[1]) / (2 * h))

    for i, j in np.ndindex(*features.shape):
        d_features[i, j] = slope([i], x[i], j)
    for c, j in np.ndindex(*weights.shape):
        d_weights[c, j] = slope(range(len(x)), w[c], j)
    return np.array([float(v) for v in losses]), d_features, d_weights


def check_exact(margin, features, weights, y, least_sine=1.0, **options):
    """Results are within some roundings of the largest logit and of the largest gradient.

    The direction in which an angle grows has an error of those over its sine.
    """
    with mpmath.workdps(100):
        losses, d_features, d_weights = exact(margin, features, weights, y, **options)
    if "smoothing" in options:
        options["label_smoothing"] = options.pop("smoothing")
    k = {"margin": margin, "reduction": "none", **options}
    eps = np.finfo(features.dtype).eps
    got, grads = sf.linear_softmax_loss_and_grad(features, weights, y, **k)
    size = np.abs(features.astype(np.float64)) @ np.abs(weights.astype(np.float64)).T
    size = 40 * eps * (1 + max(size.max(), getattr(margin, "scale", 0)))
    for value in (got, sf.linear_softmax_loss(features, weights, y, **k)):
        np.testing.assert_allclose(value, losses, rtol=0, atol=size)
    for value, expected in ((grads.features, d_features), (grads.weights, d_weights)):
        assert value.dtype == features.dtype
        room = size / least_sine * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=room)


# Of three classes with integer weights; features at 0, at π, across, and at kπ/2, kπ/3 and kπ/4 of
# those of the label, as near as floats come.
def at_every_angle(dtype):
    weights = np.array([[3, 4, 0], [1, -1, 2], [0, 2, 1]], dtype)
    turned = [1, 1 / 2, 1 / 3, 2 / 3, 1 / 4, 3 / 4]
    across = np.array([-4, 3, 0]) / 5
    along = np.array([3, 4, 0]) / 5
    features = [2 * along * 5, -along * 5, 7 * across]
    features += [np.cos(np.pi * t) * along + np.sin(np.pi * t) * across for t in turned[1:]]
    features += [[0.5, 0.3, -0.2], [-1, 0.4, 0.9]]
    features[0], features[1] = [6, 8, 0], [-3, -4, 0]
    return np.array(features, dtype), weights, np.array([0] * 8 + [1, 2])


@every_margin
def test_values_and_gradients_are_those_of_mpmath_at_every_angle(margin, isa, dtype):
    features, weights, y = at_every_angle(dtype)
    check_exact(margin, features, weights, y)


@pytest.mark.parametrize("m", [2, 1000, 2**20])
def test_errors_of_the_angle_count_m_times(m):
    # beside a logit of 0 the loss of a very negative one is its distance from 0
    features, margin = generator(50).standard_normal((100, 3)), sf.LargeMargin(m)
    weights = np.array([[0.5, 2.0, -1.0], [0.0, 0.0, 0.0]])
    losses = sf.linear_softmax_loss(
        features, weights, np.zeros(100, int), margin=margin, reduction="none"
    )
    w = mpmath.matrix(weights[0])
    for x, loss in zip(map(mpmath.matrix, features), losses, strict=True):
        room = 8 * m * np.finfo(np.float64).eps * mpmath.norm(x) * mpmath.norm(w)
        exact = mpmath.log1p(mpmath.exp(-label_logit(margin, x, w)))
        assert abs(mpmath.mpf(float(loss)) - exact) <= room + 1e-15 * abs(exact)


@every_margin
def test_temperature_and_smoothing_are_of_the_logits_with_the_margin(margin, dtype):
    features, weights, y = at_every_angle(dtype)
    check_exact(margin, features[2:5], weights, y[2:5], temperature=0.7, smoothing=0.1)


@every_margin
def test_next_to_the_angles_where_an_arc_cosine_loses_its_digits(margin):
    weights = np.array([[3.0, 4, 0], [1, -1, 2], [0, 2, 1]])
    features = np.array([[6, 8, 1e-7], [-3, -4, 1e-7], [3e-7, -4e-7, -1e-9], [0.6, 0.8, 1e-3]])
    least_sine = 1e-8 if isinstance(margin, sf.AngularMargin) else 1.0
    check_exact(margin, features, weights, np.zeros(4, int), least_sine)


@every_margin
@pytest.mark.parametrize("size", [2.0**-40, 2.0**40], ids=str)
def test_of_lengths_cosines_do_not_depend(margin, size, dtype):
    features, weights, y = at_every_angle(dtype)
    k = {"margin": margin, "reduction": "none"}
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, **k)
    scaled, others = sf.linear_softmax_loss_and_grad(
        features * dtype.type(size), weights / dtype.type(size), y, **k
    )
    oracle.assert_same_bits(scaled, loss)
    oracle.assert_same_bits(others.features, grads.features / dtype.type(size))
    oracle.assert_same_bits(others.weights, grads.weights * dtype.type(size))


@pytest.mark.parametrize("size", [1e-290, 1e-200, 1e200, 1e300])
def test_squares_of_norms_need_not_be_numbers(size):
    features, weights, y = at_every_angle(np.float64)
    margin = sf.AngularMargin(0.5, 6)
    loss = sf.linear_softmax_loss(features, weights, y, margin=margin)
    scaled = sf.linear_softmax_loss(features * size, weights, y, margin=margin)
    np.testing.assert_allclose(scaled, loss, rtol=1e-14)


# ---- the kernels' tiles, and BLAS's


def losses_of_logits(margin, features, weights, y, **options):
    """By NumPy in float64, from all logits."""
    x, w = features.astype(np.float64), weights.astype(np.float64)
    rows = np.arange(len(x))
    z = x @ w.T
    norms = np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=1))
    cosine = np.clip(z / norms, -1, 1)
    theta = np.arccos(cosine[rows, y])
    if isinstance(margin, sf.LargeMargin):
        k = np.floor(margin.m * theta / np.pi)
        psi = (-1) ** k * np.cos(margin.m * theta) - 2 * k
        label = (margin.blend * z[rows, y] + norms[rows, y] * psi) / (1 + margin.blend)
    else:
        z = margin.scale * cosine
        cosine_margin = isinstance(margin, sf.CosineMargin)
        label = np.cos(theta) - margin.m if cosine_margin else np.cos(theta + margin.m)
        label = margin.scale * label
    z[rows, y] = label
    return sf.softmax_loss(z, y, **options)


def sample(shape, dtype):
    n, d, c = shape
    rng = generator(*shape, 60)
    return (
        rng.standard_normal((n, d)).astype(dtype),
        rng.standard_normal((c, d)).astype(dtype),
        labels(n, c),
    )


# Around panels, blocks of classes and depths, more classes than one chunk has, and few rows.
SHAPES = [(1, 3, 5), (9, 5, 193), (40, 300, 30), (33, 2, 400), (5, 2, 12_700)]


@pytest.mark.parametrize("way", ["kernels", "BLAS", "BLAS, some rows"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_around_the_edges_of_tiles(shape, way, dtype, monkeypatch):
    if way != "kernels":
        monkeypatch.setattr(linear._Evaluation, "_is_fused", lambda self: False)
    if way == "BLAS, some rows":
        monkeypatch.setattr(linear, "BUFFER_BYTES", 4096)
    features, weights, y = sample(shape, dtype)
    rng = generator(61)
    directions = [rng.standard_normal(m.shape) for m in (features, weights)]
    options = {"label_smoothing": 0.1, "weight": positive(shape[2]) + 0.1}
    options |= {"temperature": positive(shape[0]) + 0.5, "reduction": "sum"}
    for margin in (sf.LargeMargin(3, blend=1), sf.AngularMargin(0.3, 4)):
        loss, grads = sf.linear_softmax_loss_and_grad(
            features, weights, y, margin=margin, **options
        )
        expected = losses_of_logits(margin, features, weights, y, **options)
        close = {"rtol": 2e-6 if dtype == np.float32 else 1e-13}
        np.testing.assert_allclose(loss, expected, **close)
        alone = sf.linear_softmax_loss(features, weights, y, margin=margin, **options)
        np.testing.assert_allclose(alone, expected, **close)
        h = 1e-5
        ahead, behind = (
            losses_of_logits(
                margin,
                *(m + step * d for m, d in zip((features, weights), directions, strict=True)),
                y,
                **options,
            )
            for step in (h, -h)
        )
        slope = sum(np.vdot(g.astype(float), d) for g, d in zip(grads, directions, strict=False))
        size = sum(np.abs(g * d).sum() for g, d in zip(grads, directions, strict=False))
        assert abs((ahead - behind) / (2 * h) - slope) <= 1e-6 * size


@pytest.mark.parametrize("blend", [0, 2.5])
def test_a_multiple_of_one_is_the_plain_loss_bit_for_bit(blend, isa, dtype):
    features, weights, y = sample((12, 5, 40), dtype)
    features[3] = 0
    for reduction in REDUCTIONS:
        k = {"reduction": reduction}
        margin = sf.LargeMargin(1, blend)
        loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, **k)
        same, others = sf.linear_softmax_loss_and_grad(features, weights, y, margin=margin, **k)
        oracle.assert_same_bits(same, loss)
        oracle.assert_same_bits(others.features, grads.features)
        oracle.assert_same_bits(others.weights, grads.weights)


@every_margin
def test_a_vector_of_zeros_is_across_all_others(margin, isa, dtype):
    features, weights, y = sample((6, 4, 5), dtype)
    features[1] = weights[y[3]] = 0
    loss, grads = sf.linear_softmax_loss_and_grad(
        features, weights, y, margin=margin, reduction="none"
    )
    logits = np.array([[float(logit(margin, x, w)) for w in weights] for x in features])
    for i in range(6):
        across = isinstance(margin, sf.LargeMargin) or features[i].any() and weights[y[i]].any()
        logits[i, y[i]] = (
            label_logit(margin, *map(mpmath.matrix, (features[i].tolist(), weights[y[i]].tolist())))
            if across
            else margin.scale * -margin.m
            if isinstance(margin, sf.CosineMargin)
            else margin.scale * np.cos(np.pi / 2 + margin.m)
        )
    expected = sf.softmax_loss(logits, y, reduction="none")
    np.testing.assert_allclose(loss, expected, rtol=2e-6 if dtype == np.float32 else 1e-13)
    if not isinstance(margin, sf.LargeMargin):
        assert not grads.features[1].any() and not grads.weights[y[3]].any()
    elif not margin.blend:
        # only the other classes pull at the features
        p = np.delete(sf.softmax(logits[1]), y[1])
        np.testing.assert_allclose(
            grads.features[1], p @ np.delete(weights, y[1], axis=0), rtol=1e-5, atol=1e-6
        )
    assert np.isfinite(grads.features).all() and np.isfinite(grads.weights).all()


@every_margin
def test_rows_that_do_not_count_are_not_read(margin, isa, dtype):
    features, weights, y = sample((20, 4, 30), dtype)
    v = np.ones(20)
    v[3], y[11] = 0, -100
    k = {"margin": margin, "sample_weight": v, "reduction": "none"}
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, **k)
    features[[3, 11]] = np.nan
    again, others = sf.linear_softmax_loss_and_grad(features, weights, y, **k)
    assert not loss[[3, 11]].any() and not grads.features[[3, 11]].any()
    oracle.assert_same_bits(again, loss)
    oracle.assert_same_bits(others.features, grads.features)
    oracle.assert_same_bits(others.weights, grads.weights)


@every_margin
def test_what_is_not_finite_stays_in_its_row(margin, isa, dtype):
    features, weights, y = sample((20, 4, 30), dtype)
    k = {"margin": margin, "reduction": "none"}
    clean = sf.linear_softmax_loss(features, weights, y, **k)
    for value in (np.nan, np.inf):
        features[7, 2] = value
        loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, **k)
        assert np.isnan(loss[7]) and np.isnan(grads.features[7]).all()
        oracle.assert_same_bits(np.delete(loss, 7), np.delete(clean, 7))


@every_margin
def test_bits_do_not_depend_on_layout_threads_or_other_rows(margin, isa, dtype):
    if isa == "generic":
        pytest.skip("BLAS chooses its own order of sums")
    features, weights, y = sample((40, 70, 300), dtype)
    k = {"margin": margin, "reduction": "none"}
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, n_threads=1, **k)
    for f, w in (
        (np.asfortranarray(features), np.asfortranarray(weights)),
        (np.repeat(features, 2, axis=1)[:, ::2], weights[::-1].copy()[::-1]),
    ):
        same, others = sf.linear_softmax_loss_and_grad(f, w, y, n_threads=2, **k)
        oracle.assert_same_bits(same, loss)
        oracle.assert_same_bits(others.features, grads.features)
        oracle.assert_same_bits(others.weights, grads.weights)
    for part in (slice(39, None), slice(None, None, -1)):
        some, others = sf.linear_softmax_loss_and_grad(features[part], weights, y[part], **k)
        oracle.assert_same_bits(some, loss[part])
        oracle.assert_same_bits(others.features, grads.features[part])


def test_halves_are_what_they_widen_to():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    features, weights, y = sample((12, 9, 20), np.float32)
    for half, margin in itertools.product((np.float16, ml_dtypes.bfloat16), MARGINS[2:]):
        w = weights.astype(half)
        got, grads = sf.linear_softmax_loss_and_grad(features, w, y, margin=margin)
        expected, others = sf.linear_softmax_loss_and_grad(
            features, w.astype(np.float32), y, margin=margin
        )
        assert got == expected
        oracle.assert_same_bits(grads.features, others.features)
        oracle.assert_same_bits(grads.weights, others.weights)


# ---- arguments


def test_margins_are_values():
    margin = sf.LargeMargin(np.int64(4), blend=np.float32(0.5))
    assert margin == sf.LargeMargin(4, 0.5) and hash(margin) == hash(sf.LargeMargin(4, 0.5))
    assert type(margin.m) is int and type(margin.blend) is float
    assert sf.CosineMargin(0.35, 64) != sf.AngularMargin(0.35, 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        margin.m = 2


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: sf.LargeMargin(0), ValueError, "m must be an int from 1 to 1048576, got 0"),
        (lambda: sf.LargeMargin(2**20 + 1), ValueError, "m must be an int from 1 to 1048576, got"),
        (lambda: sf.LargeMargin(1.5), TypeError, "m must be an int from 1 to 1048576, got 1.5"),
        (lambda: sf.LargeMargin(2, -1), ValueError, "blend must be finite and >= 0, got -1"),
        (lambda: sf.LargeMargin(2, np.inf), ValueError, "blend"),
        (lambda: sf.CosineMargin(np.nan, 1), ValueError, "m must be finite and >= 0, got nan"),
        (lambda: sf.CosineMargin("0.3", 1), TypeError, "m must be a number, got '0.3'"),
        (lambda: sf.CosineMargin(0.3, 0), ValueError, "scale must be finite and > 0, got 0"),
        (lambda: sf.AngularMargin(3.2, 1), ValueError, "m must be from 0 to 3.14"),
        (lambda: sf.AngularMargin(0.5, None), TypeError, "scale must be a number, got None"),
    ],
)
def test_numbers_of_margins_are_checked(make, error, words):
    with pytest.raises(error, match=words):
        make()


@every_margin
def test_a_margin_is_for_labels_and_no_bias(margin):
    x, w, y = np.ones((2, 3)), np.eye(4, 3), [0, 1]
    for function in (sf.linear_softmax_loss, sf.linear_softmax_loss_and_grad):
        with pytest.raises(ValueError, match="bias must be None with a margin"):
            function(x, w, y, bias=np.zeros(4), margin=margin)
        with pytest.raises(ValueError, match="targets are class probabilities, but a margin"):
            function(x, w, distributions((2, 4), np.float64), margin=margin)
        with pytest.raises(IndexError, match=r"targets\[1\] = 4"):
            function(x, w, [0, 4], margin=margin)
        with pytest.raises(TypeError, match="margin must be None or one of LargeMargin, Cosine"):
            function(x, w, y, margin=0.35)


@every_margin
def test_no_rows(margin, dtype):
    loss, grads = sf.linear_softmax_loss_and_grad(
        np.ones((0, 3), dtype), np.ones((4, 3), dtype), [], margin=margin, reduction="sum"
    )
    assert loss == 0 and grads.features.shape == (0, 3) and not grads.weights.any()


# ---- gradients that are asked for


@pytest.mark.parametrize("buffer_bytes", [linear.BUFFER_BYTES, 4096], ids=["rows", "classes"])
def test_gradients_that_are_wanted_are_those_of_all(buffer_bytes, isa, dtype, monkeypatch):
    monkeypatch.setattr(linear, "BUFFER_BYTES", buffer_bytes)
    features, weights, y = sample((40, 6, 300), dtype)
    names = sf.LinearGrads._fields
    for bias, margin in ((np.zeros(300, dtype), None), (None, None), (None, MARGINS[-1])):
        k = {"bias": bias, "margin": margin}
        loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, **k)
        for wrt in (*names, ("features", "bias"), ["weights", "features"], names):
            some_loss, some = sf.linear_softmax_loss_and_grad(features, weights, y, wrt=wrt, **k)
            assert some_loss == loss
            for name in names:
                got, expected = getattr(some, name), getattr(grads, name)
                if name not in wrt or expected is None:
                    assert got is None
                else:
                    oracle.assert_same_bits(got, expected)


def test_a_frozen_weight_takes_no_memory(run_python):
    code = """
        import resource
        import numpy as np
        import softmax_fast as sf
        features, weights = np.ones((9, 256), np.float32), np.ones((100_000, 256), np.float32)
        y = np.arange(9)
        sf.linear_softmax_loss(features, weights, y)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sf.linear_softmax_loss_and_grad(features, weights, y, wrt="features", n_threads=2)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    pytest.importorskip("resource")
    assert int(run_python(code).stdout) < 40 * 1024  # the gradient of the weights takes 100 MB


@pytest.mark.parametrize(
    ("wrt", "error"),
    [("x", ValueError), ((), ValueError), (("bias", 3), ValueError), (3, TypeError)],
)
def test_only_gradients_that_there_are_can_be_wanted(wrt, error):
    expected = "wrt must be one of 'features', 'weights', 'bias' or some of them, got "
    with pytest.raises(error, match=expected):
        sf.linear_softmax_loss_and_grad(np.ones((2, 3)), np.ones((4, 3)), [0, 1], wrt=wrt)
