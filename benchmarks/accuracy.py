"""How exact the results are: errors in units in the last place (ULP), beside the peers'.

    python benchmarks/accuracy.py                  a minute, a sample of everything
    python benchmarks/accuracy.py --full           exp of every float32, rows of a million
    python benchmarks/accuracy.py --full --update-results

The references are computed in extended precision (64 binary digits or more), differences and
quotients in pairs of such numbers, and are themselves checked against mpmath.
"""

import argparse
import ctypes
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from types import SimpleNamespace

import harness
import numpy as np
from harness import markdown_table, text_table
from native import load
from peers import NumPyFormula, ONNXRuntime, PyTorch, SciPy

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
README = RESULTS.parent.parent / "README.md"
PEERS = (NumPyFormula, SciPy, PyTorch, ONNXRuntime)
EXTENDED = np.longdouble

# --- what is measured -------------------------------------------------------------------------


class Ours:
    """This library under one instruction set."""

    def __init__(self, isa: str):
        self.name = f"softmax_fast {isa}"
        self.isa = isa

    def _library(self):
        import softmax_fast

        softmax_fast._core.set_isa(self.isa)
        return softmax_fast

    def exp(self, x):
        out = np.empty_like(x)
        self._library()._core._exp(x, out)
        return out

    def log1p(self, x):
        out = np.empty_like(x)
        self._library()._core._log1p(x, out)
        return out

    def rows(self, function, x, temperature, targets):
        """The function of every row of ``x``, or None when there is no such function."""
        sf = self._library()
        if function in ("softmax", "log_softmax", "logsumexp"):
            return getattr(sf, function)(x, temperature=temperature)
        given = {"temperature": temperature, "reduction": "none"}
        if function == "loss":
            return sf.softmax_loss(x, targets, **given)
        if not hasattr(sf, "softmax_loss_and_grad"):
            return None
        return sf.softmax_loss_and_grad(x, targets, **given)[1]


class Other:
    """A peer. The temperature, which none of them takes, is divided by first, as a user would."""

    def __init__(self, peer):
        self.peer = peer
        self.name = peer.name

    def _result(self, operation, **arrays):
        arrays = SimpleNamespace(axis=-1, out=np.empty_like(arrays["x"]), **arrays)
        call = self.peer.prepare(operation, arrays)
        return None if call is None else self.peer.fetch(call(), arrays)

    def exp(self, x):
        return self._result("exp", x=x)

    def log1p(self, x):
        return np.log1p(x) if isinstance(self.peer, NumPyFormula) else None

    def rows(self, function, x, temperature, targets):
        scaled = x
        if np.any(temperature != 1):
            scaled = x / np.expand_dims(temperature, -1).astype(x.dtype)
        if function in ("softmax", "log_softmax", "logsumexp"):
            return self._result(function, x=scaled, targets=targets)
        # The mean over one row is that row's.
        operation = "softmax_loss" if function == "loss" else "softmax_loss_and_grad"
        results = [
            self._result(operation, x=scaled[r : r + 1], targets=targets[r : r + 1])
            for r in range(len(x))
        ]
        if results[0] is None:
            return None
        if function == "loss":
            return np.array([np.asarray(loss) for loss in results], x.dtype)
        gradients = np.concatenate([np.asarray(gradient) for _, gradient in results])
        return gradients / np.expand_dims(temperature, -1).astype(x.dtype)


def contestants() -> list:
    import softmax_fast

    found: list = [Ours(isa) for isa in softmax_fast._core.isas_supported()]
    for peer in PEERS:
        try:
            found.append(Other(peer(1)))
        except ImportError as error:
            print(f"{peer.name}: skipped ({error})", file=sys.stderr)
    return found


# --- references -------------------------------------------------------------------------------


def _difference(a, b):
    """a − b as the nearest number and what it leaves out (Knuth's two-sum)."""
    high = a - b
    virtual = high - a
    return high, (a - (high - virtual)) - (b + virtual)


