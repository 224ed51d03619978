"""Tables and plots of a comparison."""

from math import isnan
from pathlib import Path

from harness import (
    OPERATIONS,
    SHAPES,
    Case,
    Results,
    describe,
    format_ratio,
    format_us,
    markdown_table,
    text_table,
)

OURS = "softmax_fast"


def _threads(results: Results) -> str:
    count = results.settings["threads"]
    return "1 thread" if count == 1 else f"{count} threads"


def _row(results: Results, case: Case, peers: list[str]) -> list[str]:
    ours, (peer, _) = results.best(case, OURS), results.best_peer(case)
    measured = results.table.get(case, {})

    def cell(name):
        row = measured.get(name)
        return "–" if row is None else format_us(row.best) if row.status == "ok" else "failed"

    return [
        case.layout,
        cell(OURS),
        *map(cell, peers),
        format_ratio(peer / ours),
        *map(cell, results.names("limit")),
        format_ratio(results.limit(case) / ours),
    ]


def _in_order(cases: list[Case]) -> list[Case]:
    """As the shapes are listed in harness.py; others after them, by size."""
    known = {shape: k for k, shape in enumerate(SHAPES)}
    return sorted(
        cases,
        key=lambda case: (known.get(case.shape, len(known)), case.axis == -1, case.elements),
    )


def _tables(results: Results, render) -> list[tuple[str, str]]:
    """(dtype and operation, table) of everything measured."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in results.table:
        groups.setdefault((case.dtype, case.operation), []).append(case)
    tables = []
    for (dtype, operation), cases in sorted(
        groups.items(), key=lambda item: (item[0][0], list(OPERATIONS).index(item[0][1]))
    ):
        peers = [
            name
            for name in results.names("peer")
            if any(name in results.table[case] for case in cases)
        ]
        head = ["shape", OURS, *peers, "× fastest peer", *results.names("limit"), "of the limit"]
        rows = [_row(results, case, peers) for case in _in_order(cases)]
        tables.append((f"{OPERATIONS[operation].title}, {dtype}", render(head, rows)))
    return tables


def text(results: Results) -> str:
    parts = [describe(results), "Best times in µs."]
    parts += [f"{title}\n{table}" for title, table in _tables(results, text_table)]
    return "\n\n".join(parts)


def markdown(results: Results, image: str | None = None, opened: int = 1) -> str:
    """The tables in Markdown; all but the first ``opened`` and the loss's folded away."""
    parts = [
        f"Best of {results.settings['rounds']} interleaved rounds, µs, {_threads(results)} each. "
        "Memory limit: moving the bytes once; exp limit: the bare exponentials in L1; both on all "
        "threads and in the same rounds. *Of the limit*: the slower of the two over our time. "
        + describe(results)
    ]
    if image:
        parts.append(f"![speed relative to softmax_fast]({image})")
    tables = _tables(results, markdown_table)
    for k, (title, table) in enumerate(tables):
        if k < opened or title == f"{OPERATIONS['softmax_loss'].title}, float32":
            parts.append(f"**{title}**\n\n{table}")
        else:
            parts.append(
                f"<details><summary>{title}</summary>\n\n{table}\n\n</details>".replace("`", "")
            )
    return "\n\n".join(parts)


def progress(results: Results, case: Case) -> str:
    """One line on a case just measured."""
    ours, (peer, name) = results.best(case, OURS), results.best_peer(case)
    return (
        f"{case!s:55} {format_us(ours):>9} µs"
        f"  × {name or 'fastest peer'}: {format_ratio(peer / ours)}"
        f"  of the limit: {format_ratio(results.limit(case) / ours)}"
    )


def plot(results: Results, path: Path) -> None:
    """How many times as long as this library each peer takes: a panel an operation, log scale."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = OURS  # equal results give equal files
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    dtype = "float32" if any(c.dtype == "float32" for c in results.table) else "float64"
    panels: dict[str, list[Case]] = {}
    for case in results.table:
        if case.dtype == dtype and results.best(case, OURS) > 0:
            panels.setdefault(case.operation, []).append(case)
    panels = {name: _in_order(panels[name]) for name in OPERATIONS if len(panels.get(name, ())) > 1}
    if not panels:
        raise SystemExit("nothing to plot: at least two shapes of one operation are needed")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.4 * columns, 3.3 * rows + 0.6), squeeze=False, sharey=True
    )
    markers = dict(zip(results.names("peer"), "os^Dv*PXhd", strict=False))
    colours = {name: f"C{k}" for k, name in enumerate(markers)}
    seen = {}
    for axis, (operation, cases) in zip(axes.flat, panels.items(), strict=False):
        places = range(len(cases))
        for name, marker in markers.items():
            ratios = [results.best(case, name) / results.best(case, OURS) for case in cases]
            if not all(map(isnan, ratios)):
                (seen[name],) = axis.plot(
                    places, ratios, marker, ms=6, color=colours[name], alpha=0.85, label=name
                )
        limits = [results.limit(case) / results.best(case, OURS) for case in cases]
        (seen["limit of the machine"],) = axis.plot(
            places, limits, "_", ms=16, mew=2, color="black", label="limit of the machine"
        )
        axis.axhline(1, color="black", lw=1)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axis.grid(axis="y", which="major", alpha=0.4)
        axis.set_xticks(
            list(places), [case.layout for case in cases], rotation=30, ha="right", fontsize=8
        )
        axis.set_title(OPERATIONS[operation].title.replace("`", ""), fontsize=10)
        axis.set_xlim(-0.5, len(cases) - 0.5)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("time / softmax_fast's time")
    figure.legend(
        seen.values(), seen.keys(), loc="upper center", ncols=5, fontsize=9, frameon=False
    )
    figure.text(
        0.5,
        0.005,
        f"{dtype}, {_threads(results)}, {results.machine['cpu']}; above 1: slower",
        ha="center",
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1 - 0.55 / figure.get_figheight()))
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=120, metadata=metadata)
    plt.close(figure)
