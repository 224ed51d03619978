"""The C-level API: consumers in C, C++ and Cython are built, run, and compared with the Python API.

The consumers' sources are in the folder ``capi``. Those without Python need a library of the
kernels, which takes a minute to compile, and are marked slow.
"""

import ctypes
import functools
import importlib.util
import math
import os
import pathlib
import re
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
from cases import every_layout, labels, logits, placed, positive

import softmax_fast as sf
from softmax_fast import _core, capi
from softmax_fast._core import loss_problem

HERE = pathlib.Path(__file__).parent
SOURCES = HERE / "capi"
DOCUMENT = HERE.parent / "docs" / "c-api.md"
PACKAGE = pathlib.Path(sf.__file__).resolve().parent
HEADER = pathlib.Path(sf.get_include(), "softmax_fast.h")

OK, NO_MEMORY, BAD_ARGUMENT, BAD_LABEL = range(4)
DENSE = ("softmax", "log_softmax")
LOSSES = ("softmax_loss", "softmax_loss_grad")
DIVERGENCES = ("kl_divergence", "kl_divergence_grad")
FUNCTIONS = (*DENSE, "logsumexp", *LOSSES, *DIVERGENCES)
LAYERS = ("linear_softmax_loss", "linear_softmax_loss_grad")
GIVE_ROWS_OF_CLASSES = (*DENSE, "softmax_loss_grad", "kl_divergence_grad")
NO_DTYPE = ("weight_sum", "api_version")
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


# ---- one call, and what it should give -----------------------------------------------------------


@dataclass
class Call:
    """A call of a C function. ``x`` and ``out`` are views of any strides; no ``out``: in place.

    Of a layer, ``x`` are the features, ``base`` the weights, and ``out`` the gradient of the features.
    """

    function: str
    x: np.ndarray
    out: np.ndarray | None = None
    labels: np.ndarray | None = None
    temperature: float = 1.0
    n_threads: int = 1
    options: dict | None = None
    gradient_scale: float = 1.0
    row_losses: np.ndarray | None = None
    base: np.ndarray | None = None
    bias: np.ndarray | None = None
    d_weights: np.ndarray | None = None
    d_bias: np.ndarray | None = None
    changes: dict = field(default_factory=dict)

    @property
    def name(self):
        if self.function in NO_DTYPE:
            return self.function
        return f"{self.function}_f{8 * self.x.itemsize}{'_bf16' * self.is_bfloat}"

    @property
    def is_layer(self):
        return self.function in LAYERS

    @property
    def is_bfloat(self):
        return self.is_layer and self.base.itemsize == 2

    def numbers(self):
        """The members of ``struct call``."""
        options = self.options or {}
        strides = self.x.strides
        if self.out is not None:
            strides += (*self.out.strides, 0)[:2]
        else:
            strides += strides
        base = self.x if self.base is None else self.base
        d_weights = base if self.d_weights is None else self.d_weights
        ignore_index = options.get("ignore_index", -100)
        members = {
            "function": (*FUNCTIONS, *LAYERS, *NO_DTYPE).index(self.function),
            "is_f64": int(self.x.itemsize == 8),
            "n_rows": self.x.shape[0],
            "n_classes": base.shape[0] if self.is_layer else self.x.shape[1],
            "x_row_stride": strides[0] // self.x.itemsize,
            "x_class_stride": strides[1] // self.x.itemsize,
            "out_row_stride": strides[2] // self.x.itemsize,
            "out_class_stride": strides[3] // self.x.itemsize,
            "base_row_stride": base.strides[0] // base.itemsize,
            "base_class_stride": base.strides[1] // base.itemsize,
            "n_threads": self.n_threads,
            "has_options": int(self.options is not None),
            "has_ignore_index": int(ignore_index is not None),
            "ignore_index": 0 if ignore_index is None else ignore_index,
            "n_features": self.x.shape[1],
            "is_bfloat": int(self.is_bfloat),
            "d_weights_row_stride": d_weights.strides[0] // d_weights.itemsize,
            "temperature": self.temperature,
            "label_smoothing": options.get("label_smoothing", 0.0),
            "gradient_scale": self.gradient_scale,
        }
        return members | {k: v for k, v in self.changes.items() if k in members}

    def arrays(self):
        """The members of ``struct arrays``: views, or None for NULL."""
        options = self.options or {}
        members = {
            "x": self.x,
            "out": self.x if self.out is None and not self.is_layer else self.out,
            "labels": self.labels,
            "class_weight": options.get("weight"),
            "sample_weight": options.get("sample_weight"),
            "row_losses": self.row_losses,
            "base": self.base,
            "bias": self.bias,
            "d_weights": self.d_weights,
            "d_bias": self.d_bias,
        }
        return members | {k: v for k, v in self.changes.items() if k in members}

    def addresses(self):
        return {k: 0 if v is None else v.ctypes.data for k, v in self.arrays().items()}


@dataclass
class Reply:
    status: int
    bad_row: int = -1
    loss_sum: float = 0.0
    weight_sum: float = 0.0


def packed(numbers):
    return struct.pack("=17q3d", *numbers.values())


def unpacked(data):
    return Reply(*struct.unpack("=2q2d", data))


def python_arguments(call):
    return {"temperature": call.temperature, "n_threads": 1, **(call.options or {})}


def expected(call):
    """The reply, the output and the row losses, by the Python functions."""
    x = call.x.copy()
    if call.function in (*DENSE, "logsumexp"):
        out = getattr(sf, call.function)(x, temperature=call.temperature, n_threads=1)
        return Reply(OK), out, None
    arguments = python_arguments(call)
    if call.function in DIVERGENCES:
        return expected_divergence(call, x, arguments)
    losses = sf.softmax_loss(x, call.labels, reduction="none", **arguments)
    total = float(sf.softmax_loss(x, call.labels, reduction="sum", **arguments))
    options = {"weight": None, "sample_weight": None, "ignore_index": -100, **(call.options or {})}
    weights = loss_problem(call.labels, x.shape, 1, x.shape[1], reduction="mean", **options).weigh()
    if weights:
        assert total / weights == sf.softmax_loss(x, call.labels, reduction="mean", **arguments)
    if call.function == "weight_sum":
        return Reply(OK, weight_sum=weights), None, None
    grad = None
    if call.function == "softmax_loss_grad":
        reduction = "sum" if call.gradient_scale == 1.0 else "mean"
        assert reduction == "sum" or call.gradient_scale == 1.0 / weights
        _, grad = sf.softmax_loss_and_grad(x, call.labels, reduction=reduction, **arguments)
    return Reply(OK, -1, total, weights), grad, losses


