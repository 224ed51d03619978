"""The command line against float64 NumPy, on good files, damaged files and interrupted runs."""

import errno
import importlib.metadata
import io
import itertools
import json
import math
import os
import pickle
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

import softmax_fast
from softmax_fast import _shards, cli
from softmax_fast._files import InputError, index_blocks

DATA = Path(__file__).parent / "data"
DIGITS = (str(DATA / "digits_logits.npy"), str(DATA / "digits_labels.npy"))
POSIX = os.name == "posix"


# ---- the reference


def reference_log_softmax(logits, temperature=1.0, axis=-1):
    x = np.asarray(logits, dtype=np.float64) / temperature
    with np.errstate(all="ignore"):
        x = x - x.max(axis=axis, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def reference(logits, labels, temperature=1.0):
    """What `evaluate` prints, worked out row by row."""
    log_p = reference_log_softmax(logits, temperature)
    rows = range(len(labels))
    losses = [-float(log_p[i, labels[i]]) for i in rows]
    n = len(losses)
    mean = math.fsum(losses) / n
    variance = math.fsum((loss - mean) ** 2 for loss in losses) / (n - 1) if n > 1 else math.nan
    # A stable sort puts the lower of two equal classes first.
    order = np.argsort(-np.asarray(logits, dtype=np.float64), axis=1, kind="stable")
    rank = [int(np.flatnonzero(order[i] == labels[i])[0]) for i in rows]
    bins = [[0, 0.0] for _ in range(15)]
    for i in rows:
        confidence = math.exp(max(log_p[i]))
        b = bins[min(14, max(0, math.ceil(confidence * 15) - 1))]
        b[0] += rank[i] == 0
        b[1] += confidence
    return {
        "mean_loss": mean,
        "standard_error": math.sqrt(variance / n),
        "perplexity": math.exp(mean),
        "accuracy": sum(r == 0 for r in rank) / n,
        "top5_accuracy": sum(r < 5 for r in rank) / n,
        "expected_calibration_error": sum(abs(right - total) for right, total in bins) / n,
        "rows": n,
        "classes": log_p.shape[1],
    }


@pytest.fixture
def run_process(tmp_path):
    """Run a command in a process of its own, which may die."""

    def call(command, **environment):
        folder = Path(softmax_fast.__file__).parent.parent
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(folder), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call


@pytest.fixture
def run_fresh(run_process):
    """Run a Python program in a process of its own."""
    return lambda program: run_process([sys.executable, "-c", textwrap.dedent(program)])


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def run_redirected(request, run_process):
    """Run the command line as a shell does with these redirections."""
    if not POSIX:
        pytest.skip("a shell of POSIX")

    def call(redirections, *arguments, **environment):
        script = f'exec "$@" {redirections}'
        program = [sys.executable, "-m", "softmax_fast", *map(str, arguments)]
        environment["PYTHONUNBUFFERED"] = request.param
        return run_process(["sh", "-c", script, "sh", *program], **environment)

    return call


@pytest.fixture
def save(tmp_path):
    def write(name, array):
        path = tmp_path / name
        np.save(path, array)
        return path

    return write


@pytest.fixture
def classifier():
    """Logits and labels of a made-up classifier that is right two times in three."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 12, 500)
    logits = rng.normal(size=(500, 12)).astype(np.float32) * 2
    logits[np.arange(500), labels] += 3 * (rng.random(500) < 0.7)
    return logits, labels


def assert_agrees(results, expected, tolerance=1e-6):
    for key, value in expected.items():
        assert results[key] == pytest.approx(value, rel=tolerance, abs=1e-9), key


def assert_one_line(err):
    assert err.startswith("softmax-fast: error: ")
    assert err.endswith("\n") and err.count("\n") == 1


# ---- evaluate


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_digits_agree_with_float64(evaluate, temperature):
    results = evaluate(*DIGITS, "--temperature", temperature)
    logits, labels = np.load(DIGITS[0]), np.load(DIGITS[1])
    assert_agrees(results, reference(logits, labels, temperature))
    assert results["temperature"] == temperature
    assert results["ignored_rows"] == results["not_finite_rows"] == 0
    assert results["first_not_finite_row"] is None
    assert results["rows_per_second"] == pytest.approx(899 / results["seconds"])
    assert results["elements_per_second"] == pytest.approx(8990 / results["seconds"])


def test_digits_table(run):
    code, out, err = run("evaluate", *DIGITS)
    assert (code, err) == (0, "")
    table = {line[:19].rstrip(): line[19:].split() for line in out.splitlines()}
    expected = reference(np.load(DIGITS[0]), np.load(DIGITS[1]))
    for label, key, digits in (
        ("mean loss", "mean_loss", 6),
        ("standard error", "standard_error", 3),
        ("perplexity", "perplexity", 6),
        ("accuracy", "accuracy", 6),
        ("top-5 accuracy", "top5_accuracy", 6),
        ("calibration error", "expected_calibration_error", 4),
    ):
        assert float(table[label][0]) == pytest.approx(expected[key], rel=0.6 * 10 ** (1 - digits))
    assert table["rows"] == ["899"]
    assert table["classes"] == ["10"]
    assert table["throughput"][2::3] == ["rows/s,", "elements/s"]


def test_the_mean_is_that_of_softmax_loss(evaluate, save, classifier):
    logits, labels = classifier[0].astype(np.float64), classifier[1]
    results = evaluate(save("x.npy", logits), save("y.npy", labels))
    assert results["mean_loss"] == pytest.approx(
        softmax_fast.softmax_loss(logits, labels), rel=1e-14
    )


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_logit_dtypes_and_orders(evaluate, save, classifier, dtype, order):
    logits, labels = classifier
    logits = np.asarray(logits, dtype=dtype, order=order)
    results = evaluate(save("x.npy", logits), save("y.npy", labels))
    assert_agrees(results, reference(logits, labels))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", ">i4", "u1", "u2", "u4", "u8"])
def test_label_dtypes(evaluate, save, classifier, dtype):
    logits, labels = classifier
    results = evaluate(save("x.npy", logits), save("y.npy", labels.astype(dtype)))
    assert_agrees(results, reference(logits, labels))


@pytest.mark.parametrize("elements", [1, 12, 100, 1000])
def test_chunks_do_not_change_the_numbers(evaluate, save, classifier, monkeypatch, elements):
    logits, labels = classifier
    files = save("x.npy", logits.astype(np.float64)), save("y.npy", labels)
    whole = evaluate(*files)
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", elements)
    monkeypatch.setattr(_shards, "ROWS_PER_CHECK", elements)
    assert_agrees(evaluate(*files), {key: whole[key] for key in reference(logits, labels)}, 1e-13)


def test_more_rows_than_a_chunk_holds(evaluate, save, monkeypatch):
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", 1 << 20)
    n = cli.EVALUATED_ELEMENTS // 100 + 1000
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 100, n)
    logits = rng.standard_normal(size=(n, 100), dtype=np.float32)
    results = evaluate(save("x.npy", logits), save("y.npy", labels))
    losses = -reference_log_softmax(logits)[np.arange(n), labels]
    assert results["mean_loss"] == pytest.approx(losses.mean(), rel=1e-7)
    assert results["standard_error"] == pytest.approx(losses.std(ddof=1) / n**0.5, rel=1e-6)
    assert results["accuracy"] == np.mean(logits.argmax(axis=1) == labels)


def test_the_standard_error_keeps_its_digits_beside_a_large_mean(evaluate, save, monkeypatch):
    logits = np.zeros((400, 3))
    logits[:, 1] = 1e8 + np.arange(400) % 5  # losses 1e8 … 1e8 + 4
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", 30)
    results = evaluate(save("x.npy", logits), save("y.npy", np.zeros(400, int)))
    expected = np.std(np.arange(400) % 5, ddof=1) / 20
    assert results["standard_error"] == pytest.approx(expected, rel=1e-9)
    assert results["perplexity"] is None  # exp(1e8) is infinite, which JSON cannot say


def test_ignored_rows_are_not_counted(evaluate, save, classifier):
    logits, labels = classifier
    labels = labels.copy()
    labels[::3] = -100
    logits[::3] = np.nan
    counted = labels >= 0
    results = evaluate(save("x.npy", logits), save("y.npy", labels))
    assert_agrees(results, reference(logits[counted], labels[counted]))
    assert results["ignored_rows"] == np.count_nonzero(~counted)
    assert results["not_finite_rows"] == 0


def test_an_ignore_index_that_is_a_class(evaluate, save, classifier):
    logits, labels = classifier
    results = evaluate(save("x.npy", logits), save("y.npy", labels), "--ignore-index", 0)
    assert_agrees(results, reference(logits[labels != 0], labels[labels != 0]))


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_an_ignore_index_that_only_uint64_holds(run, save, classifier, command, tmp_path):
    """Labels of -1 that were stored as uint64."""
    logits, labels = classifier
    labels = labels.copy()
    labels[::3] = -1
    x, y, u = (
        save("x.npy", logits),
        save("y.npy", labels),
        save("u.npy", labels.astype(np.uint64)),
    )
    options = ["--rows", tmp_path / "rows.npz"] if command == "evaluate" else []

    def lines(out):
        return [line for line in out.splitlines() if "throughput" not in line]

    code, out, err = run(command, x, u, "--ignore-index", 2**64 - 1, *options)
    assert (code, err) == (0, "")
    assert lines(out) == lines(run(command, x, y, "--ignore-index", -1)[1])
    if options:
        assert (np.load(tmp_path / "rows.npz")["rank"] == -1).tolist() == (labels < 0).tolist()
    # A file holds the one or the other, and is told apart.
    code, out, err = run(command, x, y, "--ignore-index", 2**64 - 1)
    assert (code, out) == (2, "")
    assert "row 0 (the first is 0) has label -1, expected 0 to 11 or 18446744073709551615" in err


def test_no_ignore_index(run, save, classifier):
    logits, labels = classifier
    labels[7] = -100
    code, out, err = run(
        "evaluate", save("x.npy", logits), save("y.npy", labels), "--ignore-index", "none"
    )
    assert (code, out) == (2, "")
    assert "row 7 (the first is 0) has label -100, expected 0 to 11\n" in err


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("elements", [12, 40, 1 << 20])
def test_more_dimensions_than_two(evaluate, save, classifier, monkeypatch, order, elements):
    logits, labels = classifier
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", elements)
    results = evaluate(
        save("x.npy", np.asarray(logits.reshape(5, 4, 25, 12), order=order)),
        save("y.npy", np.asarray(labels.reshape(5, 4, 25), order=order)),
    )
    assert_agrees(results, reference(logits, labels))


def test_unaligned_data(evaluate, save, tmp_path, classifier):
    logits, labels = classifier
    header = repr({"descr": "<f4", "fortran_order": False, "shape": logits.shape}).encode() + b"\n"
    path = tmp_path / "x.npy"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + logits.tobytes()
    assert (len(data) - logits.nbytes) % 4 != 0
    path.write_bytes(data)
    assert_agrees(evaluate(path, save("y.npy", labels)), reference(logits, labels))


def test_one_row_has_no_standard_error(evaluate, save):
    results = evaluate(save("x.npy", np.zeros((1, 4))), save("y.npy", np.array([0])))
    assert results["mean_loss"] == pytest.approx(math.log(4))
    assert results["standard_error"] is None


def test_equal_logits_are_ranked_as_argmax_does(evaluate, save):
    """A classifier that says nothing does not get every row right."""
    labels = np.arange(20).repeat(3)
    results = evaluate(save("x.npy", np.zeros((60, 20))), save("y.npy", labels))
    assert results["accuracy"] == 1 / 20
    assert results["top5_accuracy"] == 5 / 20


def test_a_row_with_nan_is_wrong_and_said(run, evaluate, save, classifier):
    logits, labels = classifier
    right = np.flatnonzero(logits.argmax(axis=1) == labels)
    logits[right[3], (labels[right[3]] + 1) % 12] = np.nan
    logits[right[5], labels[right[5]]] = np.nan
    files = save("x.npy", logits), save("y.npy", labels)
    results = evaluate(*files)
    assert results["accuracy"] == (len(right) - 2) / 500
    assert results["mean_loss"] is None
    assert results["expected_calibration_error"] is None
    assert results["not_finite_rows"] == 2
    assert results["first_not_finite_row"] == right[3]
    code, out, err = run("evaluate", *files)
    assert (code, err) == (0, "")
    assert "mean loss          nan\n" in out
    assert f"loss not finite    2 rows, the first is row {right[3]}\n" in out


def test_an_impossible_label_makes_the_loss_infinite(run, save, classifier):
    logits, labels = classifier
    logits[9, labels[9]] = -np.inf
    code, out, _ = run("evaluate", save("x.npy", logits), save("y.npy", labels))
    assert code == 0
    assert "mean loss          inf\n" in out
    assert "loss not finite    1 rows, the first is row 9\n" in out
    assert "calibration error  nan" not in out


def test_thread_count_does_not_change_the_numbers(evaluate):
    one, two = (evaluate(*DIGITS, "--n-threads", n) for n in (1, 2))
    for key in reference(np.load(DIGITS[0]), np.load(DIGITS[1])):
        assert one[key] == two[key]


# ---- .npz


def test_npz_members(evaluate, tmp_path, classifier):
    logits, labels = classifier
    expected = reference(logits, labels)
    path, single = tmp_path / "both.npz", tmp_path / "single.npz"
    np.savez_compressed(path, extra=np.zeros(3), logits=logits, labels=labels, x=logits, y=labels)
    np.savez(single, anything=logits)
    assert_agrees(evaluate(path, path), expected)
    assert_agrees(evaluate(f"{path}:x", f"{path}:y"), expected)
    assert_agrees(evaluate(f"{path}:x.npy", f"{path}:y.npy"), expected)
    assert_agrees(evaluate(single, f"{path}:y"), expected)


def test_npz_errors(run, tmp_path, classifier):
    logits, labels = classifier
    path, empty = tmp_path / "both.npz", tmp_path / "empty.npz"
    np.savez(path, a=logits, b=labels)
    np.savez(empty)
    for argument, message in (
        (path, f"holds several arrays (a, b), name one as {path}:NAME"),
        (f"{path}:c", "has no member 'c', only a, b"),
        (empty, "holds no arrays"),
        (f"{DIGITS[0]}:a", "is a .npy file, it has no member 'a'"),
        (tmp_path / "none.npz:a", "No such file or directory"),
    ):
        code, out, err = run("evaluate", argument, DIGITS[1])
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert message in err


def test_damaged_npz(run, tmp_path, classifier):
    whole = io.BytesIO()
    np.savez_compressed(whole, logits=classifier[0])
    whole = whole.getvalue()
    path = tmp_path / "x.npz"
    for damaged in (whole[:-30], whole[:200], whole[:400] + bytes(50) + whole[450:]):
        path.write_bytes(damaged)
        code, out, err = run("evaluate", path, DIGITS[1])
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert "is a damaged .npz file" in err


def test_npz_member_that_promises_more_than_it_holds(run, tmp_path):
    member = io.BytesIO()
    npy.write_array_header_1_0(
        member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 10)}
    )
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", member.getvalue() + bytes(1000))
    code, _, err = run("evaluate", path, DIGITS[1])
    assert code == 2
    assert_one_line(err)
    assert "is truncated" in err


# ---- bad input


def test_bad_arguments(run):
    for arguments, message in (
        ([], "expected a command (see softmax-fast --help)"),
        (["train"], "invalid choice: 'train'"),
        (["evaluate"], "the following arguments are required: LOGITS, TARGETS"),
        (["evaluate", *DIGITS, "--speed"], "unrecognized arguments: --speed"),
        (["evaluate", *DIGITS, "--ignore-index", "x"], "expected an integer or none, got 'x'"),
        (["softmax", DIGITS[0]], "the following arguments are required: -o/--output"),
        (["softmax", DIGITS[0], "-o", "x.npy", "--axis", "a"], "invalid int value: 'a'"),
        *(
            (
                ["evaluate", *DIGITS, f"--temperature={t}"],
                f"expected a finite number > 0, got '{t}'",
            )
            for t in ("0", "-1", "nan", "inf", "1e999", "warm", "")
        ),
        *(
            (["evaluate", *DIGITS, f"--n-threads={n}"], f"expected an integer >= 1, got '{n}'")
            for n in ("0", "-1", "1.5", "many")
        ),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert message in err


def test_missing_and_special_files(run, tmp_path):
    special = [
        (tmp_path / "none.npy", "No such file or directory"),
        (tmp_path, "not a regular file"),
    ]
    if POSIX:
        os.mkfifo(tmp_path / "pipe")
        special.append((tmp_path / "pipe", "not a regular file"))
        special.append(("/dev/null", "not a regular file"))
    for path, message in special:
        for arguments in (["evaluate", path, DIGITS[1]], ["evaluate", DIGITS[0], path]):
            code, out, err = run(*arguments)
            assert (code, out) == (2, "")
            assert_one_line(err)
            assert str(path) in err and message in err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((3, 4), np.int32),
            "has dtype int32, expected float16, bfloat16, float32 or float64",
        ),
        (np.zeros((3, 4), np.complex64), "has dtype complex64"),
        (np.zeros((3, 4), bool), "has dtype bool"),
        (np.zeros((3, 4), "U3"), "has dtype <U3"),
        (np.zeros((3, 4), "V2"), "has dtype |V2"),
        (np.zeros((3, 4), [("a", "f4")]), "has dtype [('a', '<f4')]"),
        (np.zeros(3), "has shape (3,), expected (rows, classes)"),
        (np.zeros(()), "has shape (), expected (rows, classes)"),
        (np.zeros((3, 0)), "has shape (3, 0), expected (rows, classes)"),
        (np.zeros((0, 3)), "has no rows"),
    ],
)
def test_wrong_logits(run, save, array, message):
    code, out, err = run("evaluate", save("x.npy", array), DIGITS[1])
    assert (code, out) == (2, "")
    assert_one_line(err)
    assert "x.npy: " in err and message in err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), "has dtype float64, expected integer class labels"),
        (np.zeros(3, bool), "has dtype bool, expected integer class labels"),
        (np.zeros(4, int), "has shape (4,), expected (3,) for logits of shape (3, 4)"),
        (np.zeros((3, 1), int), "has shape (3, 1), expected (3,)"),
        (np.full(3, -100), "every label is -100, which is ignored"),
        (np.array([0, 4, 9]), "row 1 (the first is 0) has label 4, expected 0 to 3 or -100"),
        (np.array([0, 1, -1]), "row 2 (the first is 0) has label -1, expected 0 to 3"),
        (np.array([0, 1, 255], np.uint8), "row 2 (the first is 0) has label 255"),
        (
            np.array([0, 2**64 - 100, 0], np.uint64),
            "row 1 (the first is 0) has label 18446744073709551516",
        ),
        (np.array([-(2**63), 0, 0]), "row 0 (the first is 0) has label -9223372036854775808"),
    ],
)
def test_wrong_labels(run, save, array, message):
    code, out, err = run("evaluate", save("x.npy", np.zeros((3, 4))), save("y.npy", array))
    assert (code, out) == (2, "")
    assert_one_line(err)
    assert "y.npy: " in err and message in err


def test_the_bad_label_is_counted_over_the_whole_file(run, save, monkeypatch):
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", 100)
    monkeypatch.setattr(_shards, "ROWS_PER_CHECK", 64)
    labels = np.zeros((50, 20), np.int16)
    labels[37, 11] = 10
    labels[45, 3] = -7
    code, _, err = run(
        "evaluate", save("x.npy", np.zeros((50, 20, 10), np.float32)), save("y.npy", labels)
    )
    assert code == 2
    assert "row 751 (the first is 0) has label 10, expected 0 to 9" in err


class Grenade:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def damaged_npy_files():
    whole = io.BytesIO()
    np.save(whole, np.zeros((899, 10), np.float32))
    whole = whole.getvalue()

    def with_header(text, version=1, claim=None):
        length = len(text) if claim is None else claim
        return (
            b"\x93NUMPY"
            + bytes([version, 0])
            + struct.pack("<H" if version == 1 else "<I", length)
            + text
            + bytes(100)
        )

    def header(**changes):
        entries = {"descr": "<f4", "fortran_order": False, "shape": (3, 4)} | changes
        return with_header(repr(entries).encode() + b"\n")

    pickled = io.BytesIO()
    np.save(pickled, np.array([Grenade()]), allow_pickle=True)
    return {
        "empty": (b"", "is empty"),
        "one byte": (b"\x93", "is neither a .npy nor an .npz nor a .safetensors file"),
        "text": (b"0.1 0.2 0.7\n", "is neither a .npy nor an .npz nor a .safetensors file"),
        "pickle": (
            pickle.dumps(Grenade()),
            "is neither a .npy nor an .npz nor a .safetensors file",
        ),
        "objects": (pickled.getvalue(), "holds Python objects, which are never loaded"),
        "magic alone": (whole[:6], "has a damaged .npy header"),
        "version alone": (whole[:8], "has a damaged .npy header"),
        "half a header": (whole[:40], "has a damaged .npy header"),
        "no data": (whole[:128], "is truncated, it holds 0 of 35960 bytes of data"),
        "half the data": (whole[:10128], "is truncated, it holds 10000 of 35960 bytes of data"),
        "unknown version": (b"\x93NUMPY\x09\x00" + whole[8:], "has a damaged .npy header"),
        "huge header": (
            with_header(b" " * 70_000, 2),
            "has a header of 70000 bytes, more than 10000",
        ),
        "header that claims 4 GiB": (
            with_header(b"{}", 2, claim=2**32 - 1),
            "has a header of 4294967295 bytes",
        ),
        "nested header": (with_header(b"(" * 9000), "has a damaged .npy header"),
        "program as header": (
            with_header(b"__import__('os').getcwd()"),
            "has a damaged .npy header",
        ),
        "negative shape": (header(shape=(-3, 4)), "has a damaged .npy header"),
        "fractional shape": (header(shape=(3.0, 4)), "has a damaged .npy header"),
        "large shape": (header(shape=(2**30, 2**30)), "is truncated, it holds 100 of"),
        **{
            f"enormous shape {i}": (header(shape=shape), "has a damaged .npy header")
            for i, shape in enumerate(
                [
                    (2**62, 2**62),
                    (2**64,),
                    (2**70, 0),
                    (0, -(2**70)),
                    (2**40, 2**40, 0),
                    (10**4000, 10**4000),
                    (10**18,) * 400,
                ]
            )
        },
        "65 dimensions": (header(shape=(0,) * 65), "65"),
        "65 dimensions, not empty": (header(shape=(1,) * 65), "65"),
        "truth values as shape": (header(shape=(True, True)), "has a damaged .npy header"),
        "list as shape": (header(shape=[3, 4]), "has a damaged .npy header"),
        "number as shape": (header(shape=12), "has a damaged .npy header"),
        "no dict": (with_header(b"['descr', 'fortran_order', 'shape']"), "damaged .npy header"),
        "two keys": (with_header(b"{'descr': '<f4', 'shape': (3, 4)}"), "damaged .npy header"),
        "Fortran order 2": (header(fortran_order=2), "has a damaged .npy header"),
        "dtype with a shape": (header(descr="(2,)<f4"), "has a damaged .npy header"),
        "empty record": (header(descr=[]), "has a damaged .npy header"),
        "record": (header(descr=[("a\nb", "<f2"), ("c", "<i2")]), "has dtype [('a\\nb', '<f2'), ("),
        "unknown dtype": (header(descr="<q9"), "has a damaged .npy header"),
        "dtype of no size": (header(descr="<U0"), "has a damaged .npy header"),
        "object dtype": (header(descr="|O"), "holds Python objects, which are never loaded"),
        "objects in a record": (
            header(descr=[("a", "|O")]),
            "holds Python objects, which are never loaded",
        ),
    }


@pytest.mark.parametrize("name", damaged_npy_files())
def test_damaged_npy(run, tmp_path, monkeypatch, name):
    content, message = damaged_npy_files()[name]
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["evaluate", path, DIGITS[1]],
        ["evaluate", DIGITS[0], path],
        ["softmax", path, "-o", tmp_path / "out.npy"],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert str(path) in err and message in err
    assert os.listdir(tmp_path) == ["x.npy"]  # nothing was unpickled or written


@pytest.mark.parametrize("name", damaged_npy_files())
def test_damaged_member(run, tmp_path, monkeypatch, name):
    content, message = damaged_npy_files()[name]
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["evaluate", path, DIGITS[1]],
        ["evaluate", DIGITS[0], path],
        ["softmax", path, "-o", tmp_path / "out.npy"],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert str(path) in err
        assert message in err or "has a damaged .npy header" in err
    assert os.listdir(tmp_path) == ["x.npz"]


def test_every_truncation_is_noticed(run, tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.zeros((4, 3), np.float32))
    whole = whole.getvalue()
    path = tmp_path / "x.npy"
    labels = tmp_path / "y.npy"
    np.save(labels, np.zeros(4, int))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        code, _, err = run("evaluate", path, labels)
        assert code == 2
        assert_one_line(err)


# ---- evaluate's further options


@pytest.fixture
def saved(save, classifier):
    logits, labels = classifier
    return save("x.npy", logits), save("y.npy", labels)


def test_json_has_what_an_evaluation_has(evaluate, saved, classifier):
    results = evaluate(*saved, "--top-k", "2,3", "--bins", "7", "--classwise")
    expected = softmax_fast.evaluate(*classifier, top_k=(1, 2, 3, 5), n_bins=7, classwise=True)
    for key, value in expected.as_dict().items():
        assert results[key] == (value if value is None else pytest.approx(value, rel=1e-12)), key
    assert results["classwise_ece"] > 0 and results["n_bins"] == 7


def test_the_table_is_that_of_an_evaluation(run, saved, classifier):
    code, out, err = run("evaluate", *saved, "--temperature", "1.5")
    assert (code, err) == (0, "")
    shown = out.splitlines()
    assert shown[:-1] == str(softmax_fast.evaluate(*classifier, temperature=1.5)).splitlines()
    assert shown[-1].startswith("throughput         ")


def test_sample_weights(run, evaluate, save, saved, classifier):
    weights = np.random.default_rng(3).integers(0, 4, 500) / 2
    path = save("w.npy", weights)
    results = evaluate(*saved, "--sample-weight", path)
    expected = softmax_fast.evaluate(*classifier, sample_weight=weights)
    assert results["loss"] == pytest.approx(expected.loss, rel=1e-13)
    assert results["loss_stderr"] == pytest.approx(expected.loss_stderr, rel=1e-12)
    assert results["ignored_rows"] == np.count_nonzero(weights == 0)
    assert results["weight_sum"] == weights.sum()
    for bad, message in (
        (np.where(np.arange(500) == 17, -1.0, 1.0), "row 17 (the first is 0) has weight -1.0"),
        (np.where(np.arange(500) == 18, np.nan, 1.0), "row 18 (the first is 0) has weight nan"),
        (np.ones(499), "has shape (499,), expected (500,)"),
        (np.ones(500, "U1"), "expected numbers"),
    ):
        code, out, err = run("evaluate", *saved, "--sample-weight", save("w.npy", bad))
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert "w.npy: " in err and message in err
    code, _, err = run("evaluate", *saved, "--sample-weight", save("w.npy", np.zeros(500)))
    assert code == 2 and "no row is left" in err


def test_bits_per_byte(run, evaluate, saved, classifier):
    results = evaluate(*saved, "--bytes", 1700)
    losses = -reference_log_softmax(classifier[0])[np.arange(500), classifier[1]]
    assert results["bits_per_byte"] == pytest.approx(losses.sum() / math.log(2) / 1700, rel=1e-6)
    stderr = losses.std(ddof=1) * 500**0.5 / math.log(2) / 1700
    assert results["bits_per_byte_stderr"] == pytest.approx(stderr, rel=1e-6)
    assert results["bytes"] == 1700
    line = f"bits per byte      {results['bits_per_byte']:.6g} ± {stderr:.3g}\n"
    assert line in run("evaluate", *saved, "--bytes", 1700)[1]


def test_nan_policies(run, evaluate, save, classifier):
    logits, labels = classifier
    logits[[60, 70], 3] = np.nan
    labels[60] = -100
    logits[71] = -np.inf
    files = save("x.npy", logits), save("y.npy", labels)
    good = np.setdiff1d(np.arange(500), [60, 70, 71])
    results = evaluate(*files, "--nan-policy", "omit")
    assert_agrees(results, reference(logits[good], labels[good]))
    assert (results["not_finite_rows"], results["first_not_finite_row"]) == (2, 70)
    code, out, err = run("evaluate", *files, "--nan-policy", "raise")
    assert (code, out) == (2, "")
    assert_one_line(err)
    assert "x.npy: row 70 (the first is 0) holds NaN or +inf, or nothing but -inf\n" in err
    logits[:] = np.nan
    code, out, err = run("evaluate", save("x.npy", logits), files[1], "--nan-policy", "omit")
    assert (code, out) == (2, "") and "no row is left" in err


def test_numbers_of_each_row(run, save, tmp_path, classifier, monkeypatch):
    logits, labels = classifier
    labels[7] = -100
    files = save("x.npy", logits.reshape(5, 100, 12)), save("y.npy", labels.reshape(5, 100))
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", 900)
    out = tmp_path / "rows.npz"
    code, _, err = run("evaluate", *files, "--rows", out, "--temperature", 2)
    assert (code, err) == (0, "")
    expected = softmax_fast.row_statistics(logits, labels, temperature=2.0)
    with np.load(out) as rows:
        assert tuple(rows) == expected._fields
        for name, values in expected._asdict().items():
            assert rows[name].shape == (5, 100) and rows[name].dtype == values.dtype
            assert rows[name].tobytes() == values.tobytes(), name


def test_bad_places_for_rows(run, tmp_path):
    for name, message in (
        ("rows.npy", "rows.npy: the rows' numbers go to a .npz file"),
        ("none/rows.npz", "none/rows.npz: No such file or directory"),
    ):
        code, out, err = run("evaluate", *DIGITS, "--rows", tmp_path / name)
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert message in err
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not POSIX, reason="limits of POSIX")
@pytest.mark.parametrize("option", ["--rows", "--plot"])
def test_a_full_disk_for_rows_and_plots(run_fresh, tmp_path, option):
    if option == "--plot":
        pytest.importorskip("matplotlib")
    out = tmp_path / {"--rows": "out.npz", "--plot": "out.png"}[option]
    program = f"""
        import resource, sys
        from softmax_fast import cli
        cli.main(["evaluate", *{DIGITS!r}, {option!r}, {str(out)!r}])
        import os; os.unlink({str(out)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
        sys.stdout.flush()
        sys.exit(cli.main(["evaluate", *{DIGITS!r}, {option!r}, {str(out)!r}]))
    """
    done = run_fresh(program)
    assert done.returncode == 2
    assert done.stderr == f"softmax-fast: error: {out}: File too large\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not POSIX, reason="limits of POSIX")
def test_a_disk_that_is_full_for_one_of_two_files_is_said_of_that(run_fresh, tmp_path):
    # Was wrong: the rows, written within the block of the picture, were told of under its name.
    pytest.importorskip("matplotlib")
    files = ["--rows", str(tmp_path / "out.npz"), "--plot", str(tmp_path / "out.svg")]
    program = f"""
        import os, resource, sys
        from softmax_fast import _plots, cli
        _plots.saved = lambda *arguments: b"<svg/>"
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
        sys.exit(cli.main(["evaluate", *{DIGITS!r}, *{files!r}]))
    """
    done = run_fresh(program)
    assert done.returncode == 2
    assert done.stderr == f"softmax-fast: error: {files[1]}: File too large\n"
    assert os.listdir(tmp_path) == []


def test_an_interrupt_leaves_no_rows(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "row_statistics", lambda *a, **k: raising(KeyboardInterrupt())())
    assert run("evaluate", *DIGITS, "--rows", tmp_path / "rows.npz") == (130, "", "")
    assert os.listdir(tmp_path) == []


def test_a_plot_without_matplotlib_is_an_error_before_any_work(run, monkeypatch, tmp_path):
    monkeypatch.setattr("softmax_fast._plots.is_available", lambda: False)
    monkeypatch.setattr(cli, "Shards", raising(AssertionError("work")))
    for command in ("evaluate", "calibrate"):
        code, out, err = run(command, *DIGITS, "--plot", tmp_path / "x.png")
        assert (code, out) == (2, "")
        assert err == (
            "softmax-fast: error: --plot needs matplotlib: pip install 'softmax-fast[plot]'\n"
        )


def test_bad_options_of_evaluate_and_calibrate(run):
    for arguments, message in (
        (["evaluate", *DIGITS, "--top-k", "1,x"], "expected integers >= 1 like 1,5, got '1,x'"),
        (["evaluate", *DIGITS, "--top-k", "0"], "expected integers >= 1 like 1,5, got '0'"),
        (["evaluate", *DIGITS, "--bins", "0"], "expected an integer >= 1, got '0'"),
        (["evaluate", *DIGITS, "--bytes", "1.5"], "expected an integer >= 1, got '1.5'"),
        (["evaluate", *DIGITS, "--nan-policy", "x"], "invalid choice: 'x'"),
        (["calibrate", *DIGITS, "--cross-fit", "1"], "expected an integer >= 2, got '1'"),
        (["calibrate", *DIGITS, "--cross-fit", "900"], "has 899 rows, too few for 900 folds"),
        (["calibrate", *DIGITS, "--cross-fit", "2", "--apply", *DIGITS], "not allowed with"),
        (["calibrate", *DIGITS, "--apply", DIGITS[0]], "expected 2 arguments"),
        (["calibrate", *DIGITS, "--temperature", "2"], "unrecognized arguments"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert message in err


# ---- calibrate


@pytest.fixture
def calibrate(run):
    def call(*arguments):
        code, out, err = run("calibrate", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


def assert_judged(part, logits, labels, temperature):
    before = softmax_fast.evaluate(logits, labels)
    after = softmax_fast.evaluate(logits, labels, temperature=temperature)
    expected = {
        "rows": before.n,
        "loss_before": before.loss,
        "loss": after.loss,
        "ece_before": before.ece,
        "ece": after.ece,
        "ece_floor": after.ece_floor,
    }
    assert_agrees(part, expected, 1e-12)


@pytest.mark.parametrize("elements", [1 << 22, 600])
def test_calibrate_is_fit_temperature(calibrate, saved, classifier, monkeypatch, elements):
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", elements)
    results = calibrate(*saved)
    fit = softmax_fast.fit_temperature(*classifier)
    assert results["temperature"] == pytest.approx(fit.temperature, rel=1e-6)
    assert results["temperature_stderr"] == pytest.approx(fit.stderr, rel=1e-5)
    assert results["status"] == "converged" and results["classes"] == 12
    assert_judged(results["fitted_rows"], *classifier, results["temperature"])
    assert results["fitted_rows"]["loss"] == pytest.approx(fit.loss, rel=1e-6)


def test_calibrate_applied_to_other_rows(calibrate, save, saved, classifier):
    logits, labels = classifier
    fitted = calibrate(save("a.npy", logits[:300]), save("b.npy", labels[:300]))
    other = save("c.npy", logits[300:]), save("d.npy", labels[300:])
    results = calibrate(save("a.npy", logits[:300]), save("b.npy", labels[:300]), "--apply", *other)
    assert results["temperature"] == fitted["temperature"]
    assert results["fitted_rows"] == fitted["fitted_rows"]
    assert_judged(results["applied"], logits[300:], labels[300:], fitted["temperature"])


def test_calibrate_on_folds(calibrate, saved, classifier, monkeypatch):
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", 700)
    logits, labels = classifier
    results = calibrate(*saved, "--cross-fit", 3)
    edges, losses = [0, 166, 333, 500], []
    for i, t in enumerate(results["cross_fit"]["temperatures"]):
        fold = np.zeros(500, bool)
        fold[edges[i] : edges[i + 1]] = True
        fit = softmax_fast.fit_temperature(logits[~fold], labels[~fold])
        assert t == pytest.approx(fit.temperature, rel=1e-6)
        log_p = reference_log_softmax(logits[fold], t)
        losses.extend(-log_p[np.arange(fold.sum()), labels[fold]])
    assert results["cross_fit"]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert results["cross_fit"]["rows"] == 500
    assert results["cross_fit"]["loss"] > results["fitted_rows"]["loss"]


def test_calibrate_says_which_rows_flatter(run):
    out = run("calibrate", *DIGITS)[1]
    assert out.splitlines()[:4] == [
        "temperature        2.40575 ± 0.19",
        "status             converged, 8 passes",
        "",
        "on the rows that T was fitted on, which flatters",
    ]
    assert "mean loss          0.233643 → 0.14945\n" in out
    out = run("calibrate", *DIGITS, "--apply", *DIGITS)[1]
    assert f"\non {DIGITS[0]}, which the fit has not seen\n" in out
    assert (
        "each of 3 folds at the T of the others: " in run("calibrate", *DIGITS, "--cross-fit", 3)[1]
    )


@pytest.mark.parametrize(
    ("logits", "status", "temperature"),
    [
        ([[2.0, 0.0], [0.0, 1.0]], "separable", 0),
        ([[0.0, 2.0], [1.0, 0.0]], "uninformative", None),
        ([[1.0, 1.0], [2.0, 2.0]], "constant", 1),
    ],
)
@pytest.mark.parametrize("more", [[], ["--cross-fit", "2"]])
def test_fits_without_a_temperature(run, calibrate, save, logits, status, temperature, more):
    files = save("x.npy", np.array(logits)), save("y.npy", np.array([0, 1]))
    results = calibrate(*files, *more)
    assert (results["status"], results["temperature"]) == (status, temperature)
    assert results["fitted_rows"]["loss_before"] > 0
    assert (results["fitted_rows"]["loss"] is None) == (status != "constant")
    code, out, err = run("calibrate", *files, *more)
    assert (code, err) == (0, "") and f"\nstatus             {status}, " in out
    assert cli.REASONS[status] in out and "nan" not in out


def test_rows_that_no_temperature_fits(run, save, classifier):
    logits, labels = classifier
    labels[:50] = -100
    logits[40] = np.nan
    logits[410, 2] = np.inf
    files = save("x.npy", logits), save("y.npy", labels)
    message = "x.npy: row 410 (the first is 0) holds NaN or +inf, or nothing but -inf"
    for more in ([], ["--cross-fit", "3"]):
        code, out, err = run("calibrate", *files, *more)
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert message in err
    code, out, err = run("calibrate", files[0], save("y.npy", np.full(500, -100)))
    assert (code, out) == (2, "") and "y.npy: no row is left" in err
    narrow = save("n.npy", np.zeros((2, 5))), save("m.npy", np.zeros(2, int))
    code, out, err = run("calibrate", *DIGITS, "--apply", *narrow)
    assert (code, out) == (2, "") and "n.npy: has 5 classes, and" in err


def test_progress_of_a_fit(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock) * 0.6)
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", 1000)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(["calibrate", *DIGITS]) == 0
    assert "pass 1, 4 s left, 167 rows/s" in terminal.getvalue()
    assert "pass 3, " in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


# ---- softmax, log-softmax

FUNCTIONS = {"softmax": softmax_fast.softmax, "log-softmax": softmax_fast.log_softmax}


@pytest.mark.parametrize("command", FUNCTIONS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1, -3])
@pytest.mark.parametrize("elements", [1, 30, 1 << 20])
def test_written_file(run, save, tmp_path, monkeypatch, command, axis, elements):
    monkeypatch.setattr(cli, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(cli, "LEAST_NEIGHBOURS", 2)
    x = np.random.default_rng(3).normal(size=(5, 6, 7)).astype(np.float32) * 4
    path, out = save("x.npy", x), tmp_path / "out.npy"
    options = [] if axis is None else [f"--axis={axis}"]
    assert run(command, path, "-o", out, "--temperature", "1.5", *options) == (0, "", "")
    result = np.load(out)
    axis = -1 if axis is None else axis
    assert result.dtype == np.float32 and result.flags.c_contiguous
    expected = reference_log_softmax(x, 1.5, axis)
    expected = np.exp(expected) if command == "softmax" else expected
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-7)
    direct = FUNCTIONS[command](x, axis, temperature=1.5)
    assert result.tobytes() == direct.tobytes()


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_written_dtype(run, save, tmp_path, dtype, order):
    x = np.asarray(np.random.default_rng(4).normal(size=(40, 9)), dtype=dtype, order=order)
    out = tmp_path / "out.npy"
    assert run("softmax", save("x.npy", x), "-o", out) == (0, "", "")
    result = np.load(out)
    assert result.dtype == (np.float64 if x.dtype.itemsize == 8 else np.float32)
    np.testing.assert_allclose(result, np.exp(reference_log_softmax(x)), rtol=2e-6)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), (3,), (2, 0, 3)])
def test_written_empty_and_one_dimensional(run, save, tmp_path, shape):
    out = tmp_path / "out.npy"
    assert run("log-softmax", save("x.npy", np.zeros(shape)), "-o", out) == (0, "", "")
    np.testing.assert_array_equal(np.load(out), softmax_fast.log_softmax(np.zeros(shape)))


def test_output_may_be_the_input(run, save, tmp_path):
    x = np.random.default_rng(5).normal(size=(30, 4))
    path = save("x.npy", x)
    assert run("softmax", path, "-o", path) == (0, "", "")
    np.testing.assert_array_equal(np.load(path), softmax_fast.softmax(x))
    assert os.listdir(tmp_path) == ["x.npy"]


def test_npz_input(run, tmp_path):
    x = np.random.default_rng(6).normal(size=(30, 4))
    np.savez(tmp_path / "x.npz", a=x, b=x)
    assert run("softmax", f"{tmp_path}/x.npz:b", "-o", tmp_path / "out.npy") == (0, "", "")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), softmax_fast.softmax(x))


@pytest.mark.skipif(not POSIX, reason="permissions and links of POSIX")
def test_links_and_permissions_stay(run, tmp_path):
    target, link, fresh = tmp_path / "target.npy", tmp_path / "link.npy", tmp_path / "fresh.npy"
    target.write_bytes(b"old")
    target.chmod(0o604)
    link.symlink_to("target.npy")
    old_mask = os.umask(0o027)
    try:
        assert run("softmax", DIGITS[0], "-o", link) == (0, "", "")
        assert run("softmax", DIGITS[0], "-o", fresh) == (0, "", "")
    finally:
        os.umask(old_mask)
    assert link.is_symlink()
    assert target.read_bytes() == fresh.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o640


def test_bad_outputs(run, tmp_path):
    cases = [
        ([DIGITS[0], "-o", tmp_path], "exists and is not a regular file"),
        ([DIGITS[0], "-o", tmp_path / "none" / "x.npy"], "No such file or directory"),
        ([DIGITS[0], "-o", f"{tmp_path}/name/"], "name/: is not the name of a file"),
        ([DIGITS[0], "-o", f"{tmp_path}/name/."], "name/.: is not the name of a file"),
        ([DIGITS[0], "-o", f"{tmp_path}/name/.."], "name/..: is not the name of a file"),
        ([DIGITS[0], "-o", ""], ": is not the name of a file"),
        ([DIGITS[0], "-o", tmp_path / "x.npz"], "the output is a .npy file"),
        ([DIGITS[0], "-o", tmp_path / "x.npy", "--axis", "2"], "axis 2 is out of range for 2"),
        ([DIGITS[0], "-o", tmp_path / "x.npy", "--axis", "-3"], "axis -3 is out of range for 2"),
        ([DIGITS[1], "-o", tmp_path / "x.npy"], "has dtype int64"),
    ]
    if POSIX:
        cases.append(([DIGITS[0], "-o", "/dev/null"], "exists and is not a regular file"))
    for arguments, message in cases:
        code, out, err = run("softmax", *arguments)
        assert (code, out) == (2, "")
        assert_one_line(err)
        assert message in err
    assert os.listdir(tmp_path) == []


# ---- interrupted


@pytest.fixture(params=["unnamed", "named"])
def temporary_kind(request, monkeypatch):
    """Both ways to write beside: a file without a name (Linux) and one with a temporary name."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("no unnamed files here")


@pytest.fixture
def default_signals():
    """Let SIGTERM and SIGHUP act as usual, also under nohup; they do so again afterwards."""
    if not POSIX:
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    after = [
        signal.signal(number, handler) for number, handler in zip(numbers, before, strict=True)
    ]
    assert after == [signal.SIG_DFL, signal.SIG_DFL]


def fail_in_the_middle(monkeypatch, failure):
    calls = itertools.count(1)

    def softmax(*arguments, **options):
        if next(calls) == 3:
            failure()
        return softmax_fast.softmax(*arguments, **options)

    monkeypatch.setattr(cli, "softmax", softmax)
    monkeypatch.setattr(cli, "CHUNK_ELEMENTS", 100)


def raising(exception):
    def failure():
        raise exception

    return failure


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (raising(KeyboardInterrupt()), (130, "", "")),
        pytest.param(
            lambda: os.kill(os.getpid(), signal.SIGTERM),
            (143, "", ""),
            marks=pytest.mark.skipif(not POSIX, reason="signals of POSIX"),
        ),
        pytest.param(
            lambda: os.kill(os.getpid(), signal.SIGHUP),
            (129, "", ""),
            marks=pytest.mark.skipif(not POSIX, reason="signals of POSIX"),
        ),
        (
            raising(OSError(errno.ENOSPC, "No space left on device")),
            (2, "", "softmax-fast: error: {out}: No space left on device\n"),
        ),
        (
            raising(MemoryError()),
            (2, "", "softmax-fast: error: {input}: rows along axis 1 do not fit into memory\n"),
        ),
    ],
    ids=["interrupt", "SIGTERM", "SIGHUP", "disk full", "memory"],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_no_trace(
    run, tmp_path, monkeypatch, temporary_kind, default_signals, failure, expected, exists
):
    out = tmp_path / "out.npy"
    if exists:
        out.write_bytes(b"old")
    fail_in_the_middle(monkeypatch, failure)
    code, stdout, stderr = run("softmax", DIGITS[0], "-o", out)
    assert (code, stdout) == expected[:2]
    assert stderr == expected[2].format(out=out, input=DIGITS[0])
    assert os.listdir(tmp_path) == (["out.npy"] if exists else [])
    if exists:
        assert out.read_bytes() == b"old"


@pytest.mark.skipif(not POSIX, reason="signals of POSIX")
def test_an_ignored_signal_stays_ignored(run, tmp_path, monkeypatch, default_signals):
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fail_in_the_middle(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGHUP))
    assert run("softmax", DIGITS[0], "-o", tmp_path / "out.npy") == (0, "", "")
    assert signal.signal(signal.SIGHUP, signal.SIG_DFL) == signal.SIG_IGN


def test_an_unexpected_error_leaves_no_trace_either(tmp_path, monkeypatch, temporary_kind):
    fail_in_the_middle(monkeypatch, raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["softmax", DIGITS[0], "-o", str(tmp_path / "out.npy")])
    assert os.listdir(tmp_path) == []


def test_success_by_a_temporary_name(run, tmp_path, temporary_kind):
    out = tmp_path / "out.npy"
    assert run("softmax", DIGITS[0], "-o", out) == (0, "", "")
    assert os.listdir(tmp_path) == ["out.npy"]
    np.testing.assert_array_equal(np.load(out), softmax_fast.softmax(np.load(DIGITS[0])))


def test_the_longest_names(run, tmp_path, temporary_kind):
    for name in ("漢" * 80 + ".npy", "x" * 251 + ".npy"):
        assert run("softmax", DIGITS[0], "-o", tmp_path / name) == (0, "", "")
        assert os.listdir(tmp_path) == [name]
        (tmp_path / name).unlink()


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="no unnamed files here")
def test_a_killed_process_leaves_no_trace(run_fresh, tmp_path):
    program = f"""
        import os, signal
        from softmax_fast import _shards, cli
        cli.softmax = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        cli.main(["softmax", {DIGITS[0]!r}, "-o", {str(tmp_path / "out.npy")!r}])
    """
    assert run_fresh(program).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not POSIX, reason="limits of POSIX")
