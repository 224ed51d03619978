"""The choice of threads by what the last regions took: kernels/adapt.h, with times that are given."""

import concurrent.futures
import os
import threading

import numpy as np
import oracle
import pytest
from cases import MEANS, ROW_FUNCTIONS, problem

from softmax_fast import _core

needs_openmp = pytest.mark.skipif(not _core.has_openmp, reason="built without OpenMP")

PIECE = 1e-5
LEAST, MOST = 8, 64


@pytest.fixture
def adaptive():
    return _core._Adaptive(2)


def good(adaptive, times=1):
    """Regions of four pieces in which two threads did two each: 20 us, and 40 by one alone."""
    for _ in range(times):
        assert enter_and_leave(adaptive, 2) == 2
        adaptive.region(4, [PIECE] * 2)


def failed(adaptive, lost):
    """A region of four pieces, all by the caller, which then waited for the other."""
    adaptive.region(4, [PIECE] * 4, wait=lost)


def enter_and_leave(adaptive, most):
    threads = adaptive.enter(most)
    adaptive.leave()
    return threads


def spend_pause(adaptive, seconds):
    """Work alone in small calls until the pause is over; returns how long that took."""
    spent = 0.0
    while enter_and_leave(adaptive, 2) == 1:
        adaptive.alone(seconds)
        spent += seconds
    return spent


def test_all_threads_while_regions_gain(adaptive):
    good(adaptive, 1000)
    assert enter_and_leave(adaptive, 16) == 16
    assert adaptive.state["pause"] == 0


@pytest.mark.parametrize("lost", [1e-5, 5e-3, 0.05])
def test_after_a_loss_one_thread_works_alone_for_a_multiple_of_it(adaptive, lost):
    failed(adaptive, lost)
    assert spend_pause(adaptive, lost / 10) == pytest.approx(LEAST * lost, rel=0.02)


# A layer's loss took twice its time in a loop with products, by the pause after a region of microseconds.
def test_large_work_is_shared_in_spite_of_a_pause(adaptive):
    assert not adaptive.is_worth(1.0, 2)  # without a pause nobody works alone
    failed(adaptive, 5e-3)
    adaptive.enter(2)
    assert not adaptive.is_worth(0.039, 2)  # half of it is saved: 4 times the loss
    assert adaptive.is_worth(0.041, 2)
    assert adaptive.is_worth(0.027, 4)
    adaptive.enter(2)
    assert not adaptive.is_worth(1.0, 2)  # another caller has the other processor
    adaptive.leave()
    adaptive.alone(8 * 5e-3)
    assert not adaptive.is_worth(1.0, 2)


def test_a_stopped_process_costs_less_than_half_a_second_of_one_thread(adaptive):
    failed(adaptive, 10.0)
    assert spend_pause(adaptive, 1e-3) < 0.5
    assert enter_and_leave(adaptive, 2) == 2


def test_the_multiple_grows_while_trials_fail_and_not_beyond_the_most(adaptive):
    factors = []
    for _ in range(6):
        failed(adaptive, 1e-3)
        factors.append(round(spend_pause(adaptive, 1e-4) / 1e-3))
    assert factors == [8, 16, 32, 64, 64, 64]


def test_what_trials_cost_in_the_long_run_is_a_64th(adaptive):
    lost = alone = 0.0
    while alone < 10.0:
        failed(adaptive, 5e-3)
        lost += 5e-3
        alone += spend_pause(adaptive, 5e-5)
    assert lost / alone < 1 / 50


@pytest.mark.parametrize(("times", "factor"), [(4, MOST), (6, LEAST), (9, LEAST), (11, 0)])
def test_trials_that_gain_back_what_was_lost_are_forgiven(times, factor, adaptive):
    for _ in range(6):
        failed(adaptive, 1e-4)
        spend_pause(adaptive, 1e-4)
    assert adaptive.state["factor"] == MOST
    good(adaptive, times)  # 20 us each
    failed(adaptive, 1e-4)
    assert adaptive.state["factor"] == factor
    assert adaptive.state["pause"] == pytest.approx(factor * 1e-4)


