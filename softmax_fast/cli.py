"""The command line: ``softmax-fast`` or ``python -m softmax_fast``.

Exit codes: 0 done, 1 standard output cannot be written, 2 the input or the arguments are at fault
(one line on standard error says how), 130 interrupted, 143 terminated.
"""

import argparse
import contextlib
import dataclasses
import errno
import io
import itertools
import json
import math
import os
import signal
import sys
import threading
import time

import numpy as np

from softmax_fast import _plots, log_softmax, show_config, softmax
from softmax_fast._files import (
    InputError,
    OutputFile,
    float_input,
    index_blocks,
    open_array,
    reason,
)
from softmax_fast._layout import Source
from softmax_fast._shards import Shards, StoredLayer, check_shape, read_floats
from softmax_fast._temperature import (
    PassSums,
    SharedPasses,
    fit,
    labelled_rows,
    sample_of,
    start_of,
)
from softmax_fast._threads import resolve
from softmax_fast._version import __version__
from softmax_fast.comparison import _Comparer
from softmax_fast.evaluation import Evaluator, row_statistics
from softmax_fast.linear_evaluation import _statistics, _update

# 16 MiB of float32: work for all threads.
CHUNK_ELEMENTS = 1 << 22
# What an evaluator is given at a time: enough for its merges of sums not to count.
EVALUATED_ELEMENTS = 1 << 24
# Hidden states that go through their layer at a time: the more, the less often its weights are read.
HIDDEN_ROWS = 2048
# A piece across the rows of an array takes at least this many neighbours, for whole cache lines and
# few pages per entry.
LEAST_NEIGHBOURS = 512
PROGRAM = "softmax-fast"
REASONS = {
    "separable": ": every label is a maximum of its row, and the loss falls as long as T does",
    "uninformative": ": the labels are no likelier than other classes, whatever T > 0",
    "constant": ": the logits of every row are equal, and T changes nothing",
}
NO_PROBABILITIES = "NaN or +inf, or nothing but -inf"


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""

    def __init__(self, number):
        self.number = number


class ClosedStream(io.TextIOBase):
    """Stands in for a standard output that is closed."""

    def write(self, text):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextlib.contextmanager
def standard_streams():
    """Take the places of standard streams that are closed, as cron may leave them.

    Else the next file opened would get their number. Printing fails, messages go nowhere.
    """
    with contextlib.ExitStack() as stack:
        for descriptor in range(3):
            try:
                os.fstat(descriptor)
            except OSError:
                # This is the lowest free number. Writing to it fails.
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        if sys.stdout is None:
            stack.enter_context(contextlib.redirect_stdout(ClosedStream()))
        if sys.stderr is None:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding lacks is replaced
            sys.stdout.reconfigure(errors="replace")
        stack.callback(say, "")  # with which warnings go that could not be written
        yield


def discard(stream):
    """Drop what a stream could not write; Python would try once more at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # of a stream without a descriptor
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
        stream.flush()


def say(text):
    """Write to standard error, whether that works or not."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


class Progress:
    """A bar on standard error, shown if that is a terminal and the work lasts over a second."""

    WIDTH = 30

    def __init__(self, total=None, patience=1.0, unit="rows"):
        self.unit = unit
        self.begin(total)
        self.next_update = self.start + patience if sys.stderr.isatty() else math.inf
        self.shown = False

    def begin(self, total, what=""):
        """Begin the next part of the work."""
        self.total = total
        self.what = what
        self.start = time.monotonic()

    def advance(self, done):
        """Say how much of the total is done."""
        now = time.monotonic()
        if now < self.next_update:
            return
        self.next_update = now + 0.2
        self.shown = True
        share = done / self.total
        remaining = (now - self.start) * (1 - share) / share
        rate = scaled(done / (now - self.start))
        bar = ("#" * int(share * self.WIDTH)).ljust(self.WIDTH, ".")
        text = f"{self.what}{remaining:.0f} s left, {rate} {self.unit}/s"
        say(f"\r[{bar}] {share:4.0%}  {text} \x1b[K")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.shown:
            say("\r\x1b[K")


def rows_per_chunk(shards):
    return shards.rows_of(EVALUATED_ELEMENTS)


def no_probabilities(shards, name, row):
    return InputError(f"{name}: row {row} (the first is 0) {shards.holds} {NO_PROBABILITIES}")