def _split(a):
    """``a`` as two numbers of half the digits (Veltkamp)."""
    factor = EXTENDED(2) ** ((np.finfo(EXTENDED).nmant + 2) // 2) + 1
    scaled = factor * a
    high = scaled - (scaled - a)
    return high, a - high


def _quotient(high, low, divisor):
    """(high + low) / divisor as a pair; the product is Dekker's."""
    q = high / divisor
    product = q * divisor
    (q1, q2), (d1, d2) = _split(q), _split(divisor)
    error = ((q1 * d1 - product) + q1 * d2 + q2 * d1) + q2 * d2
    return q, ((high - product) - error + low) / divisor


@dataclass
class Exact:
    """Of every row of an array, in extended precision; ``d`` is (x − m)/T."""

    d: np.ndarray
    softmax: np.ndarray
    log_softmax: np.ndarray
    logsumexp: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray
    m_over_t: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, temperature: np.ndarray, targets: np.ndarray) -> "Exact":
        with np.errstate(invalid="ignore", under="ignore"):
            return cls._of(x.astype(EXTENDED), temperature.astype(EXTENDED), targets)

    @classmethod
    def _of(cls, x, temperature, targets):
        rows, t = np.arange(len(x)), temperature[:, None]
        at_max = x.argmax(-1)
        m = x[rows, at_max]
        high, low = _difference(x, m[:, None])
        low = np.where(np.isfinite(high), low, 0)
        d, d_low = _quotient(high, low, t)
        d, d_low = np.where(np.isinf(high), high, d), np.where(np.isinf(high), 0, d_low)
        e = np.exp(d) * (1 + d_low)
        # Without the maximum's own 1, so that a small rest keeps its digits.
        others = e.copy()
        others[rows, at_max] = 0
        rest = others.sum(-1)
        s, log_s = 1 + rest, np.log1p(rest)
        shift, shift_low = _quotient(m, np.zeros_like(m), temperature)
        p = e / s[:, None]
        gradient = p / t
        y = targets
        at_label = np.where(y == at_max, -rest / s, p[rows, y] - 1)
        gradient[rows, y] = at_label / temperature
        return cls(
            d=d,
            softmax=p,
            log_softmax=d - (log_s[:, None] - d_low),
            logsumexp=shift + (log_s + shift_low),
            loss=log_s - (d[rows, y] + d_low[rows, y]),
            gradient=gradient,
            m_over_t=np.abs(shift),
        )


def check_references(rng) -> str:
    """Compare `Exact` with mpmath on a few rows; say how far apart they are, in float64 ULP."""
    try:
        import mpmath as mp
    except ImportError:
        return "references not checked: mpmath is not installed"
    mp.mp.dps = 400  # log_softmax of a maximum can be as small as the exponential of the next entry

    def exactly(value):
        """An extended number, which mpmath would round to float64."""
        high = float(value)
        return (
            mp.mpf(high) + mp.mpf(float(value - EXTENDED(high)))
            if np.isfinite(high)
            else mp.mpf(high)
        )

    worst = 0.0
    for kind, c in (
        ("normal", 9),
        ("wide", 40),
        ("temperature", 12),
        ("confident", 5),
        ("offset", 7),
    ):
        x, temperature, targets = make_rows(kind, rng, 3, c, np.dtype("float64"))
        temperature = np.maximum(temperature, 0.05)
        exact = Exact.of(x, temperature, targets)
        for r in range(len(x)):
            z = [mp.mpf(float(v)) / mp.mpf(float(temperature[r])) for v in x[r]]
            s = mp.fsum(mp.exp(v) for v in z)
            want = {
                "softmax": [mp.exp(v) / s for v in z],
                "log_softmax": [v - mp.log(s) for v in z],
                "logsumexp": [mp.log(s)],
                "loss": [mp.log(s) - z[targets[r]]],
            }
            for name, values in want.items():
                got = np.atleast_1d(getattr(exact, name)[r])
                for a, b in zip(got, values, strict=True):
                    error = float(abs(exactly(a) - b))
                    worst = max(worst, error / float(np.spacing(abs(float(b)))))
    if worst > 0.01:
        raise SystemExit(f"the references are off by {worst:.3g} ULP of float64")
    return f"references within {worst:.2g} ULP of float64 of mpmath's, on a sample"


