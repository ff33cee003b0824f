"""Rules for all that the product writes, read from its sources: every script survives its terminal, nothing is printed but through
data/console.py, and no text file depends on the machine's encoding."""

import ast
from collections.abc import Iterator

import pytest

import test_d3sr
import train_d3sr
from tests.test_layers import ROOT, sources

FILES = {path.relative_to(ROOT).as_posix(): path for _, path in sources(ROOT)}
EXAMPLE = "tools/exporting/restore_onnx.py"
"""Leaves the repository, so it has nothing of it."""

SCRIPTS = [file for file, path in FILES.items() if file != EXAMPLE and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")]
CONSOLE = "data/console.py"
TEXT_CALLS = {"read_text", "write_text", "FileHandler", "open", "TextIOWrapper", "NamedTemporaryFile", "fdopen"}
NOT_TEXT = {"Image.open", "tarfile.open", "os.open", "av.open"}


def calls(code: str) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, node) of every call."""
    yield from ((ast.unparse(node.func), node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))


def prepares_first(code: str) -> bool:
    """Whether main() begins with `prepare()`, after its docstring."""
    mains = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    body = [node for node in mains[0].body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return ast.unparse(body[0]) == "prepare()"


def printing(code: str) -> list[int]:
    """Lines that print past data/console.py; `print` handed on as a function counts, too."""
    found = [node.lineno for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name) and node.id == "print"]
    return found + [node.lineno for name, node in calls(code) if name in ("tqdm.write", "sys.stdout.write", "traceback.print_exception")]


def without_encoding(code: str) -> list[int]:
    """Lines that open a file as text without saying its encoding. A mode that is no constant counts as text."""
    found = []
    for name, node in calls(code):
        if name.rpartition(".")[2] not in TEXT_CALLS or name in NOT_TEXT or any(word.arg == "encoding" for word in node.keywords):
            continue
        constants = [value.value for value in (*node.args, *(word.value for word in node.keywords)) if isinstance(value, ast.Constant)]
        if name == "write_text" or any(isinstance(value, str) and "b" in value and len(value) <= 3 for value in constants):
            continue  # data.whole_files.write_text is UTF-8 by itself
        if name.endswith(".read_text") and "utf-8" in constants:
            continue
        found.append(node.lineno)
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_first_makes_its_terminal_take_any_text(script: str) -> None:
    assert prepares_first(FILES[script].read_text(encoding="utf-8"))


def test_the_scripts_are_found() -> None:
    assert {"train_d3sr.py", "test_d3sr.py", "tools/score.py"} < set(SCRIPTS)
    assert set(SCRIPTS) >= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tools").glob("[!_]*.py")}


@pytest.mark.parametrize("rule", [printing, without_encoding])
def test_the_product_keeps_the_rule(rule) -> None:
    code = {file: path.read_text(encoding="utf-8") for file, path in FILES.items() if file != CONSOLE}
    assert [f"{file}:{line}" for file, text in code.items() for line in rule(text)] == []


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (printing, "print('x')"),
        (printing, "f(warn=print)"),
        (printing, "tqdm.write('x')"),
        (without_encoding, "open('x')"),
        (without_encoding, "open('x', 'w')"),
        (without_encoding, "path.open('a')"),
        (without_encoding, "path.write_text('x')"),
        (without_encoding, "path.read_text()"),
        (without_encoding, "logging.FileHandler('x')"),
    ],
)
def test_each_rule_can_fail(rule, code: str) -> None:
    assert rule(code) == [1]


@pytest.mark.parametrize("code", ["open('x', 'rb')", "path.open(mode='wb')", "path.read_text(encoding='utf-8')", "write_text(path, 'x')"])
def test_what_says_its_encoding_passes(code: str) -> None:
    assert without_encoding(code) == []


def test_a_late_prepare_is_seen() -> None:
    assert prepares_first('def main():\n    """Docs."""\n    prepare()\n') and not prepares_first("def main():\n    x = 1\n    prepare()\n")


@pytest.mark.parametrize("script", [test_d3sr, train_d3sr])
@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
def test_of_all_processes_that_ctrl_c_reaches_one_says_so(script, rank, lines, monkeypatch, capsys):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert script.report(KeyboardInterrupt()) == 130
    assert len(capsys.readouterr().err.splitlines()) == lines
