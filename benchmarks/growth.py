"""How the time grows: per element from 10⁶ elements to 10⁹; and with one thread or all."""

import harness
import numpy as np
from harness import format_ratio, format_us, text_table

CLASSES = 1000


def _sizes(limit: float) -> list[int]:
    """1, 2 and 5 times the powers of ten from 10⁶ to ``limit``."""
    return [m * 10**e for e in range(6, 10) for m in (1, 2, 5) if m * 10**e <= min(limit, 1e9)]


def _calls(sf, x, targets, out, n_threads):
    yield "softmax", lambda: sf.softmax(x, out=out, n_threads=n_threads)
    yield "softmax_loss", lambda: sf.softmax_loss(x, targets, n_threads=n_threads)


def _interleaved(calls, rounds: int, seconds: float) -> list[float]:
    """The best time of each call over rounds in which each has its turn."""
    numbers = [harness.calibrate(call) for call in calls]
    turns = [
        [min(harness.take_turn(*pair, seconds)) for pair in zip(calls, numbers, strict=True)]
        for _ in range(rounds)
    ]
    return [min(column) for column in zip(*turns, strict=True)]


def measure(dtype: str, threads: int, quick: bool) -> list[dict]:
    """Both growths, in this process.

    Returns
    -------
    list of dict
        ``kind`` "elements" with ``operation``, ``elements``, ``seconds``; and ``kind`` "threads"
        with ``operation``, ``shape``, ``one`` and ``many`` (seconds with one thread and with all).
    """
    import softmax_fast as sf

    rounds, seconds = (3, 0.02) if quick else (5, 0.1)
    itemsize = np.dtype(dtype).itemsize
    memory = harness.available_memory() or 2**32
    sizes = _sizes(1e8 if quick else 0.8 * memory / (2 * itemsize))
    rows = sizes[-1] // CLASSES
    x = harness.normal_logits((rows, CLASSES), dtype)
    out = np.empty_like(x)
    targets = np.random.default_rng(0).integers(0, CLASSES, rows)
    found = []
    parts = [n // CLASSES for n in sizes]
    for k, operation in enumerate(("softmax", "softmax_loss")):
        calls = [list(_calls(sf, x[:n], targets[:n], out[:n], threads))[k][1] for n in parts]
        for n, best in zip(sizes, _interleaved(calls, rounds, seconds), strict=True):
            found.append(
                {"kind": "elements", "operation": operation, "elements": n, "seconds": best}
            )
    for classes in (10, 100, 1000, 128256):
        for elements in (4**exponent for exponent in range(4, 15)):
            n = elements // classes
            if n == 0 or elements > x.size:
                continue
            xs = x.reshape(-1)[: n * classes].reshape(n, classes)
            outs = out.reshape(-1)[: n * classes].reshape(n, classes)
            ts = np.arange(n) % classes
            for one, many in zip(
                _calls(sf, xs, ts, outs, 1), _calls(sf, xs, ts, outs, threads), strict=True
            ):
                single, several = _interleaved([one[1], many[1]], rounds, seconds / 3)
                found.append(
                    {
                        "kind": "threads",
                        "operation": one[0],
                        "shape": [n, classes],
                        "one": single,
                        "many": several,
                    }
                )
    return found


def flatness(growth: list[dict], operation: str) -> float:
    """The slowest time per element over the fastest."""
    times = [
        row["seconds"] / row["elements"]
        for row in growth
        if row["kind"] == "elements" and row["operation"] == operation
    ]
    return max(times) / min(times) if times else float("nan")


def least_gain(growth: list[dict]) -> float:
    """The least that all threads gain over one, at any size; below 1 is a loss."""
    gains = [row["one"] / row["many"] for row in growth if row["kind"] == "threads"]
    return min(gains, default=float("nan"))


def text(growth: list[dict]) -> str:
    elements = [
        [
            f"{row['elements']:,}",
            row["operation"],
            format_us(row["seconds"]),
            f"{row['seconds'] / row['elements'] * 1e9:.3f}",
        ]
        for row in growth
        if row["kind"] == "elements"
    ]
    threads = [
        [
            "×".join(map(str, row["shape"])),
            row["operation"],
            format_us(row["one"]),
            format_us(row["many"]),
            format_ratio(row["one"] / row["many"]),
        ]
        for row in growth
        if row["kind"] == "threads"
    ]
    return "\n\n".join(
        [
            f"Rows of {CLASSES}\n"
            + text_table(["elements", "operation", "µs", "ns per element"], elements),
            "One thread and all\n"
            + text_table(["shape", "operation", "one, µs", "all, µs", "gain"], threads),
        ]
    )
