"""Every example in a docstring runs and prints what it says; every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import softmax_fast as sf

PUBLIC_MODULES = ["functional", "losses", "linear", "_threads", "_config"]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_examples_in_docstrings(name, threads_setting):
    module = importlib.import_module(f"softmax_fast.{name}")
    outcome = doctest.testmod(module, optionflags=OPTIONS)
    assert outcome.attempted > 0, f"no example in {name}"
    assert outcome.failed == 0


PUBLIC = [n for n in sf.__all__ if inspect.isroutine(getattr(sf, n))]


def test_the_public_names_are_those_of_the_contract():
    assert set(PUBLIC) == {
        "softmax",
        "log_softmax",
        "logsumexp",
        "softmax_loss",
        "softmax_loss_and_grad",
        "linear_softmax_loss",
        "linear_softmax_loss_and_grad",
        "cross_entropy",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "selected_log_probs",
        "get_include",
        "get_num_threads",
        "set_num_threads",
        "show_config",
    }
    assert set(sf.__all__) - set(PUBLIC) <= {"LinearGrads", "__version__"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_documents_its_parameters_and_has_an_example(name):
    function = getattr(sf, name)
    text = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters:
        assert parameter in text, f"{name} does not document {parameter}"
    assert "Examples\n" in text and ">>>" in text


def test_every_module_imports_and_says_what_it_is():
    for module in pkgutil.iter_modules(sf.__path__, "softmax_fast."):
        if module.name.rpartition(".")[2] not in ("__main__", "_version"):
            assert inspect.getdoc(importlib.import_module(module.name)), module.name
