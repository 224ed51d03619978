"""Any dtype, layout and container gives the right answer; out is exact, or untouched."""

import array
import itertools

import numpy as np
import oracle
import pytest
from cases import (
    LAYOUTS,
    ROW_FUNCTIONS,
    distributions,
    every_function,
    every_row_function,
    generator,
    labels,
    logits,
    placed,
    problem,
)

import softmax_fast as sf


@every_row_function
def test_labels_in_any_layout(name):
    x, y, t = problem((40, 7), np.float32)
    expected = ROW_FUNCTIONS[name](x, y, t)
    for labels_ in (
        y.repeat(2)[::2],
        y[::-1].copy()[::-1],
        y.astype(">i4"),
        y.tolist(),
        y.astype(np.int32),
    ):
        oracle.assert_same_bits(ROW_FUNCTIONS[name](x, labels_, t), expected)


@every_function
def test_zero_strides(function, isa, dtype):
    row = logits((33,), dtype)
    expected = function(np.ascontiguousarray(np.broadcast_to(row, (6, 33))))
    oracle.assert_same_bits(function(np.broadcast_to(row, (6, 33))), expected)
    column = logits((6, 1), dtype)
    spread = np.broadcast_to(column, (6, 33))
    oracle.assert_same_bits(function(spread), function(np.ascontiguousarray(spread)))
    point = np.broadcast_to(dtype.type(2.5), (2, 3, 4))
    oracle.assert_same_bits(function(point, 1), function(np.ascontiguousarray(point), 1))


@every_function
@pytest.mark.parametrize("axis", range(-4, 4))
def test_every_axis_of_four_dimensions(function, axis, isa, dtype):
    x = logits((3, 4, 5, 6), dtype)
    oracle.CHECKS[function.__name__](function(x, axis), x, axis)
    last = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    expected = function(last)
    if function is not sf.logsumexp:
        expected = np.moveaxis(expected, -1, axis)
    oracle.assert_same_bits(function(x, axis), expected, "the bits of the transposed copy")


@every_function
def test_every_order_of_four_dimensions(function, dtype):
    x = logits((3, 4, 5, 2), dtype)
    for order in itertools.permutations(range(4)):
        view = x.transpose(order)[:, ::-1]
        copy = np.ascontiguousarray(view)
        for axis in range(4):
            oracle.assert_same_bits(
                function(view, axis), function(copy, axis), f"{order}, axis {axis}"
            )


@every_function
@pytest.mark.parametrize(
    "shape", [(1000, 17), (17, 1000), (3, 2100, 5), (2, 3, 4, 5, 6), (70, 130)], ids=str
)
def test_axes_other_than_the_last_of_larger_arrays(function, shape, isa, dtype, n_threads):
    x = logits(shape, dtype)
    for axis in range(len(shape) - 1):
        got = function(x, axis, n_threads=n_threads)
        oracle.CHECKS[function.__name__](got, x, axis)


@every_function
@pytest.mark.parametrize("axis", [0, 1])
def test_row_temperatures_follow_the_axis(function, axis):
    x = logits((5, 6, 7), np.float64)
    rows = np.delete(x.shape, axis)
    temperature = generator(40).uniform(0.3, 3, rows)
    check = oracle.CHECKS[function.__name__]
    check(function(x, axis, temperature=temperature), x, axis, temperature)
    check(function(x, axis, temperature=temperature[0]), x, axis, temperature[0])


@every_function
def test_inputs_are_left_alone(function, dtype):
    for axis in (0, 1):
        x = logits((20, 33), dtype)
        before = oracle.bits(x)
        function(x, axis)
        assert oracle.bits(x) == before


def test_results_do_not_share_memory_with_the_logits(dtype):
    x = logits((3, 4), dtype)
    assert not np.shares_memory(sf.softmax(x), x)
    assert not np.shares_memory(sf.softmax_loss_and_grad(x, [0, 1, 2])[1], x)


def test_the_result_of_an_axis_is_an_ordinary_array(dtype):
    for axis in (0, 1, 2):
        got = sf.softmax(logits((3, 4, 5), dtype), axis)
        assert type(got) is np.ndarray and got.flags.writeable and got.dtype.isnative


# Containers


@every_function
def test_lists_and_numbers_are_float64(function):
    oracle.assert_same_bits(function([[1, 2], [3, 4.5]]), function(np.array([[1, 2], [3, 4.5]])))


@every_function
def test_the_buffer_protocol(function, dtype):
    values = logits((8,), dtype)
    for holder in (
        array.array("f" if dtype == np.float32 else "d", values.tolist()),
        memoryview(values),
    ):
        oracle.assert_same_bits(function(holder), function(values))


