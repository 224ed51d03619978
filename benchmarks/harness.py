"""What the benchmarks share: cases, inputs, the float64 oracle, the clock, results, the machine."""

import gc
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from math import isnan
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import numpy as np

# --- operations and cases ---------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """What an operation gives back, and the memory traffic that bounds it."""

    title: str
    gives: str  # "rows of classes", "rows", "loss", "loss and rows of classes" or what it is called
    traffic: str  # "copy", "read", "product", "read_both" or "read_both_and_write"


OPERATIONS = {
    "softmax": Operation("softmax, `out` given", "rows of classes", "copy"),
    "softmax_fresh": Operation("softmax, fresh output", "rows of classes", "copy"),
    "log_softmax": Operation("log_softmax, `out` given", "rows of classes", "copy"),
    "logsumexp": Operation("logsumexp", "rows", "read"),
    "softmax_loss": Operation("softmax loss, mean", "loss", "read"),
    "softmax_loss_and_grad": Operation(
        "softmax loss and gradient, `grad_out` given", "loss and rows of classes", "copy"
    ),
    "softmax_loss_and_grad_fresh": Operation(
        "softmax loss and gradient, fresh gradient", "loss and rows of classes", "copy"
    ),
    "binary_cross_entropy_with_logits": Operation(
        "binary cross-entropy with logits, mean", "loss", "read"
    ),
    "linear_softmax_loss": Operation(
        "softmax loss of a linear layer (N×D×C), mean", "loss", "product"
    ),
    "linear_softmax_loss_and_grad": Operation(
        "softmax loss of a linear layer (N×D×C) and its gradients", "loss and gradients", "product"
    ),
    "evaluate": Operation(
        "evaluation: loss, accuracy, top 5, calibration error", "evaluation", "read"
    ),
    "fit_temperature": Operation("the temperature that calibrates", "temperature", "read"),
    "evaluate_linear": Operation(
        "evaluation of a linear layer (N×D×C) from its features", "evaluation", "product"
    ),
    "fit_temperature_linear": Operation(
        "the temperature that calibrates a linear layer (N×D×C)", "temperature", "product"
    ),
    "kl_divergence": Operation(
        "KL divergence of two arrays of logits, mean", "divergence", "read_both"
    ),
    "kl_divergence_and_grad": Operation(
        "KL divergence and gradient, `grad_out` given",
        "divergence and rows of classes",
        "read_both_and_write",
    ),
    "compare": Operation(
        "comparison of two arrays of logits, with labels", "comparison", "read_both"
    ),
}

SHAPES = (
    (1, 10),
    (1, 1000),
    (32, 10),
    (64, 1000),
    (65536, 10),
    (16384, 100),
    (16384, 1000),
    (1024, 32000),
    (256, 128256),
    (1, 128256),
)
BINARY_SHAPES = ((1000,), (1_000_000,), (16_384_000,))
LINEAR_SHAPES = ((2048, 512, 1000), (1024, 512, 32000))
EVALUATED_SHAPES = ((50000, 1000), (1024, 128256), (2_000_000, 10))
FITTED_SHAPE = (50000, 1000)
# The logits of a fit are those of labels drawn at this temperature.
DRAWN_AT = 1.5
N_BINS = 15
EVALUATING = ("evaluate", "fit_temperature")
LAYERS = ("linear", "layer")  # families of cases
DIVERGING = ("kl_divergence", "kl_divergence_and_grad")
DIVERGING_SHAPES = ((64, 1000), (65536, 10), (16384, 1000), (256, 128256))
COMPARED_SHAPES = ((2_000_000, 10), (16384, 1000), (256, 128256))
# Not along the last axis, each beside the same rows laid out along it.
AXIS_PAIRS = (
    (((1000, 16384), 0), ((16384, 1000), -1)),
    (((32, 21, 64, 64), 1), ((32, 64, 64, 21), -1)),
)


