"""Where results go: what a loss is reduced to, and the caller's ``out``."""

import math

import numpy as np

from . import _arguments


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
