"""Which files are found in folders and lists, what is passed over, and what fails by name."""

import os
import socket
from pathlib import Path

import pytest

from data import listing
from data.listing import Listing, list_images, read_list, read_pairs


def names(found: Listing) -> list[str]:
    return [file.relative.as_posix() for file in found.files]


def touch(root: Path, *relatives: str) -> None:
    for relative in relatives:
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).touch()


def locked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Lets a folder refuse to be listed, which root is never refused."""
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_folders_are_listed_recursively_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "img10.png", "img2.png", "b/2.JPG", "b/10.webp", "a.d/1.bmp", ".hidden.png", ".git/x.png", "notes.txt", "c/readme.md")
    found = list_images(tmp_path)
    assert names(found) == ["a.d/1.bmp", "b/2.JPG", "b/10.webp", "img2.png", "img10.png"]
    assert all(file.path == tmp_path / file.relative for file in found.files)
    assert found.remark() == "" and found.failures == [], "texts beside pictures are not worth a word"


def test_pictures_go_by_all_the_names_that_browsers_phones_and_sites_give(tmp_path: Path) -> None:
    endings = ["jfif", "jpe", "jpeg_large", "jpg-large", "jpg:large", "JPG_ORIG", "pjpeg", "pjp", "jfi", "avif", "apng", "dib", "TIF"]
    touch(tmp_path, *(f"a.{ending}" for ending in endings))
    assert sorted(names(list_images(tmp_path))) == sorted(f"a.{ending}" for ending in endings)


def test_heic_is_taken_where_it_can_be_read_and_else_counted_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.heic", "s/b.HEIC", "c.mov", "d.jpg", "e.hif", "notes.md")
    for there, taken, remark in (
        (True, ["a.heic", "d.jpg", "e.hif", "s/b.HEIC"], "1 passed over: .mov 1"),
        (False, ["d.jpg"], "4 passed over: .heic 2, .hif 1, .mov 1; pip install pillow-heif reads HEIC"),
    ):
        monkeypatch.setattr(listing, "reads_heic", lambda there=there: there)
        found = list_images(tmp_path)
        assert names(found) == taken and found.remark() == remark
        touch(tmp_path / "alone", "x.heic")
        assert names(list_images(tmp_path / "alone" / "x.heic")) == ["x.heic"], "whoever names a file means it"
        (tmp_path / "alone" / "x.heic").unlink()


def test_what_is_passed_over_is_one_line_however_files_are_called(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "LICENSE", "evil.\x1b[31m\nforged", *(f"x.e{number}" for number in range(20)), "y.e0")
    assert list_images(tmp_path).remark() == (
        "23 passed over: .e0 2, .e1 1, .e10 1, .e11 1, .e12 1, .e13 1, .e14 1, .e15 1, others 14"
    )
    (tmp_path / "b").mkdir()
    touch(tmp_path / "b", "LICENSE", "evil.\x1b[31m\nforged", "a.png")
    assert list_images(tmp_path / "b").remark() == "2 passed over: other endings 1, without ending 1"


def test_a_folder_that_cannot_be_listed_is_a_failure_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/open/a.png", "in/shut/b.png", "in/shut/deeper/c.png")
    locked(monkeypatch, tmp_path / "in" / "shut")
    found = list_images(tmp_path / "in")
    assert names(found) == ["open/a.png"] and found.failures == [f"{tmp_path}/in/shut: could not be opened (Permission denied)"]
    assert names(list_images([tmp_path / "in" / "shut", tmp_path / "in" / "open"])) == ["a.png"], "the others can be done"
    with pytest.raises(ValueError, match=r"(?s)^no images found:.*in/shut: could not be opened \(Permission denied\)$"):
        list_images(tmp_path / "in" / "shut")


def test_pipes_and_sockets_are_never_opened_and_named_where_pictures_are_expected(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "c")
    (tmp_path / "d.jpg").symlink_to("b.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self").symlink_to("self")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(tmp_path / "e.gif"))
    found = list_images(tmp_path)
    assert names(found) == ["a.png", "gone.png"], "a link to nothing is said by who reads it"
    said = {failure.removeprefix(f"{tmp_path}/").partition(": ")[::2] for failure in found.failures}
    assert said >= {(name, "not a regular file") for name in ("b.png", "d.jpg", "e.gif")}
    assert {name for name, _ in said} <= {"b.png", "d.jpg", "e.gif", "self"}
    with pytest.raises(ValueError, match=r"b\.png: neither a file nor a folder"):
        list_images(tmp_path / "b.png")


def test_files_of_folders_are_not_looked_at_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a million pictures on a network disk: its own listing says what they are."""
    touch(tmp_path, *(f"{number}.png" for number in range(50)), *(f"{number}.mov" for number in range(50)))
    looked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looked.append(path) or stat(path, **options))
    found = list_images(tmp_path)
    assert len(found.files) == 50 and found.remark() == "50 passed over: .mov 50" and len(looked) < 5


