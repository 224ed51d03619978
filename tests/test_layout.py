"""Rows of any layout reach the kernels cut at multiples of one number, and in bounded buffers."""

import itertools
import math
import sys
import tracemalloc

import numpy as np
import oracle
import pytest
from cases import distributions, generator, labels, logits

import softmax_fast as sf
from softmax_fast import _core, _layout


@pytest.mark.parametrize(
    "outer", [(7,), (1, 1), (3, 5), (4, 1, 3), (2, 3, 4), (2, 2, 3, 2)], ids=str
)
def test_rectangles_cover_any_range_of_rows_once_and_in_order(outer):
    numbers = np.arange(math.prod(outer)).reshape(outer)
    for start, stop in itertools.combinations(range(numbers.size + 1), 2):
        indices = list(_layout.rectangles(outer, start, stop))
        parts = [numbers[index].reshape(-1) for index in indices]
        assert np.concatenate(parts).tolist() == list(range(start, stop))
        assert len(indices) <= max(1, 2 * len(outer) - 1)


def strided(shape, dtype=np.float32):
    """An array of ``shape`` whose dimensions do not coalesce, and a contiguous copy."""
    wide = generator(*shape).standard_normal([2 * n for n in shape]).astype(dtype)
    view = wide[tuple(slice(None, None, 2) for _ in shape)]
    return view, view.copy()


