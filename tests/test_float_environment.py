"""The caller's floating-point environment is left alone, and an unusual one is survived."""

import ctypes
import ctypes.util
import platform
import sys

import numpy as np
import oracle
import pytest
from cases import ROW_FUNCTIONS, generator, kinds_block, problem

import softmax_fast as sf
from softmax_fast import _core
from softmax_fast._margins import Vectors

pytestmark = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and platform.machine() == "x86_64"),
    reason="reads glibc's fenv_t of x86-64",
)

FE_UPWARD, FE_DOWNWARD, FE_TONEAREST = 0x800, 0x400, 0
MXCSR_STATUS = 0x3F
FTZ_AND_DAZ = 0x8040
ALL_BUT_INEXACT = 0x1D

libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")


class Environment(ctypes.Structure):
    """fenv_t: the x87 environment, then MXCSR."""

    _fields_ = [("x87", ctypes.c_uint8 * 28), ("mxcsr", ctypes.c_uint32)]

    @classmethod
    def now(cls):
        environment = cls()
        libm.fegetenv(ctypes.byref(environment))
        return environment

    def install(self):
        libm.fesetenv(ctypes.byref(self))

    def control(self):
        """What governs rounding, traps and subnormals: the control words, no status bits."""
        return bytes(self.x87[:2]), self.mxcsr & ~MXCSR_STATUS


@pytest.fixture
def restored():
    before = Environment.now()
    yield before
    before.install()


def test_every_function_leaves_the_control_words_alone(isa, dtype, n_threads, restored):
    before = Environment.now().control()
    for shape in ((3, 7), (200, 300)):
        x, y, t = problem(shape, dtype)
        for name, function in ROW_FUNCTIONS.items():
            function(x, y, t, n_threads=n_threads)
            assert Environment.now().control() == before, name


def test_a_caller_that_flushes_subnormals_keeps_doing_so(isa, dtype, restored):
    x, y, t = problem((3, 33), dtype)
    flushing = Environment.now()
    flushing.mxcsr |= FTZ_AND_DAZ
    for function in ROW_FUNCTIONS.values():
        flushing.install()
        function(x, y, t)
        after = Environment.now().control()
        restored.install()
        assert after == flushing.control()


@pytest.mark.parametrize("bits", [0, FTZ_AND_DAZ], ids=["usual", "flushing"])
def test_the_gradients_of_a_layer_leave_the_control_words_alone(bits, isa, dtype, restored):
    features, weights = np.ones((64, 32), dtype), np.ones((200, 32), dtype)
    for n_threads in (1, 2):
        before = Environment.now()
        before.mxcsr = before.mxcsr & ~FTZ_AND_DAZ | bits
        before.install()
        sf.linear_softmax_loss_and_grad(
            features, weights, np.zeros(64, int), bias=weights[:, 0], n_threads=n_threads
        )
        after = Environment.now().control()
        restored.install()
        assert after == before.control()


@pytest.mark.parametrize("rows", [8, 9])
def test_a_caller_that_flushes_subnormals_gets_the_same_of_a_layer(rows, isa, restored):
    features = np.full((rows, 32), 5e-5, np.float16)[:, ::2]  # subnormal
    weights = np.zeros((3, 16), np.float16)
    weights[1] = 60000
    labels = np.zeros(rows, int)
    expected = sf.linear_softmax_loss(features, weights, labels)
    flushing = Environment.now()
    flushing.mxcsr |= FTZ_AND_DAZ
    flushing.install()
    loss = sf.linear_softmax_loss(features, weights, labels)
    restored.install()
    assert expected > 40 and loss == expected


