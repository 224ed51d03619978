"""A bad argument raises an exception that names it, what came, and what was expected."""

import re
import warnings

import numpy as np
import pytest
from cases import BINARY, FUNCTIONS, put_nan, taking
from numpy.exceptions import AxisError

import softmax_fast as sf

X = np.zeros((4, 6))
Y = np.array([0, 1, 2, 3])
T = np.full((4, 6), 0.25)


def call(name, y=Y, **options):
    return FUNCTIONS[name](X, y, T, **options)


WITH_LABELS = [name for name, function in FUNCTIONS.items() if "y" in function.inputs]
LOSSES_OF_LABELS = [name for name in WITH_LABELS if FUNCTIONS[name].takes("reduction")]
every_labelled = pytest.mark.parametrize("name", WITH_LABELS)


def refused(call, error, *words):
    """``call`` raises ``error`` with every word (a regular expression) in its message."""
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    for word in words:
        assert re.search(word, message), f"no {word!r} in: {message}"


@pytest.mark.parametrize("name", taking("axis"))
@pytest.mark.parametrize("axis", [2, -3, 100])
def test_axis_out_of_range(name, axis):
    refused(lambda: call(name, axis=axis), AxisError, str(axis), "2")


@pytest.mark.parametrize("name", taking("axis"))
@pytest.mark.parametrize("axis", [None, 0.0, "0", (0, 1)])
def test_axis_that_is_no_integer(name, axis):
    refused(lambda: call(name, axis=axis), TypeError, "axis", re.escape(repr(axis)))


@pytest.mark.parametrize("name", taking("temperature"))
@pytest.mark.parametrize("temperature", [0, 0.0, -1, -0.0, np.nan, np.inf, -np.inf])
def test_temperature_that_is_not_finite_and_positive(name, temperature):
    refused(lambda: call(name, temperature=temperature), ValueError, "temperature")


@pytest.mark.parametrize("name", taking("temperature"))
@pytest.mark.parametrize(
    "temperature", ["1", None, 1j, [1, 2], np.ones((4, 6, 1)), [1, 1, 0, 1], [1, 1, np.nan, 1]]
)
def test_temperature_that_is_no_number_or_does_not_fit_the_rows(name, temperature):
    refused(lambda: call(name, temperature=temperature), ValueError, "temperature")


def test_temperature_messages_say_what_came_and_what_was_expected():
    refused(lambda: sf.softmax(X, temperature=-2.5), ValueError, r"-2\.5", "> 0")
    refused(lambda: sf.softmax(X, temperature=[1, 2]), ValueError, r"\(2,\)", r"\(4,\)")
    refused(lambda: sf.softmax(X, temperature=[1, 1, -3, 1]), ValueError, r"-3", r"\[2\]", "> 0")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "2", True])
def test_n_threads_that_is_no_positive_integer(name, n_threads):
    refused(
        lambda: call(name, n_threads=n_threads),
        ValueError,
        "n_threads",
        re.escape(repr(n_threads)),
        "1",
    )


@pytest.mark.parametrize("name", taking("reduction"))
@pytest.mark.parametrize("reduction", ["max", "", None, 1, "MEAN"])
def test_unknown_reduction_names_the_three(name, reduction):
    refused(
        lambda: call(name, reduction=reduction),
        ValueError,
        "reduction",
        "mean",
        "sum",
        "none",
        re.escape(repr(reduction)),
    )


@pytest.mark.parametrize("name", taking("label_smoothing"))
@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan, np.inf, "0.1", None])
def test_label_smoothing_outside_the_unit_interval(name, alpha):
    refused(lambda: call(name, label_smoothing=alpha), ValueError, "label_smoothing", "0.*1")


@pytest.mark.parametrize("name", taking("weight"))
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ([1.0, -1, 1, 1, 1, 1], [r"-1", r"\[1\]"]),
        ([1.0, 1, 1, np.nan, 1, 1], ["nan"]),
        ([1.0, 1, 1, 1, 1, np.inf], ["inf"]),
        ([1.0, 1], [r"\(2,\)", r"\(6,\)"]),
        (1.0, [r"\(6,\)"]),
        (np.ones((6, 1)), [r"\(6, 1\)", r"\(6,\)"]),
    ],
)
def test_class_weights(name, weight, words):
    refused(lambda: call(name, weight=weight), ValueError, "weight", *words)