@dataclass(frozen=True)
class Case:
    """One operation on one array. The shape of a linear case is (N, D, C), of a binary one (N,)."""

    operation: str
    shape: tuple[int, ...]
    axis: int = -1
    dtype: str = "float32"

    @property
    def layout(self) -> str:
        text = "×".join(map(str, self.shape))
        return text if self.axis == -1 else f"{text}, axis {self.axis}"

    @property
    def elements(self) -> int:
        """Number of logits."""
        if self.inputs[0] in LAYERS:
            return self.shape[0] * self.shape[2]
        return int(np.prod(self.shape))

    @property
    def inputs(self) -> tuple:
        """Cases with equal ``inputs`` work on the same arrays."""
        first = "kl" if self.operation == "compare" else self.operation.partition("_")[0]
        family = first if first in ("binary", "linear", "fit", "kl") else "logits"
        if self.operation.endswith("_linear"):
            family = "layer"
        return family, self.shape, self.axis, self.dtype

    def __str__(self) -> str:
        return f"{self.operation} {self.layout} {self.dtype}"


def parse_shape(text: str) -> tuple[tuple[int, ...], int]:
    """``"64x1000"`` or, for another axis than the last, ``"1000x16384@0"``."""
    shape, _, axis = text.partition("@")
    return tuple(int(part) for part in shape.replace("×", "x").split("x")), int(axis or -1)


# --- inputs and the oracle --------------------------------------------------------------------