def test_hiccups_that_are_paid_for_cost_nothing_more(adaptive):
    for _ in range(3):
        good(adaptive, 2001)
        failed(adaptive, 20e-3)
        assert enter_and_leave(adaptive, 2) == 2
    failed(adaptive, 20e-3)
    assert adaptive.state["factor"] == LEAST


def test_the_length_of_a_pause_is_of_work_and_not_of_calls(adaptive):
    failed(adaptive, 1e-3)
    adaptive.alone(4e-3)
    assert enter_and_leave(adaptive, 2) == 1
    adaptive.alone(4.1e-3)
    assert enter_and_leave(adaptive, 2) == 2


def test_a_stopped_process_is_no_long_pause(adaptive):
    failed(adaptive, 3600.0)
    assert adaptive.state["pause"] <= LEAST


def test_a_caller_that_was_itself_without_a_core_loses_and_gains_nothing(adaptive):
    adaptive.region(4, [3e-3, PIECE])
    state = adaptive.state
    assert state["pause"] == state["lost"] == state["gained"] == 0


def test_a_caller_with_half_its_part_of_the_pieces_gains_nothing(adaptive):
    adaptive.region(4, [5e-4])
    assert adaptive.state["gained"] == 0
    adaptive.region(2, [5e-4])  # its part, as of a row in pieces
    assert adaptive.state["gained"] == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("pieces", "own"),
    [
        (4, [3e-3, PIECE]),
        (26, [3.8e-3]),
        (4, [3.8e-3]),
        (2, [3.8e-3]),
        (1000, [0.01] + [PIECE] * 200),
    ],
)
def test_of_a_caller_without_a_core_a_worker_tells_what_was_lost(pieces, own, adaptive):
    adaptive.region(pieces, own, others=[PIECE] * (pieces - len(own)))
    assert adaptive.state["lost"] == pytest.approx(sum(own) - pieces * PIECE, rel=0.1)
    assert enter_and_leave(adaptive, 2) == 1


def test_of_two_threads_without_cores_their_other_pieces_tell(adaptive):
    both = [4e-3] + [PIECE] * 499
    adaptive.region(1000, both, wait=4e-3, others=both)
    assert adaptive.state["lost"] == pytest.approx(3e-3, rel=0.02)


def test_of_a_caller_that_took_no_piece_too(adaptive):
    adaptive.region(4, [], wait=3e-3, others=[PIECE] * 4)
    assert adaptive.state["lost"] == pytest.approx(3e-3 - 4 * PIECE)


def test_a_worker_that_takes_most_pieces_is_no_loss(adaptive):
    adaptive.region(8, [PIECE], wait=7 * PIECE, others=[PIECE] * 7)
    assert adaptive.state["lost"] == adaptive.state["pause"] == 0


def test_an_interrupted_piece_says_nothing_of_the_work(adaptive):
    own = [PIECE] * 8
    own[3] = own[6] = 4e-3
    adaptive.region(16, own)
    assert adaptive.state["lost"] == pytest.approx(8e-3 - 10 * PIECE, rel=0.01)


def test_pieces_of_unequal_work_are_no_interruptions(adaptive):
    adaptive.region(16, [0.0] * 4 + [4e-4] * 4, wait=1e-5)
    assert adaptive.state["lost"] == 0 < adaptive.state["gained"]


def test_a_caller_without_a_piece_learns_nothing(adaptive):
    before = adaptive.state
    adaptive.region(4, [], wait=1e-3)
    assert adaptive.state == before


def test_times_that_are_no_time_end_a_pause_too(adaptive):
    failed(adaptive, 1e-6)
    for _ in range(1000):
        adaptive.alone(0.0)
    assert enter_and_leave(adaptive, 2) == 2


