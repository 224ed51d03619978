"""What the test modules share: inputs, the table of functions, the table of layouts."""

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import oracle
import pytest

import softmax_fast as sf

SHORT = range(1, 131)
AROUND = [n + k for n in (512, 1024, 2048, 4096, 8192) for k in (-7, -1, 0, 1, 7)]

LENGTH_GROUPS = {
    "1-16": list(range(1, 17)),
    "17-64": list(range(17, 65)),
    "65-130": list(range(65, 131)),
    "around 512 and 1024": AROUND[:10],
    "around 2048": AROUND[10:15],
    "around 4096": AROUND[15:20],
    "around 8192": AROUND[20:],
    "100003": [100_003],
}

# A length of each kind: below, at and above a vector; past one and two blocks of 2048
TYPICAL = [1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257, 2048, 2053, 5000]
FEW = [1, 3, 16, 17, 130, 2053]

REDUCTIONS = ("mean", "sum", "none")

TEMPERATURES = [1e-3, 0.1, 0.7, 2.0, 37.5, 1e3]


def generator(*key):
    """A generator that depends on ``key`` alone."""
    return np.random.default_rng([20_240_611, *key])


def row_kinds(n_classes, dtype):
    """One row of each kind worth telling apart, as ``{name: row}``."""
    dtype = np.dtype(dtype)
    info = np.finfo(dtype)
    rng = generator(n_classes, dtype.itemsize)
    normal = rng.standard_normal(n_classes)
    uniform = rng.random(n_classes)
    anywhere = int(rng.integers(n_classes))

    spike = normal * 1e-3
    spike[anywhere] = 50
    masked = np.where(uniform < 0.4, -np.inf, normal * 4)
    masked[anywhere] = 1.5
    near_overflow = 1 - np.where(uniform < 0.5, 0.1, 1e-6) * uniform
    lowest, tiny = np.log(float(info.smallest_subnormal)), np.log(float(info.tiny))
    subnormal = (lowest - 2) + uniform * (tiny - lowest + 4)
    subnormal[anywhere] = 0
    rows = {
        "normal": normal * 3,
        "wide": (uniform - 0.5) * 4 * -tiny,
        "one huge among tiny": spike,
        "all equal": np.full(n_classes, 0.1),
        "zeros of both signs": np.where(uniform < 0.5, 0.0, -0.0),
        "masked": masked,
        "near overflow": near_overflow * float(info.max),
        "subnormal results": subnormal,
        "subnormal logits": uniform * float(info.tiny),
        "large common offset": normal + (1e5 if dtype == np.float32 else 1e13),
        "ascending": np.linspace(-20, 20, n_classes),
        "descending": np.linspace(20, -20, n_classes),
    }
    return {name: row.astype(dtype) for name, row in rows.items()}


@functools.cache
def kinds_block(n_classes, dtype):
    """All kinds of rows stacked, and their names."""
    kinds = row_kinds(n_classes, dtype)
    block = np.stack(list(kinds.values()))
    block.flags.writeable = False
    return block, tuple(kinds)


def row_temperatures(n_rows, key=0):
    """Temperatures of many sizes, with some that are exactly 1."""
    rng = generator(n_rows, key)
    t = 10 ** rng.uniform(-3, 3, n_rows)
    t[rng.random(n_rows) < 0.2] = 1.0
    return t


def logits(shape, dtype, key=0, scale=3.0):
    """Well-behaved logits of any shape."""
    return (generator(*shape, key).standard_normal(shape) * scale).astype(dtype)


def labels(shape, n_classes, key=1, dtype=np.int64):
    return (
        generator(*np.atleast_1d(shape), n_classes, key)
        .integers(n_classes, size=shape)
        .astype(dtype)
    )


def distributions(shape, dtype, key=2):
    """Class probabilities; each row sums to about 1 and some entries are exactly 0."""
    rng = generator(*shape, key)
    t = rng.random(shape) * (rng.random(shape) < 0.7)
    total = t.sum(axis=-1, keepdims=True)
    return np.minimum(t / np.where(total == 0, 1, total), 1).astype(dtype)


def positive(shape, key=3):
    """Weights, with some zeros where there are enough others to leave the mean a denominator."""
    rng = generator(*np.atleast_1d(shape), key)
    share = 0.15 if np.prod(shape) > 8 else 0
    return np.where(rng.random(shape) < share, 0.0, rng.random(shape) * 2 + 0.1)


LOSS_OPTIONS = {
    "temperature": lambda shape: 0.7,
    "row temperatures": lambda shape: row_temperatures(shape[0]),
    "weight": lambda shape: positive(shape[1]),
    "sample_weight": lambda shape: positive(shape[0]),
    "ignore_index": lambda shape: 1,
    "label_smoothing": lambda shape: 0.1,
}