# --- inputs -----------------------------------------------------------------------------------

KINDS = {
    "normal": "N(0, 3²)",
    "wide": "N(0, 15²)",
    "one huge": "one entry 10⁴, the others near 0",
    "all equal": "all equal",
    "masked": "half of the entries −inf",
    "near overflow": "0.2 to 0.9 of the largest number",
    "subnormal": "probabilities below the smallest normal number",
    "offset": "normal, with an offset of 10⁴ (float64: 10¹⁰)",
    "temperature": "normal, a temperature from 10⁻³ to 10³ for each row",
    "confident": "the label leads by 30",
}
LENGTHS = (1, 2, 3, 7, 10, 33, 100, 1000, 4097, 65537)


def make_rows(kind: str, rng, n: int, c: int, dtype: np.dtype):
    """Rows of a kind.

    Returns
    -------
    x : ndarray of shape (n, c)
    temperature : float64 ndarray of shape (n,)
    targets : int64 ndarray of shape (n,), never a masked entry
    """
    f32 = dtype == np.float32
    z = rng.standard_normal((n, c))
    targets = rng.integers(0, c, n)
    temperature = np.ones(n)
    rows = np.arange(n)
    if kind == "normal":
        z *= 3
    elif kind == "wide":
        z *= 15
    elif kind == "one huge":
        z *= 1e-3
        z[rows, rng.integers(0, c, n)] = 1e4
    elif kind == "all equal":
        z[:] = 3 * z[:, :1]
    elif kind == "masked":
        hidden = rng.random((n, c)) < 0.5
        hidden[rows, targets] = False
        z = np.where(hidden, -np.inf, 3 * z)
    elif kind == "near overflow":
        z = rng.uniform(0.2, 0.9, (n, c)) * float(np.finfo(dtype).max)
    elif kind == "subnormal":
        z = rng.uniform(*((-103, -88) if f32 else (-744, -709)), (n, c))
        z[rows, rng.integers(0, c, n)] = 0
    elif kind == "offset":
        z = 3 * z + (1e4 if f32 else 1e10)
    elif kind == "temperature":
        z *= 3
        temperature = 10 ** rng.uniform(-3, 3, n)
    elif kind == "confident":
        z[rows, targets] = z.max(-1) + 30
    return z.astype(dtype), temperature, targets


