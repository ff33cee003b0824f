from pathlib import Path

import pytest

from restoring.jobs import OVERVIEW, made_by, make_set, output_names, settings_key


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
    assert made_by(key, b"photo") == made_by(key, b"photo") != made_by(key, b"other")


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
