"""The recipes of docs/recipes.md: run as they stand there, beside the whole data at once."""

import os
import pathlib
import re
import sys

import numpy as np
import oracle
import pytest
from cases import labels, logits, positive

import softmax_fast as sf

DOCUMENT = pathlib.Path(__file__).parent.parent / "docs" / "recipes.md"
WHOLE_ROWS = (700, 300)
SPLITS = [[], [1], [333, 334, 699], [0, 0, 350, 700], list(range(7, 700, 7))]


def recipe(*names):
    """The document's blocks of these names, one after the other."""
    if not DOCUMENT.exists():
        pytest.skip("no documents beside the tests")
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = []
    for name in names:
        found = re.search(rf"<!-- recipe:{name} -->\n```python\n(.*?)```", text, re.DOTALL)
        assert found, f"{DOCUMENT.name} has no recipe {name}"
        blocks.append(found[1])
    return "\n".join(blocks)


def run_recipe(*names, **given):
    exec(compile(recipe(*names), DOCUMENT.name, "exec"), given)  # noqa: S102
    return given


@pytest.fixture
def data(dtype):
    x, y = logits(WHOLE_ROWS, dtype), labels(*WHOLE_ROWS)
    y[[0, 5, 400]] = -100
    y[340:350] = -100
    return x, y


@pytest.fixture
def files(tmp_path, data):
    """A prefix for scripts that find ``logits.npy`` and ``labels.npy`` where they are."""
    x, y = data
    np.save(tmp_path / "logits.npy", x)
    np.save(tmp_path / "labels.npy", y)
    return f"import os\nos.chdir({str(tmp_path)!r})\n"


@pytest.mark.parametrize("split", SPLITS, ids=lambda s: f"{len(s) + 1} blocks")
def test_sums_of_blocks_give_the_mean_of_the_whole(split, data, dtype):
    x, y = data
    block_sums = run_recipe("block")["block_sums"]
    parts = [block_sums(*p) for p in zip(np.split(x, split), np.split(y, split), strict=True)]
    total, count = np.concatenate(parts).sum(axis=0)
    assert count == np.count_nonzero(y != -100)
    oracle.check_loss(total / count, oracle.softmax_loss(x, y), "mean", dtype)


@pytest.mark.parametrize("split", SPLITS, ids=lambda s: f"{len(s) + 1} blocks")
def test_weighted_sums_of_blocks_give_the_weighted_mean(split, data, dtype):
    x, y = data
    weight, sample_weight = positive(WHOLE_ROWS[1]), positive(WHOLE_ROWS[0])
    sums = np.zeros(2)
    for block, own, v in zip(*(np.split(a, split) for a in (x, y, sample_weight)), strict=True):
        counted = own != -100
        total = sf.softmax_loss(block, own, weight=weight, sample_weight=v, reduction="sum")
        sums += total, (v[counted] * weight[own[counted]]).sum()
    whole = oracle.softmax_loss(x, y, weight=weight, sample_weight=sample_weight)
    oracle.check_loss(sums[0] / sums[1], whole, "mean", dtype)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("rows", [700, 100, (1, 699), (333, 1, 366)], ids=str)
def test_dask(rows, scheduler, data, dtype):
    dask = pytest.importorskip("dask")
    da = pytest.importorskip("dask.array")
    x, y = data
    with dask.config.set(scheduler=scheduler):
        found = run_recipe(
            "block",
            "dask",
            logits=da.from_array(x, chunks=(rows, -1)),
            labels=da.from_array(y, chunks=rows),
        )
        row_losses = found["row_losses"].compute()
    whole = oracle.softmax_loss(x, y)
    oracle.check_loss(found["mean"], whole, "mean", dtype)
    assert found["perplexity"] == np.exp(found["mean"])
    oracle.assert_same_bits(row_losses, sf.softmax_loss(x, y, reduction="none"))


def test_dask_evaluation(data):
    da = pytest.importorskip("dask.array")
    x, y = data
    y[::2] = x[::2].argmax(axis=1)
    found = run_recipe(
        "dask-evaluation",
        logits=da.from_array(x, chunks=(100, -1)),
        labels=da.from_array(y, chunks=100),
    )
    fit = sf.fit_temperature(x, y)
    assert found["fit"].temperature == pytest.approx(fit.temperature, rel=1e-6)
    assert found["evaluation"].loss == pytest.approx(fit.loss, rel=1e-6)
    whole = sf.evaluate(x, y, temperature=found["fit"].temperature)
    assert found["evaluation"].ece == pytest.approx(whole.ece, rel=1e-12)


def test_dask_arrays_split_across_the_classes(data, dtype):
    da = pytest.importorskip("dask.array")
    x, y = data
    split = da.from_array(x, chunks=(100, 70))
    found = run_recipe(
        "block", "dask", logits=split.rechunk({1: -1}), labels=da.from_array(y, chunks=100)
    )
    oracle.check_loss(found["mean"], oracle.softmax_loss(x, y), "mean", dtype)
    row_losses = found["da"].apply_gufunc(
        sf.softmax_loss,
        "(c),()->()",
        split,
        da.from_array(y, chunks=350),
        output_dtypes=split.dtype,
        allow_rechunk=True,
        reduction="none",
        n_threads=1,
    )
    oracle.assert_same_bits(row_losses.compute(), sf.softmax_loss(x, y, reduction="none"))