@pytest.mark.parametrize("started", [0.0, 1e9, -5.0])
def test_clocks_begin_anywhere(adaptive, started):
    adaptive.region(4, [PIECE] * 4, wait=1e-3, started=started)
    assert adaptive.state["lost"] == pytest.approx(1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("processors", "most", "expected"),
    [
        (2, 2, [2, 1, 1, 1]),
        (16, 16, [16, 8, 5, 4]),
        (16, 4, [4, 4, 4, 4]),
        (0, 4, [4, 4, 4, 4]),
    ],
)
def test_callers_at_the_same_time_share_the_processors(processors, most, expected):
    adaptive = _core._Adaptive(processors)
    assert [adaptive.enter(most) for _ in expected] == expected
    for _ in expected:
        adaptive.leave()
    assert adaptive.enter(most) == most


# The library's own


@pytest.fixture
def switched_on():
    _core.set_adaptive(True)
    yield
    _core.set_adaptive(False)


@needs_openmp
def test_results_do_not_depend_on_the_choice(switched_on):
    functions = list((ROW_FUNCTIONS | MEANS).values())
    arrays = [problem(shape, np.float32) for shape in ((4000, 25), (3, 70001))]
    expected = [[np.asarray(f(*a)) for f in functions] for a in arrays]
    start = threading.Barrier(4)

    def work(_):
        start.wait(timeout=60)
        for a, results in zip(arrays, expected, strict=True):
            for f, result in zip(functions, results, strict=True):
                oracle.assert_same_bits(np.asarray(f(*a)), result)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert _core.adaptive_state()["callers"] == 0


LOOK = """
    import softmax_fast as sf
    print(sf.show_config(mode="dicts")["threads"]["adaptive"])
"""


@needs_openmp
@pytest.mark.parametrize(("value", "expected"), [(None, True), ("0", False), ("1", True)])
def test_the_environment_turns_it_off(value, expected, run_python):
    env = {} if value is None else {"SOFTMAX_FAST_ADAPTIVE": value}
    assert run_python(LOOK, env=env).stdout.split() == [str(expected)]


BESIDE_SPINNERS = """
    import os, subprocess, sys
    import numpy as np
    import softmax_fast as sf
    x = np.linspace(-5, 5, 64_000, dtype=np.float32).reshape(64, 1000)
    expected = sf.softmax(x, n_threads=1)
    spin = [sys.executable, "-c", "import time\\nend = time.time() + 60\\nwhile time.time() < end: pass"]
    others = [subprocess.Popen(spin) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        found = False
        for _ in range(100_000):
            assert (sf.softmax(x, n_threads=16) == expected).all()
            if sf.show_config(mode="dicts")["threads"]["one alone for"] > 0:
                found = True
                break
        assert found
    finally:
        for other in others:
            other.kill()
"""


@needs_openmp
def test_regions_beside_busy_processes_are_seen_to_fail(run_python):
    run_python(BESIDE_SPINNERS, timeout=120)


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_while_others_call_computes(run_python):
    run_python("""
        import os, threading
        import numpy as np
        import softmax_fast as sf
        x = np.linspace(-5, 5, 400_000, dtype=np.float32).reshape(-1, 100)
        expected = sf.softmax(x, n_threads=2)
        end = threading.Event()
        def call():
            while not end.is_set():
                sf.softmax(x, n_threads=2)
        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                pid = os.fork()
                if pid == 0:
                    os._exit(0 if (sf.softmax(x, n_threads=2) == expected).all() else 9)
                assert os.waitpid(pid, 0)[1] == 0
        finally:
            end.set()
            for thread in threads:
                thread.join()
    """)


@pytest.mark.skipif(_core.has_openmp, reason="built with OpenMP")
def test_without_openmp_nothing_is_chosen(run_python):
    assert run_python(LOOK).stdout.split() == ["False"]
