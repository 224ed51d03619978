"""Every check of an argument, and every error text. Nothing else in the package raises on one.

A function here takes an argument as the caller gave it and returns it in the one form the layers
below use, or raises an error that says which argument, what came, and what was expected.
"""

import math
import numbers
import operator
from typing import NamedTuple

import numpy as np
from numpy.exceptions import AxisError, TooHardError

from ._layout import Source

REDUCTIONS = ("mean", "sum", "none")
NAN_POLICIES = ("propagate", "omit", "raise")
STRATEGIES = ("uniform", "quantile")
DEFAULT_IGNORE_INDEX = -100
_INT64 = np.iinfo(np.int64)
_FLOAT_KINDS = {2: "f16", 4: "f32", 8: "f64"}
_NATIVE = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}

# Candidates that NumPy may examine to tell whether two interleaved views share an element;
# an answer that takes more is taken for a yes.
_OVERLAP_WORK = 100_000


# Arrays


def as_array(name, value):
    """``value`` as a plain ndarray, without a copy where NumPy can view it."""
    if type(value) is np.ndarray:
        return value
    if _is_masked(value):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: pass {name}.filled(...) or the "
            "unmasked rows"
        )
    try:
        return np.from_dlpack(value) if _only_dlpack(value) else np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:
        what, kind = f"of type {_type_name(value)}", TypeError
        if isinstance(value, list | tuple) and isinstance(error, ValueError):
            what, kind = "is a sequence that", ValueError
        raise kind(f"{name} {what} makes no array: {error}") from error


def _type_name(value):
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_masked(value):
    # NumPy imports numpy.ma when it is first named; no other array needs it.
    return isinstance(value, np.ndarray) and isinstance(value, np.ma.MaskedArray)


def _only_dlpack(value):
    if not hasattr(value, "__dlpack__"):
        return False
    if any(hasattr(value, a) for a in ("__array__", "__array_interface__", "__array_struct__")):
        return False
    try:
        memoryview(value).release()
    except TypeError:
        return True
    return False


def _float_kind(dtype):
    """``"f16"``, ``"bf16"``, ``"f32"``, ``"f64"``, or None for another dtype."""
    if dtype.kind == "f":
        return _FLOAT_KINDS.get(dtype.itemsize)
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.name == "bfloat16":
        return "bf16"
    return None


def _is_integer(dtype):
    return dtype.kind in "iu"


def source(name, value):
    """A real array of any dtype as a `Source`; integers and booleans become float64.

    A `Source` is taken as it is: bfloat16 in files comes as one, where NumPy has no such dtype.
    """
    if type(value) is Source:
        return value
    array = as_array(name, value)
    kind = _float_kind(array.dtype)
    if kind is None:
        if array.dtype.kind not in "iub":
            raise TypeError(
                f"{name} has dtype {array.dtype}, expected float16, bfloat16, float32, float64, "
                "an integer dtype or bool"
            )
        return Source(array.astype(np.float64), "f64")
    native = _NATIVE.get(kind, array.dtype)
    if array.dtype != native or not array.flags.aligned:
        array = array.astype(native)
    return Source(array.view(np.uint16) if kind in ("f16", "bf16") else array, kind)


def logits(name, value):
    """A `Source` of at least one dimension."""
    result = source(name, value)
    if result.array.ndim == 0:
        raise ValueError(f"{name} is 0-dimensional, expected an array of at least one dimension")
    return result


def _real_values(name, value, error=TypeError):
    """A small array of numbers (weights, temperatures) as float64."""
    array = as_array(name, value)
    if array.dtype.kind not in "iub" and _float_kind(array.dtype) is None:
        raise error(f"{name} has dtype {array.dtype}, expected real numbers")
    if array.dtype == np.float64 and array.flags.aligned:
        return array
    with np.errstate(all="ignore"):
        return array.astype(np.float64)


def _integer(name, value, expected):
    if not isinstance(value, bool | np.bool_):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name} must be {expected}, got {value!r}")


