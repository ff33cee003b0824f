"""build and dump on a small schema of its own: every type, and every kind of refusal with its place, expectation and nearest key."""

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, Literal

import pytest

from options.schema import Location, OptionsError, Section, build, check, describe, dump


@dataclass(frozen=True, kw_only=True)
class Leaf:
    size: int
    rate: float = 0.5

    def __post_init__(self) -> None:
        check(self.size > 0, f"size must be above 0, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class Tree:
    name: str
    leaf: Leaf
    flag: bool = True
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] = 1
    maybe: float | None = None
    count: int | Literal["auto"] = "auto"
    pair: tuple[float, float] = (0.0, 1.0)
    numbers: tuple[int, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    names: list[str] = field(default_factory=list)
    by_name: dict[str, Leaf] = field(default_factory=dict)
    roots: str | tuple[str | Leaf, ...] = ()

    def __post_init__(self) -> None:
        check(self.leaf.size < 100, f"leaf.size must be below 100, got {self.leaf.size}")
        check(self.name != "bad", "this name is taken")


MINIMAL: dict[str, Any] = {"name": "oak", "leaf": {"size": 3}}


def refusal(**changes: Any) -> str:
    """The message with which MINIMAL plus changes is refused."""
    with pytest.raises(OptionsError) as caught:
        build(Tree, MINIMAL | changes, "tree.yml")
    return str(caught.value)


def test_defaults_and_nesting() -> None:
    tree = build(Tree, MINIMAL, "tree.yml")
    assert tree == Tree(name="oak", leaf=Leaf(size=3))


def test_every_type_is_converted() -> None:
    tree = build(
        Tree,
        {
            "name": "oak",
            "leaf": {"size": 3, "rate": 2},
            "flag": False,
            "mode": "slow",
            "maybe": 1,
            "count": 4,
            "pair": [1, 2.5],
            "numbers": [1, 2],
            "leaves": [{"size": 1}, {"size": 2}],
            "names": ["a"],
            "by_name": {"x": {"size": 5}, "dropped": None},
            "roots": ["folder", {"size": 7}],
        },
        "tree.yml",
    )
    assert tree.leaf.rate == 2.0 and isinstance(tree.leaf.rate, float)
    assert isinstance(tree.maybe, float) and tree.pair == (1.0, 2.5) and isinstance(tree.pair[0], float)
    assert tree.numbers == (1, 2) and tree.leaves == (Leaf(size=1), Leaf(size=2)) and tree.names == ["a"]
    assert tree.by_name == {"x": Leaf(size=5)}
    assert tree.roots == ("folder", Leaf(size=7)) and tree.count == 4 and tree.flag is False and tree.mode == "slow"


def test_unions_take_each_member() -> None:
    assert build(Tree, MINIMAL | {"roots": "one"}, "f").roots == "one"
    assert build(Tree, MINIMAL | {"count": "auto"}, "f").count == "auto"
    assert build(Tree, MINIMAL | {"maybe": None}, "f").maybe is None


def test_objects_are_frozen() -> None:
    tree = build(Tree, MINIMAL, "tree.yml")
    with pytest.raises(FrozenInstanceError):
        tree.leaf.size = 4  # type: ignore[misc]


def test_unknown_key_names_the_nearest() -> None:
    assert refusal(leaf={"size": 1, "ratee": 2}) == "tree.yml: leaf.ratee: unknown key; did you mean leaf.rate?"


def test_unknown_key_far_from_all_lists_them() -> None:
    assert refusal(leaf={"size": 1, "zzz": 2}) == "tree.yml: leaf.zzz: unknown key; known keys here: size, rate"


def test_missing_key_says_what_was_expected() -> None:
    assert refusal(leaf={"rate": 1.0}) == "tree.yml: leaf.size: this key is missing; expected an integer"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"leaf": {"size": 1.5}}, "leaf.size: expected an integer, got 1.5"),
        ({"leaf": {"size": 2.0}}, "leaf.size: expected an integer, got 2.0; write 2"),
        ({"leaf": {"size": True}}, "leaf.size: expected an integer, got true"),
        ({"leaf": {"size": 1, "rate": True}}, "leaf.rate: expected a finite number, got true"),
        ({"leaf": {"size": 1, "rate": "5e-5x"}}, "leaf.rate: expected a finite number, got '5e-5x'"),
        ({"leaf": {"size": 1, "rate": float("nan")}}, "leaf.rate: expected a finite number, got nan"),
        ({"leaf": None}, "leaf: expected a mapping with the keys size, rate, got null"),
        ({"leaf": [1]}, "leaf: expected a mapping with the keys size, rate, got a list"),
        ({"name": 7}, "name: expected text, got 7; put it in quotes"),
        ({"flag": 1}, "flag: expected true or false, got 1"),
        ({"mode": "fats"}, "mode: expected fast | slow, got 'fats'; did you mean fast?"),
        ({"mode": None}, "mode: expected fast | slow, got null"),
        ({"level": True}, "level: expected 1 | 2, got true"),
        ({"maybe": "x"}, "maybe: expected a finite number or null, got 'x'"),
        ({"count": "aut"}, "count: expected an integer or auto, got 'aut'; did you mean auto?"),
        ({"count": False}, "count: expected an integer or auto, got false"),
        ({"pair": [1]}, "pair: expected a list of 2 items"),
        ({"pair": [1, "b"]}, "pair[1]: expected a finite number, got 'b'"),
        ({"numbers": 3}, "numbers: expected a list of: an integer, got 3"),
        ({"numbers": [1, "2"]}, "numbers[1]: expected an integer, got '2'"),
        ({"leaves": [{"size": 1}, {"sice": 2}]}, "leaves[1].sice: unknown key; did you mean leaves[1].size?"),
        ({"by_name": {"x": {"size": "a"}}}, "by_name.x.size: expected an integer, got 'a'"),
        ({"by_name": []}, "by_name: expected a mapping of names to: a mapping with the keys size, rate, got a list"),
        ({"roots": [{"sice": 1}]}, "roots[0].sice: unknown key"),
        ({"roots": 3}, "roots: expected text or a list of"),
    ],
)
def test_wrong_types_are_refused(changes: dict[str, Any], expected: str) -> None:
    assert refusal(**changes).startswith(f"tree.yml: {expected}")


