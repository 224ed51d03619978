"""Whatever comes in: the reference's answer or a documented exception, and never a stray write."""

import numpy as np
import oracle
import pytest
from cases import (
    BINARY,
    CHECKED,
    FUNCTIONS,
    LAYOUTS,
    LINEAR,
    ROW_FUNCTIONS,
    distributions,
    every_function,
    every_row_function,
    labels,
    logits,
    placed,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.exceptions import AxisError

import softmax_fast as sf

bounded = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.usefixtures("isa")

KINDS = [
    "as it is",
    "broadcast",
    "byte-swapped",
    "read-only",
    "Fortran",
    "overlapping",
    "unaligned",
]
FLOATS = [np.float16, np.float32, np.float64]
OTHERS = [np.int8, np.uint16, np.int32, np.int64, np.bool_]


@st.composite
def layouts(draw, array):
    """A view of ``array`` with its dimensions permuted, stepped, reversed or broadcast."""
    if array.ndim == 0:
        return array
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    steps = st.sampled_from([None, None, 2, -1, -2])
    array = array[tuple(slice(None, None, draw(steps)) for _ in range(array.ndim))]
    how = draw(st.sampled_from(KINDS))
    if how == "broadcast" and array.ndim < 5:
        return np.broadcast_to(array, (draw(st.integers(0, 3)), *array.shape))
    if how == "byte-swapped":
        return array.astype(array.dtype.newbyteorder())
    if how == "read-only":
        array = array.view()
        array.flags.writeable = False
    if how == "Fortran":
        return np.asfortranarray(array)
    if how == "overlapping" and array.ndim < 5 and array.shape[-1]:
        width = draw(st.integers(1, array.shape[-1]))
        return np.lib.stride_tricks.sliding_window_view(array, width, axis=-1)
    if how == "unaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
        copy = memory.view(array.dtype) if array.size else memory[:0].view(array.dtype)
        copy = copy.reshape(array.shape)
        copy[...] = array
        return copy
    return array


def shapes(min_dims=0, max_dims=5):
    """Up to five dimensions with zeros among them; one may be a few vectors long."""
    return st.one_of(
        hnp.array_shapes(min_dims=max(min_dims, 1), max_dims=max_dims, min_side=0, max_side=4),
        hnp.array_shapes(min_dims=max(min_dims, 1), max_dims=2, min_side=0, max_side=40),
        *([st.just(())] if min_dims == 0 else []),
    )


@st.composite
def arrays(draw, min_dims=0, dtypes=(*FLOATS, *OTHERS)):
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    elements = None
    if dtype.kind == "f":
        # usual logits, special values, and every number there is
        width = 8 * dtype.itemsize
        usual = st.integers(-200, 200).map(lambda n: n / 8)
        special = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0])
        elements = st.one_of(usual, usual, special, st.floats(width=width))
    return draw(layouts(draw(hnp.arrays(dtype, draw(shapes(min_dims)), elements=elements))))


good_temperatures = st.one_of(st.just(1.0), st.floats(1e-3, 1e3))
any_temperatures = st.one_of(
    good_temperatures,
    good_temperatures,
    st.sampled_from([0.0, -1.0, np.nan, np.inf, "warm", None, 5e-324, 1e300]),
)


def rows_shape(x, axis):
    return tuple(int(n) for n in np.delete(x.shape, axis))


def is_good_temperature(value):
    return isinstance(value, float) and 0 < value < np.inf


@st.composite
def row_temperatures(draw, rows):
    """One good temperature, or an array of them that broadcasts to ``rows``."""
    if draw(st.booleans()):
        return draw(good_temperatures)
    kept = draw(st.integers(0, len(rows)))
    shape = tuple(draw(st.sampled_from([1, n])) for n in rows[len(rows) - kept :])
    return draw(hnp.arrays(np.float64, shape, elements=st.floats(1e-3, 1e3)))