def axis(value, ndim):
    """The number of the dimension, counted from 0."""
    index = _integer("axis", value, "an int")
    if not -ndim <= index < ndim:
        raise AxisError(index, ndim)
    return index + ndim if index < 0 else index


def rows_shape(shape, axis):
    """Shape of the rows: that of the array without its class axis."""
    return shape[:axis] + shape[axis + 1 :]


def some_classes(name, shape, axis):
    """The number of classes, at least one."""
    if shape[axis] == 0:
        raise ValueError(f"{name} has shape {shape}: a loss needs at least one class (axis {axis})")
    return shape[axis]


# Options


def threads(value, name="n_threads"):
    """None, or the greatest number of threads."""
    if value is None:
        return None
    try:
        count = _integer(name, value, "")
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be None or an int >= 1, got {value!r}")
    return count


def reduction(value):
    if isinstance(value, str) and value in REDUCTIONS:
        return value
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {value!r}")


def ignore_index(value):
    if value is None:
        return None
    index = _integer("ignore_index", value, "an int or None")
    if not _INT64.min <= index <= _INT64.max:
        raise ValueError(f"ignore_index must fit in 64 bits, got {value!r}")
    return index


def label_smoothing(value):
    alpha = _number(value)
    if alpha is None or not 0 <= alpha <= 1:
        raise ValueError(f"label_smoothing must be a number in [0, 1], got {value!r}")
    return alpha


def _number(value):
    """``value`` as a float, None when it is no real number."""
    if not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def temperature(value, rows):
    """A float, or a C-contiguous float64 array with one temperature for each of ``rows``."""
    result = entry_temperature(value, rows, "one per row")
    return result if isinstance(result, float) else np.ascontiguousarray(result).reshape(-1)


def entry_temperature(value, shape, what="one per entry"):
    """A float, or a float64 view of shape ``shape``."""
    number = _number(value)
    if number is None:
        array = _real_values("temperature", value, ValueError)
        _all_finite_and("temperature", array, np.greater, "> 0")
        array = _broadcast("temperature", array, shape, what) if array.ndim else array
        return float(array) if array.ndim == 0 else array
    if not 0 < number < math.inf:
        raise ValueError(f"temperature must be finite and > 0, got {value!r}")
    return number


def array_or_none(number):
    """An array to look for overlaps in, or None for a plain number."""
    return None if isinstance(number, float) else number


def _broadcasts(shape, to):
    return len(shape) <= len(to) and all(
        n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False)
    )


def _broadcast(name, array, shape, what):
    if not _broadcasts(array.shape, shape):
        raise ValueError(
            f"{name} has shape {array.shape}, expected a number or an array that broadcasts to "
            f"{shape}, {what}"
        )
    return np.broadcast_to(array, shape)


def _all_finite_and(name, array, compare, expected):
    finite = np.isfinite(array)
    if finite.all() and compare(array, 0).all():
        return
    with np.errstate(all="ignore"):
        good = finite & compare(array, 0)
    at = np.unravel_index(int(np.argmin(good)), array.shape)
    raise ValueError(f"{_element(name, at)} = {float(array[at])!r} is not finite and {expected}")


def _element(name, at):
    return f"{name}[{', '.join(map(str, at))}]" if at else name


def _weights(name, value):
    array = _real_values(name, value)
    _all_finite_and(name, array, np.greater_equal, ">= 0")
    return array


def class_weight(value, n_classes, name="weight"):
    """None, or a C-contiguous float64 array of one weight a class."""
    if value is None:
        return None
    array = _weights(name, value)
    if array.shape != (n_classes,):
        raise ValueError(f"{name} has shape {array.shape}, expected {(n_classes,)}, one per class")
    return np.ascontiguousarray(array)


def sample_weight(value, rows):
    """None, or a C-contiguous float64 array of one weight a row, in the order of the rows."""
    if value is None:
        return None
    array = _weights("sample_weight", value)
    if array.shape != rows:
        raise ValueError(f"sample_weight has shape {array.shape}, expected {rows}, one per row")
    return np.ascontiguousarray(array).reshape(-1)


