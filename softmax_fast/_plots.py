"""Pictures of an `Evaluation` or a `Comparison`, by matplotlib, which nothing else in the package needs."""

import importlib.util
import io
import os

import numpy as np

FORMATS = ("png", "svg", "pdf")
# Inches: the column, the square, and what is left of, below and above it.
COLUMN_WIDTH, SIDE, LEFT, BELOW, ABOVE, ABOVE_TWO = 3.4, 2.70, 0.60, 1.30, 0.40, 0.62
INK, GAP, PALE = "#1f2d3d", "#d62728", "#8a8f98"
# The same picture gives the same bytes: no random names and no date.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "softmax_fast", "pdf.fonttype": 42}
METADATA = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}


def format_of(path):
    """``"png"``, ``"svg"``, ``"pdf"``, or None for another file."""
    suffix = os.path.splitext(path)[1].removeprefix(".").lower()
    return suffix if suffix in FORMATS else None


def is_available():
    """Whether there is a matplotlib; it is not imported."""
    return importlib.util.find_spec("matplotlib") is not None


def new_axes(*, two_curves=False, figure=None):
    """Axes of a figure of a column's width, by default a new one that no window shows."""
    from matplotlib.figure import Figure

    figure = Figure() if figure is None else figure
    height = BELOW + SIDE + (ABOVE_TWO if two_curves else ABOVE)
    figure.set_size_inches(COLUMN_WIDTH, height)
    return figure.add_axes(
        (LEFT / COLUMN_WIDTH, BELOW / height, SIDE / COLUMN_WIDTH, SIDE / height)
    )


def axes_of_pyplot(**options):
    """`new_axes` of a new figure of pyplot."""
    if not is_available():
        raise ImportError("plots need matplotlib: pip install 'softmax-fast[plot]'")
    from matplotlib import pyplot

    return new_axes(figure=pyplot.figure(), **options)


def saved(axes, kind):
    """The bytes of the picture that `axes` are in, as a file of this format."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        axes.get_figure().savefig(buffer, format=kind, dpi=200, metadata=METADATA[kind])
    return buffer.getvalue()


def reliability_diagram(evaluation, ax=None, before=None):
    """Draw accuracy over confidence, bin by bin, and how many rows are in each bin.

    Points lie at a bin's mean confidence and accuracy, with Wilson's 95 % interval; what lies
    between them and the diagonal is red. Below, the share of the rows in each bin, and both means.

    Parameters
    ----------
    evaluation : Evaluation
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure of pyplot. The strip of counts is drawn below it.
    before : Evaluation, optional
        Of the same rows before the temperature was fitted: a second curve, and its numbers.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        ax = axes_of_pyplot(two_curves=before is not None)
    small = {"fontsize": 7}
    bins = _filled_bins(evaluation)
    ax.plot([0, 1], [0, 1], color=PALE, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1)
    ax.vlines(
        bins.confidence,
        bins.confidence,
        bins.accuracy,
        color=GAP,
        linewidth=4,
        alpha=0.55,
        zorder=2,
    )
    if before is not None:
        _curve(ax, _filled_bins(before), PALE, "s", "white", _named("before", before))
    _curve(ax, bins, INK, "o", INK, None if before is None else _named("after", evaluation))
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    ax.set_ylabel("accuracy", fontsize=8)
    ax.tick_params(labelsize=7, labelbottom=False)
    ax.text(0, 1.09 if before is not None else 1.02, _numbers(evaluation, before),
            transform=ax.transAxes, va="bottom", linespacing=1.35, **small)  # fmt: skip
    if before is not None:
        ax.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, frameon=False, borderpad=0.2,
            handlelength=1.8, **small,
        )  # fmt: skip
    _strip(ax.inset_axes([0, -0.29, 1, 0.25], sharex=ax), evaluation, before)
    return ax


def _filled_bins(evaluation):
    """The bins that hold rows."""
    bins = evaluation.reliability()
    filled = np.asarray(bins.count) > 0
    parts = [bins.count, bins.confidence, bins.accuracy, bins.lower, bins.upper]
    return type(bins)(bins.edges, *(np.asarray(part)[filled] for part in parts))


def _curve(ax, bins, color, marker, face, label):
    low = np.maximum(0, bins.accuracy - bins.lower)
    high = np.maximum(0, bins.upper - bins.accuracy)
    ax.errorbar(
        bins.confidence, bins.accuracy, yerr=[low, high], color=color, marker=marker,
        markersize=3.5, markerfacecolor=face, linewidth=0.9, elinewidth=0.8, capsize=1.8, label=label, zorder=3,
    )  # fmt: skip


def _named(when, evaluation):
    return f"{when}, T = {evaluation.temperature:.4g}"


def _numbers(evaluation, before):
    """The lines above the picture."""
    ece = "" if before is None else f"{before.ece:.4f} → "
    return (
        f"{evaluation.n} rows, ECE {ece}{evaluation.ece:.4f}, floor {evaluation.ece_floor:.4f}\n"
        f"accuracy {evaluation.accuracy:.4f}, mean confidence {evaluation.confidence:.4f}"
    )


