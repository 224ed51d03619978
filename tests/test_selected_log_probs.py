"""selected_log_probs gives the log_softmax of chosen classes, without the rest of the row."""

import numpy as np
import oracle
import pytest
from cases import SHORT, TEMPERATURES, kinds_block, labels, logits, row_temperatures

import softmax_fast as sf


def check(x, indices, **options):
    exact = oracle.selected_log_probs(x, indices, **options)
    dtype = oracle.result_dtype(x.dtype)
    got = sf.selected_log_probs(x, indices, **options)
    context = f"C={x.shape[-1]}, {x.dtype}, {options}"
    oracle.assert_within(got, exact, oracle.log_softmax_bound(exact, dtype), dtype, context)


def test_error_bound_holds_for_every_row_length(isa, dtype):
    for n_classes in [*SHORT, 2047, 2048, 2049, 5003]:
        x, _ = kinds_block(n_classes, dtype)
        check(x, labels((len(x), 3), n_classes))


@pytest.mark.parametrize("n_chosen", [1, 2, 5, 40])
def test_any_number_of_chosen_classes(n_chosen, isa, dtype):
    x = logits((9, 40), dtype)
    check(x, labels((9, n_chosen), 40))
    check(x, np.tile(np.arange(40)[::-1], (9, 1)))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_temperature(temperature, isa, dtype):
    x, _ = kinds_block(130, dtype)
    check(x, labels((len(x), 3), 130), temperature=temperature)
    check(x, labels((len(x), 3), 130), temperature=row_temperatures(len(x)))


def test_one_class_a_row(isa, dtype):
    x, y = logits((9, 40), dtype), labels(9, 40)
    check(x, y)
    oracle.assert_same_bits(sf.selected_log_probs(x, y), sf.selected_log_probs(x, y[:, None])[:, 0])


def test_no_chosen_class(dtype):
    got = sf.selected_log_probs(logits((9, 40), dtype), np.empty((9, 0), np.int64))
    assert got.shape == (9, 0) and got.dtype == dtype


@pytest.mark.parametrize("ignore_index", [-100, -1, 3, None])
def test_ignored_entries_give_zero(ignore_index, isa, dtype):
    x, indices = logits((20, 10), dtype), labels((20, 4), 10)
    if ignore_index is not None:
        indices[::3, 1] = ignore_index
        indices[4] = ignore_index
    check(x, indices, ignore_index=ignore_index)


def test_the_negative_of_the_row_losses_within_both_bounds(isa, dtype):
    x, y = logits((50, 300), dtype), labels(50, 300)
    expected = oracle.softmax_loss(x, y)
    oracle.check_loss(-sf.selected_log_probs(x, y), expected, "none", dtype)


@pytest.mark.parametrize("name", ["int8", "int32", "uint16", "uint64"])
def test_every_integer_dtype_names_classes(name):
    x, indices = logits((9, 40), np.float32), labels((9, 3), 40)
    oracle.assert_same_bits(
        sf.selected_log_probs(x, indices.astype(name)), sf.selected_log_probs(x, indices)
    )


@pytest.mark.parametrize("bad", [-1, 40, 2**40, -(2**40)])
def test_an_index_out_of_range_is_named(bad):
    indices = labels((9, 3), 40)
    indices[[5, 7], 1] = bad
    with pytest.raises(IndexError, match=rf"(?s)5.*{bad}|{bad}.*5"):
        sf.selected_log_probs(logits((9, 40), np.float32), indices)


def test_out_is_filled_and_returned(dtype):
    x, indices = logits((9, 40), dtype), labels((9, 3), 40)
    expected = sf.selected_log_probs(x, indices)
    for out in (np.empty((9, 3), dtype), np.empty((9, 3), dtype, order="F")):
        assert sf.selected_log_probs(x, indices, out=out) is out
        oracle.assert_same_bits(out, expected)


def test_strided_logits(isa, dtype):
    x = logits((18, 80), dtype)
    indices = labels((9, 3), 40)
    for view in (x[::2, ::2], x[::-2, 79::-2], np.asfortranarray(x[:9, :40])):
        check(view, indices)
