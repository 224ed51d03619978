from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from .functional import _Array, _Input
from .margins import AngularMargin, CosineMargin, LargeMargin

_Gradient: TypeAlias = Literal["features", "weights", "bias"]

BUFFER_BYTES: int

class LinearGrads(NamedTuple):
    features: NDArray[Any] | None
    weights: NDArray[Any] | None
    bias: NDArray[Any] | None

@overload
def linear_softmax_loss(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    margin: LargeMargin | CosineMargin | AngularMargin | None = None,
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
def linear_softmax_loss(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    margin: LargeMargin | CosineMargin | AngularMargin | None = None,
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
def linear_softmax_loss(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    margin: LargeMargin | CosineMargin | AngularMargin | None = None,
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
def linear_softmax_loss_and_grad(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    margin: LargeMargin | CosineMargin | AngularMargin | None = None,
    wrt: _Gradient | Iterable[_Gradient] = ("features", "weights", "bias"),
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[np.float64, LinearGrads]: ...
@overload
def linear_softmax_loss_and_grad(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    margin: LargeMargin | CosineMargin | AngularMargin | None = None,
    wrt: _Gradient | Iterable[_Gradient] = ("features", "weights", "bias"),
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[Any, LinearGrads]: ...
@overload
def linear_softmax_loss_and_grad(
    features: _Input,
    weights: _Input,
    targets: _Input,
    *,
    bias: _Input | None = None,
    margin: LargeMargin | CosineMargin | AngularMargin | None = None,
    wrt: _Gradient | Iterable[_Gradient] = ("features", "weights", "bias"),
    temperature: _Input = 1.0,
    weight: _Input | None = None,
    sample_weight: _Input | None = None,
    ignore_index: SupportsIndex | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> tuple[_Array, LinearGrads]: ...
