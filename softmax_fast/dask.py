"""Evaluation, calibration and comparison of Dask arrays: each block gives sums, and only sums travel.

Needs Dask: ``pip install "softmax-fast[dask]"``.
"""

import copy
import functools

import numpy as np

try:
    import dask
    import dask.array as da
except ImportError as error:
    raise ImportError(
        f'softmax_fast.dask needs Dask ({error}): pip install "softmax-fast[dask]"'
    ) from error

from . import _arguments, _temperature
from ._temperature import TemperatureFit
from .comparison import QUANTILES, Comparison, _Comparer
from .evaluation import Evaluation, Evaluator

# So many sums are added up in a task.
_FAN_IN = 8


def evaluate(
    logits,
    targets,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    top_k=(1, 5),
    n_bins: int = 15,
    classwise: bool = False,
    sample_weight=None,
    ignore_index: int | None = -100,
    nan_policy: str = "propagate",
    n_threads: int = 1,
) -> Evaluation:
    """`softmax_fast.evaluate` of a Dask array.

    Parameters
    ----------
    logits : dask.array.Array
        Logits in blocks of whole rows.
    targets, sample_weight : dask.array.Array or array_like
        As for `softmax_fast.evaluate`; in any blocks, which become those of the rows.
    axis, temperature, top_k, n_bins, classwise, ignore_index, nan_policy
        As for `softmax_fast.evaluate`.
    n_threads : int, optional
        At most this many threads in each task, 1 unless given: the scheduler runs several.

    Returns
    -------
    Evaluation
        That of all rows, ``first_nonfinite`` being a row's number in the whole array.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax_fast.evaluate`, those about the values of a block with the place of the block;
        and ValueError for blocks that do not hold whole rows.

    Notes
    -----
    A block becomes the state of an `Evaluator`, and those are merged in the order of the rows, a few
    in a task. So the result does not depend on the scheduler, on workers, or on whether one was lost
    and its blocks computed again, and to 1e-15 relative not on the blocks.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from softmax_fast.dask import evaluate
    >>> logits = da.from_array(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), chunks=(1, 3))
    >>> round(evaluate(logits, [0, 2]).loss, 6)
    0.458145
    """
    blocks = _Blocks(logits, targets, sample_weight, axis)
    evaluator = Evaluator(
        temperature=temperature,
        top_k=top_k,
        n_bins=n_bins,
        classwise=classwise,
        ignore_index=ignore_index,
        nan_policy=nan_policy,
        n_threads=n_threads,
    )
    return blocks.added_up(_evaluated, evaluator).result()


def fit_temperature(
    logits,
    targets,
    *,
    axis: int = -1,
    sample_weight=None,
    ignore_index: int | None = -100,
    nan_policy: str = "raise",
    n_threads: int = 1,
) -> TemperatureFit:
    """`softmax_fast.fit_temperature` of a Dask array.

    Parameters
    ----------
    logits : dask.array.Array
        Logits in blocks of whole rows. They are computed once a pass, ``n_passes`` times: call
        their ``persist()`` first where they fit in the memory of the workers.
    targets, sample_weight : dask.array.Array or array_like
        As for `softmax_fast.fit_temperature`; in any blocks, which become those of the rows.
    axis, ignore_index, nan_policy
        As for `softmax_fast.fit_temperature`.
    n_threads : int, optional
        At most this many threads in each task, 1 unless given: the scheduler runs several.

    Returns
    -------
    TemperatureFit
        That of all rows.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax_fast.fit_temperature`, and ValueError for blocks that do not hold whole rows.

    Notes
    -----
    No sample is looked at first, so that it takes a pass or two more than in memory.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from softmax_fast.dask import fit_temperature
    >>> logits = da.from_array(np.log([[3.0, 1.0]] * 5), chunks=(2, 2))
    >>> round(fit_temperature(logits, [0, 0, 0, 1, 1]).temperature, 6)
    2.709511
    """
    blocks = _Blocks(logits, targets, sample_weight, axis)
    ignored = _arguments.ignore_index(ignore_index)
    n_threads = _arguments.threads(n_threads)
    return _temperature.fit(
        lambda beta: blocks.added_up(_fitted, beta, ignored, n_threads),
        nan_policy=_arguments.nan_policy(nan_policy),
        row_error=lambda row: _arguments.nonfinite_row_error(np.unravel_index(row, blocks.rows)),
    )


