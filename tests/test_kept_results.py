"""Memory of large results, which is kept for the next ones."""

import ctypes
import pickle
import threading
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

import softmax_fast as sf
from softmax_fast import _core

AT_MOST = _core.kept_results()["at most"]
X = np.zeros((2304, 4096), np.float32)
X[:, 1] = np.log(2)
FIRST, SECOND = np.float32(1 / 4097), np.float32(2 / 4097)
MIB = 2**20
BYTES = 36 * MIB

pytestmark = pytest.mark.skipif(not AT_MOST, reason="nothing is kept on this system")


@pytest.fixture(autouse=True)
def nothing_kept_before():
    _core.keep_results(AT_MOST)
    yield
    _core.keep_results(AT_MOST)


def address(array):
    return array.__array_interface__["data"][0]


def kept():
    return sf.show_config(mode="dicts")["kept for large results"]["now"]


def is_right(p):
    first, second = p[:, 0], p[:, 1]
    np.testing.assert_allclose(first, FIRST, rtol=1e-6)
    np.testing.assert_allclose(second, SECOND, rtol=1e-6)
    return (p[:, 2:] == first[0]).all()


def results_of(x):
    labels = np.zeros(len(x), np.int64)
    yield lambda: sf.softmax(x)
    yield lambda: sf.log_softmax(x, axis=0)
    yield lambda: sf.softmax_loss_and_grad(x, labels)[1]
    yield lambda: sf.kl_divergence_and_grad(x, x)[1]
    yield lambda: sf.binary_cross_entropy_with_logits(x, x, reduction="none")


def test_a_freed_result_is_the_memory_of_the_next():
    found = set()
    for result in results_of(X):
        p = result()
        found.add(address(p))
        del p
        assert kept() == BYTES
    assert len(found) == 1
    p = sf.softmax(X)
    assert {address(p)} == found
    assert kept() == 0
    assert is_right(p)


def test_living_results_share_nothing():
    results = [sf.softmax(X) for _ in range(3)]
    del results[1]
    results += [sf.softmax(X), sf.softmax(X)]
    begins = sorted(address(p) for p in results)
    assert all(b - a >= BYTES for a, b in pairwise(begins))
    for p in results:
        assert is_right(p)
    for i, p in enumerate(results):
        p[:] = i
    assert [p.min() for p in results] == [p.max() for p in results] == [0, 1, 2, 3]