def _strip(ax, evaluation, before):
    """The share of the rows in each bin, and where the means are."""
    for which, style in (
        (evaluation, {"color": INK, "alpha": 0.45}),
        (before, {"color": PALE, "fill": False, "linewidth": 1.0}),
    ):
        if which is not None:
            bins = which.reliability()
            count = np.asarray(bins.count, float)
            ax.stairs(count / max(1.0, count.sum()), bins.edges, **{"fill": True, **style})
    ax.axvline(evaluation.confidence, color=INK, linewidth=1.0, linestyle=":")
    ax.axvline(evaluation.accuracy, color=INK, linewidth=1.0)
    _shares_upwards(ax)
    ax.set_xlabel("confidence\nlines: accuracy, and dotted the mean confidence", fontsize=7)
    ax.tick_params(labelsize=7)


def _shares_upwards(ax):
    """An axis for shares of the rows."""
    ax.set_yscale("symlog", linthresh=0.01, linscale=0.4)
    ax.set(ylim=(0, 1), yticks=[0.01, 0.1, 1])
    ax.set_yticklabels(["1 %", "10 %", "100 %"])
    ax.minorticks_off()
    ax.set_ylabel("rows", fontsize=8)


# Powers of 10 below the greatest divergence that there is room for.
DECADES = 12


def distributions(comparison, ax=None):
    """Draw how the divergences of the rows are distributed and, with targets, the changes of p.

    Parameters
    ----------
    comparison : Comparison
    ax : matplotlib.axes.Axes, optional
        Where to draw, one picture above the other; by default a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        ax = axes_of_pyplot()
    ax.set_axis_off()
    has_dp = comparison.dp is not None
    ax.text(0, 1.02, _words(comparison), transform=ax.transAxes, va="bottom", linespacing=1.35,
            fontsize=7)  # fmt: skip
    upper = ax.inset_axes([0, 0.51, 1, 0.49] if has_dp else [0, -0.27, 1, 1.27])
    _divergences(upper, *comparison._state.kl.distribution(), comparison.kl)
    if has_dp:
        lower = ax.inset_axes([0, -0.27, 1, 0.49])
        _changes(lower, *comparison._state.dp.distribution(), comparison.dp)
    return ax


def _words(comparison):
    """The lines above the picture."""
    lines = [f"{comparison.n} rows, mean KL {comparison.kl:.4g} ± {comparison.kl_stderr:.2g} nats"]
    words = [f"same top {100 * comparison.same_top:.4g} %"]
    if comparison.dp is not None:
        words.append(f"perplexity × {comparison.perplexity_ratio:.4g}")
        words.append(f"RMS Δp {100 * comparison.dp_rms:.3g} %")
    lines.append(", ".join(words))
    return "\n".join(lines)


def _histogram(ax, values, weights, edges, mean, median):
    """Shares of the rows between edges, the first and last with all beyond, and two lines."""
    inside = np.clip(values, edges[0], edges[-1])
    count, _ = np.histogram(inside, edges, weights=weights)
    ax.stairs(count / max(1e-300, count.sum()), edges, fill=True, color=INK, alpha=0.45)
    ax.axvline(mean, color=INK, linewidth=1.0)
    ax.axvline(median, color=INK, linewidth=1.0, linestyle=":")
    ax.set_xlim(edges[0], edges[-1])
    _shares_upwards(ax)
    ax.tick_params(labelsize=7)


def _median(values, weights):
    if not len(values):
        return np.nan
    order = np.argsort(values)
    up_to = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    return values[order][np.searchsorted(up_to, up_to[-1] / 2)]


def _divergences(ax, values, weights, mean):
    above = values[(values > 0) & np.isfinite(values)]
    top = np.ceil(np.log10(above.max())) if len(above) else 0.0
    low = np.floor(np.log10(np.quantile(above, 0.001))) if len(above) else -1.0
    low = max(min(low, top - 1), top - DECADES)
    edges = np.logspace(low, top, round(10 * float(top - low)) + 1)
    ax.set_xscale("log")
    _histogram(ax, values, weights, edges, mean, _median(values, weights))
    ax.set_xlabel(
        "KL divergence, nats; the first bar has all below\nlines: mean, and dotted the median",
        fontsize=7,
    )


def _changes(ax, values, weights, mean):
    above = np.logspace(0, 2, 21)
    edges = np.concatenate([-above[::-1], np.linspace(-1, 1, 11)[1:-1], above])
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    _histogram(ax, 100 * values, weights, edges, 100 * mean, 100 * _median(values, weights))
    ax.set_xticks([-100, -10, -1, 0, 1, 10, 100])
    ax.set_xticklabels(["−100", "−10", "−1", "0", "1", "10", "100"])
    ax.set_xlabel("Δp of the label, %", fontsize=7)
