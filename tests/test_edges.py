"""The table "Meaning at the edges", at every position of a row, with the other rows untouched."""

import warnings

import numpy as np
import oracle
import pytest
from cases import (
    BINARY,
    NAN_BITS,
    OF_LOGITS,
    ROW_FUNCTIONS,
    TYPICAL,
    distributions,
    edge_positions,
    labels,
    logits,
    problem,
    put_nan,
    taking,
)

import softmax_fast as sf

EDGE = 2  # the row that holds the edge case, among N_ROWS
N_ROWS = 5
OTHERS = [0, 1, 3, 4]


def everything(x, y):
    """Every output that belongs to the rows of ``x``, by name, rows first."""
    t = distributions(x.shape, x.dtype)
    results = {name: function(x, y, t) for name, function in OF_LOGITS.items()}
    for name, function in OF_LOGITS.items():
        results[f"{name}, T=0.7"] = function(x, y, t, temperature=0.7)
    return results


def assert_neighbours_untouched(results, clean, context):
    for name, got in results.items():
        oracle.assert_same_bits(got[OTHERS], clean[name][OTHERS], f"{name}, {context}: other rows")


def edge_batches(n_classes, dtype):
    """(position, batch, labels): fresh copies of a clean batch, ready for an edge value."""
    x = logits((N_ROWS, n_classes), dtype)
    y = labels(N_ROWS, n_classes)
    clean = everything(x, y)
    for position in edge_positions(n_classes):
        yield position, x.copy(), y, clean


@pytest.mark.parametrize("n_classes", TYPICAL)
def test_a_nan_makes_its_row_nan_and_no_other(n_classes, isa, dtype):
    patterns = NAN_BITS[dtype.name]
    for position, x, y, clean in edge_batches(n_classes, dtype):
        for pattern in patterns if position in (0, n_classes - 1) else patterns[:2]:
            put_nan(x[EDGE], position, pattern)
            results = everything(x, y)
            context = f"NaN {pattern:#x} at {position} of {n_classes}"
            for name, got in results.items():
                assert np.isnan(got[EDGE]).all(), f"{name}, {context}: {got[EDGE]}"
            assert_neighbours_untouched(results, clean, context)


@pytest.mark.parametrize("n_classes", TYPICAL)
def test_plus_infinity_makes_its_row_nan_and_logsumexp_infinite(n_classes, isa, dtype):
    for position, x, y, clean in edge_batches(n_classes, dtype):
        x[EDGE, position] = np.inf
        results = everything(x, y)
        context = f"+inf at {position} of {n_classes}"
        for name, got in results.items():
            if name.startswith("logsumexp"):
                assert got[EDGE] == np.inf, f"{name}, {context}: {got[EDGE]}"
            else:
                assert np.isnan(got[EDGE]).all(), f"{name}, {context}: {got[EDGE]}"
        assert_neighbours_untouched(results, clean, context)


@pytest.mark.parametrize("others", [-np.inf, np.inf])
@pytest.mark.parametrize("n_classes", [2, 3, 17, 64, 2053])
def test_a_nan_beside_an_infinity_is_still_a_nan(n_classes, others, isa, dtype):
    for position in edge_positions(n_classes):
        x = np.full((1, n_classes), others, dtype)
        put_nan(x[0], position, NAN_BITS[dtype.name][3])
        for name, got in everything(x, np.array([0])).items():
            assert np.isnan(got).all(), f"{name}, NaN at {position} of {n_classes} among {others}"


@pytest.mark.parametrize("n_classes", TYPICAL[1:])
def test_minus_infinity_is_probability_zero_and_leaves_the_others_alone(n_classes, isa, dtype):
    for position, x, y, clean in edge_batches(n_classes, dtype):
        x[EDGE, position] = -np.inf
        y[EDGE] = (position + 1) % n_classes
        results = everything(x, y)
        context = f"-inf at {position} of {n_classes}"
        assert results["softmax"][EDGE, position] == 0, context
        assert results["log_softmax"][EDGE, position] == -np.inf, context
        oracle.check_softmax(results["softmax"], x, context=context)
        oracle.check_log_softmax(results["log_softmax"], x, context=context)
        oracle.check_logsumexp(results["logsumexp"], x, context=context)
        expected = oracle.softmax_loss(x, y, with_grad=True)
        oracle.check_loss(results["softmax_loss of labels"], expected, "none", dtype, context)
        oracle.check_grad(results["gradient of labels"][:, 1:], expected, "none", dtype, context)
        assert_neighbours_untouched(results, clean, context)


