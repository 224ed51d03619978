"""What a call costs on ten numbers: every public function on an array, with each of its options.

python benchmarks/small_calls.py
python benchmarks/small_calls.py --functions softmax_loss --dtype float64
python benchmarks/small_calls.py --update-results
"""

import argparse
import sys
from pathlib import Path

import harness
import numpy as np
from harness import markdown_table, text_table

SHAPES = ((1, 10), (10,))
DTYPES = ("float32", "float64")
GOAL = 3e-6  # seconds
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"


def _options(shape, dtype, axis):
    """Arrays that the options need, along ``axis``."""
    classes = shape[axis]
    rows = tuple(np.delete(shape, axis).tolist())
    rng = np.random.default_rng(3)
    probabilities = rng.random(shape) + 0.5
    probabilities /= probabilities.sum(axis, keepdims=True)
    return {
        "labels": np.full(rows, classes // 2),
        "labels32": np.full(rows, classes // 2, np.int32),
        "probabilities": probabilities.astype(dtype),
        "class_weight": rng.random(classes) + 0.5,
        "row_weight": rng.random(rows) + 0.5 if rows else np.array(0.5),
        "row_temperature": rng.random(rows) + 0.5 if rows else np.array(0.5),
        "rows": np.empty(rows, dtype),
        "dense": np.empty(shape, dtype),
        "loss": np.empty(()),
    }


def _normalised(function, x, a):
    y = x.copy()
    yield "", lambda: function(x)
    yield "out", lambda: function(x, out=a["dense"])
    yield "out=x", lambda: function(y, out=y)
    yield "temperature=2", lambda: function(x, temperature=2)
    yield "temperature=0.5", lambda: function(x, temperature=0.5)
    yield "temperature a row", lambda: function(x, temperature=a["row_temperature"])
    yield "n_threads=1", lambda: function(x, n_threads=1)


def _logsumexp(function, x, a):
    yield "", lambda: function(x)
    yield "keepdims", lambda: function(x, keepdims=True)
    yield "out", lambda: function(x, out=a["rows"])
    yield "temperature=2", lambda: function(x, temperature=2)
    yield "temperature a row", lambda: function(x, temperature=a["row_temperature"])
    yield "n_threads=1", lambda: function(x, n_threads=1)


def _common_of_losses(function, x, a):
    y = a["labels"]
    yield "", lambda: function(x, y)
    yield "int32 labels", lambda: function(x, a["labels32"])
    yield "probability targets", lambda: function(x, a["probabilities"])
    yield "weight", lambda: function(x, y, weight=a["class_weight"])
    yield "sample_weight", lambda: function(x, y, sample_weight=a["row_weight"])
    yield (
        "both weights",
        lambda: function(x, y, weight=a["class_weight"], sample_weight=a["row_weight"]),
    )
    yield "ignore_index=3", lambda: function(x, y, ignore_index=3)
    yield "ignore_index=None", lambda: function(x, y, ignore_index=None)
    yield "reduction=sum", lambda: function(x, y, reduction="sum")
    yield "reduction=none", lambda: function(x, y, reduction="none")
    yield "out", lambda: function(x, y, out=a["loss"])
    yield "out of the rows", lambda: function(x, y, reduction="none", out=a["rows"])
    yield "n_threads=1", lambda: function(x, y, n_threads=1)


def _softmax_loss(function, x, a):
    yield from _common_of_losses(function, x, a)
    y = a["labels"]
    yield "temperature=2", lambda: function(x, y, temperature=2)
    yield "temperature a row", lambda: function(x, y, temperature=a["row_temperature"])
    yield "label_smoothing", lambda: function(x, y, label_smoothing=0.1)
    yield (
        "smoothing of probabilities",
        lambda: function(x, a["probabilities"], label_smoothing=0.1),
    )
    yield (
        "all of them",
        lambda: function(
            x,
            y,
            temperature=2,
            weight=a["class_weight"],
            sample_weight=a["row_weight"],
            ignore_index=3,
            label_smoothing=0.1,
            reduction="sum",
            out=a["loss"],
            n_threads=1,
        ),
    )


def _softmax_loss_and_grad(function, x, a):
    yield from _softmax_loss(function, x, a)
    y, z = a["labels"], x.copy()
    yield "grad_out", lambda: function(x, y, grad_out=a["dense"])
    yield "grad_out=logits", lambda: function(z, y, grad_out=z)


def _cross_entropy(function, x, a):
    yield from _common_of_losses(function, a["probabilities"], a)


def _selected(function, x, a):
    y = a["labels"]
    three = np.zeros((*y.shape, 3), np.int64)
    yield "", lambda: function(x, y)
    yield "three a row", lambda: function(x, three)
    yield "int32 indices", lambda: function(x, a["labels32"])
    yield "temperature=2", lambda: function(x, y, temperature=2)
    yield "temperature a row", lambda: function(x, y, temperature=a["row_temperature"])
    yield "ignore_index=3", lambda: function(x, y, ignore_index=3)
    yield "ignore_index=None", lambda: function(x, y, ignore_index=None)
    yield "out", lambda: function(x, y, out=a["rows"])
    yield "n_threads=1", lambda: function(x, y, n_threads=1)


def _binary(function, x, a, value):
    t = a["probabilities"]
    v = np.full(x.shape, 0.5)
    zeros = np.zeros(x.shape, np.int64)
    false = zeros.astype(bool)
    yield "", lambda: function(value, t)
    yield "integer targets", lambda: function(value, zeros)
    yield "boolean targets", lambda: function(value, false)
    yield "sample_weight", lambda: function(value, t, sample_weight=v)
    yield "reduction=sum", lambda: function(value, t, reduction="sum")
    yield "reduction=none", lambda: function(value, t, reduction="none")
    yield "out", lambda: function(value, t, out=a["loss"])
    yield "out of the entries", lambda: function(value, t, reduction="none", out=a["dense"])
    yield "n_threads=1", lambda: function(value, t, n_threads=1)


def _of_probabilities(function, x, a):
    yield from _binary(function, x, a, a["probabilities"])


def _of_logits(function, x, a):
    yield from _binary(function, x, a, x)
    t = a["probabilities"]
    q = np.full(x.shape, 2.0)
    yield "pos_weight", lambda: function(x, t, pos_weight=q)
    yield "one pos_weight", lambda: function(x, t, pos_weight=2.0)
    yield "temperature=2", lambda: function(x, t, temperature=2)
    yield "temperature an entry", lambda: function(x, t, temperature=q)


FUNCTIONS = {
    "softmax": _normalised,
    "log_softmax": _normalised,
    "logsumexp": _logsumexp,
    "softmax_loss": _softmax_loss,
    "softmax_loss_and_grad": _softmax_loss_and_grad,
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _of_probabilities,
    "binary_cross_entropy_with_logits": _of_logits,
    "selected_log_probs": _selected,
}
ALONG_AN_AXIS = [
    name for name in FUNCTIONS if not name.startswith("binary") and name != "selected_log_probs"
]


def _calls(sf, name, shape, dtype):
    """(what is given, call) for each way to call a function on an array of ``shape``."""
    x, function = harness.normal_logits(shape, dtype), getattr(sf, name)
    yield from FUNCTIONS[name](function, x, _options(shape, dtype, -1))
    if name in ALONG_AN_AXIS:

        def along(*arguments, **options):
            return function(*arguments, axis=0, **options)

        (_, call), *_ = FUNCTIONS[name](along, x, _options(shape, dtype, 0))
        yield "axis=0", call


def measure(functions=None, dtypes=DTYPES, rounds=5, seconds=0.003) -> list[dict]:
    """All calls, with one thread, in this process: their rounds take turns.

    Returns
    -------
    list of dict
        ``function``, ``given``, ``shape``, ``dtype`` and ``seconds``, the best time of a call; that
        of a Python function which calls nothing is not part of it.
    """
    import softmax_fast as sf

    sf.set_num_threads(1)
    calls = [
        ({"function": name, "given": given, "shape": list(shape), "dtype": dtype}, call)
        for name in functions or FUNCTIONS
        for dtype in dtypes
        for shape in SHAPES
        for given, call in _calls(sf, name, shape, dtype)
    ]
    overhead = harness.cost_of(lambda: None)
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, (_, call) in enumerate(calls):
            call()
            best[i] = min(best[i], *harness.take_turn(call, 100, seconds, overhead))
    sf.set_num_threads(None)
    return [{**about, "seconds": t} for (about, _), t in zip(calls, best, strict=True)]


def slowest(found: list[dict], function: str) -> float:
    """Seconds of a function's slowest call; NaN when none was measured."""
    return max((f["seconds"] for f in found if f["function"] == function), default=float("nan"))


def text(found: list[dict]) -> str:
    """Microseconds of every call."""
    columns = list(dict.fromkeys((f["dtype"], tuple(f["shape"])) for f in found))
    table = {}
    for f in found:
        row = table.setdefault((f["function"], f["given"]), {})
        row[f["dtype"], tuple(f["shape"])] = f"{f['seconds'] * 1e6:.2f}"
    titles = [f"{dtype} {'×'.join(map(str, shape))}" for dtype, shape in columns]
    rows = [[*key, *(row.get(c, "–") for c in columns)] for key, row in table.items()]
    over = sum(f["seconds"] > GOAL for f in found)
    return (
        text_table(["µs", "given", *titles], rows)
        + f"\n{len(found)} calls, {over} of them take more than {GOAL * 1e6:g} µs"
    )


def markdown(found: list[dict]) -> str:
    """Of each function the plain call, and the slowest."""
    rows = []
    for function in dict.fromkeys(f["function"] for f in found):
        calls = [f for f in found if f["function"] == function]
        plain = [f["seconds"] for f in calls if not f["given"]]
        slow = max(calls, key=lambda f: f["seconds"])
        shape = "×".join(map(str, slow["shape"]))
        rows.append(
            [
                function,
                str(len(calls)),
                f"{min(plain) * 1e6:.2f} to {max(plain) * 1e6:.2f}",
                f"{slow['seconds'] * 1e6:.2f}",
                f"{slow['given'] or 'nothing else'}, {slow['dtype']} {shape}",
            ]
        )
    machine = harness.machine()
    over = sum(f["seconds"] > GOAL for f in found)
    return (
        f"Best times of calls on ten numbers, µs, one thread: shapes 1×10 and 10, float32 and float64. "
        f"{over} of {len(found)} take more than {GOAL * 1e6:g} µs. {machine['cpu']}; "
        f"Python {machine['python']}.\n\n"
        + markdown_table(["function", "calls", "plain call", "slowest", "given there"], rows)
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, metavar="NAME")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--update-results", action="store_true", help="put a table into RESULTS.md")
    options = parser.parse_args(argv)
    found = measure(options.functions, options.dtype, options.rounds)
    print(text(found))
    if options.update_results:
        harness.replace_between(RESULTS, "small calls", markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
