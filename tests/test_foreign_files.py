"""No file of others runs code: an AST walk over the product for the calls by which one could."""

import ast

import pytest

from tests.test_layers import ROOT, sources

NEVER = (
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "torch.jit.load", "torch.hub.load"),
    *("torch.package.PackageImporter", "shutil.unpack_archive"),
)
"""Calls that the product does without."""

METHODS = ("extractall", "load_state_dict_from_url")
"""The same for methods of anything."""

MODULES = ("pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
"""Modules that it does without, but for what they raise."""

SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
"""Calls that must say a keyword."""


def problems(code: str) -> list[str]:
    """`line: what is wrong`, for every call or import that could run code of a file."""
    found, tree = [], ast.parse(code)
    guarded = {
        id(call)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and any("only_numbers()" in ast.unparse(item) for item in block.items)
        for call in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name, said = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in NEVER or name.split(".")[-1] in METHODS:
                found.append(f"{node.lineno}: {name}")
            if name in SAFE and said.get(SAFE[name][0]) != str(SAFE[name][1]):
                found.append(f"{node.lineno}: {name} without {SAFE[name][0]}={SAFE[name][1]}")
            if name.split(".")[-1] == "create_metric" and id(node) not in guarded:
                found.append(f"{node.lineno}: {name} outside of only_numbers()")
            if said.get("trust_remote_code", "False") != "False":
                found.append(f"{node.lineno}: {name} with trust_remote_code")
        elif isinstance(node, ast.Import):
            found += [f"{node.lineno}: import {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found += [f"{node.lineno}: {node.module}.{alias.name}" for alias in node.names if not alias.name.endswith("Error")]
    return found


def test_no_file_of_others_runs_code() -> None:
    read = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for _, path in sources(ROOT)}
    assert {"models/pretrained_files.py", "scoring/metrics.py", "train_d3sr.py", "tools/score.py"} <= set(read)
    assert {file: found for file, code in read.items() if (found := problems(code))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.jit.load(f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f, Loader=yaml.SafeLoader)",
        "import pickle",
        "from pickle import loads",
        "tar.extractall(folder)",
        "pyiqa.create_metric('psnr')",
        "AutoModel.from_pretrained(f, trust_remote_code=True)",
    ],
)
def test_each_rule_can_fail(code: str) -> None:
    assert len(problems(code)) == 1


def test_what_is_safe_passes() -> None:
    assert (
        problems("from pickle import UnpicklingError\ntorch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\njson.load(f)") == []
    )
    assert problems("with only_numbers():\n    pyiqa.create_metric('psnr')") == []
