"""The package beside what it may meet: no compiled module, PyTorch's own OpenMP, missing peers."""

import ast
import pathlib
import re
import shutil
import sys

import pytest

import softmax_fast as sf

PROJECT = pathlib.Path(__file__).parent.parent


def test_a_source_tree_that_is_not_built_says_so(tmp_path, run_python):
    shutil.copytree(
        pathlib.Path(sf.__file__).parent,
        tmp_path / "softmax_fast",
        ignore=shutil.ignore_patterns("_core.*", "__pycache__"),
    )
    code = f"""
        import importlib.machinery, sys
        # Without the finder of an editable installation, which knows where the compiled module is.
        sys.meta_path[:] = [m for m in sys.meta_path if m in vars(importlib.machinery).values()]
        sys.path.insert(0, {str(tmp_path)!r})
        try:
            import softmax_fast
        except ImportError as error:
            print(type(error).__name__, error)
    """
    shown = run_python(code).stdout
    assert shown.startswith("ImportError") and "pip install -e ." in shown
    assert str(tmp_path) in shown


@pytest.mark.parametrize("order", [("softmax_fast", "torch"), ("torch", "softmax_fast")])
def test_importing_pytorch_before_or_after(order, run_python):
    """A wheel carries a libgomp, and so does PyTorch: both work, and give the same results."""
    pytest.importorskip("torch")
    code = f"""
        import {order[0]}, {order[1]}
        import numpy as np
        import softmax_fast as sf
        x = np.linspace(-5, 5, 4_000_000, dtype=np.float32).reshape(-1, 1000)
        alone = sf.softmax(x, n_threads=1)
        for _ in range(3):
            ours = sf.softmax(x, n_threads=2)
            theirs = torch.softmax(torch.from_numpy(x), dim=-1).numpy()
            assert (ours == alone).all()
            assert abs(ours - theirs).max() < 1e-6
        torch.set_num_threads(1)
        assert (sf.softmax(x, n_threads=2) == alone).all()
    """
    run_python(code, timeout=300)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")
def test_the_benchmarks_imports_are_in_their_extra():
    import tomllib

    folder = PROJECT / "benchmarks"
    if not folder.is_dir():
        pytest.skip("no benchmarks beside the tests")
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    declared = {
        re.match(r"[\w.-]+", requirement)[0].lower().replace("-", "_")
        for requirement in extras["bench"] + extras["bench-peers"]
    }
    declared |= {
        {"scikit_learn": "sklearn", "tensorflow_cpu": "tensorflow"}.get(d) for d in declared
    }
    imported = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    own = {path.stem for path in folder.glob("*.py")} | {"softmax_fast", "numpy"}
    assert imported - own - sys.stdlib_module_names <= declared


def test_the_module_for_dask_says_what_it_needs(run_python):
    code = """
        import sys
        sys.modules["dask"] = None
        import softmax_fast
        try:
            import softmax_fast.dask
        except ImportError as error:
            print(error)
    """
    assert 'pip install "softmax-fast[dask]"' in run_python(code).stdout