def chunks_as_stored(shards, start=0, stop=None):
    """The chunks that `update` and `statistics` take: of a layer, its hidden states."""
    most = rows_per_chunk(shards)
    if shards.layer is not None:
        most = max(most, HIDDEN_ROWS)
    return shards.chunks(most, start, stop, as_stored=True)


def statistics(shards, chunk, temperature=1.0, n_threads=None):
    if shards.layer is not None:
        logits = shards.layer.of(chunk.logits)
        return _statistics(logits, chunk.labels, temperature, shards.ignore_index)
    return row_statistics(
        chunk.logits,
        chunk.labels,
        temperature=temperature,
        ignore_index=shards.ignore_index,
        n_threads=n_threads,
    )


def update(shards, evaluator, chunk):
    try:
        if shards.layer is None:
            evaluator.update(chunk.logits, chunk.labels, sample_weight=chunk.weights)
        else:
            _update(evaluator, shards.layer.of(chunk.logits), chunk.labels, chunk.weights)
    except ValueError:  # of nan_policy="raise"
        rows = statistics(shards, chunk)
        bad = rows.prediction < 0
        bad &= rows.rank >= 0  # not ignored
        if chunk.weights is not None:
            bad &= chunk.weights > 0
        if not bad.any():
            raise
        name, row = shards.place(chunk.rows.start + int(bad.argmax()))
        raise no_probabilities(shards, name, row) from None


def check_outputs(plot, rows):
    """Whether there can be a picture, and a file of the rows' numbers, before any work."""
    if rows is not None and not rows.endswith(".npz"):
        raise InputError(f"{rows}: the rows' numbers go to a .npz file")
    check_plot(plot)


def check_plot(path):
    """Whether there can be a picture, before any work."""
    if path is None:
        return
    if _plots.format_of(path) is None:
        raise InputError(f"{path}: expected the name of a .png, .svg or .pdf file")
    if not _plots.is_available():
        raise InputError("--plot needs matplotlib: pip install 'softmax-fast[plot]'")


def layer_of(arguments):
    """The layer that hidden states go into, or None where the logits are there."""
    if not arguments.hidden:
        for option in ("weights", "bias"):
            if getattr(arguments, option) is not None:
                raise InputError(f"--{option} is for hidden states: give --hidden too")
        return None
    if arguments.weights is None:
        raise InputError("--hidden needs the layer: --weights FILE")
    return StoredLayer(arguments.weights, arguments.bias, arguments.n_threads)