def test_a_failed_check_names_its_field() -> None:
    assert refusal(leaf={"size": 0}) == "tree.yml: leaf.size: must be above 0, got 0"
    assert refusal(leaves=[{"size": 1}, {"size": -1}]) == "tree.yml: leaves[1].size: must be above 0, got -1"


def test_a_check_across_sections_names_the_deeper_field() -> None:
    assert refusal(leaf={"size": 100}) == "tree.yml: leaf.size: must be below 100, got 100"


def test_a_check_without_a_field_names_the_section() -> None:
    assert refusal(name="bad") == "tree.yml: this name is taken"


def test_the_source_of_the_key_is_named_not_that_of_the_section() -> None:
    section, leaf = Section(), Section()
    leaf.put("size", "x", Location("other.yml", 12))
    section.put("name", "oak", Location("tree.yml", 1))
    section.put("leaf", leaf, Location("tree.yml", 2))
    with pytest.raises(OptionsError) as caught:
        build(Tree, section, "tree.yml")
    assert str(caught.value) == "other.yml: leaf.size: expected an integer, got 'x' (line 12)"


def test_errors_are_value_errors() -> None:
    assert issubclass(OptionsError, ValueError)


def test_dump_gives_plain_types_that_build_the_same() -> None:
    tree = build(Tree, MINIMAL | {"leaves": [{"size": 1}], "by_name": {"x": {"size": 5}}, "roots": ["a", {"size": 2}]}, "f")
    plain = dump(tree)
    assert plain["leaves"] == [{"size": 1, "rate": 0.5}] and plain["pair"] == [0.0, 1.0] and type(plain["by_name"]["x"]) is dict
    assert build(Tree, plain, "f") == tree


def test_an_annotation_the_schema_does_not_know_is_our_bug() -> None:
    with pytest.raises(TypeError, match="does not know"):
        describe(set[int])
