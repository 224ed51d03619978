"""The parts that the losses share: their options in one record, sums over rows, reductions."""

import math
from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout


class Terms(NamedTuple):
    """Targets and options of a loss over rows, checked, in the form ``_core`` takes them."""

    targets: _arguments.Labels | _layout.Source
    n_classes: int
    weight: np.ndarray | None
    sample_weight: np.ndarray | None
    ignore_index: int | None
    label_smoothing: float
    temperature: float | np.ndarray
    reduction: str

    @property
    def has_labels(self):
        return isinstance(self.targets, _arguments.Labels)

    @property
    def arrays(self):
        """The arrays that are read during the work, by name."""
        return {
            "targets": self.targets.codes if self.has_labels else self.targets.array,
            "weight": self.weight,
            "sample_weight": self.sample_weight,
            "temperature": _arguments.array_or_none(self.temperature),
        }

    def row_options(self, block):
        """Targets, weight and sample weight of the rows of a block."""
        targets = self.targets.codes[block.rows] if self.has_labels else block.reads[0]
        sample_weight = None if self.sample_weight is None else self.sample_weight[block.rows]
        return targets, self.weight, sample_weight

    def blocks(self, x, axis, writes=(), row_losses=None):
        return _layout.row_blocks(
            x,
            axis,
            self.temperature,
            reads=() if self.has_labels else (self.targets,),
            writes=writes,
            row_writes=() if row_losses is None else (row_losses,),
        )

    def check_labels(self, bad_row, first_row=0):
        if bad_row >= 0:
            raise _arguments.label_error(
                "targets", self.targets, first_row + bad_row, self.n_classes, self.ignore_index
            )


def terms(
    targets,
    rows,
    shape,
    n_classes,
    weight,
    sample_weight,
    ignore_index,
    reduction,
    label_smoothing=0.0,
    temperature=1.0,
):
    """Check the options of a loss whose logits have ``shape``, and its rows the shape ``rows``."""
    ignored = _arguments.ignore_index(ignore_index)
    return Terms(
        targets=_arguments.targets(targets, rows, shape, ignored),
        n_classes=n_classes,
        weight=_arguments.class_weight(weight, n_classes),
        sample_weight=_arguments.sample_weight(sample_weight, rows),
        ignore_index=ignored,
        label_smoothing=_arguments.label_smoothing(label_smoothing),
        temperature=_arguments.temperature(temperature, rows),
        reduction=_arguments.reduction(reduction),
    )


def loss_sums(x, axis, terms, row_losses, n_threads):
    """Sum of the losses of the rows and of their weights; the losses to ``row_losses``."""
    loss_sum = weight_sum = 0.0
    if x.array.size:
        for block in terms.blocks(x, axis, (), row_losses):
            block_loss, block_weight, bad_row = _core.softmax_loss(
                block.x,
                block.kind,
                *terms.row_options(block),
                terms.ignore_index,
                terms.label_smoothing,
                _layout.rows_of(terms.temperature, block.rows),
                block.row_writes[0] if block.row_writes else None,
                n_threads,
            )
            terms.check_labels(bad_row, block.rows.start or 0)
            loss_sum += block_loss
            weight_sum += block_weight
    return loss_sum, weight_sum


def loss_and_grad_sums(x, axis, terms, scale, grad, row_losses, n_threads):
    """As `loss_sums`; also writes ``scale`` times the gradient to ``grad``."""
    loss_sum = weight_sum = 0.0
    if x.array.size:
        for block in terms.blocks(x, axis, (grad,), row_losses):
            block_loss, block_weight, bad_row = _core.softmax_loss_grad(
                block.x,
                block.kind,
                block.writes[0],
                scale,
                *terms.row_options(block),
                terms.ignore_index,
                terms.label_smoothing,
                _layout.rows_of(terms.temperature, block.rows),
                block.row_writes[0] if block.row_writes else None,
                n_threads,
            )
            terms.check_labels(bad_row, block.rows.start or 0)
            loss_sum += block_loss
            weight_sum += block_weight
    return loss_sum, weight_sum


def denominator(terms, n_rows):
    """Check the labels, and return what "mean" divides by: Σ v·w[y], or Σ v for probabilities."""
    if not terms.has_labels:
        return float(n_rows) if terms.sample_weight is None else float(terms.sample_weight.sum())
    if not n_rows:
        return 0.0
    weight_sum, bad_row = _core.target_weight_sum(
        terms.targets.codes, terms.n_classes, terms.weight, terms.sample_weight, terms.ignore_index
    )
    terms.check_labels(bad_row)
    return weight_sum


def inverse(weight_sum):
    """The factor of the gradient for "mean"; infinite over nothing, and 0 · inf is NaN."""
    return 1.0 / weight_sum if weight_sum else math.inf


def mean(loss_sum, weight_sum):
    """``loss_sum / weight_sum`` by IEEE rules, without Python's ZeroDivisionError."""
    if weight_sum:
        return loss_sum / weight_sum
    return loss_sum * math.inf if loss_sum else math.nan


def output(out, reduction, shape, dtype, inputs, in_place=None):
    """Check ``out`` of a loss: of ``shape`` and ``dtype`` for "none", a 0-d float64 otherwise."""
    if reduction == "none":
        return _arguments.output("out", out, shape, dtype, inputs, in_place)
    return _arguments.output("out", out, (), np.dtype(np.float64), inputs)


def row_buffer(out, reduction, rows, dtype):
    """C-contiguous (R,) array for the unreduced losses: the memory of ``out`` where it can be."""
    if reduction != "none":
        return None
    return flat_buffer(out, (math.prod(rows),), dtype)


def flat_buffer(out, shape, dtype):
    """``out`` as a C-contiguous array of ``shape``, or a new one where that takes a copy."""
    if out is not None and out.flags.c_contiguous and out.flags.aligned:
        return out.reshape(shape)
    return np.empty(shape, dtype)


def deliver(out, checked, values, shape):
    """Return ``values`` of ``shape`` in the caller's ``out``, as a scalar, or as an array."""
    if out is None:
        return values.reshape(shape)[()]
    if not np.may_share_memory(values, checked):
        checked[...] = values.reshape(shape)
    return out


def reduced(reduction, loss_sum, weight_sum, row_losses, shape, out, checked):
    """The loss as the caller asked for it."""
    if reduction == "none":
        return deliver(out, checked, row_losses, shape)
    value = mean(loss_sum, weight_sum) if reduction == "mean" else loss_sum
    if out is None:
        return np.float64(value)
    checked[...] = value
    return out