def expected_divergence(call, x, arguments):
    rows = sf.kl_divergence(call.base, x, reduction="none", **arguments)
    total = float(sf.kl_divergence(call.base, x, reduction="sum", **arguments))
    weight = arguments.get("sample_weight")
    weights = float(len(x) if weight is None else math.fsum(weight))
    if weights:
        assert total / weights == sf.kl_divergence(call.base, x, **arguments)
    grad = None
    if call.function == "kl_divergence_grad":
        reduction = "sum" if call.gradient_scale == 1.0 else "mean"
        assert reduction == "sum" or call.gradient_scale == 1.0 / weights
        _, grad = sf.kl_divergence_and_grad(call.base, x, reduction=reduction, **arguments)
    return Reply(OK, -1, total, weights), grad, rows


def surroundings(view):
    """The whole memory that a view is of."""
    while view.base is not None:
        view = view.base
    return view


def check(calls, consumer, isa):
    """Make all calls, and compare replies, outputs and what lies around the outputs."""
    wanted = []
    for call in calls:
        reply, out, row_losses = expected(call)
        written = call.x if call.out is None else call.out
        around = surroundings(written).copy()
        if out is not None:
            memory = surroundings(written)
            before = memory.copy()
            written[...] = out
            around, memory[...] = memory.copy(), before
        wanted.append((reply, around, row_losses))
    for call, reply, (wanted_reply, around, row_losses) in zip(
        calls, consumer(calls, isa), wanted, strict=True
    ):
        what = f"{call.name} {call.x.shape} {call.x.strides} {call.options}"
        assert reply == wanted_reply, what
        written = surroundings(call.x if call.out is None else call.out)
        assert written.tobytes() == around.tobytes(), what
        if call.row_losses is not None:
            assert call.row_losses.tobytes() == row_losses.tobytes(), what


STRIDES = [
    "contiguous",
    "longer rows",
    "class stride 2",
    "columns of more",
    "both reversed and spread",
]
UNTOUCHED = -777.0


def calls_of(function, dtype):
    """Calls in all layouts, in place too, of one row and of many, with every option."""
    options = [None]
    if function in DIVERGENCES:
        options += [{}, {"sample_weight": True}]
    elif function not in (*DENSE, "logsumexp"):
        options += [
            {"label_smoothing": 0.125},
            {"ignore_index": 2},
            {"ignore_index": None},
            {"weight": True, "sample_weight": True, "label_smoothing": 0.25, "ignore_index": 1},
        ]
    cases = [
        (shape, layout, given, temperature)
        for shape in [(1, 10), (7, 5), (3, 300), (20, 1), (70, 40)]
        for layout in STRIDES
        for given, temperature in [(options[0], 1.0), *((o, 0.75) for o in options)]
    ]
    for (n, c), layout, given, temperature in cases:
        for in_place in (False, True):
            x = placed(logits((n, c), dtype), layout, UNTOUCHED)
            y = labels(n, c)
            if given is None:
                y[3::4] = -100
            else:
                given = dict(given)
                if "weight" in given:
                    given["weight"] = positive(c)
                if "sample_weight" in given:
                    given["sample_weight"] = positive(n)
            call = Call(function, x, None, y, temperature, options=given)
            if function in (*LOSSES, *DIVERGENCES):
                call.row_losses = np.zeros(n, dtype)
            if function in DIVERGENCES:
                call.base = placed(logits((n, c), dtype)[::-1], STRIDES[layout == STRIDES[0]])
            if function == "logsumexp":
                call.out = np.full(2 * n, UNTOUCHED, dtype)[::2]
            elif not in_place and function in GIVE_ROWS_OF_CLASSES:
                call.out = placed(np.zeros((n, c), dtype), layout, UNTOUCHED)
            if function.endswith("_grad") and not in_place:
                call.gradient_scale = 1.0 / (expected(call)[0].weight_sum or 1.0)
            yield call
            if function not in GIVE_ROWS_OF_CLASSES:
                break


# ---- the consumers -------------------------------------------------------------------------------


def ctypes_consumer(calls, isa=None):
    """Addresses from ``__pyx_capi__``, called by ctypes."""
    return [ctypes_call(call) for call in calls]


class LossOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("class_weight", ctypes.c_void_p),
        ("sample_weight", ctypes.c_void_p),
        ("label_smoothing", ctypes.c_double),
        ("ignore_index", ctypes.c_int64),
        ("has_ignore_index", ctypes.c_int),
    )


def address(name):
    capsule = capi.__pyx_capi__[name]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer_of(capsule, name_of(capsule))


def ctypes_call(call):
    p, i, n, d = ctypes.c_void_p, ctypes.c_int, ctypes.c_ssize_t, ctypes.c_double
    c, a = SimpleNamespace(**call.numbers()), SimpleNamespace(**call.addresses())
    sums, bad_row = (d * 2)(), n(-1)
    loss_sum, weight_sum = ctypes.addressof(sums), ctypes.addressof(sums) + 8
    bad = ctypes.addressof(bad_row)
    given = LossOptions(
        call.changes.get("size", ctypes.sizeof(LossOptions)),
        a.class_weight,
        a.sample_weight,
        c.label_smoothing,
        c.ignore_index,
        c.has_ignore_index,
    )
    options = ctypes.addressof(given) if c.has_options else None
    rows = [(p, a.x), (n, c.x_row_stride), (n, c.x_class_stride)]
    out = [(p, a.out), (n, c.out_row_stride), (n, c.out_class_stride)]
    sizes = [(n, c.n_rows), (n, c.n_classes)]
    work = [(d, c.temperature), (i, c.n_threads)]
    losses = [(p, a.row_losses), (p, loss_sum), (p, weight_sum), (p, bad), (i, c.n_threads)]
    base = [(p, a.base), (n, c.base_row_stride), (n, c.base_class_stride)]
    of_base = [*base, *rows, *sizes, (d, c.temperature), (p, a.sample_weight)]
    of_layer = [*rows, *base, (p, a.bias), (p, a.labels), (n, c.n_rows), (n, c.n_features)]
    of_layer += [(n, c.n_classes), (d, c.temperature), (p, options)]
    gradients = [*out[:2], (p, a.d_weights), (n, c.d_weights_row_stride), (p, a.d_bias)]
    divergences = [(p, a.row_losses), (p, loss_sum), (p, weight_sum), (i, c.n_threads)]
    of_loss = [*rows, (p, a.labels), *sizes, (d, c.temperature), (p, options)]
    arguments = {
        "softmax": [*rows, *out, *sizes, *work],
        "log_softmax": [*rows, *out, *sizes, *work],
        "logsumexp": [*rows, *out[:2], *sizes, *work],
        "softmax_loss": [*of_loss, *losses],
        "softmax_loss_grad": [*of_loss, (d, c.gradient_scale), *out, *losses],
        "kl_divergence": [*of_base, *divergences],
        "kl_divergence_grad": [*of_base, (d, c.gradient_scale), *out, *divergences],
        "linear_softmax_loss": [*of_layer, *losses],
        "linear_softmax_loss_grad": [*of_layer, (d, c.gradient_scale), *gradients, *losses],
        "weight_sum": [(p, a.labels), *sizes, (p, options), (p, weight_sum), (p, bad)],
        "api_version": [],
    }[call.function]
    types, values = zip(*arguments, strict=True) if arguments else ((), ())
    status = ctypes.CFUNCTYPE(i, *types)(address(call.name))(*values)
    return Reply(status, bad_row.value, sums[0], sums[1])


