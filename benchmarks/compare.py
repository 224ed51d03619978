"""Compare softmax_fast with its peers and with the limits of the machine.

    python benchmarks/compare.py --quick
    python benchmarks/compare.py --dtype float32 float64 --json speed.json
    python benchmarks/compare.py --from-json speed.json --bars docs/speed.svg --update-results

Every result is checked against a float64 oracle before it is timed. Each contestant has a process
of its own; they take turns, round after round. See README.md in this folder.
"""

import argparse
import sys
from pathlib import Path

import growth
import harness
import numpy as np
import report
import short_rows
import small_calls
import targets
from harness import (
    AXIS_PAIRS,
    BINARY_SHAPES,
    COMPARED_SHAPES,
    DIVERGING,
    DIVERGING_SHAPES,
    EVALUATED_SHAPES,
    FITTED_SHAPE,
    LINEAR_SHAPES,
    OPERATIONS,
    SHAPES,
    Case,
    Results,
)
from peers import PEERS
from workers import Contest, Contestant, end_in_good_order, say

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
README = RESULTS.parent.parent / "README.md"
QUICK_SHAPES = ((1, 10), (32, 10), (64, 1000), (65536, 10), (4096, 1000), (1, 128256))
QUICK_OPERATIONS = (
    "softmax",
    "softmax_fresh",
    "logsumexp",
    "softmax_loss",
    "softmax_loss_and_grad",
)
OF_THEIR_OWN_SHAPES = ("binary", "linear", "evaluate", "fit", "kl", "compare")
ON_LOGITS = [name for name in OPERATIONS if not name.startswith(OF_THEIR_OWN_SHAPES)]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer shapes, operations and rounds: about a minute")
    add("--dtype", nargs="+", choices=("float16", "float32", "float64"), default=["float32"])
    add("--threads", type=int, default=harness.usable_cpus(), help="for each contestant")
    add("--operations", nargs="+", choices=OPERATIONS, metavar="NAME", help=", ".join(OPERATIONS))
    add("--shapes", nargs="+", type=harness.parse_shape, metavar="SHAPE",
        help="as 64x1000, or 1000x16384@0 for another axis than the last")  # fmt: skip
    add("--peers", nargs="*", choices=[peer.__name__ for peer in PEERS], metavar="NAME",
        help=", ".join(peer.__name__ for peer in PEERS))  # fmt: skip
    add("--isa", metavar="NAME", help="force softmax_fast, and the limits, to an instruction set")
    add("--rounds", type=int, help="turns each contestant has at a case")
    add(
        "--targets",
        action="store_true",
        help="measure what the targets need, of --operations or all, and print pass or miss",
    )
    add("--growth", action="store_true", help="time against size, and one thread against all")
    add("--json", type=Path, metavar="FILE", help="write every measurement")
    add("--from-json", type=Path, nargs="+", metavar="FILE",
        help="report on earlier runs, of a case in several on the last, and measure nothing")  # fmt: skip
    add("--bars", type=Path, metavar="FILE.svg", help="draw the picture of the project's README")
    add("--markdown", action="store_true", help="print the tables in Markdown")
    add("--update-results", action="store_true",
        help="put the tables into RESULTS.md, and a few rows into the project's README; with "
        "--targets that of the targets alone")  # fmt: skip
    options = parser.parse_args(argv)
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


def plan(options: argparse.Namespace) -> list[Case]:
    """The cases to measure; those on the same arrays follow each other."""
    cases = []
    if options.targets:
        cases = targets.cases(options.operations)
    elif not options.growth or options.operations or options.shapes:
        on_logits = options.operations or (QUICK_OPERATIONS if options.quick else ON_LOGITS)
        for dtype in options.dtype:
            for operation in on_logits:
                if options.shapes:
                    places = options.shapes
                elif operation.startswith("binary"):
                    places = [(shape, -1) for shape in BINARY_SHAPES]
                elif "linear" in operation:
                    places = [(shape, -1) for shape in LINEAR_SHAPES]
                elif operation == "evaluate":
                    places = [(shape, -1) for shape in EVALUATED_SHAPES]
                elif operation == "fit_temperature":
                    places = [(FITTED_SHAPE, -1)]
                elif operation == "compare":
                    places = [(shape, -1) for shape in COMPARED_SHAPES]
                elif operation in DIVERGING:
                    places = [(shape, -1) for shape in DIVERGING_SHAPES]
                else:
                    places = [(shape, -1) for shape in (QUICK_SHAPES if options.quick else SHAPES)]
                cases += [Case(operation, shape, axis, dtype) for shape, axis in places]
            if not (options.quick or options.operations or options.shapes):
                cases += [
                    Case("binary_cross_entropy_with_logits", s, -1, dtype) for s in BINARY_SHAPES
                ]
                cases += [Case("linear_softmax_loss", s, -1, dtype) for s in LINEAR_SHAPES]
                cases += [Case("softmax", *place, dtype) for pair in AXIS_PAIRS for place in pair]
                cases += [Case("evaluate", s, -1, dtype) for s in EVALUATED_SHAPES]
                cases.append(Case("fit_temperature", FITTED_SHAPE, -1, dtype))
                cases += [Case(o, s, -1, dtype) for o in DIVERGING for s in DIVERGING_SHAPES]
                cases += [Case("compare", s, -1, dtype) for s in COMPARED_SHAPES]
    order = {inputs: k for k, inputs in enumerate(dict.fromkeys(case.inputs for case in cases))}
    return sorted(dict.fromkeys(cases), key=lambda case: order[case.inputs])


