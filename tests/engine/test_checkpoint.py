"""Folders that are whole or not there: faults injected into every place of a write, damaged states, real lack of space."""

import errno
import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from data.whole_files import WriteError
from engine import checkpoint
from engine.checkpoint import (
    archive,
    copy_tensors,
    newest_intact_state,
    read_optimizer,
    read_tensors,
    read_values,
    save_state,
    state_folders,
    write_folder,
)


@pytest.fixture(autouse=True)
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was flushed, which a busy disk would take seconds for."""
    names: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
    return names


def write_text(text: str) -> Callable[[Path], None]:
    """Fills a folder with two files."""

    def write(folder: Path) -> None:
        (folder / "a.txt").write_text(text)
        (folder / "b.txt").write_text(text)

    return write


def texts(root: Path) -> dict[str, str]:
    """Every file below root with its text."""
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def some_state(root: Path, iteration: int, keep_last: int = 10) -> Path:
    weight = torch.nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(iteration)))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    save_state(
        root, iteration, {"generator": {"w": weight}}, {"optimizer_g": optimizer.state_dict()}, {"metrics": {"psnr": 1.5}}, keep_last
    )
    return root / str(iteration)


def test_a_folder_is_written_and_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "deep/er/x", write_text("one"))
    (tmp_path / "deep/er/x/stale.txt").write_text("of the former")
    write_folder(tmp_path / "deep/er/x", write_text("two"))
    assert texts(tmp_path) == {"deep/er/x/a.txt": "two", "deep/er/x/b.txt": "two"}


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, flushed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (flushed.append(f"-> {target.name}"), replace(source, target)))
    write_folder(tmp_path / "x", write_text("one"))
    assert sorted(flushed[:2]) == ["a.txt", "b.txt"] and flushed[2:] == ["x.tmp", "-> x", tmp_path.name]


@pytest.mark.parametrize("leftover", [".tmp", ".former"])
def test_what_a_kill_left_behind_is_cleared_away(tmp_path: Path, leftover: str) -> None:
    (tmp_path / f"x{leftover}").mkdir()
    (tmp_path / f"x{leftover}/c.txt").write_text("half")
    write_folder(tmp_path / "x", write_text("whole"))
    assert texts(tmp_path) == {"x/a.txt": "whole", "x/b.txt": "whole"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only state there is was being replaced; so was a release, and the disk is full when it is written again."""
    state = some_state(tmp_path / "states", 7)
    os.replace(state, tmp_path / "states/7.former")
    assert newest_intact_state(tmp_path / "states", pytest.fail) == state
    (tmp_path / "x.former").mkdir()
    (tmp_path / "x.former/a.txt").write_text("former")
    with pytest.raises(ValueError, match="cannot write"):
        write_folder(tmp_path / "x", refuse)
    assert texts(tmp_path / "x") == {"a.txt": "former"}
    assert {path.name for path in tmp_path.iterdir()} == {"states", "x"}


@pytest.mark.parametrize("place", ["write", "fsync", "first rename", "second rename"])
def test_a_fault_anywhere_leaves_the_former_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    folder = tmp_path / "models/x"
    write_folder(folder, write_text("former"))
    write, renames, replace = write_text("new"), [], os.replace

    def fail_at_rename(source: Path, target: Path) -> None:
        renames.append(source)
        if len(renames) == (1 if place == "first rename" else 2):
            refuse()
        replace(source, target)

    def fail_in_the_middle(temporary: Path) -> None:
        (temporary / "a.txt").write_text("new")
        refuse()

    if place == "write":
        write = fail_in_the_middle
    elif place == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        monkeypatch.setattr(os, "replace", fail_at_rename)
    full = r"the disk is full \(No space left on device\). Free some space or choose another path"
    with pytest.raises(ValueError, match=f"cannot write {folder}: {full}"):
        write_folder(folder, write)
    assert texts(tmp_path) == {"models/x/a.txt": "former", "models/x/b.txt": "former"}
    assert [path.name for path in folder.parent.iterdir()] == ["x"]


