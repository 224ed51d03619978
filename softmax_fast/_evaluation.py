"""Statistics of a classifier's logits against the true labels, for the command line."""

import math

import numpy as np

from softmax_fast import softmax_loss

CALIBRATION_BINS = 15
TOP_K = 5


class Evaluation:
    """Loss, accuracy and calibration, gathered chunk by chunk.

    Parameters
    ----------
    temperature : float
        What the logits are divided by, > 0.
    n_threads : int or None
        The most threads `softmax_loss` may use.

    Notes
    -----
    The variance is merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances" (1979); the calibration error is that of Guo, Pleiss,
    Sun and Weinberger, "On calibration of modern neural networks" (2017).
    """

    def __init__(self, temperature, n_threads):
        self.temperature = temperature
        self.n_threads = n_threads
        self.rows = 0
        self.loss_sums = []
        self.loss_mean = 0.0
        self.loss_squares = 0.0  # Σ (loss − mean)²
        self.right = 0
        self.right_top_k = 0
        self.not_finite = 0
        self.first_not_finite = None
        self.bin_confidence = np.zeros(CALIBRATION_BINS)
        self.bin_right = np.zeros(CALIBRATION_BINS)
        self.confidence_known = True

    def row_losses(self, logits, targets):
        losses = softmax_loss(
            logits,
            targets,
            temperature=self.temperature,
            ignore_index=None,
            reduction="none",
            n_threads=self.n_threads,
        )
        return losses.astype(np.float64)

    def add(self, logits, targets, row_numbers):
        """Count a chunk: logits (n, C), native and contiguous; targets (n,) int64, all in range."""
        n = len(targets)
        if n == 0:
            return
        losses = self.row_losses(logits, targets)
        self.add_losses(losses, row_numbers)

        predicted = logits.argmax(axis=1)
        is_number = ~np.isnan(logits[np.arange(n), predicted])  # argmax finds a NaN first
        is_right = (predicted == targets) & is_number
        log_confidence = -losses
        others = np.flatnonzero(~is_right)
        if len(others):
            logits, targets = logits[others], targets[others]
            log_confidence[others] = -self.row_losses(logits, predicted[others])
            within = within_top(TOP_K, logits, targets) & is_number[others]
            self.right_top_k += np.count_nonzero(within)
        self.right += n - len(others)
        self.right_top_k += n - len(others)
        self.add_confidence(np.exp(log_confidence), is_right)

    def add_losses(self, losses, row_numbers):
        n = len(losses)
        total = losses.sum()
        mean = total / n
        shift = mean - self.loss_mean
        rows = self.rows + n
        self.loss_squares += ((losses - mean) ** 2).sum() + shift * shift * (self.rows / rows * n)
        self.loss_mean += shift * (n / rows)
        self.loss_sums.append(total)
        self.rows = rows
        if not np.isfinite(total):
            where = np.flatnonzero(~np.isfinite(losses))
            self.not_finite += len(where)
            if self.first_not_finite is None and len(where):
                self.first_not_finite = int(row_numbers[where[0]])

    def add_confidence(self, confidence, is_right):
        if np.isnan(confidence).any():
            self.confidence_known = False
            return
        # Bin b holds the confidences in (b/15, (b+1)/15].
        bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.intp) - 1
        bins = np.clip(bins, 0, CALIBRATION_BINS - 1)
        self.bin_confidence += np.bincount(bins, confidence, CALIBRATION_BINS)
        self.bin_right += np.bincount(bins, is_right, CALIBRATION_BINS)

    def results(self):
        n = self.rows
        try:
            mean = math.fsum(self.loss_sums) / n
        except OverflowError:
            mean = math.inf
        variance = self.loss_squares / (n - 1) if n > 1 else math.nan
        gap = np.abs(self.bin_right - self.bin_confidence).sum() / n
        return {
            "mean_loss": mean,
            "standard_error": math.sqrt(variance / n),
            "perplexity": float(np.exp(np.float64(mean))),
            "accuracy": self.right / n,
            "top5_accuracy": self.right_top_k / n,
            "expected_calibration_error": float(gap) if self.confidence_known else math.nan,
        }


def within_top(k, logits, targets):
    """Whether fewer than `k` classes come before the label's in its row, for each row.

    Greater logits come first, and of equal ones the lower class, as in `argmax`.
    """
    n, n_classes = logits.shape
    if n_classes <= k:
        return np.ones(n, bool)
    label_logits = logits[np.arange(n), targets][:, np.newaxis]
    within = (logits >= label_logits).sum(axis=1) <= k  # the label's own logit is one of them
    unsure = np.flatnonzero(~within)
    if len(unsure):
        logits, label_logits = logits[unsure], label_logits[unsure]
        before = (logits > label_logits).sum(axis=1)
        tied = np.flatnonzero(before < k)
        if len(tied):
            lower_class = np.arange(n_classes) < targets[unsure[tied], np.newaxis]
            before[tied] += ((logits[tied] == label_logits[tied]) & lower_class).sum(axis=1)
        within[unsure] = before < k
    return within
