"""How many threads are used, and that threads and processes of the caller's do no harm."""

import concurrent.futures
import multiprocessing
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import threading

import numpy as np
import oracle
import pytest
from cases import MEANS, ROW_FUNCTIONS, problem

import softmax_fast as sf
from softmax_fast import _core, _threads

needs_openmp = pytest.mark.skipif(not _core.has_openmp, reason="built without OpenMP")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no affinity to cut here"
)
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc")

# Work large enough for a second thread, and the number of threads asked for
LARGE = """
    import os
    import numpy as np
    import softmax_fast as sf
    x = np.linspace(-5, 5, 4_000_000, dtype=np.float32).reshape(-1, 1000)
    y = np.zeros(len(x), np.int64)
    def tasks():
        return len(os.listdir("/proc/self/task"))
"""


def program(*parts):
    return "".join(textwrap.dedent(part) for part in (LARGE, *parts))


# How many


def test_without_openmp_there_is_one_thread():
    if _core.has_openmp:
        assert _core.openmp()["runtime"]
        assert sf.get_num_threads() >= 1
    else:
        assert _core.openmp() is None
        sf.set_num_threads(4)
        assert sf.get_num_threads() == 1
        sf.set_num_threads(None)


@needs_openmp
def test_set_num_threads_holds_until_none(threads_setting):
    before = sf.get_num_threads()
    for n in (1, 3, 7):
        sf.set_num_threads(n)
        assert sf.get_num_threads() == n
    sf.set_num_threads(np.int64(2))
    assert sf.get_num_threads() == 2
    sf.set_num_threads(None)
    assert sf.get_num_threads() == before


def test_results_do_not_depend_on_set_num_threads(threads_setting):
    x, y, t = problem((3000, 100), np.float32)
    for name, function in (ROW_FUNCTIONS | MEANS).items():
        sf.set_num_threads(1)
        expected = function(x, y, t)
        for n in (2, 4):
            sf.set_num_threads(n)
            oracle.assert_same_bits(function(x, y, t), expected, f"{name}, {n} threads")


@needs_openmp
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SOFTMAX_FAST_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"SOFTMAX_FAST_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"SOFTMAX_FAST_NUM_THREADS": "100000"}, _threads.MOST_THREADS),
        ({"SOFTMAX_FAST_NUM_THREADS": str(2**31)}, _threads.MOST_THREADS),
        ({"SOFTMAX_FAST_NUM_THREADS": str(10**999)[1:] + "7"}, 7),
        ({"OMP_NUM_THREADS": "100000"}, _threads.MOST_THREADS),
    ],
)
def test_environment_variables(variables, expected, run_python):
    code = """
        import softmax_fast as sf
        print(sf.get_num_threads())
        sf.set_num_threads(2)
        sf.set_num_threads(None)
        print(sf.get_num_threads())
    """
    assert run_python(code, env=variables).stdout.split() == [str(expected)] * 2


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "9" * 4301, "9" * 100_000], ids=len)
def test_a_bad_environment_variable_warns_and_is_ignored(text, run_python):
    code = """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import softmax_fast as sf
        print([str(w.message) for w in caught])
        print(sf.get_num_threads())
    """
    shown, number = run_python(code, env={"SOFTMAX_FAST_NUM_THREADS": text}).stdout.splitlines()
    assert "SOFTMAX_FAST_NUM_THREADS" in shown and text[:9] in shown and len(shown) < 200
    assert int(number) == int(
        run_python("import softmax_fast as sf; print(sf.get_num_threads())").stdout
    )


@needs_openmp
@needs_affinity
def test_affinity_cut_to_one_core(run_python):
    code = program("""
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        assert sf.get_num_threads() == 1, sf.get_num_threads()
        before = tasks()
        sf.softmax(x)
        assert tasks() == before
    """)
    run_python(code)


@needs_openmp
@needs_affinity
def test_automatic_is_what_the_process_may_use(run_python):
    allowed = len(os.sched_getaffinity(0))
    quota = _threads.cgroup_quota()
    expected = max(1, min(allowed, int(np.ceil(quota)) if np.isfinite(quota) else allowed))
    assert (
        int(run_python("import softmax_fast as sf; print(sf.get_num_threads())").stdout) == expected
    )


ONE_AND_A_HALF = {"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": "150000 100000\n"}
CGROUPS = {
    "no cgroups": ({}, np.inf),
    "v2 without a limit": (
        {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"},
        np.inf,
    ),
    "v2": (ONE_AND_A_HALF, 1.5),
    "v2, the parent's is tighter": (
        {
            "/proc/self/cgroup": "0::/a/b\n",
            "/sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
            "/sys/fs/cgroup/a/cpu.max": "200000 100000\n",
        },
        2.0,
    ),
    "v1": (
        {
            "/proc/self/cgroup": "5:cpu,cpuacct:/job\n3:memory:/job\n",
            "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000\n",
            "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "v1 without a limit": (
        {
            "/proc/self/cgroup": "5:cpu,cpuacct:/job\n",
            "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
        np.inf,
    ),
    "rubbish": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "?\n"}, np.inf),
    "an empty file": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": ""}, np.inf),
    "a period of zero": (
        {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "1 0\n"},
        np.inf,
    ),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_cgroup_quota(case):
    contents, expected = CGROUPS[case]
    assert _threads.cgroup_quota(contents.get) == expected


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.0, 1), (1.5, 2), (np.inf, None)])
def test_a_quota_lowers_the_number_of_usable_cpus(quota, expected, monkeypatch):
    monkeypatch.setattr(_threads, "_quota", quota)
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    assert _threads.usable_cpus() == (allowed if expected is None else min(expected, allowed))


