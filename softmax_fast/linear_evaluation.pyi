from collections.abc import Sequence
from typing import Literal, SupportsIndex

from .calibration import TemperatureFit
from .evaluation import Evaluation, RowStatistics
from .functional import _Input

def row_statistics_linear(
    features: _Input,
    weights: _Input,
    targets: _Input | None = None,
    *,
    bias: _Input | None = None,
    temperature: _Input = 1.0,
    ignore_index: SupportsIndex | None = -100,
    n_threads: SupportsIndex | None = None,
) -> RowStatistics: ...
def evaluate_linear(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    temperature: float = 1.0,
    top_k: SupportsIndex | Sequence[SupportsIndex] = (1, 5),
    n_bins: SupportsIndex = 15,
    classwise: bool = False,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    nan_policy: Literal["propagate", "omit", "raise"] = "propagate",
    n_threads: SupportsIndex | None = None,
) -> Evaluation: ...
def fit_temperature_linear(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    nan_policy: Literal["raise", "omit", "propagate"] = "raise",
    n_threads: SupportsIndex | None = None,
) -> TemperatureFit: ...