DASK_BEFORE = """
import os, resource
import dask, dask.array as da
import numpy as np

def tasks():
    return len(os.listdir("/proc/self/task"))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

N, C, ROWS = 500_000, 1000, 5000
x = np.linspace(-3, 3, C, dtype=np.float32)
logits = da.map_blocks(
    lambda block: np.resize(x * (1 + block[0] % 2), (ROWS, C)),
    da.arange(N // ROWS, chunks=1),
    new_axis=1, chunks=((ROWS,) * (N // ROWS), (C,)), meta=np.empty((0, 0), np.float32),
)
labels = da.arange(N, chunks=ROWS) % C
dask.config.set(scheduler="threads", num_workers=2)
da.ones((4, 4), chunks=2).sum().compute()  # the workers start
before, before_peak, most = tasks(), peak(), 0
"""
DASK_AFTER = """
assert most == before, (most, before)
assert peak() - before_peak < 400_000, f"{peak() - before_peak} KiB for blocks of 20 MB"
expected = [np.log(np.exp(k * x.astype(float)).sum()) - k * x.mean(dtype=float) for k in (1, 2)]
assert abs(mean - np.mean(expected)) < 1e-6 * mean, (mean, expected)
assert count == N
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and ru_maxrss in KiB")
def test_dask_keeps_to_blocks_and_to_its_own_threads(run_script):
    """2 GB of logits that no array ever holds, with two workers and no thread besides."""
    pytest.importorskip("dask.array")
    block = recipe("block").replace(
        "    return ", "    global most\n    most = max(most, tasks())\n    return "
    )
    run_script(DASK_BEFORE + block + recipe("dask") + DASK_AFTER, timeout=300)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes(method, files, data, dtype, run_script):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    x, y = data
    code = recipe("block", "processes").replace("ROWS = 65536", "ROWS = 64")
    code = code.replace("multiprocessing.Pool", f"multiprocessing.get_context({method!r}).Pool")
    check = "    print(repr(float(total / count)))\n"
    printed, mean = run_script(files + code + check).stdout.splitlines()
    mean = float(mean)
    oracle.check_loss(mean, oracle.softmax_loss(x, y), "mean", dtype)
    assert printed == f"mean loss {mean:.6g}, perplexity {np.exp(mean):.6g}"


def test_joblib(files, data, dtype, run_script):
    pytest.importorskip("joblib")
    x, y = data
    code = recipe("block", "processes", "joblib").replace("ROWS = 65536", "ROWS = 64")
    check = "    print(repr(float(total / count)))\n"
    *_, mean = run_script(files + code.replace("n_jobs=-1", "n_jobs=2") + check).stdout.splitlines()
    oracle.check_loss(float(mean), oracle.softmax_loss(x, y), "mean", dtype)


def test_workers_take_one_thread_each(run_script):
    code = """
import multiprocessing
import softmax_fast as sf

def threads(_):
    return sf.get_num_threads()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, initializer=sf.set_num_threads, initargs=(1,)) as pool:
        print(pool.map(threads, range(4)))
"""
    assert run_script(code).stdout.split() == ["[1,", "1,", "1,", "1]"]


def test_joblib_workers_share_the_cpus(run_script):
    pytest.importorskip("joblib")
    code = """
from joblib import Parallel, cpu_count, delayed
import softmax_fast as sf

if __name__ == "__main__":
    share = Parallel(n_jobs=2)(delayed(sf.get_num_threads)() for _ in range(4))
    assert max(share) <= max(1, cpu_count() // 2), (share, cpu_count())
"""
    run_script(code)


def test_pytorch():
    torch = pytest.importorskip("torch")
    loss_of = run_recipe("torch")["SoftmaxLoss"].apply
    x = torch.from_numpy(logits((6, 9), np.float64)).requires_grad_()
    y = torch.from_numpy(labels(6, 9))
    assert torch.autograd.gradcheck(lambda z: loss_of(z, y), x)
    loss_of(x, y).backward()
    theirs = x.detach().clone().requires_grad_()
    torch.nn.functional.cross_entropy(theirs, y).backward()
    torch.testing.assert_close(x.grad, theirs.grad, rtol=1e-14, atol=1e-15)


def test_distillation_is_the_slope_of_its_loss():
    loss_and_grad = run_recipe("distillation")["distillation_loss_and_grad"]
    teacher, student = logits((5, 7), np.float64), logits((5, 7), np.float64, key=1)
    y, share, t = labels(5, 7), 0.3, 3.0

    def loss_of(x):
        soft = oracle.kl_divergence(teacher, x, temperature=t, scale=share * t**2).reduced("mean")
        return soft + (1 - share) * oracle.softmax_loss(x, y).reduced("mean")

    loss, grad = loss_and_grad(teacher, student, y, T=t, share=share)
    np.testing.assert_allclose(float(loss), float(loss_of(student)), rtol=1e-12)
    slopes = oracle.finite_difference(lambda x: loss_of(x.astype(float)), student, 1e-5)
    np.testing.assert_allclose(grad, slopes.astype(float), atol=1e-7)


def test_softmax_regression_reaches_scikit_learns_optimum():
    pytest.importorskip("scipy.optimize")
    linear_model = pytest.importorskip("sklearn.linear_model")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1):  # small products: threads only wait for each other
        ours = run_recipe("regression")
        model = linear_model.LogisticRegression(
            C=1 / (ours["penalty"] * ours["n"]), tol=1e-8, max_iter=5000
        )
        model.fit(ours["features"], ours["labels"])
    flat = np.concatenate([model.coef_.ravel(), model.intercept_])
    theirs, _ = ours["value_and_gradient"](flat)
    assert abs(ours["found"].fun - theirs) <= 1e-6
    np.testing.assert_allclose(ours["weights"], model.coef_, atol=1e-3)
    assert ours["accuracy"] == model.score(ours["features"], ours["labels"])
