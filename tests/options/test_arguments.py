"""A repeated argument adds to the ones before, in every script."""

import argparse
import importlib
from pathlib import Path

import pytest

from options.arguments import add_option_arguments

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {
    "tools.ablate": ["variant.yml", "--score", "LR", "HR", "-o", "out"],
    "tools.benchmark": ["-o", "out"],
    "tools.export": ["-o", "out"],
    "tools.plot_features": ["--lr", "LR", "--hr", "HR", "-o", "out"],
}
"""Script -> what it cannot do without, beside -opt."""


def scripts() -> list[str]:
    """Modules of the scripts that take --force_yml, wherever they define it."""
    files = [*ROOT.glob("*_d3sr.py"), *(ROOT / "tools").glob("[!_]*.py")]
    names = {path: path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files}
    defining = ("add_option_arguments(", '"--force_yml"')
    return sorted(name for path, name in names.items() if any(text in path.read_text(encoding="utf-8") for text in defining))


def test_all_scripts_with_options_are_found() -> None:
    assert {"train_d3sr", "test_d3sr", "tools.complexity", "tools.ablate"} <= set(scripts())


@pytest.mark.parametrize("script", scripts())
def test_a_repeated_force_yml_adds_to_the_first(script: str) -> None:
    opt = [] if script == "tools.ablate" else ["-opt", "file.yml"]
    given = ["--force_yml", "name=mine", "scale=2", "--force_yml", "manual_seed=1"]
    assert importlib.import_module(script).parse_args([*opt, *NEEDED.get(script, []), *given]).force_yml == [
        "name=mine",
        "scale=2",
        "manual_seed=1",
    ]


def test_inputs_given_twice_are_all_restored() -> None:
    parse_args = importlib.import_module("test_d3sr").parse_args
    assert parse_args(["-opt", "a.yml", "-i", "a.png", "b.png", "-i", "c.png"]).input == ["a.png", "b.png", "c.png"]


def test_one_parse_leaves_nothing_for_the_next() -> None:
    parser = argparse.ArgumentParser()
    add_option_arguments(parser, "options")
    assert parser.parse_args(["-opt", "a", "--force_yml", "x=1"]).force_yml == ["x=1"]
    assert parser.parse_args(["-opt", "a"]).force_yml == []