def _fits(case: Case, n_contestants: int) -> bool:
    """Whether every contestant can hold input, output, a copy of its own and a temporary."""
    available = harness.available_memory()
    itemsize = np.dtype(case.dtype).itemsize
    return available is None or 4 * n_contestants * case.elements * itemsize < 0.9 * available


def measure(options: argparse.Namespace, say) -> Results:
    """Run the contest the options ask for."""
    cases = plan(options)
    rounds = options.rounds or (3 if options.quick else 9)
    seconds = 0.02 if options.quick else 0.05
    results = Results(
        machine=harness.machine(),
        settings={
            "threads": options.threads,
            "isa": options.isa,
            "rounds": rounds,
            "seconds_a_turn": seconds,
        },
    )
    load = results.machine["load_before"]
    if load is not None and load > 0.3:
        say(f"the machine is busy (load {load}): the figures will show it")
    if cases:
        names = [peer.__name__ for peer in PEERS] if options.peers is None else options.peers
        contestants = [
            Contestant("SoftmaxFast", options.threads, options.isa),
            *(Contestant(name, options.threads) for name in names),
            Contestant("MemoryLimit", options.threads, options.isa),
            Contestant("ArithmeticLimit", options.threads, options.isa),
            *(targets.variants(options.threads) if options.targets else ()),
            *(
                Contestant(name, options.threads, options.isa)
                for name in ("LossAlone", "CommandLine")
                if any(case.operation == "evaluate" for case in cases)
            ),
        ]
        with Contest(contestants, say) as contest:
            for contestant in contestants:
                if contestant.name in contest.versions:
                    results.contestants[contestant.name] = {
                        "kind": contestant.kind,
                        "versions": contest.versions[contestant.name],
                    }
            inputs = logs = None
            for case in cases:
                n = len(contest.taking_part(case))
                if not _fits(case, n):
                    say(f"{case}: skipped, not enough memory for {n} contestants")
                    continue
                if case.inputs != inputs:
                    inputs, logs = case.inputs, harness.reference(case, harness.make_arrays(case))
                results.table[case] = contest.run(case, logs, rounds, seconds)
                say(report.progress(results, case))
    every_target = options.targets and not options.operations
    if options.growth or every_target:
        say("growth with size and threads …")
        results.growth = growth.measure(options.dtype[0], options.threads, options.quick)
    if every_target:
        say("short rows …")
        results.short_rows = short_rows.measure(options.threads)
        say("calls on ten numbers …")
        results.small_calls = small_calls.measure()
    return results


def main(argv: list[str] | None = None) -> int:
    options = _arguments(argv)
    end_in_good_order()
    if options.from_json:
        runs = [Results.from_json(path.read_text(encoding="utf-8")) for path in options.from_json]
        results = Results.together(runs)
    else:
        results = measure(options, say)
    if options.json:
        options.json.write_text(results.to_json(), encoding="utf-8")
    if options.bars:
        options.bars.write_text(report.bars(results), encoding="utf-8")
    if options.update_results and options.targets:
        harness.replace_between(RESULTS, "targets", targets.markdown(results))
    elif options.update_results:
        diverging = (*DIVERGING, "compare")
        others = results.of(set(OPERATIONS) - {*harness.EVALUATING, *diverging})
        if others.table:
            harness.replace_between(RESULTS, "speed", report.markdown(others))
            harness.replace_between(README, "speed", report.summary(others))
        for marker, operations in (("evaluation", harness.EVALUATING), ("divergence", diverging)):
            some = results.of(operations)
            if some.table:
                harness.replace_between(RESULTS, marker, report.markdown(some))
    if options.markdown:
        print(report.markdown(results))
    elif results.table:
        print(report.text(results))
    if results.growth:
        print("\n" + growth.text(results.growth))
    if results.short_rows:
        print("\n" + short_rows.text(results.short_rows))
    if options.targets:
        print("\n" + targets.text(results))
    failed = [
        row
        for row in results.table.values()
        if row.get(report.OURS, harness.Measurement()).status != "ok"
    ]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
