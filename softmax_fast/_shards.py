"""Logits, labels and weights in files, checked, and gone through some rows at a time."""

import math
from typing import NamedTuple

import numpy as np

from ._files import BFLOAT16, InputError, StoredArray, dtype_name, float_input, open_shards

ROWS_PER_CHECK = 1 << 22
FLOAT_SIZES = (2, 4, 8)


class Chunk(NamedTuple):
    """Some consecutive rows of one shard."""

    rows: slice  # numbered over all shards
    logits: object
    labels: np.ndarray
    weights: np.ndarray | None


class Shard(NamedTuple):
    """Arrays whose rows belong together, and the number of their first row among all."""

    logits: StoredArray
    labels: StoredArray
    weights: StoredArray | None
    first: int
    n_rows: int


class Shards:
    """The rows of all shards, as one.

    Parameters
    ----------
    logits, labels, weights : str
        Files or patterns of files, `weights` may be None.
    ignore_index : int or None
        The label that need not be a class: of 64 bits, signed or, as -1 has become in a file of
        uint64, not. The attribute of this name is what it is among the labels of chunks.

    Raises
    ------
    InputError
        If a file cannot be read or does not fit to the others, a label is no class, or a weight is
        negative or not finite.
    """

    def __init__(self, logits, labels, weights, ignore_index):
        large = ignore_index is not None and ignore_index >= 2**63
        self.ignore_index = ignore_index - 2**64 if large else ignore_index
        opened = [read_logits(x) for x in open_shards(logits, ("logits",))]
        groups = [opened, open_shards(labels, ("targets", "labels"))]
        if weights is not None:
            groups.append(open_shards(weights, ("sample_weight", "weights")))
        for argument, group in zip((labels, weights), groups[1:], strict=False):
            if len(group) != len(opened):
                raise InputError(
                    f"{argument}: stands for {files(group)}, and {logits} for {files(opened)}"
                )
        for x in opened:
            check_shape(opened[0], x)
        self.n_rows, self.n_classes = 0, opened[0].shape[-1]
        if sum(x.size for x in opened) == 0:
            raise InputError(f"{logits}: has no rows")
        self.shards = []
        for x, y, *w in zip(*groups, strict=True):
            check_labels(y, x, ignore_index)
            if w:
                check_weights(w[0], x)
            n_rows = math.prod(x.shape[:-1])
            self.shards.append(Shard(x, y, w[0] if w else None, self.n_rows, n_rows))
            self.n_rows += n_rows

    @property
    def rows_shape(self):
        """The shape of the rows if they are those of one array, else their number."""
        return self.shards[0].labels.shape if len(self.shards) == 1 else (self.n_rows,)

    def chunks(self, most, start=0, stop=None, *, all_at_once=True):
        """Yield rows [start, stop) as chunks of at most `most` rows.

        `all_at_once` where all of their logits will be looked at.
        """
        stop = self.n_rows if stop is None else stop
        for shard in self.shards:
            begin = max(start - shard.first, 0)
            end = min(stop - shard.first, shard.n_rows)
            for row in range(begin, end, max(1, most)):
                last = min(row + max(1, most), end)
                weights = shard.weights
                yield Chunk(
                    slice(shard.first + row, shard.first + last),
                    float_input(shard.logits.rows(row, last, 1, all_at_once=all_at_once)),
                    shard.labels.rows(row, last, 0).astype(np.int64),
                    None if weights is None else weights.rows(row, last, 0).astype(np.float64),
                )

    def place(self, row):
        """The file that a row is in, and its number there."""
        for shard in self.shards:
            if row < shard.first + shard.n_rows:
                return shard.logits.name, row - shard.first
        raise IndexError(row)


def files(group):
    return f"{len(group)} file" + ("s" if len(group) != 1 else "")


def read_logits(logits):
    """The array, if it may hold logits."""
    dtype = logits.dtype
    if dtype != BFLOAT16 and (dtype.kind != "f" or dtype.itemsize not in FLOAT_SIZES):
        expected = "expected float16, bfloat16, float32 or float64"
        raise InputError(f"{logits.name}: has dtype {dtype}, {expected}")
    return logits


def check_shape(first, logits):
    if logits.ndim < 2 or logits.shape[-1] == 0:
        raise InputError(f"{logits.name}: has shape {logits.shape}, expected (rows, classes)")
    if logits.shape[-1] != first.shape[-1]:
        raise InputError(
            f"{logits.name}: has {logits.shape[-1]} classes, and {first.name} has {first.shape[-1]}"
        )


def check_rows(array, logits):
    """Whether there is one entry a row of the logits."""
    if array.shape != logits.shape[:-1]:
        raise InputError(
            f"{array.name}: has shape {array.shape}, expected {logits.shape[:-1]}"
            f" for logits of shape {logits.shape} in {logits.name}"
        )


def check_labels(labels, logits, ignore_index):
    if labels.dtype.kind not in "iu":
        name = dtype_name(labels.dtype)
        raise InputError(f"{labels.name}: has dtype {name}, expected integer class labels")
    check_rows(labels, logits)
    n_classes = logits.shape[-1]
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


def check_weights(weights, logits):
    if weights.dtype.kind not in "iuf":
        name = dtype_name(weights.dtype)
        raise InputError(f"{weights.name}: has dtype {name}, expected numbers")
    check_rows(weights, logits)
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
