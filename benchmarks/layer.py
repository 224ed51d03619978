"""Measure the fully connected layer's loss and gradients beside the bare product and PyTorch's ways,
and its evaluation and calibration beside those of its logits.

    python benchmarks/layer.py --json layer.json
    python benchmarks/layer.py --cases 5 6 --json layer.json
    python benchmarks/layer.py --from-json layer.json --update-results

The contestants take turns as in ``compare.py``, each in a process of its own, and results are checked
before they are timed. ``--json`` adds to what the file holds. See README.md in this folder.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import harness
import numpy as np
import workers
from harness import Case, format_ratio, markdown_table, text_table
from peers import Peer, PyTorch, SoftmaxFast
from pipeline import RESULTS, Pipeline
from workers import Contestant, end_in_good_order, say

LOSS, GRADIENTS = "linear_softmax_loss", "linear_softmax_loss_and_grad"
LARGE, NARROW, TRAINED = (2048, 512, 128256), (2048, 128, 32000), (2048, 512, 32000)
FEW = tuple((n, 512, 128256) for n in (64, 8, 1))
CASES = (
    Case(LOSS, LARGE),
    Case(LOSS, NARROW),
    *(Case(LOSS, shape) for shape in FEW),
    Case(LOSS, FEW[-1], dtype="bfloat16"),
    Case(LOSS, TRAINED),
    Case(GRADIENTS, TRAINED),
)
EVALUATION, FIT = "evaluate_linear", "fit_temperature_linear"
EVALUATED = (TRAINED, (16384, 512, 1000))
EVALUATED_CASES = tuple(Case(kind, shape) for shape in EVALUATED for kind in (EVALUATION, FIT))
ALL_CASES = (*CASES, *EVALUATED_CASES)
LOOP, LOOPS = Case(LOSS, FEW[0]), ("alone", "product300", "product2000")
PRODUCT_BYTES = 16 << 20


class Layer(SoftmaxFast):
    def linear_softmax_loss_and_grad(self, a):
        def call():
            loss, grads = self.sf.linear_softmax_loss_and_grad(a.features, a.weights, a.targets)
            return loss, grads.features, grads.weights

        return call


class LayerByBLAS(Layer):
    """The way that stays where the fused kernels do not do the work."""

    name = "by NumPy's BLAS"

    def __init__(self, threads):
        super().__init__(threads)
        self.sf.linear._Evaluation._is_fused = lambda self: False


class Product(Peer):
    """NumPy's product in tiles of the size that the way by BLAS has, and no more."""

    name = "bare product"

    def linear_softmax_loss(self, a):
        n, c = len(a.features), len(a.weights)
        if a.weights.dtype != a.features.dtype:
            return None
        rows = min(n, 1024)
        classes = max(1, PRODUCT_BYTES // a.weights.itemsize // rows)
        out = np.empty(rows * min(c, classes), a.weights.dtype)

        def call():
            for row in range(0, n, rows):
                features = a.features[row : row + rows]
                for first in range(0, c, classes):
                    weights = a.weights[first : first + classes]
                    tile = out[: len(features) * len(weights)].reshape(len(features), -1)
                    np.matmul(features, weights.T, out=tile)

        return call

    def wrong(self, case, arrays, logs, returned):
        return None


class PlainPyTorch(PyTorch):
    def _loss(self, features, weights, targets):
        return self.functional.cross_entropy(self.functional.linear(features, weights), targets)

    def _tensors(self, a):
        if a.weights.dtype != a.features.dtype:
            return None
        return tuple(map(self.torch.from_numpy, (a.features, a.weights, a.targets)))

    def linear_softmax_loss(self, a):
        tensors = self._tensors(a)
        return tensors and (lambda: self._loss(*tensors))

    def linear_softmax_loss_and_grad(self, a):
        features, weights, y = self._tensors(a)
        leaves = features.requires_grad_(), weights.requires_grad_()

        def call():
            with self.torch.enable_grad():
                loss = self._loss(*leaves, y)
                return loss.detach(), *self.torch.autograd.grad(loss, leaves)

        return call


class LinearCrossEntropy(PlainPyTorch):
    name = "PyTorch, linear_cross_entropy"

    def _loss(self, features, weights, targets):
        return self.functional.linear_cross_entropy(features, weights, targets)


class StoredLogits(SoftmaxFast):
    name, only = "logits that are there", (EVALUATION, FIT)

    def evaluate_linear(self, a):
        return self.evaluate(a)

    def fit_temperature_linear(self, a):
        return self.fit_temperature(a)


class ProductFirst(StoredLogits):
    """The logits of all rows by NumPy, into memory that is there."""

    name = "NumPy's product, then the logits"

    def _after_product(self, a, method):
        then = method(SimpleNamespace(**vars(a) | {"x": a.out}))

        def call():
            np.matmul(a.features, a.weights.T, out=a.out)
            return then()

        return call

    def evaluate_linear(self, a):
        return self._after_product(a, self.evaluate)

    def fit_temperature_linear(self, a):
        return self._after_product(a, self.fit_temperature)


ADAPTERS = (Layer, LayerByBLAS, Product, PlainPyTorch, LinearCrossEntropy)
EVALUATING = (SoftmaxFast, ProductFirst, StoredLogits)
workers.ADAPTERS.update({adapter.__name__: adapter for adapter in (*ADAPTERS, *EVALUATING)})
OURS, BLAS, BARE, TORCH = (adapter.name for adapter in ADAPTERS[:4])

# How many times as fast as another this library is to be on a case.
AIMS = (
    (CASES[0], BARE, 1.0),
    (CASES[0], BLAS, 1.4),
    (CASES[0], TORCH, 2),
    (CASES[1], BARE, 1.2),
    *((case, BLAS, 1.4) for case in CASES[2:5]),
    (CASES[7], BLAS, 1.3),
    (CASES[7], TORCH, 1.1),
)
BFLOAT16_AIM, LOOP_AIM = 1.5, 1.25
KINDS = {
    LOSS: "loss",
    GRADIENTS: "loss and gradients",
    EVALUATION: "evaluation",
    FIT: "temperature",
}


def _key(entry: dict) -> tuple:
    return tuple(tuple(v) if isinstance(v, list) else v for v in (entry[k] for k in KEYS))


KEYS = ("operation", "shape", "dtype")


def _entries(contest, cases, options):
    """Best times of the cases."""
    for case in cases:
        logs = harness.reference(case, harness.make_arrays(case))
        rounds = options.rounds or (2 if case.elements > 1 << 25 else 9)
        row = contest.run(case, logs, rounds, 0.05)
        times = {name: m.best for name, m in row.items() if m.status == "ok"}
        say(f"{case}: " + ", ".join(f"{k} {v * 1e3:.1f} ms" for k, v in times.items()))
        kind = {"operation": case.operation, "shape": case.shape, "dtype": case.dtype}
        yield kind | {"rounds": rounds, "times": times}


def measure(options) -> dict:
    """Best times of the cases; of `LOOP` the mean, alone and right after a product."""
    found = {"machine": harness.machine(), "threads": options.threads, "cases": [], "loops": {}}
    found["versions"] = {}
    for adapters, group in (ADAPTERS, CASES), (EVALUATING, EVALUATED_CASES):
        cases = [case for case in group if ALL_CASES.index(case) in options.cases]
        if not cases:
            continue
        contestants = [Contestant(adapter.__name__, options.threads) for adapter in adapters]
        with workers.Contest(contestants, say) as contest:
            for versions in contest.versions.values():
                found["versions"] |= versions
            found["cases"] += _entries(contest, cases, options)
    if options.loop:
        contestants = [Contestant(adapter.__name__, options.threads) for adapter in ADAPTERS[:2]]
        logs = harness.reference(LOOP, harness.make_arrays(LOOP))
        with Pipeline(contestants, say) as pipeline:
            for name in LOOPS:
                row = pipeline.run_loops(name, LOOP, logs, 5.0)
                found["loops"][name] = {k: v["mean"] for k, v in row.items()}
    return found


def merged(old: dict, new: dict) -> dict:
    cases = {_key(entry): entry for entry in (*old["cases"], *new["cases"])}
    loops, versions = (old[name] | new[name] for name in ("loops", "versions"))
    return {**new, "cases": list(cases.values()), "loops": loops, "versions": versions}


def _times(found: dict) -> dict[Case, dict[str, float]]:
    times = {_key(entry): entry["times"] for entry in found["cases"]}
    cases = {case: times.get((case.operation, case.shape, case.dtype)) for case in ALL_CASES}
    return {case: row for case, row in cases.items() if row}


def _what(case: Case) -> str:
    return f"{KINDS[case.operation]}, {case.layout}" + (
        ", bfloat16 weights" if case.dtype == "bfloat16" else ""
    )


def _in_ms(found, adapters, cases, render) -> str:
    names = [adapter.name for adapter in adapters]
    rows = [
        [_what(case), *(f"{row[n] * 1e3:.1f}" if n in row else "–" for n in names)]
        for case, row in _times(found).items()
        if case in cases
    ]
    return render(["ms", *names], rows)


def tables(found: dict, render) -> dict[str, str]:
    """By the name of its place in RESULTS.md, what was measured for it."""
    times = _times(found)
    parts = {}
    if found["loops"] or any(case in times for case in CASES):
        ours = _in_ms(found, ADAPTERS, CASES, render)
        parts["layer"] = f"{ours}\n\n{_verdicts(found, times, render)}"
    if any(case in times for case in EVALUATED_CASES):
        parts["evaluated layer"] = _in_ms(found, EVALUATING, EVALUATED_CASES, render)
    return parts


def _verdicts(found, times, render) -> str:
    aims = [
        (f"{_what(case)}: over {other}", times[case][other] / times[case][OURS], aim, False)
        for case, other, aim in AIMS
        if case in times
    ]
    whole, half = (times.get(case, {}).get(OURS, float("nan")) for case in CASES[4:6])
    aims.append((f"{_what(CASES[5])}: over float32", whole / half, BFLOAT16_AIM, False))
    loops = found["loops"]
    for name in LOOPS[1:]:
        if name in loops:
            title = workers.situations.SITUATIONS[name].title
            ratio = loops[name][OURS] / loops["alone"][OURS]
            aims.append((f"{_what(LOOP)}, {title}: mean time over alone", ratio, LOOP_AIM, True))
    verdicts = [
        [what, f"{'≤' if at_most else '≥'} {aim:g}", format_ratio(ratio), "hit" if hit else "miss"]
        for what, ratio, aim, at_most in aims
        for hit in [ratio <= aim if at_most else ratio >= aim]
    ]
    return render(["how many times as fast", "aim", "measured", ""], verdicts)


def describe(found: dict) -> str:
    m = found["machine"]
    packages = ", ".join(f"{package} {v}" for package, v in found["versions"].items())
    return (
        f"Best times, {found['threads']} threads each, contestants in turns; {m['cpu']}, "
        f"{m['cpus']} CPUs; {m['system']}; Python {m['python']}. {packages}."
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    numbers = range(len(ALL_CASES))
    add("--cases", nargs="*", type=int, choices=numbers, default=numbers, metavar="K",
        help="; ".join(f"{k}: {_what(case)}" for k, case in enumerate(ALL_CASES)))  # fmt: skip
    add("--no-loop", dest="loop", action="store_false", help="leave out the loops with products")
    add("--threads", type=int, default=harness.usable_cpus(), help="for each contestant")
    add("--rounds", type=int, help="turns each contestant has at a case")
    add("--json", type=Path, metavar="FILE", help="add every measurement to a file")
    add("--from-json", type=Path, metavar="FILE", help="report on earlier runs, measure nothing")
    add("--update-results", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args(argv)
    end_in_good_order()
    if options.from_json:
        found = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        found = measure(options)
        if options.json:
            if options.json.exists():
                found = merged(json.loads(options.json.read_text(encoding="utf-8")), found)
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.update_results:
        for place, text in tables(found, markdown_table).items():
            harness.replace_between(RESULTS, place, f"{describe(found)}\n\n{text}")
    print("\n\n".join([describe(found), *tables(found, text_table).values()]))


if __name__ == "__main__":
    main()