def test_lines_of_lists_as_people_write_them(tmp_path: Path) -> None:
    touch(tmp_path, "LR/1.png", "LR/a b.png", "#1.png", "x, y.png", "it's.png", "a #2.png")
    lines = {
        "# a comment": None,
        "#1.png": "#1.png",
        "LR\\1.png": "LR/1.png",
        ".\\LR\\1.png\t# Windows, and a comment": "LR/1.png",
        '"LR/a b.png"': "LR/a b.png",
        "'LR/1.png' (48,48,3)": "LR/1.png",
        "LR/a b.png (48, 48, 3)  # size": "LR/a b.png",
        "x, y.png": "x, y.png",
        "it's.png": "it's.png",
        "a #2.png": "a #2.png",
        "C:\\photos\\1.png": "C:/photos/1.png",
        "   ": None,
    }
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):  # the last with its mark, as PowerShell 5 writes
        (tmp_path / "l.txt").write_text("\r\n".join(lines), encoding=encoding)
        assert names(read_list(tmp_path / "l.txt")) == [name for name in lines.values() if name]


def test_lines_that_can_be_no_names_are_failures(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    (tmp_path / "l.txt").write_text("1.png\na\0b.png\n" + "x" * 300 + ".png\n" + "d/" * 3000 + "1.png\n" + "ü" * 128 + "\n")
    found = list_images(tmp_path / "l.txt")
    assert names(found) == ["1.png"]
    assert [failure.removeprefix(f"{tmp_path}/l.txt, line ") for failure in found.failures] == [
        "2: no name of a file, since it holds a NUL",
        f"3: too long for the name of a file: {'x' * 40}...",
        f"4: too long for the name of a file: {'d/' * 20}...",
        f"5: too long for the name of a file: {'ü' * 40}...",
    ]


def test_lists_of_pairs(tmp_path: Path) -> None:
    """Real-ESRGAN's generate_meta_info_pairdata.py writes `gt, lq`, each below the folder that holds both."""
    touch(tmp_path, "D/HR/1.png", "D/LR/1.png", "D/HR/2.png", "D/LR/2.png")
    (tmp_path / "D" / "meta").mkdir()
    path = tmp_path / "D" / "meta" / "pairs.txt"
    path.write_text("HR/1.png, LR/1.png\n# more\n\"HR\\2.png\",LR/2.png\n")
    hr, lr = read_pairs(path)
    assert [file.path for file in hr.files] == [tmp_path / "D" / "HR" / f"{number}.png" for number in (1, 2)]
    assert [file.path for file in lr.files] == [tmp_path / "D" / "LR" / f"{number}.png" for number in (1, 2)]
    with pytest.raises(ValueError, match=r"pairs.txt, line 1: a pair, 'HR/1.png' and 'LR/1.png'.*dataroot_gt and as dataroot_lq"):
        list_images(path)
    path.write_text("HR/1.png, LR/1.png\nHR/2.png\n")
    with pytest.raises(ValueError, match=r"pairs.txt, line 2: expected a pair 'hr.png, lq.png' as above, got 'HR/2.png'"):
        read_pairs(path)
    path.write_text("HR/1.png\n")
    assert read_pairs(path) is None


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "root/2.png")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "root")
    assert names(list_images(tmp_path / "root")) == ["2.png", "link/1.png"]


def test_files_folders_and_lists_keep_the_given_order(tmp_path: Path) -> None:
    touch(tmp_path, "z.png", "f/s/1.png")
    (tmp_path / "l.txt").write_text(f"f/s/1.png\n{tmp_path}/z.png\n")
    assert names(list_images([tmp_path / "z.png", str(tmp_path / "f"), tmp_path / "l.txt"])) == ["z.png", "s/1.png", "f/s/1.png", "z.png"]


def test_meta_info_lists(tmp_path: Path) -> None:
    touch(tmp_path, "DF2K/HR/0001 (a).png", "DF2K/HR/0002.png")
    (tmp_path / "DF2K" / "meta.txt").write_text("HR/0001 (a).png (480,480,3)\n\nHR/0002.png (480, 481)\r\n")
    (tmp_path / "DF2K" / "meta_info").mkdir()
    (tmp_path / "DF2K" / "meta_info" / "list.txt").write_text("\ufeffHR/0001 (a).png\nHR/0002.png\n", encoding="utf-8")
    truth = [tmp_path / "DF2K" / "HR" / "0001 (a).png", tmp_path / "DF2K" / "HR" / "0002.png"]
    for path in ("DF2K/meta.txt", "DF2K/meta_info/list.txt"):
        assert [file.path for file in read_list(tmp_path / path).files] == truth
    assert names(read_list(tmp_path / "DF2K" / "meta.txt")) == ["HR/0001 (a).png", "HR/0002.png"]


def test_an_empty_name_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "1.png")
    monkeypatch.chdir(tmp_path)
    for paths in ("", ["1.png", ""]):
        with pytest.raises(ValueError, match="an empty name"):
            list_images(paths)


def test_nothing_to_read_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    touch(tmp_path, "none/notes.md")
    (tmp_path / "l.txt").write_text("\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    reasons = {"gone": "no such file", "none": "no images", "l.txt": "no images", "b.txt": "not a readable", "x" * 300: "no such file"}
    for path, reason in reasons.items():
        with pytest.raises(ValueError, match=rf"{path}: {reason}"):
            list_images(tmp_path / path)
