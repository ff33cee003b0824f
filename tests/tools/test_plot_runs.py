import csv
from pathlib import Path

import pytest
from PIL import Image

from tools.plot_runs import main

LINE = "2026-11-26 22:18:36 INFO: {kind}  iter {iteration}/40  {numbers}\n"


def write_run(folder: Path, offset: float) -> Path:
    folder.mkdir(parents=True)
    with open(folder / f"train_{folder.name}.log", "w", encoding="utf-8") as log:
        for iteration in range(10, 50, 10):
            numbers = f"mse {offset + iteration}  real_logits {offset}  learning_rate 5e-05"
            log.write(LINE.format(kind="train", iteration=iteration, numbers=numbers))
        log.write(LINE.format(kind="val", iteration=40, numbers=f"pairs/psnr {20 + offset}"))
    return folder


@pytest.mark.slow
def test_every_number_of_every_run_is_kept_and_drawn(tmp_path: Path, capsys) -> None:
    runs = [str(write_run(tmp_path / name, offset)) for name, offset in (("first", 0.5), ("second", 1.5))]
    assert main([*runs, "-o", str(tmp_path / "out"), "--title", "Two runs"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / f"curves.{ending}") for ending in ("png", "svg", "csv")]
    with open(tmp_path / "out/curves.csv", encoding="utf-8", newline="") as file:
        numbers = {(row["variant"], row["name"], int(row["iteration"])): float(row["value"]) for row in csv.DictReader(file)}
    assert numbers["second", "mse", 30] == 31.5 and numbers["first", "pairs/psnr", 40] == 20.5 and len(numbers) == 26
    svg = (tmp_path / "out/curves.svg").read_text(encoding="utf-8")
    for text in ("first", "second", "Two runs", "MSE", "logits of real latents", "pairs/psnr"):
        assert f">{text}</text>" in svg, f"{text} is not there as text"
    assert ">learning_rate<" not in svg


@pytest.mark.slow
def test_what_is_drawn_can_be_chosen(tmp_path: Path, capsys) -> None:
    run = str(write_run(tmp_path / "run", 0.0))
    sizes = []
    for names in (["learning_rate"], ["learning_rate", "mse"]):
        assert main([run, "-o", str(tmp_path / "out"), "--names", *names]) == 0
        with Image.open(tmp_path / "out/curves.png") as picture:
            sizes.append(picture.size)
    assert sizes[1][0] == 2 * sizes[0][0] and ">learning_rate</text>" in (tmp_path / "out/curves.svg").read_text(encoding="utf-8")
    assert main([run, "-o", str(tmp_path / "out"), "--names", "msee"]) == 2
    assert "no run has 'msee'; known: mse, real_logits, learning_rate, pairs/psnr" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_that_are_called_alike_get_their_paths(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / parent / "run", 0.0)) for parent in ("a", "b")]
    assert main([*runs, "-o", str(tmp_path / "out")]) == 0
    assert f">{tmp_path / 'b/run'}</text>" in (tmp_path / "out/curves.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ((), "holds no train_NAME.log"),
        (("train_a.log", "train_b.log"), "holds several logs"),
        (("train_run.log",), "no line of numbers yet"),
    ],
)
def test_folders_without_curves_are_explained(tmp_path: Path, capsys, logs: tuple[str, ...], said: str) -> None:
    (tmp_path / "run").mkdir()
    for name in logs:
        (tmp_path / "run" / name).write_text("2026-11-26 22:18:36 INFO: 12 of 12 images usable\n")
    assert main([str(tmp_path / "run"), "-o", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_named_twice_is_a_mistake(tmp_path: Path, capsys) -> None:
    run = str(write_run(tmp_path / "run", 0.0))
    assert main([run, run, "-o", str(tmp_path / "out")]) == 2
    assert "named twice" in capsys.readouterr().err
