from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex

from numpy.typing import NDArray

from .functional import _Input

class RowStatistics(NamedTuple):
    logsumexp: NDArray[Any]
    prediction: NDArray[Any]
    confidence: NDArray[Any]
    entropy: NDArray[Any]
    loss: NDArray[Any] | None
    rank: NDArray[Any] | None
    brier: NDArray[Any] | None

class Reliability(NamedTuple):
    edges: NDArray[Any]
    count: NDArray[Any]
    confidence: NDArray[Any]
    accuracy: NDArray[Any]
    lower: NDArray[Any]
    upper: NDArray[Any]

def row_statistics(
    logits: _Input,
    targets: _Input | None = None,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    ignore_index: SupportsIndex | None = -100,
    n_threads: SupportsIndex | None = None,
) -> RowStatistics: ...

class Evaluation:
    n: int
    n_ignored: int
    n_nonfinite: int
    first_nonfinite: int | None
    n_classes: int | None
    n_bins: int
    weight_sum: float
    temperature: float
    loss: float
    loss_stderr: float
    perplexity: float
    accuracy: float
    accuracy_stderr: float
    top_k: dict[int, float]
    mean_reciprocal_rank: float
    brier: float
    brier_stderr: float
    entropy: float
    confidence: float
    ece: float
    mce: float
    rms_ce: float
    ece_floor: float
    ece_equal_mass: float
    classwise_ece: float | None
    temperature_hint: float
    def reliability(
        self,
        n_bins: SupportsIndex | None = None,
        strategy: Literal["uniform", "quantile"] = "uniform",
    ) -> Reliability: ...
    def as_dict(self) -> dict[str, Any]: ...
    def plot(self, ax: Any = None) -> Any: ...

class Evaluator:
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: SupportsIndex | Sequence[SupportsIndex] = (1, 5),
        n_bins: SupportsIndex = 15,
        classwise: bool = False,
        ignore_index: SupportsIndex | None = -100,
        nan_policy: Literal["propagate", "omit", "raise"] = "propagate",
        n_threads: SupportsIndex | None = None,
    ) -> None: ...
    @property
    def n_classes(self) -> int | None: ...
    def update(
        self,
        logits: _Input,
        targets: _Input,
        *,
        sample_weight: _Input | None = None,
        axis: SupportsIndex = -1,
    ) -> Evaluator: ...
    def merge(self, other: Evaluator) -> Evaluator: ...
    def __add__(self, other: Evaluator) -> Evaluator: ...
    def result(self) -> Evaluation: ...

def evaluate(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: float = 1.0,
    top_k: SupportsIndex | Sequence[SupportsIndex] = (1, 5),
    n_bins: SupportsIndex = 15,
    classwise: bool = False,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    nan_policy: Literal["propagate", "omit", "raise"] = "propagate",
    n_threads: SupportsIndex | None = None,
) -> Evaluation: ...
