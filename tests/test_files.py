"""Files of logits: .safetensors, good and damaged, shards, and files larger than the memory."""

import json
import os
import struct
import sys
import textwrap

import numpy as np
import pytest

import softmax_fast as sf
from softmax_fast import _layer_logits
from softmax_fast._files import BFLOAT16, InputError, float_input, natural, open_array, open_shards


def safetensors(tensors, metadata=None):
    """The bytes of a file of arrays, as the format says; uint16 stands for bfloat16 in a pair."""
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, array in tensors.items():
        code, array = array if isinstance(array, tuple) else (code_of(array.dtype), array)
        part = array.tobytes()
        offsets = [len(data), len(data) + len(part)]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        data += part
    return with_header(json.dumps(header).encode(), data)


def with_header(text, data=b"", claim=None):
    return struct.pack("<Q", len(text) if claim is None else claim) + text + data


def code_of(dtype):
    return {"f": "F", "i": "I", "u": "U"}[dtype.kind] + str(8 * dtype.itemsize)


def bfloat16_bits(x):
    """The upper halves of float32, which the values must fit into."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    assert (bits & 0xFFFF == 0).all()
    return (bits >> 16).astype(np.uint16)


@pytest.fixture
def data():
    """Logits that bfloat16 holds exactly, and labels."""
    rng = np.random.default_rng(1)
    x = rng.integers(-40, 40, (300, 11)) / 8.0
    return x, rng.integers(0, 11, 300)


def assert_fails(outcome, *messages):
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.startswith("softmax-fast: error: ") and err.count("\n") == 1
    for message in messages:
        assert str(message) in err


def same(results, expected):
    keys = [k for k in expected if "second" not in k]
    assert {k: results[k] for k in keys} == {k: expected[k] for k in keys}


# ---- .safetensors


@pytest.mark.parametrize("code", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("label_dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_safetensors_hold_what_npy_holds(evaluate, tmp_path, data, code, label_dtype):
    x, y = data
    if code == "BF16":
        stored, twin = ("BF16", bfloat16_bits(x)), x.astype(np.float32)
    else:
        stored = twin = x.astype(f"f{int(code[1:]) // 8}")
    # An odd byte in front: nothing is aligned.
    tensors = {"odd": np.zeros(1, np.int8), "logits": stored, "labels": y.astype(label_dtype)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(tensors, {"format": "np"}))
    np.save(tmp_path / "x.npy", twin)
    np.save(tmp_path / "y.npy", y)
    expected = evaluate(tmp_path / "x.npy", tmp_path / "y.npy")
    same(evaluate(path, path), expected)
    same(evaluate(f"{path}:logits", f"{path}:labels"), expected)


def test_safetensors_of_its_own_library(tmp_path, data):
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    library.save_file({"a": data[0], "b": data[1]}, path)
    for name, values in zip("ab", data, strict=True):
        np.testing.assert_array_equal(open_array(f"{path}:{name}", ()).whole(), values)


def test_bfloat16_needs_no_other_package(tmp_path, run_python, data):
    x, y = data
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({"logits": ("BF16", bfloat16_bits(x)), "labels": y}))
    out = tmp_path / "out.npy"
    run_python(f"""
        import sys
        sys.modules["ml_dtypes"] = sys.modules["safetensors"] = None
        from softmax_fast.cli import main
        assert main(["evaluate", {str(path)!r}, {str(path)!r}]) == 0
        assert main(["softmax", {str(path) + ":logits"!r}, "-o", {str(out)!r}, "--axis", "0"]) == 0
    """)
    np.testing.assert_array_equal(np.load(out), sf.softmax(x.astype(np.float32), axis=0))


def test_bfloat16_is_read_by_its_bits(tmp_path):
    bits = np.array([[0x3F80, 0xC000, 0x7F80, 0x0001]], np.uint16)
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({"x": ("BF16", bits)}))
    array = open_array(str(path), ()).whole()
    assert array.dtype == BFLOAT16
    expected = [[1.0, -2.0, np.inf, 2.0**-133]]
    np.testing.assert_array_equal(float_input(array).widened(np.float64), expected)


def entry(dtype="F32", shape=(3, 4), data_offsets=(0, 48), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def damaged(header, data=bytes(48), claim=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return with_header(text, data, claim)


DAMAGED = "has a damaged .safetensors header"
DAMAGED_FILES = {
    "empty": (b"", "is empty"),
    "seven bytes": (bytes(7), "is truncated"),
    "no header": (damaged(b""), DAMAGED),
    "header beyond the file": (damaged({}, claim=2**40), "is truncated, it has 58 bytes"),
    "header of 2**64 - 1": (damaged({}, claim=2**64 - 1), "is truncated"),
    "not JSON": (damaged(b"{'x': 1}"), DAMAGED),
    "not UTF-8": (damaged(b'{"\xff": 1}'), DAMAGED),
    "nested": (damaged(b"[" * 100_000), DAMAGED),
    "a list": (damaged([entry()]), DAMAGED),
    "a number": (damaged(b"1" * 5000), DAMAGED),
    "entry that is a number": (damaged({"x": 3}), DAMAGED),
    "entry without offsets": (damaged({"x": {"dtype": "F32", "shape": [3, 4]}}), DAMAGED),
    "three offsets": (damaged({"x": entry(data_offsets=(0, 1, 48))}), DAMAGED),
    "negative offset": (damaged({"x": entry(data_offsets=(-48, 0))}), DAMAGED),
    "fractional offset": (damaged({"x": entry(data_offsets=(0, 48.0))}), DAMAGED),
    "offsets in reverse": (damaged({"x": entry(data_offsets=(48, 0))}), DAMAGED),
    "huge offset": (damaged({"x": entry(data_offsets=(0, 2**70))}), "ends at byte"),
    "negative shape": (damaged({"x": entry(shape=(-3, -4))}), DAMAGED),
    "shape of truth values": (damaged({"x": entry(shape=(True, 12))}), DAMAGED),
    "shape that is text": (damaged({"x": entry(shape="34")}), DAMAGED),
    "huge shape": (damaged({"x": entry(shape=(2**62, 2**62))}), DAMAGED),
    "huge empty shape": (damaged({"x": entry(shape=(2**62, 2**62, 0))}), DAMAGED),
    "65 dimensions": (damaged({"x": entry(shape=(1,) * 65)}), "65"),
    "dtype that is a list": (damaged({"x": entry(dtype=["F32"])}), DAMAGED),
    "unknown dtype": (
        damaged({"x": entry(dtype="F8_E4M3")}),
        "x has dtype F8_E4M3, expected one of",
    ),
    "too little data": (
        damaged({"x": entry()}, bytes(47)),
        "is truncated, x ends at byte 48 of 47",
    ),
    "too much data": (damaged({"x": entry()}, bytes(50)), "holds 2 bytes behind its last tensor"),
    "shape and offsets": (damaged({"x": entry(shape=(3, 5))}), "has 48 bytes of data, expected 60"),
    "overlap": (
        damaged({"x": entry(), "y": entry(data_offsets=(24, 72))}, bytes(72)),
        "y (24 to 72) overlaps x",
    ),
    "hole": (damaged({"x": entry(data_offsets=(4, 52))}, bytes(52)), "does not follow the header"),
    "same name twice": (
        damaged(b'{"x": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}, "x": 1}'),
        DAMAGED,
    ),
    "no tensors": (damaged({"__metadata__": {"a": "b"}}, b""), "holds no arrays"),
    "several": (
        damaged({"x": entry(), "y": entry(data_offsets=(48, 96))}, bytes(96)),
        "holds several arrays (x, y), name one as ",
    ),
    "a name that steers terminals": (damaged({"\x1b[2J\nx": entry(dtype="?")}), "\\x1b[2J x has"),
    "no floats": (damaged({"x": entry("I32")}), "has dtype int32, expected"),
}


@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_damaged_safetensors(run, tmp_path, name):
    content, message = DAMAGED_FILES[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    np.save(tmp_path / "y.npy", np.zeros(3, int))
    assert_fails(run("evaluate", path, tmp_path / "y.npy"), path, message)
    assert_fails(run("softmax", path, "-o", tmp_path / "out.npy"), path, message)
    assert sorted(os.listdir(tmp_path)) == ["x.safetensors", "y.npy"]


def test_every_truncation_of_safetensors_is_noticed(run, tmp_path):
    whole = safetensors({"logits": np.zeros((4, 3), np.float32), "labels": np.zeros(4, int)})
    path = tmp_path / "x.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert_fails(run("evaluate", path, path))


def test_a_name_that_is_not_there(run, tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({f"layer.{i}": data[0] for i in range(30)}))
    listed = "layer.18, layer.19 and 10 more"
    assert_fails(run("evaluate", f"{path}:none", path), f"{path}: has no member 'none'", listed)
    assert_fails(run("evaluate", path, path), "holds several arrays", listed)


# ---- patterns


def save_shards(folder, x, y, cuts, logits="logits-{}.npy", labels="labels-{}.npy"):
    for i, (part, codes) in enumerate(zip(np.split(x, cuts), np.split(y, cuts), strict=True)):
        np.save(folder / logits.format(i), part)
        np.save(folder / labels.format(i), codes)
    return folder / logits.format("*"), folder / labels.format("*")


def test_natural_order():
    names = ["a/10", "a/9", "a/x2y", "a/x10", "a/x2", "b1", "a/009", "a/x"]
    expected = ["a/9", "a/009", "a/10", "a/x", "a/x2", "a/x2y", "a/x10", "b1"]
    assert sorted(names, key=natural) == expected


def test_shards_are_as_the_whole(evaluate, tmp_path, data):
    x, y = data
    y[5] = -100
    cuts = list(range(20, 300, 25))  # more than ten shards
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    whole = evaluate(tmp_path / "x.npy", tmp_path / "y.npy")
    parts = evaluate(*save_shards(tmp_path, x, y, cuts))
    for key, value in whole.items():
        if isinstance(value, dict):
            assert parts[key] == pytest.approx(value, rel=1e-13)
        elif value is not None and "second" not in key:
            assert parts[key] == pytest.approx(value, rel=1e-13), key


def test_a_pattern_names_members(evaluate, tmp_path, data):
    x, y = data
    for i, rows in enumerate((slice(0, 100), slice(100, 300))):
        content = safetensors({"a": x[rows], "b": y[rows], "c": y[rows]})
        (tmp_path / f"part-{i}.safetensors").write_bytes(content)
    pattern = tmp_path / "part-*.safetensors"
    results = evaluate(f"{pattern}:a", f"{pattern}:b")
    assert results["mean_loss"] == pytest.approx(sf.softmax_loss(x, y), rel=1e-14)
    assert results["rows"] == 300


def test_a_file_may_be_called_like_a_pattern(tmp_path, data):
    path = tmp_path / "x[1]*.npy"
    np.save(path, data[0])
    np.save(tmp_path / "x1b.npy", data[1])
    (array,) = open_shards(str(path), ())
    assert array.shape == data[0].shape


def test_shards_that_do_not_match(run, tmp_path, data):
    x, y = data
    logits, labels = save_shards(tmp_path, x, y, [100, 200])
    np.save(tmp_path / "y.npy", y)
    assert_fails(
        run("evaluate", logits, tmp_path / "y.npy"), "y.npy: stands for 1 file, and", "3 files"
    )
    assert_fails(run("evaluate", tmp_path / "none*.npy", labels), "none*.npy: no file matches")
    np.save(tmp_path / "labels-1.npy", y[100:199])
    assert_fails(
        run("evaluate", logits, labels),
        "labels-1.npy: has shape (99,), expected (100,)",
        "logits-1.npy",
    )
    np.save(tmp_path / "labels-1.npy", np.full(100, 11))
    assert_fails(
        run("evaluate", logits, labels), "labels-1.npy: row 0 (the first is 0) has label 11"
    )
    np.save(tmp_path / "logits-2.npy", x[200:, :10])
    assert_fails(
        run("evaluate", logits, labels), "logits-2.npy: has 10 classes, and", "logits-0.npy has 11"
    )
    np.save(tmp_path / "logits-2.npy", y)
    assert_fails(run("evaluate", logits, labels), "logits-2.npy: has dtype int64")


def test_the_file_of_the_first_row_with_nan_is_named(run, evaluate, tmp_path, data):
    x, y = data
    x[[170, 220], 3] = np.nan
    logits, labels = save_shards(tmp_path, x, y, [100, 150])
    assert evaluate(logits, labels)["first_not_finite_row"] == 170
    out = run("evaluate", logits, labels)[1]
    assert f"row 20 of {tmp_path / 'logits-2.npy'}\n" in out
    outcome = run("evaluate", logits, labels, "--nan-policy", "raise")
    assert_fails(outcome, "logits-2.npy", "row 20 ")


# ---- larger than the memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_a_file_larger_than_the_address_space_allowed(tmp_path, run_python, command):
    """A file of 640 MiB, mostly a hole, in a process that may grow by 256 MiB."""
    n_rows, n_classes = 163_840, 1024
    path = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, n_classes))
    x[::1000, 7] = 3.0
    x[::3000, 5] = 4.0
    x.flush()
    del x
    np.save(tmp_path / "y.npy", np.full(n_rows, 7, np.int16))
    program = f"""
        import re, resource, sys
        from softmax_fast import cli
        from softmax_fast.cli import main
        cli.main(["evaluate", "none.npy", "none.npy"])
        used = int(re.search(r"VmSize:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
        files = {str(path)!r}, {str(tmp_path / "y.npy")!r}
        sys.exit(main([{command!r}, *files, "--json", "--n-threads", "2"]))
    """
    results = json.loads(run_python(textwrap.dedent(program)).stdout)
    if command == "calibrate":
        assert results["fitted_rows"]["rows"] == n_rows
    else:
        assert results["rows"] == n_rows
        high, n_high = np.log(1023 + np.exp(3.0)) - 3.0, 164
        assert results["accuracy"] < 0.01
        both = np.log(1022 + np.exp(3.0) + np.exp(4.0)) - 3.0
        expected = (n_rows - n_high) * np.log(1024) + (n_high - 55) * high + 55 * both
        assert results["mean_loss"] == pytest.approx(expected / n_rows, rel=1e-6)


def test_no_more_is_mapped_than_is_asked_for(tmp_path):
    x = np.arange(60.0).reshape(5, 4, 3)
    for order in "CF":
        np.save(tmp_path / "x.npy", np.asarray(x, order=order))
        array = open_array(str(tmp_path / "x.npy"), ())
        for start, stop in ((0, 20), (3, 9), (19, 20), (7, 7)):
            np.testing.assert_array_equal(array.rows(start, stop, 1), x.reshape(20, 3)[start:stop])
            np.testing.assert_array_equal(array.rows(start, stop, 0), x.ravel()[start:stop])
        assert (array.values is None) == (order == "C")


def test_a_file_cut_off_after_it_was_opened(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1000, 100)))
    array = open_array(str(path), ())
    os.truncate(path, 1000)
    with pytest.raises(InputError, match="x.npy"):
        array.rows(500, 600, 1)


@pytest.mark.parametrize("command", ["softmax", "log-softmax"])
def test_safetensors_through_other_commands(run, tmp_path, data, command):
    x, _ = data
    path, out = tmp_path / "x.safetensors", tmp_path / "out.npy"
    path.write_bytes(safetensors({"h": ("BF16", bfloat16_bits(x)), "d": x}))
    function = {"softmax": sf.softmax, "log-softmax": sf.log_softmax}[command]
    for name, values in (("h", x.astype(np.float32)), ("d", x)):
        assert run(command, f"{path}:{name}", "-o", out) == (0, "", "")
        np.testing.assert_array_equal(np.load(out), function(values))


# ---- hidden states and the layer they go into


@pytest.fixture
def layer(tmp_path):
    """Files of a layer whose products are exact: hidden states, weights and bias, logits, labels."""
    rng = np.random.default_rng(2)
    hidden, weights = rng.integers(-3, 4, (6, 50, 9)) / 4.0, rng.integers(-3, 4, (13, 9)) / 4.0
    bias, y = rng.integers(-3, 4, 13) / 2.0, rng.integers(0, 13, (6, 50))
    x = hidden @ weights.T + bias
    y[::2] = x[::2].argmax(axis=-1)
    y[2, 7] = -100
    tensors = {
        "lm_head.weight": ("BF16", bfloat16_bits(weights)),
        "h": ("BF16", bfloat16_bits(hidden)),
    }
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
    for name, values in {"h": hidden, "w": weights, "b": bias}.items():
        np.save(tmp_path / f"{name}.npy", values.astype(np.float32))
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    for part in range(6):
        np.save(tmp_path / f"h-{part}.npy", hidden[part].astype(np.float16))
        np.save(tmp_path / f"y-{part}.npy", y[part])
    return tmp_path


def hidden_in(folder, hidden="h.npy", weights="w.npy", labels="y.npy"):
    weights = ("--weights", folder / weights) if weights else ()
    return "--hidden", folder / hidden, *weights, "--bias", folder / "b.npy", folder / labels


def test_hidden_states_are_evaluated_as_their_logits(evaluate, layer):
    expected = evaluate(layer / "x.npy", layer / "y.npy", "--classwise", "--temperature", 2)
    for hidden in (
        hidden_in(layer),
        hidden_in(layer, "model.safetensors:h", "model.safetensors:lm_head.weight"),
        hidden_in(layer, weights="model.safetensors:lm_head.weight"),
    ):
        same(evaluate(*hidden, "--classwise", "--temperature", 2), expected)
    weights = layer / "v.npy"
    np.save(weights, np.linspace(0, 2, 300).reshape(6, 50))
    rows = layer / "rows.npz", layer / "rows2.npz"
    options = "--sample-weight", weights, "--nan-policy", "raise", "--rows"
    same(evaluate(*hidden_in(layer), *options, rows[0]),
         evaluate(layer / "x.npy", layer / "y.npy", *options, rows[1]))  # fmt: skip
    with np.load(rows[0]) as got, np.load(rows[1]) as wanted:
        assert sorted(got) == sorted(wanted)
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])


def test_shards_of_hidden_states_some_rows_at_a_time(evaluate, run, layer, monkeypatch):
    expected = evaluate(layer / "x.npy", layer / "y.npy")
    monkeypatch.setattr(_layer_logits, "SLAB_BYTES", 32 * 13 * 4)
    got = evaluate(*hidden_in(layer, "h-*.npy", labels="y-*.npy"))
    assert got["loss"] == pytest.approx(expected["loss"], rel=1e-14)
    assert (got["rows"], got["top_k"]) == (expected["rows"], expected["top_k"])
    files = layer / "x.npy", layer / "y.npy"
    outcomes = []
    for arguments in (
        (*files, "--apply", *files),
        (*hidden_in(layer), "--apply", layer / "h-1.npy", layer / "y-1.npy"),
        (*files, "--cross-fit", 3),
        (*hidden_in(layer), "--cross-fit", 3),
    ):
        code, out, err = run("calibrate", *arguments, "--json")
        assert (code, err) == (0, "")
        outcomes.append(json.loads(out))
    for stored, hidden in (outcomes[:2], outcomes[2:]):
        for name in ("temperature", "temperature_stderr"):
            assert hidden[name] == pytest.approx(stored[name], rel=1e-6)
        assert hidden["fitted_rows"] == pytest.approx(stored["fitted_rows"], rel=1e-6)
    assert outcomes[1]["applied"]["rows"] == 50
    assert outcomes[3]["cross_fit"]["loss"] == pytest.approx(
        outcomes[2]["cross_fit"]["loss"], rel=1e-6
    )


def test_a_fit_of_hidden_states_begins_with_a_sample(run, layer):
    rng = np.random.default_rng(3)
    hidden, y = rng.integers(-3, 4, (1500, 9)) / 4.0, rng.integers(0, 13, 1500)
    w, b = np.load(layer / "w.npy"), np.load(layer / "b.npy")
    x = hidden @ w.T + b
    y[::2] = x[::2].argmax(axis=1)
    files = {"h.npy": hidden.astype(np.float16), "x.npy": x, "y.npy": y}
    for name, values in files.items():
        np.save(layer / name, values)
    outcomes = [
        json.loads(run("calibrate", *arguments, "--json")[1])
        for arguments in ((layer / "x.npy", layer / "y.npy"), hidden_in(layer))
    ]
    assert outcomes[1]["temperature"] == pytest.approx(outcomes[0]["temperature"], rel=1e-6)
    assert outcomes[1]["passes"] <= 4


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_layers_that_do_not_fit_get_one_line(run, layer, command):
    np.save(layer / "bad.npy", np.full((3, 9), np.nan, np.float32))
    np.save(layer / "y3.npy", np.zeros(3, int))
    np.save(layer / "wide.npy", np.zeros((13, 9)))
    np.save(layer / "flat.npy", np.zeros(13, np.float32))
    np.save(layer / "int.npy", np.zeros((13, 9), int))
    bias = layer / "w.npy"
    cases = [
        (hidden_in(layer, weights=None), "--hidden needs the layer: --weights FILE"),
        (("--weights", layer / "w.npy", layer / "x.npy", layer / "y.npy"), "give --hidden too"),
        (hidden_in(layer, "x.npy"), "x.npy: has 13 features, and the weights in"),
        (hidden_in(layer, weights="flat.npy"), "flat.npy: has shape (13,), expected (classes, features)"),
        (hidden_in(layer, weights="int.npy"), "int.npy: has dtype int64, expected float16"),
        (hidden_in(layer, weights="none.npy"), "none.npy: No such file"),
        (hidden_in(layer, weights="wide.npy"), "dtype float32, and"),
        ((*hidden_in(layer), "--bias", bias), "w.npy: has shape (13, 9), expected (13,)"),
        (hidden_in(layer, labels="y3.npy"), "for hidden states of shape (6, 50, 9)"),
        ((*hidden_in(layer), "--ignore-index", "none"), "row 107 (the first is 0) has label -100"),
    ]  # fmt: skip
    policy = ("--nan-policy", "raise") if command == "evaluate" else ()
    bad = (*hidden_in(layer, "bad.npy", labels="y3.npy"), *policy)
    for arguments, message in [*cases, (bad, "bad.npy: row 0 (the first is 0) has logits of NaN")]:
        assert_fails(run(command, *arguments), message)
