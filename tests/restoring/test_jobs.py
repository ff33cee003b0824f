import hashlib
from pathlib import Path, PureWindowsPath

import pytest

from restoring.jobs import OVERVIEW, made_by, make_set, output_names, settings_key, single_set, windows_name


def names(*relatives: str) -> list[str]:
    return [path.as_posix() for path in output_names(map(Path, relatives))]


def test_results_are_png_and_keep_sub_folders():
    assert names("a.jpg", "sub/a.jpg", "photo.final.webp", "UPPER.JPG") == ["a.png", "sub/a.png", "photo.final.png", "UPPER.png"]


def test_no_two_results_share_a_name():
    assert names("a.png", "a.jpg", "a.JPG", "a_jpg.png") == ["a.png", "a_jpg.png", "a_jpg_2.png", "a_jpg_png.png"]
    assert names("B.png", "b.png") == ["B.png", "b_png.png"], "B.png and b.png are one file on some disks"
    assert names("b.png", "B.png") == ["b.png", "B_png.png"]
    assert names(OVERVIEW) == ["comparison_overview_png.png"]


def test_another_format_and_a_suffix():
    relatives = [Path("a.png"), Path("sub/b.c.jpg"), Path("a.jpg")]
    assert [path.as_posix() for path in output_names(relatives, "webp", "_x4")] == ["a_x4.webp", "sub/b.c_x4.webp", "a_jpg_x4.webp"]


def test_results_below_the_inputs_are_no_inputs(tmp_path):
    inputs = [(tmp_path / "photos" / name, Path(name), None) for name in ("a.jpg", "out/a.png", "sub/b.jpg")]
    jobs = make_set(None, tmp_path / "photos/out", inputs).jobs
    assert [job.output.as_posix() for job in jobs] == ["a.png", "sub/b.png"]
    named = make_set(None, tmp_path / "photos/out", [(tmp_path / "photos/out/x/a.png", Path("a.png"), None)])
    assert len(named.jobs) == 1, "a picture that was named itself is meant"
    with pytest.raises(ValueError, match="all the pictures lie in the folder of the results"):
        make_set(None, tmp_path, [(tmp_path / "out/a.png", Path("out/a.png"), None)])


def test_the_key_knows_the_weights_and_the_settings(tmp_path):
    for name, text in (("config.json", "{}"), ("generator.safetensors", "weights"), ("README.md", "words"), ("unet/config.json", "{}")):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text(text)
    key = settings_key(tmp_path / "a", {"scale": 4.0, "tile": 1024})
    assert len(key) == 16
    (tmp_path / "a/README.md").write_text("other words")
    (tmp_path / "a").rename(tmp_path / "b")
    assert settings_key(tmp_path / "b", {"tile": 1024, "scale": 4.0}) == key
    assert settings_key(tmp_path / "b", {"tile": 1024, "scale": 2.0}) != key
    (tmp_path / "b/generator.safetensors").write_text("others")
    assert settings_key(tmp_path / "b", {"tile": 1024, "scale": 4.0}) != key
    (tmp_path / "photo").write_bytes(b"photo")
    assert made_by(key, tmp_path / "photo") == f"D3SR {key}-{hashlib.sha256(b'photo').hexdigest()[:16]}"


def test_a_result_may_not_replace_an_input(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="replace an input"):
        make_set(None, tmp_path, [(tmp_path / "a.png", Path("a.png"), None)])
    with pytest.raises(ValueError, match="replace an input"):
        make_set("set", tmp_path / "sub/..", [(Path("elsewhere/a.png"), Path("a.png"), tmp_path / "a.png")])
    jobs = make_set(None, tmp_path, [(tmp_path / "a.jpg", Path("a.jpg"), None)]).jobs
    assert jobs[0].output == Path("a.png")


def test_sheets_and_results_do_not_mix(tmp_path):
    with pytest.raises(ValueError, match="comparison"):
        make_set("set", tmp_path, [(Path("lr/comparison/a.png"), Path("comparison/a.png"), Path("hr/comparison/a.png"))])


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("a.png", "a.png"),
        ("a: b?.png", "a_ b_.png"),
        ('<a>|"b"*.png', "_a___b__.png"),
        ("folder.", "folder_"),
        ("folder ...", "folder_"),
        ("tab\t.png", "tab_.png"),
        ("CON.png", "CON_.png"),
        ("nul", "nul_"),
        ("com1.tar.png", "com1_.tar.png"),
        ("LPT\u00b2.png", "LPT\u00b2_.png"),
        ("aux .png", "aux_ .png"),
        ("CONSOLE.png", "CONSOLE.png"),
        ("com10.png", "com10.png"),
        ("a.con.png", "a.con.png"),
        (".hidden.png", ".hidden.png"),
    ],
)
def test_names_that_windows_forbids_are_changed_there_and_nowhere_else(name, allowed):
    assert windows_name(name) == allowed and not PureWindowsPath(allowed).is_reserved()
    relatives = [Path("sub.") / name.replace("/", "")]
    assert output_names(relatives, "png", windows=False) == [relatives[0].with_suffix(".png")]


def test_no_two_results_share_a_name_on_windows_either():
    found = [path.as_posix() for path in output_names([Path("a:b.png"), Path("a?b.png"), Path("sub./con.jpg")], windows=True)]
    assert found == ["a_b.png", "a_b_png.png", "sub_/con_.png"]


def test_one_picture_goes_where_the_user_says(tmp_path):
    job_set = single_set(tmp_path / "new/Result.JPG", [tmp_path / "a.png"])
    assert job_set.place == tmp_path / "new/Result.JPG" and len(job_set.jobs) == 1
    for name, pictures, message in (
        ("b.png", ["a.png", "c.png"], "names one result, but 2 pictures"),
        ("b.gif", ["a.png"], "pictures are written as png, jpg, webp"),
        ("a.png", ["a.png"], "would replace an input picture"),
    ):
        with pytest.raises(ValueError, match=message):
            single_set(tmp_path / name, [tmp_path / picture for picture in pictures])