@every_function
@bounded
@given(data=st.data(), x=arrays(), temperature=any_temperatures)
def test_any_array_axis_and_temperature(function, data, x, temperature):
    axis = data.draw(st.integers(-x.ndim - 1, x.ndim))
    before = oracle.bits(x)
    n_threads = data.draw(st.sampled_from([None, 1, 2]))
    if x.ndim == 0 or not -x.ndim <= axis < x.ndim or not is_good_temperature(temperature):
        with pytest.raises((ValueError, AxisError)):
            function(x, axis, temperature=temperature, n_threads=n_threads)
    else:
        got = function(x, axis, temperature=temperature, n_threads=n_threads)
        oracle.CHECKS[function.__name__](got, x, axis, temperature)
    assert oracle.bits(x) == before


@every_function
@bounded
@given(data=st.data(), x=arrays(min_dims=1))
def test_row_temperatures(function, data, x):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    rows = rows_shape(x, axis)
    temperature = data.draw(row_temperatures(rows))
    oracle.CHECKS[function.__name__](
        function(x, axis, temperature=temperature), x, axis, temperature
    )


@pytest.mark.parametrize("function", CHECKED[:2], ids=lambda f: f.__name__)
@bounded
@given(data=st.data())
def test_aliasing_of_out(function, data):
    """x and out are views of one buffer: the same, disjoint, or overlapping in part."""
    dtype = np.dtype(data.draw(st.sampled_from([np.float32, np.float64])))
    n, c = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    buffer = np.linspace(-4, 4, 400).astype(dtype)

    def view():
        step = data.draw(st.sampled_from([1, 1, 2, -1]))
        row = data.draw(st.sampled_from([c * abs(step), c * abs(step) + 3, 1, 0, -c * abs(step)]))
        low = min(0, (n - 1) * row) + min(0, (c - 1) * step)
        start = data.draw(st.integers(0, 40)) - low
        return np.lib.stride_tricks.as_strided(
            buffer[start:], (n, c), (row * dtype.itemsize, step * dtype.itemsize)
        )

    x = view()
    out = x if data.draw(st.booleans()) else view()
    copy, before = x.copy(), buffer.tobytes()
    addresses = np.add.outer(np.arange(n) * out.strides[0], np.arange(c) * out.strides[1])
    overlaps_itself = len(np.unique(addresses)) < out.size
    same = x.ctypes.data == out.ctypes.data and all(
        a == b for a, b, size in zip(x.strides, out.strides, x.shape, strict=True) if size > 1
    )
    if overlaps_itself or (np.shares_memory(x, out) and not same):
        with pytest.raises(ValueError):
            function(x, out=out)
        assert buffer.tobytes() == before
        return
    written = np.zeros(buffer.size, bool)
    written[((out.ctypes.data - buffer.ctypes.data + addresses) // dtype.itemsize).ravel()] = True
    assert function(x, out=out) is out
    oracle.CHECKS[function.__name__](out.copy(), copy)
    kept = np.frombuffer(before, dtype)
    assert (buffer[~written] == kept[~written]).all()


@bounded
@given(data=st.data())
def test_aliasing_of_gradient_losses_and_inputs(data):
    """Logits, gradient, row losses and weights are stretches of one buffer."""
    dtype = np.dtype(data.draw(st.sampled_from([np.float32, np.float64])))
    n, c = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    buffer = np.linspace(0.5, 4, 240).astype(dtype)

    def stretch(size):
        start = data.draw(st.one_of(st.integers(0, 20), st.integers(0, 240 - size)))
        return buffer[start : start + size]

    x, grad, losses = stretch(n * c).reshape(n, c), stretch(n * c).reshape(n, c), stretch(n)
    if data.draw(st.booleans()):
        grad = x
    options = {"reduction": "none", "out": losses, "grad_out": grad}
    inputs = [x]
    if dtype == np.float64 and data.draw(st.booleans()):
        options["sample_weight"] = stretch(n)
        inputs.append(options["sample_weight"])
    copies, before = [a.copy() for a in inputs], buffer.tobytes()
    same = grad.ctypes.data == x.ctypes.data
    overlap = (
        np.shares_memory(grad, losses)
        or (np.shares_memory(grad, x) and not same)
        or any(np.shares_memory(losses, a) for a in inputs)
        or any(np.shares_memory(grad, a) for a in inputs[1:])
    )
    y = np.arange(n) % c
    if overlap:
        with pytest.raises(ValueError):
            sf.softmax_loss_and_grad(x, y, **options)
        assert buffer.tobytes() == before
        return
    sf.softmax_loss_and_grad(x, y, **options)
    weight = copies[1] if len(copies) > 1 else None
    expected = oracle.softmax_loss(copies[0], y, sample_weight=weight, with_grad=True)
    oracle.check_loss(losses, expected, "none", dtype)
    oracle.check_grad(grad, expected, "none", dtype)
    untouched = np.ones(buffer.size, bool)
    for a in (grad, losses):
        start = (a.ctypes.data - buffer.ctypes.data) // dtype.itemsize
        untouched[start : start + a.size] = False
    assert (buffer[untouched] == np.frombuffer(before, dtype)[untouched]).all()


@bounded
@given(data=st.data(), x=arrays(min_dims=1))
def test_any_out(data, x):
    """Of any shape, dtype and layout: filled and returned, or an error and not a byte written."""
    function = data.draw(st.sampled_from(CHECKED))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shape = x.shape if function is not sf.logsumexp else rows_shape(x, axis)
    dtype = oracle.result_dtype(x.dtype)
    wrong = data.draw(st.sampled_from([None, None, None, "shape", "dtype", "order", "read-only"]))
    if wrong == "shape":
        shape = data.draw(st.sampled_from([(*shape, 1), (1, *shape), shape[1:], (*shape, 2)]))
    if wrong == "dtype":
        dtype = np.dtype(data.draw(st.sampled_from([np.float16, np.int64, np.complex128])))
    out = np.full(tuple(2 * n + 1 for n in shape), 7, dtype)
    out = out[(..., *(slice(0, 2 * n, 2) for n in shape))]
    if wrong == "order":
        out = out.astype(dtype.newbyteorder())
    if wrong == "read-only":
        out.flags.writeable = False
    whole = out if out.base is None else out.base
    before = whole.tobytes()
    expected_shape = x.shape if function is not sf.logsumexp else rows_shape(x, axis)
    if wrong in (None, "shape") and shape == expected_shape:
        assert function(x, axis, out=out) is out
        oracle.CHECKS[function.__name__](out.copy(), x, axis)
        out[...] = 7
    else:
        with pytest.raises((TypeError, ValueError)):
            function(x, axis, out=out)
    assert whole.tobytes() == before


class Holder:
    """An object with ``__array__``, which may change its mind about what it holds."""

    def __init__(self, *held):
        self.held = list(held)

    def __array__(self, dtype=None, copy=None):
        held = self.held.pop(0) if len(self.held) > 1 else self.held[0]
        if isinstance(held, Exception):
            raise held
        return held if dtype is None else held.astype(dtype)


class Subclass(np.ndarray):
    """As arrays with units have it: arithmetic on it is not to be trusted."""

    def __array_ufunc__(self, *arguments, **keywords):
        return NotImplemented


class Trouble(Exception):
    pass


HARMLESS = {
    "holder": Holder,
    "subclass": lambda a: a.view(Subclass),
    "list": lambda a: a.tolist(),
    "memoryview": memoryview,
}
REFUSED = {
    "object dtype": lambda a: a.astype(object),
    "complex": lambda a: a.astype(complex),
    "text": lambda a: a.astype(str),
    "masked": lambda a: np.ma.masked_array(a, a > 0),
    "dates": lambda a: np.zeros(a.shape, "M8[s]"),
    "records": lambda a: np.zeros(a.shape, [("x", a.dtype)]),
    "raises": lambda a: Holder(Trouble("no array today")),
    "raises later": lambda a: Holder(a, Trouble("no array twice")),
    "grows": lambda a: Holder(a, np.concatenate([a, a])),
    "shrinks": lambda a: Holder(a, a[:1]),
    "another dtype": lambda a: Holder(a, a.astype(object)),
    "not an array": lambda a: Holder("nothing"),
    "none": lambda a: None,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(bounded, max_examples=40)
@given(data=st.data())
def test_objects_that_lie(name, data):
    """One argument is not what it seems: as if it were the array, or an exception of ours or its own."""
    function = FUNCTIONS[name]
    n, c = data.draw(st.integers(2, 6)), data.draw(st.integers(6, 20))
    x = np.linspace(-3, 3, n * c).reshape(n, c)
    t = np.linspace(0, 1, n * c).reshape(n, c)
    y = np.arange(n)
    kinds = HARMLESS | REFUSED
    kind = data.draw(st.sampled_from(sorted(kinds)))
    arguments, options = function.arguments(x, y, t), {}
    if function.takes("sample_weight"):
        options["sample_weight"] = t if name in BINARY else t[:, 0]
    expected = np.asarray(function.on(*arguments, **options))
    which = data.draw(st.sampled_from([*range(len(arguments)), *options]))
    where = options if which in options else arguments
    where[which] = kinds[kind](where[which])
    outs = {}
    if name not in LINEAR and data.draw(st.booleans()):
        outs = {k: np.full(v.shape, 7.0) for k, v in function.outputs(expected).items()}
    try:
        got = np.asarray(function.on(*arguments, **options, **outs))
    except (TypeError, ValueError, IndexError, Trouble):
        assert kind in REFUSED
        assert all((out == 7).all() for out in outs.values())
        return
    # read once, while it still told the truth; or no array at all where None means none was given
    if kind == "none" and which == "sample_weight":
        return
    if got.shape == expected.shape:
        oracle.assert_same_bits(got, expected, f"{name} of {kind}")
    else:
        assert kind in ("grows", "shrinks")


@every_row_function
@bounded
@given(data=st.data())
def test_any_layout_of_any_values(name, data):
    """The bits are those of contiguous copies, whatever the values, and the inputs stay as they are."""
    function = ROW_FUNCTIONS[name]
    dtype = np.dtype(data.draw(st.sampled_from(FLOATS)))
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))
    values = hnp.arrays(
        dtype, shape, elements=st.floats(width=8 * dtype.itemsize), fill=st.nothing()
    )
    x = data.draw(st.one_of(values, st.just(logits(shape, dtype))))
    y, t = labels(shape[0], shape[1]), distributions(shape, dtype)
    y[data.draw(st.integers(0, shape[0] - 1)) :: 3] = -100
    n_threads = data.draw(st.sampled_from([None, 1, 2]))
    expected = function(x, y, t)
    arrays = [placed(a, data.draw(st.sampled_from(sorted(LAYOUTS)))) for a in (x, t)]
    got = function(arrays[0], y, arrays[1], n_threads=n_threads)
    oracle.assert_same_bits(got, expected, name)
    assert oracle.bits(arrays[0]) == oracle.bits(x) and oracle.bits(arrays[1]) == oracle.bits(t)


@bounded
@given(data=st.data())
def test_any_linear_loss(data):
    dtype = np.dtype(data.draw(st.sampled_from([np.float32, np.float64])))
    n, d, c = (data.draw(st.integers(0, 6)) for _ in range(3))
    eighths = st.integers(-16, 16).map(lambda k: k / 8)
    features = data.draw(layouts(data.draw(hnp.arrays(dtype, (n, d), elements=eighths))))
    weights = data.draw(layouts(data.draw(hnp.arrays(dtype, (c, d), elements=eighths))))
    bias = data.draw(st.one_of(st.none(), hnp.arrays(dtype, (c,), elements=eighths)))
    label = st.one_of(st.integers(0, max(c - 1, 0)), st.sampled_from([-100, -1, c]))
    y = data.draw(hnp.arrays(np.int64, (n,), elements=label))
    options = {"bias": bias, "reduction": data.draw(st.sampled_from(["mean", "sum", "none"]))}
    shaped = (
        features.ndim == 2
        and weights.ndim == 2
        and features.shape[1] == weights.shape[1]
        and len(features) == n
        and (bias is None or len(weights) == c)
    )
    classes = len(weights)
    bad = ((y < 0) | (y >= classes)) & (y != -100)
    if not shaped or classes == 0 or bad.any():
        with pytest.raises((IndexError, ValueError)):
            sf.linear_softmax_loss(features, weights, y, **options)
        return
    # eighths of a small size: every logit is exact
    logits = (features.astype(dtype) @ weights.astype(dtype).T).reshape(n, classes)
    logits = logits if bias is None else logits + bias
    expected = sf.softmax_loss(logits, y, reduction=options["reduction"])
    loss, grads = sf.linear_softmax_loss_and_grad(features, weights, y, **options)
    for got in (sf.linear_softmax_loss(features, weights, y, **options), loss):
        np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(dtype).eps, atol=1e-6)
    assert grads.features.shape == features.shape and grads.weights.shape == weights.shape