@contextlib.contextmanager
def naming(path):
    """What cannot be written here is this file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {reason(error)}") from None


@contextlib.contextmanager
def written(path):
    """An `OutputFile`, or None if there is no path; errors name it."""
    if path is None:
        yield None
        return
    with naming(path), OutputFile(path) as output:
        yield output


def draw(path, output, evaluation, before=None):
    axes = _plots.new_axes(two_curves=before is not None)
    _plots.reliability_diagram(evaluation, axes, before)
    write_picture(path, output, axes)


def write_picture(path, output, axes):
    output.write(_plots.saved(axes, _plots.format_of(path)))


class RowColumns:
    """What ``--rows`` writes: an array a number, with an entry for each row."""

    def __init__(self, shape):
        self.shape = shape
        self.columns = {}

    def add(self, rows, columns):
        """Numbers by name of these rows."""
        for name, values in columns.items():
            if name not in self.columns:
                self.columns[name] = np.empty(math.prod(self.shape), values.dtype)
            self.columns[name][rows] = values

    def write(self, output):
        np.savez(output.file, **{k: v.reshape(self.shape) for k, v in self.columns.items()})


def evaluate(arguments):
    """Run ``softmax-fast evaluate``."""
    check_outputs(arguments.plot, arguments.rows)
    shards = Shards(
        arguments.logits,
        arguments.targets,
        arguments.sample_weight,
        arguments.ignore_index,
        layer_of(arguments),
    )
    evaluator = Evaluator(
        temperature=arguments.temperature,
        top_k=tuple(sorted({*arguments.top_k, 1, 5})),
        n_bins=arguments.bins,
        classwise=arguments.classwise,
        ignore_index=shards.ignore_index,
        nan_policy=arguments.nan_policy,
        n_threads=arguments.n_threads,
    )
    columns = None if arguments.rows is None else RowColumns(shards.rows_shape)
    with written(arguments.rows) as rows_file, written(arguments.plot) as plot_file:
        start = time.perf_counter()
        with Progress(shards.n_rows) as progress:
            for chunk in chunks_as_stored(shards):
                update(shards, evaluator, chunk)
                if columns is not None:
                    found = statistics(shards, chunk, arguments.temperature, arguments.n_threads)
                    columns.add(chunk.rows, found._asdict())
                progress.advance(chunk.rows.stop)
        seconds = time.perf_counter() - start
        evaluation = evaluator.result()
        check_some_rows(arguments, evaluation)
        if columns is not None:
            with naming(arguments.rows):  # not the picture, in whose block this is
                columns.write(rows_file)
        if plot_file is not None:
            draw(arguments.plot, plot_file, evaluation)
    speed = speed_of(shards, seconds)
    per_byte = {}
    if arguments.bytes is not None:
        bits = evaluation.weight_sum / (math.log(2) * arguments.bytes)
        per_byte = {
            "bytes": arguments.bytes,
            "bits_per_byte": evaluation.loss * bits,
            "bits_per_byte_stderr": evaluation.loss_stderr * bits,
        }
    if arguments.json:
        print_json(evaluation.as_dict() | older_names(evaluation) | per_byte | speed)
        return
    lines = []
    if per_byte:
        value, error = per_byte["bits_per_byte"], per_byte["bits_per_byte_stderr"]
        lines.append(("bits per byte", f"{value:.6g} ± {error:.3g}"))
    if evaluation.first_nonfinite is not None and len(shards.shards) > 1:
        name, row = shards.place(evaluation.first_nonfinite)
        lines.append(("the first is", f"row {row} of {printable(name)}"))
    lines.append(throughput(speed))
    print(evaluation)
    print(table(lines))


def speed_of(shards, seconds):
    return {
        "seconds": seconds,
        "rows_per_second": shards.n_rows / seconds,
        "elements_per_second": shards.n_rows * shards.n_classes / seconds,
    }


def throughput(speed):
    rates = scaled(speed["rows_per_second"]), scaled(speed["elements_per_second"])
    return "throughput", f"{rates[0]} rows/s, {rates[1]} elements/s"


def compare(arguments):
    """Run ``softmax-fast compare``."""
    check_outputs(arguments.plot, arguments.rows)
    shards = Shards(
        arguments.other, arguments.targets, None, arguments.ignore_index, base=arguments.base
    )
    comparer = _Comparer(
        temperature=arguments.temperature,
        ignore_index=shards.ignore_index,
        n_threads=arguments.n_threads,
    )
    columns = None if arguments.rows is None else RowColumns(shards.rows_shape)
    with written(arguments.rows) as rows_file, written(arguments.plot) as plot_file:
        start = time.perf_counter()
        with Progress(shards.n_rows) as progress:
            for chunk in shards.chunks(rows_per_chunk(shards)):
                numbers = None if columns is None else {}
                comparer.update(chunk.base, chunk.logits, chunk.labels, rows=numbers)
                if comparer.first_bad is not None:
                    raise bad_row(shards, chunk, comparer.first_bad)
                if columns is not None:
                    columns.add(chunk.rows, numbers)
                progress.advance(chunk.rows.stop)
        seconds = time.perf_counter() - start
        comparison = comparer.result()
        check_some_rows(arguments, comparison)
        if columns is not None:
            with naming(arguments.rows):  # not the picture, in whose block this is
                columns.write(rows_file)
        if plot_file is not None:
            axes = _plots.distributions(comparison, _plots.new_axes())
            write_picture(arguments.plot, plot_file, axes)
    speed = speed_of(shards, seconds)
    if arguments.json:
        print_json(comparison.as_dict() | speed)
        return
    print(comparison)
    print()
    print(table([throughput(speed)]))


def bad_row(shards, chunk, row):
    """The error for a row of a chunk that has no probabilities in one of the files."""
    base = some_of(chunk.base, slice(row - chunk.rows.start, row - chunk.rows.start + 1))
    of_base = bool((row_statistics(base).prediction < 0).any())
    return no_probabilities(shards, *shards.place(row, of_base=of_base))


def check_some_rows(arguments, evaluation):
    if evaluation.n:
        return
    if evaluation.n_nonfinite:
        raise InputError(f"{arguments.logits}: no row is left, all hold NaN or infinity")
    if arguments.sample_weight is not None:
        raise InputError(f"{arguments.targets}: no row is left, all are ignored or have weight 0")
    raise InputError(
        f"{arguments.targets}: every label is {arguments.ignore_index}, which is ignored"
    )


def older_names(evaluation):
    """The keys of ``--json`` that there were before those of `Evaluation`."""
    return {
        "mean_loss": evaluation.loss,
        "standard_error": evaluation.loss_stderr,
        "top5_accuracy": evaluation.top_k[5],
        "expected_calibration_error": evaluation.ece,
        "rows": evaluation.n,
        "ignored_rows": evaluation.n_ignored,
        "not_finite_rows": evaluation.n_nonfinite,
        "first_not_finite_row": evaluation.first_nonfinite,
        "classes": evaluation.n_classes,
    }


def print_json(values):
    print(json.dumps(json_value(values), indent=2))


def json_value(value):
    """The value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scaled(number):
    """Three digits and the SI prefix: 1.23 M."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{prefix}"
    return f"{number:.3g}"


def table(lines):
    return "\n".join(f"{label:<19}{value}" for label, value in lines)


def fitted(shards, ranges, arguments, progress):
    """The temperature fitted on these ranges of rows; bounds of a range are numbers of rows."""

    def rows_of(chunk):
        return labelled_rows(chunk.logits, chunk.labels, ignore_index=shards.ignore_index)

    def chunks(**options):
        for start, stop in ranges:
            yield from shards.chunks(rows_per_chunk(shards), start, stop, **options)

    n_rows = sum(stop - start for start, stop in ranges)
    n_threads = resolve(arguments.n_threads, n_rows * shards.n_classes)
    passes = itertools.count(1)

    def look(betas):
        progress.begin(n_rows, f"pass {next(passes)}, ")
        totals, done = dict.fromkeys(betas, PassSums()), 0
        for chunk in chunks():
            rows = rows_of(chunk)
            for beta in betas:
                totals[beta] += rows.sums_at(beta, n_threads)
            done += len(chunk.labels)
            progress.advance(done)
        return totals

    def row_error(row):
        for start, stop in ranges:
            if row < stop - start:
                name, row = shards.place(start + row)
                return InputError(
                    f"{name}: row {row} (the first is 0) {shards.holds} {NO_PROBABILITIES}, or -inf at the"
                    " label: there is no temperature for it"
                )
            row -= stop - start
        raise IndexError(row)

    stored = chunks(all_at_once=False, as_stored=True)
    start = first_guess(shards, stored, n_rows)
    sums_at = SharedPasses(look, () if start is None else (start,))
    try:
        found = fit(sums_at, nan_policy="raise", row_error=row_error, start=start)
        return found._replace(n_passes=sums_at.n_passes)
    except ValueError:
        message = f"no row is left, every label is {arguments.ignore_index}, which is ignored"
        if n_rows < shards.n_rows:
            message = "no row is left to fit on beside one of the folds, all others are ignored"
        raise InputError(f"{arguments.targets}: {message}") from None


def judge(shards, evaluators, ranges, progress):
    """Give these ranges of rows to each of the evaluators."""
    progress.begin(sum(stop - start for start, stop in ranges))
    done = 0
    for start, stop in ranges:
        for chunk in chunks_as_stored(shards, start, stop):
            for evaluator in evaluators:
                update(shards, evaluator, chunk)
            done += len(chunk.labels)
            progress.advance(done)


def is_proper(temperature):
    return 0 < temperature < math.inf


def calibrate(arguments):
    """Run ``softmax-fast calibrate``."""
    check_plot(arguments.plot)
    layer = layer_of(arguments)
    shards = Shards(arguments.logits, arguments.targets, None, arguments.ignore_index, layer)
    other = None
    if arguments.apply is not None:
        other = Shards(*arguments.apply, None, arguments.ignore_index, layer)
        check_shape(shards.shards[0].logits, other.shards[0].logits, shards.last_axis)
    n_rows, folds = shards.n_rows, []
    if arguments.cross_fit is not None:
        if arguments.cross_fit > n_rows:
            raise InputError(
                f"{arguments.logits}: has {n_rows} rows, too few for {arguments.cross_fit} folds"
            )
        edges = [i * n_rows // arguments.cross_fit for i in range(arguments.cross_fit + 1)]
        folds = list(itertools.pairwise(edges))

    def evaluator(temperature):
        return Evaluator(
            temperature=temperature,
            ignore_index=shards.ignore_index,
            n_threads=arguments.n_threads,
        )

    with written(arguments.plot) as plot_file, Progress() as progress:
        whole = fitted(shards, [(0, n_rows)], arguments, progress)
        judgements = {"fitted_rows": judged(shards, whole.temperature, evaluator, progress)}
        if other is not None:
            judgements["applied"] = judged(other, whole.temperature, evaluator, progress)
        temperatures = []
        for fold in folds:
            rest = [(0, fold[0]), (fold[1], n_rows)]
            temperatures.append(fitted(shards, rest, arguments, progress).temperature)
        if folds:
            judgements["cross_fit"] = cross_judged(shards, folds, temperatures, evaluator, progress)
        if plot_file is not None:
            before, after = list(judgements.values())[-1]
            if folds and after:
                after = dataclasses.replace(after, temperature=whole.temperature)
            draw(arguments.plot, plot_file, after or before, after and before)

    if arguments.json:
        results = {
            "temperature": whole.temperature,
            "temperature_stderr": whole.stderr,
            "status": whole.status,
            "passes": whole.n_passes,
            "classes": shards.n_classes,
        }
        for name, (before, after) in judgements.items():
            results[name] = {
                "rows": before.n,
                "loss_before": before.loss,
                "loss": after and after.loss,
                "ece_before": before.ece,
                "ece": after and after.ece,
                "ece_floor": after and after.ece_floor,
            }
        if folds:
            results["cross_fit"]["temperatures"] = temperatures
        print_json(results)
        return
    passes = "pass" if whole.n_passes == 1 else "passes"
    error = "" if math.isnan(whole.stderr) else f" ± {whole.stderr:.2g}"
    lines = [
        ("temperature", f"{whole.temperature:.6g}{error}"),
        ("status", f"{whole.status}, {whole.n_passes} {passes}{REASONS.get(whole.status, '')}"),
    ]
    titles = {
        "fitted_rows": "on the rows that T was fitted on, which flatters",
        "applied": f"on {arguments.apply and printable(arguments.apply[0])}, which the fit has not seen",
        "cross_fit": f"each of {len(folds)} folds at the T of the others: "
        + ", ".join(f"{t:.4g}" for t in temperatures),
    }
    for name, (before, after) in judgements.items():
        lines.append(("", ""))
        lines.append((titles[name], ""))
        lines.append(("rows", f"{before.n}"))
        if after is None:
            lines.append(("mean loss", f"{before.loss:.6g} at T = 1"))
            lines.append(("calibration error", f"{before.ece:.6f} at T = 1"))
            continue
        lines.append(("mean loss", f"{before.loss:.6g} → {after.loss:.6g}"))
        floor = f"  (a calibrated model: {after.ece_floor:.6f})"
        lines.append(("calibration error", f"{before.ece:.6f} → {after.ece:.6f}{floor}"))
    print("\n".join(line.rstrip() for line in table(lines).splitlines()))


def judged(shards, temperature, evaluator, progress):
    """`Evaluation` of all rows at T = 1 and at this one, or None where it is 0 or infinite."""
    evaluators = [evaluator(1.0)]
    if is_proper(temperature):
        evaluators.append(evaluator(temperature))
    judge(shards, evaluators, [(0, shards.n_rows)], progress)
    results = [e.result() for e in evaluators]
    if not results[0].n:
        name = shards.shards[0].labels.name
        raise InputError(f"{name}: no row is left to judge a temperature on, all are ignored")
    if math.isnan(results[0].loss):
        name, row = shards.place(results[0].first_nonfinite)
        raise no_probabilities(shards, name, row)
    return *results, *([None] * (2 - len(results)))


def cross_judged(shards, folds, temperatures, evaluator, progress):
    """`Evaluation` of all rows at T = 1, and of each fold at its temperature, as one."""
    if not all(map(is_proper, temperatures)):
        return judged(shards, math.nan, evaluator, progress)
    before, parts = evaluator(1.0), [evaluator(t) for t in temperatures]
    for fold, part in zip(folds, parts, strict=True):
        judge(shards, [before, part], [fold], progress)
        if part is not parts[0]:
            # Evaluators of different temperatures do not merge; the sums over their rows do.
            parts[0]._state.merge(part._state)
    return before.result(), parts[0].result()


def some_of(logits, which):
    """Some rows of a chunk's logits."""
    if isinstance(logits, Source):
        return logits._replace(array=logits.array[which])
    return logits[which]


