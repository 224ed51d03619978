"""The binary losses: sums over entries instead of rows."""

import numpy as np

from . import _arguments, _core, _fused, _layout, _threads

# Entries in a buffer where the arrays are not contiguous and of one dtype already.
BLOCK_ENTRIES = 1 << 16


def binary_loss(
    name,
    values,
    targets,
    *,
    temperature=1.0,
    sample_weight=None,
    pos_weight=None,
    reduction,
    out,
    n_threads,
):
    """`binary_cross_entropy` where ``name`` is "probs", with logits where it is "logits"."""
    x = _arguments.logits(name, values)
    shape, dtype = x.array.shape, x.result_dtype
    t = _arguments.binary_targets(targets, shape)
    temperature = _arguments.entry_temperature(temperature, shape)
    v = _arguments.entry_weight("sample_weight", sample_weight, shape)
    q = _arguments.pos_weight(pos_weight, shape)
    reduction = _arguments.reduction(reduction)
    n_threads = _threads.resolve(_arguments.threads(n_threads), x.array.size)
    inputs = {
        name: x.array,
        "targets": t.array,
        "temperature": _arguments.array_or_none(temperature),
        "sample_weight": v,
        "pos_weight": _arguments.array_or_none(q),
    }
    checked = _fused.output(out, reduction, shape, dtype, inputs, x.array)
    losses = None
    if reduction == "none":
        losses = np.empty(shape, dtype) if checked is None else checked

    def sweep(losses):
        loss_sum = weight_sum = 0.0
        for start, kind, block_x, block_t, numbers, block_losses in _blocks(
            x, t, (temperature, v, q), losses
        ):
            block_temperature, block_v, block_q = numbers
            if name == "probs":
                block_loss, block_weight, bad = _core.binary_cross_entropy(
                    block_x, kind, block_t, block_v, block_losses, n_threads
                )
            else:
                block_loss, block_weight, bad = _core.binary_cross_entropy_with_logits(
                    block_x,
                    kind,
                    block_t,
                    block_temperature,
                    block_v,
                    block_q,
                    block_losses,
                    n_threads,
                )
            if bad >= 0:
                raise _arguments.binary_error(name, x, t, start + bad)
            loss_sum += block_loss
            weight_sum += block_weight
        return loss_sum, weight_sum

    if not x.array.size:
        loss_sum = weight_sum = 0.0
    else:
        if checked is not None and np.may_share_memory(checked, x.array):
            sweep(None)  # An error finds the entry it quotes only before they are overwritten.
        loss_sum, weight_sum = sweep(losses)
    return _fused.reduced(reduction, loss_sum, weight_sum, losses, shape, out, checked)


def _blocks(x, t, numbers, losses):
    """Yield (first entry, kind, x, t, numbers, losses) for ``_core``: contiguous, 1-D, one dtype.

    The whole arrays where they are that already, buffers elsewhere. ``numbers`` hold None, a float,
    or an array of the shape of ``x``.
    """
    widen = _layout.needs_float64(x.kind, numbers[0])
    arrays = [x.array, t.array, *(a for a in numbers if isinstance(a, np.ndarray))]
    if losses is not None:
        arrays.append(losses)
    if (
        not widen
        and t.array.dtype == x.result_dtype
        and all(a.flags.c_contiguous and a.flags.aligned for a in arrays)
    ):
        flat_losses = None if losses is None else losses.reshape(-1)
        flat_numbers = [_flat(a, Ellipsis) for a in numbers]
        yield 0, x.kind, x.array.reshape(-1), t.array.reshape(-1), flat_numbers, flat_losses
        return

    kind = "f64" if widen else x.kind
    dtype = np.dtype(np.float64) if widen else x.result_dtype
    for index, entries in _layout.slabs(x.array.shape, BLOCK_ENTRIES):
        with np.errstate(all="ignore"):
            part = x._replace(array=x.array[index])
            block_x = part.widened(dtype) if widen else np.ascontiguousarray(part.array)
            block_t = t._replace(array=t.array[index]).widened(dtype)
        block_losses = None if losses is None else np.empty(block_x.size, dtype)
        block_numbers = [_flat(a, index) for a in numbers]
        yield (
            entries.start,
            kind,
            block_x.reshape(-1),
            block_t.reshape(-1),
            block_numbers,
            block_losses,
        )
        if losses is not None:
            with np.errstate(all="ignore"):
                losses[index] = block_losses.reshape(losses[index].shape)


def _flat(number, index):
    if not isinstance(number, np.ndarray):
        return number
    return np.ascontiguousarray(number[index]).reshape(-1)
