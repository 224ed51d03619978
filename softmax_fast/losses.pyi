from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from .functional import _Array, _Input

@overload
def softmax_loss(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> np.float64: ...
@overload
def softmax_loss(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def softmax_loss(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def softmax_loss_and_grad(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    grad_out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[np.float64, NDArray[Any]]: ...
@overload
def softmax_loss_and_grad(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
    out: None = None,
    grad_out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[Any, NDArray[Any]]: ...
@overload
def softmax_loss_and_grad(
    logits: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    grad_out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[_Array, NDArray[Any]]: ...
@overload
def cross_entropy(
    probs: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> np.float64: ...
@overload
def cross_entropy(
    probs: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    reduction: Literal["none"],
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def cross_entropy(
    probs: _Input,
    targets: _Input,
    *,
    axis: SupportsIndex = -1,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def binary_cross_entropy(
    probs: _Input,
    targets: _Input,
    *,
    sample_weight: _Input | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> np.float64: ...
@overload
def binary_cross_entropy(
    probs: _Input,
    targets: _Input,
    *,
    sample_weight: _Input | None = None,
    reduction: Literal["none"],
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def binary_cross_entropy(
    probs: _Input,
    targets: _Input,
    *,
    sample_weight: _Input | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def binary_cross_entropy_with_logits(
    logits: _Input,
    targets: _Input,
    *,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    pos_weight: _Input | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> np.float64: ...
@overload
def binary_cross_entropy_with_logits(
    logits: _Input,
    targets: _Input,
    *,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    pos_weight: _Input | None = None,
    reduction: Literal["none"],
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def binary_cross_entropy_with_logits(
    logits: _Input,
    targets: _Input,
    *,
    temperature: _Input = 1.0,
    sample_weight: _Input | None = None,
    pos_weight: _Input | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