@pytest.mark.parametrize("n_classes", TYPICAL[1:])
def test_a_single_finite_value_among_minus_infinities_has_probability_one(n_classes, isa, dtype):
    for position in edge_positions(n_classes):
        x = np.full((1, n_classes), -np.inf, dtype)
        x[0, position] = -3.5
        one_hot = np.zeros((1, n_classes), dtype)
        one_hot[0, position] = 1
        np.testing.assert_array_equal(sf.softmax(x), one_hot)
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(sf.log_softmax(x), np.log(one_hot))
        assert sf.logsumexp(x)[0] == -3.5
        assert sf.softmax_loss(x, [position]) == 0
        assert sf.softmax_loss(x, [(position + 1) % n_classes]) == np.inf


@pytest.mark.parametrize("n_classes", TYPICAL)
def test_a_row_of_minus_infinity_is_nan_and_its_logsumexp_minus_infinity(n_classes, isa, dtype):
    x = logits((N_ROWS, n_classes), dtype)
    y = labels(N_ROWS, n_classes)
    clean = everything(x, y)
    x[EDGE] = -np.inf
    results = everything(x, y)
    for name, got in results.items():
        if name.startswith("logsumexp"):
            assert got[EDGE] == -np.inf, name
        else:
            assert np.isnan(got[EDGE]).all(), name
    assert_neighbours_untouched(results, clean, f"row of -inf, C={n_classes}")


@pytest.mark.parametrize("n_classes", [1, 3, 16, 33, 2053])
def test_a_label_of_probability_zero_has_infinite_loss_and_a_finite_gradient(n_classes, isa, dtype):
    for position, x, y, _ in edge_batches(n_classes, dtype):
        if n_classes == 1:
            continue
        x[EDGE, position] = -np.inf
        y[EDGE] = position
        loss, grad = sf.softmax_loss_and_grad(x, y, reduction="none")
        assert loss[EDGE] == np.inf and np.isfinite(loss[OTHERS]).all()
        oracle.check_grad(grad, oracle.softmax_loss(x, y, with_grad=True), "none", dtype)
        assert sf.softmax_loss(x, y) == np.inf


@pytest.mark.parametrize("n_classes", [2, 17, 100, 2053])
def test_a_target_of_zero_contributes_nothing_where_the_logit_is_minus_infinity(
    n_classes, isa, dtype
):
    for position, x, _, _ in edge_batches(n_classes, dtype):
        t = distributions(x.shape, dtype)
        t[:, (position + 1) % n_classes] = 0.25
        x[EDGE, position] = -np.inf
        t[EDGE, position] = 0
        loss, grad = sf.softmax_loss_and_grad(x, t, reduction="none")
        expected = oracle.softmax_loss(x, t, with_grad=True)
        assert np.isfinite(loss).all()
        oracle.check_loss(loss, expected, "none", dtype)
        oracle.check_loss(sf.softmax_loss(x, t, reduction="none"), expected, "none", dtype)
        oracle.check_grad(grad, expected, "none", dtype)
        t[EDGE, position] = 0.5
        assert sf.softmax_loss(x, t, reduction="none")[EDGE] == np.inf


def test_smoothing_gives_a_masked_class_a_share_and_so_an_infinite_loss(isa, dtype):
    x = logits((3, 20), dtype)
    x[1, 4] = -np.inf
    y = [0, 1, 2]
    assert np.isfinite(sf.softmax_loss(x, y, reduction="none")).all()
    got = sf.softmax_loss(x, y, reduction="none", label_smoothing=0.1)
    assert got[1] == np.inf and np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_classes", [1, 3, 16, 100, 2053])
def test_an_ignored_row_is_not_read(n_classes, garbage, isa, dtype):
    x = logits((N_ROWS, n_classes), dtype)
    y = labels(N_ROWS, n_classes)
    y[EDGE] = -100
    clean_loss, clean_grad = sf.softmax_loss_and_grad(x, y, reduction="none")
    clean_mean = sf.softmax_loss(x, y)
    x[EDGE] = garbage
    loss, grad = sf.softmax_loss_and_grad(x, y, reduction="none")
    assert loss[EDGE] == 0 and not grad[EDGE].any()
    oracle.assert_same_bits(loss, clean_loss)
    oracle.assert_same_bits(grad, clean_grad)
    oracle.assert_same_bits(sf.softmax_loss(x, y, reduction="none"), clean_loss)
    assert sf.softmax_loss(x, y) == clean_mean
    assert sf.selected_log_probs(x, y)[EDGE] == 0
    expected = oracle.softmax_loss(x, y, with_grad=True)
    for reduction in ("mean", "sum"):
        loss, grad = sf.softmax_loss_and_grad(x, y, reduction=reduction)
        oracle.check_loss(loss, expected, reduction, dtype)
        oracle.check_grad(grad, expected, reduction, dtype)
        assert not grad[EDGE].any()