# No option, every single one, every pair that makes sense, and all at once
OPTION_NAMES = [
    names
    for size in (0, 1, 2)
    for names in itertools.combinations(LOSS_OPTIONS, size)
    if not {"temperature", "row temperatures"} <= set(names)
] + [tuple(name for name in LOSS_OPTIONS if name != "temperature")]
every_combination_of_options = pytest.mark.parametrize(
    "names", OPTION_NAMES, ids=lambda names: "+".join(names) or "none"
)


def loss_options(names, shape):
    """Keyword arguments of softmax_loss for logits of ``shape`` (rows, classes)."""
    keywords = {"row temperatures": "temperature"}
    return {keywords.get(name, name): LOSS_OPTIONS[name](shape) for name in names}


@functools.cache
def _parameters(function):
    return inspect.signature(function).parameters


@dataclass(frozen=True)
class Function:
    """A public function, or a use of it, as the tests that apply to all functions call it.

    Called with logits (N, C), labels (N,) and class probabilities (N, C), it gives all that the
    function returns about each row: an array whose first dimension is N.
    """

    function: Callable
    inputs: str  # its positional arguments: x logits, y labels, t probabilities, w weights (C, C)
    options: dict = field(default_factory=dict)

    def takes(self, option):
        return option in _parameters(self.function)

    def arguments(self, x, y, t):
        given = {"x": x, "y": y, "t": t}
        if "w" in self.inputs:
            given["w"] = np.eye(x.shape[-1], dtype=x.dtype)  # the logits are the features
        return [given[letter] for letter in self.inputs]

    def on(self, *arguments, **options):
        """What it gives for its own positional arguments."""
        options = self.options | options
        if self.takes("reduction"):
            options = {"reduction": "none"} | options
        result = self.function(*arguments, **options)
        if not isinstance(result, tuple):
            return result
        loss, grad = result
        grad = getattr(grad, "features", grad)
        return np.concatenate([loss[..., None], grad], axis=-1)

    def __call__(self, x, y, t, **options):
        return self.on(*self.arguments(x, y, t), **options)

    def outputs(self, given):
        """What a call gave, part by part, by the option that takes an array for it."""
        if self.takes("grad_out"):
            return {"out": given[..., 0], "grad_out": given[..., 1:]}
        return {"out": given}

    def reduced_on(self, *arguments, **options):
        """Its loss, reduced by the mean unless told otherwise, for its own positional arguments."""
        result = self.function(*arguments, **self.options | options)
        return result[0] if isinstance(result, tuple) else result

    def reduced(self, x, y, t, **options):
        return self.reduced_on(*self.arguments(x, y, t), **options)


# An entry here is all that a function needs for the tests that apply to every function. Those of
# the first table are NaN throughout a row that holds a NaN.
OF_LOGITS = {
    "softmax": Function(sf.softmax, "x"),
    "log_softmax": Function(sf.log_softmax, "x"),
    "logsumexp": Function(sf.logsumexp, "x"),
    "softmax_loss of labels": Function(sf.softmax_loss, "xy"),
    "softmax_loss of probabilities": Function(sf.softmax_loss, "xt"),
    "smoothed softmax_loss": Function(sf.softmax_loss, "xy", {"label_smoothing": 0.1}),
    "gradient of labels": Function(sf.softmax_loss_and_grad, "xy"),
    "gradient of probabilities": Function(sf.softmax_loss_and_grad, "xt"),
    "smoothed gradient": Function(sf.softmax_loss_and_grad, "xy", {"label_smoothing": 0.1}),
    "selected_log_probs": Function(sf.selected_log_probs, "xy"),
    "kl_divergence": Function(sf.kl_divergence, "tx"),  # any entries are logits
    "gradient of kl_divergence": Function(sf.kl_divergence_and_grad, "tx"),
}
OF_PROBABILITIES = {
    "cross_entropy of labels": Function(sf.cross_entropy, "ty"),
    "cross_entropy of probabilities": Function(sf.cross_entropy, "tt"),
}
# One loss an entry, with options of the shape of the entries
BINARY = {
    "binary_cross_entropy": Function(sf.binary_cross_entropy, "tt"),
    "binary_cross_entropy_with_logits": Function(sf.binary_cross_entropy_with_logits, "xt"),
}
# Here the bits of a row depend on the other rows: the product is that of NumPy's BLAS.
LINEAR = {
    "linear_softmax_loss": Function(sf.linear_softmax_loss, "xwy"),
    "linear_softmax_loss of probabilities": Function(sf.linear_softmax_loss, "xwt"),
    "linear gradient": Function(sf.linear_softmax_loss_and_grad, "xwy"),
    "linear gradient of probabilities": Function(sf.linear_softmax_loss_and_grad, "xwt"),
}
ROW_FUNCTIONS = OF_LOGITS | OF_PROBABILITIES | BINARY
FUNCTIONS = ROW_FUNCTIONS | LINEAR
MEANS = {f"mean of {name}": f.reduced for name, f in ROW_FUNCTIONS.items() if f.takes("reduction")}

every_row_function = pytest.mark.parametrize("name", ROW_FUNCTIONS)
every_mean = pytest.mark.parametrize("name", MEANS)


