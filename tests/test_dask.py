"""`softmax_fast.dask` on threads, and on a real cluster of two processes, one of which is lost."""

import json
import os
import pathlib
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from cases import generator, labels, logits

import softmax_fast as sf

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

from softmax_fast import dask as sfd

N, C = 1500, 12
CHUNKS = [1500, 100, (1, 1499), (700, 0, 1, 799), (97,) * 15 + (45,)]
every_chunking = pytest.mark.parametrize("rows", CHUNKS, ids=lambda c: str(c)[:20])


@pytest.fixture(params=["synchronous", "threads"])
def scheduler(request):
    with dask.config.set(scheduler=request.param):
        yield request.param


@pytest.fixture
def data(dtype):
    x = logits((N, C), dtype, scale=2.0)
    y = np.where(generator(4).random(N) < 0.6, x.argmax(axis=1), labels(N, C))
    y[[0, 5, 400]] = -100
    return x, y, generator(6).random(N) * (generator(7).random(N) < 0.9)


def same_evaluation(found, expected, rel=1e-13):
    found, expected = found.as_dict(), expected.as_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is not None:
            value = pytest.approx(value, rel=rel, nan_ok=True)
        assert found[name] == value, name


def same_fit(found, expected, rel=1e-6):
    """To what the last step and, of float32, the rounding of another start leave."""
    assert found.status == expected.status
    assert found.temperature == pytest.approx(expected.temperature, rel=rel, nan_ok=True)
    assert found.loss == pytest.approx(expected.loss, rel=rel, nan_ok=True)
    assert found.loss_before == pytest.approx(expected.loss_before, rel=1e-12, nan_ok=True)
    assert found.stderr == pytest.approx(expected.stderr, rel=1e-5, nan_ok=True)


@every_chunking
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_give_what_the_whole_array_gives(rows, weighted, data, scheduler):
    x, y, v = data
    v = v if weighted else None
    blocks = da.from_array(x, chunks=(rows, C))
    options = {"temperature": 0.7, "top_k": (1, 3), "n_bins": 10, "classwise": True}
    found = sfd.evaluate(blocks, y, sample_weight=v, **options)
    same_evaluation(found, sf.evaluate(x, y, sample_weight=v, **options))
    same_fit(
        sfd.fit_temperature(blocks, y, sample_weight=v), sf.fit_temperature(x, y, sample_weight=v)
    )


def test_labels_and_weights_may_be_in_blocks_of_their_own(data):
    x, y, v = data
    blocks = da.from_array(x, chunks=(200, C))
    targets, weights = da.from_array(y, chunks=333), da.from_array(v, chunks=1500)
    same_evaluation(
        sfd.evaluate(blocks, targets, sample_weight=weights), sf.evaluate(x, y, sample_weight=v)
    )
    same_fit(
        sfd.fit_temperature(blocks, list(y), sample_weight=weights),
        sf.fit_temperature(x, y, sample_weight=v),
    )


@pytest.mark.parametrize(
    ("axis", "chunks"),
    [(2, (2, 25, 12)), (2, (1, 7, 12)), (1, (3, 12, 25)), (0, (12, 20, 25)), (0, (12, 1, 9))],
    ids=str,
)
def test_any_class_axis(axis, chunks, data):
    x, y, _ = data
    x, y = x.reshape(60, 25, C).copy(), y.reshape(60, 25)
    x[31, 7, 2] = np.nan
    moved = np.moveaxis(x, 2, axis)
    found = sfd.evaluate(da.from_array(moved, chunks=chunks), y, axis=axis)
    same_evaluation(found, sf.evaluate(moved, y, axis=axis))
    assert found.first_nonfinite == 31 * 25 + 7
    with pytest.raises(ValueError, match=r"^row \(31, 7\) of logits"):
        sfd.fit_temperature(da.from_array(moved, chunks=chunks), y, axis=axis)


def test_a_single_row():
    row = da.from_array(np.array([1.0, 2.0, 0.5]))
    same_evaluation(sfd.evaluate(row, 0), sf.evaluate([1.0, 2.0, 0.5], 0))
    same_fit(sfd.fit_temperature(row, 0), sf.fit_temperature([1.0, 2.0, 0.5], 0))