def spoilt(logits_or_probabilities, of_logits):
    """The array with what a row of weight 0 may hold in row EDGE."""
    for garbage in (np.nan, np.inf, -np.inf) if of_logits else (np.nan, 0.0, 1.0):
        for where in (slice(None), 0, -1):
            array = logits_or_probabilities.copy()
            array[EDGE, where] = garbage
            yield array


# Was wrong: weight 0 times an infinite or NaN loss was NaN for labels and 0 for one-hot targets.
@pytest.mark.parametrize("n_classes", [2, 17, 100, 300, 2053])
@pytest.mark.parametrize("zero", ["sample_weight", "weight"])
@pytest.mark.parametrize("name", taking("sample_weight", among=ROW_FUNCTIONS))
def test_a_row_of_weight_zero_is_not_there(name, zero, n_classes, isa, dtype):
    function = ROW_FUNCTIONS[name]
    if zero == "weight" and "y" not in function.inputs:
        return  # only a label names the class whose weight is the row's
    x, y, t = problem((N_ROWS, n_classes), dtype)
    t = np.maximum(t, dtype.type(1e-3))
    if zero == "weight":
        y = np.where(y == y[EDGE], (y + 1) % n_classes, y)
        y[EDGE] = (y[EDGE] - 1) % n_classes
        weight = np.linspace(0.5, 1.5, n_classes)
        weight[y[EDGE]] = 0
    else:
        weight = np.linspace(0.5, 1.5, N_ROWS)
        weight[EDGE] = 0
        if name in BINARY:
            weight = np.broadcast_to(weight[:, None], x.shape)
    options = {zero: weight}
    first, *others = function.arguments(x, y, t)
    clean = function.on(first, *others, **options)
    assert not clean[EDGE].any()
    for array in spoilt(first, "x" in function.inputs):
        got = function.on(array, *others, **options)
        assert not got[EDGE].any(), f"{name}: {got[EDGE]}"
        oracle.assert_same_bits(got, clean, name)
        for reduction in ("mean", "sum"):
            got = function.reduced_on(array, *others, reduction=reduction, **options)
            expected = function.reduced(x, y, t, reduction=reduction, **options)
            assert np.isfinite(got) and got == expected, f"{name}, {reduction}"


# Was wrong: NaN, as above.
def test_the_gradient_of_a_mean_leaves_out_rows_of_weight_zero(isa, dtype):
    x, y, v = logits((4, 300), dtype), labels(4, 300), np.array([1.0, 0, 2, 0.5])
    for targets in (y, np.eye(300, dtype=dtype)[y]):
        for smoothing in (0.0, 0.1):
            options = {"sample_weight": v, "label_smoothing": smoothing}
            expected = oracle.softmax_loss(x, targets, with_grad=True, **options)
            spoilt = x.copy()
            spoilt[1] = np.nan
            loss, grad = sf.softmax_loss_and_grad(spoilt, targets, **options)
            oracle.check_loss(loss, expected, "mean", dtype)
            oracle.check_grad(grad, expected, "mean", dtype)


def test_the_label_of_a_row_of_weight_zero_is_still_checked(isa, dtype):
    x, y, v = logits((4, 30), dtype), np.array([0, 30, 2, 3]), np.array([1.0, 0, 2, 0.5])
    for function in (sf.softmax_loss, sf.softmax_loss_and_grad, sf.cross_entropy):
        with pytest.raises(IndexError, match="30"):
            function(np.clip(x, 0, 1), y, sample_weight=v)


# Was wrong: a RuntimeWarning of NumPy's.
def test_a_sum_of_weights_that_overflows_does_not_warn(isa, dtype):
    x, y, v = logits((4, 30), dtype), labels(4, 30), np.full(4, 1e308)
    t = distributions(x.shape, dtype)
    for reduction in ("mean", "sum"):
        for targets in (y, t):
            sf.softmax_loss(x, targets, sample_weight=v, reduction=reduction)
            sf.softmax_loss_and_grad(x, targets, sample_weight=v, reduction=reduction)
        sf.linear_softmax_loss(x, np.eye(30, dtype=dtype), t, sample_weight=v, reduction=reduction)
        w = np.broadcast_to(v[:, None], x.shape)
        sf.binary_cross_entropy_with_logits(x, t, sample_weight=w, reduction=reduction)
        sf.binary_cross_entropy(t, t, sample_weight=w, reduction=reduction)
        sf.cross_entropy(t, t, sample_weight=v, reduction=reduction)