def exp_inputs(dtype: str, full: bool) -> Iterator[np.ndarray]:
    """Chunks of the inputs of exp: none above 0.

    float32: every one from −0 to −inf, or one in 1021. float64: 10⁷ (or 2·10⁵), half of them
    within 1000 units of a multiple of ln(2)/2, where the reduction of the argument changes, or of
    the ends of the normal and of the subnormal results; half with a uniform logarithm.
    """
    if dtype == "float32":
        minus_zero, minus_infinity = 0x80000000, 0xFF800000
        step = 1 if full else 1021
        span = (1 << 22) * step
        for begin in range(minus_zero, minus_infinity + 1, span):
            end = min(begin + span, minus_infinity + 1)
            yield np.arange(begin, end, step, dtype=np.uint32).view(np.float32)
        return
    rng = np.random.default_rng(5)
    for _ in range(10 if full else 1):
        n = 500_000 if full else 100_000
        centres = -np.log(2) / 2 * rng.integers(0, 2150, n)
        ends = rng.choice([-708.3964185322641, -745.1332191019412, -744.4400719213812], n // 10)
        centres[: len(ends)] = ends
        units = rng.integers(-1000, 1001, n) * np.spacing(centres)
        near = np.minimum(0, centres + units)
        yield np.concatenate([near, -(10 ** rng.uniform(-18, np.log10(750), n))])


def log1p_inputs(full: bool) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(6)
    for _ in range(10 if full else 1):
        yield 10 ** rng.uniform(-20, 20, 500_000 if full else 100_000)


# --- errors -----------------------------------------------------------------------------------


@dataclass
class Errors:
    """Running maximum and mean in ULP; ``of_bound``: the worst share of the contract's bound."""

    most: float = 0.0
    at: float | None = None  # the input where it stands, of exp and log1p
    total: float = 0.0
    count: int = 0
    of_bound: float = float("nan")

    def add(self, ulps: np.ndarray, shares: np.ndarray | None) -> None:
        self.most = max(self.most, float(ulps.max(initial=0)))
        self.total += float(ulps.sum())
        self.count += ulps.size
        if shares is not None and shares.size:
            self.of_bound = float(np.fmax(self.of_bound, shares.max()))

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")


def _floor_and_bound(function: str, exact: Exact, temperature, eps: float, tiny: float):
    """What a ULP is taken of, besides the result itself, and the error the contract allows, if any.

    A logarithm near 0 is judged as one near 1, since it is the sum of larger parts; logsumexp also
    by max/T, which it contains; a gradient by the larger of the probability and the target.
    """
    result = np.abs(getattr(exact, function))
    if function == "softmax":
        slope = np.where(temperature == 1, 0.5, 1.5)[:, None]
        distance = np.where(result > 0, np.abs(exact.d), 0)
        return np.zeros_like(result), (4 + slope * distance) * eps * result + 2 * tiny
    if function == "gradient":
        one_hot = exact.gradient < 0
        return np.maximum(exact.softmax, one_hot) / temperature[:, None], None
    floor = np.ones_like(result)
    if function == "logsumexp":
        floor = np.maximum(1, exact.m_over_t)
    return floor, 4 * eps * np.maximum(floor, result)


def _row_errors(function, got, exact: Exact, temperature, dtype):
    """Errors of one function on some rows: in ULP, and as shares of the bound."""
    info = np.finfo(dtype)
    tiny = float(info.smallest_subnormal)
    want = getattr(exact, function)
    with np.errstate(invalid="ignore", over="ignore"):
        floor, bound = _floor_and_bound(function, exact, temperature, float(info.eps), tiny)
        same = np.asarray(got) == want  # infinities
        error = np.where(same, 0, np.abs(np.asarray(got).astype(EXTENDED) - want))
        unit = np.spacing(np.fmax(np.abs(want), floor).astype(dtype)).astype(EXTENDED)
        ulps = np.where(same, 0, error / unit)
        ulps = np.where(np.isfinite(ulps), ulps, np.inf)
        if bound is None:
            return ulps, None
        shares = np.where(same, 0, error / bound)
        return ulps, np.where(np.isfinite(shares), shares, np.inf)


class Table:
    """Errors by (function, dtype, kind of rows) and contestant."""

    def __init__(self):
        self.cells: dict[tuple[str, str, str], dict[str, Errors]] = {}
        self.longest = 0

    def cell(self, function, dtype, kind, name) -> Errors:
        return self.cells.setdefault((function, dtype, kind), {}).setdefault(name, Errors())

    def over_kinds(self) -> dict[tuple[str, str, str], dict[str, Errors]]:
        """The kinds of rows folded into one, but for confident ones' relative loss."""
        folded: dict[tuple[str, str, str], dict[str, Errors]] = {}
        for (function, dtype, kind), cells in self.cells.items():
            if kind in KINDS:
                kind = "all rows"
            for name, errors in cells.items():
                into = folded.setdefault((function, dtype, kind), {}).setdefault(name, Errors())
                if errors.most >= into.most:
                    into.most, into.at = errors.most, errors.at
                into.total += errors.total
                into.count += errors.count
                into.of_bound = float(np.fmax(into.of_bound, errors.of_bound))
        return folded


def measure_elementwise(table: Table, entrants, dtype: str, function: str, full: bool) -> None:
    """exp or log1p against long double, all entrants on the same inputs."""
    library = load("accuracy.c")
    if dtype == "float64" and library.accuracy_long_double_digits() < 64:
        print(f"{function} float64: skipped, long double is no wider", file=sys.stderr)
        return
    errors_of = getattr(library, f"accuracy_errors_f{dtype[-2:]}")
    chunks = exp_inputs(dtype, full) if function == "exp" else log1p_inputs(full)
    for x in chunks:
        named = [(e.name, getattr(e, function)(x)) for e in entrants]
        named = [(name, np.ascontiguousarray(y, x.dtype)) for name, y in named if y is not None]
        k = len(named)
        pointers = (ctypes.c_void_p * k)(*(y.ctypes.data for _, y in named))
        most, sums, where = np.empty(k), np.empty(k), np.empty(k, np.uintp)
        errors_of(
            ("exp", "log1p").index(function),
            ctypes.c_void_p(x.ctypes.data),
            pointers,
            k,
            ctypes.c_size_t(x.size),
            *(ctypes.c_void_p(v.ctypes.data) for v in (most, where, sums)),
        )
        for j, (name, _) in enumerate(named):
            cell = table.cell(
                function, dtype, "every input" if full and dtype == "float32" else "sample", name
            )
            if most[j] > cell.most:
                cell.most, cell.at = most[j], float(x[where[j]])
            cell.total += sums[j]
            cell.count += x.size


def measure_rows(table: Table, entrants, dtype: str, full: bool, seed: int) -> None:
    """The functions of rows, of every kind and length."""
    if dtype == "float64" and np.finfo(EXTENDED).nmant < 63:
        print("rows in float64: skipped, long double is no wider", file=sys.stderr)
        return
    rng = np.random.default_rng(seed)
    lengths = (*LENGTHS, 1_000_000) if full else LENGTHS
    table.longest = max(lengths)
    for kind in KINDS:
        for c in lengths:
            n = max(2, min(200 if full else 12, 200_000 // c))
            x, temperature, targets = make_rows(kind, rng, n, c, np.dtype(dtype))
            exact = Exact.of(x, temperature, targets)
            for entrant in entrants:
                for function in ("softmax", "log_softmax", "logsumexp", "loss", "gradient"):
                    with np.errstate(all="ignore"):
                        got = entrant.rows(function, x, temperature, targets)
                    if got is None:
                        continue
                    ulps, shares = _row_errors(function, got, exact, temperature, dtype)
                    table.cell(function, dtype, kind, entrant.name).add(ulps, shares)
                    if kind == "confident" and function == "loss" and c > 1:
                        unit = np.spacing(exact.loss.astype(dtype)).astype(EXTENDED)
                        relative = np.abs(np.asarray(got) - exact.loss) / unit
                        cell = table.cell(
                            "loss", dtype, "confident rows, of the loss itself", entrant.name
                        )
                        cell.add(relative, None)


# --- output -----------------------------------------------------------------------------------


def _ulps(value: float) -> str:
    if isnan(value):
        return "–"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}" if value < 1e4 else f"{value:.0e}"


def render(cells, names: list[str], as_table) -> str:
    """One line a function, dtype and kind: largest error (mean) of every contestant."""
    ours = [name for name in names if name.startswith("softmax_fast")]
    head = ["largest (mean) error, ULP", *names, "of the bound"]
    rows = []
    for (function, dtype, kind), by_name in cells.items():
        row = [f"{function} {dtype}, {kind}"]
        for name in names:
            e = by_name.get(name)
            row.append("–" if e is None else f"{_ulps(e.most)} ({_ulps(e.mean)})")
        shares = [by_name[name].of_bound for name in ours if name in by_name]
        worst = max(shares, default=float("nan"))
        row.append("–" if isnan(worst) else f"{worst:.2f}")
        rows.append(row)
    return as_table(head, rows)


def markdown(table: Table, names: list[str], about: str) -> str:
    folded = render(table.over_kinds(), names, markdown_table)
    by_kind = {key: cells for key, cells in table.cells.items() if key[2] in KINDS}
    legend = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    return "\n\n".join(
        [
            "ULP of the exact result; of 1 where a logarithm is nearer to 0, of max/T where "
            + "logsumexp is, and of the larger of probability and target for a gradient. *Of the "
            + "bound*: the worst share of what docs/contract.md allows, of all our columns. "
            + about,
            folded,
            "**By kind of row**",
            f"Rows of 1 to {table.longest:,} entries. {legend}.",
            render(by_kind, names, markdown_table),
        ]
    )


def summary(table: Table, names: list[str]) -> str:
    """A few rows for the README."""
    cells = {
        key: by_name
        for key, by_name in table.over_kinds().items()
        if key[0] in ("softmax", "log_softmax", "logsumexp", "loss") and key[2] == "all rows"
    }
    dtype = "float32" if any(key[1] == "float32" for key in cells) else "float64"
    return render({key: c for key, c in cells.items() if key[1] == dtype}, names, markdown_table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--full", action="store_true", help="exp of every float32; rows of a million"
    )
    parser.add_argument(
        "--dtype", nargs="+", default=["float32", "float64"], choices=("float32", "float64")
    )
    parser.add_argument("--by-kind", action="store_true", help="print every kind of row by itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument(
        "--update-results",
        action="store_true",
        help="put the tables into RESULTS.md, and four rows into the project's README",
    )
    options = parser.parse_args(argv)

    checked = check_references(np.random.default_rng(options.seed))
    print(checked, file=sys.stderr)
    entrants = contestants()
    names = [entrant.name for entrant in entrants]
    table = Table()
    for dtype in options.dtype:
        print(f"{dtype}: exp …", file=sys.stderr)
        measure_elementwise(table, entrants, dtype, "exp", options.full)
        if dtype == "float64":
            measure_elementwise(table, entrants, dtype, "log1p", options.full)
        print(f"{dtype}: rows …", file=sys.stderr)
        measure_rows(table, entrants, dtype, options.full, options.seed)

    versions = {}
    for entrant in entrants:
        if isinstance(entrant, Other):
            versions.update(entrant.peer.versions())
    machine = harness.machine()
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    about = f"{machine['cpu']}, {machine['system']}; {listed}; {checked}."
    if options.json:
        rows = [
            {
                "function": function,
                "dtype": dtype,
                "kind": kind,
                "contestant": name,
                "largest": errors.most,
                "at": errors.at,
                "mean": errors.mean,
                "of_bound": None if isnan(errors.of_bound) else errors.of_bound,
                "values": errors.count,
            }
            for (function, dtype, kind), cells in table.cells.items()
            for name, errors in cells.items()
        ]
        options.json.write_text(
            json.dumps({"machine": machine, "versions": versions, "errors": rows}, indent=1)
        )
    if options.update_results:
        harness.replace_between(RESULTS, "accuracy", markdown(table, names, about))
        harness.replace_between(README, "accuracy", summary(table, names))
    if options.markdown:
        print(markdown(table, names, about))
    else:
        print(about)
        print(render(table.cells if options.by_kind else table.over_kinds(), names, text_table))
    bounds = [
        e.of_bound for cells in table.cells.values() for name, e in cells.items()
        if name.startswith("softmax_fast")
    ]  # fmt: skip
    return 1 if any(share > 1 for share in bounds) else 0


if __name__ == "__main__":
    sys.exit(main())