@st.composite
def losses(draw):
    """Logits, targets and options, good and bad: ``(logits, targets, options, error or None)``."""
    x = draw(arrays(min_dims=1, dtypes=FLOATS))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    rows, c = rows_shape(x, axis), x.shape[axis]
    options = {"axis": axis, "reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    error = None
    ignored = -100
    if draw(st.booleans()):
        border = st.sampled_from([-1, 0, c - 1, c, -100, 3, 2**31, -(2**63), 2**63 - 1])
        inside = st.integers(0, max(c - 1, 0))
        label = st.one_of(inside, inside, border) if draw(st.booleans()) else inside
        targets = draw(hnp.arrays(np.int64, rows, elements=label))
        ignored = draw(st.sampled_from([-100, -100, None, 0, -1, 3]))
        options["ignore_index"] = ignored
        bad = (targets < 0) | (targets >= c)
        if ignored is not None:
            bad &= targets != ignored
        if bad.any():
            error = IndexError
        if draw(st.booleans()) and not bad.any() and ignored is not None and abs(ignored) <= 127:
            targets = targets.astype(draw(st.sampled_from([np.int8, np.int16, np.int32, ">i8"])))
    else:
        dtype = draw(st.sampled_from([np.float32, np.float64]))
        targets = draw(hnp.arrays(dtype, x.shape, elements=st.integers(0, 8).map(lambda n: n / 8)))
    if draw(st.booleans()):
        options["weight"] = draw(hnp.arrays(np.float64, (c,), elements=st.floats(0.125, 4)))
    if draw(st.booleans()):
        options["sample_weight"] = draw(hnp.arrays(np.float64, rows, elements=st.floats(0.125, 4)))
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 1.0]))
    if draw(st.booleans()):
        options["temperature"] = draw(row_temperatures(rows))
    if c == 0:
        error = ValueError
    return x, targets, options, error