@pytest.mark.parametrize("name", taking("weight", "sample_weight"))
@pytest.mark.parametrize(
    ("sample_weight", "words"),
    [
        ([1.0, -1, 1, 1], [r"-1", r"\[1\]"]),
        ([1.0, 1, 1, np.nan], ["nan"]),
        ([1.0, 1, 1, np.inf], ["inf"]),
        ([1.0, 1], [r"\(2,\)", r"\(4,\)"]),
        (np.ones((4, 1)), [r"\(4, 1\)", r"\(4,\)"]),
    ],
)
def test_sample_weights(name, sample_weight, words):
    refused(lambda: call(name, sample_weight=sample_weight), ValueError, "sample_weight", *words)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("sample_weight", [-1.0, np.nan, np.inf, np.ones(5), np.ones((1, 4, 6))])
def test_sample_weights_of_binary_losses(name, sample_weight):
    weight = np.full((4, 6), sample_weight) if np.ndim(sample_weight) == 0 else sample_weight
    refused(lambda: call(name, sample_weight=weight), ValueError, "sample_weight")


@pytest.mark.parametrize("pos_weight", [-1.0, np.nan, np.inf, np.ones(5)])
def test_pos_weight(pos_weight):
    refused(
        lambda: call("binary_cross_entropy_with_logits", pos_weight=pos_weight),
        ValueError,
        "pos_weight",
    )


@every_labelled
@pytest.mark.parametrize("ignore_index", [1.5, "0", [1]])
def test_ignore_index_that_is_no_integer(name, ignore_index):
    refused(
        lambda: call(name, ignore_index=ignore_index),
        (TypeError, ValueError),
        "ignore_index",
        re.escape(repr(ignore_index)),
    )


@pytest.mark.parametrize("name", [n for n in taking("ignore_index") if n not in WITH_LABELS])
@pytest.mark.parametrize("ignore_index", [0, -1, None])
def test_ignore_index_means_nothing_to_probability_targets(name, ignore_index):
    call(name)
    call(name, ignore_index=-100)
    refused(lambda: call(name, ignore_index=ignore_index), ValueError, "ignore_index")


@every_labelled
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.int16])
@pytest.mark.parametrize("label", [-1, -6, 6, 100, -101, -128])
def test_label_out_of_range_names_row_label_and_range(name, label, dtype):
    y = np.array([5, 0, label, -7], dtype)
    refused(lambda: call(name, y), IndexError, r"\b2\b", rf"{label}\b", r"\b0\b.*\b6\b")


@every_labelled
@pytest.mark.parametrize("label", [2**31, 2**32, -(2**32), 2**63 - 1, -(2**63)])
def test_a_label_beyond_32_bits_does_not_wrap(name, label):
    refused(lambda: call(name, np.array([0, label, 0, 0])), IndexError, str(label))


@every_labelled
def test_an_unsigned_label_beyond_63_bits_does_not_wrap(name):
    y = np.array([0, 2**64 - 1, 2**64 - 100, 0], np.uint64)
    refused(lambda: call(name, y), IndexError, str(2**64 - 1))
    # 2**64 - 100 read as int64 would be the default ignore_index
    refused(lambda: call(name, y[[0, 2, 0, 0]]), IndexError, str(2**64 - 100))


@every_labelled
def test_minus_one_hundred_is_a_bad_label_when_nothing_is_ignored(name):
    y = np.array([0, 1, 2, -100])
    call(name, y)
    refused(lambda: call(name, y, ignore_index=None), IndexError, "-100", r"\b3\b")


@every_labelled
def test_the_first_of_many_bad_labels_is_named_whatever_the_threads(name):
    x = np.zeros((70_000, 10), np.float32)
    y = np.zeros(70_000, np.int64)
    y[[60_001, 30_003, 69_999]] = [77, 88, 99]
    for n_threads in (1, 2, 4):
        refused(
            lambda n=n_threads: FUNCTIONS[name](x, y, x, n_threads=n), IndexError, "30003", "88"
        )


def test_a_bad_label_in_a_batch_of_images_is_named_by_its_place():
    y = np.zeros((2, 3, 4), int)
    y[1, 2, 0] = 9
    refused(
        lambda: sf.softmax_loss(np.zeros((2, 5, 3, 4)), y, axis=1), IndexError, r"1, 2, 0", r"\b9\b"
    )


@every_labelled
@pytest.mark.parametrize("dtype", ["bool", "complex128", "object", "datetime64[s]", "U3"])
def test_targets_of_other_dtypes(name, dtype):
    y = np.zeros(4, dtype)
    refused(
        lambda: call(name, y),
        (TypeError, ValueError),
        "targets|indices",
        re.escape(str(y.dtype)),
    )


@pytest.mark.parametrize("name", LOSSES_OF_LABELS)
@pytest.mark.parametrize(
    "targets",
    [
        np.zeros(3, int),
        np.zeros((4, 1), int),
        np.zeros((4, 6), int),
        np.zeros(4),
        np.zeros((6, 4)),
        np.int64(0),
    ],
    ids=lambda t: f"{t.dtype}{t.shape}",
)
def test_targets_of_other_shapes_say_both_shapes(name, targets):
    refused(
        lambda: call(name, targets),
        (TypeError, ValueError),
        "targets",
        re.escape(str(targets.shape)),
        r"\(4,\)",
        r"\(4, 6\)",
    )


