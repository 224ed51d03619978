"""Reliability diagrams: what is drawn, that nothing is cut or overlaps, and their files."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import softmax_fast as sf
from softmax_fast import _plots

DATA = Path(__file__).parent / "data"
DIGITS = (str(DATA / "digits_logits.npy"), str(DATA / "digits_labels.npy"))
PICTURE = Path(__file__).parent.parent / "docs" / "reliability.svg"

mpl = pytest.importorskip("matplotlib")
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg
needs_pyplot = pytest.mark.usefixtures("agg")


@pytest.fixture
def agg():
    """No windows."""
    mpl.use("agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def digits(temperature=1.0, **options):
    logits, labels = map(np.load, DIGITS)
    return sf.evaluate(logits, labels, temperature=temperature, **options)


def uniform(n=20000, seed=2):
    """Confidences all over (1/2, 1], as often right as they say."""
    rng = np.random.default_rng(seed)
    p = 0.5 + rng.random(n) / 2
    return sf.evaluate(np.log([p, 1 - p]).T, (rng.random(n) > p).astype(int))


def worst():
    """Sure of itself and always wrong."""
    return sf.evaluate([[9.0, 0.0]] * 50, [1] * 50)


CASES = {
    "digits": lambda: (digits(), None),
    "before and after": lambda: (digits(2.4), digits()),
    "other bins": lambda: (digits(n_bins=40), None),
    "one bin": lambda: (digits(n_bins=1), None),
    "confidences all over": lambda: (uniform(), None),
    "always wrong": lambda: (worst(), worst()),
    "one row": lambda: (sf.evaluate([[1.0, 0.0]], [0]), None),
    "many rows": lambda: (uniform(300_000), uniform(300_000, 3)),
    "NaN": lambda: (sf.evaluate([[1.0, 0.0], [np.nan, 0.0]], [0, 0]), None),
}


def drawn(case):
    evaluation, before = CASES[case]()
    axes = _plots.new_axes(two_curves=before is not None)
    _plots.reliability_diagram(evaluation, axes, before)
    figure = axes.get_figure()
    FigureCanvasAgg(figure).draw()
    return axes, figure


def test_points_lie_at_confidence_and_accuracy_with_their_intervals():
    evaluation = digits()
    axes = _plots.new_axes()
    assert evaluation.plot(axes) is axes
    bins = evaluation.reliability()
    some = bins.count > 0
    (container,) = axes.containers
    points, _, (bars,) = container.lines
    np.testing.assert_array_equal(points.get_xdata(), bins.confidence[some])
    np.testing.assert_array_equal(points.get_ydata(), bins.accuracy[some])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends[:, 0], bins.lower[some], atol=1e-15)
    np.testing.assert_allclose(ends[:, 1], bins.upper[some], atol=1e-15)


def test_both_curves_and_their_numbers_are_there():
    axes, _ = drawn("before and after")
    before, after = axes.containers
    assert before.get_label() == "before, T = 1"
    assert after.get_label() == "after, T = 2.4"
    (text,) = axes.texts
    for part in ("899 rows", "ECE 0.0267 → 0.0152", "floor 0.0151", "accuracy 0.9577"):
        assert part in text.get_text()


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_cut_or_overlaps(case):
    axes, figure = drawn(case)
    (strip,) = axes.child_axes
    page = figure.bbox
    legend = axes.get_legend()
    texts = [*axes.texts, axes.yaxis.label, strip.yaxis.label, strip.xaxis.label]
    ticks = [
        tick.label1
        for axis in (axes.yaxis, strip.xaxis, strip.yaxis)
        for tick in axis.get_major_ticks()
        if axis.get_view_interval()[0] <= tick.get_loc() <= axis.get_view_interval()[1]
    ]
    assert len(ticks) >= 14
    boxes = [t.get_window_extent() for t in texts + ticks]
    boxes += [legend.get_window_extent()] if legend else []
    boxes += [axes.bbox, strip.bbox]
    for i, box in enumerate(boxes):
        assert box.x0 >= page.x0 and box.y0 >= page.y0, case
        assert box.x1 <= page.x1 and box.y1 <= page.y1, case
        for other in boxes[:i]:
            # Half a pixel is no overlap.
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert width < 0.5 or height < 0.5, (case, box, other)


def test_it_is_readable_in_grey():
    """The two curves and the gaps differ in lightness, marker or width, not in hue alone."""
    axes, _ = drawn("before and after")
    grey = [
        0.299 * r + 0.587 * g + 0.114 * b
        for r, g, b in map(mpl.colors.to_rgb, (_plots.INK, _plots.PALE))
    ]
    assert abs(grey[0] - grey[1]) > 0.3
    assert len({c.lines[0].get_marker() for c in axes.containers}) == 2


@needs_pyplot
def test_a_new_figure_is_made_by_pyplot():
    from matplotlib import pyplot

    axes = digits().plot()
    assert axes.get_figure() is pyplot.gcf()


@pytest.mark.parametrize("kind", _plots.FORMATS)
def test_the_same_picture_gives_the_same_bytes(run, tmp_path, kind):
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        code, out, err = run("evaluate", *DIGITS, "--plot", path)
        assert (code, err) == (0, "") and "mean loss" in out
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes().startswith(starts[kind])
    assert str(tmp_path).encode() not in paths[0].read_bytes()


def test_an_svg_keeps_its_text(run, tmp_path):
    path = tmp_path / "x.svg"
    assert run("calibrate", *DIGITS, "--plot", path)[0] == 0
    words = " ".join(e.text or "" for e in ET.parse(path).iter() if e.tag.endswith("text"))
    for part in ("accuracy", "confidence", "899 rows", "before, T = 1", "after, T = 2.406"):
        assert part in words
    assert path.stat().st_size < 50_000


@pytest.mark.parametrize("more", [[], ["--apply", *DIGITS], ["--cross-fit", "3"]])
def test_calibrate_draws_both_curves(run, tmp_path, more):
    path = tmp_path / "x.svg"
    code, _, err = run("calibrate", *DIGITS, *more, "--plot", path)
    assert (code, err) == (0, "")
    text = path.read_text(encoding="utf-8")
    assert "before, T = 1" in text and "after, T = 2.406" in text


def test_bad_names_of_pictures(run, tmp_path):
    for name, message in (
        ("x.jpg", "x.jpg: expected the name of a .png, .svg or .pdf file"),
        ("x", "x: expected the name of a .png, .svg or .pdf file"),
        ("none/x.png", "No such file or directory"),
    ):
        for command in ("evaluate", "calibrate"):
            code, out, err = run(command, *DIGITS, "--plot", tmp_path / name)
            assert (code, out) == (2, "") and err.count("\n") == 1
            assert message in err
    assert os.listdir(tmp_path) == []


def test_the_picture_of_the_documents_is_that_of_its_command(run, tmp_path):
    if not PICTURE.exists():
        pytest.skip("no documents beside the tests")
    path = tmp_path / "x.svg"
    assert run("calibrate", *DIGITS, "--cross-fit", "5", "--plot", path)[0] == 0
    texts = [
        [e.text for e in ET.parse(p).iter() if e.tag.endswith("text")] for p in (PICTURE, path)
    ]
    assert texts[0] == texts[1]