def test_other_mistakes_are_not_called_a_full_disk(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        write_folder(tmp_path / "x", write)


@pytest.mark.parametrize("large", ["tensors", "optimizer", "values"])
def test_real_lack_of_space_is_one_clear_error(tmp_path: Path, large: str) -> None:
    """The limit on file sizes makes the system refuse to write on, in the middle of each kind of file."""
    some_state(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "1").iterdir()}
    big = torch.zeros(100_000)
    contents = ({"generator": {"w": big}}, {}, {}) if large == "tensors" else ({}, {"optimizer_g": {"w": big}}, {})
    contents = ({}, {}, {"text": "x" * 400_000}) if large == "values" else contents
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(ValueError, match="cannot write .*/2: .*what was there before is intact"):
            save_state(tmp_path, 2, *contents, keep_last=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "1").iterdir()} == before


def test_a_state_comes_back(tmp_path: Path) -> None:
    folder = some_state(tmp_path, 7)
    assert sorted(path.name for path in folder.iterdir()) == ["generator.safetensors", "manifest.json", "optimizer_g.pt", "values.json"]
    weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(7))
    parameter = torch.nn.Parameter(weight)
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    assert torch.equal(read_tensors(folder, "generator")["w"], parameter.detach())
    assert torch.equal(read_optimizer(folder, "optimizer_g")["state"][0]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert read_values(folder) == {"iteration": 7, "metrics": {"psnr": 1.5}}
    with pytest.raises(ValueError, match=f"{folder} holds no average.*path.resume: false"):
        read_tensors(folder, "average")


def test_a_saved_program_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state": Evil()}, tmp_path / "optimizer_g.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        read_optimizer(tmp_path, "optimizer_g")
    assert not (tmp_path / "executed").exists()


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x80
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


FILES = ("generator.safetensors", "optimizer_g.pt", "values.json", "manifest.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [flip_a_byte, truncate, Path.unlink], ids=["flip", "truncate", "delete"])
def test_a_damaged_state_is_named_and_passed_over(tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    for iteration in (9, 10, 100):
        some_state(tmp_path, iteration)
    damage(tmp_path / "100" / file)
    (tmp_path / "200").mkdir()
    (tmp_path / "300.tmp").mkdir()
    told: list[str] = []
    if (file, damage) == ("manifest.json", truncate):
        (tmp_path / "100" / file).write_text((tmp_path / "100" / file).read_text()[:-2])  # not only the newline at its end
    assert newest_intact_state(tmp_path, told.append) == tmp_path / "10"
    assert [line.split(" is damaged")[0] for line in told] == [str(tmp_path / "200"), str(tmp_path / "100")]
    assert file in told[1] and "passed over" in told[1]


def test_without_a_state_there_is_none(tmp_path: Path) -> None:
    told: list[str] = []
    assert newest_intact_state(tmp_path / "absent", told.append) is None
    some_state(tmp_path, 1)
    truncate(tmp_path / "1/values.json")
    with pytest.raises(ValueError, match=f"{tmp_path}: no state to go on from, every one is damaged: 1 .values.json is not what"):
        newest_intact_state(tmp_path, told.append)
    assert len(told) == 1


ODD_MANIFESTS = ["null", "[]", "7", '"text"', "{}", '{"../1/values.json": "0"}', '{"values.json": 3}', "[" * 100_000]
ODD_MANIFESTS += [json.dumps({"x" * 5000: "", "values.json": ""})]


@pytest.mark.parametrize("manifest", [*ODD_MANIFESTS, None], ids=range(len(ODD_MANIFESTS) + 1))
def test_a_manifest_of_another_shape_is_a_damaged_state(tmp_path: Path, manifest: str | None) -> None:
    """None: a pipe, which would be waited for for ever."""
    for iteration in (1, 2):
        some_state(tmp_path, iteration)
    file = tmp_path / "2" / checkpoint.MANIFEST
    file.unlink()
    if manifest is None:
        os.mkfifo(file)
    else:
        file.write_text(manifest)
    told: list[str] = []
    assert newest_intact_state(tmp_path, told.append) == tmp_path / "1" and len(told) == 1


def test_a_manifest_that_names_other_places_is_not_followed(tmp_path: Path) -> None:
    some_state(tmp_path, 1)
    sums = json.loads((tmp_path / "1/manifest.json").read_text())
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "1/manifest.json").write_text(json.dumps(sums | {"../elsewhere": hashlib.sha256(b"x").hexdigest()}))
    with pytest.raises(ValueError, match="is not a list of this folder's files"):
        newest_intact_state(tmp_path, lambda _: None)


@pytest.mark.parametrize("name", ["7.tmp", "7.former"])
def test_a_link_under_a_temporary_name_is_not_followed(tmp_path: Path, name: str) -> None:
    some_state(tmp_path / "states", 7)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/precious.txt").write_text("precious")
    (tmp_path / "states" / name).symlink_to(tmp_path / "victim")
    some_state(tmp_path / "states", 7)
    assert texts(tmp_path / "victim") == {"precious.txt": "precious"}
    assert newest_intact_state(tmp_path / "states", pytest.fail) == tmp_path / "states/7"
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["7"]


def test_a_full_disk_is_called_one_whatever_a_library_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> None:
        monkeypatch.setattr(Path, "write_bytes", refuse)
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 24800192 vs 24800086")

    with pytest.raises(WriteError, match=r"cannot write .*: the disk is full \(No space left on device\). Free some space"):
        write_folder(tmp_path / "x", write)
    monkeypatch.undo()
    with pytest.raises(WriteError, match="cannot write .*: no such kind of tensor. Free some space"):
        write_folder(tmp_path / "x", lambda _: (_ for _ in ()).throw(RuntimeError("no such kind of tensor")))


def test_the_newest_states_are_kept_by_number(tmp_path: Path) -> None:
    for iteration in (5, 50, 500, 1000):
        some_state(tmp_path, iteration, keep_last=2)
    assert [folder.name for folder in state_folders(tmp_path)] == ["1000", "500"]


def test_a_state_just_written_is_never_the_one_removed(tmp_path: Path) -> None:
    """The run went back behind a damaged state 100, which must not count as the newest one."""
    some_state(tmp_path, 100)
    flip_a_byte(tmp_path / "100/values.json")
    for iteration in (25, 50):
        some_state(tmp_path, iteration, keep_last=1)
    assert newest_intact_state(tmp_path, lambda _: None) == tmp_path / "50"
    assert [folder.name for folder in state_folders(tmp_path)] == ["100", "50"]


def test_tensors_of_other_options_are_refused_by_name() -> None:
    into = {"a": torch.zeros(2), "b": torch.zeros(3)}
    good = {"b": torch.ones(3), "a": torch.full((2,), 2.0)}
    copy_tensors(into, good, "generator")
    assert into["a"].tolist() == [2.0, 2.0] and into["b"].tolist() == [1.0, 1.0, 1.0]
    for bad, named in (({"a": good["a"]}, "b"), (good | {"c": good["a"]}, "c"), (good | {"b": torch.ones(3, 1)}, "b")):
        with pytest.raises(
            ValueError, match=f"saved generator does not fit the options of this run, first at '{named}'.*path.resume: false"
        ):
            copy_tensors(into, {name: tensor + 5 for name, tensor in bad.items()}, "generator")
    assert into["a"].tolist() == [2.0, 2.0] and into["b"].tolist() == [1.0, 1.0, 1.0], "refused, but copied in part"


def test_a_run_is_archived(tmp_path: Path) -> None:
    assert archive(tmp_path / "run") is None
    write_folder(tmp_path / "run", write_text("old"))
    place = archive(tmp_path / "run")
    assert place.parent == tmp_path and place.name.startswith("run_archived_2")
    assert texts(place) == {"a.txt": "old", "b.txt": "old"} and not (tmp_path / "run").exists()


def test_the_manifest_is_of_the_files_as_sha256sum_counts(tmp_path: Path) -> None:
    folder = some_state(tmp_path, 3)
    sums = json.loads((folder / checkpoint.MANIFEST).read_text())
    assert sums == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES if name != "manifest.json"}
    with safe_open(folder / "generator.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["w"]