@pytest.mark.parametrize("shape", [(3,), (3, 2), (4, 2, 1), ()])
def test_indices_of_other_shapes(shape):
    refused(
        lambda: sf.selected_log_probs(X, np.zeros(shape, int)),
        ValueError,
        "indices",
        re.escape(str(shape)),
        r"\(4",
    )


def test_binary_targets_of_another_shape():
    for function in (sf.binary_cross_entropy, sf.binary_cross_entropy_with_logits):
        refused(
            lambda f=function: f(T, np.zeros((4, 5))),
            ValueError,
            "targets",
            r"\(4, 5\)",
            r"\(4, 6\)",
        )


@pytest.mark.parametrize(
    "function", [sf.softmax, sf.log_softmax, sf.logsumexp], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("value", [1.0, np.float32(1), np.array(2.0), 3])
def test_zero_dimensions(function, value):
    refused(lambda: function(value), ValueError, "0-d|0 dim|0-dim")


def test_zero_dimensional_logits_of_a_loss():
    refused(lambda: sf.softmax_loss(1.0, 0), ValueError, "logits", "0-d|0 dim|0-dim")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((4, 6), (5, 7)), ["weights", r"\(5, 7\)", "6"]),
        (((4, 6), (5,)), ["weights", r"\(5,\)"]),
        (((4,), (5, 6)), ["features", r"\(4,\)"]),
        (((4, 6, 1), (5, 6)), ["features", r"\(4, 6, 1\)"]),
    ],
)
def test_shapes_of_the_linear_layer(shapes, words):
    features, weights = map(np.zeros, shapes)
    for function in (sf.linear_softmax_loss, sf.linear_softmax_loss_and_grad):
        refused(lambda f=function: f(features, weights, Y), ValueError, *words)


@pytest.mark.parametrize("bias", [np.zeros(4), np.zeros((5, 1)), 0.0])
def test_bias_of_the_linear_layer(bias):
    refused(
        lambda: sf.linear_softmax_loss(X, np.zeros((5, 6)), Y, bias=bias),
        ValueError,
        "bias",
        re.escape(str(np.shape(bias))),
        r"\(5,\)",
    )


def test_no_classes_in_the_linear_layer():
    refused(lambda: sf.linear_softmax_loss(X, np.zeros((0, 6)), Y), ValueError, "class")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_unknown_keywords_and_positional_options_are_refused(name):
    with pytest.raises(TypeError):
        call(name, tau=1.0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name):
    function = FUNCTIONS[name]
    with pytest.raises(TypeError, match="positional"):
        function.function(*function.arguments(X, Y, T), -1, 1.0)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_set_num_threads(n, threads_setting):
    refused(lambda: sf.set_num_threads(n), ValueError, re.escape(repr(n)), "1")