def compiler(variable, fallback):
    """The command of a compiler, or skip."""
    command = os.environ.get(variable) or sysconfig.get_config_var(variable) or fallback
    command = shlex.split(command)[:1]
    if sys.platform == "win32" or not shutil.which(command[0]):
        command = [fallback]
    if sys.platform == "win32" or not shutil.which(command[0]):
        pytest.skip(f"no compiler {command[0]}")
    return command


def run(command, **options):
    done = subprocess.run(command, check=False, capture_output=True, **options)
    said = done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0, f"{command}\n{said.decode(errors='replace')}"
    return done


def python_headers():
    folder = sysconfig.get_path("include")
    if not pathlib.Path(folder, "Python.h").exists():
        pytest.skip("no headers of Python")
    return folder


def build_extension(source, folder, include=None):
    """Compile an extension module by hand and import it."""
    name = pathlib.Path(source).stem
    path = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    warnings = [] if include is None else WARNINGS
    run(
        [*compiler("CC", "cc"), "-std=c11", "-O0", "-fPIC", "-shared", *undefined, *warnings]
        + ([] if include is None else ["-I", include])
        + ["-isystem", python_headers(), str(source), "-o", str(path)]
    )
    return load_extension(name, path)


def load_extension(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def c_extension(tmp_path_factory):
    return build_extension(
        SOURCES / "c_extension.c", tmp_path_factory.mktemp("c"), include=sf.get_include()
    )


def cythonized(source, folder):
    """The C file of a Cython source; where the package lies must be known to Cython."""
    pytest.importorskip("Cython")
    path = folder / f"{pathlib.Path(source).stem}.c"
    paths = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "cython", "-3", str(source), "-o", str(path)]
    run(command, env={**os.environ, "PYTHONPATH": paths})
    return path


@pytest.fixture(scope="session")
def cython_extension(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cython")
    return build_extension(cythonized(SOURCES / "cython_extension.pyx", folder), folder)


def block(name, document=DOCUMENT):
    """The document's block after this marker."""
    if not document.exists():
        pytest.skip("no documents beside the tests")
    text = document.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"{document.name} has no block {name}"
    return found[1]


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory):
    """A folder like that of a clone, in which the document's line has made the static library."""
    if not (shutil.which("cc") and shutil.which("ar")):
        pytest.skip("no cc and ar")
    folder = tmp_path_factory.mktemp("library")
    (folder / "softmax_fast").mkdir()
    for part in ("include", "kernels"):
        shutil.copytree(PACKAGE / part, folder / "softmax_fast" / part)
    line = block("command:library").strip()
    assert "\n" not in line
    run(["sh", "-ec", line], cwd=folder)
    assert (folder / "libsoftmax_fast.a").exists()
    return folder


def build_program(command, source, folder):
    path = folder / pathlib.Path(source).name.replace(".", "_")
    run(
        [*command, *WARNINGS, "-O1", str(source), f"-I{folder / 'softmax_fast' / 'include'}"]
        + [f"-I{SOURCES}", str(folder / "libsoftmax_fast.a"), "-lm", "-pthread", "-o", str(path)]
    )
    return path


@pytest.fixture(scope="session")
def c_program(library_folder):
    command = [*compiler("CC", "cc"), "-std=c11"]
    return build_program(command, SOURCES / "program.c", library_folder)


@pytest.fixture(scope="session")
def cpp_program(library_folder):
    command = [*compiler("CXX", "c++"), "-std=c++17"]
    return build_program(command, SOURCES / "program.cpp", library_folder)


def extension_consumer(module, calls, isa=None):
    return [
        unpacked(module.answer(packed(c.numbers()), struct.pack("@10P", *c.addresses().values())))
        for c in calls
    ]


def cython_consumer(module, calls, isa=None):
    replies = []
    for call in calls:
        numbers = SimpleNamespace(name=call.name, **call.numbers())
        replies.append(Reply(*module.answer(numbers, SimpleNamespace(**call.addresses()))))
    return replies


def extent(view):
    """First byte's offset from the first entry, and the number of bytes, of what a view spans."""
    steps = [(n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)]
    low = sum(s for s in steps if s < 0)
    return -low, sum(abs(s) for s in steps) + view.itemsize


def memory_of(view):
    """The bytes that a view spans, writeable."""
    offset, size = extent(view)
    return (ctypes.c_char * size).from_address(view.ctypes.data - offset)


def program_consumer(path, calls, isa=None, told=None):
    """The calls through a program's pipes; what it wrote is put where the call wanted it."""
    request = []
    for call in calls:
        places, contents = [], []
        for name, view in call.arrays().items():
            if view is None:
                places += [-1, 0]
            elif name == "out" and view is call.x:
                places += [-2, 0]
            else:
                offset, size = extent(view)
                places += [size, offset]
                contents.append(bytes(memory_of(view)))
        request += [packed(call.numbers()), struct.pack("=20q", *places), *contents]
    environment = {**os.environ, **({"SOFTMAX_FAST_ISA": isa} if isa else {})}
    done = run([str(path)], input=b"".join(request), env=environment)
    if told is not None:
        told.append(done.stderr.decode())
    answer, replies = memoryview(done.stdout), []
    for call in calls:
        replies.append(unpacked(answer[:32]))
        answer = answer[32:]
        for view in (call.arrays()["out"], call.row_losses, call.d_weights, call.d_bias):
            if view is not None:
                memory = memory_of(view)
                memory[:] = bytes(answer[: len(memory)])
                answer = answer[len(memory) :]
    assert not answer
    return replies


CONSUMERS = {
    "ctypes": (None, ctypes_consumer),
    "C extension": ("c_extension", extension_consumer),
    "Cython extension": ("cython_extension", cython_consumer),
    "C program": ("c_program", program_consumer),
    "C++ program": ("cpp_program", program_consumer),
}
SLOW = {"C program", "C++ program"}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CONSUMERS]
)
def consumer(request):
    fixture, function = CONSUMERS[request.param]
    if fixture is None:
        return function
    return functools.partial(function, request.getfixturevalue(fixture))