def test_a_full_disk(run_fresh, tmp_path):
    """The limit on a file's size stands in for the end of the disk."""
    program = f"""
        import resource, sys
        from softmax_fast import _shards, cli
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        sys.exit(cli.main(["softmax", {DIGITS[0]!r}, "-o", {str(tmp_path / "out.npy")!r}]))
    """
    done = run_fresh(program)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"softmax-fast: error: {tmp_path / 'out.npy'}: File too large\n"
    assert os.listdir(tmp_path) == []


def test_interrupted_evaluation_is_quiet(run, monkeypatch):
    monkeypatch.setattr(
        "softmax_fast._evaluation_state.some_rows", lambda *a, **k: raising(KeyboardInterrupt())()
    )
    for command in ("evaluate", "calibrate"):
        assert run(command, *DIGITS) == (130, "", "")


# ---- the rest


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("seconds_a_chunk", [0.001, 0.6])
def test_progress_bar(monkeypatch, seconds_a_chunk):
    clock = itertools.count()
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock) * seconds_a_chunk)
    monkeypatch.setattr(cli, "EVALUATED_ELEMENTS", 1000)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(["evaluate", *DIGITS]) == 0
    text = terminal.getvalue()
    if seconds_a_chunk < 0.1:
        assert text == ""
    else:
        assert "\r[######........................]  22%  4 s left, 167 rows/s" in text
        assert text.endswith("\r\x1b[K")  # the line is wiped


