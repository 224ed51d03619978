"""Streaming and plain stores: chosen by measurement or forced, and never seen in a bit."""

import numpy as np
import pytest
from cases import generator

import softmax_fast as sf
from softmax_fast import _core

SHOW = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import softmax_fast
    print(softmax_fast.show_config(mode="dicts")["stores of large results"])
    print([str(w.message) for w in caught if "SOFTMAX_FAST_STREAM" in str(w.message)])
"""
SIZE = 2**20 + 2**17  # elements: more than 4 MiB


@pytest.fixture(autouse=True)
def stores_chosen_again():
    yield
    _core.choose_stores("measured")


def gradient(x, *, out=None, n_threads=1, **options):
    labels = np.arange(len(x)) * 7919 % x.shape[1]
    labels[1] = -100
    return sf.softmax_loss_and_grad(
        x, labels, grad_out=out, ignore_index=-100, reduction="sum", n_threads=n_threads, **options
    )[1]


def smoothed_gradient(x, *, out=None, n_threads=1):
    return gradient(x, out=out, n_threads=n_threads, label_smoothing=0.1)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_classes", [257, 1000, 4001, 2**18])
@pytest.mark.parametrize("function", [sf.softmax, sf.log_softmax, gradient, smoothed_gradient])
def test_stores_change_no_bit(function, n_classes, n_threads, isa, dtype):
    n_rows = -(-SIZE // n_classes)
    x = generator(31, n_classes).standard_normal((n_rows, n_classes)).astype(dtype) * 3
    # Rows of the output begin at every place within a vector.
    out = np.zeros((n_rows, n_classes + 3), dtype)[:, 1:-2]
    results = []
    for stores in ("plain", "streaming", *["measured"] * 3):
        _core.choose_stores(stores)
        out[:] = -1
        results.append(function(x, out=out, n_threads=n_threads).copy())
    few = function(x[:3].copy())
    for result in results:
        assert (result == results[0]).all()
        assert (result[:3] == few).all()


def test_what_was_measured_is_shown():
    _core.choose_stores("measured")
    assert sf.show_config(mode="dicts")["stores of large results"] == "not measured yet"
    x = generator(32).standard_normal((SIZE // 1000, 1000)).astype(np.float32)
    out = np.ones_like(x)
    for _ in range(60):  # as many as it takes, where other threads touch fresh memory meanwhile
        sf.softmax(x, out=out)
        measured = sf.show_config(mode="dicts")["stores of large results"]
        if measured != "not measured yet":
            break
    assert list(measured) == ["softmax float32, rows in one block, from 4 MiB"]
    assert set(measured.values()) <= {"plain", "streaming"}


def test_the_stores_of_transposed_results_are_shown():
    _core.choose_stores("measured")
    x = generator(33).standard_normal((1000, SIZE // 1000)).astype(np.float32)
    out = np.ones_like(x)
    for _ in range(60):
        gradient(x.T, out=out.T)
        measured = _core.stores()
        if measured != "not measured yet":
            break
    assert list(measured) == ["softmax_loss_and_grad float32, rows not contiguous, from 4 MiB"]


def test_small_results_are_not_measured():
    _core.choose_stores("measured")
    x = np.ones((1000, 1000), np.float32)
    out = np.ones_like(x)
    for _ in range(20):
        sf.softmax(x, out=out)
    assert _core.stores() == "not measured yet"


@pytest.mark.parametrize(
    ("value", "stores"), [("0", "plain"), ("1", "streaming"), ("2", "not measured yet")]
)
def test_the_environment_variable_forces_them(value, stores, run_python):
    shown, warned = run_python(SHOW, env={"SOFTMAX_FAST_STREAM": value}).stdout.splitlines()
    assert shown == stores
    assert (warned != "[]") == (value == "2")