@pytest.mark.parametrize(
    ("shape", "chunks", "axis", "call"),
    [
        ((6, 4), (3, 2), -1, r"logits.rechunk\(\{1: -1\}\)"),
        ((6, 4), (3, 2), 0, r"logits.rechunk\(\{0: -1\}\)"),
        ((6, 5, 4), (2, 2, 4), -1, r"logits.rechunk\(\{1: -1\}\)"),
        ((6, 5, 4), (2, 2, 2), -1, r"logits.rechunk\(\{1: -1, 2: -1\}\)"),
    ],
)
def test_blocks_of_parts_of_rows_are_refused_and_told_how_to_rechunk(shape, chunks, axis, call):
    x = da.zeros(shape, chunks=chunks)
    y = np.zeros(np.delete(shape, axis), int)
    for function in (sfd.evaluate, sfd.fit_temperature):
        with pytest.raises(ValueError, match=call):
            function(x, y, axis=axis)


def test_what_is_wrong_is_named_and_where(data):
    x, y, _ = data
    blocks = da.from_array(x, chunks=(400, C))
    for function in (sfd.evaluate, sfd.fit_temperature):
        with pytest.raises(TypeError, match="expected a dask.array.Array"):
            function(x, y)
        with pytest.raises(ValueError, match=r"targets has shape \(5,\), expected \(1500,\)"):
            function(blocks, y[:5])
        with pytest.raises(ValueError, match="sample_weight has shape"):
            function(blocks, y, sample_weight=[1.0])
        with pytest.raises(ValueError, match="nan_policy must be"):
            function(blocks, y, nan_policy="ignore")
        with pytest.raises(ValueError, match="n_threads"):
            function(blocks, y, n_threads=0)
        with pytest.raises(np.exceptions.AxisError):
            function(blocks, y, axis=2)
        with pytest.raises(TypeError, match="targets have dtype float64"):
            function(blocks, y * 1.0)
        wrong = y.copy()
        wrong[[907, 1300]] = C
        with pytest.raises(IndexError, match=r"block of logits at \(800, 0\): targets\[107\] = 12"):
            function(blocks, wrong)
        with pytest.raises(ValueError, match=r"unknown size: call logits.compute_chunk_sizes"):
            function(blocks[blocks[:, 0] > 0], y)
    with pytest.raises(ValueError, match="no row is left"):
        sfd.fit_temperature(blocks, np.full(N, -100))


@every_chunking
def test_rows_without_a_loss_are_numbered_over_the_whole_array(rows, data, scheduler):
    x, y, _ = data
    x[[1201, 1400], 3] = np.nan
    y[1201] = 2
    blocks = da.from_array(x, chunks=(rows, C))
    for policy in ("propagate", "omit"):
        found = sfd.evaluate(blocks, y, nan_policy=policy)
        assert (found.first_nonfinite, found.n_nonfinite) == (1201, 2)
        same_evaluation(found, sf.evaluate(x, y, nan_policy=policy))
        found = sfd.fit_temperature(blocks, y, nan_policy=policy)
        same_fit(found, sf.fit_temperature(x, y, nan_policy=policy))
    with pytest.raises(ValueError, match="^row 1201 of logits"):
        sfd.fit_temperature(blocks, y)
    with pytest.raises(ValueError, match="in the block of logits at"):
        sfd.evaluate(blocks, y, nan_policy="raise")