# ---- the bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", (*FUNCTIONS, "weight_sum"))
def test_every_consumer_gets_the_bits_of_the_python_functions(function, dtype, consumer):
    check(list(calls_of(function, dtype)), consumer, None)


@pytest.mark.parametrize("function", (*FUNCTIONS, "weight_sum"))
def test_every_instruction_set_gives_the_bits_of_the_python_functions(function, dtype, isa):
    check(list(calls_of(function, dtype)), ctypes_consumer, isa)


def test_nan_and_infinity_are_data(dtype, isa, consumer):
    x = logits((6, 12), dtype)
    x[0, 3], x[1, 3], x[2, 3], x[3] = np.nan, np.inf, -np.inf, -np.inf
    for function in FUNCTIONS:
        out = np.zeros(6 if function == "logsumexp" else (6, 12), dtype)
        call = Call(function, x, None, labels(6, 12))
        if function in (*GIVE_ROWS_OF_CLASSES, "logsumexp"):
            call.out = out
        call.labels[[0, 1, 3]] = -100
        if function in DIVERGENCES:
            call.base = logits((6, 12), dtype)
            call.options = {"sample_weight": np.array([0.0, 0, 1, 0, 2, 1])}
        check([call], consumer, isa)


@pytest.mark.parametrize("shape", [(1, 200_000), (4000, 50)])
def test_threads_do_not_change_the_bits(shape, dtype, consumer):
    calls = []
    for function in FUNCTIONS:
        out = np.zeros(shape[0] if function == "logsumexp" else shape, dtype)
        for n_threads in (2, 3, 100_000 if shape[0] > 1000 else 2):
            y = labels(*shape)
            call = Call(function, logits(shape, dtype), out.copy(), y, 0.5, n_threads)
            if function in DIVERGENCES:
                call.base = logits(shape, dtype)[::-1, ::-1]
            if function not in (*GIVE_ROWS_OF_CLASSES, "logsumexp"):
                call.out = None
            calls.append(call)
    check(calls, consumer, _core.isa())


# ---- the layer -----------------------------------------------------------------------------------


def layer_call(shape, dtype, layout="contiguous", wanted=("features", "weights", "bias"), **given):
    """A call of the loss, or with something ``wanted`` of it and its gradients."""
    n, d, c = shape
    function = "linear_softmax_loss_grad" if wanted else "linear_softmax_loss"
    half = given.pop("half", False)
    weights = logits((c, d), np.float32 if half else dtype) / 4
    call = Call(function, placed(logits((n, d), dtype) / 4, layout, UNTOUCHED), None, labels(n, c))
    call.base = placed(weights.astype(bfloat16()) if half else weights, layout)
    call.bias = logits((c, 1), dtype)[:, 0].copy()
    call.row_losses = np.full(n, UNTOUCHED, dtype)
    if "features" in wanted:
        call.out = placed(np.full((n, d), UNTOUCHED, dtype), "longer rows", UNTOUCHED)
    if "weights" in wanted:
        call.d_weights = placed(np.full((c, d), UNTOUCHED, dtype), "longer rows", UNTOUCHED)
    if "bias" in wanted:
        call.d_bias = np.full(c, UNTOUCHED, dtype)
    return replace(call, **given)


def bfloat16():
    return pytest.importorskip("ml_dtypes").bfloat16


def untouched_entries(view):
    return np.count_nonzero(surroundings(view) == UNTOUCHED)


def check_layers(calls, consumer, isa, exact=True):
    """Against the Python functions: their bits, where these multiply by the same kernels."""
    tolerance = {} if exact else {"rtol": 2e-4, "atol": 1e-6}
    for call, reply in zip(calls, consumer(calls, isa), strict=True):
        arguments = {"bias": call.bias, **python_arguments(call)}
        layer = call.x, call.base, call.labels
        losses = sf.linear_softmax_loss(*layer, reduction="none", **arguments)
        total = sf.linear_softmax_loss(*layer, reduction="sum", **arguments)
        options = {"weight": None, "sample_weight": None, "ignore_index": -100}
        options |= call.options or {}
        shape = len(call.x), len(call.base)
        weights = loss_problem(call.labels, shape, 1, shape[1], reduction="mean", **options).weigh()
        grads = None, None, None
        if call.function == "linear_softmax_loss_grad":
            reduction = "sum" if call.gradient_scale == 1.0 else "mean"
            assert reduction == "sum" or call.gradient_scale == 1.0 / weights
            (total, grads), (losses, _) = (
                sf.linear_softmax_loss_and_grad(*layer, reduction=r, **arguments)
                for r in (reduction, "none")
            )
            total *= 1 if reduction == "sum" else weights
            if call.bias is None:
                everything = {**arguments, "bias": np.zeros(shape[1], call.x.dtype)}
                _, more = sf.linear_softmax_loss_and_grad(*layer, reduction=reduction, **everything)
                grads = grads._replace(bias=more.bias)
        what = f"{call.name} {call.x.shape} {shape[1]} {call.options}"
        assert (reply.status, reply.bad_row, reply.weight_sum) == (OK, -1, weights), what
        np.testing.assert_allclose(reply.loss_sum, total, rtol=1e-15 if exact else 1e-5)
        outputs = call.row_losses, call.out, call.d_weights, call.d_bias
        for got, wanted in zip(outputs, (losses, *grads), strict=True):
            if got is not None and exact:
                np.testing.assert_array_equal(got, wanted, what)
            elif got is not None:
                np.testing.assert_allclose(got, wanted, err_msg=what, **tolerance)
        for rows in (call.out, call.d_weights):
            if rows is not None:
                assert untouched_entries(rows) == surroundings(rows).size - rows.size, what


def layer_calls(dtype, half=False):
    weighted = {"label_smoothing": 0.25, "ignore_index": 1}
    for shape in [(1, 5, 3), (33, 16, 10), (11, 3, 300)]:
        n, _, c = shape
        given = weighted | {"weight": positive(c), "sample_weight": positive(n)}
        given["sample_weight"][::5] = 0
        for wanted in (("features", "weights", "bias"), ()):
            yield layer_call(shape, dtype, half=half, wanted=wanted, temperature=0.75)
            layout = "both reversed and spread"
            yield layer_call(shape, dtype, layout, wanted, half=half, options=given)
    for wanted in ("features", "weights", "bias"):
        yield layer_call((33, 16, 10), dtype, half=half, wanted=(wanted,), bias=None)
    call = layer_call((33, 16, 10), dtype, half=half)
    yield replace(call, gradient_scale=1.0 / 33, n_threads=2)