def normal_logits(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Logits drawn from N(0, 3²); beyond a million they repeat, with a prime period."""
    size = int(np.prod(shape))
    drawn = "float32" if dtype == "float16" else dtype
    block = 3 * np.random.default_rng(20).standard_normal(min(size, 1_000_003), dtype=drawn)
    x = np.empty(size, dtype)
    for begin in range(0, size, block.size):
        part = x[begin : begin + block.size]
        part[:] = block[: part.size]
    return x.reshape(shape)


def _computed_in(case: Case) -> str:
    return "float32" if case.dtype == "bfloat16" else case.dtype


def make_arrays(case: Case) -> SimpleNamespace:
    """The arrays of a case, the same in every process.

    Returns
    -------
    SimpleNamespace
        ``x`` the logits and ``out`` of their shape; ``targets`` int64 of the shape of the rows, or
        for the binary case float 0 or 1, for a divergence the base's logits; ``labels`` of a
        divergence and ``axis``. A linear case
        has ``features`` (N, D) and ``weights`` (C, D) in place of ``x``, and ``out`` (N, C); of
        bfloat16 are the weights alone. A layer that is evaluated has its logits ``x`` beside them.
    """
    family = case.inputs[0]
    rng = np.random.default_rng(21)
    if family in LAYERS:
        n, d, c = case.shape
        dtype = _computed_in(case)
        weights = normal_logits((c, d), dtype) / d**0.5
        if case.dtype != dtype:
            import ml_dtypes

            weights = weights.astype(ml_dtypes.bfloat16)
        arrays = SimpleNamespace(
            features=normal_logits((n, d), dtype) / 3,
            weights=weights,
            targets=rng.integers(0, c, n),
            out=np.empty((n, c), dtype),
            axis=-1,
        )
        if family == "layer":
            arrays.features = rng.standard_normal((n, d), dtype)
            arrays.x = arrays.features @ weights.T
            arrays.targets = _drawn(arrays.x, rng)
        return arrays
    x = normal_logits(case.shape, case.dtype)
    if family == "binary":
        targets = rng.integers(0, 2, x.shape).astype(case.dtype)
    elif family == "kl":
        targets = np.roll(x.reshape(-1), 4321).reshape(x.shape)
        targets *= x.dtype.type(0.25)
        targets += x
    elif family == "fit":
        targets = _drawn(x, rng)
    else:
        rows = np.delete(case.shape, case.axis)
        targets = rng.integers(0, case.shape[case.axis], rows)
    arrays = SimpleNamespace(x=x, targets=targets, out=np.empty_like(x), axis=case.axis)
    if family == "kl":
        arrays.labels = rng.integers(0, case.shape[1], case.shape[0])
    return arrays


def _drawn(x: np.ndarray, rng) -> np.ndarray:
    """Labels drawn from the softmax of x at the temperature `DRAWN_AT`."""
    noise = rng.gumbel(size=1_000_003).astype(np.float32)
    targets = np.empty(len(x), np.int64)
    for i in range(0, len(x), 1000):
        part = x[i : i + 1000] / np.float32(DRAWN_AT)
        # Added to logits, Gumbel noise makes the maximum a draw from their softmax.
        targets[i : i + 1000] = (part + np.resize(np.roll(noise, -i), part.shape)).argmax(1)
    return targets


def reference(case: Case, arrays: SimpleNamespace) -> np.ndarray:
    """In float64: the log-sum-exp of every row; the mean loss of a binary case, the T of a fit.

    For a divergence the log-sum-exps of x and of the base, and the divergence, of every row.

    Worked through in pieces, so that no float64 copy of a large input is made.
    """
    if case.inputs[0] == "binary":
        x = arrays.x.astype(np.float64)
        return np.mean(np.maximum(x, 0) - x * arrays.targets + np.log1p(np.exp(-np.abs(x))))
    if OPERATIONS[case.operation].gives == "temperature":
        return np.float64(_fitted(arrays))
    if case.inputs[0] == "kl":
        return _diverged(arrays)
    if case.inputs[0] == "linear":
        weights = arrays.weights.astype(np.float64).T
        rows = (part.astype(np.float64) @ weights for part in np.array_split(arrays.features, 16))
    else:
        x = np.moveaxis(arrays.x, arrays.axis, -1)
        if x.ndim == 2:
            pieces = max(1, min(len(x), x.size >> 20))
            rows = (part.astype(np.float64) for part in np.array_split(x, pieces))
        else:
            rows = (part.astype(np.float64) for part in x)
    logs = []
    for z in rows:
        m = z.max(-1)
        logs.append(m + np.log(np.exp(z - m[..., None]).sum(-1)))
    shape = arrays.targets.shape
    return np.concatenate(logs).reshape(shape)


def _log_sum(z: np.ndarray) -> np.ndarray:
    m = z.max(-1, keepdims=True)
    return m + np.log(np.exp(z - m).sum(-1, keepdims=True))


def _diverged(arrays: SimpleNamespace) -> np.ndarray:
    """Rows of three: the log-sum-exps of both arrays, and the divergence."""
    found = np.empty((3, len(arrays.x)))
    step = max(1, (1 << 20) // arrays.x.shape[1])
    for i in range(0, len(arrays.x), step):
        part = slice(i, i + step)
        x, base = (v[part].astype(np.float64) for v in (arrays.x, arrays.targets))
        log_x, log_base = _log_sum(x), _log_sum(base)
        t = (x - log_x) - (base - log_base)
        terms = np.exp(base - log_base) * (np.expm1(t) - t)
        found[:, part] = log_x[:, 0], log_base[:, 0], terms.sum(-1)
    return found


def _fitted(arrays: SimpleNamespace) -> float:
    """The temperature of the smallest mean loss, by Newton's method in 1/T."""
    beta = 1 / DRAWN_AT
    while True:
        slope = curvature = 0.0
        for i in range(0, len(arrays.x), 1000):
            x, y = arrays.x[i : i + 1000].astype(np.float64), arrays.targets[i : i + 1000]
            p = np.exp(beta * (x - x.max(1, keepdims=True)))
            p /= p.sum(1, keepdims=True)
            mean = np.einsum("nc,nc->n", p, x)
            slope += np.sum(mean - x[np.arange(len(y)), y])
            curvature += np.sum(np.einsum("nc,nc->n", p, x * x) - mean**2)
        step = slope / curvature
        beta -= step
        if abs(step) < 1e-6 * beta:
            return 1 / beta


def _evaluated(arrays: SimpleNamespace, logs: np.ndarray) -> dict[str, float]:
    """What an evaluation gives, in float64 from the log-sum-exp of every row."""
    x, y = arrays.x, arrays.targets
    rows = np.arange(len(y))
    chosen, top, confidence = x[rows, y], np.empty(len(y), int), np.empty(len(y))
    for i in range(0, len(y), 1000):
        part = x[i : i + 1000]
        at = part.argmax(1)
        top[i : i + 1000] = (part > chosen[i : i + 1000, None]).sum(1)
        confidence[i : i + 1000] = part[np.arange(len(part)), at]
    confidence = np.exp(confidence - logs)
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    gaps = np.bincount(bins, (top == 0) - confidence, N_BINS)
    return {
        "loss": float(np.mean(logs - chosen.astype(np.float64))),
        "accuracy": float(np.mean(top == 0)),
        "top5": float(np.mean(top < 5)),
        "ece": float(np.abs(gaps).sum() / len(y)),
    }


def _wrong_evaluation(arrays: SimpleNamespace, logs: np.ndarray, result: dict) -> str | None:
    """A loss to 1e-5, shares to 1e-3: of equal logits not everybody takes the first."""
    for name, want in _evaluated(arrays, logs).items():
        if name in result:
            error = abs(float(result[name]) - want)
            if not error <= (1e-5 * abs(want) if name == "loss" else 1e-3):
                return f"{name} is {float(result[name])}, expected {want}"
    return None


def _wrong_gradients(arrays, logs, gradients, eps, compare) -> str | None:
    """Of a linear layer: those of the first rows' features, and of the weights of their labels."""
    features, weights = (a.astype(np.float64) for a in (arrays.features, arrays.weights))
    rows, classes = np.arange(min(4, len(features))), arrays.targets[:4]
    for what, got, chosen, z, other, one_hot in (
        ("features", gradients[0], rows, features[rows] @ weights.T - logs[rows, None], weights,
         arrays.targets[rows, None] == np.arange(len(weights))),
        ("weights", gradients[1], classes, weights[classes] @ features.T - logs, features,
         classes[:, None] == arrays.targets),
    ):  # fmt: skip
        g = (np.exp(z) - one_hot) / len(features)
        room = 256 * eps * (np.abs(g) @ np.abs(other))
        error = compare(f"gradient of the {what}", np.asarray(got)[chosen], g @ other, room)
        if error:
            return error
    return None


def _sampled_rows(n: int, elements: int) -> np.ndarray:
    """Every row, or of a large array the first and the last four."""
    if elements <= 1 << 20 or n <= 8:
        return np.arange(n)
    return np.r_[0:4, n - 4 : n]


def wrong(case: Case, arrays: SimpleNamespace, logs: np.ndarray, result) -> str | None:
    """Compare a result with the oracle; say what is wrong, or None.

    The tolerance, 256 ε (of a loss's or log's magnitude, if above 1; 512 ε of a probability),
    catches wrong answers. How exact they are, ``accuracy.py`` measures.

    Parameters
    ----------
    logs : ndarray
        What `reference` gave.
    result : array-like or tuple of array-like
        What the operation gave.
    """
    operation, eps = OPERATIONS[case.operation], float(np.finfo(_computed_in(case)).eps)

    def compare(what, got, want, tolerance):
        got = np.asarray(got, np.float64)
        if got.shape != np.shape(want):
            return f"{what}: shape {got.shape}, expected {np.shape(want)}"
        error = np.abs(got - want)
        if not np.all(error <= tolerance):  # a NaN fails too
            return f"{what}: off by {np.max(error / tolerance):.3g} times the tolerance"
        return None

    if operation.gives == "evaluation":
        return _wrong_evaluation(arrays, logs, result)
    if operation.gives == "temperature":
        return compare("temperature", result, logs, 1e-3 * logs)
    if operation.gives == "comparison":
        at = np.arange(len(arrays.x)), arrays.labels
        q, p = (np.exp(v[at] - log) for v, log in ((arrays.x, logs[0]), (arrays.targets, logs[1])))
        same_top = np.mean(arrays.x.argmax(-1) == arrays.targets.argmax(-1))
        wanted = {"kl": logs[2].mean(), "dp": np.mean(q - p), "same_top": same_top}
        rooms = {"kl": 256 * eps, "dp": 256 * eps, "same_top": 1e-3}  # of equals not all the first
        errors = (compare(n, result[n], wanted[n], rooms[n] * max(1, wanted[n])) for n in wanted)
        return next(filter(None, errors), None)
    if operation.gives.startswith("divergence"):
        value, grad = result if operation.gives.endswith("classes") else (result, None)
        want = logs[2].mean()
        error = compare("divergence", value, want, 256 * eps * max(1, want))
        if error or grad is None:
            return error
        if np.shape(grad) != case.shape:
            return f"shape {np.shape(grad)}, expected {case.shape}"
        chosen, scale = _sampled_rows(len(arrays.x), case.elements), 1 / len(arrays.x)
        q, p = (
            np.exp(v[chosen].astype(np.float64) - log[chosen, None])
            for v, log in ((arrays.x, logs[0]), (arrays.targets, logs[1]))
        )
        got = np.asarray(grad)[chosen]
        return compare("gradient", got, (q - p) * scale, 512 * eps * scale * (q + p))
    if operation.gives == "rows":
        return compare("logsumexp", result, logs, 256 * eps * np.maximum(1, np.abs(logs)))
    loss, dense = None, None
    if operation.gives == "loss and gradients":
        loss, *gradients = result
        error = _wrong_gradients(arrays, logs, gradients, eps, compare)
        if error:
            return error
    elif operation.gives == "loss":
        loss = result
    elif operation.gives == "rows of classes":
        dense = result
    else:
        loss, dense = result
    if loss is not None:
        if case.inputs[0] == "binary":
            want = logs
        elif case.inputs[0] == "linear":
            chosen = arrays.weights[arrays.targets].astype(np.float64)
            want = np.mean(logs - np.einsum("nd,nd->n", chosen, arrays.features, dtype=np.float64))
        else:
            labels = np.expand_dims(arrays.targets, arrays.axis)
            chosen = np.take_along_axis(arrays.x, labels, arrays.axis).squeeze(arrays.axis)
            want = np.mean(logs - chosen.astype(np.float64))
        error = compare("loss", loss, want, 256 * eps * max(1, abs(want)))
        if error or dense is None:
            return error
    classes = case.shape[case.axis]

    def rows_of(array):
        return np.moveaxis(np.asarray(array), arrays.axis, -1).reshape(-1, classes)

    if np.shape(dense) != case.shape:
        return f"shape {np.shape(dense)}, expected {case.shape}"
    chosen = _sampled_rows(logs.size, case.elements)
    log_p = rows_of(arrays.x)[chosen].astype(np.float64) - logs.reshape(-1, 1)[chosen]
    got = rows_of(dense)[chosen]
    if case.operation == "log_softmax":
        return compare("log_softmax", got, log_p, 256 * eps * np.maximum(1, np.abs(log_p)))
    p = np.exp(log_p)
    if operation.gives == "rows of classes":
        return compare("softmax", got, p, 512 * eps * p)
    one_hot = np.arange(classes) == arrays.targets.reshape(-1, 1)[chosen]
    scale = 1 / logs.size
    return compare("gradient", got, (p - one_hot) * scale, 512 * eps * scale * (p + one_hot))


# --- the clock --------------------------------------------------------------------------------


def _elapsed(call, number: int) -> float:
    start = perf_counter()
    for _ in repeat(None, number):
        call()
    return perf_counter() - start


SAMPLE = 1e-3  # seconds; a sample is as many calls as last so long


def calibrate(call) -> int:
    """How many calls make a sample."""
    number = 1
    while (elapsed := _elapsed(call, number)) < SAMPLE:
        number *= 2 if elapsed > SAMPLE / 16 else 8
    return number


def recalibrate(samples: list[float]) -> int:
    """The same from samples: a first estimate on a busy machine may be far too low."""
    return max(1, round(SAMPLE / max(min(samples), 1e-8)))


def cost_of(nothing) -> float:
    """Seconds the loop and a call that does nothing take: `take_turn` subtracts them."""
    return min(_elapsed(nothing, 1000) for _ in range(200)) / 1000


def take_turn(call, number: int, seconds: float, overhead: float = 0.0) -> list[float]:
    """Time samples of ``number`` calls for about ``seconds``, after a warm-up of a third of that.

    Returns
    -------
    list of float
        Seconds per call of each sample, at least two.
    """
    samples: list[float] = []
    gc_was_enabled = gc.isenabled()
    gc.disable()
    try:
        start = perf_counter()
        while True:
            _elapsed(call, number)
            if perf_counter() - start > seconds / 3:
                break
        start = perf_counter()
        while len(samples) < 2 or perf_counter() - start < seconds:
            samples.append(max(0.0, _elapsed(call, number) / number - overhead))
    finally:
        if gc_was_enabled:
            gc.enable()
    return samples


# --- results ----------------------------------------------------------------------------------


@dataclass
class Measurement:
    """One contestant on one case: seconds per call; ``status`` is "ok" or what went wrong."""

    best: float = float("nan")
    median: float = float("nan")
    samples: int = 0
    status: str = "ok"

    @classmethod
    def of(cls, samples: list[float]) -> "Measurement":
        return cls(min(samples), statistics.median(samples), len(samples))


@dataclass
class Results:
    """All measurements of a run, by case and name of the contestant."""

    machine: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    contestants: dict = field(default_factory=dict)  # name -> {"kind", "versions"}
    table: dict[Case, dict[str, Measurement]] = field(default_factory=dict)
    growth: list[dict] = field(default_factory=list)
    short_rows: list[dict] = field(default_factory=list)
    small_calls: list[dict] = field(default_factory=list)

    @classmethod
    def together(cls, runs: list["Results"]) -> "Results":
        """Those of several runs alike: of a case in several all of the last, never some of each."""
        result = replace(runs[0], settings={**runs[0].settings})
        for run in runs[1:]:
            for a, b in ((run.machine["cpu"], result.machine["cpu"]),
                         (run.settings["threads"], result.settings["threads"]),
                         (run.settings["isa"], result.settings["isa"])):  # fmt: skip
                if a != b:
                    raise SystemExit(f"runs of {b} and of {a} do not go together")
            result.settings["rounds"] = min(r.settings["rounds"] for r in (run, result))
            result.contestants = {**result.contestants, **run.contestants}
            result.table = {**result.table, **run.table}
            for name in ("growth", "short_rows", "small_calls"):
                setattr(result, name, getattr(run, name) or getattr(result, name))
        return result

    def names(self, kind: str) -> list[str]:
        return [name for name, about in self.contestants.items() if about["kind"] == kind]

    def best(self, case: Case, name: str) -> float:
        """Seconds; NaN when it was not measured."""
        return self.table.get(case, {}).get(name, Measurement()).best

    def best_peer(self, case: Case) -> tuple[float, str | None]:
        """The fastest peer's seconds and its name; NaN and None when there is none."""
        timed = [(self.best(case, name), name) for name in self.names("peer")]
        return min((pair for pair in timed if pair[0] > 0), default=(float("nan"), None))

    def limit(self, case: Case) -> float:
        """Seconds below which the machine cannot go: memory or arithmetic, the slower."""
        times = [self.best(case, name) for name in self.names("limit")]
        return max((time for time in times if time > 0), default=float("nan"))

    def of(self, operations) -> "Results":
        """Those of these operations alone."""
        table = {case: row for case, row in self.table.items() if case.operation in operations}
        return replace(self, table=table)

    def to_json(self) -> str:
        rows = [
            {**asdict(case), "contestant": name, **asdict(m)}
            for case, row in self.table.items()
            for name, m in row.items()
        ]
        for row in rows:
            for key in ("best", "median"):  # JSON has no NaN
                row[key] = None if isnan(row[key]) else row[key]
        head = {name: getattr(self, name) for name in ("machine", "settings", "contestants")}
        lists = {name: getattr(self, name) for name in ("growth", "short_rows", "small_calls")}
        return json.dumps({**head, **lists, "results": rows}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Results":
        raw = json.loads(text)
        results = cls(
            raw["machine"],
            raw["settings"],
            raw["contestants"],
            growth=raw["growth"],
            short_rows=raw.get("short_rows", []),
            small_calls=raw.get("small_calls", []),
        )
        for row in raw["results"]:
            case = Case(row["operation"], tuple(row["shape"]), row["axis"], row["dtype"])
            nan = float("nan")
            results.table.setdefault(case, {})[row["contestant"]] = Measurement(
                row["best"] or nan, row["median"] or nan, row["samples"], row["status"]
            )
        return results


# --- the machine ------------------------------------------------------------------------------


def usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _cpu() -> tuple[str, list[str]]:
    """The processor's name and those of its instruction sets that matter here."""
    try:
        fields = dict(
            (part.strip() for part in line.split(":", 1))
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if ":" in line
        )
    except OSError:
        fields = {}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    sets = [name for name in ("avx2", "fma", "avx512f", "asimd", "sve") if name in flags]
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model')})"
    return name, sets


def _caches() -> dict[str, str]:
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            kib = int(size.rstrip("K"))
            size = f"{kib // 1024} MiB" if kib % 1024 == 0 else f"{kib} KiB"
            caches[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return caches


def machine() -> dict:
    """What a reader must know of the machine to judge the figures."""
    name, sets = _cpu()
    return {
        "cpu": name,
        "instruction_sets": sets,
        "cpus": usable_cpus(),
        "caches": _caches(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
    }


def describe(results: Results) -> str:
    """Machine and versions in two sentences, for tables and plots."""
    m = results.machine
    caches = ", ".join(f"{level} {size}" for level, size in m["caches"].items())
    versions = {}
    for about in results.contestants.values():
        if about["kind"] in ("ours", "peer"):
            versions.update(about["versions"])
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    return (
        f"{m['cpu']}, {m['cpus']} CPUs, {' '.join(m['instruction_sets'])}; {caches}; "
        f"{m['system']}; Python {m['python']}. {listed}."
    )


# --- text -------------------------------------------------------------------------------------


def replace_between(path: Path, marker: str, text: str) -> None:
    """Put ``text`` between ``<!-- marker:begin -->`` and ``<!-- marker:end -->`` in a file.

    Raises
    ------
    SystemExit
        When the file has no such pair of markers.
    """
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    whole = path.read_text(encoding="utf-8")
    head, found_begin, rest = whole.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"{path}: no {begin} … {end}")
    path.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}", encoding="utf-8")


def format_us(seconds: float) -> str:
    """Microseconds with about three digits; an en dash for what was not measured."""
    us = seconds * 1e6
    if isnan(us):
        return "–"
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:,.0f}"


def format_ratio(ratio: float) -> str:
    return "–" if isnan(ratio) else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def text_table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells):
        first, *others = (
            cell.ljust(w) if k == 0 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join(map(line, [head, *rows]))
