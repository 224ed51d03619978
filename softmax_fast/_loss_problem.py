"""A loss over rows: its targets and options in one record, the rows cut, the sums over them."""

import math
from typing import NamedTuple

import numpy as np

from . import _arguments, _core, _layout, _results


class Options(NamedTuple):
    """What is the same for all rows of a loss."""

    weight: np.ndarray | None = None
    ignore_index: int | None = None
    label_smoothing: float = 0.0


class LossProblem(NamedTuple):
    """Targets and options of a loss over rows, checked, and what its rows have added up to."""

    targets: _arguments.Labels | _layout.Source
    n_classes: int
    rows: tuple
    temperature: float | np.ndarray
    sample_weight: np.ndarray | None
    options: Options
    reduction: str
    sums: _core.Sums

    @property
    def has_labels(self):
        return isinstance(self.targets, _arguments.Labels)

    @property
    def arrays(self):
        """The arrays that are read during the work, by name."""
        return {
            "targets": self.targets.codes if self.has_labels else self.targets.array,
            "weight": self.options.weight,
            "sample_weight": self.sample_weight,
            "temperature": _arguments.array_or_none(self.temperature),
        }

    def of_rows(self, rows):
        """The problem of some rows of a matrix of logits, with the same sums."""
        field = "codes" if self.has_labels else "array"
        targets = self.targets._replace(**{field: getattr(self.targets, field)[rows]})
        return self._replace(
            targets=targets,
            temperature=_layout.of_rows(self.temperature, rows),
            sample_weight=_layout.of_rows(self.sample_weight, rows),
        )

    def counts(self):
        """Which rows count, their labels checked already: None for all. No other adds anything."""
        counts = []
        if self.sample_weight is not None:
            counts.append(self.sample_weight > 0)
        if self.has_labels:
            codes, ignored, weight = (
                self.targets.codes,
                self.options.ignore_index,
                self.options.weight,
            )
            if ignored is not None:
                counts.append(codes != ignored)
            if weight is not None:
                # An ignored label may be no class at all.
                counts.append(weight.take(codes, mode="clip") > 0)
        result = np.logical_and.reduce(counts) if counts else None
        return None if result is None or result.all() else result

    def weigh(self):
        """Check the labels, and return what "mean" divides by: Σ v·w[y], or Σ v for probabilities."""
        if not self.has_labels and self.sample_weight is None:
            return float(math.prod(self.rows))
        sums = _core.Sums()
        _core.add_target_weights(
            self.targets.codes if self.has_labels else None,
            math.prod(self.rows),
            self.n_classes,
            self.sample_weight,
            self.options,
            sums,
        )
        self._check_labels(sums)
        return sums.weight

    def gradient_scale(self, weight_sum):
        """The factor of the gradient, which is scaled as the loss is."""
        return _results.inverse(weight_sum) if self.reduction == "mean" else 1.0

    def evaluate(self, loss, x, axis, n_threads, *, row_losses=None, grad=None, scale=1.0):
        """Add up the rows of ``x``, block by block, by a loss of ``_core``."""
        if not x.array.size:
            return
        scaled = () if grad is None else (scale,)
        for block in _layout.row_blocks(
            x,
            axis,
            cut=_core.cut(self.n_classes),
            out=grad,
            temperature=self.temperature,
            targets=self.targets.codes if self.has_labels else self.targets,
            sample_weight=self.sample_weight,
            row_results=row_losses,
        ):
            loss(block, self.options, *scaled, self.sums, n_threads)
            self._check_labels(self.sums)
            if self.sums.bad_value_row >= 0:
                raise _arguments.row_probability_error(
                    "cross_entropy", x, axis, self.sums.bad_value_row
                )

    def _check_labels(self, sums):
        if sums.bad_label_row >= 0:
            raise _arguments.label_error(
                "targets",
                self.targets,
                sums.bad_label_row,
                self.n_classes,
                self.options.ignore_index,
            )

    def output(self, out, dtype, inputs):
        """Check the caller's ``out``; ``inputs`` are arrays beside those of the problem."""
        if out is None:
            return None
        inputs = {**inputs, **self.arrays}
        return _results.output(out, self.reduction, self.rows, dtype, inputs)

    def row_losses(self, checked, dtype):
        """Where the losses of the rows go, or None."""
        return _results.row_buffer(checked, self.reduction, self.rows, dtype)

    def reduced(self, row_losses, out, checked, weight_sum=None):
        """The loss as the caller asked for it; ``weight_sum`` where not all rows were summed."""
        if weight_sum is None:
            weight_sum = self.sums.weight
        return _results.reduced(
            self.reduction, self.sums.loss, weight_sum, row_losses, self.rows, out, checked
        )


def loss_problem(
    targets,
    shape,
    axis,
    n_classes,
    *,
    weight,
    sample_weight,
    ignore_index,
    reduction,
    label_smoothing=0.0,
    temperature=1.0,
):
    """Check targets and options of a loss whose logits have ``shape``, classes along ``axis``."""
    ignored = _arguments.ignore_index(ignore_index)
    rows = _arguments.rows_shape(shape, axis)
    return LossProblem(
        targets=_arguments.targets(targets, rows, shape, ignored),
        n_classes=n_classes,
        rows=rows,
        options=Options(
            weight=_arguments.class_weight(weight, n_classes),
            ignore_index=ignored,
            label_smoothing=_arguments.label_smoothing(label_smoothing),
        ),
        sample_weight=_arguments.sample_weight(sample_weight, rows),
        temperature=_arguments.temperature(temperature, rows),
        reduction=_arguments.reduction(reduction),
        sums=_core.Sums(),
    )
