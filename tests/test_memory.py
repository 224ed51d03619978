"""No byte outside the arrays is read or written, and nothing leaks, error paths included."""

import ctypes
import gc
import mmap
import os
import sys

import numpy as np
import oracle
import pytest
from cases import (
    FUNCTIONS,
    ROW_FUNCTIONS,
    TYPICAL,
    every_row_function,
    guarded_out,
    problem,
    shared_problem,
)

import softmax_fast as sf

LENGTHS = [*range(131), 2047, 2048, 2049]

libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
needs_mprotect = pytest.mark.skipif(
    not hasattr(libc, "mprotect"), reason="mprotect is not there to guard pages with"
)


class GuardedPages:
    """Memory between two pages that nobody may touch; a stray access ends the process."""

    def __init__(self, n_bytes):
        page = mmap.PAGESIZE
        self.size = -(-max(n_bytes, 1) // page) * page
        self._map = mmap.mmap(-1, self.size + 2 * page)
        whole = np.frombuffer(self._map, np.uint8)
        for start in (whole.ctypes.data, whole.ctypes.data + page + self.size):
            assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(page), 0) == 0
        self.bytes = whole[page : page + self.size]

    def at_start(self, shape, dtype):
        n = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes[:n].view(dtype).reshape(shape)

    def at_end(self, shape, dtype):
        n = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes[self.size - n :].view(dtype).reshape(shape)


@pytest.fixture(scope="module")
def pages():
    """Guarded memory for each array of a call."""
    return [GuardedPages(3 * max(LENGTHS) * 8) for _ in range(5)]


def placements(pages, arrays):
    """The arrays against the guard before them, then against the guard behind them."""
    for place in ("at_start", "at_end"):
        placed = []
        for page, values in zip(pages, arrays, strict=False):
            view = getattr(page, place)(values.shape, values.dtype)
            view[...] = values
            placed.append(view)
        yield place, placed


@needs_mprotect
@pytest.mark.parametrize("n_rows", [1, 3])
@every_row_function
def test_inputs_and_outputs_against_guard_pages(name, n_rows, isa, dtype, pages):
    function = ROW_FUNCTIONS[name]
    for n_classes in LENGTHS[1:]:
        arrays = shared_problem((n_rows, n_classes), dtype)
        expected = function.outputs(function(*arrays))
        outs = [np.full(part.shape, 7, dtype) for part in expected.values()]
        for place, (x, y, t, *given) in placements(pages, (*arrays, *outs)):
            context = f"{name}, {n_classes}, {place}"
            oracle.assert_same_bits(function(x, y, t), function(*arrays), context)
            function(x, y, t, **dict(zip(expected, given, strict=True)))
            for got, part in zip(given, expected.values(), strict=True):
                oracle.assert_same_bits(got, part, context)


@needs_mprotect
@pytest.mark.parametrize("n_rows", [1, 3])
def test_in_place_against_guard_pages(n_rows, isa, dtype, pages):
    for n_classes in LENGTHS:
        x = problem((n_rows, max(n_classes, 1)), dtype)[0][:, :n_classes].copy()
        for function in (sf.softmax, sf.log_softmax):
            for place, (logits,) in placements(pages, (x,)):
                function(logits, out=logits)
                oracle.assert_same_bits(logits, function(x), f"{n_classes}, {place}")


@needs_mprotect
def test_half_precision_against_guard_pages(isa, pages):
    for n_classes in LENGTHS[1:]:
        x, y, t = shared_problem((3, n_classes), np.float16)
        expected = sf.softmax(x), sf.softmax_loss(x, y), sf.softmax_loss(x, t)
        for place, (logits, y_, t_) in placements(pages, (x, y, t)):
            got = sf.softmax(logits), sf.softmax_loss(logits, y_), sf.softmax_loss(logits, t_)
            for a, b in zip(got, expected, strict=True):
                oracle.assert_same_bits(a, b, f"{n_classes}, {place}")