@needs_openmp
def test_threadpoolctl_limits_are_respected():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = sf.get_num_threads()
    x = problem((3000, 100), np.float32)[0]
    expected = sf.softmax(x)
    with threadpoolctl.threadpool_limits(limits=1):
        assert sf.get_num_threads() == 1
        oracle.assert_same_bits(sf.softmax(x), expected)
    assert sf.get_num_threads() == before


@needs_openmp
@needs_proc
def test_small_work_starts_no_thread(run_python):
    run_python(
        program("""
        before = tasks()
        a, b = x[:32, :10], y[:32]
        sf.softmax(a), sf.log_softmax(a), sf.logsumexp(a), sf.softmax_loss(a, b)
        sf.softmax_loss_and_grad(a, b), sf.selected_log_probs(a, b)
        sf.softmax(a, n_threads=4), sf.softmax_loss(a, b, n_threads=4)
        sf.softmax(x[:3, :1000])
        assert tasks() == before, (before, tasks())
        """),
        env={"SOFTMAX_FAST_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1"},
    )


@needs_openmp
@needs_proc
def test_large_work_starts_threads_and_one_thread_means_none(run_python):
    run_python(
        program("""
        before = tasks()
        sf.softmax(x, n_threads=1)
        assert tasks() == before, "n_threads=1 started a thread"
        sf.softmax(x)
        assert tasks() == before + 1, (before, tasks())
        """),
        env={"SOFTMAX_FAST_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
    )


@needs_openmp
@needs_proc
def test_a_single_long_row_is_worth_a_thread(run_python):
    run_python(
        program("""
        before = tasks()
        sf.softmax(x.reshape(1, -1))
        assert tasks() == before + 1, (before, tasks())
        """),
        env={"SOFTMAX_FAST_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
    )


# Python threads


def test_concurrent_calls_on_shared_inputs():
    small, large = problem((32, 10), np.float32), problem((2000, 257), np.float64)
    functions = list((ROW_FUNCTIONS | MEANS).values())
    expected = [[np.asarray(f(*arrays)) for f in functions] for arrays in (small, large)]
    start = threading.Barrier(8)

    def work(number):
        start.wait(timeout=60)
        for turn in range(4):
            for arrays, results in zip((small, large), expected, strict=True):
                order = np.roll(np.arange(len(functions)), number + turn)
                for i in order:
                    oracle.assert_same_bits(functions[i](*arrays), results[i])
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == list(range(8))


def test_the_interpreter_runs_while_a_call_works():
    x = np.broadcast_to(np.float32(0.5), (300, 200_000))
    done = threading.Event()
    counted = 0

    def call():
        sf.logsumexp(x, n_threads=1)
        done.set()

    thread = threading.Thread(target=call)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        thread.start()
        while not done.is_set():
            counted += 1
            done.wait(1e-4)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert counted > 3, "the GIL was held for the whole call"


# Processes

FORK = """
    expected, loss = sf.softmax(x, n_threads={n}), sf.softmax_loss(x, y, n_threads={n})
    def child_computes():
        pid = os.fork()
        if pid == 0:
            ok = sf.get_num_threads() == 1
            ok = ok and sf.softmax(x).tobytes() == expected.tobytes()
            ok = ok and sf.softmax_loss(x, y) == loss
            ok = ok and sf.softmax(x, n_threads=4).tobytes() == expected.tobytes()
            os._exit(0 if ok else 9)
        assert os.waitpid(pid, 0)[1] == 0
"""


@needs_fork
def test_a_child_forked_after_a_parallel_call_computes(run_python):
    run_python(
        program(
            FORK.format(n=2),
            """
            child_computes()
            assert (sf.softmax(x, n_threads=2) == expected).all()
            child_computes()
            """,
        )
    )


@needs_fork
def test_a_child_forked_before_any_call_computes(run_python):
    run_python(
        program(
            FORK.format(n=1),
            """
            child_computes()
            assert (sf.softmax(x, n_threads=2) == expected).all()
            """,
        )
    )


@needs_fork
def test_a_child_forked_from_a_thread_computes(run_python):
    run_python(
        program(
            FORK.format(n=2),
            """
            import threading
            failed = []
            def guarded():
                try:
                    child_computes()
                except BaseException as error:
                    failed.append(error)
            thread = threading.Thread(target=guarded)
            thread.start()
            thread.join()
            assert not failed, failed
            """,
        )
    )


@needs_fork
def test_a_grandchild_computes(run_python):
    run_python(
        program("""
        expected = sf.softmax(x, n_threads=2)
        pid = os.fork()
        if pid == 0:
            again = os.fork()
            if again == 0:
                os._exit(0 if (sf.softmax(x, n_threads=2) == expected).all() else 9)
            os._exit(os.waitpid(again, 0)[1] != 0)
        assert os.waitpid(pid, 0)[1] == 0
        """)
    )


POOL = """
import multiprocessing
import numpy as np
import softmax_fast as sf

def work(seed):
    x = np.random.default_rng(seed).standard_normal((2000, 257))
    return float(sf.softmax_loss(x, np.zeros(2000, np.int64), n_threads=2))

if __name__ == "__main__":
    expected = [work(seed) for seed in range(4)]
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        got = pool.map_async(work, range(4)).get(timeout=90)
    assert got == expected, (got, expected)
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing_pools(method, run_script):
    run_script(POOL.format(method=method), timeout=120)


@needs_openmp
@needs_proc
@pytest.mark.parametrize("first", ["torch", "softmax_fast"])
def test_two_openmp_runtimes_in_one_process(first, run_python):
    pytest.importorskip("torch")
    second = "torch" if first == "softmax_fast" else "softmax_fast"
    run_python(
        f"""
        import {first}
        import {second}
        import numpy as np, softmax_fast as sf
        x = np.linspace(-5, 5, 4_000_000, dtype=np.float32).reshape(-1, 1000)
        expected = sf.softmax(x, n_threads=1)
        for _ in range(3):
            other = torch.from_numpy(x).softmax(-1).numpy()
            assert (sf.softmax(x, n_threads=2) == expected).all()
            assert abs(other - expected).max() < 1e-6
        """,
        timeout=120,
    )


@needs_openmp
@needs_proc
@pytest.mark.parametrize("first", ["sklearn", "softmax_fast"])
def test_beside_scikit_learn(first, run_python):
    pytest.importorskip("sklearn")
    run_python(
        program(
            f"""
            import {first}
            import sklearn.metrics
            a = np.ascontiguousarray(x[:300, :50])
            expected = sf.softmax(x, n_threads=1)
            for _ in range(3):
                sklearn.metrics.pairwise_distances_argmin(a, a)
                assert (sf.softmax(x, n_threads=2) == expected).all()
            """
        ),
        timeout=120,
    )


OTHER_RUNTIME = """
#include <omp.h>
double count(int n)
{
    double sum = 0;
#pragma omp parallel for num_threads(2) reduction(+ : sum)
    for (int i = 0; i < n; i++)
        sum += 1;
    return sum;
}
"""


@needs_openmp
@needs_proc
@pytest.mark.parametrize("first", ["other", "softmax_fast"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_beside_a_library_built_by_either_compiler(compiler, first, run_python, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    source, library = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(OTHER_RUNTIME)
    command = [compiler, "-O1", "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(library)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"{compiler} has no OpenMP here")
    load = f"""
        import ctypes
        other = ctypes.CDLL({str(library)!r})
        other.count.restype = ctypes.c_double
        assert other.count(1000) == 1000
    """
    parallel = "expected = sf.softmax(x, n_threads=2)"
    both = """
        for _ in range(3):
            assert other.count(1000) == 1000
            assert (sf.softmax(x, n_threads=2) == expected).all()
        assert (sf.softmax(x, n_threads=1) == expected).all()
    """
    parts = [textwrap.dedent(load), program(parallel)]
    run_python("".join(parts[:: 1 if first == "other" else -1]) + textwrap.dedent(both))


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter has a GIL"
)
def test_a_free_threaded_interpreter_stays_without_a_gil(run_python):
    # importing a module that does not declare support would switch the GIL on, with a warning
    run_python(
        """
        import sys, warnings
        warnings.simplefilter("error")
        import softmax_fast
        assert not sys._is_gil_enabled()
        """
    )


def test_any_number_of_threads_may_be_asked_for():
    x = np.zeros((300, 300), np.float32)
    assert (sf.softmax(x, n_threads=2**40) == sf.softmax(x)).all()


@needs_openmp
@pytest.mark.parametrize("n", [1025, 100_000, 2**31, 2**64, 10**5000], ids=int.bit_length)
def test_any_number_of_threads_may_be_set(n, threads_setting):
    x = np.zeros((300, 300), np.float32)
    expected = sf.softmax(x)
    sf.set_num_threads(n)
    assert sf.get_num_threads() == _threads.MOST_THREADS
    assert (sf.softmax(x) == expected).all()


@needs_openmp
def test_what_openmp_says_is_at_most_the_most(monkeypatch):
    for said in (_threads.MOST_THREADS + 1, 2**31 - 1):
        monkeypatch.setattr(_core, "openmp_max_threads", lambda said=said: said)
        assert sf.get_num_threads() == _threads.MOST_THREADS
