"""The command line: ``softmax-fast`` or ``python -m softmax_fast``.

Exit codes: 0 done, 1 standard output cannot be written, 2 the input or the arguments are at fault
(one line on standard error says how), 130 interrupted, 143 terminated.
"""

import argparse
import contextlib
import errno
import io
import json
import math
import os
import signal
import sys
import threading
import time

import numpy as np

from softmax_fast import log_softmax, show_config, softmax
from softmax_fast._evaluation import CALIBRATION_BINS, Evaluation
from softmax_fast._files import InputError, OutputFile, index_blocks, read_array, reason
from softmax_fast._version import __version__

# 16 MiB of float32: a chunk is mostly in the last-level cache when the second function reads it, and
# has work for all threads.
CHUNK_ELEMENTS = 1 << 22
# A piece across the rows of an array takes at least this many neighbours, for whole cache lines and
# few pages per entry.
LEAST_NEIGHBOURS = 512
LABELS_PER_BLOCK = 1 << 22
PROGRAM = "softmax-fast"


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

    def __init__(self, total, patience=1.0):
        self.total = total
        self.start = time.monotonic()
        self.next_update = self.start + patience if sys.stderr.isatty() else math.inf
        self.shown = False

    def advance(self, done):
        """Say how much of the total is done."""
        now = time.monotonic()
        if now < self.next_update:
            return
        self.next_update = now + 0.2
        self.shown = True
        share = done / self.total
        remaining = (now - self.start) * (1 - share) / share
        bar = ("#" * int(share * self.WIDTH)).ljust(self.WIDTH, ".")
        say(f"\r[{bar}] {share:4.0%}  {remaining:.0f} s left \x1b[K")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.shown:
            say("\r\x1b[K")


def read_logits(argument):
    logits = read_array(argument, ("logits",))
    if logits.dtype.kind != "f" or logits.dtype.itemsize not in (2, 4, 8):
        expected = "expected float16, float32 or float64"
        raise InputError(f"{argument}: has dtype {logits.dtype}, {expected}")
    return logits


def check_targets(argument, targets, logits, ignore_index):
    if targets.dtype.kind not in "iu":
        raise InputError(f"{argument}: has dtype {targets.dtype}, expected integer class labels")
    if targets.shape != logits.shape[:-1]:
        raise InputError(
            f"{argument}: has shape {targets.shape}, expected {logits.shape[:-1]}"
            f" for logits of shape {logits.shape}"
        )
    n_classes = logits.shape[-1]
    row = 0
    for index in index_blocks(targets.shape, LABELS_PER_BLOCK):
        block = targets[index].ravel()
        if block.min(initial=0) < 0 or block.max(initial=0) >= n_classes:
            bad = (block < 0) | (block >= n_classes)
            if ignore_index is not None:
                bad &= block != ignore_index
            if bad.any():
                first = int(bad.argmax())
                raise InputError(
                    f"{argument}: row {row + first} (the first is 0) has label {block[first]},"
                    f" expected 0 to {n_classes - 1}"
                    + ("" if ignore_index is None else f" or {ignore_index} to ignore the row")
                )
        row += block.size


def native(array):
    """The array as the NumPy functions are quickest with: native, aligned, C-contiguous."""
    dtype = array.dtype.newbyteorder("=")
    if dtype == np.float16:
        dtype = np.dtype(np.float32)  # exact, and NumPy compares float16 slowly
    return np.require(array, dtype, ["C", "A"])