@needs_mprotect
def test_strided_arrays_against_guard_pages(isa, dtype, pages):
    # the last element of a strided view is the last of its memory: nothing lies behind it
    for n_classes in (1, 2, 3, 15, 16, 17, 33, 130):
        x, y, _ = problem((3, n_classes), dtype)
        spread = np.zeros((3, 3 * n_classes - 2), dtype)
        spread[:, ::3] = x
        expected = sf.softmax(x), sf.softmax_loss(x, y), sf.softmax_loss_and_grad(x, y)[1]
        for place, (wide, tall) in placements(pages, (spread, np.ascontiguousarray(spread.T))):
            for view in (wide[:, ::3], tall[::3].T):
                oracle.assert_same_bits(sf.softmax(view), expected[0], place)
                assert sf.softmax_loss(view, y) == expected[1]
                oracle.assert_same_bits(sf.softmax_loss_and_grad(view, y)[1], expected[2], place)


@every_row_function
@pytest.mark.parametrize("n_rows", [1, 3, 64])
def test_canaries_around_the_output_live(name, n_rows, isa, dtype, n_threads):
    function = ROW_FUNCTIONS[name]
    for n_classes in [0, *TYPICAL, 130, 2049]:
        if n_classes == 0 and function.inputs != "x":
            continue
        x, y = np.zeros((n_rows, n_classes), dtype), np.zeros(n_rows, np.int64)
        guarded = {
            option: guarded_out(part.shape, dtype)
            for option, part in function.outputs(function(x, y, x)).items()
        }
        outs = {option: out for option, (out, _) in guarded.items()}
        function(x, y, x, n_threads=n_threads, **outs)
        for option, (_, intact) in guarded.items():
            assert intact(), f"{option} of {name}, {x.shape}"


@pytest.mark.parametrize("label", [-100, 40_000])
def test_a_long_column_that_does_not_count_writes_nothing_but_its_gradient(label, isa, dtype):
    # a row in pieces has little scratch, and a column wants much
    for _ in range(20):
        x = np.zeros((40_000, 3), dtype)[:, :1]
        grad, intact = guarded_out(x.shape, dtype)
        call = {"axis": 0, "reduction": "sum", "grad_out": grad, "n_threads": 2}
        if label < 0:
            assert sf.softmax_loss_and_grad(x, [label], **call)[0] == 0
            assert not grad.any()
        else:
            with pytest.raises(IndexError):
                sf.softmax_loss_and_grad(x, [label], **call)
        assert intact()


def error_paths(x, y, out):
    """Calls that all raise, with arrays whose references are watched."""
    yield lambda: sf.softmax(x, axis=7, out=out)
    yield lambda: sf.softmax(x, temperature=-1, out=out)
    yield lambda: sf.softmax(x, temperature=np.ones(3), out=out)
    yield lambda: sf.softmax(x, out=out[:2])
    yield lambda: sf.softmax(x, out=out.T)
    yield lambda: sf.softmax(x, n_threads=0, out=out)
    yield lambda: sf.log_softmax(x, out=x[::-1])
    yield lambda: sf.logsumexp(x, axis=7)
    yield lambda: sf.softmax_loss(x, y + 100)
    yield lambda: sf.softmax_loss(x, y[:2])
    yield lambda: sf.softmax_loss(x, y, weight=-np.ones(6))
    yield lambda: sf.softmax_loss(x, y, reduction="max")
    yield lambda: sf.softmax_loss_and_grad(x, y - 50, grad_out=out)
    yield lambda: sf.softmax_loss_and_grad(x, y, grad_out=out[:2])
    yield lambda: sf.cross_entropy(x - 5, y)
    yield lambda: sf.cross_entropy(np.abs(np.tanh(x)), y + 100)
    yield lambda: sf.binary_cross_entropy(x - 5, x)
    yield lambda: sf.binary_cross_entropy_with_logits(x, y)
    yield lambda: sf.selected_log_probs(x, y + 100)
    yield lambda: sf.linear_softmax_loss(x, x[:, :2], y)
    yield lambda: sf.linear_softmax_loss_and_grad(x, x, y + 100)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def test_error_paths_keep_no_references():
    x, y, _ = problem((4, 6), np.float64)
    out = np.empty_like(x)
    paths = list(error_paths(x, y, out))

    def raise_all(times):
        for path in paths * times:
            with pytest.raises((ValueError, TypeError, IndexError)):
                path()
        gc.collect()

    raise_all(1)
    before = [sys.getrefcount(a) for a in (x, y, out)]
    raise_all(20)
    assert [sys.getrefcount(a) for a in (x, y, out)] == before


