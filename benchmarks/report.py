"""Tables and the picture of a comparison."""

from math import floor, isnan, log2
from xml.sax.saxutils import escape

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
# What the README shows of all that is measured, and the panels of its picture.
SUMMARY = (
    ("softmax", (1, 10)),
    ("softmax", (65536, 10)),
    ("softmax", (64, 1000)),
    ("softmax", (16384, 1000)),
    ("softmax_loss", (16384, 1000)),
    ("softmax_loss_and_grad", (16384, 1000)),
)
PICTURED = ("softmax", "log_softmax", "softmax_loss", "softmax_loss_and_grad")


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
        beside = [
            name
            for name in results.names("beside")
            if any(name in results.table[case] for case in cases)
        ]
        head = [
            "shape",
            OURS,
            *beside,
            *peers,
            "× fastest peer",
            *results.names("limit"),
            "of the limit",
        ]
        rows = [_row(results, case, beside + peers) for case in _in_order(cases)]
        tables.append((f"{OPERATIONS[operation].title}, {dtype}", render(head, rows)))
    return tables


def text(results: Results) -> str:
    parts = [describe(results), "Best times in µs."]
    parts += [f"{title}\n{table}" for title, table in _tables(results, text_table)]
    return "\n\n".join(parts)


def markdown(results: Results) -> str:
    parts = [
        f"Best of {results.settings['rounds']} interleaved rounds, µs, {_threads(results)} each. "
        "Memory limit: moving the bytes once; exp limit: the bare exponentials in L1; both on all "
        "threads and in the same rounds. *Of the limit*: the slower of the two over our time. "
        + describe(results)
    ]
    parts += [f"**{title}**\n\n{table}" for title, table in _tables(results, markdown_table)]
    return "\n\n".join(parts)


def progress(results: Results, case: Case) -> str:
    """One line on a case just measured."""
    ours, (peer, name) = results.best(case, OURS), results.best_peer(case)
    return (
        f"{case!s:55} {format_us(ours):>9} µs"
        f"  × {name or 'fastest peer'}: {format_ratio(peer / ours)}"
        f"  of the limit: {format_ratio(results.limit(case) / ours)}"
    )


def _title(operation: str) -> str:
    return OPERATIONS[operation].title.replace("`", "")


def _ratio(results: Results, case: Case) -> float:
    """How many times as fast as the fastest peer; NaN when either was not measured."""
    return results.best_peer(case)[0] / results.best(case, OURS)


def _pictured(results: Results) -> dict[str, list[Case]]:
    """The cases of the picture with a ratio, by operation."""
    panels = {
        name: [
            case
            for case in _in_order(list(results.table))
            if (case.operation, case.axis, case.dtype) == (name, -1, "float32")
            and not isnan(_ratio(results, case))
        ]
        for name in PICTURED
    }
    return {name: cases for name, cases in panels.items() if cases}


def summary(results: Results) -> str:
    """A few rows for the README, and every case of the picture that a peer wins."""
    others = ("NumPy", "PyTorch")
    rows = []
    for operation, shape in SUMMARY:
        case = Case(operation, shape)
        _, peer = results.best_peer(case)
        rows.append(
            [
                f"{_title(operation)}, {case.layout}",
                *(format_us(results.best(case, name)) for name in (OURS, *others)),
                f"{format_us(results.best_peer(case)[0])} ({peer})" if peer else "–",
                format_ratio(_ratio(results, case)),
            ]
        )
    head = ["µs, float32", OURS, *others, "fastest peer", "× fastest peer"]
    cases = [case for panel in _pictured(results).values() for case in panel]
    lost = [
        f"{_title(case.operation)}, {case.layout} (× {format_ratio(_ratio(results, case))})"
        for case in cases
        if _ratio(results, case) < 1
    ]
    said = f"Of the {len(cases)} cases in the picture, a peer is faster in {len(lost)}"
    return f"{markdown_table(head, rows)}\n\n{said}{': ' if lost else ''}{'; '.join(lost)}."


def bars(results: Results) -> str:
    """An SVG of how many times as fast as the fastest peer: a panel an operation, log scale."""
    panels = _pictured(results)
    if not panels:
        raise SystemExit("nothing to draw: no float32 case with a peer beside softmax_fast")
    ratios = [_ratio(results, case) for cases in panels.values() for case in cases]
    low, high = min(-0.5, log2(min(ratios))), max(1.0, log2(max(ratios)))
    row, panel_width, label_width, bar_width = 17, 380, 84, 175
    panel_height = row * max(map(len, panels.values())) + 56
    height = 62 + panel_height * -(-len(panels) // 2)
    parts = []

    def put(x, y, text, style=""):
        parts.append(f'<text x="{x:.1f}" y="{y}"{style}>{escape(text)}</text>')

    bold, to_the_left, centred = (
        f" {style}" for style in ('font-weight="bold"', 'text-anchor="end"', 'text-anchor="middle"')
    )
    peers = ", ".join(results.names("peer"))
    put(12, 22, "How many times as fast as the fastest peer, log scale", f'{bold} font-size="14"')
    put(12, 38, f"float32, {_threads(results)}, {results.machine['cpu']}")
    put(12, 52, f"peers: {peers}; left of the line: the peer is faster")
    for k, (operation, cases) in enumerate(panels.items()):
        left, top = 12 + k % 2 * panel_width, 62 + k // 2 * panel_height
        bottom = top + 28 + row * len(cases)
        octave = bar_width / (high - low)
        one = left + label_width - low * octave  # where the ratio is 1
        put(left, top + 18, _title(operation), bold)
        for power in range(floor(high) + 1):
            x, colour = one + power * octave, "#ddd" if power else "#222"
            parts.append(f'<path d="M{x:.1f} {top + 26}V{bottom + 2}" stroke="{colour}"/>')
            put(x, bottom + 14, f"{2**power}×", centred)
        for y, case in zip(range(top + 28, bottom, row), cases, strict=True):
            ratio, (_, peer) = _ratio(results, case), results.best_peer(case)
            end = one + log2(ratio) * octave
            x, width = min(one, end), abs(end - one)
            size = f'x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{row - 5}"'
            parts.append(f'<rect {size} fill="{"#3b6ea8" if ratio >= 1 else "#c2410c"}"/>')
            put(left + label_width - 6, y + 12, case.layout, to_the_left)
            put(x + width + 4, y + 12, f"{format_ratio(ratio)} {peer}", bold * (ratio < 1))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="770" viewBox="0 0 770 {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11" fill="#222">'
    )
    background = f'<rect width="770" height="{height}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"
