from typing import Literal, NamedTuple, SupportsIndex

from .functional import _Input

class TemperatureFit(NamedTuple):
    temperature: float
    stderr: float
    loss: float
    loss_before: float
    status: str
    n_passes: int

def fit_temperature(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    nan_policy: Literal["raise", "omit", "propagate"] = "raise",
    n_threads: SupportsIndex | None = None,
) -> TemperatureFit: ...
