"""Docstrings and documents: examples run, commands and links work, what is named exists.

The documents' Python examples are collected as doctests; test_capi.py and test_recipes.py run the
rest of their code.
"""

import doctest
import functools
import importlib
import importlib.util
import inspect
import json
import pathlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import softmax_fast as sf

PROJECT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for path in [*PROJECT.glob("*.md"), *PROJECT.glob("[!.]*/*.md")]
)
of_a_clone = pytest.mark.skipif(
    not (PROJECT / ".ci" / "run").exists(), reason="not all files are beside the tests"
)

PUBLIC_MODULES = [
    "functional",
    "losses",
    "divergence",
    "linear",
    "margins",
    "evaluation",
    "comparison",
    "calibration",
    "linear_evaluation",
    "_threads",
    "_config",
]
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
        "row_statistics",
        "row_statistics_linear",
        "evaluate",
        "evaluate_linear",
        "fit_temperature",
        "fit_temperature_linear",
        "compare",
        "kl_divergence",
        "kl_divergence_and_grad",
        "get_include",
        "get_num_threads",
        "set_num_threads",
        "show_config",
    }
    assert set(sf.__all__) - set(PUBLIC) == {
        "AngularMargin",
        "Comparison",
        "CosineMargin",
        "Evaluation",
        "Evaluator",
        "LargeMargin",
        "LinearGrads",
        "Reliability",
        "RowComparison",
        "RowStatistics",
        "TemperatureFit",
        "__version__",
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_documents_its_parameters_and_has_an_example(name):
    function = getattr(sf, name)
    text = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters:
        assert parameter in text, f"{name} does not document {parameter}"
    assert "Examples\n" in text and ">>>" in text


def test_every_module_imports_and_says_what_it_is():
    for module in pkgutil.iter_modules(sf.__path__, "softmax_fast."):
        name = module.name.rpartition(".")[2]
        if name == "dask" and importlib.util.find_spec("dask") is None:
            continue
        if name not in ("__main__", "_version"):
            assert inspect.getdoc(importlib.import_module(module.name)), module.name


# Documents


@functools.cache
def text_of(document):
    return (PROJECT / document).read_text(encoding="utf-8")


def code_of(document, language):
    """The lines of a document's code blocks of a language, without comments."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text_of(document), re.DOTALL | re.MULTILINE)
    lines = (line.partition(" #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


def anchors_of(document):
    """What links into a document may end with: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@of_a_clone
@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (PROJECT / document).parent / path if path else PROJECT / document
        assert found.exists(), f"{document}: {target}"
        if anchor:
            name = found.resolve().relative_to(PROJECT.resolve()).as_posix()
            assert anchor in anchors_of(name), f"{document}: {target}"


COMMANDS = [
    pytest.param(line, id=f"{document}: {line}")
    for document in DOCUMENTS
    for line in code_of(document, "sh")
    if re.match(r"(\w+=\S* )*softmax-fast ", line)
]


@pytest.fixture
def run_line(tmp_path, run_python):
    """Run a command line of the documents beside files of the names they use."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 10)).astype(np.float32)
    y = rng.integers(0, 10, 20)
    for prefix in ("", "test-"):
        np.save(tmp_path / f"{prefix}logits.npy", x)
        np.save(tmp_path / f"{prefix}labels.npy", y)
    for i in range(2):
        np.save(tmp_path / f"logits-{i}.npy", x)
        np.save(tmp_path / f"labels-{i}.npy", y)
        np.save(tmp_path / f"hidden-{i}.npy", x)
        np.save(tmp_path / f"fp16-{i}.npy", x)
        np.save(tmp_path / f"q4-{i}.npy", x.round())
    weights = np.eye(10, dtype=np.float32)
    layer = {"hidden": x, "weights": weights, "bias": weights[0]}
    models = {"fp16": x, "q4": x.round(), "tokens": y}
    for name, values in (layer | models).items():
        np.save(tmp_path / f"{name}.npy", values)
    np.savez(tmp_path / "validation.npz", logits=x, labels=y)
    header = {
        "logits": {"dtype": "F32", "shape": [20, 10], "data_offsets": [0, 800]},
        "labels": {"dtype": "I64", "shape": [20], "data_offsets": [800, 960]},
        "lm_head.weight": {"dtype": "F32", "shape": [10, 10], "data_offsets": [960, 1360]},
    }
    text = json.dumps(header).encode()
    data = text + x.tobytes() + y.tobytes() + weights.tobytes()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + data)
    shutil.copytree(PROJECT / "tests" / "data", tmp_path / "tests" / "data")

    def run(line):
        words, env = shlex.split(line), {}
        while "=" in words[0]:
            name, value = words.pop(0).split("=", 1)
            env[name] = value
        if "--plot" in words:
            pytest.importorskip("matplotlib")
        code = f"import os; os.chdir({str(tmp_path)!r}); from softmax_fast.cli import main"
        return run_python(f"{code}; raise SystemExit(main({words[1:]!r}))", env=env).stdout

    return run


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_documents_run(line, tmp_path, run_line):
    shown, words = run_line(line), shlex.split(line)
    if "-o" in words:
        assert np.load(tmp_path / words[words.index("-o") + 1]).shape == (20, 10)
    else:
        assert shown
    if "--plot" in words:
        assert (tmp_path / words[words.index("--plot") + 1]).stat().st_size > 1000


OUTPUTS = [
    pytest.param(line, output, id=f"{document}: {line}")
    for document in DOCUMENTS
    for line, output in re.findall(
        r"^```sh\n(softmax-fast [^\n]*)\n```\n\n```text\n(.*?)^```",
        text_of(document),
        re.DOTALL | re.MULTILINE,
    )
]


@pytest.mark.parametrize(("line", "output"), OUTPUTS)
def test_commands_print_what_the_documents_show(line, output, run_line):
    def comparable(text):
        return [row for row in text.splitlines() if not row.startswith("throughput")]

    assert comparable(run_line(line)) == comparable(output)


@functools.cache
def help_of(script):
    command = [sys.executable, script, "--help"]
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    return done.stdout


@of_a_clone
@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "benchmarks/README.md", "tests/README.md"])
def test_what_is_told_of_the_tree_is_there(document):
    """Files and folders, and the options of the benchmarks."""
    folder = (PROJECT / document).parent
    prose = re.sub(r"^```.*?^```", "", text_of(document), flags=re.DOTALL | re.MULTILINE)
    known = ""
    for line in code_of(document, "sh"):
        for word in shlex.split(line):
            if word.startswith(("benchmarks/", "tests/")):
                assert (PROJECT / word).exists(), f"{document}: {word}"
        script = re.match(r"python (benchmarks/\w+\.py)", line)
        if script:
            known += help_of(script[1])
            for option in re.findall(r" (--[\w-]+)", line):
                assert re.search(rf"{option}\b", help_of(script[1])), f"{document}: {line}"
    for word in re.findall(r"`([^`\n]+)`", prose):
        if re.fullmatch(r"[\w./-]+(/|\.(py|pyx|pxd|c|h|inc|md|toml))", word):
            assert (PROJECT / word).exists() or (folder / word).exists(), f"{document}: {word}"
        elif re.fullmatch(r"--[\w-]+( .*)?", word):
            assert re.search(rf"{word.split()[0]}\b", known), f"{document}: {word}"


def test_the_tests_that_the_contract_names_are_there():
    if "docs/contract.md" not in DOCUMENTS:
        pytest.skip("no documents beside the tests")
    named = 0
    for line in text_of("docs/contract.md").splitlines():
        files = re.findall(r"`([\w/]+\.(?:py|c))`", line) if line.startswith("|") else []
        paths = [pathlib.Path(__file__).parent / name for name in files]
        missing = [path.name for path in paths if not path.exists()]
        assert not missing, f"docs/contract.md: {missing}"
        code = "".join(path.read_text(encoding="utf-8") for path in paths)
        for test in re.findall(r"`(test_\w+)`", line):
            assert re.search(rf"^def {test}\(", code, re.MULTILINE), f"docs/contract.md: {test}"
            named += 1
    assert named > 20