def entry_weight(name, value, shape):
    """None, or a float64 view of shape ``shape``: one weight for each entry."""
    if value is None:
        return None
    return _broadcast(name, _weights(name, value), shape, "one per entry")


def pos_weight(value, shape):
    """A float, or a float64 view of shape ``shape``."""
    if value is None:
        return 1.0
    array = _weights("pos_weight", value)
    return _broadcast("pos_weight", array, shape, "one per entry") if array.ndim else float(array)


# Targets


class Labels(NamedTuple):
    """Class indices: C-contiguous int32 or int64 in the order of the rows, and as they came."""

    codes: np.ndarray
    given: np.ndarray


def targets(value, rows, shape, ignored, name="targets"):
    """`Labels` of shape ``rows``, or a `Source` of class probabilities of shape ``shape``.

    ``ignored`` is the caller's ``ignore_index``, checked already.
    """
    array = _class_indices(name, value, rows)
    if _is_integer(array.dtype):
        if array.shape != rows:
            raise ValueError(
                f"{name} are integers of shape {array.shape}, expected class indices of shape "
                f"{rows}, one per row (class probabilities of shape {shape} must be floating)"
            )
        return Labels(_codes(array, ignored), array)
    if _float_kind(array.dtype) is None:
        raise TypeError(
            f"{name} have dtype {array.dtype}, expected an integer dtype (class indices of shape "
            f"{rows}) or a floating one (class probabilities of shape {shape})"
        )
    if array.shape != shape:
        raise ValueError(
            f"{name} are {array.dtype} of shape {array.shape}, expected class probabilities of "
            f"shape {shape}, or integers of shape {rows} as class indices"
        )
    if ignored != DEFAULT_IGNORE_INDEX:
        raise ValueError(
            f"ignore_index = {ignored!r} has no meaning for class probabilities: leave it at "
            f"{DEFAULT_IGNORE_INDEX} and give a row sample_weight 0"
        )
    return source(name, array)


def _class_indices(name, value, rows):
    """``value`` as an array; sequences without an entry, float64 to NumPy, are labels of no rows."""
    array = as_array(name, value)
    if isinstance(value, list | tuple) and array.size == 0 and array.shape == rows:
        return array.astype(np.int64)
    return array


def labels(value, rows, ignored, name="targets"):
    """`Labels` of shape ``rows``: nothing but class indices."""
    array = _class_indices(name, value, rows)
    if not _is_integer(array.dtype):
        raise TypeError(
            f"{name} have dtype {array.dtype}, expected an integer dtype: class indices of shape "
            f"{rows}, one per row"
        )
    if array.shape != rows:
        raise ValueError(f"{name} have shape {array.shape}, expected {rows}, one label per row")
    return Labels(_codes(array, ignored), array)


def nonfinite_row_error(at):
    """The ValueError for a row at index ``at`` that has no loss, under ``nan_policy`` "raise"."""
    at = tuple(map(int, at))
    where = f"row {at[0] if len(at) == 1 else at}" if at else "the row"
    return ValueError(
        f"{where} of logits holds NaN or +inf, or nothing but -inf, or its label's logit is -inf: "
        "nan_policy='omit' leaves such rows out"
    )


def no_rows_error():
    return ValueError(
        "no row is left to fit a temperature to: all are ignored, of weight 0 or omitted"
    )


def indices(value, rows, ignored):
    """Class indices for `selected_log_probs`: `Labels` with codes (R, K), int64."""
    array = _class_indices("indices", value, rows)
    if not _is_integer(array.dtype):
        raise TypeError(f"indices have dtype {array.dtype}, expected an integer dtype")
    if array.shape != rows and array.shape[:-1] != rows:
        raise ValueError(
            f"indices have shape {array.shape}, expected {rows} for one class per row, or that "
            "and a last dimension for several"
        )
    per_row = 1 if array.shape == rows else array.shape[-1]
    codes = _codes(array, ignored).astype(np.int64, copy=False)
    return Labels(codes.reshape(math.prod(rows), per_row), array)