# Were rounded as each thread does: with two the bits of a loss with a margin changed from call to call.
def test_vectors_of_a_margin_do_not_depend_on_the_rounding_of_a_thread(dtype, restored):
    rng = generator(300, 64)
    x, w = (Vectors(rng.standard_normal((300, 64)).astype(dtype), None, 1) for _ in range(2))

    def numbers():
        grad = np.ones((300, 64), dtype)
        _core.add_vector_gradients(grad, None, x, w, x.norms, x.norms, w.norms, False, 1)
        return _core.squares(x, 1), _core.angles(x, w, 1), grad

    expected = numbers()
    libm.fesetround(FE_UPWARD)
    got = numbers()
    rounding = libm.fegetround()
    restored.install()
    assert rounding == FE_UPWARD
    for a, b in zip(got, expected, strict=True):
        oracle.assert_same_bits(a, b)


def test_a_caller_that_traps_exceptions_is_not_trapped(isa, dtype, run_python):
    # with the caller's traps on, a NaN or an overflow among the logits would end the process
    run_python(
        f"""
        import ctypes, ctypes.util
        import numpy as np
        import softmax_fast as sf
        sf._core.set_isa({isa!r})
        big = np.finfo({dtype.name!r}).max
        x = np.zeros((5, 300), {dtype.name!r})
        x[0, 3], x[1, 3], x[2, 3], x[3, :3], x[4] = np.nan, np.inf, -np.inf, -big, big
        y, out = np.arange(5), np.empty_like(x)
        libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
        calls = [
            lambda k: sf.softmax(x, out=out, **k),
            lambda k: sf.log_softmax(x, out=out, temperature=0.3, **k),
            lambda k: sf.logsumexp(x[:, :100], **k),
            lambda k: sf.softmax_loss(x, y, **k),
            lambda k: sf.softmax_loss_and_grad(x, y, grad_out=out, **k),
        ]
        for call in calls:
            call({{}}), call({{"n_threads": 2}})
            assert libm.feenableexcept({ALL_BUT_INEXACT}) >= 0
            call({{}}), call({{"n_threads": 2}})
            assert libm.fegetexcept() == {ALL_BUT_INEXACT}
            libm.fedisableexcept({ALL_BUT_INEXACT})
        """
    )


def test_importing_keeps_subnormals_alive(run_python):
    run_python(
        """
        import numpy as np
        import softmax_fast as sf
        tiny, small = np.float64(5e-324), np.float32(1e-45)
        sf.softmax(np.zeros((300, 300), np.float32), n_threads=2)
        assert tiny * 1.0 > 0 and small * np.float32(1) > 0
        assert np.finfo(np.float64).tiny / 2 > 0
        """
    )


@pytest.mark.parametrize("mode", [FE_UPWARD, FE_DOWNWARD], ids=["up", "down"])
def test_other_rounding_modes_cost_one_more_ulp(mode, isa, dtype, restored):
    x, names = kinds_block(100, dtype)
    x = x[[i for i, name in enumerate(names) if name != "near overflow"]]  # -max instead of -inf
    eps = np.finfo(dtype).eps
    results = {}
    for function in (sf.softmax, sf.log_softmax, sf.logsumexp):
        libm.fesetround(mode)
        results[function.__name__] = function(x, n_threads=1)
        kept = libm.fegetround()
        libm.fesetround(FE_TONEAREST)
        assert kept == mode
    rows = oracle.rows_of(x)
    with np.errstate(all="ignore"):
        p = np.exp(rows.exponent) / (1 + rows.rest)[..., None]
    log_p, total = oracle.log_softmax(x), oracle.logsumexp(x)
    # half an ULP of the exponent's rounding becomes a whole one, and one more of the result
    bound = oracle.softmax_bound(p, rows.exponent, 0, dtype) + eps * p
    oracle.assert_within(results["softmax"], p, bound, dtype)
    bound = oracle.log_softmax_bound(log_p, dtype) + eps * np.abs(log_p)
    oracle.assert_within(results["log_softmax"], log_p, bound, dtype)
    bound = oracle.logsumexp_bound(rows.maximum, 1, total, dtype) + eps * np.abs(total)
    oracle.assert_within(results["logsumexp"], total, bound, dtype)