def first_guess(shards, chunks, n_rows):
    """Where to begin a fit: 1/T of a sample of the rows of chunks as they are stored, or None."""
    chosen = sample_of(n_rows, shards.n_classes)
    if chosen is None:
        return None
    samples, done = [], 0
    for chunk in chunks:
        some = chosen[slice(*np.searchsorted(chosen, [done, done + len(chunk.labels)]))] - done
        done += len(chunk.labels)
        if len(some):
            x = some_of(chunk.logits, some)
            if shards.layer is not None:
                x = shards.logits_of(x).copy()
            labels = chunk.labels[some]
            samples.append(labelled_rows(x, labels, ignore_index=shards.ignore_index))
    return start_of(lambda beta: sum((s.sums_at(beta, 1) for s in samples), PassSums()))


def transform(function, arguments):
    """Run ``softmax-fast softmax`` or ``log-softmax``: `function` of the rows of a file."""
    logits = read_floats(open_array(arguments.input, ("logits",)))
    axis, shape = arguments.axis, logits.shape
    if not -logits.ndim <= axis < logits.ndim:
        raise InputError(
            f"{arguments.input}: axis {axis} is out of range for {logits.ndim} dimensions"
        )
    axis %= logits.ndim
    if arguments.output.endswith(".npz"):
        raise InputError(f"{arguments.output}: the output is a .npy file")
    logits = logits.whole()
    dtype = np.dtype(np.float64 if logits.dtype.itemsize == 8 else np.float32)
    rows = CHUNK_ELEMENTS // max(1, shape[axis])
    rows = max(rows, min(LEAST_NEIGHBOURS, math.prod(shape[axis + 1 :])))
    outer_shape = shape[:axis] + shape[axis + 1 :]
    buffer = np.empty(0, dtype)
    done = 0
    try:
        with (
            OutputFile(arguments.output) as output,
            Progress(max(1, logits.size), unit="elements") as progress,
        ):
            output.write_array_header(shape, dtype)
            for outer in index_blocks(outer_shape, rows) if logits.size else ():
                index = (*outer[:axis], slice(0, shape[axis]), *outer[axis:])
                block = logits[index]
                if buffer.size < block.size:
                    buffer = np.empty(block.size, dtype)
                result = buffer[: block.size].reshape(block.shape)
                function(
                    float_input(block),
                    axis=axis,
                    temperature=arguments.temperature,
                    out=result,
                    n_threads=arguments.n_threads,
                )
                output.write_block(index, result)
                done += block.size
                progress.advance(done)
    except OSError as error:
        raise InputError(f"{arguments.output}: {reason(error)}") from None
    except MemoryError:
        raise InputError(
            f"{arguments.input}: rows along axis {axis} do not fit into memory"
        ) from None


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message, file=None):  # argparse's hides that it cannot write
        file.write(message)