SHAPES = [
    (1000, 3),
    (3, 700, 10),
    (9, 3, 700, 10),
    (3, 300, 500, 1),
    (5, 7, 9, 600),
    (2, 3, 5, 20_000),
    (5, 3, 4, 40_000),
    (4, 8, 32, 64, 2),  # inner dimensions of whole cuts
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cut", [1, None], ids=["rows", "sums"])
def test_blocks_begin_at_multiples_of_the_cut_and_hold_their_rows(shape, cut):
    x, copy = strided(shape)
    out, n_rows = strided(shape)[0] * 0, x.size // shape[-1]
    cut = cut or _core.cut(shape[-1])
    temperature = generator(1).random(n_rows) + 0.5
    wanted = sf.softmax(copy, temperature=temperature.reshape(shape[:-1]))
    maxima, rests = np.empty(n_rows), np.empty(n_rows)
    (whole,) = _layout.row_blocks(_layout.Source(copy, "f32"), x.ndim - 1, temperature=temperature)
    _core.row_stats(whole, maxima, rests, 1)
    seen = 0
    for block in _layout.row_blocks(
        _layout.Source(x, "f32"), x.ndim - 1, cut=cut, out=out, temperature=temperature
    ):
        rows = block.rows
        assert rows.start == seen and rows.start % cut == 0
        maximum, rest = np.empty((2, rows.stop - rows.start))
        _core.row_stats(block, maximum, rest, 1)
        assert (maximum == maxima[rows]).all() and (rest == rests[rows]).all()
        _core.exponentials(block, maximum, 1 / (1 + rest), 1)
        seen = rows.stop
    assert seen == n_rows
    np.testing.assert_allclose(out, wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [(37, 10), (6, 50, 10), (4, 300, 3)], ids=str)
@pytest.mark.parametrize("most", [1, 7, 64, 10_000])
def test_blocks_split_into_blocks_of_their_rows(shape, most):
    x, copy = strided(shape)
    n_rows = x.size // shape[-1]
    temperature = generator(1).random(n_rows) + 0.5
    (whole,) = _layout.row_blocks(_layout.Source(copy, "f32"), x.ndim - 1, temperature=temperature)
    maxima, rests = np.empty(n_rows), np.empty(n_rows)
    _core.row_stats(whole, maxima, rests, 1)
    seen = 0
    for block in _layout.row_blocks(_layout.Source(x, "f32"), x.ndim - 1, temperature=temperature):
        for part in _layout.split(block, most):
            rows = part.rows
            assert rows.start == seen and 0 < rows.stop - rows.start <= max(most, 1)
            maximum, rest = np.empty((2, rows.stop - rows.start))
            _core.row_stats(part, maximum, rest, 1)
            assert (maximum == maxima[rows]).all() and (rest == rests[rows]).all()
            seen = rows.stop
    assert seen == n_rows


@pytest.mark.parametrize("place", ["first", "last"])
def test_an_error_in_any_block_leaves_no_array_alive(place):
    """Neither the blocks nor who yields them may hold what the other holds."""
    shape = (9, 5, 70, 100)
    x = strided(shape)[0]
    y, t = np.zeros(shape[:-1], np.int64), np.full(shape, 0.5)
    bad = (0,) * 3 if place == "first" else (-1,) * 3
    y[bad], t[bad] = 100, 2
    calls = [
        lambda: sf.softmax_loss(x, y),
        lambda: sf.selected_log_probs(x, y),
        lambda: sf.cross_entropy(t, y * 0),
        lambda: sf.binary_cross_entropy_with_logits(x, t),
    ]
    for call in calls:
        before = [sys.getrefcount(a) for a in (x, y, t)]
        with pytest.raises((IndexError, ValueError)):
            call()
        assert [sys.getrefcount(a) for a in (x, y, t)] == before


def test_the_cut_depends_on_the_classes_alone():
    for n_classes in [*range(1, 2000), 10**5, 2**33]:
        cut = _core.cut(n_classes)
        assert cut % 16 == 0 and cut >= 16
        assert cut * n_classes <= 16384 or cut == 16


REDUCED = {
    "softmax_loss": lambda x, t, **k: sf.softmax_loss(x, t, **k),
    "softmax_loss_and_grad": lambda x, t, **k: sf.softmax_loss_and_grad(x, t, **k)[0],
    "cross_entropy": lambda x, t, **k: sf.cross_entropy(abs(np.tanh(x)), t, **k),
}


def layouts(x):
    """The same values in layouts with and without views, and the copy."""
    yield x.copy()
    yield x
    for order in itertools.permutations(range(x.ndim)):
        yield np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@pytest.mark.parametrize("shape", [(9, 13, 11, 10), (3, 40, 5, 130), (4, 64, 64, 2)], ids=str)
@pytest.mark.parametrize("name", REDUCED)
def test_sums_do_not_depend_on_the_layout(name, shape, dtype):
    x = strided(shape, dtype)[0]
    y = labels(shape[:-1], shape[-1])
    t = distributions(shape, dtype)
    v = generator(3).random(shape[:-1])
    for reduction in ("mean", "sum"):
        for targets in (y, t):
            k = {"sample_weight": v, "temperature": v + 0.5, "reduction": reduction}
            if name == "cross_entropy":
                del k["temperature"]
            results = {float(REDUCED[name](view, targets, **k)) for view in layouts(x)}
            assert len(results) == 1, results


@pytest.mark.parametrize("shape", [(700, 300), (3, 5, 20_001), (300_001,)], ids=str)
def test_sums_of_binary_losses_do_not_depend_on_the_layout(shape, dtype):
    x = strided(shape, dtype)[0]
    t, v = (generator(n).random(shape).astype(dtype) for n in (4, 5))
    for reduction in ("mean", "sum"):
        k = {"reduction": reduction}
        for call in (
            lambda x, t, k=k: sf.binary_cross_entropy_with_logits(x, t, **k),
            lambda x, t, k=k: sf.binary_cross_entropy_with_logits(x, t, sample_weight=v, **k),
            lambda x, t, k=k: sf.binary_cross_entropy(abs(np.tanh(x)), t, **k),
        ):
            results = {float(call(view, t)) for view in layouts(x)}
            results |= {float(call(x, view)) for view in layouts(t)}
            assert len(results) == 1, results


def test_bad_rows_of_later_blocks_are_numbered_from_the_first(dtype):
    shape = (9, 3, 700, 10)
    x = strided(shape, dtype)[0]
    y = labels(shape[:-1], 10)
    y[8, 2, 650] = 10
    for call in (
        lambda: sf.softmax_loss(x, y),
        lambda: sf.softmax_loss_and_grad(x, y),
        lambda: sf.cross_entropy(abs(np.tanh(x)), y),
    ):
        with pytest.raises(IndexError, match=r"^targets\[8, 2, 650\] = 10 "):
            call()
    with pytest.raises(IndexError, match=r"^indices\[8, 2, 650\] = 10 "):
        sf.selected_log_probs(x, y)
    p = abs(np.tanh(x))
    wide = np.zeros((9, 3, 700, 20), dtype)
    wide[..., ::2] = p
    wide[8, 2, 650, 6] = 1.25
    y[8, 2, 650] = 0
    with pytest.raises(ValueError, match=r"^probs\[8, 2, 650, 3\] = 1\.25 "):
        sf.cross_entropy(wide[..., ::2].transpose(1, 0, 2, 3).transpose(1, 0, 2, 3), y)
    t = np.zeros((3, 100_001), dtype)
    t[2, 99_999] = 2
    with pytest.raises(ValueError, match=r"^targets\[2, 99999\] = 2"):
        sf.binary_cross_entropy(np.asfortranarray(t) * 0, t)


def test_targets_of_every_floating_dtype_are_read_in_their_own(dtype):
    x = logits((40, 7), dtype)
    t = distributions((40, 7), np.float16)
    expected = sf.softmax_loss(x, t.astype(dtype), reduction="none")
    for other in (np.float16, np.float32, np.float64):
        oracle.assert_same_bits(sf.softmax_loss(x, t.astype(other), reduction="none"), expected)


def test_buffers_are_bounded():
    shape = (40, 5, 300, 50)  # 12 MB of float32 in a view of eight times that
    x, y = strided(shape)[0], labels(shape[:-1], 50)
    t = np.zeros(shape, bool)
    sf.softmax_loss(x[:1], y[:1])
    for call in (
        lambda: sf.softmax_loss(x, y),
        lambda: sf.logsumexp(x),
        lambda: sf.binary_cross_entropy_with_logits(x, t),
    ):
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 6e6, peak


# Where one more dimension was needed this was an IndexError.
def test_arrays_may_have_as_many_dimensions_as_numpy_allows():
    most = next(n for n in range(32, 999) if not _has_dimensions(n + 1))
    p = distributions((4, 3, 2), np.float64)
    wide, labels_ = p.reshape(4, 3, 2, *(1,) * (most - 3)), labels(12, 2).reshape(4, 3)
    x, t = np.moveaxis(wide, 2, -1).swapaxes(0, 1), np.moveaxis(1 - wide, 2, -1).swapaxes(0, 1)
    y = labels_.T.reshape(x.shape[:-1])
    flat_x, flat_t = np.ascontiguousarray(x).ravel(), np.ascontiguousarray(t).ravel()
    for binary in (sf.binary_cross_entropy, sf.binary_cross_entropy_with_logits):
        for reduction in ("mean", "none"):
            got = binary(x, t, reduction=reduction)
            assert (np.ravel(got) == binary(flat_x, flat_t, reduction=reduction)).all()
    rows = flat_x.reshape(12, 2)
    assert sf.fit_temperature(x, y) == sf.fit_temperature(rows, y.ravel())
    assert sf.softmax_loss(x, y) == sf.softmax_loss(rows, y.ravel())


def _has_dimensions(n):
    try:
        np.empty((1,) * n)
    except ValueError:
        return False
    return True
