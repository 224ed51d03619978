"""Measure calls as a pipeline makes them: after a product, beside others, from several threads.

    python benchmarks/pipeline.py --situations alone product300 --json pipeline.json
    python benchmarks/pipeline.py --situations busy1 busy2 --json pipeline.json
    python benchmarks/pipeline.py --from-json pipeline.json --update-results

Each call of a loop is timed by itself. The loops of the contestants are cut in turns of a second at
most, which alternate, so that all see the machine in the same states. ``--json`` adds to what the file
holds, so that a table can be measured in several runs: with ``--resume --minutes 4`` each goes on where
the last one stopped. See README.md in this folder.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter

import harness
import numpy as np
from harness import Case, format_ratio, format_us, markdown_table, text_table
from situations import SITUATIONS, Busy
from workers import Contest, Contestant, end_in_good_order, say

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
README = RESULTS.parent.parent / "README.md"
SHAPES = ((64, 1000), (4096, 100), (65536, 10), (16384, 1000))
OPERATIONS = ("softmax", "softmax_loss")
ONE, ALL, ADAPTIVE = "1 thread", "all threads", "adaptive"
PEERS = ("ONNXRuntime", "PyTorch", "JAX")
# What is wanted of the adaptive choice.
MEAN_TARGET, SLOWEST_TARGET, ALONE_TARGET = 1.25, 3.0, 1.03


def contestants(threads: int, peers) -> list[Contestant]:
    """This library's three ways, then its peers. All have NumPy's and PyTorch's pools alike."""
    pools = tuple((f"{name}_NUM_THREADS", str(threads)) for name in ("OMP", "OPENBLAS", "MKL"))
    fixed = (("SOFTMAX_FAST_ADAPTIVE", "0"),)
    return [
        Contestant("SoftmaxFast", 1, label=ONE, variables=pools),
        Contestant("SoftmaxFast", threads, label=ALL, variables=pools + fixed),
        Contestant("SoftmaxFast", threads, label=ADAPTIVE, variables=pools),
        *(Contestant(peer, threads) for peer in peers),
    ]


def summarise(times: np.ndarray) -> dict:
    return {
        "mean": float(times.mean()),
        "median": float(np.median(times)),
        "p99": float(np.quantile(times, 0.99)),
        "calls": len(times),
    }


class Pipeline(Contest):
    """Loops of the contestants, for every case of every situation."""

    def run_loops(self, name: str, case: Case, logs, seconds: float) -> dict[str, dict]:
        """By contestant: mean, median, 99th percentile and number of calls."""
        ready = self.prepared(case, logs, self.report)
        rounds = max(1, round(seconds))
        times: dict[str, list[np.ndarray]] = {worker.contestant.name: [] for worker in ready}
        for worker in ready:  # untimed
            worker.ask("loop", case, name, min(0.2, seconds / 5))
        for worker in self.turns(ready, rounds):
            answer, content = worker.ask("loop", case, name, seconds / rounds)
            if answer == "times":
                times[worker.contestant.name].append(content)
            else:
                self.report(worker, case, f"{answer}: {content}")
        return {name: summarise(np.concatenate(t)) for name, t in times.items() if t}


def _key(entry: dict) -> tuple:
    return entry["situation"], entry["operation"], tuple(entry["shape"])


def _wanted(options, before: dict | None):
    """(shape, axis, operation, situations) of the loops asked for, without those to be left out."""
    done = {
        _key(entry)
        for entry in (before["loops"] if before and options.resume else ())
        if entry["seconds"] >= options.seconds
        and entry["contestants"]
        and set(options.peers) <= set(entry.get("peers", ()))
    }
    for shape, axis in options.shapes:
        for operation in options.operations:
            names = [n for n in options.situations if (n, operation, shape) not in done]
            if names:
                yield shape, axis, operation, names


def measure(options, before: dict | None, keep) -> dict:
    """Every loop asked for; ``keep`` is given what is found after each."""
    end = perf_counter() + 60 * options.minutes
    found = {
        "machine": harness.machine(),
        "settings": {"threads": options.threads, "seconds": options.seconds},
        "loops": [],
    }
    with Pipeline(contestants(options.threads, options.peers), say) as pipeline:
        found["versions"] = {k: v for own in pipeline.versions.values() for k, v in own.items()}
        if ADAPTIVE not in pipeline.versions:
            raise SystemExit("softmax_fast is not installed for the contestants' processes")
        for shape, axis, operation, names in _wanted(options, before):
            case = Case(operation, shape, axis)
            logs = harness.reference(case, harness.make_arrays(case))
            for name in names:
                if perf_counter() > end:
                    say("the time is over; --resume goes on from here")
                    return found
                with Busy(SITUATIONS[name].busy_processes):
                    row = pipeline.run_loops(name, case, logs, options.seconds)
                entry = {
                    "situation": name,
                    "operation": operation,
                    "shape": list(shape),
                    "seconds": options.seconds,
                    "peers": list(options.peers),
                    "contestants": row,
                }
                found["loops"].append(entry)
                say(f"{name:12} " + "  ".join(_row(entry, [])))
                keep(found)
    say("no loop is left")
    return found


def merged(old: dict, new: dict) -> dict:
    """Loops of both; of two alike, the new one."""
    loops = {_key(entry): entry for entry in (*old["loops"], *new["loops"])}
    order = list(SITUATIONS)
    return {
        **new,
        "versions": {**old["versions"], **new["versions"]},
        "loops": sorted(loops.values(), key=lambda entry: order.index(entry["situation"])),
    }


# --- tables -----------------------------------------------------------------------------------


