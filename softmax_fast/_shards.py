"""Logits, labels and weights in files, checked, and gone through some rows at a time."""

import math
from typing import NamedTuple

import numpy as np

from . import _arguments
from ._files import (
    BFLOAT16,
    InputError,
    StoredArray,
    dtype_name,
    float_input,
    open_array,
    open_shards,
)
from ._layer_logits import LayerLogits

ROWS_PER_CHECK = 1 << 22
FLOAT_SIZES = (2, 4, 8)


class Chunk(NamedTuple):
    """Some consecutive rows of one shard."""

    rows: slice  # numbered over all shards
    logits: object
    labels: np.ndarray | None
    weights: np.ndarray | None
    base: object


class Shard(NamedTuple):
    """Arrays whose rows belong together, and the number of their first row among all."""

    logits: StoredArray
    labels: StoredArray | None
    weights: StoredArray | None
    base: StoredArray | None
    first: int
    n_rows: int


class StoredLayer:
    """The last layer of a model, in files: what makes logits of hidden states.

    Parameters
    ----------
    weights, bias : str
        Files of shapes (C, D) and (C,); `bias` may be None.
    n_threads : int or None

    Raises
    ------
    InputError
        If a file cannot be read, or the two do not fit to each other.
    """

    def __init__(self, weights, bias, n_threads):
        self.weights = read_floats(open_array(weights, ("weights", "weight", "lm_head.weight")))
        if self.weights.ndim != 2 or 0 in self.weights.shape:
            raise InputError(
                f"{self.weights.name}: has shape {self.weights.shape}, expected (classes, features)"
            )
        self.n_classes, self.n_features = self.weights.shape
        self.bias = None
        if bias is not None:
            self.bias = read_floats(open_array(bias, ("bias", "lm_head.bias")))
            if self.bias.shape != (self.n_classes,):
                raise InputError(
                    f"{self.bias.name}: has shape {self.bias.shape}, expected {(self.n_classes,)}"
                    f" for weights of shape {self.weights.shape} in {self.weights.name}"
                )
            check_precision(self.bias, self.weights)
        self.n_threads = n_threads
        self.buffer = None

    def check(self, hidden):
        """Whether these hidden states go into the layer."""
        if hidden.shape[-1] != self.n_features:
            raise InputError(
                f"{hidden.name}: has {hidden.shape[-1]} features, and the weights in"
                f" {self.weights.name} have {self.n_features}"
            )
        check_precision(hidden, self.weights)

    def of(self, hidden):
        """`LayerLogits` of some rows of them."""
        bias = None if self.bias is None else float_input(self.bias.whole())
        layer = _arguments.layer(hidden, float_input(self.weights.whole()), bias)
        return LayerLogits(layer, self.n_threads)

    def logits(self, hidden):
        """The logits of some rows, written over by the next."""
        logits = self.of(hidden)
        if self.buffer is None or len(self.buffer) < logits.n_rows:
            self.buffer = np.empty(logits.shape, logits.layer.dtype)
        return logits.of(slice(None), self.buffer[: logits.n_rows]).array


class Shards:
    """The rows of all shards, as one.

    Parameters
    ----------
    logits, labels, weights : str
        Files or patterns of files, `labels` and `weights` may be None.
    ignore_index : int or None
        The label that need not be a class: of 64 bits, signed or, as -1 has become in a file of
        uint64, not. The attribute of this name is what it is among the labels of chunks.
    layer : StoredLayer, optional
        Makes the logits: then the files of `logits` hold what goes into it.
    base : str, optional
        Files, or a pattern, of logits that those of `logits` are compared with.

    Raises
    ------
    InputError
        If a file cannot be read or does not fit to the others, a label is no class, or a weight is
        negative or not finite.
    """

    def __init__(self, logits, labels, weights, ignore_index, layer=None, base=None):
        large = ignore_index is not None and ignore_index >= 2**63
        self.ignore_index = ignore_index - 2**64 if large else ignore_index
        self.layer = layer
        names = ("logits",) if layer is None else ("hidden", "features")
        opened = [read_floats(x) for x in open_shards(logits, names)]
        others = []
        for argument, names in (
            (labels, ("targets", "labels")),
            (weights, ("sample_weight", "weights")),
            (base, ("logits",)),
        ):
            if argument is None:
                others.append([None] * len(opened))
                continue
            group = open_shards(argument, names)
            if len(group) != len(opened):
                raise InputError(
                    f"{argument}: stands for {files(group)}, and {logits} for {files(opened)}"
                )
            others.append(group)
        for x in opened:
            check_shape(opened[0], x, self.last_axis)
            if layer is not None:
                layer.check(x)
        self.n_rows = 0
        self.n_classes = opened[0].shape[-1] if layer is None else layer.n_classes
        if sum(x.size for x in opened) == 0:
            raise InputError(f"{logits}: has no rows")
        self.shards = []
        for x, y, w, b in zip(opened, *others, strict=True):
            if b is not None:
                check_base(b, x)
            if y is not None:
                check_labels(y, x, self.n_classes, ignore_index, self.stored)
            if w is not None:
                check_weights(w, x, self.stored)
            n_rows = math.prod(x.shape[:-1])
            self.shards.append(Shard(x, y, w, b, self.n_rows, n_rows))
            self.n_rows += n_rows

    @property
    def rows_shape(self):
        """The shape of the rows if they are those of one array, else their number."""
        return self.shards[0].logits.shape[:-1] if len(self.shards) == 1 else (self.n_rows,)

    @property
    def last_axis(self):
        """What the last axis of the files of logits, or of hidden states, counts."""
        return "classes" if self.layer is None else "features"

    @property
    def stored(self):
        """What the first files hold."""
        return "logits" if self.layer is None else "hidden states"

    @property
    def holds(self):
        """How an error says what logits a row has."""
        return "holds" if self.layer is None else "has logits of"

    def rows_of(self, n_elements):
        """About so many logits make so many rows; of a layer, those it multiplies at once."""
        if self.layer is None:
            return n_elements // self.n_classes
        shard = self.shards[0].logits
        return self.layer.of(float_input(shard.rows(0, 0, 1))).slab_rows

    def logits_of(self, rows):
        """The logits of rows that are there as the files hold them."""
        return rows if self.layer is None else self.layer.logits(rows)

    def chunks(self, most, start=0, stop=None, *, all_at_once=True, as_stored=False):
        """Yield rows [start, stop) as chunks of at most `most` rows.

        `all_at_once` where all of their logits will be looked at; `as_stored` where they are as in
        the files, hidden states instead of logits. The next chunk may be written over the logits.
        """
        stop = self.n_rows if stop is None else stop
        for shard in self.shards:
            begin = max(start - shard.first, 0)
            end = min(stop - shard.first, shard.n_rows)
            for row in range(begin, end, max(1, most)):
                last = min(row + max(1, most), end)
                labels, weights, base = shard.labels, shard.weights, shard.base
                stored = float_input(shard.logits.rows(row, last, 1, all_at_once=all_at_once))
                yield Chunk(
                    slice(shard.first + row, shard.first + last),
                    stored if as_stored else self.logits_of(stored),
                    None if labels is None else labels.rows(row, last, 0).astype(np.int64),
                    None if weights is None else weights.rows(row, last, 0).astype(np.float64),
                    None if base is None else float_input(base.rows(row, last, 1)),
                )

    def place(self, row, *, of_base=False):
        """The file that a row is in, and its number there."""
        for shard in self.shards:
            if row < shard.first + shard.n_rows:
                return (shard.base if of_base else shard.logits).name, row - shard.first
        raise IndexError(row)


