from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from .functional import _Array, _Input

@overload
def kl_divergence(
    base_logits: _Input,
    logits: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    scale: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> np.float64: ...
@overload
def kl_divergence(
    base_logits: _Input,
    logits: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    scale: float = 1.0,
    reduction: Literal["none"],
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def kl_divergence(
    base_logits: _Input,
    logits: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    scale: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def kl_divergence_and_grad(
    base_logits: _Input,
    logits: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    scale: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    grad_out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[np.float64, NDArray[Any]]: ...
@overload
def kl_divergence_and_grad(
    base_logits: _Input,
    logits: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    scale: float = 1.0,
    reduction: Literal["none"],
    out: None = None,
    grad_out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[Any, NDArray[Any]]: ...
@overload
def kl_divergence_and_grad(
    base_logits: _Input,
    logits: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    scale: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    grad_out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[_Array, NDArray[Any]]: ...
