"""A row too long or too scattered for one array is evaluated in shards whose results combine."""

import numpy as np
import oracle
import pytest
from cases import generator, kinds_block, logits, positive

import softmax_fast as sf

SPLITS = [[1], [1000], [4999], [1, 2, 3], [17, 2048, 2049, 4096], list(range(100, 5000, 100))]


def combination_bound(parts, whole, dtype):
    """The parts' errors move the result by at most the largest; then comes one more logsumexp."""
    finite = [np.abs(p[np.isfinite(p)]).max(initial=1) for p in parts]
    return 8 * np.finfo(dtype).eps * np.maximum(np.maximum(1, np.abs(whole)), max(finite))


@pytest.mark.parametrize("split", SPLITS, ids=lambda s: f"{len(s) + 1} shards")
@pytest.mark.parametrize("temperature", [1.0, 0.5, 20.0])
def test_logsumexp_of_shards_is_that_of_the_whole(split, temperature, isa, dtype):
    x, names = kinds_block(5000, dtype)
    # a row whose size is past the common offset's precision says nothing about merging
    x = x[[i for i, name in enumerate(names) if name != "near overflow"]]
    parts = [sf.logsumexp(p, temperature=temperature) for p in np.split(x, split, axis=-1)]
    whole = oracle.logsumexp(x, temperature=temperature)
    merged = sf.logsumexp(np.stack(parts, axis=-1))
    room = combination_bound(parts, whole, dtype)
    oracle.assert_within(merged, whole, room, dtype, f"{len(parts)} shards")


def test_the_order_of_the_shards_is_of_no_account(isa, dtype):
    x = logits((8, 5000), dtype)
    parts = np.stack([sf.logsumexp(p) for p in np.split(x, 10, axis=-1)], axis=-1)
    whole = oracle.logsumexp(x)
    for order in (np.arange(10)[::-1], generator(60).permutation(10)):
        room = combination_bound(list(parts.T), whole, dtype)
        oracle.assert_within(sf.logsumexp(parts[:, order]), whole, room, dtype)


def test_shards_masked_throughout_and_empty_shards_add_nothing(isa, dtype):
    x = logits((4, 100), dtype)
    x[:, 40:70] = -np.inf
    parts = [sf.logsumexp(p) for p in (x[:, :40], x[:, 40:70], x[:, 70:70], x[:, 70:])]
    assert (parts[1] == -np.inf).all() and (parts[2] == -np.inf).all()
    whole = oracle.logsumexp(x)
    room = combination_bound(parts, whole, dtype)
    oracle.assert_within(sf.logsumexp(np.stack(parts, axis=-1)), whole, room, dtype)


def test_the_loss_of_shards_is_that_of_the_whole(isa, dtype):
    """-log p of the label: the merged logsumexp less the label's logit, wherever that lies."""
    x = logits((50, 3000), dtype)
    y = generator(61).integers(3000, size=50)
    temperature = 1.5
    parts = [sf.logsumexp(p, temperature=temperature) for p in np.split(x, [700, 2500], axis=-1)]
    merged = sf.logsumexp(np.stack(parts, axis=-1)).astype(np.float64)
    own = x[np.arange(50), y].astype(np.float64) / temperature
    expected = oracle.softmax_loss(x, y, temperature=temperature)
    room = combination_bound(parts, expected.rows, dtype) + 8 * np.finfo(dtype).eps * np.abs(own)
    oracle.assert_within(merged - own, expected.rows, room, np.float64)


def test_the_softmax_of_a_shard_follows_from_the_merged_logsumexp(isa):
    x = logits((8, 3000), np.float64)
    shards = np.split(x, [700, 2500], axis=-1)
    merged = sf.logsumexp(np.stack([sf.logsumexp(p) for p in shards], axis=-1))
    log_p = np.concatenate([p - merged[:, None] for p in shards], axis=-1)
    exact = oracle.log_softmax(x)
    room = 16 * np.finfo(np.float64).eps * np.maximum(1, np.maximum(np.abs(exact), np.abs(x)))
    oracle.assert_within(log_p, exact, room, np.float64)


def test_losses_of_row_shards_combine_by_their_denominators(isa, dtype):
    x = logits((200, 30), dtype)
    y = generator(62).integers(30, size=200)
    w = positive(30)
    whole = oracle.softmax_loss(x, y, weight=w)
    sums = [
        (sf.softmax_loss(x[part], y[part], weight=w, reduction="sum"), w[y[part]].sum())
        for part in (slice(0, 33), slice(33, 150), slice(150, 200))
    ]
    total = sum(s for s, _ in sums) / sum(d for _, d in sums)
    oracle.check_loss(total, whole, "mean", dtype)
