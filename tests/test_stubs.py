"""The stubs of the types say what the functions are, and all tables of the tests know them."""

import ast
import dataclasses
import importlib
import inspect
import pathlib

import pytest
from cases import FUNCTIONS

import softmax_fast as sf

PACKAGE = pathlib.Path(sf.__file__).parent
MODULES = sorted(p.stem for p in PACKAGE.glob("*.pyi") if p.stem != "_core")
every_module = pytest.mark.parametrize("name", MODULES)


def stub_of(name):
    """The definitions of a stub, by name: its functions, classes, variables and what it imports."""
    functions, others = {}, {}
    for node in ast.parse((PACKAGE / f"{name}.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.ClassDef):
            others[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            others[node.target.id] = node
        elif isinstance(node, ast.Assign):
            others[node.targets[0].id] = node
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            others |= {alias.name: node for alias in node.names if alias.asname == alias.name}
    return functions, others


def module_of(name):
    return importlib.import_module(f"softmax_fast.{name}")


def is_public(name):
    return not name.startswith("_")


def parameters(node):
    """(name, kind) of each parameter of a function of a stub, and the defaults by name."""
    a = node.args
    kinds = inspect.Parameter
    positional = [(p.arg, kinds.POSITIONAL_ONLY) for p in a.posonlyargs]
    positional += [(p.arg, kinds.POSITIONAL_OR_KEYWORD) for p in a.args]
    keyword = [(p.arg, kinds.KEYWORD_ONLY) for p in a.kwonlyargs]
    given = positional[len(positional) - len(a.defaults) :]
    defaults = {p: ast.literal_eval(d) for (p, _), d in zip(given, a.defaults, strict=True)}
    for (p, _), default in zip(keyword, a.kw_defaults, strict=True):
        if default is not None:
            defaults[p] = ast.literal_eval(default)
    assert a.vararg is None and a.kwarg is None
    return positional + keyword, defaults


@every_module
def test_the_public_names_of_a_module_are_in_its_stub(name):
    module, (functions, others) = module_of(name), stub_of(name)
    own = {
        n
        for n, value in vars(module).items()
        if is_public(n) and getattr(value, "__module__", None) == module.__name__
    }
    if not is_public(name):
        own &= set(sf.__all__)
    stubbed = {n for n in functions | others if is_public(n)}
    assert own <= stubbed, own - stubbed
    assert all(hasattr(module, n) for n in stubbed), stubbed


def test_every_name_of_the_package_is_in_the_stub_of_its_module():
    stubbed = {n for name in MODULES for part in stub_of(name) for n in part}
    assert set(sf.__all__) - {"__version__"} <= stubbed


@every_module
def test_the_functions_of_a_stub_have_the_signatures_of_the_module(name):
    module = module_of(name)
    for function, overloads in stub_of(name)[0].items():
        if not is_public(function):
            continue
        expected = inspect.signature(getattr(module, function)).parameters
        defaults = {n: p.default for n, p in expected.items() if p.default is not p.empty}
        mentioned = {}
        for node in overloads:
            found, some_defaults = parameters(node)
            assert found == [(n, p.kind) for n, p in expected.items()], function
            mentioned |= some_defaults
            # an overload for a given value has no default of its own
            assert some_defaults.items() <= defaults.items(), function
        assert mentioned == defaults, function


def public_classes():
    """(class of a module, its definition in the stub), for all of them."""
    for name in MODULES:
        for class_name, node in stub_of(name)[1].items():
            if isinstance(node, ast.ClassDef) and is_public(class_name):
                yield getattr(module_of(name), class_name), node


def test_the_classes_of_the_stubs_have_the_fields_of_the_modules():
    found = 0
    for of_module, node in public_classes():
        fields = tuple(n.target.id for n in node.body if isinstance(n, ast.AnnAssign))
        if dataclasses.is_dataclass(of_module):
            public = [f.name for f in dataclasses.fields(of_module) if is_public(f.name)]
            assert fields == tuple(public)
        else:
            assert fields == getattr(of_module, "_fields", ())
        found += bool(fields)
    assert found


def test_the_methods_of_the_stubs_have_the_signatures_of_the_modules():
    found = 0
    for of_module, node in public_classes():
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        own = {n for n, value in vars(of_module).items() if inspect.isfunction(value)}
        if not issubclass(of_module, tuple):
            assert {n for n in own if is_public(n)} <= set(methods)
        for name, stubbed in methods.items():
            of_class = inspect.getattr_static(of_module, name)
            if isinstance(of_class, property):
                continue
            expected = inspect.signature(of_class).parameters
            names, defaults = parameters(stubbed)
            assert names == [(n, p.kind) for n, p in expected.items()], name
            assert defaults == {
                n: p.default for n, p in expected.items() if p.default is not p.empty
            }
            found += 1
    assert found


def test_every_function_that_computes_is_in_the_table_of_the_tests():
    """An entry in cases.py gets a function the tests that apply to all.

    What gives several numbers a row, or none, has tests of its own, in test_evaluation.py,
    test_calibration.py, test_linear_evaluation.py and test_comparison.py.
    """
    others = {
        sf.row_statistics,
        sf.evaluate,
        sf.fit_temperature,
        sf.compare,
        sf.row_statistics_linear,
        sf.evaluate_linear,
        sf.fit_temperature_linear,
    }
    computing = {
        function
        for name in sf.__all__
        if inspect.isroutine(function := getattr(sf, name))
        and "n_threads" in inspect.signature(function).parameters
    }
    assert computing - others == {function.function for function in FUNCTIONS.values()}
