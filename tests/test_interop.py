"""PyTorch and scikit-learn beside this library, where they are installed."""

import pathlib

import numpy as np
import oracle
import pytest
from cases import REDUCTIONS, distributions, labels, logits, positive

import softmax_fast as sf

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def functional(torch):
    return torch.nn.functional


def test_torch_tensors_are_read_without_a_copy(torch, dtype):
    x = torch.from_numpy(logits((6, 9), dtype))
    y = torch.from_numpy(labels(6, 9))
    oracle.assert_same_bits(sf.softmax(x), sf.softmax(x.numpy()))
    assert sf.softmax_loss(x, y) == sf.softmax_loss(x.numpy(), y.numpy())
    place = x.numpy()
    sf.softmax(x, out=place)
    torch.testing.assert_close(
        x, torch.from_numpy(sf.softmax(logits((6, 9), dtype))), rtol=0, atol=0
    )
    back = torch.from_numpy(sf.log_softmax(place))
    assert back.dtype == x.dtype and back.shape == x.shape


def test_strided_torch_tensors(torch, dtype):
    x = torch.from_numpy(logits((12, 18), dtype))
    for view in (x[::2, ::3], x.T, x.expand(2, 12, 18)):
        oracle.assert_same_bits(sf.softmax(view), sf.softmax(np.ascontiguousarray(view.numpy())))


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_means_what_pytorch_means(kind, reduction, smoothing, weighted, torch):
    x = logits((20, 7), np.float64)
    y, t = labels(20, 7), distributions((20, 7), np.float64)
    y[3] = -100
    w = positive(7) if weighted else None
    targets = y if kind == "labels" else t
    tensor = torch.from_numpy(x).requires_grad_()
    theirs = functional(torch).cross_entropy(
        tensor,
        torch.from_numpy(targets),
        weight=None if w is None else torch.from_numpy(w),
        reduction=reduction,
        label_smoothing=smoothing,
    )
    loss, grad = sf.softmax_loss_and_grad(
        x, targets, weight=w, reduction=reduction, label_smoothing=smoothing
    )
    theirs.sum().backward()
    room = 64 * np.finfo(np.float64).eps
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=room, atol=room * 10)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=room, atol=room * 10)


def test_images_mean_what_pytorch_means(torch):
    x, y = logits((2, 5, 3, 4), np.float64), labels((2, 3, 4), 5)
    theirs = functional(torch).cross_entropy(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert abs(sf.softmax_loss(x, y, axis=1) - theirs) <= 64 * np.finfo(np.float64).eps * theirs


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_losses_mean_what_pytorch_means(reduction, torch):
    x = logits((20, 7), np.float64)
    t = distributions((20, 7), np.float64)
    pos_weight = positive(7)
    theirs = functional(torch).binary_cross_entropy_with_logits(
        *map(torch.from_numpy, (x, t)), pos_weight=torch.from_numpy(pos_weight), reduction=reduction
    )
    ours = sf.binary_cross_entropy_with_logits(x, t, pos_weight=pos_weight, reduction=reduction)
    room = 64 * np.finfo(np.float64).eps
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=room, atol=room * 10)
    p = 1 / (1 + np.exp(-x))
    theirs = functional(torch).binary_cross_entropy(
        *map(torch.from_numpy, (p, t)), reduction=reduction
    )
    ours = sf.binary_cross_entropy(p, t, reduction=reduction)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=room, atol=room * 10)


def test_scikit_learns_log_loss_on_the_digits_agrees():
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = np.load(DATA / "digits_logits.npy"), np.load(DATA / "digits_labels.npy")
    theirs = metrics.log_loss(y, sf.softmax(x.astype(np.float64)))
    ours = sf.softmax_loss(x.astype(np.float64), y)
    d = np.abs(oracle.rows_of(x.astype(np.float64)).exponent).max()
    assert abs(ours - theirs) <= (16 + 4 * d) * np.finfo(np.float64).eps * max(1, theirs)