def compare(
    base_logits,
    logits,
    targets=None,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight=None,
    ignore_index: int | None = -100,
    quantiles=QUANTILES,
    n_threads: int = 1,
) -> Comparison:
    """`softmax_fast.compare` of Dask arrays.

    Parameters
    ----------
    base_logits : dask.array.Array or array_like
        Logits of the shape of ``logits``; in any blocks, which become those of ``logits``.
    logits : dask.array.Array
        Logits in blocks of whole rows.
    targets, sample_weight : dask.array.Array or array_like
        As for `softmax_fast.compare`; in any blocks, which become those of the rows.
    axis, ignore_index, quantiles
        As for `softmax_fast.compare`.
    temperature : float, optional
        T, finite and > 0, the same for all rows.
    n_threads : int, optional
        At most this many threads in each task, 1 unless given: the scheduler runs several.

    Returns
    -------
    Comparison
        That of all rows, without those of each row.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax_fast.compare`, those about the values of a block with the place of the block;
        and ValueError for blocks that do not hold whole rows.

    Notes
    -----
    Beside sums, for the quantiles the divergence of each row travels, and with targets the change
    of its label's probability: 8 bytes each, 16 with weights.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from softmax_fast.dask import compare
    >>> base_logits = da.from_array(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), chunks=(1, 3))
    >>> logits = da.from_array(np.log([[0.25, 0.25, 0.5], [0.1, 0.1, 0.8]]), chunks=(1, 3))
    >>> round(compare(base_logits, logits).kl, 6)
    0.086643
    """
    blocks = _Blocks(logits, targets, sample_weight, axis)
    blocks.give_base(base_logits, logits)
    comparer = _Comparer(
        temperature=temperature,
        quantiles=quantiles,
        ignore_index=ignore_index,
        n_threads=n_threads,
    )
    return blocks.added_up(_compared, comparer).result()


class _Blocks:
    """The blocks of logits, each with the labels and weights of its rows, in the rows' order."""

    def __init__(self, logits, targets, sample_weight, axis):
        _arguments.dask_logits(logits, da.Array)
        self.axis = _arguments.axis(axis, logits.ndim)
        _arguments.whole_rows(logits.shape, logits.chunks, self.axis)
        self.rows = _arguments.rows_shape(logits.shape, self.axis)
        chunks = _arguments.rows_shape(logits.chunks, self.axis)
        self.parts = [logits.to_delayed().ravel()]
        for name, values in (("targets", targets), ("sample_weight", sample_weight)):
            if values is None:
                self.parts.append([None] * len(self.parts[0]))
                continue
            if not isinstance(values, da.Array):
                array = _arguments.as_array(name, values)
                if name == "targets" and not array.size:
                    array = array.astype(np.int64)
                values = da.from_array(array)
            _arguments.known_chunks(name, values)
            _arguments.one_per_row(name, values.shape, self.rows)
            self.parts.append(values.rechunk(chunks).to_delayed().ravel())
        starts = [np.cumsum([0, *sizes[:-1]]) for sizes in logits.chunks]
        self.places = [
            tuple(int(s[i]) for s, i in zip(starts, index, strict=True))
            for index in np.ndindex(*logits.numblocks)
        ]

    def give_base(self, base_logits, logits):
        """Give each block that of the base too."""
        if not isinstance(base_logits, da.Array):
            array = _arguments.as_array("base_logits", base_logits)
            _arguments.base_logits(array, logits.shape)
            base_logits = da.from_array(array)
        _arguments.known_chunks("base_logits", base_logits)
        if base_logits.shape != logits.shape:
            raise _arguments.base_shape_error(base_logits.shape, logits.shape)
        self.parts.append(base_logits.rechunk(logits.chunks).to_delayed().ravel())

    def added_up(self, function, *options):
        """The sum of what ``function`` makes of each block, in their order."""
        function = dask.delayed(function, pure=False)
        add = dask.delayed(_sum, pure=False)
        sums = [
            function(place, *block, self.axis, *options)
            for place, *block in zip(self.places, *self.parts, strict=True)
        ]
        while len(sums) > 1:
            sums = [add(sums[i : i + _FAN_IN]) for i in range(0, len(sums), _FAN_IN)]
        (result,) = dask.compute(sums[0])
        if isinstance(result, Exception):
            raise result
        return result


def _sum(sums):
    """The sum, or the first error."""
    for error in sums:
        if isinstance(error, Exception):
            return error
    return functools.reduce(lambda a, b: a + b, sums)


def _of_block(function):
    """Return errors of arguments instead of raising them, so that the first of all is known."""

    @functools.wraps(function)
    def task(place, *arguments):
        try:
            return function(*arguments)
        except (IndexError, TypeError, ValueError) as error:
            return type(error)(f"in the block of logits at {place}: {error}")

    return task


@_of_block
def _evaluated(logits, targets, sample_weight, axis, evaluator):
    # On threads the tasks share the one evaluator that was given.
    own = copy.deepcopy(evaluator)
    return own.update(logits, targets, sample_weight=sample_weight, axis=axis)


@_of_block
def _compared(logits, targets, sample_weight, base_logits, axis, comparer):
    own = copy.deepcopy(comparer)
    return own.update(base_logits, logits, targets, sample_weight=sample_weight, axis=axis)


@_of_block
def _fitted(logits, targets, sample_weight, axis, beta, ignore_index, n_threads):
    rows = _temperature.labelled_rows(
        logits, targets, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index
    )
    return rows.sums_at(beta, n_threads)
