from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

from numpy.typing import NDArray

from .functional import _Input

QUANTILES: tuple[float, ...]

class RowComparison(NamedTuple):
    kl: NDArray[Any]
    kl_reverse: NDArray[Any]
    js: NDArray[Any]
    total_variation: NDArray[Any]
    max_abs_dp: NDArray[Any]
    same_top: NDArray[Any]
    base_loss: NDArray[Any] | None
    loss: NDArray[Any] | None
    dp: NDArray[Any] | None

class Comparison:
    n: int
    n_ignored: int
    n_nonfinite: int
    first_nonfinite: int | None
    n_classes: int | None
    weight_sum: float
    temperature: float | None
    kl: float
    kl_stderr: float
    kl_quantiles: dict[float, float]
    kl_reverse: float
    js: float
    total_variation: float
    max_abs_dp: float
    same_top: float
    same_top_stderr: float
    base_loss: float | None
    base_loss_stderr: float | None
    loss: float | None
    loss_stderr: float | None
    loss_difference: float | None
    loss_difference_stderr: float | None
    base_perplexity: float | None
    perplexity: float | None
    perplexity_ratio: float | None
    perplexity_ratio_stderr: float | None
    correlation: float | None
    dp: float | None
    dp_stderr: float | None
    dp_rms: float | None
    dp_rms_stderr: float | None
    dp_quantiles: dict[float, float] | None
    rows: RowComparison | None
    def as_dict(self) -> dict[str, Any]: ...
    def plot(self, ax: Any = None) -> Any: ...

def compare(
    base_logits: _Input,
    logits: _Input,
    targets: _Input | None = None,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    quantiles: SupportsFloat | Sequence[SupportsFloat] = (
        0,
        0.001,
        0.01,
        0.05,
        0.1,
        0.25,
        0.5,
        0.75,
        0.9,
        0.95,
        0.99,
        0.999,
        1,
    ),
    rows: bool = False,
    n_threads: SupportsIndex | None = None,
) -> Comparison: ...
