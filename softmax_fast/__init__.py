"""Fast, exact softmax and cross-entropy loss for NumPy arrays on the CPU."""

try:
    __import__("softmax_fast._core")
except ModuleNotFoundError as error:
    if error.name != "softmax_fast._core":
        raise
    raise ImportError(
        f"no compiled module for this Python in {__path__[0]}: if that belongs to a source tree, "
        "build it with `pip install -e .` in the folder above, or start Python in another "
        "folder to import an installed softmax_fast"
    ) from None

from ._config import get_include, show_config
from ._threads import get_num_threads, set_num_threads
from ._version import __version__
from .calibration import TemperatureFit, fit_temperature
from .comparison import Comparison, RowComparison, compare
from .divergence import kl_divergence, kl_divergence_and_grad
from .evaluation import (
    Evaluation,
    Evaluator,
    Reliability,
    RowStatistics,
    evaluate,
    row_statistics,
)
from .functional import log_softmax, logsumexp, selected_log_probs, softmax
from .linear import LinearGrads, linear_softmax_loss, linear_softmax_loss_and_grad
from .linear_evaluation import (
    evaluate_linear,
    fit_temperature_linear,
    row_statistics_linear,
)
from .losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    softmax_loss,
    softmax_loss_and_grad,
)
from .margins import AngularMargin, CosineMargin, LargeMargin

__all__ = [
    "AngularMargin",
    "Comparison",
    "CosineMargin",
    "Evaluation",
    "Evaluator",
    "LargeMargin",
    "LinearGrads",
    "Reliability",
    "RowComparison",
    "RowStatistics",
    "TemperatureFit",
    "__version__",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "compare",
    "cross_entropy",
    "evaluate",
    "evaluate_linear",
    "fit_temperature",
    "fit_temperature_linear",
    "get_include",
    "get_num_threads",
    "kl_divergence",
    "kl_divergence_and_grad",
    "linear_softmax_loss",
    "linear_softmax_loss_and_grad",
    "log_softmax",
    "logsumexp",
    "row_statistics",
    "row_statistics_linear",
    "selected_log_probs",
    "set_num_threads",
    "show_config",
    "softmax",
    "softmax_loss",
    "softmax_loss_and_grad",
]
