"""Short rows: each operation's time over softmax's in the same run, and the step where tiles end.

    python benchmarks/short_rows.py
    python benchmarks/short_rows.py --isa avx2 --threads 1

``compare.py --targets`` holds the ratios against the aims of this module.
"""

import argparse
from time import perf_counter

import harness
import numpy as np
from harness import text_table

SHAPES = ((65536, 10), (16384, 100))
DTYPES = ("float32", "float64")
# Of rows on both sides of the last that share a tile: time an element of one over the other's.
BESIDE_THE_END, STEP = ((8192, 250), (8192, 262)), 1.15
AIMS = {
    "log_softmax": 1.2,
    "logsumexp": 1.2,
    "loss": 1.1,
    "row losses": 1.4,
    "loss and gradient": 1.8,
    "softmax, a temperature a row": 1.5,
    "loss, smoothed": 2,
    "loss of probability targets": 2,
    "loss and gradient, smoothed": 2.5,
    "loss and gradient of probability targets": 2.5,
    "cross_entropy of labels": 1,
}


def calls(x, n_threads: int) -> dict:
    """Each operation on the logits x, with ``out`` where it can be given; softmax comes first."""
    import softmax_fast as sf

    n, classes = x.shape
    rng = np.random.default_rng(21)
    y, t = rng.integers(0, classes, n), rng.random(x.shape).astype(x.dtype)
    t /= t.sum(axis=1, keepdims=True)
    temperature, out, rows = rng.uniform(0.5, 1.5, n), np.empty_like(x), np.empty(n, x.dtype)
    p, k = sf.softmax(x), {"n_threads": n_threads}
    some = {"label_smoothing": 0.1, **k}
    into = {"grad_out": out}
    return {
        "softmax": lambda: sf.softmax(x, out=out, **k),
        "log_softmax": lambda: sf.log_softmax(x, out=out, **k),
        "logsumexp": lambda: sf.logsumexp(x, out=rows, **k),
        "loss": lambda: sf.softmax_loss(x, y, **k),
        "row losses": lambda: sf.softmax_loss(x, y, reduction="none", out=rows, **k),
        "loss and gradient": lambda: sf.softmax_loss_and_grad(x, y, **into, **k),
        "softmax, a temperature a row": lambda: sf.softmax(
            x, temperature=temperature, out=out, **k
        ),
        "loss, smoothed": lambda: sf.softmax_loss(x, y, **some),
        "loss of probability targets": lambda: sf.softmax_loss(x, t, **k),
        "loss and gradient, smoothed": lambda: sf.softmax_loss_and_grad(x, y, **into, **some),
        "loss and gradient of probability targets": lambda: sf.softmax_loss_and_grad(
            x, t, **into, **k
        ),
        "cross_entropy of labels": lambda: sf.cross_entropy(p, y, **k),
    }


def _best(shape, dtype: str, threads: int, rounds: int) -> dict[str, float]:
    """Seconds of each operation: the best of some rounds in which each has its turn."""
    table = calls(harness.normal_logits(shape, dtype), threads)
    best = dict.fromkeys(table, float("inf"))
    for _ in range(rounds):
        for name, call in table.items():
            call()
            start = perf_counter()
            call()
            best[name] = min(best[name], perf_counter() - start)
    return best


def measure(threads: int, isas=None, rounds: int = 15) -> list[dict]:
    """Every ratio, in this process, with one thread and with all.

    Returns
    -------
    list of dict
        ``isa``, ``dtype``, ``threads``, ``operation`` and ``ratio``; ``shape`` of a ratio to
        softmax, None of the step past the end of the tiles.
    """
    from softmax_fast import _core

    found, in_use = [], _core.isa()
    isas = isas or [in_use, *(["avx2"] if in_use == "avx512" else [])]
    try:
        for isa in isas:
            _core.set_isa(isa)
            for dtype in DTYPES:
                for n in sorted({1, threads}):
                    where = {"isa": isa, "dtype": dtype, "threads": n}
                    for shape in SHAPES:
                        best = _best(shape, dtype, n, rounds)
                        softmax = best.pop("softmax")
                        found += [
                            {**where, "shape": shape, "operation": name, "ratio": time / softmax}
                            for name, time in best.items()
                        ]
                    before, behind = (_best(shape, dtype, n, rounds) for shape in BESIDE_THE_END)
                    scale = BESIDE_THE_END[0][1] / BESIDE_THE_END[1][1]
                    found += [
                        {**where, "shape": None, "operation": name, "ratio": ratio}
                        for name, ratio in ((k, behind[k] / before[k] * scale) for k in before)
                    ]
    finally:
        _core.set_isa(in_use)
    return found


def _place(row: dict) -> str:
    threads = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
    shape = "×".join(map(str, row["shape"])) + " " if row["shape"] else ""
    return f"{shape}{row['dtype']}, {row['isa']}, {threads}"


def worst(found: list[dict]) -> list[tuple[str, str, float, float]]:
    """Of each aim: what, where it is worst and how many places hold it, the aim, and the ratio."""
    rows = []
    for step in (False, True):
        for operation in dict.fromkeys(row["operation"] for row in found):
            aim = STEP if step else AIMS.get(operation)
            ratios = [
                (max(row["ratio"], 1 / row["ratio"]) if step else row["ratio"], _place(row))
                for row in found
                if row["operation"] == operation and (row["shape"] is None) == step
            ]
            if aim is None or not ratios:
                continue
            ratio, place = max(ratios)
            held = sum(value <= aim for value, _ in ratios)
            what = f"250 and 262 classes, {operation}" if step else f"short rows, {operation}"
            rows.append((what, f"{place} ({held} of {len(ratios)} hold)", aim, ratio))
    return rows


def text(found: list[dict]) -> str:
    """The ratios: a row for each operation, a column for each place."""
    tables = []
    for step in (False, True):
        chosen = [row for row in found if (row["shape"] is None) == step]
        places = list(dict.fromkeys(map(_place, chosen)))
        operations = list(dict.fromkeys(row["operation"] for row in chosen))
        ratios = {(row["operation"], _place(row)): row["ratio"] for row in chosen}
        head = "time an element, 262 classes over 250" if step else "time over softmax's"
        body = [
            [place, *(f"{ratios[operation, place]:.2f}" for operation in operations)]
            for place in places
        ]
        aims = ["aim", *(f"{STEP if step else AIMS[name]:g}" for name in operations)]
        table = [list(row) for row in zip([head, *operations], aims, *body, strict=True)]
        tables.append(text_table(table[0], table[1:]))
    return "\n\n".join(tables)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=harness.usable_cpus())
    parser.add_argument("--isa", nargs="+", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    print(text(measure(options.threads, options.isa, options.rounds)))


if __name__ == "__main__":
    main()