def reference(x, targets, options):
    keywords = {k: v for k, v in options.items() if k != "reduction"}
    return oracle.softmax_loss(x, targets, with_grad=True, **keywords)


@bounded
@given(problem=losses(), n_threads=st.sampled_from([None, 1, 2]))
def test_any_loss(problem, n_threads):
    x, targets, options, error = problem
    if error:
        with pytest.raises(error):
            sf.softmax_loss(x, targets, n_threads=n_threads, **options)
        return
    got = sf.softmax_loss(x, targets, n_threads=n_threads, **options)
    dtype = oracle.result_dtype(x.dtype)
    oracle.check_loss(got, reference(x, targets, options), options["reduction"], dtype)


@bounded
@given(problem=losses(), n_threads=st.sampled_from([None, 1, 2]))
def test_any_gradient(problem, n_threads):
    x, targets, options, error = problem
    if error:
        with pytest.raises(error):
            sf.softmax_loss_and_grad(x, targets, n_threads=n_threads, **options)
        return
    expected = reference(x, targets, options)
    if options["reduction"] == "mean" and not expected.denominator:
        return  # over nothing: see test_edges.py
    loss, grad = sf.softmax_loss_and_grad(x, targets, n_threads=n_threads, **options)
    dtype = oracle.result_dtype(x.dtype)
    oracle.check_loss(loss, expected, options["reduction"], dtype)
    oracle.check_grad(grad, expected, options["reduction"], dtype)


