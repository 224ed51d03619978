from typing import Any, Protocol, SupportsIndex, TypeAlias, TypeVar, overload

from numpy.typing import ArrayLike, NDArray

# Results are float32 or float64, which depends on values that static types do not show
# (lists, DLPack objects): arrays are typed with their dtype left open.

class _SupportsDLPack(Protocol):
    def __dlpack__(self) -> Any: ...

_Input: TypeAlias = ArrayLike | _SupportsDLPack
_Array = TypeVar("_Array", bound=NDArray[Any])

@overload
def softmax(
    x: _Input,
    axis: SupportsIndex = -1,
    *,
    temperature: _Input = 1.0,
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
@overload
def softmax(
    x: _Input,
    axis: SupportsIndex = -1,
    *,
    temperature: _Input = 1.0,
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def log_softmax(
    x: _Input,
    axis: SupportsIndex = -1,
    *,
    temperature: _Input = 1.0,
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
@overload
def log_softmax(
    x: _Input,
    axis: SupportsIndex = -1,
    *,
    temperature: _Input = 1.0,
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def logsumexp(
    x: _Input,
    axis: SupportsIndex = -1,
    *,
    temperature: _Input = 1.0,
    keepdims: bool = False,
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def logsumexp(
    x: _Input,
    axis: SupportsIndex = -1,
    *,
    temperature: _Input = 1.0,
    keepdims: bool = False,
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def selected_log_probs(
    logits: _Input,
    indices: _Input,
    *,
    temperature: _Input = 1.0,
    ignore_index: SupportsIndex | None = -100,
    out: None = None,
    n_threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def selected_log_probs(
    logits: _Input,
    indices: _Input,
    *,
    temperature: _Input = 1.0,
    ignore_index: SupportsIndex | None = -100,
    out: _Array,
    n_threads: SupportsIndex | None = None,
) -> _Array: ...