def taking(*options, among=FUNCTIONS):
    """The names of the functions that take all these options."""
    return [name for name, f in among.items() if all(map(f.takes, options))]


# Those of logits alone, whose results oracle.CHECKS holds to their bounds.
CHECKED = [getattr(sf, name) for name in oracle.CHECKS]
every_function = pytest.mark.parametrize("function", CHECKED, ids=lambda f: f.__name__)


# Where N rows of C entries can lie: the shape of a memory, and the view of it that they are.
LAYOUTS = {
    "contiguous": lambda n, c: ((n, c), lambda a: a),
    "one more a row": lambda n, c: ((n, c + 1), lambda a: a[:, :-1]),
    "longer rows": lambda n, c: ((n + 2, c + 19), lambda a: a[1:-1, 2:-17]),
    "every third row": lambda n, c: ((3 * n, c), lambda a: a[::3]),
    "class stride 2": lambda n, c: ((n, 2 * c), lambda a: a[:, ::2]),
    "class stride 3": lambda n, c: ((n, 3 * c), lambda a: a[:, 1::3]),
    "classes reversed": lambda n, c: ((n, c), lambda a: a[:, ::-1]),
    "rows reversed": lambda n, c: ((n, c), lambda a: a[::-1]),
    "both reversed and spread": lambda n, c: ((n, 2 * c), lambda a: a[::-1, ::-2]),
    "Fortran order": lambda n, c: ((c, n), lambda a: a.T),
    "columns of more": lambda n, c: ((c + 1, n + 1), lambda a: a[:-1, 1:].T),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def placed(values, layout, fill=7):
    """The values in a memory of that layout, among entries of ``fill``."""
    shape, view_of = LAYOUTS[layout](*values.shape)
    view = view_of(np.full(shape, fill, values.dtype))
    view[...] = values
    return view


def laid_out(values):
    """(layout, view) for the values in every layout, and as what takes a copy or no writing."""
    for layout in LAYOUTS:
        yield layout, placed(values, layout)
    memory = np.zeros(values.nbytes + 1, np.uint8)
    unaligned = memory[1:].view(values.dtype).reshape(values.shape)
    unaligned[...] = values
    yield "unaligned", unaligned
    yield "byte-swapped", values.astype(values.dtype.newbyteorder())
    read_only = values.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


def scattered(values):
    """Rows (N, ...) as (2, 3, N/6, ...), of which no two dimensions are one: they are read in slabs."""
    shape = (2, 3, len(values) // 6, *values.shape[1:])
    memory = np.empty((shape[2], shape[1], shape[0] + 1, *shape[3:]), values.dtype)
    view = memory[:, :, :-1].swapaxes(0, 2)
    view[...] = values.reshape(shape)
    return view


def problem(shape, dtype, key=0):
    """Logits, labels and class probabilities for ``shape`` = (rows, classes)."""
    return (
        logits(shape, dtype, key),
        labels(shape[0], shape[1], key),
        distributions(shape, dtype, key),
    )


@functools.cache
def shared_problem(shape, dtype):
    """As ``problem``, made once and read-only: for large arrays that many tests read."""
    arrays = problem(shape, dtype)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def edge_positions(n_classes):
    """First, second, middle, around vector and block borders, last two; within the row."""
    wanted = [0, 1, 7, 15, 16, n_classes // 2, 2047, 2048, 4096, n_classes - 2, n_classes - 1]
    return sorted({p for p in wanted if 0 <= p < n_classes})


NAN_BITS = {
    "float32": [0x7FC00000, 0xFFC00000, 0x7FC00001, 0xFFC12345, 0x7F800001, 0xFF800001, 0x7FFFFFFF],
    "float64": [
        0x7FF8000000000000,
        0xFFF8000000000000,
        0x7FF8000000000001,
        0xFFF8123456789ABC,
        0x7FF0000000000001,
        0xFFF0000000000001,
        0x7FFFFFFFFFFFFFFF,
    ],
    "float16": [0x7E00, 0xFE00, 0x7E01, 0xFF23, 0x7C01, 0xFC01, 0x7FFF],
    "bfloat16": [0x7FC0, 0xFFC0, 0x7FC1, 0xFFE5, 0x7F81, 0xFF81, 0x7FFF],
}


def put_nan(row, position, pattern):
    """Store a NaN by its bits: an assignment would quieten a signalling one."""
    row.view(f"u{row.dtype.itemsize}")[..., position] = pattern


def guarded_out(shape, dtype, pad=64):
    """An output with canaries around it, and a function that tells whether they live."""
    size = int(np.prod(shape))
    buffer = np.full(size + 2 * pad, 0xA5, np.uint8).repeat(np.dtype(dtype).itemsize)
    buffer = buffer.view(dtype)
    before, after = buffer[:pad].tobytes(), buffer[pad + size :].tobytes()
    out = buffer[pad : pad + size].reshape(shape)
    return out, lambda: buffer[:pad].tobytes() == before and buffer[pad + size :].tobytes() == after