def _codes(array, ignored):
    if array.dtype.type is np.uint64 and array.size and array.max() > _INT64.max:
        beyond = array > _INT64.max
        array = array.astype(np.int64)
        # Any label out of range that is not ignored; the message quotes the one that came.
        array[beyond] = -1 if ignored != -1 else -2
    dtype = np.int32 if array.dtype.itemsize == 4 and array.dtype.kind == "i" else np.int64
    codes = np.ascontiguousarray(array, dtype).reshape(-1)
    return codes if codes.flags.aligned else codes.copy()


def label_error(name, labels, row, n_classes, ignored):
    """The IndexError for the first bad label of ``row``."""
    codes = labels.codes.reshape(len(labels.codes), -1)
    bad = (codes[row] < 0) | (codes[row] >= n_classes)
    if ignored is not None:
        bad &= codes[row] != ignored
    at = np.unravel_index(row * codes.shape[1] + int(np.argmax(bad)), labels.given.shape)
    exception = "" if ignored is None else f" and is not ignore_index ({ignored})"
    return IndexError(
        f"{_element(name, at)} = {labels.given[at]} is not in [0, {n_classes}){exception}"
    )


_OF_LOGITS = {
    "cross_entropy": "softmax_loss",
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
}


def probability_error(function, value, at):
    """The ValueError for the entry of ``probs`` at index ``at``, outside [0, 1]."""
    return ValueError(
        f"{_element('probs', at)} = {float(value)!r} is not in [0, 1]: {function} takes "
        f"probabilities; for logits use {_OF_LOGITS[function]}"
    )


def row_probability_error(function, probs, axis, row):
    """The `probability_error` for the first such entry of a row of a `Source`."""
    at = np.unravel_index(row, rows_shape(probs.array.shape, axis))
    array = probs.array[(*at[:axis], slice(None), *at[axis:])]
    values = Source(array, probs.kind).widened(probs.result_dtype)
    with np.errstate(all="ignore"):
        column = int(np.argmax((values < 0) | (values > 1)))
    return probability_error(function, values[column], (*at[:axis], column, *at[axis:]))


def binary_error(x, t, bad_value, bad_target):
    """The ValueError for the first entry of the binary functions outside [0, 1], by the numbers of
    the first probability and of the first target there, or -1.
    """
    if 0 <= bad_value and not 0 <= bad_target < bad_value:
        at = np.unravel_index(bad_value, x.array.shape)
        return probability_error("binary_cross_entropy", x.value(at), at)
    at = np.unravel_index(bad_target, x.array.shape)
    return _target_error(t.value(at), at)


def _target_error(value, at):
    return ValueError(
        f"{_element('targets', at)} = {value} is not in [0, 1]: a target is the probability of "
        "the positive class"
    )


def binary_targets(value, shape):
    """Targets of the binary functions as a `Source`: floating, or 0 and 1 in their own dtype.

    Floating targets outside [0, 1] are found by the kernel.
    """
    array = as_array("targets", value)
    kind = _float_kind(array.dtype)
    if kind is None and array.dtype.kind not in "iub":
        raise TypeError(
            f"targets have dtype {array.dtype}, expected probabilities of a floating dtype, or 0 "
            "and 1 of an integer dtype or bool"
        )
    if array.shape != shape:
        raise ValueError(f"targets have shape {array.shape}, expected that of the input, {shape}")
    if kind is not None:
        return source("targets", array)
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        at = np.unravel_index(int(np.argmax((array < 0) | (array > 1))), shape)
        raise _target_error(array[at], at)
    return Source(array, array.dtype.name)


# Arrays in blocks


def dask_logits(value, array_type):
    """Check that these are logits in blocks of known shapes."""
    if not isinstance(value, array_type):
        raise TypeError(
            f"logits are of type {_type_name(value)}, expected a dask.array.Array: for others "
            "there are the functions of softmax_fast itself"
        )
    if value.ndim == 0:
        raise ValueError("logits is 0-dimensional, expected an array of at least one dimension")
    if any(math.isnan(size) for sizes in value.chunks for size in sizes):
        raise ValueError(
            f"logits have chunks {value.chunks} of unknown size: call logits.compute_chunk_sizes()"
        )