def test_no_progress_bar_in_a_file(run, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock) * 10.0)
    assert run("evaluate", *DIGITS)[2] == ""


def test_a_terminal_that_goes_away(monkeypatch, tmp_path):
    class Gone(Terminal):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    clock = itertools.count()
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock) * 10.0)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert cli.main(["softmax", DIGITS[0], "-o", str(tmp_path / "out.npy")]) == 0
    assert os.listdir(tmp_path) == ["out.npy"]
    assert cli.main(["softmax", "none.npy", "-o", "out.npy"]) == 2


def test_info_prints_the_configuration(run, capsys):
    softmax_fast.show_config()
    expected = capsys.readouterr().out
    assert run("info") == (0, expected, "")


def test_help_and_version(run):
    for arguments, expected in (
        (["--version"], f"softmax-fast {softmax_fast.__version__}\n"),
        (["--help"], "example: softmax-fast evaluate logits.npy labels.npy"),
        (["evaluate", "--help"], "example: softmax-fast evaluate"),
        (["calibrate", "--help"], "example: softmax-fast calibrate"),
        (["softmax", "--help"], "example: softmax-fast softmax"),
        (["log-softmax", "--help"], "example: softmax-fast log-softmax"),
        (["info", "--help"], "show_config()"),
    ):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert expected in out