def test_no_more_is_kept_than_is_allowed():
    _core.keep_results(2 * BYTES + BYTES // 2)
    results = [sf.softmax(X) for _ in range(4)]
    last = {address(p) for p in results[2:]}
    while results:
        del results[0]
        assert kept() <= 2 * BYTES
    results = [sf.softmax(X) for _ in range(2)]
    assert {address(p) for p in results} == last  # the oldest have gone
    _core.keep_results(BYTES - 1)
    del results[:]
    assert kept() == 0
    assert np._core.multiarray.get_handler_name(sf.softmax(X)) == "default_allocator"


def test_nearly_equal_sizes_share_memory():
    p = sf.softmax(X[:-30])
    at = address(p)
    del p
    assert X[:-30].nbytes <= kept() <= X[:-30].nbytes * 9 / 8
    p = sf.softmax(X)
    assert address(p) == at
    del p
    sf.softmax(np.zeros((2600, 4096), np.float32))
    assert kept() == BYTES + 44 * MIB


def test_small_results_and_outputs_are_not_touched():
    out = np.empty_like(X)
    results = [sf.softmax(X, out=out), sf.softmax(X[:10]), sf.softmax(X[:0]), sf.logsumexp(X)]
    assert {np._core.multiarray.get_handler_name(r) for r in results} == {"default_allocator"}
    assert np._core.multiarray.get_handler_name() == "default_allocator"


def test_results_are_arrays_as_others():
    p = sf.softmax(X)
    assert p.flags.owndata
    assert p.flags.writeable
    assert p.base is None
    assert is_right(pickle.loads(pickle.dumps(p)))
    p.resize((2, 4096), refcheck=False)
    assert is_right(p)
    p.resize((3 * 2304, 4096), refcheck=False)
    assert is_right(p[:2])
    assert not p[2:].any()
    p.resize((2304, 4096), refcheck=False)
    del p
    assert kept() == BYTES


def test_resized_results_give_their_memory_back():
    p = sf.softmax(X)
    p.resize((1, 4), refcheck=False)
    np.testing.assert_allclose(p, [[FIRST, SECOND, FIRST, FIRST]], rtol=1e-6)
    del p
    assert kept() == 0
    p = sf.softmax(X)
    p.__setstate__(np.ones(3).__reduce__()[2])
    assert p.tolist() == [1, 1, 1]
    assert kept() == BYTES


def test_results_are_traced():
    tracemalloc.start()
    try:
        for _ in range(2):
            before = tracemalloc.get_traced_memory()[0]
            p = sf.softmax(X)
            assert 0 <= tracemalloc.get_traced_memory()[0] - before - BYTES < 100_000
            del p
            assert abs(tracemalloc.get_traced_memory()[0] - before) < 100_000
    finally:
        tracemalloc.stop()


def test_kept_pages_are_the_systems_to_take(run_python):
    run_python(
        """
        import numpy as np, softmax_fast as sf
        def lazily_freed():
            with open("/proc/self/smaps_rollup") as file:
                return sum(int(line.split()[1]) for line in file if line.startswith("LazyFree"))
        before = lazily_freed()
        sf.softmax(np.zeros((2304, 4096), np.float32))
        assert lazily_freed() - before > 35 * 1024
        """
    )


def test_the_callers_own_memory_handler_is_used():
    table = ctypes.pythonapi.PyCapsule_GetPointer
    table.restype, table.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    numpys = (ctypes.c_void_p * 307).from_address(
        ctypes.pythonapi.PyCapsule_GetPointer(np._core.multiarray._ARRAY_API, None)
    )
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(numpys[304])
    default = ctypes.cast(numpys[306], ctypes.POINTER(ctypes.py_object)).contents.value
    # NumPy's own functions by another name
    size = 128 + 5 * ctypes.sizeof(ctypes.c_void_p)
    handler = ctypes.create_string_buffer(
        ctypes.string_at(ctypes.pythonapi.PyCapsule_GetPointer(default, b"mem_handler"), size),
        size,
    )
    handler[:4] = b"own\0"
    before = set_handler(new(ctypes.addressof(handler), b"mem_handler", None))
    try:
        p = sf.softmax(X)
        assert np._core.multiarray.get_handler_name(p) == "own"
        assert np._core.multiarray.get_handler_name() == "own"
        del p
        assert kept() == 0
    finally:
        set_handler(before)
    assert np._core.multiarray.get_handler_name(sf.softmax(X)) == "softmax_fast kept results"
    assert np._core.multiarray.get_handler_name() == "default_allocator"


def test_threads_share_what_is_kept():
    _core.keep_results(2 * BYTES)
    wrong = []

    def work(mark):
        for i in range(6):
            p = sf.softmax(X, n_threads=1)
            q = sf.softmax(X, n_threads=1) if i % 2 else None
            p[::64] = mark
            if q is not None and not is_right(q):
                wrong.append(("q", mark))
            if not (p[::64] == mark).all():
                wrong.append(("p", mark))

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < kept() <= 2 * BYTES


def test_a_forked_child_and_its_parent_have_their_own(run_python):
    run_python(
        """
        import os
        import numpy as np, softmax_fast as sf
        from softmax_fast import _core
        x = np.zeros((2304, 4096), np.float32)
        p, q = sf.softmax(x), sf.softmax(x)
        at = q.__array_interface__["data"][0]
        del q
        child = os.fork()
        q = sf.softmax(x)
        assert q.__array_interface__["data"][0] == at
        q[:] = 1 if child else 2
        p[:] = q
        if not child:
            os._exit(int(not (p == 2).all()))
        assert os.waitpid(child, 0)[1] == 0
        assert (p == 1).all()  # p lives when the interpreter ends
        """
    )


@pytest.mark.parametrize(
    ("value", "at_most", "warnings"),
    [("0", 0, 0), (str(BYTES), BYTES, 0), ("", 2**28, 0), ("-1", 2**28, 1), ("64M", 2**28, 1)],
)
def test_the_environment_variable_says_how_much(value, at_most, warnings, run_python):
    run_python(
        f"""
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import numpy as np, softmax_fast as sf
        assert sum("SOFTMAX_FAST_KEEP_RESULTS" in str(w.message) for w in caught) == {warnings}
        kept = lambda: sf.show_config(mode="dicts")["kept for large results"]
        assert kept() == {{"at most": {at_most}, "now": 0}}
        sf.softmax(np.zeros((2304, 4096), np.float32))
        assert (kept()["now"] > 0) == ({at_most} > 0)
        """,
        env={"SOFTMAX_FAST_KEEP_RESULTS": value},
    )