def whole_rows(shape, chunks, axis):
    """Check that a block holds whole rows, of consecutive numbers and after those of the block
    before it.
    """
    some_classes("logits", shape, axis)
    whole = set()
    if len(chunks[axis]) > 1:
        whole.add(axis)
    rows = [dim for dim in range(len(shape)) if dim != axis]
    for i, dim in enumerate(rows):
        if max(chunks[dim], default=1) > 1:
            whole.update(later for later in rows[i + 1 :] if len(chunks[later]) > 1)
    if whole:
        wanted = ", ".join(f"{dim}: -1" for dim in sorted(whole))
        raise ValueError(
            f"logits have chunks {chunks}, expected blocks of whole rows (axis {axis}), one block "
            f"after the other: call logits.rechunk({{{wanted}}})"
        )


def one_per_row(name, shape, rows):
    if shape != rows:
        raise ValueError(f"{name} has shape {shape}, expected {rows}, one per row")


# Evaluations


def one_temperature(value):
    """A float: the temperature of an evaluation is the same for all its rows."""
    array = None if isinstance(value, numbers.Real) else as_array("temperature", value)
    if array is not None and array.ndim:
        raise ValueError(
            f"temperature has shape {array.shape}, expected one number: it is the same for all "
            "rows of an evaluation"
        )
    return temperature(value, ())


def top_k(value):
    """A tuple of ints >= 1, ascending, each once."""
    expected = "an int >= 1 or some of them"
    try:
        several = list(value)
    except TypeError:
        several = [value]
    several = [_integer("top_k", k, expected) for k in several]
    if not several or min(several) < 1:
        raise ValueError(f"top_k must be {expected}, got {value!r}")
    return tuple(sorted(set(several)))


def n_bins(value):
    count = _integer("n_bins", value, "an int >= 1")
    if not 1 <= count <= 1_000_000:
        raise ValueError(f"n_bins must be an int from 1 to 1000000, got {value!r}")
    return count


def uniform_bins(count, available):
    """A number of equal bins that are whole ones of those an evaluation has counted."""
    if available % count:
        raise ValueError(
            f"n_bins = {count} does not divide the {available} bins of this evaluation: give "
            f"n_bins={count} to evaluate or Evaluator, or take strategy='quantile'"
        )
    return count


def strategy(value):
    if isinstance(value, str) and value in STRATEGIES:
        return value
    raise ValueError(f"strategy must be 'uniform' or 'quantile', got {value!r}")


def nan_policy(value):
    if isinstance(value, str) and value in NAN_POLICIES:
        return value
    raise ValueError(f"nan_policy must be 'propagate', 'omit' or 'raise', got {value!r}")


def flag(name, value):
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def same_classes(shape, axis, n_classes, before):
    """The number of classes, which later rows share with those ``before``, a number or None."""
    if before is not None and n_classes != before:
        raise ValueError(
            f"logits have shape {shape}: {n_classes} classes (axis {axis}), but the rows before "
            f"had {before}"
        )
    return n_classes


def mergeable(other, kind, options, n_classes):
    """Check that ``other`` is an evaluator of the same options and, where both know, classes."""
    if not isinstance(other, kind):
        raise TypeError(f"other must be an {kind.__name__}, got {_type_name(other)}")
    for name, value in options._asdict().items():
        others = getattr(other._options, name)
        if others != value:
            raise ValueError(f"other has {name}={others!r}, but this evaluator {name}={value!r}")
    if None not in (n_classes, other.n_classes) and n_classes != other.n_classes:
        raise ValueError(
            f"other has rows of {other.n_classes} classes, but this evaluator of {n_classes}"
        )


def no_probabilities_error(shape, axis, row):
    """The ValueError of nan_policy="raise" for a row of logits without probabilities."""
    at = [str(i) for i in np.unravel_index(row, rows_shape(shape, axis))]
    at.insert(axis, ":")
    return ValueError(
        f"logits[{', '.join(at)}] hold NaN or inf, or nothing but -inf (nan_policy='raise')"
    )


# The fully connected layer


