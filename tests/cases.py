"""Inputs shared by the test modules: row lengths, kinds of rows, the edge table."""

import functools
import itertools

import numpy as np
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


def _loss(reduction="none", **fixed):
    return lambda x, t, **k: sf.softmax_loss(x, t, reduction=reduction, **fixed, **k)


def _grad(**fixed):
    return lambda x, t, **k: sf.softmax_loss_and_grad(x, t, reduction="none", **fixed, **k)[1]


# Every function as f(logits, labels, distributions, **keywords) -> one entry or row for each row of
# the logits. Those of the first table are NaN throughout a row that holds a NaN.
OF_LOGITS = {
    "softmax": lambda x, y, t, **k: sf.softmax(x, **k),
    "log_softmax": lambda x, y, t, **k: sf.log_softmax(x, **k),
    "logsumexp": lambda x, y, t, **k: sf.logsumexp(x, **k),
    "softmax_loss of labels": lambda x, y, t, **k: _loss()(x, y, **k),
    "softmax_loss of probabilities": lambda x, y, t, **k: _loss()(x, t, **k),
    "smoothed softmax_loss": lambda x, y, t, **k: _loss(label_smoothing=0.1)(x, y, **k),
    "gradient of labels": lambda x, y, t, **k: _grad()(x, y, **k),
    "gradient of probabilities": lambda x, y, t, **k: _grad()(x, t, **k),
    "smoothed gradient": lambda x, y, t, **k: _grad(label_smoothing=0.1)(x, y, **k),
    "selected_log_probs": lambda x, y, t, **k: sf.selected_log_probs(x, y, **k),
}
# These take no temperature, or take it for each element
OF_PROBABILITIES = {
    "cross_entropy of labels": lambda x, y, t, **k: sf.cross_entropy(t, y, reduction="none", **k),
    "cross_entropy of probabilities": lambda x, y, t, **k: sf.cross_entropy(
        t, t, reduction="none", **k
    ),
    "binary_cross_entropy": lambda x, y, t, **k: sf.binary_cross_entropy(
        t, t, reduction="none", **k
    ),
    "binary_cross_entropy_with_logits": lambda x, y, t, **k: sf.binary_cross_entropy_with_logits(
        x, t, reduction="none", **k
    ),
}
ROW_FUNCTIONS = OF_LOGITS | OF_PROBABILITIES

MEANS = {
    "softmax_loss of labels": lambda x, y, t, **k: sf.softmax_loss(x, y, **k),
    "softmax_loss of probabilities": lambda x, y, t, **k: sf.softmax_loss(x, t, **k),
    "softmax_loss_and_grad of labels": lambda x, y, t, **k: sf.softmax_loss_and_grad(x, y, **k)[0],
    "softmax_loss_and_grad of probabilities": lambda x, y, t, **k: sf.softmax_loss_and_grad(
        x, t, **k
    )[0],
    "cross_entropy of labels": lambda x, y, t, **k: sf.cross_entropy(t, y, **k),
    "cross_entropy of probabilities": lambda x, y, t, **k: sf.cross_entropy(t, t, **k),
    "binary_cross_entropy": lambda x, y, t, **k: sf.binary_cross_entropy(t, t, **k),
    "binary_cross_entropy_with_logits": lambda x, y, t, **k: sf.binary_cross_entropy_with_logits(
        x, t, **k
    ),
}


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