@pytest.mark.parametrize("rows", [100, (700, 0, 1, 799)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_are_compared_as_the_whole_array_is(rows, weighted, data, scheduler):
    x, y, v = data
    v = v if weighted else None
    base = x + 0.25 * logits(x.shape, x.dtype, key=9)
    options = {"temperature": 0.7, "quantiles": (0, 0.3, 1), "sample_weight": v}
    blocks = da.from_array(base, chunks=(333, 5)), da.from_array(x, chunks=(rows, C))
    same_evaluation(sfd.compare(*blocks, y, **options), sf.compare(base, x, y, **options))
    same_evaluation(sfd.compare(base, blocks[1]), sf.compare(base, x))
    x[1201, 3] = np.nan
    turned = da.from_array(x.T, chunks=(C, rows))
    found = sfd.compare(base.T, turned, axis=0)
    assert (found.first_nonfinite, found.n_nonfinite) == (1201, 1)
    with pytest.raises(ValueError, match=r"base_logits have shape \(5, 12\), but logits"):
        sfd.compare(base[:5], blocks[1])
    for wrong in (None, base.astype(object), base.astype(complex)):
        with pytest.raises((TypeError, ValueError), match="^base_logits"):
            sfd.compare(wrong, blocks[1])
    with pytest.raises(ValueError, match=r"call base_logits.compute_chunk_sizes\(\)"):
        sfd.compare(blocks[0][blocks[0][:, 0] > 0], blocks[1])
    for temperature in ([[1, 2], [1]], np.ones(len(base))):
        with pytest.raises(ValueError, match="^temperature"):
            sfd.compare(base, blocks[1], temperature=temperature)
    with pytest.raises(IndexError, match=r"block of logits at \(1400, 0\)"):
        sfd.compare(base, da.from_array(base, chunks=(700, C)), np.arange(N) // 120)


def test_only_sums_travel(data):
    """What a task gives is smaller than a few rows, whatever the number of rows."""
    x, y, _ = data
    sizes = []
    for n in (10, N):
        state = sfd._evaluated((0, 0), x[:n], y[:n], None, 1, sf.Evaluator())
        sums = sfd._fitted((0, 0), x[:n], y[:n], None, 1, 1.0, -100, 1)
        sizes.append((len(pickle.dumps(state)), len(pickle.dumps(sums))))
    assert abs(sizes[1][0] - sizes[0][0]) < 100
    assert abs(sizes[1][1] - sizes[0][1]) < 100


# A cluster


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    # Without workers it fails instead of waiting for some.
    options = {"distributed.worker.daemon": True, "distributed.scheduler.no-workers-timeout": "30s"}
    with dask.config.set(options):
        cluster = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=50,
        )
        client = distributed.Client(cluster)
        yield client
        client.close()
        cluster.close()


def lazy(log=None, wait=0.0):
    """Logits made block by block; each tells which process made it."""

    # Within a function, so that it travels by value: pytest gives this module a name of its own
    # that workers cannot import, and who cannot read a task is lost.
    def made(block_info=None):
        (start, stop), _ = block_info[None]["array-location"]
        if log is not None:
            with open(os.path.join(log, f"{start}-{os.getpid()}-{time.time_ns()}"), "w"):
                pass
        time.sleep(wait)
        return logits((stop - start, C), np.float64, key=start, scale=2.0)

    chunks = ((75,) * 20, (C,))
    return da.map_blocks(made, chunks=chunks, dtype=np.float64, meta=np.empty((0, 0)))


def in_memory():
    x = lazy().compute(scheduler="synchronous")
    y = np.where(generator(4).random(N) < 0.6, x.argmax(axis=1), labels(N, C))
    return x, y


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_as_threads_to_the_bit(client, tmp_path):
    x, y = in_memory()
    blocks = lazy(str(tmp_path))
    found = sfd.evaluate(blocks, y), sfd.fit_temperature(blocks, y)
    assert len({path.name.split("-")[1] for path in tmp_path.iterdir()}) == 2  # both worked
    with dask.config.set(scheduler="threads"):
        alone = sfd.evaluate(lazy(), y), sfd.fit_temperature(lazy(), y)
    assert json.dumps(found[0].as_dict()) == json.dumps(alone[0].as_dict())
    assert found[1] == alone[1]
    same_evaluation(found[0], sf.evaluate(x, y))
    same_fit(found[1], sf.fit_temperature(x, y))


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_compares_as_threads_do_to_the_bit(client):
    x, y = in_memory()
    base = x + 0.25 * logits(x.shape, np.float64, key=9)
    found = sfd.compare(da.from_array(base, chunks=(500, C)), lazy(), y)
    with dask.config.set(scheduler="threads"):
        alone = sfd.compare(base, lazy(), y)
    assert json.dumps(found.as_dict()) == json.dumps(alone.as_dict())
    same_evaluation(found, sf.compare(base, x, y))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", ["evaluate", "fit_temperature"])
def test_a_cluster_computes_the_blocks_of_a_lost_worker_again_with_the_same_result(
    client, tmp_path, function
):
    _, y = in_memory()
    client.wait_for_workers(2, timeout=60)
    with dask.config.set(scheduler="synchronous"):
        expected = getattr(sfd, function)(lazy(), y)
    killed = []

    def kill_one():
        """Kill a worker that has finished some blocks, while there are more to come."""
        while True:
            by_process = {}
            for path in tmp_path.iterdir():
                by_process.setdefault(int(path.name.split("-")[1]), []).append(path)
            busy = [p for p, paths in by_process.items() if len(paths) >= 3]
            if len(by_process) == 2 and busy:
                os.kill(busy[0], signal.SIGKILL)
                killed.append(busy[0])
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    found = getattr(sfd, function)(lazy(str(tmp_path), 0.1), y)
    thread.join(timeout=30)
    assert killed
    makers = {}
    for path in pathlib.Path(tmp_path).iterdir():
        start, process, _ = path.name.split("-")
        makers.setdefault(start, set()).add(int(process))
    assert any(killed[0] in processes and len(processes) > 1 for processes in makers.values())
    if function == "evaluate":
        assert json.dumps(found.as_dict()) == json.dumps(expected.as_dict())
    else:
        assert found == expected