@pytest.mark.parametrize("half", [False, True], ids=["", "bfloat16 weights"])
def test_every_consumer_gets_the_layer(dtype, half, isa, consumer):
    if half and dtype == np.float64:
        return
    check_layers(list(layer_calls(dtype, half)), consumer, isa, exact=isa != "generic")


def test_layers_beyond_the_kernels(dtype, isa):
    """What no kernels multiply: several tiles of products in double, on one thread and on two."""
    huge, tiny = (1e31, 1e-31) if dtype == np.float32 else (1e300, 1e-300)
    y = labels(180, 3000)
    y[::7] = -100
    calls = [
        layer_call((180, 9, 3000), dtype, labels=y, temperature=huge, n_threads=n) for n in (1, 2)
    ]
    calls += [layer_call((9, 70, 20), dtype, temperature=t) for t in (tiny, 0.5)]
    calls[-1].options = {"weight": positive(20) * 1e-30}
    for call in calls:
        call.gradient_scale = call.temperature
        if call.options:
            call.gradient_scale *= 1e30
        call.x[call.labels == -100] = np.nan
        (reply,) = ctypes_consumer([call])
        f, w = (np.nan_to_num(a.astype(np.float64)) for a in (call.x, call.base))
        given = {"temperature": call.temperature, "reduction": "sum", **(call.options or {})}
        total, g = sf.softmax_loss_and_grad(f @ w.T + call.bias, call.labels, **given)
        g *= call.gradient_scale
        assert reply.status == OK
        assert reply.loss_sum == pytest.approx(total, rel=1e-6)
        for got, wanted in zip(
            (call.out, call.d_weights, call.d_bias), (g @ w, g.T @ f, g.sum(axis=0)), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        assert not call.out[call.labels == -100].any()
        assert not call.row_losses[call.labels == -100].any()
    for one, two in (("out", "out"), ("d_weights", "d_weights"), ("d_bias", "d_bias")):
        assert (getattr(calls[0], one) == getattr(calls[1], two)).all()


def written_of(call):
    views = (call.out, call.row_losses, call.d_weights, call.d_bias)
    return [surroundings(view).copy() for view in views if view is not None]


def test_what_is_refused_of_a_layer(dtype):
    for wanted in (("features", "weights", "bias"), ()):
        bad = [*BAD_FOR_ALL, *BAD_FOR_WORK, *BAD_FOR_LABELS, {"base": None}, {"n_features": -1}]
        bad += [{"n_features": 2**62}, {"n_classes": 2**62, "n_features": 4}]
        for changes in bad:
            call = layer_call((4, 6, 5), dtype, wanted=wanted, options={}, changes=changes)
            before = written_of(call)
            assert ctypes_call(call) == Reply(BAD_ARGUMENT), changes
            assert all((a == b).all() for a, b in zip(before, written_of(call), strict=True))
        for label in (-1, 5):
            call = layer_call((4, 6, 5), dtype, wanted=wanted)
            call.labels[2] = label
            before = written_of(call)
            assert ctypes_call(call) == Reply(BAD_LABEL, bad_row=2)
            assert all((a == b).all() for a, b in zip(before, written_of(call), strict=True))


def test_layers_without_features_or_rows(dtype, isa):
    call = layer_call((4, 0, 5), dtype, changes={"x": None, "base": None, "d_weights": None})
    (reply,) = ctypes_consumer([call])
    logits_of_bias = np.tile(call.bias, (4, 1))
    total, g = sf.softmax_loss_and_grad(logits_of_bias, call.labels, reduction="sum")
    assert reply.loss_sum == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(call.d_bias, g.sum(axis=0), rtol=1e-5, atol=1e-6)
    nothing = {"n_rows": 0, "x": None, "labels": None}
    call = layer_call((4, 6, 5), dtype, changes=nothing)
    assert ctypes_call(call) == Reply(OK)
    assert not call.d_weights.any() and not call.d_bias.any()
    assert untouched_entries(call.d_weights) == surroundings(call.d_weights).size - 30
    ignored = layer_call((4, 6, 5), dtype, labels=np.full(4, -100))
    assert ctypes_call(ignored) == Reply(OK)
    assert not ignored.out.any() and not ignored.d_weights.any() and not ignored.row_losses.any()


@pytest.mark.slow
def test_a_pool_of_ones_own_is_used(cpp_program):
    x = logits((100, 2000), np.float32)
    calls = [Call("softmax", x, np.zeros_like(x), n_threads=n) for n in (1, 2)]
    told = []
    check(calls, functools.partial(program_consumer, cpp_program, told=told), _core.isa())
    assert told == ["1\n"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_computes(run_python):
    """The threads of OpenMP do not exist in the child, and some runtimes wait for them for ever."""
    code = f"""
        import os, sys
        sys.path.insert(0, {str(HERE)!r})
        import numpy as np
        import test_capi
        from cases import logits
        x = logits((2000, 100), np.float32)
        call = test_capi.Call("softmax", x, np.zeros_like(x), n_threads=2)
        test_capi.check([call], test_capi.ctypes_consumer, None)
        child = os.fork()
        if not child:
            call.out[...] = 0
            replies = test_capi.ctypes_consumer([call])
            same = (call.out == test_capi.expected(call)[1]).all()
            os._exit(0 if replies[0].status == 0 and same else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run_python(code).stdout == "0\n"


# ---- what is refused -----------------------------------------------------------------------------


def untouched(call):
    """Make a call by ctypes that should write nothing; its reply."""
    written = [v for v in (call.out, call.row_losses, call.x) if v is not None]
    before = [v.tobytes() for v in written]
    reply = ctypes_call(call)
    assert [v.tobytes() for v in written] == before
    assert reply.loss_sum == reply.weight_sum == 0.0
    return reply


def sample_call(function, dtype=np.float32, shape=(4, 6), **arguments):
    x = logits(shape, dtype)
    out = np.zeros(shape[:1] if function == "logsumexp" else shape, dtype)
    call = Call(function, x, out, labels(*shape), options={}, **arguments)
    if function in (*LOSSES, *DIVERGENCES):
        call.row_losses = np.zeros(shape[0], dtype)
    if function in DIVERGENCES:
        call.base = logits(shape, dtype)[::-1]
    return call


BAD_FOR_ALL = [
    {"n_rows": -1},
    {"n_classes": -1},
    {"n_rows": 2**31, "n_classes": 2**31},
    {"n_rows": 2**62, "n_classes": 6},
    {"n_rows": 4, "n_classes": 2**62},
]
BAD_FOR_WORK = [
    {"x": None},
    {"n_threads": 0},
    {"n_threads": -1},
    *({"temperature": t} for t in (0.0, -1.0, np.nan, np.inf)),
]
BAD_FOR_LABELS = [
    {"labels": None},
    {"n_classes": 0},
    {"n_rows": 0, "n_classes": 0},
    {"size": 0},
    {"size": ctypes.sizeof(LossOptions) - 8},
    *({"label_smoothing": s} for s in (-0.01, 1.01, np.nan)),
]


@pytest.mark.parametrize("function", [*FUNCTIONS, "weight_sum"])
def test_bad_arguments_are_refused_and_nothing_is_written(function, dtype):
    bad = list(BAD_FOR_ALL)
    if function != "weight_sum":
        bad += BAD_FOR_WORK
    if function in (*GIVE_ROWS_OF_CLASSES, "logsumexp"):
        bad += [{"out": None}]
    if function in DIVERGENCES:
        bad += [{"base": None}, {"n_classes": 0}, {"n_rows": 0, "n_classes": 0}]
    elif function not in (*DENSE, "logsumexp"):
        bad += BAD_FOR_LABELS
    for changes in bad:
        call = sample_call(function, dtype, changes=changes)
        assert untouched(call) == Reply(BAD_ARGUMENT), changes
    assert ctypes_call(sample_call(function, dtype)).status == OK


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 2.0**900, 1.7e308])
def test_every_positive_temperature_is_taken(temperature, dtype):
    check([sample_call("softmax", dtype, temperature=temperature)], ctypes_consumer, None)


@pytest.mark.parametrize("function", [*LOSSES, "weight_sum"])
@pytest.mark.parametrize("label", [-1, 6, -(2**63), 2**63 - 1])
def test_bad_labels_are_reported(function, label, dtype, consumer):
    call = sample_call(function, dtype)
    call.labels[[2, 3]] = label
    if function == "softmax_loss":
        call.out = None
    before = call.x.copy(), None if call.out is None else call.out.copy()
    (reply,) = consumer([call], _core.isa())
    assert reply == Reply(BAD_LABEL, bad_row=2)
    assert (call.x == before[0]).all()
    if function == "softmax_loss_grad":
        assert (call.out == before[1]).all() and not call.row_losses.any()


def test_results_that_nobody_wants_may_be_null():
    x, y = logits((4, 6), np.float32), labels(4, 6)
    p, n, d, i = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_double, ctypes.c_int
    loss = ctypes.CFUNCTYPE(i, p, n, n, p, n, n, d, p, p, p, p, p, i)(address("softmax_loss_f32"))
    arguments = (x.ctypes.data, 6, 1, y.ctypes.data, 4, 6, 1.0, None, None, None, None, None, 1)
    assert loss(*arguments) == OK
    y[1] = 6
    assert loss(*arguments) == BAD_LABEL


def test_without_classes_or_rows(dtype):
    for function in ("softmax", "log_softmax"):
        for changes in ({"n_classes": 0, "x": None}, {"n_rows": 0, "out": None}):
            assert untouched(sample_call(function, dtype, changes=changes)).status == OK
    call = sample_call("logsumexp", dtype, changes={"n_classes": 0, "x": None})
    assert ctypes_call(call).status == OK and (call.out == -np.inf).all()
    for function in (*LOSSES, *DIVERGENCES, "weight_sum"):
        changes = {"n_rows": 0, "x": None, "out": None, "labels": None, "base": None}
        assert untouched(sample_call(function, dtype, changes=changes)) == Reply(OK)


# ---- headers, versions, completeness -------------------------------------------------------------


IN_HEADER = ("include", "softmax_fast.h")

# The table of version 1: its members stay where they are, and new ones come behind them.
FIRST_MEMBERS = [
    "api_version",
    "softmax_f32",
    "log_softmax_f32",
    "softmax_f64",
    "log_softmax_f64",
    "logsumexp_f32",
    "logsumexp_f64",
    "softmax_loss_f32",
    "softmax_loss_f64",
    "softmax_loss_grad_f32",
    "softmax_loss_grad_f64",
    "weight_sum",
]


def text_of(*path):
    """A source file of the package without its comments."""
    text = PACKAGE.joinpath(*path).read_text(encoding="utf-8")
    if path[-1].endswith(".pxd"):
        return re.sub(r"#.*", "", text)
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def declarations(text):
    """{name: type} of C declarations like ``type *a, *b;`` and ``type a, b;``, in their order."""
    return {
        name.strip(" *\n"): kind
        for kind, names in re.findall(r"^ *(softmax_fast_\w+) ([^;()]*);", text, re.MULTILINE)
        for name in names.split(",")
    }


def table_members():
    """{function: its type} of the header, by what ``import_softmax_fast`` fetches."""
    members = re.search(r"typedef struct \{([^}]*)\} softmax_fast_table;", text_of(*IN_HEADER))[1]
    return declarations(members)


def declared():
    """{function: its type} of the header, by what is declared without Python."""
    without = re.search(
        r"#ifdef SOFTMAX_FAST_NO_PYTHON\n(.*?)\n#else\n", text_of(*IN_HEADER), re.DOTALL
    )[1]
    return {
        name.removeprefix("softmax_fast_"): kind for name, kind in declarations(without).items()
    }


def parameter_list(text):
    """[(type, name)] of parameters in C or Cython, in one spelling of the types."""
    found = []
    for parameter in text.split(","):
        words = re.sub(r"\bptrdiff_t\b", "Py_ssize_t", parameter).replace("*", " * ").split()
        words = ["loss_options" if w == "softmax_fast_loss_options" else w for w in words]
        if words != ["void"]:
            found.append((" ".join(words[:-1]), words[-1]))
    return found


def capsule_types(name):
    """The types of a function's parameters, by the name of its capsule, which says float const *."""
    text = re.search(r'"int \((.*)\)"', repr(capi.__pyx_capi__[name]))[1]
    text = re.sub(r"__pyx_t_\w*_loss_options", "loss_options", text)
    types = [t.replace("*", " * ").split() for t in text.split(",")]
    types = [["const", t[0], *t[2:]] if t[1:2] == ["const"] else t for t in types]
    return [" ".join(t) for t in types if t != ["void"]]


def test_the_lists_of_the_c_api_are_equal():
    table = table_members()
    members = list(table)
    assert members[: len(FIRST_MEMBERS)] == FIRST_MEMBERS
    assert declared() == table and list(declared()) == members
    api = re.search(r"sf_api_table = \{(.*?)\};", text_of("kernels", "api.c"), re.DOTALL)[1]
    assert re.findall(r"\.(\w+) = softmax_fast_(\w+),", api) == [(m, m) for m in members]
    extern = re.findall(r"int softmax_fast_(\w+)\(", text_of("_api.pxd"))
    assert sorted(extern) == sorted(members)
    imported = re.search(r"cimport \((.*?)\)", text_of("capi.pxd"), re.DOTALL)[1].split(",")
    constants = re.search(r"cdef enum:\n(.*?)\n\n(?! )", text_of("_core.pxd"), re.DOTALL)[1]
    constants = re.findall(r"(\w+) =", constants)
    assert {name.strip() for name in imported} - {""} == {*members, *constants, "loss_options"}
    assert set(capi.__pyx_capi__) == set(members)


def test_the_parameters_of_the_c_api_are_equal():
    types = re.findall(r"typedef int (softmax_fast_\w+)\(([^)]*)\)", text_of(*IN_HEADER))
    types = {name: parameter_list(parameters) for name, parameters in types}
    cython = re.findall(r"cdef int (\w+)\(([^)]*)\)", text_of("_core.pxd"))
    cython = {name: parameter_list(parameters) for name, parameters in cython if parameters}
    cython["api_version"] = []
    for name, kind in table_members().items():
        # Cython has no parameter with the name of its function
        expected = [(t, "total" if p == name else p) for t, p in types[kind]]
        assert cython[name] == expected, name
        assert capsule_types(name) == [t for t, _ in types[kind]], name
    assert set(cython) == set(table_members())


def test_the_options_of_the_c_api_are_equal():
    header = re.search(
        r"typedef struct \{([^}]*)\} softmax_fast_loss_options;", text_of(*IN_HEADER)
    )[1]
    header = parameter_list(header.strip(" ;\n").replace(";", ","))
    cython = re.search(r"struct loss_options:\n((?: +.*\n)*)", text_of("_core.pxd"))[1]
    assert parameter_list(cython.strip().replace("\n", ",")) == header
    assert [name for name, _ in LossOptions._fields_] == [name for _, name in header]


def test_every_public_c_function_has_a_consumer_here():
    members = set(table_members())
    assert members == {
        *(f"{f}_{d}" for f in FUNCTIONS for d in ("f32", "f64")),
        *(f"{f}_{d}" for f in LAYERS for d in ("f32", "f64", "f32_bf16")),
        *NO_DTYPE,
    }
    macros = re.findall(
        r"#define softmax_fast_(\w+) (?:\\\n    )?\(softmax_fast_imported->(\w+)\)",
        HEADER.read_text(),
    )
    assert {a for a, _ in macros} == members and all(a == b for a, b in macros)

    sources = {p.name: p.read_text(encoding="utf-8") for p in SOURCES.iterdir() if p.is_file()}
    for name in members:
        assert f"softmax_fast_{name}(" in sources["consumer.h"], f"no call in C of {name}"
        assert f" {name}(" in sources["cython_extension.pyx"], f"no call in Cython of {name}"
    assert "softmax_fast_set_parallel_for(parallel_for, &pool)" in sources["program.cpp"]
    assert "import_softmax_fast()" in sources["c_extension.c"]
    inline = re.findall(r"cdef inline \w+ (\w+)\(", (PACKAGE / "capi.pxd").read_text())
    assert len(inline) == 10
    for name in inline:
        assert f" {name}(" in sources["cython_extension.pyx"], f"no call in Cython of {name}"


def test_versions_agree(consumer):
    x = np.zeros((1, 1))
    (reply,) = consumer([Call("api_version", x)], _core.isa())
    version = re.search(r"#define SOFTMAX_FAST_API_VERSION (\d+)\n", HEADER.read_text())[1]
    assert reply.status == int(version)


def test_constants_of_cython(cython_extension):
    version = ctypes_call(Call("api_version", np.zeros((1, 1)))).status
    assert cython_extension.versions == (version, version)
    assert cython_extension.statuses == {
        "OK": OK,
        "NO_MEMORY": NO_MEMORY,
        "BAD_ARGUMENT": BAD_ARGUMENT,
        "BAD_LABEL": BAD_LABEL,
    }
    text = HEADER.read_text(encoding="utf-8")
    for name, value in cython_extension.statuses.items():
        assert re.search(rf"SOFTMAX_FAST_{name} = {value}\b", text)


def test_an_extension_compiled_for_a_later_version_is_refused(tmp_path):
    text = re.sub(r"(#define SOFTMAX_FAST_API_VERSION) \d+", r"\1 1000", HEADER.read_text())
    (tmp_path / "softmax_fast.h").write_text(text)
    with pytest.raises(ImportError, match="version 1000 of softmax_fast's C API"):
        build_extension(SOURCES / "c_extension.c", tmp_path, include=str(tmp_path))


@pytest.mark.parametrize("python", [True, False], ids=["with Python", "without Python"])
@pytest.mark.parametrize("language", ["c11", "c++11", "c++17", "c++20"])
def test_the_header_compiles_alone(language, python, tmp_path):
    source = tmp_path / ("header.cpp" if "+" in language else "header.c")
    source.write_text("#include <softmax_fast.h>\n")
    command = compiler("CXX", "c++") if "+" in language else compiler("CC", "cc")
    mode = ["-isystem", python_headers()] if python else ["-DSOFTMAX_FAST_NO_PYTHON"]
    if python and language == "c++11":
        pytest.skip("the headers of Python may want more")
    run(
        [*command, f"-std={language}", *WARNINGS, *mode, "-I", sf.get_include()]
        + ["-fsyntax-only", str(source)]
    )


def test_the_names_of_the_capsules_are_the_types():
    p = "Py_ssize_t"
    capsules = {name: repr(capsule) for name, capsule in capi.__pyx_capi__.items()}
    rows = f"int (float const *, {p}, {p}, float *, {p}, {p}, {p}, {p}, double, int)"
    assert f'"{rows}"' in capsules["softmax_f32"]
    assert '"int (void)"' in capsules["api_version"]


# ---- views of Cython -----------------------------------------------------------------------------


@every_layout
def test_views_of_any_strides(layout, dtype, cython_extension):
    module = cython_extension
    x, y = placed(logits((9, 30), dtype), layout), labels(9, 30)
    x.flags.writeable = False
    for name in ("softmax", "log_softmax"):
        out = placed(np.zeros((9, 30), dtype), layout)
        assert getattr(module, f"{name}_of")(x, out, 2.0, 1) == OK
        assert (out == getattr(sf, name)(x, temperature=2.0)).all()
    out = np.zeros(18, dtype)[::2]
    assert module.logsumexp_of(x, out, 2.0, 1) == OK
    assert (out == sf.logsumexp(x, temperature=2.0)).all()
    loss = sf.softmax_loss(x, y, temperature=2.0, label_smoothing=0.5, reduction="sum")
    assert module.softmax_loss_of(x, y, 2.0, 0.5, 1) == (OK, -1, loss, 9.0)
    grad = placed(np.zeros((9, 30), dtype), layout)
    loss, wanted = sf.softmax_loss_and_grad(x, y, temperature=2.0, reduction="sum")
    assert module.softmax_loss_grad_of(x, y, 2.0, 1.0, grad, 1) == (OK, -1, loss, 9.0)
    assert (grad == wanted).all()
    base = placed(logits((9, 30), dtype)[::-1], layout)
    divergence, wanted = sf.kl_divergence_and_grad(base, x, temperature=2.0, reduction="sum")
    assert module.kl_divergence_of(base, x, 2.0, 1) == (OK, divergence, 9.0)
    assert module.kl_divergence_grad_of(base, x, 2.0, 1.0, grad, 1) == (OK, divergence, 9.0)
    assert (grad == wanted).all()
    weights, bias = logits((30, 30), dtype)[:7, ::-1], logits((7, 1), dtype)[:, 0].copy()
    y = labels(9, 7)
    options = {"bias": bias, "temperature": 2.0, "reduction": "sum"}
    loss = sf.linear_softmax_loss(x, weights, y, **options)
    assert module.linear_softmax_loss_of(x, weights, bias, y, 2.0, 1) == (OK, -1, loss, 9.0)
    loss, wanted = sf.linear_softmax_loss_and_grad(x, weights, y, **options)
    arguments = (x, weights, bias, y, 2.0, 1.0)
    outs = [np.zeros((9, 30), dtype), np.zeros((7, 30), dtype), np.zeros(7, dtype)]
    expected = (OK, -1, loss, 9.0)
    assert module.linear_softmax_loss_grad_of(*arguments, *outs, 1) == expected
    for got, grad in zip(outs, wanted, strict=True):
        assert (got == grad).all()
    arguments = (x, weights, None, y, 2.0, 1.0)
    assert module.linear_softmax_loss_grad_of(*arguments, None, None, None, 1)[0] == OK


def test_views_that_do_not_fit(dtype, cython_extension):
    module = cython_extension
    x, y, narrow = logits((4, 6), dtype), labels(4, 6), np.zeros((4, 5), dtype)
    packed_floats = np.zeros(4, np.dtype([("x", dtype, 6), ("odd", "i1")]))["x"]
    assert module.softmax_of(x, narrow, 1.0, 1) == BAD_ARGUMENT
    assert module.log_softmax_of(x, narrow, 1.0, 1) == BAD_ARGUMENT
    assert module.logsumexp_of(x, np.zeros(5, dtype), 1.0, 1) == BAD_ARGUMENT
    assert module.softmax_loss_of(x, y[:3], 1.0, 0.0, 1)[0] == BAD_ARGUMENT
    assert module.softmax_loss_grad_of(x, y, 1.0, 1.0, narrow, 1)[0] == BAD_ARGUMENT
    assert module.softmax_of(x, packed_floats, 1.0, 1) == BAD_ARGUMENT
    assert module.kl_divergence_of(narrow, x, 1.0, 1)[0] == BAD_ARGUMENT
    assert module.kl_divergence_of(packed_floats, x, 1.0, 1)[0] == BAD_ARGUMENT
    assert module.kl_divergence_grad_of(x, x, 1.0, 1.0, narrow, 1)[0] == BAD_ARGUMENT
    for given in ((x, narrow, None, y), (x, x, x[0, :5], y), (x, x, None, y[:3])):
        assert module.linear_softmax_loss_of(*given, 1.0, 1)[0] == BAD_ARGUMENT
    for outs in ((narrow, None, None), (None, narrow, None), (None, None, x[0, :3])):
        reply = module.linear_softmax_loss_grad_of(x, x, None, y % 4, 1.0, 1.0, *outs, 1)
        assert reply[0] == BAD_ARGUMENT
    empty = np.zeros((0, 6), dtype)
    assert module.softmax_of(empty, empty, 1.0, 1) == OK
    assert module.softmax_loss_of(empty, labels(0, 6), 1.0, 0.0, 1) == (OK, -1, 0.0, 0.0)


# ---- the documents' examples ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_example_without_python(language, library_folder):
    (folder := library_folder / language.replace("+", "p")).mkdir()
    os.symlink(library_folder / "softmax_fast", folder / "softmax_fast")
    os.symlink(library_folder / "libsoftmax_fast.a", folder / "libsoftmax_fast.a")
    (folder / "example.c").write_text(block("example:c"))
    line = block("command:example").strip()
    if language == "c++":
        line = f"{compiler('CXX', 'c++')[0]} -x c++ {line.partition(' ')[2]}".replace(
            "libsoftmax_fast.a", "-x none libsoftmax_fast.a"
        )
    shown = run(["sh", "-ec", line], cwd=folder).stdout.decode()
    assert shown == block("output:example")
    values = sf.softmax(np.array([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]], dtype=np.float32))
    assert shown.split() == [f"{v:.3f}" for v in values.flat]


def test_the_example_of_cython(tmp_path):
    source = tmp_path / "example.pyx"
    source.write_text(block("example:cython"))
    module = build_extension(cythonized(source, tmp_path), tmp_path)
    x = logits((50, 8), np.float64)
    rows = sf.logsumexp(x)
    assert module.log_evidence(x) == functools.reduce(lambda a, b: a + b, rows.tolist(), 0.0)


def test_the_readmes_example_of_cython(tmp_path):
    source = tmp_path / "readme.pyx"
    source.write_text(block("example:cython", HERE.parent / "README.md"))
    module = build_extension(cythonized(source, tmp_path), tmp_path)
    x = logits((50, 8), np.float32)
    expected = sf.softmax(x)
    module.softmax_rows(x)
    assert (x == expected).all()


def test_the_example_of_numba():
    pytest.importorskip("numba")
    given = {}
    exec(compile(block("example:numba"), DOCUMENT.name, "exec"), given)  # noqa: S102
    x = logits((40, 10), np.float32)
    assert (given["probabilities"](x) == sf.softmax(x)).all()
    assert (given["probabilities"](x[::2]) == sf.softmax(x[::2])).all()
    base, weights = logits((20, 10), np.float32)[:, ::-1], positive(20)
    rows, total = given["divergences"](base, x[::2], weights)
    options = {"sample_weight": weights}
    assert (rows == sf.kl_divergence(base, x[::2], reduction="none", **options)).all()
    assert total == sf.kl_divergence(base, x[::2], reduction="sum", **options)


# Was a crash: results that nobody asked for were looked for behind a NULL pointer.
@pytest.mark.parametrize("shape", [(4, 4096), (32, 2048), (100, 100)])
@pytest.mark.parametrize("temperature", [1e300, 1e31, 1e-31, 5e-324])
def test_long_rows_beyond_the_reach_of_their_kernels(shape, temperature, dtype):
    calls = [
        sample_call(function, dtype, shape, temperature=temperature)
        for function in (*DENSE, "logsumexp", *DIVERGENCES)
    ]
    check(calls, ctypes_consumer, None)