def test_run_as_a_module(run_fresh):
    program = f"""
        import runpy, sys
        sys.argv = ["softmax-fast", "evaluate", *{DIGITS!r}]
        runpy.run_module("softmax_fast", run_name="__main__")
    """
    done = run_fresh(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mean loss          0.233643\n" in done.stdout


def test_the_installed_command_is_this_one():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="softmax-fast")
    assert command.load() is cli.main


@pytest.mark.skipif(not POSIX, reason="pipes of POSIX")
def test_a_reader_that_goes_away(run_fresh):
    program = f"""
        import os, sys
        from softmax_fast import _shards, cli
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
        sys.exit(cli.main(["evaluate", *{DIGITS!r}]))
    """
    done = run_fresh(program)
    assert (done.returncode, done.stderr) == (1, "")


# ---- standard streams that are closed or full

UNWRITABLE = {">&-": "Bad file descriptor"}
if os.path.exists("/dev/full"):
    UNWRITABLE[">/dev/full"] = "No space left on device"


@pytest.mark.parametrize("redirection", UNWRITABLE)
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["evaluate", "--help"], ["info"], ["evaluate", *DIGITS]],
)
def test_results_that_cannot_be_printed(run_redirected, redirection, arguments):
    done = run_redirected(redirection, *arguments)
    assert done.stderr == f"softmax-fast: error: standard output: {UNWRITABLE[redirection]}\n"
    assert (done.returncode, done.stdout) == (1, "")
    done = run_redirected(f"{redirection} 2{redirection}", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize("redirection", UNWRITABLE)
def test_messages_that_cannot_be_printed(run_redirected, redirection):
    # The name of the instruction set makes a warning.
    done = run_redirected(f"2{redirection}", "evaluate", *DIGITS, SOFTMAX_FAST_ISA="none")
    assert (done.returncode, done.stderr) == (0, "")
    assert "mean loss          0.233643\n" in done.stdout
    for arguments in (["evaluate", "none.npy", DIGITS[1]], ["evaluate"], ["train"], []):
        done = run_redirected(f"2{redirection}", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("redirections", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_files_are_written_without_standard_streams(run_redirected, tmp_path, redirections):
    done = run_redirected(redirections, "softmax", DIGITS[0], "-o", "out.npy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), softmax_fast.softmax(np.load(DIGITS[0]))
    )


@pytest.mark.skipif(not POSIX, reason="descriptors of POSIX")
def test_no_file_is_taken_for_a_standard_stream(run_fresh, tmp_path):
    program = f"""
        import os, sys
        from softmax_fast import cli, softmax

        def noisy_softmax(*arguments, **options):
            for descriptor in (1, 2):
                try:
                    os.write(descriptor, b"noise")
                except OSError:
                    pass
            return softmax(*arguments, **options)

        cli.softmax = noisy_softmax
        os.closerange(1, 3)
        codes = cli.main(["softmax", {DIGITS[0]!r}, "-o", "out.npy"]), cli.main(["info"])
        sys.exit(0 if codes == (0, 1) else 1)
    """
    assert run_fresh(program).returncode == 0
    assert os.listdir(tmp_path) == ["out.npy"]
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), softmax_fast.softmax(np.load(DIGITS[0]))
    )


# ---- blocks and messages


@given(
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple), most=st.integers(0, 40)
)
@settings(max_examples=200, deadline=None)
def test_index_blocks_cover_the_array_in_order(shape, most):
    entries = np.arange(math.prod(shape)).reshape(shape)
    blocks = [entries[index].ravel().tolist() for index in index_blocks(shape, most)]
    assert all(1 <= len(block) <= max(1, most) for block in blocks)
    assert list(itertools.chain.from_iterable(blocks)) == entries.ravel().tolist()