class Layer(NamedTuple):
    """features (N, D), weights (C, D) and bias (C,) or None, all of one result dtype."""

    features: Source
    weights: Source
    bias: np.ndarray | None

    @property
    def dtype(self):
        return self.features.result_dtype


def layer(features, weights, bias):
    layer = Layer(_matrix("features", features), _matrix("weights", weights), None)
    _same_dtype("weights", weights, layer.weights, features, layer)
    (_, n_features), (n_classes, width) = layer.features.array.shape, layer.weights.array.shape
    if width != n_features:
        raise ValueError(
            f"weights have shape {(n_classes, width)}, expected (C, {n_features}) for features of "
            f"shape {layer.features.array.shape}"
        )
    if n_classes == 0:
        raise ValueError(f"weights have shape {(0, width)}: a loss needs at least one class")
    if bias is None:
        return layer
    offsets = source("bias", bias)
    _same_dtype("bias", bias, offsets, features, layer)
    if offsets.array.shape != (n_classes,):
        raise ValueError(f"bias has shape {offsets.array.shape}, expected {(n_classes,)}")
    return layer._replace(bias=offsets.widened(layer.dtype))


def _matrix(name, value):
    result = source(name, value)
    if result.array.ndim != 2:
        expected = "(N, D)" if name == "features" else "(C, D)"
        raise ValueError(
            f"{name} have shape {result.array.shape}, expected two dimensions {expected}"
        )
    return result


def _same_dtype(name, given, converted, features, layer):
    if converted.result_dtype != layer.dtype:
        raise TypeError(
            f"{name} of dtype {np.asarray(given).dtype} would be computed in "
            f"{converted.result_dtype}, but features of dtype {np.asarray(features).dtype} in "
            f"{layer.dtype}: both must be floats of one dtype (float16 and bfloat16 count as "
            "float32, integers as float64)"
        )


# Outputs


def output(name, out, shape, dtype, inputs, in_place=None):
    """Check an output; return it as a plain ndarray, or None when ``out`` is None.

    ``inputs`` maps the names of the arrays that are read to the arrays, or to None. ``out`` may be
    exactly the array ``in_place`` (same memory, same layout) and must not touch any other.
    """
    if out is None:
        return None
    if type(out) is not np.ndarray and (not isinstance(out, np.ndarray) or _is_masked(out)):
        raise TypeError(f"{name} must be a numpy.ndarray or None, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"{name} has shape {out.shape}, expected {shape}")
    if out.dtype != dtype:
        raise TypeError(
            f"{name} has dtype {out.dtype.newbyteorder('=')}"
            f"{'' if out.dtype.isnative else ' in swapped byte order'}, expected native {dtype}"
        )
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only")
    if _overlaps_itself(out):
        raise ValueError(
            f"{name} has strides {out.strides} for shape {shape}: its elements must not overlap"
        )
    for other, array in inputs.items():
        if array is None or not _overlap(out, array):
            continue
        if array is not in_place or not _same_layout(out, array):
            raise ValueError(_overlap_text(name, other, array is in_place))
    return out.view(np.ndarray)


def _overlap_text(name, other, may_be_same):
    exception = " unless it is the same array, with the same layout" if may_be_same else ""
    return f"{name} shares memory with {other}: it must not{exception}"


def _same_layout(a, b):
    if a is b:
        return True
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and all(s == t for s, t, n in zip(a.strides, b.strides, a.shape, strict=True) if n > 1)
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )


def _overlap(a, b):
    if a is b:
        return a.size > 0
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)
    except TooHardError:
        return True


def _overlaps_itself(array):
    """Whether two indices may address one element; False for every view made by slicing,
    transposing, reshaping or taking a diagonal.
    """
    if array.flags.c_contiguous or array.size == 0:
        return False
    reach = array.itemsize
    for stride, size in sorted(
        (abs(s), n) for s, n in zip(array.strides, array.shape, strict=True)
    ):
        if size == 1:
            continue
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False


def show_config_mode(value):
    if value in ("stdout", "dicts"):
        return value
    raise ValueError(f"mode must be 'stdout' or 'dicts', got {value!r}")
