"""What the library aims at, as ratios within one run, and whether it got there."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan

import growth
import short_rows
import small_calls
from harness import (
    AXIS_PAIRS,
    BINARY_SHAPES,
    DIVERGING,
    EVALUATED_SHAPES,
    FITTED_SHAPE,
    LINEAR_SHAPES,
    SHAPES,
    Case,
    Results,
    describe,
    format_ratio,
    markdown_table,
    text_table,
)
from workers import Contestant

OURS = "softmax_fast"
ONE_THREAD, ONE_THREAD_LIMIT = "softmax_fast, one thread", "exp limit, one thread"
LOSS_ALONE, COMMAND_LINE = "softmax_fast, loss alone", "softmax_fast, command line"
AVX2, GENERIC = "softmax_fast, avx2", "softmax_fast, generic"

LARGE = tuple(shape for shape in SHAPES if shape[0] * shape[1] >= 64000)
SHORT_ROWS = ((65536, 10), (65536, 3), (32768, 32), (16384, 64))
OUT_OF_CACHE = ((16384, 1000), (1024, 32000), (256, 128256))
STORES = ((16384, 1000), (65536, 1000), (4096, 4000), (1024, 32000), (256, 128256))
LOSSES_OUT_OF_CACHE = ((16384, 1000), (50000, 1000), (1024, 128256))
DENSE = ("softmax", "log_softmax")
REDUCED = ("logsumexp", "softmax_loss")


def variants(threads: int) -> list[Contestant]:
    """The contestants that only targets need."""
    return [
        Contestant("SoftmaxFast", 1, None, ONE_THREAD),
        Contestant("ArithmeticLimit", 1, None, ONE_THREAD_LIMIT),
        Contestant("SoftmaxFast", threads, "avx2", AVX2),
        Contestant("SoftmaxFast", threads, "generic", GENERIC),
        Contestant("NumPyExp", threads),
    ]


@dataclass(frozen=True)
class Target:
    """``measure(results, case)`` is to be at least (or at most) ``bound``."""

    what: str
    cases: tuple[Case, ...]
    measure: Callable[[Results, Case], float]
    bound: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


def _cases(operations, shapes, dtype="float32") -> tuple[Case, ...]:
    return tuple(Case(operation, shape, -1, dtype) for operation in operations for shape in shapes)


def _over_fastest(results, case):
    return results.best_peer(case)[0] / results.best(case, OURS)


def _over(peer, ours=OURS):
    return lambda results, case: results.best(case, peer) / results.best(case, ours)


def _of_limit(results, case):
    return results.limit(case) / results.best(case, OURS)


def _of_memory_limit(results, case):
    return results.best(case, "memory limit") / results.best(case, OURS)


def _of_last_axis(results, case):
    last = {(shape, axis): pair for (shape, axis), pair in AXIS_PAIRS}[case.shape, case.axis]
    twin = Case(case.operation, *last, case.dtype)
    return results.best(twin, OURS) / results.best(case, OURS)


def _in_float32(results, case):
    """Elements a second as a share of those in float32."""
    twin = Case(case.operation, case.shape, case.axis, "float32")
    return results.best(twin, OURS) / results.best(case, OURS)


def _fastest(text):
    return f"{text}: over the fastest peer"


TARGETS = (
    Target(
        _fastest("in and out of cache"),
        _cases(DENSE, ((64, 1000), (16384, 1000))),
        _over_fastest,
        1.7,
    ),
    Target(_fastest("rows of 100"), _cases(DENSE, ((16384, 100),)), _over_fastest, 2),
    Target(_fastest("short rows"), _cases(DENSE, SHORT_ROWS), _over_fastest, 2.5),
    Target("short rows: over PyTorch", _cases(("softmax",), ((65536, 10),)), _over("PyTorch"), 25),
    Target(
        _fastest("long rows"), _cases(DENSE, ((1024, 32000), (256, 128256))), _over_fastest, 1.4
    ),
    Target(
        "long rows: of the streaming-copy limit",
        _cases(DENSE, ((1024, 32000), (256, 128256))),
        _of_memory_limit,
        0.85,
    ),
    Target(_fastest("one long row"), _cases(DENSE, ((1, 128256),)), _over_fastest, 2.5),
    Target(_fastest("loss, from 64×1000"), _cases(REDUCED, LARGE), _over_fastest, 3),
    Target("loss, from 64×1000: over PyTorch", _cases(REDUCED, LARGE), _over("PyTorch"), 10),
    *(
        Target(
            f"{operation}: of the copy limit",
            _cases((operation,), STORES, dtype),
            _of_memory_limit,
            bound,
        )
        for operation, bound in (("softmax", 0.85), ("log_softmax", 0.75))
        for dtype in ("float32", "float64")
    ),
    *(
        Target(
            f"loss: of the read limit{', AVX2 forced' if ours == AVX2 else ''}",
            _cases(("softmax_loss",), LOSSES_OUT_OF_CACHE, dtype),
            _over("memory limit", ours),
            0.5,
        )
        for ours in (OURS, AVX2)
        for dtype in ("float32", "float64")
    ),
    Target("loss, out of cache: of the limit", _cases(REDUCED, OUT_OF_CACHE), _of_limit, 0.75),
    Target(
        "in cache, one thread: of the bare exp loop",
        _cases(("softmax", "softmax_loss"), ((64, 1000),)),
        _over(ONE_THREAD_LIMIT, ONE_THREAD),
        0.75,
    ),
    Target(
        "a call on 1×10, fresh output: time in np.exp's",
        _cases(("softmax_fresh",), ((1, 10),)),
        lambda results, case: 1 / _over("np.exp")(results, case),
        1.7,
        at_most=True,
    ),
    Target(
        "a call on 1×10, fresh output: time in PyTorch's",
        _cases(("softmax_fresh",), ((1, 10),)),
        lambda results, case: 1 / _over("PyTorch")(results, case),
        0.6,
        at_most=True,
    ),
    Target(
        "32×10: time in the fastest peer's",
        _cases(("softmax", "softmax_loss"), ((32, 10),)),
        lambda results, case: 1 / _over_fastest(results, case),
        0.5,
        at_most=True,
    ),
    Target(
        _fastest("float64"),
        _cases(("softmax", "log_softmax", "logsumexp", "softmax_loss"), SHAPES, "float64"),
        _over_fastest,
        1.7,
    ),
    Target("AVX2 forced: over PyTorch", _cases(DENSE + REDUCED, SHAPES), _over("PyTorch", AVX2), 1),
    Target(
        "AVX2 forced: over ONNX Runtime",
        _cases(DENSE + REDUCED, SHAPES),
        _over("ONNX Runtime", AVX2),
        0.95,
    ),
    Target(
        "generic forced: over NumPy", _cases(DENSE + REDUCED, SHAPES), _over("NumPy", GENERIC), 1
    ),
    Target(
        "another axis: speed along the last",
        tuple(Case("softmax", *other) for other, _ in AXIS_PAIRS),
        _of_last_axis,
        0.5,
    ),
    Target(
        _fastest("loss and gradient, `grad_out`"),
        _cases(("softmax_loss_and_grad",), OUT_OF_CACHE),
        _over_fastest,
        5,
    ),
    Target(
        _fastest("loss and gradient, fresh"),
        _cases(("softmax_loss_and_grad_fresh",), OUT_OF_CACHE),
        _over_fastest,
        2,
    ),
    Target(
        "binary: over PyTorch",
        _cases(("binary_cross_entropy_with_logits",), BINARY_SHAPES[1:]),
        _over("PyTorch"),
        3,
    ),
    Target(
        "linear layer: of the bare product",
        _cases(("linear_softmax_loss",), LINEAR_SHAPES),
        _of_memory_limit,
        0.9,
    ),
    Target(
        "evaluation: time in softmax_loss's",
        _cases(("evaluate",), EVALUATED_SHAPES[:2]),
        lambda results, case: 1 / _over(LOSS_ALONE)(results, case),
        1.3,
        at_most=True,
    ),
    Target(
        "evaluation of short rows: time in softmax_loss's",
        _cases(("evaluate",), EVALUATED_SHAPES[2:]),
        lambda results, case: 1 / _over(LOSS_ALONE)(results, case),
        2,
        at_most=True,
    ),
    Target(
        "evaluation in float16: elements a second over float32's",
        _cases(("evaluate",), EVALUATED_SHAPES, "float16"),
        _in_float32,
        1,
    ),
    Target(
        "evaluation of files in the page cache: speed in memory",
        _cases(("evaluate",), EVALUATED_SHAPES),
        lambda results, case: 1 / _over(COMMAND_LINE)(results, case),
        0.6,
    ),
    Target(
        "evaluation: over PyTorch, torchmetrics",
        _cases(("evaluate",), EVALUATED_SHAPES),
        _over("PyTorch, torchmetrics"),
        20,
    ),
    Target(
        "evaluation: over scikit-learn",
        _cases(("evaluate",), (EVALUATED_SHAPES[0], EVALUATED_SHAPES[2])),
        _over("scikit-learn"),
        20,
    ),
    Target(
        "temperature: over scikit-learn",
        _cases(("fit_temperature",), (FITTED_SHAPE,)),
        _over("scikit-learn"),
        50,
    ),
    Target(
        "temperature: over LBFGS in PyTorch",
        _cases(("fit_temperature",), (FITTED_SHAPE,)),
        _over("PyTorch, torchmetrics"),
        100,
    ),
    Target(
        "divergence: over PyTorch",
        _cases(DIVERGING, ((16384, 1000), (256, 128256))),
        _over("PyTorch"),
        5,
    ),
    Target(
        "divergence: of the limit of reading both arrays",
        _cases(("kl_divergence",), ((256, 128256),)),
        _of_memory_limit,
        0.5,
    ),
)


def cases(operations=None) -> list[Case]:
    """All cases the targets need, or those of some operations."""
    needed = [case for target in TARGETS for case in target.cases]
    needed += [Case("softmax", *last) for _, last in AXIS_PAIRS]
    return [
        case for case in dict.fromkeys(needed) if operations is None or case.operation in operations
    ]


@dataclass(frozen=True)
class Verdict:
    """Whether one target was met in one place."""

    what: str
    where: str
    bound: float
    at_most: bool
    value: float  # NaN where it was not measured
    met: bool

    @property
    def aim(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    @property
    def word(self) -> str:
        return "–" if isnan(self.value) else "pass" if self.met else "MISS"


def verdicts(results: Results) -> list[Verdict]:
    """Of every target in every case."""
    found = []
    for target in TARGETS:
        for case in target.cases:
            value = target.measure(results, case)
            where = f"{case.operation} {case.layout}"
            where += "" if case.dtype == "float32" else f" {case.dtype}"
            met = target.met(value)
            found.append(Verdict(target.what, where, target.bound, target.at_most, value, met))

    def at_most(what, where, bound, value):
        found.append(Verdict(what, where, bound, True, value, value <= bound))

    for operation in ("softmax", "softmax_loss"):
        value = growth.flatness(results.growth, operation)
        at_most("time per element, 10⁶ to 10⁹: slowest over fastest", operation, 1.5, value)
    value = growth.least_gain(results.growth)
    what = "all threads over one, at any size: least gain"
    # A loss of 5 % is within what the clock can tell apart on a shared machine.
    found.append(Verdict(what, "any", 1, False, value, value >= 0.95))
    for what, where, aim, value in short_rows.worst(results.short_rows):
        at_most(what, where, aim, value)
    for function in small_calls.FUNCTIONS:
        value = small_calls.slowest(results.small_calls, function) * 1e6
        what = "ten numbers, whatever is given: slowest call in µs"
        at_most(what, function, small_calls.GOAL * 1e6, value)
    return found


def _counts(found: list[Verdict]) -> str:
    counts = {word: sum(v.word == word for v in found) for word in ("pass", "MISS", "–")}
    return f"{counts['pass']} passed, {counts['MISS']} missed, {counts['–']} not measured"


def text(results: Results) -> str:
    """A table of every target: passed, missed, or not measured."""
    found = verdicts(results)
    rows = [[v.what, v.where, v.aim, format_ratio(v.value), v.word] for v in found]
    return text_table(["target", "case", "aim", "measured", ""], rows) + "\n" + _counts(found)


def markdown(results: Results) -> str:
    """Of every target: in how many cases it holds on this machine, and the one farthest from it."""
    found = verdicts(results)
    groups: dict[tuple, list[Verdict]] = {}
    for verdict in found:
        if verdict.word != "–":
            groups.setdefault((verdict.what, verdict.aim), []).append(verdict)
    rows = []
    for (what, aim), group in groups.items():
        of_values = max if group[0].at_most else min
        worst = of_values(group, key=lambda verdict: verdict.value)
        holds = f"{sum(verdict.met for verdict in group)} of {len(group)}"
        rows.append([what, aim, holds, format_ratio(worst.value), worst.where])
    return f"{_counts(found)}. {describe(results)}\n\n" + markdown_table(
        ["target", "aim", "holds in", "farthest from it", "there"], rows
    )