def test_input_error_is_one_line_whatever_the_file_is_called(run, tmp_path):
    code, _, err = run("evaluate", tmp_path / "two\nlines.npy", DIGITS[1])
    assert code == 2
    assert_one_line(err)
    assert issubclass(InputError, Exception)


# ---- compare


@pytest.fixture
def two_models(save, classifier):
    logits, labels = classifier
    base = logits + np.random.default_rng(2).normal(size=logits.shape).astype(np.float32) / 4
    return base, logits, labels


def assert_same(found, expected):
    for key, value in expected.as_dict().items():
        assert found[key] == (value and pytest.approx(value, rel=1e-12)), key


def test_compare_prints_what_compare_finds(run, save, two_models, tmp_path):
    base, logits, labels = two_models
    labels[7] = -100
    files = [save(f"{i}.npy", a) for i, a in enumerate((base, logits, labels))]
    options = ["--temperature", "0.5"]
    expected = softmax_fast.compare(*two_models, temperature=0.5, rows=True)
    code, out, err = run("compare", *files, *options)
    assert (code, err) == (0, "") and out.startswith(str(expected))
    rows = tmp_path / "rows.npz"
    code, out, err = run("compare", *files, *options, "--json", "--rows", rows)
    found = json.loads(out)
    assert found["rows_per_second"] > 0
    assert_same(found, expected)
    with np.load(rows) as written:
        for name in written:
            np.testing.assert_array_equal(written[name], getattr(expected.rows, name))
    half = save("half.npy", base.astype(np.float16))
    code, out, _ = run("compare", half, files[1], "--json")
    assert json.loads(out)["kl"] == softmax_fast.compare(base.astype(np.float16), logits).kl
    assert json.loads(out)["loss"] is None