class Holder:
    """An object with ``__array__`` and nothing else."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


@every_function
def test_objects_with_an_array_method(function, dtype):
    x = logits((4, 5), dtype)
    oracle.assert_same_bits(function(Holder(x)), function(x))


def test_targets_and_weights_with_an_array_method():
    x, y, t = problem((4, 5), np.float64)
    w = np.arange(5.0)
    expected = sf.softmax_loss(x, y, weight=w)
    assert sf.softmax_loss(Holder(x), Holder(y), weight=Holder(w)) == expected
    assert sf.softmax_loss(x, y.tolist(), weight=w.tolist()) == expected
    assert sf.softmax_loss(x, Holder(t)) == sf.softmax_loss(x, t)


class Failing:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array today")


class Changing:
    """Grows by one row each time it is asked."""

    def __init__(self):
        self.asked = 0

    def __array__(self, dtype=None, copy=None):
        self.asked += 1
        return np.zeros((self.asked, 3))


@every_function
def test_objects_that_lie_do_no_harm(function):
    with pytest.raises(TypeError, match=r"x of type .*Failing makes no array: no array today"):
        function(Failing())
    assert function(Changing()).shape[0] in (1, 2, 3)


class Subclass(np.ndarray):
    pass


@every_function
def test_subclasses_are_read_as_plain_arrays(function, dtype):
    x = logits((4, 5), dtype)
    got = function(x.view(Subclass))
    oracle.assert_same_bits(got, function(x))
    assert type(got) is np.ndarray


@every_function
def test_memory_maps(function, dtype, tmp_path):
    x = logits((40, 33), dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    oracle.assert_same_bits(function(mapped), function(x))
    oracle.assert_same_bits(function(mapped[::2, ::3]), function(x[::2, ::3]))
    assert type(function(mapped)) is np.ndarray


def test_a_memory_mapped_out(dtype, tmp_path):
    x = logits((40, 33), dtype)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", dtype, x.shape)
    assert sf.softmax(x, out=out) is out
    out.flush()
    oracle.assert_same_bits(np.load(tmp_path / "out.npy"), sf.softmax(x))


@every_function
def test_masked_arrays_are_refused(function):
    x = np.ma.masked_array([[1.0, 2.0]], mask=[[True, False]])
    with pytest.raises(TypeError, match="(?i)masked"):
        function(x)


def test_masked_targets_are_refused():
    with pytest.raises(TypeError, match="(?i)masked"):
        sf.softmax_loss(np.zeros((2, 3)), np.ma.masked_array([0, 1], mask=[True, False]))


@every_function
@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 3), np.complex128),
        np.zeros((2, 3), object),
        np.full((2, 3), "a"),
        np.zeros((2, 3), "datetime64[s]"),
        np.zeros((2, 3), "timedelta64[s]"),
        np.zeros((2, 3), [("a", float)]),
        np.zeros((2, 3), "S4"),
    ],
    ids=lambda a: a.dtype.name,
)
def test_other_dtypes_are_refused_by_name(function, bad):
    with pytest.raises(TypeError) as error:
        function(bad)
    assert str(bad.dtype) in str(error.value) or bad.dtype.name in str(error.value)


# out


@every_function
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (40, 33), (5, 2053)], ids=str)
def test_out_is_filled_and_returned(function, shape, isa, dtype):
    x = logits(shape, dtype)
    for axis in (0, 1):
        expected = function(x, axis)
        out = np.full(expected.shape, 7, dtype)
        assert function(x, axis, out=out) is out
        oracle.assert_same_bits(out, expected)
        if expected.ndim == 2:
            for layout in LAYOUTS:
                view = placed(out, layout)
                assert function(x, axis, out=view) is view
                oracle.assert_same_bits(view, expected, f"out: {layout}")


def test_an_unaligned_out_of_one_row(dtype):
    x = logits((5,), dtype)
    out = np.zeros(5 * dtype.itemsize + 1, np.uint8)[1:].view(dtype)
    oracle.assert_same_bits(sf.softmax(x, out=out), sf.softmax(x))
    oracle.assert_same_bits(
        sf.softmax_loss_and_grad(x, 2, grad_out=out)[1], sf.softmax_loss_and_grad(x, 2)[1]
    )
    number = np.zeros(dtype.itemsize + 1, np.uint8)[1:].view(dtype).reshape(())
    oracle.assert_same_bits(sf.logsumexp(x[::2], out=number), sf.logsumexp(x[::2]))


@every_function
def test_temperatures_of_more_dimensions_than_numpy_iterates_over(function):
    x = logits((2, 3, *(1,) * 40, 4), np.dtype(np.float64))
    each = np.asfortranarray(generator(4).random(x.shape[:-1]) + 0.5)
    oracle.assert_same_bits(function(x, temperature=each), function(x, temperature=each.copy("C")))
    each[1, 2] = -1
    with pytest.raises(
        ValueError, match=r"^temperature\[1, 2, 0, .*\] = -1.0 is not finite and > 0$"
    ):
        function(x, temperature=each)


def test_byte_swapped_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = logits((4, 9), np.dtype(np.float32)).astype(ml_dtypes.bfloat16)
    oracle.assert_same_bits(sf.softmax(x.astype(x.dtype.newbyteorder())), sf.softmax(x))


def test_a_strided_out_leaves_the_gaps_alone(isa, dtype):
    x = logits((20, 33), dtype)
    for function in (sf.softmax, sf.log_softmax):
        buffer = np.full((40, 99), 7, dtype)
        function(x, out=buffer[1::2, ::3])
        oracle.assert_same_bits(buffer[1::2, ::3], function(x))
        assert (
            (buffer[::2] == 7).all()
            and (buffer[:, 1::3] == 7).all()
            and (buffer[:, 2::3] == 7).all()
        )


@pytest.mark.parametrize("function", [sf.softmax, sf.log_softmax], ids=lambda f: f.__name__)
def test_in_place_gives_the_same_bits(function, isa, dtype, n_threads):
    for shape in ((1, 1), (7, 3), (64, 10), (5, 2053), (1, 20_001)):
        for axis in (0, 1):
            for order in "CF":
                x = np.array(logits(shape, dtype), order=order)
                expected = function(x, axis, n_threads=n_threads)
                assert function(x, axis, out=x, n_threads=n_threads) is x
                oracle.assert_same_bits(x, expected, f"{shape}, axis {axis}, {order}")
    block = logits((40, 66), dtype)
    view = block[::-2, ::-2]
    expected = function(view)
    function(view, out=view)
    oracle.assert_same_bits(view, expected, "in place with strides")


def test_logsumexp_out_of_every_shape(dtype):
    x = logits((3, 4, 5), dtype)
    for axis in (0, 1, 2):
        for keepdims in (False, True):
            expected = sf.logsumexp(x, axis, keepdims=keepdims)
            out = np.empty_like(expected)
            assert sf.logsumexp(x, axis, keepdims=keepdims, out=out) is out
            oracle.assert_same_bits(out, expected)
    out = np.empty((), dtype)
    assert sf.logsumexp(x[0, 0], out=out) is out
    oracle.assert_same_bits(out, sf.logsumexp(x[0, 0]))


def overlapping(dtype):
    """(logits, out) pairs that share memory without being the same."""
    buffer = logits((12, 12), dtype)
    yield "one element on", buffer.ravel()[:-1].reshape(11, 13), buffer.ravel()[1:].reshape(11, 13)
    yield "one row on", buffer[:-1], buffer[1:]
    yield "transposed", buffer, buffer.T
    yield "reversed", buffer, buffer[::-1]
    yield "classes reversed", buffer, buffer[:, ::-1]
    yield "wider", buffer[:6, ::2], buffer[:6, :6]


def test_partial_overlap_is_refused(dtype):
    for name, x, out in overlapping(dtype):
        before = oracle.bits(out)
        for function in (sf.softmax, sf.log_softmax):
            with pytest.raises(ValueError, match="overlap|shares memory"):
                function(x, out=out)
            assert oracle.bits(out) == before, name
        with pytest.raises(ValueError, match="overlap|shares memory"):
            sf.softmax_loss_and_grad(x, np.zeros(len(x), int), grad_out=out)
        assert oracle.bits(out) == before, name


def test_interleaved_but_disjoint_out_is_accepted(dtype):
    buffer = logits((12, 12), dtype)
    x, out = buffer[:, ::2], buffer[:, 1::2]
    expected = sf.softmax(x.copy())
    oracle.assert_same_bits(sf.softmax(x, out=out), expected)


def test_out_that_overlaps_another_argument_is_refused():
    x, y, t = problem((6, 4), np.float64)
    with pytest.raises(ValueError, match="overlap|shares memory"):
        sf.softmax_loss_and_grad(x, t, grad_out=t)
    with pytest.raises(ValueError, match="overlap|shares memory"):
        sf.softmax_loss(x, y, reduction="none", out=x[:, 0])
    with pytest.raises(ValueError, match="overlap|shares memory"):
        sf.logsumexp(x, out=x[:, 0])


def test_out_that_overlaps_itself_is_refused(dtype):
    x = logits((4, 6), dtype)
    narrow = np.zeros(9, dtype)
    itself = np.lib.stride_tricks.as_strided(narrow, (4, 6), (dtype.itemsize, dtype.itemsize))
    for out in (itself, np.lib.stride_tricks.as_strided(narrow, (4, 6), (0, dtype.itemsize))):
        with pytest.raises(ValueError):
            sf.softmax(x, out=out)
        with pytest.raises(ValueError):
            sf.softmax_loss_and_grad(x, [0, 1, 2, 3], grad_out=out)
    assert not narrow.any()


def bad_outs(shape, dtype):
    """(out, words the error must hold) for a result of ``shape`` and ``dtype``."""
    other = np.float64 if dtype == np.float32 else np.float32
    yield np.zeros(shape, other), [dtype.name, np.dtype(other).name]
    yield np.zeros((*shape, 1), dtype), [str(shape)]
    yield np.zeros(tuple(n + 1 for n in shape), dtype), [str(shape)]
    yield np.zeros(shape, dtype.newbyteorder()), ["byte"]
    read_only = np.zeros(shape, dtype)
    read_only.flags.writeable = False
    yield read_only, ["writ|read-only"]
    yield [[0.0] * shape[-1]] * shape[0], ["ndarray|array"]


def test_a_bad_out_is_refused_by_what_is_wrong_with_it(dtype):
    x = logits((4, 6), dtype)
    for out, words in bad_outs((4, 6), dtype):
        for call in (
            lambda o: sf.softmax(x, out=o),
            lambda o: sf.log_softmax(x, out=o),
            lambda o: sf.softmax_loss_and_grad(x, [0, 1, 2, 3], grad_out=o),
        ):
            with pytest.raises((TypeError, ValueError)) as error:
                call(out)
            message = str(error.value)
            assert "out" in message
            for alternatives in words:
                assert any(word in message for word in alternatives.split("|")), message


BAD_ARGUMENTS = {
    "axis": {"axis": 5},
    "temperature": {"temperature": 0},
    "row temperature": {"temperature": [1.0, 1.0, np.nan, 1.0]},
    "n_threads": {"n_threads": 0},
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_nothing_is_written_when_an_argument_is_bad(case):
    x = logits((4, 6), np.float64)
    out, grad_out = np.full((4, 6), 7.0), np.full((4, 6), 7.0)
    losses = np.full(4, 7.0)
    bad = BAD_ARGUMENTS[case]
    for call in (
        lambda: sf.softmax(x, out=out, **bad),
        lambda: sf.log_softmax(x, out=out, **bad),
        lambda: sf.logsumexp(x, out=losses, **bad),
        lambda: sf.softmax_loss(x, [0, 1, 2, 3], reduction="none", out=losses, **bad),
        lambda: sf.softmax_loss_and_grad(
            x, [0, 1, 2, 3], reduction="none", out=losses, grad_out=grad_out, **bad
        ),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()
        assert (out == 7).all() and (grad_out == 7).all() and (losses == 7).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"weight": [1.0, -1, 1, 1, 1, 1]},
        {"weight": [1.0, 1]},
        {"sample_weight": [1.0, np.nan, 1, 1]},
        {"label_smoothing": 1.5},
        {"reduction": "max"},
        {"ignore_index": 1.5},
        {"targets": [0.5, 1, 2, 3]},
        {"targets": [0, 1, 2]},
        {"grad_out": np.zeros((4, 5))},
        {"out": np.zeros(5)},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_no_gradient_is_written_when_an_argument_is_bad(bad):
    x = logits((4, 6), np.float64)
    losses, grad_out = np.full(4, 7.0), np.full((4, 6), 7.0)
    options = {
        "targets": [0, 1, 2, 3],
        "reduction": "none",
        "out": losses,
        "grad_out": grad_out,
    } | bad
    with pytest.raises((ValueError, TypeError)):
        sf.softmax_loss_and_grad(x, options.pop("targets"), **options)
    assert (losses == 7).all() and (grad_out == 7).all()


# Size


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2**16, 2**15 + 1), (3, 2**30)], ids=["many rows", "long rows"])
def test_more_than_two_to_the_thirty_first_elements(shape):
    """Strides of zero make an index space past 2**31 out of one row's, or one number's, memory."""
    n_rows, n_classes = shape
    if n_rows > n_classes:
        row = logits((n_classes,), np.float32)
        x = np.broadcast_to(row, shape)
        expected = sf.logsumexp(row)
        loss = sf.softmax_loss(row[None], [7], reduction="none")[0]
    else:
        x = np.broadcast_to(np.float32(0.5), shape)
        expected = np.float32(0.5 + np.log(2.0**30))
        loss = np.float32(np.log(2.0**30))
    got = sf.logsumexp(x)
    assert (np.abs(got - expected) <= 4 * np.finfo(np.float32).eps * expected).all()
    losses = sf.softmax_loss(x, np.full(n_rows, 7), reduction="none")
    assert (np.abs(losses - loss) <= 4 * np.finfo(np.float32).eps * loss).all()


def test_distributions_of_the_tests_are_probabilities():
    t = distributions((50, 9), np.float32)
    assert ((0 <= t) & (t <= 1)).all() and (labels(50, 9) < 9).all()