def files(group):
    return f"{len(group)} file" + ("s" if len(group) != 1 else "")


def read_floats(array):
    """The array, if it may hold logits."""
    dtype = array.dtype
    if dtype != BFLOAT16 and (dtype.kind != "f" or dtype.itemsize not in FLOAT_SIZES):
        expected = "expected float16, bfloat16, float32 or float64"
        raise InputError(f"{array.name}: has dtype {dtype}, {expected}")
    return array


def check_precision(array, weights):
    """Whether one of a layer's arrays is computed with in the precision of its weights."""
    if (array.dtype.itemsize == 8) != (weights.dtype.itemsize == 8):
        raise InputError(
            f"{array.name}: has dtype {dtype_name(array.dtype)}, and {weights.name} has"
            f" {dtype_name(weights.dtype)}: both must be float64, or neither"
        )


def check_shape(first, logits, last_axis="classes"):
    if logits.ndim < 2 or logits.shape[-1] == 0:
        raise InputError(f"{logits.name}: has shape {logits.shape}, expected (rows, {last_axis})")
    if logits.shape[-1] != first.shape[-1]:
        raise InputError(
            f"{logits.name}: has {logits.shape[-1]} {last_axis}, and {first.name} has"
            f" {first.shape[-1]}"
        )


def check_base(base, logits):
    read_floats(base)
    if base.shape != logits.shape:
        raise InputError(
            f"{base.name}: has shape {base.shape}, and {logits.name} has {logits.shape}: both must"
            " be the same"
        )


def check_rows(array, logits, stored):
    """Whether there is one entry a row of the logits, or hidden states."""
    if array.shape != logits.shape[:-1]:
        raise InputError(
            f"{array.name}: has shape {array.shape}, expected {logits.shape[:-1]}"
            f" for {stored} of shape {logits.shape} in {logits.name}"
        )


def check_labels(labels, logits, n_classes, ignore_index, stored):
    if labels.dtype.kind not in "iu":
        name = dtype_name(labels.dtype)
        raise InputError(f"{labels.name}: has dtype {name}, expected integer class labels")
    check_rows(labels, logits, stored)
    for start in range(0, labels.size, ROWS_PER_CHECK):
        block = labels.rows(start, min(start + ROWS_PER_CHECK, labels.size), 0)
        if block.min() < 0 or block.max() >= n_classes:
            bad = (block < 0) | (block >= n_classes)
            if ignore_index is not None:
                bad &= block != ignore_index
            if bad.any():
                first = int(bad.argmax())
                raise InputError(
                    f"{labels.name}: row {start + first} (the first is 0) has label {block[first]},"
                    f" expected 0 to {n_classes - 1}"
                    + ("" if ignore_index is None else f" or {ignore_index} to ignore the row")
                )


def check_weights(weights, logits, stored):
    if weights.dtype.kind not in "iuf":
        name = dtype_name(weights.dtype)
        raise InputError(f"{weights.name}: has dtype {name}, expected numbers")
    check_rows(weights, logits, stored)
    for start in range(0, weights.size, ROWS_PER_CHECK):
        with np.errstate(over="ignore"):
            block = weights.rows(start, min(start + ROWS_PER_CHECK, weights.size), 0)
            block = block.astype(np.float64)
        good = np.isfinite(block) & (block >= 0)
        if not good.all():
            first = int(good.argmin())
            raise InputError(
                f"{weights.name}: row {start + first} (the first is 0) has weight {block[first]},"
                " expected a finite number >= 0"
            )
