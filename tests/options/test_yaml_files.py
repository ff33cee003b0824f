"""Option files: floats, duplicates, safety, base files, --force_yml, and text that loads back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from options.schema import OptionsError, build
from options.yaml_files import read_options, to_yaml


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, *force: str) -> dict[str, Any]:
    return read_options(write(folder, "a.yml", text), force)


def refusal(folder: Path, text: str, *force: str) -> str:
    with pytest.raises(OptionsError) as caught:
        read(folder, text, *force)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-5", 5e-5), ("1E3", 1000.0), ("-2e+2", -200.0), (".5e1", 5.0), ("2.e1", 20.0), ("5.0e-5", 5e-5), ("0.1", 0.1)],
)
def test_floats(tmp_path: Path, text: str, value: float) -> None:
    found = read(tmp_path, f"lr: {text}")["lr"]
    assert found == value and isinstance(found, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("'5e-5'", "5e-5"), ("e5", "e5"), ("5e", "5e"), ("100_000", 100_000), ("none", "none"), ("", None)],
)
def test_what_is_not_a_float_stays_what_it_is(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"x: {text}")["x"]
    assert found == value and type(found) is type(value)


def test_duplicate_keys_are_refused_with_both_lines(tmp_path: Path) -> None:
    message = refusal(tmp_path, "train:\n  lr: 1\n  eps: 2\n  lr: 3\n")
    assert message == f"{tmp_path / 'a.yml'}: train.lr: this key appears twice, first in line 2 (line 4)"


def test_duplicate_keys_inside_a_list_are_refused(tmp_path: Path) -> None:
    assert "stages[1].p: this key appears twice" in refusal(tmp_path, "stages:\n- {p: 1}\n- {p: 1, p: 2}\n")


def test_keys_are_text(tmp_path: Path) -> None:
    assert "expected a text as key, got 1" in refusal(tmp_path, "1: x\n")


@pytest.mark.parametrize("text", ["x: !!python/object/apply:os.getcwd []", "x: !!python/name:os.system", "x: !thing {a: 1}"])
def test_only_safe_yaml_is_read(tmp_path: Path, text: str) -> None:
    assert "not valid YAML" in refusal(tmp_path, text)


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a: 1\nb: [1, 2\n")
    assert str(tmp_path / "a.yml") in message and "line 2" in message


def test_an_anchor_inside_itself_is_refused(tmp_path: Path) -> None:
    assert "nested deeper" in refusal(tmp_path, "a: &x {b: *x}\n")
    assert "nested deeper" in refusal(tmp_path, "a: " + "[" * 100_000)


def test_anchors_that_multiply_are_counted(tmp_path: Path) -> None:
    """Nine lines that stand for 9^9 values, in lists, in mappings and through `<<`."""
    lists = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    mappings = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 9)]
    merged = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    for lines in (lists, mappings, merged):
        assert "stands for more than 100,000 values" in refusal(tmp_path, "\n".join(lines) + "\n")


def test_as_many_values_as_anyone_writes_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "many.yml", "a: &a [" + "x, " * 3_000 + "x]\nb: *a\nc: *a\n")
    assert len(read_options(path)["c"]) == 3_001


@pytest.mark.parametrize("value", ["2001-99-99", "!!int x", "!!float x", "!!bool x", "!!timestamp x"])
def test_values_that_yaml_cannot_make_are_named(tmp_path: Path, value: str) -> None:
    assert refusal(tmp_path, f"a: {value}\n").startswith(f"{tmp_path / 'a.yml'}: a: not a value that YAML knows: ")


@pytest.mark.parametrize("number", ["1" + ":1" * 200_000, "1" + ":1" * 400 + ".5", "0x" + "f" * 9000, "1" * 5000])
def test_a_number_of_thousands_of_digits_is_not_read(tmp_path: Path, number: str) -> None:
    assert "a: expected a number of at most 100 characters" in refusal(tmp_path, f"a: {number}\n")
    assert ": expected a number of at most 100 characters" in refusal(tmp_path, f"? {number}\n: 1\n")


def test_a_key_whose_anchors_multiply_is_not_written_into_a_message(tmp_path: Path) -> None:
    lists = ["&a0 [x, x, x, x, x, x, x, x, x]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    assert "line 1" in (text := refusal(tmp_path, f"? [{', '.join(lists)}]\n: 1\n")) and "expected a text as key, got a list" in text


def test_a_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.yml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OptionsError, match="large.yml: expected an option file of at most 1 MiB"):
        read_options(tmp_path / "large.yml")
    with pytest.raises(OptionsError, match="/dev/zero: expected an option file of at most 1 MiB"):
        read_options("/dev/zero")


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    found = read(tmp_path, "one: &one {p: 1, q: 2}\ntwo: {<<: *one, q: 3}\nthree: {<<: [{q: 4}, *one]}\nfour: {<<: *one, q: 5}\n")
    assert found == {"one": {"p": 1, "q": 2}, "two": {"p": 1, "q": 3}, "three": {"q": 4, "p": 1}, "four": {"p": 1, "q": 5}}
    assert "<<: expected the anchor" in refusal(tmp_path, "a: {<<: 3}")


def test_the_top_must_be_a_mapping(tmp_path: Path) -> None:
    assert "expected a mapping" in refusal(tmp_path, "- 1\n")
    assert read(tmp_path, "") == {}


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "train.yml", "")
    with pytest.raises(OptionsError, match=r"tran.yml: no such option file; did you mean .*train\.yml\?"):
        read_options(tmp_path / "tran.yml")


def test_a_folder_or_a_picture_is_not_an_option_file(tmp_path: Path) -> None:
    (tmp_path / "picture.yml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    for path in (tmp_path, tmp_path / "picture.yml"):
        with pytest.raises(OptionsError, match="cannot be read as UTF-8 text"):
            read_options(path)


def test_bases_chain_and_merge(tmp_path: Path) -> None:
    write(tmp_path, "root.yml", "name: root\ntrain: {lr: 1, optim: {type: A, eps: 2}}\nlist: [1, 2]\nval: {x: {a: 1}}\n")
    write(tmp_path, "deep/middle.yml", "base: ../root.yml\ntrain: {optim: {type: B}}\n")
    leaf = write(tmp_path, "deep/er/leaf.yml", "base: ../middle.yml\nname: leaf\nlist: [3]\nval: {x: null}\n")
    assert read_options(leaf) == {"name": "leaf", "train": {"lr": 1, "optim": {"type": "B", "eps": 2}}, "list": [3], "val": {"x": None}}


def test_a_cycle_of_bases_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "one.yml", "base: sub/two.yml\n")
    write(tmp_path, "sub/two.yml", "base: ../one.yml\n")
    with pytest.raises(OptionsError, match=r"two\.yml: base: a cycle of base files: .*one\.yml -> .*two\.yml -> .*one\.yml"):
        read_options(tmp_path / "one.yml")
    write(tmp_path, "self.yml", "base: self.yml\n")
    with pytest.raises(OptionsError, match="cycle"):
        read_options(tmp_path / "self.yml")


def test_a_missing_base_names_the_file_that_asks_for_it(tmp_path: Path) -> None:
    write(tmp_path, "train.yml", "")
    message = refusal(tmp_path, "name: x\nbase: trian.yml\n")
    assert message.startswith(f"{tmp_path / 'a.yml'}: base: no such file: ") and "did you mean" in message and "(line 2)" in message
    assert "base: expected the name of one option file" in refusal(tmp_path, "base: [a.yml]\n")


def test_duplicates_in_a_base_name_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yml", "x: 1\nx: 2\n")
    assert refusal(tmp_path, "base: base.yml\n").startswith(f"{base}: x: this key appears twice")


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    optim: Optim
    sizes: tuple[tuple[int, int], ...] = ()
    names: tuple[str, ...] = ()


def test_an_error_names_the_file_that_wrote_the_key(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yml", "optim:\n  lr: fast\n  note: x\n")
    over = write(tmp_path, "over.yml", "base: base.yml\noptim:\n  note: 3\n")
    with pytest.raises(OptionsError) as caught:
        build(Options, read_options(over), str(over))
    assert str(caught.value) == f"{base}: optim.lr: expected a finite number, got 'fast' (line 2)"
    with pytest.raises(OptionsError) as caught:
        build(Options, read_options(over, ["optim.lr=1"]), str(over))
    assert str(caught.value) == f"{over}: optim.note: expected text, got 3; put it in quotes (line 3)"


@pytest.mark.parametrize("assignment", ["train.optim.lr=5e-5", "train:optim:lr=5e-5", "train:optim.lr = 5e-5"])
def test_force_yml_takes_both_separators(tmp_path: Path, assignment: str) -> None:
    found = read(tmp_path, "train: {optim: {lr: 1, eps: 2}}", assignment)
    assert found == {"train": {"optim": {"lr": 5e-5, "eps": 2}}}


def test_force_yml_values_are_yaml(tmp_path: Path) -> None:
    found = read(tmp_path, "a: 1", "a=[1, x]", "b.c={d: true}", "e=", "f=x=y", "g='2'", "h=C:/folder", "b.c.d=false", "i=null", "i.j=1")
    assert found == {"a": [1, "x"], "b": {"c": {"d": False}}, "e": None, "f": "x=y", "g": "2", "h": "C:/folder", "i": {"j": 1}}


def test_force_yml_reaches_into_lists(tmp_path: Path) -> None:
    found = read(tmp_path, "stages: [{p: 1}, {p: 2}]", "stages.1.p=3", "stages:0={q: 4}")
    assert found == {"stages": [{"q": 4}, {"p": 3}]}


def test_force_yml_overrides_the_base_too(tmp_path: Path) -> None:
    write(tmp_path, "base.yml", "x: {y: 1, z: 2}")
    assert read(tmp_path, "base: base.yml", "x.y=5") == {"x": {"y": 5, "z": 2}}


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("optim.lr", "expected KEY.KEY=VALUE"),
        ("optim..lr=1", "expected KEY.KEY=VALUE"),
        ("=1", "expected KEY.KEY=VALUE"),
        ("optim.lr.x=1", "--force_yml: optim.lr: expected a mapping"),
        ("stages.2.p=1", "--force_yml: stages: expected an index from 0 to 1, got '2'"),
        ("stages.p=1", "--force_yml: stages: expected an index from 0 to 1, got 'p'"),
        ("optim.lr=[1", "--force_yml: optim.lr: not valid YAML"),
        ("optim={lr: 1, lr: 2}", "--force_yml: optim.lr: this key appears twice"),
    ],
)
def test_malformed_force_yml_is_refused(tmp_path: Path, assignment: str, problem: str) -> None:
    assert problem in refusal(tmp_path, "optim: {lr: 1}\nstages: [{p: 1}, {p: 2}]", assignment)


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("optm.lr=1", "--force_yml: optm: unknown key; did you mean optim?"),
        ("optim.noet=1", "--force_yml: optim.noet: unknown key; did you mean optim.note?"),
        ("optim.lr=fast", "--force_yml: optim.lr: expected a finite number, got 'fast'"),
        ("base=other.yml", "--force_yml: base: unknown key"),
    ],
)
def test_force_yml_goes_through_the_same_checks(tmp_path: Path, assignment: str, problem: str) -> None:
    path = write(tmp_path, "a.yml", "optim: {lr: 1}")
    with pytest.raises(OptionsError) as caught:
        build(Options, read_options(path, [assignment]), str(path))
    assert str(caught.value).startswith(problem)


def test_to_yaml_loads_back_to_an_equal_object(tmp_path: Path) -> None:
    names = ("1e5", "true", "null", "007", "ä: #", "2001-01-01", "")
    options = Options(optim=Optim(lr=5e-5, note="5e-5"), sizes=((1, 2), (3, 4)), names=names)
    path = write(tmp_path, "a.yml", to_yaml(options))
    assert build(Options, read_options(path), str(path)) == options


def test_to_yaml_is_plain_readable_yaml() -> None:
    shared = ("a", "b")
    text = to_yaml(Options(optim=Optim(), sizes=((1, 2),), names=shared + shared))
    assert "names: [a, b, a, b]" in text and "&" not in text and "!" not in text
    assert yaml.safe_load(text)["sizes"] == [[1, 2]]