def evaluate(arguments):
    """Run ``softmax-fast evaluate``."""
    logits = read_logits(arguments.logits)
    targets = read_array(arguments.targets, ("targets", "labels"))
    if logits.ndim < 2 or logits.shape[-1] == 0:
        raise InputError(f"{arguments.logits}: has shape {logits.shape}, expected (rows, classes)")
    if logits.size == 0:
        raise InputError(f"{arguments.logits}: has no rows")
    ignore_index = arguments.ignore_index
    check_targets(arguments.targets, targets, logits, ignore_index)

    evaluation = Evaluation(arguments.temperature, arguments.n_threads)
    n_rows, n_classes = targets.size, logits.shape[-1]
    row = 0
    start = time.perf_counter()
    with Progress(n_rows) as progress, np.errstate(all="ignore"):
        for index in index_blocks(targets.shape, CHUNK_ELEMENTS // n_classes):
            chunk = native(logits[index]).reshape(-1, n_classes)
            labels = targets[index].ravel()
            rows = np.arange(row, row + labels.size)
            row += labels.size
            if ignore_index is not None:
                counted = labels != ignore_index
                if not counted.all():
                    chunk, labels, rows = chunk[counted], labels[counted], rows[counted]
            evaluation.add(chunk, labels.astype(np.int64), rows)
            progress.advance(row)
        seconds = time.perf_counter() - start
        if evaluation.rows == 0:
            raise InputError(
                f"{arguments.targets}: every label is {ignore_index}, which is ignored"
            )
        results = evaluation.results()
    results |= {
        "rows": evaluation.rows,
        "ignored_rows": n_rows - evaluation.rows,
        "not_finite_rows": evaluation.not_finite,
        "first_not_finite_row": evaluation.first_not_finite,
        "classes": n_classes,
        "temperature": arguments.temperature,
        "seconds": seconds,
        "rows_per_second": n_rows / seconds,
        "elements_per_second": n_rows * n_classes / seconds,
    }
    if arguments.json:
        print(json.dumps({key: json_number(value) for key, value in results.items()}, indent=2))
    else:
        print(evaluation_text(evaluation, results))


def json_number(value):
    """The value, or None for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scaled(number):
    """Three digits and the SI prefix: 1.23 M."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{prefix}"
    return f"{number:.3g}"


def evaluation_text(evaluation, results):
    r = results
    rows = f"{r['rows']}"
    if r["ignored_rows"]:
        rows += f"  (and {r['ignored_rows']} ignored)"
    lines = [
        ("rows", rows),
        ("classes", f"{r['classes']}"),
        ("temperature", f"{r['temperature']:g}"),
        ("mean loss", f"{r['mean_loss']:.6g}"),
        ("standard error", f"{r['standard_error']:.3g}"),
        ("perplexity", f"{r['perplexity']:.6g}"),
        ("accuracy", f"{r['accuracy']:.6f}  ({evaluation.right} rows)"),
        ("top-5 accuracy", f"{r['top5_accuracy']:.6f}  ({evaluation.right_top_k} rows)"),
        ("calibration error", f"{r['expected_calibration_error']:.6f}"),
        (
            "throughput",
            f"{scaled(r['rows_per_second'])} rows/s, {scaled(r['elements_per_second'])} elements/s",
        ),
    ]
    if r["not_finite_rows"]:
        text = f"{r['not_finite_rows']} rows, the first is row {r['first_not_finite_row']}"
        lines.append(("loss not finite", text))
    return "\n".join(f"{label:<19}{value}" for label, value in lines)


def transform(function, arguments):
    """Run ``softmax-fast softmax`` or ``log-softmax``: `function` of the rows of a file."""
    logits = read_logits(arguments.input)
    axis, shape = arguments.axis, logits.shape
    if not -logits.ndim <= axis < logits.ndim:
        raise InputError(
            f"{arguments.input}: axis {axis} is out of range for {logits.ndim} dimensions"
        )
    axis %= logits.ndim
    if arguments.output.endswith(".npz"):
        raise InputError(f"{arguments.output}: the output is a .npy file")
    dtype = np.dtype(np.float64 if logits.dtype.itemsize == 8 else np.float32)
    rows = CHUNK_ELEMENTS // max(1, shape[axis])
    rows = max(rows, min(LEAST_NEIGHBOURS, math.prod(shape[axis + 1 :])))
    outer_shape = shape[:axis] + shape[axis + 1 :]
    buffer = np.empty(0, dtype)
    done = 0
    try:
        with OutputFile(arguments.output) as output, Progress(max(1, logits.size)) as progress:
            output.write_array_header(shape, dtype)
            for outer in index_blocks(outer_shape, rows) if logits.size else ():
                index = (*outer[:axis], slice(0, shape[axis]), *outer[axis:])
                block = logits[index]
                if buffer.size < block.size:
                    buffer = np.empty(block.size, dtype)
                result = buffer[: block.size].reshape(block.shape)
                function(
                    block,
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


def thread_count(text):
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return value


def optional_label(text):
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer or none, got {text!r}") from None


def parser():
    top = Parser(
        prog=PROGRAM,
        description="Softmax and cross-entropy loss of the logits in NumPy files.",
        epilog=f"example: {PROGRAM} evaluate logits.npy labels.npy --temperature 2",
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--temperature",
        type=temperature,
        default=1.0,
        metavar="T",
        help="divide the logits by T > 0 first (default: 1)",
    )
    shared.add_argument(
        "--n-threads",
        type=thread_count,
        metavar="N",
        help="use at most N threads (default: what the machine allows and the work deserves)",
    )

    command = commands.add_parser(
        "evaluate",
        parents=[shared],
        help="loss, perplexity, accuracy and calibration of logits against labels",
        description="Print the mean cross-entropy loss of logits against the true labels, its "
        "standard error, the perplexity exp(mean loss), accuracy, top-5 accuracy, the expected "
        f"calibration error ({CALIBRATION_BINS} equal bins of confidence) and the throughput. Of "
        "equal logits the one of the lower class counts as the greater, as in argmax; a row that "
        "holds a NaN counts as wrong. A .npy file is worked through in chunks and may be larger "
        "than the memory.",
        epilog=f"example: {PROGRAM} evaluate val.npz:logits val.npz:labels --temperature 2 --json",
    )
    command.add_argument(
        "logits",
        metavar="LOGITS",
        help=".npy or .npz file (FILE.npz:NAME for one of its arrays, by default the only one or "
        "'logits'): float16, float32 or float64, shape (rows, classes) or (..., classes)",
    )
    command.add_argument(
        "targets",
        metavar="TARGETS",
        help=".npy or .npz file (in the latter by default the only array, 'targets' or 'labels'): "
        "class labels of any integer dtype, shape (rows,) or (...)",
    )
    command.add_argument(
        "--ignore-index",
        type=optional_label,
        default=-100,
        metavar="I",
        help="leave out the rows with this label; none for no such label (default: -100)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=evaluate)

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
            help=".npy or .npz file (FILE.npz:NAME for one of its arrays) of float16, float32 or "
            "float64",
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
            code, message = 2, " ".join(str(error).split())
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