@bounded
@given(data=st.data(), x=arrays(min_dims=1, dtypes=FLOATS), temperature=good_temperatures)
def test_any_selected_log_probs(data, x, temperature):
    rows, c = x.shape[:-1], x.shape[-1]
    shape = data.draw(st.sampled_from([rows, (*rows, 0), (*rows, 1), (*rows, 3)]))
    label = st.one_of(
        st.integers(0, max(c - 1, 0)),
        st.sampled_from(
            [-100] + [-1, c, 2**31, -(2**63), 2**63 - 1] * data.draw(st.integers(0, 1))
        ),
    )
    indices = data.draw(hnp.arrays(np.int64, shape, elements=label))
    bad = ((indices < 0) | (indices >= c)) & (indices != -100)
    if c == 0 or bad.any():
        with pytest.raises((IndexError, ValueError)):
            sf.selected_log_probs(x, indices, temperature=temperature)
        return
    got = sf.selected_log_probs(x, indices, temperature=temperature)
    exact = oracle.selected_log_probs(x, indices, temperature)
    dtype = oracle.result_dtype(x.dtype)
    oracle.assert_within(got, exact, oracle.log_softmax_bound(exact, dtype), dtype)


@bounded
@given(data=st.data(), shape=shapes(min_dims=1))
def test_any_binary_loss(data, shape):
    dtype = np.dtype(data.draw(st.sampled_from(FLOATS)))
    values = st.floats(width=8 * dtype.itemsize)
    usual = st.integers(-40, 40).map(float)
    x = data.draw(layouts(data.draw(hnp.arrays(dtype, shape, elements=st.one_of(usual, values)))))
    eighths = st.integers(0, 8).map(lambda k: k / 8)
    t = data.draw(hnp.arrays(np.float32, x.shape, elements=eighths))
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]))
    result = oracle.result_dtype(dtype)
    options = {}
    if data.draw(st.booleans()):
        options["temperature"] = data.draw(row_temperatures(x.shape))
    for option in ("sample_weight", "pos_weight"):
        if data.draw(st.booleans()):
            weights = hnp.arrays(np.float64, x.shape, elements=st.floats(0.125, 4))
            options[option] = data.draw(weights)
    got = sf.binary_cross_entropy_with_logits(x, t, reduction=reduction, **options)
    exact = oracle.binary_cross_entropy_with_logits(x, t, **options)
    oracle.check_loss(got, exact, reduction, result)
    if ((x < 0) | (x > 1)).any():
        with pytest.raises(ValueError, match="binary_cross_entropy_with_logits"):
            sf.binary_cross_entropy(x, t, reduction=reduction)
    else:
        got = sf.binary_cross_entropy(x, t, reduction=reduction)
        oracle.check_loss(got, oracle.binary_cross_entropy(x, t), reduction, result)