class NoArray:
    """As a tensor of a dtype that NumPy does not know."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")


ARGUMENTS_OF_LOSSES = {
    "logits": lambda v: sf.softmax_loss(v, Y),
    "targets": lambda v: sf.softmax_loss(X, v),
    "weight": lambda v: sf.softmax_loss(X, Y, weight=v),
    "sample_weight": lambda v: sf.softmax_loss(X, Y, sample_weight=v),
    "temperature": lambda v: sf.softmax_loss(X, Y, temperature=v),
    "probs": lambda v: sf.cross_entropy(v, Y),
    "indices": lambda v: sf.selected_log_probs(X, v),
    "features": lambda v: sf.linear_softmax_loss(v, X, Y),
    "weights": lambda v: sf.linear_softmax_loss(X, v, Y),
    "bias": lambda v: sf.linear_softmax_loss(X, np.zeros((6, 6)), Y, bias=v),
    "pos_weight": lambda v: sf.binary_cross_entropy_with_logits(X, T, pos_weight=v),
}


@pytest.mark.parametrize("name", ARGUMENTS_OF_LOSSES)
def test_an_object_that_makes_no_array_is_named(name):
    for value in (NoArray(), [NoArray()]):
        refused(lambda v=value: ARGUMENTS_OF_LOSSES[name](v), TypeError, rf"^{name} of", "BFloat16")


def test_running_out_of_memory_in_an_array_method_stays_a_memory_error():
    class Large:
        def __array__(self, dtype=None, copy=None):
            raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        sf.softmax(Large())


def signalling_nan(dtype, size):
    values = np.ones(size, dtype)
    put_nan(values, size - 1, 0x7F800001 if values.itemsize == 4 else 0x7FF0000000000001)
    return values


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", ">f8"])
def test_a_signalling_nan_is_refused_without_a_warning(dtype):
    dtype = np.dtype(dtype)
    rows, classes = (signalling_nan(dtype.newbyteorder("="), n).astype(dtype) for n in (4, 6))
    cases = [
        ("weight", lambda: sf.softmax_loss(X, Y, weight=classes)),
        ("sample_weight", lambda: sf.softmax_loss(X, Y, sample_weight=rows)),
        ("temperature", lambda: sf.softmax_loss(X, Y, temperature=rows)),
        ("temperature", lambda: sf.softmax(X, temperature=rows[-1:].reshape(()))),
        ("sample_weight", lambda: sf.binary_cross_entropy(T, T, sample_weight=classes)),
        (
            "pos_weight",
            lambda: sf.binary_cross_entropy_with_logits(X, T, pos_weight=classes),
        ),
        (
            "temperature",
            lambda: sf.binary_cross_entropy_with_logits(X, T, temperature=classes),
        ),
    ]
    for name, call in cases:
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            refused(call, ValueError, rf"^{name}", "nan")


def test_errors_beside_a_nan_do_not_warn():
    # what a message quotes is looked for among values that NaN may stand beside
    p = np.full((4, 6), 0.25)
    p[1, 2], p[1, 4] = np.nan, 1.5
    put_nan(p[1], 2, 0x7FF0000000000001)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        refused(lambda: sf.cross_entropy(p, Y), ValueError, r"^probs\[1, 4\] = 1\.5")
        refused(lambda: sf.binary_cross_entropy(p, T), ValueError, r"^probs\[1, 4\] = 1\.5")
        refused(lambda: sf.binary_cross_entropy(T, p), ValueError, r"^targets\[1, 4\] = 1\.5")


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_a_nan_is_not_blamed_for_a_target(name):
    function = getattr(sf, name)
    refused(lambda: function([np.nan, 0.5], [2.0, 0.5]), ValueError, r"^targets\[0\] = 2\.0")
    refused(
        lambda: function([0.5, np.nan, 0.5], [0, np.nan, -1]), ValueError, r"^targets\[2\] = -1"
    )


def test_the_first_of_a_bad_probability_and_a_bad_target_is_named():
    for p, t, words in (
        ([2.0, 0.5], [0.5, 2.0], r"^probs\[0\] = 2\.0"),
        ([0.5, 2.0], [2.0, 0.5], r"^targets\[0\] = 2\.0"),
        ([0.5, 2.0], [0.5, 3.0], r"^probs\[1\] = 2\.0"),
    ):
        refused(lambda p=p, t=t: sf.binary_cross_entropy(p, t), ValueError, words)


@pytest.mark.parametrize("bad", [1 + 1e-12, -1e-60, -5e-324])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_binary_targets_are_checked_in_their_own_dtype(bad, dtype):
    x = np.full((3, 200_001), 0.5, dtype)
    t = np.zeros(x.shape)
    t[1, 7] = bad
    for function in (sf.binary_cross_entropy, sf.binary_cross_entropy_with_logits):
        refused(
            lambda f=function: f(x, t), ValueError, rf"^targets\[1, 7\] = {re.escape(repr(bad))} "
        )


@pytest.mark.parametrize("value", [[], (), np.zeros(0, int)], ids=repr)
def test_no_labels_of_no_rows(value):
    for dtype in ("float32", "float64"):
        x = np.zeros((0, 3), dtype)
        assert sf.softmax_loss(x, value, reduction="sum") == 0
        assert sf.softmax_loss_and_grad(x, value)[1].shape == (0, 3)
        assert sf.cross_entropy(x, value, reduction="none").shape == (0,)
        assert sf.selected_log_probs(x, value).shape == (0,)
        assert sf.linear_softmax_loss(x, np.zeros((2, 3), dtype), value, reduction="sum") == 0
    assert sf.softmax_loss(np.zeros((2, 0, 3)), [[], []], reduction="none").shape == (2, 0)
    refused(lambda: sf.softmax_loss(X, []), ValueError, "targets", r"\(4,\)", r"\(0,\)")
    refused(lambda: sf.softmax_loss(np.zeros((0, 3)), np.zeros(0)), ValueError, "targets")


@pytest.mark.parametrize("targets", [Y, T], ids=["labels", "probabilities"])
def test_sample_weights_whose_sum_overflows_do_not_warn(targets):
    v = np.full(4, 1.7e308)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        sf.softmax_loss(X, targets, sample_weight=v)
        sf.softmax_loss_and_grad(X, targets, sample_weight=v)
        sf.linear_softmax_loss_and_grad(X, np.zeros((6, 6)), targets, sample_weight=v)