def test_calls_keep_no_references():
    x, y, t = problem((4, 6), np.float64)
    for function in FUNCTIONS.values():
        function(x, y, t)
    gc.collect()
    before = [sys.getrefcount(a) for a in (x, y, t)]
    results = [function(x, y, t) for function in FUNCTIONS.values() for _ in range(20)]
    assert all(sys.getrefcount(r) <= 3 for r in results)
    del results
    gc.collect()
    assert [sys.getrefcount(a) for a in (x, y, t)] == before


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_memory_does_not_grow_with_the_number_of_calls():
    x, y, t = problem((8, 33), np.float32)
    out, grad = np.empty_like(x), np.empty_like(x)
    paths = list(error_paths(*problem((4, 6), np.float64)[:2], np.empty((4, 6))))

    def work(times):
        for _ in range(times):
            sf.softmax(x)
            sf.softmax(x, out=out)
            sf.logsumexp(x, temperature=2.0)
            sf.softmax_loss(x, y)
            sf.softmax_loss(x, t, weight=np.ones(33))
            sf.softmax_loss_and_grad(x, y, grad_out=grad)
            sf.selected_log_probs(x, y)
        for path in paths * (times // 50):
            try:
                path()
            except (ValueError, TypeError, IndexError):
                pass

    work(500)
    before = resident()
    work(15_000)  # more than 100,000 calls
    # 15,000 rounds that kept one 8x33 result each would hold 15 MB
    assert resident() - before < 1e6


def test_running_out_of_memory_is_a_memory_error(run_python):
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "RLIMIT_AS") or not sys.platform.startswith("linux"):
        pytest.skip("the address space cannot be limited here")
    run_python(
        """
        import resource
        import numpy as np
        import softmax_fast as sf
        x = np.broadcast_to(np.float32(1), (2**15, 2**15))
        sf.softmax(x[:2, :2]), sf.softmax_loss(x[:2, :2], [0, 1])
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        y = np.zeros(2**15, int)
        for call in (lambda: sf.softmax(x), lambda: sf.softmax_loss_and_grad(x, y)):
            try:
                call()
            except MemoryError:
                continue
            raise SystemExit("no MemoryError")
        assert np.allclose(sf.softmax(x[:2, :2]), 0.5)
        """,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("n_threads", [1, 2])
def test_running_out_of_memory_for_scratch_is_a_memory_error(n_threads, run_python):
    # rows so long that the sums of their blocks alone take 256 MB, out of one number's memory
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "RLIMIT_AS") or not sys.platform.startswith("linux"):
        pytest.skip("the address space cannot be limited here")
    run_python(
        f"""
        import mmap
        import resource
        import numpy as np
        import softmax_fast as sf
        x = np.broadcast_to(np.float32(1), (1, 2**34))
        p = np.broadcast_to(np.float32(2.0**-34), (1, 2**34))
        k = {{"n_threads": {n_threads}}}
        sf.logsumexp(x[:, :100_000], **k)
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * mmap.PAGESIZE
        limit = size + 2**26
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for call in (
            lambda: sf.logsumexp(x, **k),
            lambda: sf.softmax_loss(x, [0], **k),
            lambda: sf.softmax_loss(x, p, **k),
            lambda: sf.selected_log_probs(x, [[0, 1]], **k),
        ):
            try:
                call()
            except MemoryError:
                continue
            raise SystemExit("no MemoryError")
        assert sf.logsumexp(x[:, :10]).shape == (1,)
        """,
        env={"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
    )