def temperature(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a finite number > 0, got {text!r}")
    return value


def at_least(least, most=2**63 - 1):
    """The type of an argument that is an integer from `least` to `most`."""

    def integer(text):
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text!r}")
        if value > most:
            raise argparse.ArgumentTypeError(f"expected an integer <= {most}")
        return value

    return integer


def several_integers(text):
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected integers >= 1 like 1,5, got {text!r}")
    return values


def optional_label(text):
    if text == "none":
        return None
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer or none, got {text!r}") from None
    if not -(2**63) <= value < 2**64:
        raise argparse.ArgumentTypeError("expected an integer of 64 bits")
    return value


def parser():
    top = Parser(
        prog=PROGRAM,
        description="Softmax, cross-entropy loss and calibration of the logits in files.",
        epilog=f"example: {PROGRAM} evaluate logits.npy labels.npy --temperature 2",
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    threads = argparse.ArgumentParser(add_help=False)
    threads.add_argument(
        "--n-threads",
        type=at_least(1),
        metavar="N",
        help="use at most N threads (default: what the machine allows and the work deserves)",
    )
    shared = argparse.ArgumentParser(add_help=False, parents=[threads])
    shared.add_argument(
        "--temperature",
        type=temperature,
        default=1.0,
        metavar="T",
        help="divide the logits by T > 0 first (default: 1)",
    )
    logits_help = (
        ".npy, .npz or .safetensors file (FILE.npz:NAME for one of its arrays, by default the "
        "only one or 'logits'): float16, bfloat16, float32 or float64, shape (rows, classes) or "
        "(..., classes); a pattern in quotes, 'logits-*.npy', stands for its files in natural "
        "order"
    )
    targets_help = (
        "such a file (by default the only array, 'targets' or 'labels') or a pattern for as "
        "many: class labels of any integer dtype, shape (rows,) or (...)"
    )
    reports = argparse.ArgumentParser(add_help=False)
    reports.add_argument(
        "--ignore-index",
        type=optional_label,
        default=-100,
        metavar="I",
        help="leave out the rows with this label; none for no such label (default: -100)",
    )
    reports.add_argument(
        "--plot",
        metavar="FILE",
        help="draw the reliability diagram, or for compare the distributions, to this .png, .svg "
        "or .pdf file (needs matplotlib)",
    )
    reports.add_argument("--json", action="store_true", help="print one JSON object")
    rows_option = argparse.ArgumentParser(add_help=False)
    rows_option.add_argument(
        "--rows", metavar="OUT.npz", help="write the numbers of each row, an array a number"
    )
    labelled = argparse.ArgumentParser(add_help=False, parents=[reports])
    labelled.add_argument(
        "logits",
        metavar="LOGITS",
        help=logits_help,
    )
    labelled.add_argument(
        "targets",
        metavar="TARGETS",
        help=targets_help,
    )
    labelled.add_argument(
        "--hidden",
        action="store_true",
        help="the first file holds no logits but what goes into the last layer, shape (rows, "
        "features) or (..., features): the logits are hidden @ weights.T + bias, some rows at a "
        "time",
    )
    labelled.add_argument(
        "--weights",
        metavar="FILE",
        help="the layer's weights, shape (classes, features), in such a file (FILE.safetensors:NAME)",
    )
    labelled.add_argument(
        "--bias", metavar="FILE", help="the layer's bias, shape (classes,), in such a file"
    )

    command = commands.add_parser(
        "evaluate",
        parents=[shared, labelled, rows_option],
        help="loss, perplexity, accuracy and calibration of logits against labels",
        description="Print the mean cross-entropy loss of logits against the true labels, accuracy "
        "and top-k accuracy, with their standard errors, the perplexity exp(mean loss), Brier "
        "score, entropy, expected calibration error beside what it would be for a calibrated model, and "
        "the throughput. Of equal logits the one of the lower class counts as the greater, as in "
        "argmax; a row that holds a NaN counts as wrong. Files are worked through in chunks and "
        "may be larger than the memory.",
        epilog=f"example: {PROGRAM} evaluate val.npz:logits val.npz:labels --temperature 2 --json",
    )
    command.add_argument(
        "--top-k",
        type=several_integers,
        default=[1, 5],
        metavar="K,...",
        help="count the rows whose label is among the first K (default: 1,5)",
    )
    command.add_argument(
        "--bins",
        type=at_least(1, 1_000_000),
        default=15,
        metavar="B",
        help="equal bins of confidence for the calibration error (default: 15)",
    )
    command.add_argument(
        "--classwise", action="store_true", help="the calibration error of every class too"
    )
    command.add_argument(
        "--sample-weight",
        metavar="FILE",
        help="a weight >= 0 for each row, in such a file or a pattern for as many",
    )
    command.add_argument(
        "--bytes",
        type=at_least(1),
        metavar="N",
        help="the text has N bytes: print the loss in bits per byte too",
    )
    command.add_argument(
        "--nan-policy",
        choices=("propagate", "omit", "raise"),
        default="propagate",
        help="of rows that hold NaN or +inf, or -inf alone: make the means NaN, leave them out, or "
        "stop (default: propagate)",
    )
    command.set_defaults(run=evaluate)

    command = commands.add_parser(
        "compare",
        parents=[shared, reports, rows_option],
        help="how far the distributions of one model's logits are from those of another",
        description="Print the Kullback-Leibler divergence of the distributions of OTHER from those "
        "of BASE with its standard error and quantiles, other distances, and how often both have "
        "the same greatest logit; with TARGETS both perplexities, their paired difference and the "
        "change of the label's probability too. Order and words are those of llama.cpp's "
        "perplexity --kl-divergence. Files are worked through once, in chunks, and may be larger "
        "than the memory.",
        epilog=f"example: {PROGRAM} compare fp16.npy q4.npy tokens.npy --plot divergence.svg",
    )
    command.add_argument(
        "base",
        metavar="BASE",
        help="logits of the model that is taken for the truth, " + logits_help,
    )
    command.add_argument(
        "other", metavar="OTHER", help="logits of the other model: files like those of BASE"
    )
    command.add_argument("targets", nargs="?", metavar="TARGETS", help=targets_help)
    command.set_defaults(run=compare, sample_weight=None)

    command = commands.add_parser(
        "calibrate",
        parents=[threads, labelled],
        help="the temperature that makes the loss smallest, with its standard error",
        description="Fit the temperature T that makes the mean loss of logits/T smallest, and "
        "print it with its standard error, and loss and calibration error before and after. On the rows "
        "that T was fitted on these flatter: --apply judges on other rows, --cross-fit on parts of "
        "these that the fit has not seen.",
        epilog=f"example: {PROGRAM} calibrate val.npy val-labels.npy --apply test.npy "
        "test-labels.npy",
    )
    other = command.add_mutually_exclusive_group()
    other.add_argument(
        "--apply",
        nargs=2,
        metavar=("LOGITS2", "TARGETS2"),
        help="judge on these files, which are given like LOGITS and TARGETS",
    )
    other.add_argument(
        "--cross-fit",
        type=at_least(2),
        metavar="K",
        help="cut the rows into K consecutive folds, judge each at the T of the others",
    )
    command.set_defaults(run=calibrate)

    for function, name, formula in (
        (softmax, "softmax", "exp(x/T) / sum(exp(x/T))"),
        (log_softmax, "log-softmax", "x/T - log(sum(exp(x/T)))"),
    ):
        command = commands.add_parser(
            name,
            parents=[shared],
            help=f"write {formula} of the logits in a file to another",
            description=f"Write {formula} of the logits IN to the file OUT: float64 if they are, "
            "float32 if not. OUT appears when it is complete; it may be IN.",
            epilog=f"example: {PROGRAM} {name} logits.npy -o result.npy --axis 1",
        )
        command.add_argument(
            "input",
            metavar="IN",
            help=".npy, .npz or .safetensors file (FILE.npz:NAME for one of its arrays) of "
            "float16, bfloat16, float32 or float64",
        )
        command.add_argument(
            "-o", "--output", required=True, metavar="OUT", help="the .npy file to write"
        )
        command.add_argument(
            "--axis",
            type=int,
            default=-1,
            metavar="A",
            help="the axis of the classes (default: -1)",
        )
        command.set_defaults(
            run=lambda arguments, function=function: transform(function, arguments)
        )

    command = commands.add_parser(
        "info",
        help="print versions, instruction sets, threads and OpenMP runtime",
        description="Print what softmax_fast.show_config() knows: versions, compiler, instruction "
        "sets built and chosen, OpenMP runtime, threads.",
    )
    command.set_defaults(run=lambda arguments: show_config())
    return top


class TerminationSignals:
    """Turns SIGTERM and SIGHUP into an exception, so that what is being written is removed."""

    def __enter__(self):
        self.restore = {}
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                    self.restore[number] = signal.signal(number, self.terminate)

    @staticmethod
    def terminate(number, frame):
        raise Terminated(number)

    def __exit__(self, *exception):
        for number, handler in self.restore.items():
            signal.signal(number, handler)


def printable(text):
    """The text without what would steer a terminal, as names in a file may."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def run(argv):
    """Do what the arguments say."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit:  # --help or --version, which is printed by now
        return
    if arguments.command is None:
        raise InputError(f"expected a command (see {PROGRAM} --help)")
    arguments.run(arguments)


def main(argv=None):
    """Run the command line; returns the exit code.

    Parameters
    ----------
    argv : list of str, optional
        The arguments without the program's name; `sys.argv` by default.
    """
    with standard_streams():
        try:
            with TerminationSignals():
                run(argv)
                sys.stdout.flush()
            return 0
        except InputError as error:
            code, message = 2, printable(" ".join(str(error).split()))
        except MemoryError:
            code, message = 2, "out of memory"
        except OSError as error:
            discard(sys.stdout)
            if isinstance(error, BrokenPipeError):  # the reader went away, as `head` does
                return 1
            code, message = 1, f"standard output: {reason(error)}"
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except Terminated as terminated:
            return 128 + terminated.number
        say(f"{PROGRAM}: error: {message}\n")
        return code