def ratios(entry: dict) -> tuple[float, float]:
    """Of the adaptive choice: mean over the better of one and all threads, p99 over one thread's."""
    row = entry["contestants"]
    try:
        better = min(row[ONE]["mean"], row[ALL]["mean"])
        return row[ADAPTIVE]["mean"] / better, row[ADAPTIVE]["p99"] / row[ONE]["p99"]
    except KeyError:
        return float("nan"), float("nan")


def _holds(entry: dict) -> bool:
    mean, slowest = ratios(entry)
    return mean <= MEAN_TARGET and slowest <= SLOWEST_TARGET


def _peers(loops: list[dict]) -> list[str]:
    names = dict.fromkeys(name for entry in loops for name in entry["contestants"])
    return [name for name in names if name not in (ONE, ALL, ADAPTIVE)]


def _row(entry: dict, peers: list[str]) -> list[str]:
    row = entry["contestants"]

    def cells(name, *keys):
        return [format_us(row[name][key]) if name in row else "–" for key in keys]

    return [
        f"{entry['operation']}, {'×'.join(map(str, entry['shape']))}",
        *cells(ONE, "mean", "p99"),
        *cells(ALL, "mean", "p99"),
        *cells(ADAPTIVE, "mean", "p99"),
        *map(format_ratio, ratios(entry)),
        *(cell for name in peers for cell in cells(name, "mean")),
    ]


def tables(found: dict, render) -> list[tuple[str, str]]:
    parts = []
    for name, situation in SITUATIONS.items():
        loops = [entry for entry in found["loops"] if entry["situation"] == name]
        if not loops:
            continue
        peers = _peers(loops)
        head = [
            "µs",
            *(f"{way}, {what}" for way in (ONE, ALL, ADAPTIVE) for what in ("mean", "p99")),
            "mean ÷ better",
            "p99 ÷ one's",
            *peers,
        ]
        parts.append((situation.title, render(head, [_row(entry, peers) for entry in loops])))
    return parts


def verdict(found: dict) -> str:
    loops = found["loops"]
    held = sum(map(_holds, loops))
    worst = max(loops, key=lambda entry: ratios(entry)[0], default=None)
    if worst is None:
        return "Nothing was measured."
    missed = [
        f"{SITUATIONS[e['situation']].title}, {e['operation']} {'×'.join(map(str, e['shape']))}"
        f" ({', '.join(map(format_ratio, ratios(e)))})"
        for e in loops
        if not _holds(e)
    ]
    return (
        f"Wanted of the adaptive choice: the mean at most {MEAN_TARGET} times the better of one "
        f"thread and all, the 99th percentile at most {SLOWEST_TARGET:g} times one thread's. "
        f"That holds in {held} of {len(loops)} loops"
        + (f"; not in: {'; '.join(missed)}." if missed else ".")
    )


def describe(found: dict) -> str:
    m = found["machine"]
    versions = ", ".join(f"{package} {v}" for package, v in found["versions"].items())
    lengths = sorted({entry["seconds"] for entry in found["loops"]})
    return (
        f"Loops of {' and '.join(f'{s:g}' for s in lengths)} seconds for each contestant, in turns; "
        f"{found['settings']['threads']} threads; {m['cpu']}, {m['cpus']} CPUs; {m['system']}; "
        f"Python {m['python']}. {versions}."
    )


def text(found: dict) -> str:
    parts = [describe(found), *(f"{title}\n{table}" for title, table in tables(found, text_table))]
    return "\n\n".join([*parts, verdict(found)])


def markdown(found: dict) -> str:
    parts = [describe(found) + " " + verdict(found)]
    parts += [f"**{title}**\n\n{table}" for title, table in tables(found, markdown_table)]
    return "\n\n".join(parts)


def summary(found: dict) -> str:
    """One line for the README."""
    case = ("product300", "softmax", [64, 1000])
    for entry in found["loops"]:
        if (entry["situation"], entry["operation"], entry["shape"]) == case:
            row = entry["contestants"]
            named = (*(ONE, ALL), *_peers([entry]))
            others = ", ".join(f"{name} {format_us(row[name]['mean'])}" for name in named)
            return (
                f"In a pipeline, softmax 64×1000 right after a product by NumPy: mean "
                f"{format_us(row[ADAPTIVE]['mean'])} µs ({others})."
            )
    raise SystemExit(f"not measured: {case}")


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--situations", nargs="+", choices=SITUATIONS, default=list(SITUATIONS), metavar="NAME",
        help=", ".join(SITUATIONS))  # fmt: skip
    add("--shapes", nargs="+", type=harness.parse_shape, metavar="SHAPE",
        default=[(shape, -1) for shape in SHAPES])  # fmt: skip
    add("--operations", nargs="+", choices=harness.OPERATIONS, metavar="NAME", default=OPERATIONS)
    add("--peers", nargs="*", choices=PEERS, default=PEERS, metavar="NAME", help=", ".join(PEERS))
    add("--threads", type=int, default=harness.usable_cpus(), help="for each contestant")
    add("--seconds", type=float, default=10.0, help="the length of a loop")
    add("--json", type=Path, metavar="FILE", help="add every measurement to a file")
    add("--resume", action="store_true", help="leave out loops that this file has")
    add("--minutes", type=float, default=float("inf"), help="begin no loop after so many")
    add("--from-json", type=Path, metavar="FILE", help="report on earlier runs, measure nothing")
    add("--update-results", action="store_true", help="put the tables into RESULTS.md and README")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = _arguments(argv)
    end_in_good_order()
    if options.from_json:
        found = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        path = options.json
        before = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None

        def keep(found: dict) -> None:
            if path:
                found = merged(before, found) if before else found
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

        found = measure(options, before, keep)
        found = merged(before, found) if before else found
    if options.update_results:
        harness.replace_between(RESULTS, "pipeline", markdown(found))
        harness.replace_between(README, "pipeline", summary(found))
    print(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
