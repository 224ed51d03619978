"""Choosing, forcing and showing the instruction set."""

import numpy as np
import oracle
import pytest
from cases import ROW_FUNCTIONS, problem

import softmax_fast as sf
from softmax_fast import _core

KNOWN = ("generic", "avx2", "avx512", "neon")
SHOW = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import softmax_fast
    from softmax_fast import _core
    print(_core.isa())
    print([str(w.message) for w in caught if "SOFTMAX_FAST_ISA" in str(w.message)])
"""


def shown(run_python, isa):
    chosen, warned = run_python(
        SHOW, env={} if isa is None else {"SOFTMAX_FAST_ISA": isa}
    ).stdout.splitlines()
    return chosen, warned


def test_the_generic_instruction_set_is_always_there():
    assert "generic" in _core.isas_supported()
    assert set(_core.isas_supported()) <= set(_core.isas_built()) <= set(KNOWN)
    assert _core.isa() in _core.isas_supported()


@pytest.mark.parametrize("name", _core.isas_supported())
def test_the_environment_variable_forces_a_supported_instruction_set(name, run_python):
    assert shown(run_python, name) == (name, "[]")


@pytest.mark.parametrize(
    "name", ["sse9", "AVX9000", "?", *(set(KNOWN) - set(_core.isas_supported()))]
)
def test_an_unknown_or_unsupported_instruction_set_warns_and_is_ignored(name, run_python):
    automatic, silent = shown(run_python, None)
    assert silent == "[]"
    chosen, warned = shown(run_python, name)
    assert chosen == automatic
    assert name in warned and warned.count("SOFTMAX_FAST_ISA") >= 1


def test_an_empty_variable_means_automatic(run_python):
    assert shown(run_python, "") == shown(run_python, None)


def test_set_isa_refuses_what_the_machine_has_not(isa):
    with pytest.raises(ValueError):
        _core.set_isa("sse9")
    assert _core.isa() == isa


def test_instruction_sets_agree_within_twice_the_bound(dtype):
    """Every one keeps the bound; this catches a table that lacks a function of its own."""
    chosen = _core.isa()
    x, y, t = problem((40, 100), dtype)
    results = {}
    try:
        for name in _core.isas_supported():
            _core.set_isa(name)
            results[name] = {n: f(x, y, t) for n, f in ROW_FUNCTIONS.items()}
    finally:
        _core.set_isa(chosen)
    eps = np.finfo(dtype).eps
    d = float(np.abs(oracle.rows_of(x).exponent).max())
    for name, functions in results.items():
        for function, got in functions.items():
            expected = results["generic"][function]
            room = 2 * (8 + 0.5 * d) * eps * np.maximum(1, np.abs(expected))
            oracle.assert_within(got, expected, room, dtype, f"{name}, {function}")


def test_show_config_names_what_was_built_and_chosen(capsys):
    assert sf.show_config() is None
    text = capsys.readouterr().out
    for word in (sf.__version__, _core.isa(), "OpenMP", "thread", "compiler", np.__version__):
        assert word in text, word
    for name in _core.isas_built():
        assert name in text


def test_show_config_as_dicts():
    config = sf.show_config(mode="dicts")
    assert config["instruction set"]["in use"] == _core.isa()
    assert tuple(config["instruction set"]["built"]) == tuple(_core.isas_built())
    assert config["threads"]["number"] == sf.get_num_threads()
    assert config["threads"]["adaptive"] == _core.is_adaptive()
    assert config["threads"]["one alone for"] >= 0
    with pytest.raises(ValueError, match="mode"):
        sf.show_config(mode="json")
