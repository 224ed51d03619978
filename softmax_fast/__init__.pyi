from typing import Any, Literal, SupportsIndex, overload

from .functional import log_softmax as log_softmax
from .functional import logsumexp as logsumexp
from .functional import selected_log_probs as selected_log_probs
from .functional import softmax as softmax
from .linear import LinearGrads as LinearGrads
from .linear import linear_softmax_loss as linear_softmax_loss
from .linear import linear_softmax_loss_and_grad as linear_softmax_loss_and_grad
from .losses import binary_cross_entropy as binary_cross_entropy
from .losses import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from .losses import cross_entropy as cross_entropy
from .losses import softmax_loss as softmax_loss
from .losses import softmax_loss_and_grad as softmax_loss_and_grad

__version__: str

__all__ = [
    "LinearGrads",
    "__version__",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "get_include",
    "get_num_threads",
    "linear_softmax_loss",
    "linear_softmax_loss_and_grad",
    "log_softmax",
    "logsumexp",
    "selected_log_probs",
    "set_num_threads",
    "show_config",
    "softmax",
    "softmax_loss",
    "softmax_loss_and_grad",
]

def get_include() -> str: ...
def get_num_threads() -> int: ...
def set_num_threads(n: SupportsIndex | None) -> None: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