def test_compare_takes_shards(run, save, two_models, tmp_path):
    base, logits, labels = two_models
    for i, some in enumerate((slice(0, 80), slice(80, 500))):
        for name, array in (("base", base), ("other", logits), ("labels", labels)):
            save(f"{name}-{i}.npy", array[some])
    patterns = [tmp_path / f"{name}-*.npy" for name in ("base", "other", "labels")]
    code, out, err = run("compare", *patterns, "--json")
    assert (code, err) == (0, "")
    assert_same(json.loads(out), softmax_fast.compare(*two_models))
    logits[100, 3] = np.nan
    save("other-1.npy", logits[80:])
    code, out, err = run("compare", *patterns)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "other-1.npy: row 20 (the first is 0) holds NaN or +inf" in err
    base[3] = np.inf
    save("base-0.npy", base[:80])
    assert "base-0.npy: row 3 (the first" in run("compare", *patterns)[2]


def test_compare_of_files_that_do_not_fit(run, save, two_models, tmp_path):
    base, logits, labels = two_models
    b, x, y = (save(n, a) for n, a in (("b.npy", base), ("x.npy", logits), ("y.npy", labels)))
    short = save("short.npy", base[:9])
    for arguments, message in (
        ([short, x], r"short.npy: has shape (9, 12), and"),
        ([b, x, save("few.npy", labels[:9])], "few.npy: has shape (9,), expected (500,)"),
        ([b, y], "y.npy: has dtype int64, expected float16"),
        ([y, x], "y.npy: has dtype int64, expected float16"),
        ([tmp_path / "[bx].npy", x], "stands for 2 files, and"),
        ([b, x, y, "--rows", "rows.npy"], "rows.npy: the rows' numbers go to a .npz file"),
        ([b, x, "--plot", "p.txt"], "p.txt: expected the name of a .png, .svg or .pdf file"),
        ([b, x, save("none.npy", np.full(500, -100))], "none.npy: every label is -100"),
        ([b, x, "--temperature", "0"], "expected a finite number > 0"),
    ):
        code, out, err = run("compare", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err


@pytest.mark.parametrize("with_labels", [False, True])
def test_compare_draws_the_distributions(run, save, two_models, tmp_path, with_labels):
    pytest.importorskip("matplotlib")
    files = [save(f"{i}.npy", a) for i, a in enumerate(two_models)]
    picture = tmp_path / "picture.svg"
    code, _, err = run("compare", *files[: 2 + with_labels], "--plot", picture)
    assert (code, err) == (0, "")
    text = picture.read_text(encoding="utf-8")
    assert "KL divergence, nats" in text and "500 rows, mean KL" in text
    assert ("Δp of the label" in text) == with_labels