def test_mean_over_nothing_is_nan_and_sum_zero(isa, dtype):
    x = logits((3, 4), dtype)
    y = np.full(3, -100)
    assert np.isnan(sf.softmax_loss(x, y))
    assert sf.softmax_loss(x, y, reduction="sum") == 0
    np.testing.assert_array_equal(sf.softmax_loss(x, y, reduction="none"), np.zeros(3, dtype))
    loss, grad = sf.softmax_loss_and_grad(x, y)
    assert np.isnan(loss) and not grad.any()


def test_mean_over_weights_of_zero_is_nan(isa, dtype):
    x, y = logits((3, 4), dtype), labels(3, 4)
    for options in ({"sample_weight": np.zeros(3)}, {"weight": np.zeros(4)}):
        assert np.isnan(sf.softmax_loss(x, y, **options))
        assert np.isnan(sf.softmax_loss_and_grad(x, y, **options)[0])
        assert sf.softmax_loss(x, y, reduction="sum", **options) == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(reduction, isa, dtype):
    x = np.empty((0, 4), dtype)
    for y in (np.empty(0, np.int64), np.empty((0, 4), dtype)):
        loss, grad = sf.softmax_loss_and_grad(x, y, reduction=reduction)
        assert grad.shape == (0, 4) and grad.dtype == dtype
        for got in (loss, sf.softmax_loss(x, y, reduction=reduction)):
            if reduction == "none":
                assert got.shape == (0,) and got.dtype == dtype
            else:
                assert np.isnan(got) if reduction == "mean" else got == 0
    assert sf.softmax(x).shape == sf.log_softmax(x).shape == (0, 4)
    assert sf.logsumexp(x).shape == (0,)
    assert sf.logsumexp(x, keepdims=True).shape == (0, 1)
    assert sf.selected_log_probs(x, np.empty((0, 2), np.int64)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 3, 0), (0, 0)])
def test_no_classes(shape, isa, dtype):
    x = np.empty(shape, dtype)
    for function in (sf.softmax, sf.log_softmax):
        got = function(x)
        assert got.shape == shape and got.dtype == dtype
    got = sf.logsumexp(x)
    assert np.shape(got) == shape[:-1]
    assert (np.asarray(got) == -np.inf).all()
    with pytest.raises(ValueError, match="class"):
        sf.softmax_loss(x, np.zeros(shape[:-1], np.int64))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_empty_dimensions_along_every_axis(shape, axis, dtype):
    x = np.empty(shape, dtype)
    assert sf.softmax(x, axis).shape == sf.log_softmax(x, axis).shape == shape
    got = sf.logsumexp(x, axis)
    assert got.shape == shape[:axis] + shape[axis + 1 :]
    assert (got == -np.inf).all()


def test_one_class_is_certain(isa, dtype):
    x = logits((7, 1), dtype, scale=100)
    np.testing.assert_array_equal(sf.softmax(x), np.ones_like(x))
    np.testing.assert_array_equal(sf.log_softmax(x), np.zeros_like(x))
    np.testing.assert_array_equal(sf.logsumexp(x), x[:, 0])
    loss, grad = sf.softmax_loss_and_grad(x, np.zeros(7, int))
    assert loss == 0 and not grad.any()


def test_results_below_the_smallest_normal_number_underflow_gradually(isa, dtype):
    info = np.finfo(dtype)
    lowest, tiny = np.log(float(info.smallest_subnormal)), np.log(float(info.tiny))
    d = np.linspace(lowest, tiny, 257).astype(dtype)
    p = sf.softmax(np.stack([np.zeros_like(d), d], axis=-1))[:, 1]
    assert (p[8:] > 0).all() and (p[:-8] < info.tiny).all()
    assert len(np.unique(p)) > 200


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_logits_never_warn(value, isa, dtype):
    y = labels(N_ROWS, 33)
    for position in (0, 16, 32):
        x = logits((N_ROWS, 33), dtype)
        x[EDGE, position] = value
        x[EDGE + 1] = value
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            everything(x, y)
            for reduction in ("mean", "sum", "none"):
                sf.softmax_loss(x, y, reduction=reduction)
                sf.softmax_loss_and_grad(x, y, reduction=reduction)
                sf.softmax_loss(x, y, reduction=reduction, label_smoothing=0.1, weight=np.ones(33))
