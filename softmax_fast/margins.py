"""Margins of the fully connected layer's loss: the label's logit is made harder to win with."""

import math
from dataclasses import dataclass

import numpy as np

from . import _arguments
from ._margins import SINE_ERROR, Label


@dataclass(frozen=True)
class LargeMargin:
    r"""Large-margin softmax [1]_: the angle to the label's weights counts m times.

    Parameters
    ----------
    m : int
        From 1 to 2**20. With 1 the loss is the plain one, bit for bit.
    blend : float, optional
        :math:`\lambda \ge 0`, finite: how much of the plain logit stays. Training begins with a large
        one.

    Notes
    -----
    With :math:`\theta` the angle between a row's features x and the weights w of its label, the label's
    logit :math:`z = w^T x` becomes

    .. math:: \frac{\lambda z + \|w\| \|x\| \psi(\theta)}{1 + \lambda}, \quad
              \psi(\theta) = (-1)^k \cos(m \theta) - 2k
              \text{ for } \frac{k \pi}{m} \le \theta \le \frac{(k + 1) \pi}{m}

    and all others stay. The angle to a vector of zeros counts as :math:`\pi/2`, and to such a vector
    only :math:`\lambda z` has a gradient. An error of the angle counts m times too: of the digits of
    :math:`\psi` about :math:`\log_{10} m` are lost.

    References
    ----------
    .. [1] W. Liu, Y. Wen, Z. Yu, M. Yang, "Large-margin softmax loss for convolutional neural
       networks", ICML 2016, :arxiv:`1612.02295`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import LargeMargin, linear_softmax_loss
    >>> features, weights = np.array([[2.0, 1.0]]), np.eye(2)
    >>> float(linear_softmax_loss(features, weights, [0]).round(4))
    0.3133
    >>> float(linear_softmax_loss(features, weights, [0], margin=LargeMargin(2)).round(4))
    0.5368
    """

    m: int
    blend: float = 0.0

    _normalises = False

    @property
    def _is_plain(self):
        return self.m == 1

    def __post_init__(self):
        object.__setattr__(self, "m", _arguments.margin_multiple(self.m))
        object.__setattr__(self, "blend", _arguments.margin_number("blend", self.blend))

    def _label(self, pairs):
        theta = np.arctan2(pairs.sine, pairs.cosine)
        acute = np.arctan2(pairs.sine, np.abs(pairs.cosine))
        turns = np.clip(np.floor(theta * (self.m / math.pi)), 0, self.m - 1)
        # cos(mθ) and sin(mθ)/sin θ of the acute angle, whose digits stay next to 0.
        flipped = pairs.cosine < 0
        cosine = np.cos(self.m * acute) * np.where(flipped & (self.m % 2 == 1), -1.0, 1.0)
        ratio = np.full_like(acute, float(self.m))
        across = pairs.sine > SINE_ERROR
        np.divide(np.sin(self.m * acute), np.sin(acute), out=ratio, where=across)
        ratio = ratio * np.where(flipped & (self.m % 2 == 0), -1.0, 1.0)
        sign = 1.0 - 2.0 * (turns % 2)
        psi = np.where(pairs.either_is_zero, 0.0, sign * cosine - 2 * turns)
        slope = np.where(pairs.either_is_zero, 0.0, sign * self.m * ratio)
        whole = 1 + self.blend
        logits = (self.blend * pairs.cosine + psi) / whole * pairs.x_norm * pairs.w_norm
        own, other = (psi - pairs.cosine * slope) / whole, (self.blend + slope) / whole
        return Label(logits, own, other, pairs.w_norm, pairs.x_norm)


@dataclass(frozen=True)
class CosineMargin:
    r"""CosFace [1]_: the label's cosine is lowered by m.

    Parameters
    ----------
    m : float
        Finite and >= 0.
    scale : float
        s, finite and > 0, that the cosines are multiplied by.

    Notes
    -----
    The logits are :math:`s \cos \theta_c`, with :math:`\theta_c` the angle between a row's features and
    the weights of class c, and the label's is :math:`s (\cos \theta_y - m)`. The angle to a vector of
    zeros counts as :math:`\pi/2`, and its gradient is 0.

    References
    ----------
    .. [1] H. Wang et al., "CosFace: large margin cosine loss for deep face recognition", CVPR 2018,
       :arxiv:`1801.09414`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import CosineMargin, linear_softmax_loss, softmax_loss
    >>> features, weights = np.array([[3.0, 4.0]]), np.array([[2.0, 0.0], [0.0, 1.0]])
    >>> loss = linear_softmax_loss(features, weights, [0], margin=CosineMargin(0.35, 8))
    >>> bool(np.isclose(loss, softmax_loss([[8 * (0.6 - 0.35), 8 * 0.8]], [0])))
    True
    """

    m: float
    scale: float

    _normalises = True
    _is_plain = False

    def __post_init__(self):
        object.__setattr__(self, "m", _arguments.margin_number("m", self.m))
        object.__setattr__(self, "scale", _arguments.margin_scale(self.scale))

    def _label(self, pairs):
        there = np.where(pairs.either_is_zero, 0.0, 1.0)
        return Label.of_cosine(self, pairs, pairs.cosine - self.m, there)


@dataclass(frozen=True)
class AngularMargin:
    r"""ArcFace [1]_: the label's angle is widened by m.

    Parameters
    ----------
    m : float
        In radians, from 0 to :math:`\pi`.
    scale : float
        s, finite and > 0, that the cosines are multiplied by.

    Notes
    -----
    The logits are :math:`s \cos \theta_c`, with :math:`\theta_c` the angle between a row's features and
    the weights of class c, and the label's is :math:`s \cos(\theta_y + m)`. At the angles 0 and
    :math:`\pi` the latter has no gradient; 0 takes its place, which lies in the middle of the
    one-sided ones. The angle to a vector of zeros counts as :math:`\pi/2`, and its gradient is 0.

    References
    ----------
    .. [1] J. Deng, J. Guo, N. Xue, S. Zafeiriou, "ArcFace: additive angular margin loss for deep face
       recognition", CVPR 2019, :arxiv:`1801.07698`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_fast import AngularMargin, linear_softmax_loss, softmax_loss
    >>> features, weights = np.array([[3.0, 4.0]]), np.array([[2.0, 0.0], [0.0, 1.0]])
    >>> loss = linear_softmax_loss(features, weights, [0], margin=AngularMargin(0.5, 8))
    >>> label = 8 * np.cos(np.arccos(0.6) + 0.5)
    >>> bool(np.isclose(loss, softmax_loss([[label, 8 * 0.8]], [0])))
    True
    """

    m: float
    scale: float

    _normalises = True
    _is_plain = False

    def __post_init__(self):
        object.__setattr__(self, "m", _arguments.margin_number("m", self.m, math.pi))
        object.__setattr__(self, "scale", _arguments.margin_scale(self.scale))

    def _label(self, pairs):
        across = (pairs.sine > SINE_ERROR) & ~pairs.either_is_zero
        cosine = pairs.cosine * math.cos(self.m) - pairs.sine * math.sin(self.m)
        sine = pairs.sine * math.cos(self.m) + pairs.cosine * math.sin(self.m)
        slope = np.divide(sine, pairs.sine, out=np.zeros_like(sine), where=across)
        slope[np.isnan(sine)] = np.nan
        return Label.of_cosine(self, pairs, cosine, slope)