@bounded
@given(data=st.data(), x=arrays(min_dims=1, dtypes=FLOATS))
def test_any_cross_entropy(data, x):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    rows, c = rows_shape(x, axis), x.shape[axis]
    if data.draw(st.booleans()):
        with np.errstate(all="ignore"):
            x = (np.abs(x) % 1).astype(x.dtype)
    border = st.sampled_from([-100] + [-1, c, 2**31, -(2**63)] * data.draw(st.integers(0, 1)))
    label = st.one_of(st.integers(0, max(c - 1, 0)), border)
    y = data.draw(hnp.arrays(np.int64, rows, elements=label))
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]))
    outside = np.moveaxis((x < 0) | (x > 1), axis, -1).any(axis=-1) & (y != -100)
    if c and (((y < 0) | (y >= c)) & (y != -100)).any():
        with pytest.raises((IndexError, ValueError)):
            sf.cross_entropy(x, y, axis=axis, reduction=reduction)
        return
    if c == 0 or outside.any():
        with pytest.raises(ValueError, match="class|softmax_loss"):
            sf.cross_entropy(x, y, axis=axis, reduction=reduction)
        return
    got = sf.cross_entropy(x, y, axis=axis, reduction=reduction)
    dtype = oracle.result_dtype(x.dtype)
    oracle.check_loss(got, oracle.cross_entropy(x, y, axis), reduction, dtype)
