"""tools/gpu_check.py in small on the CPU: each step once, and a report that is whole whatever a step does to itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train_d3sr
from tools import gpu_check, pretrain_tiny
from tools.checks import ROOT, correctness, iteration, restoring, schedule, scripts, small_model, training
from tools.checks.report import markdown, shown
from tools.checks.run_step import MODULES
from tools.checks.step import Setting, attempt, row

WRITE = """
import json, os, subprocess, sys, time
file = open({rows!r}, "a")
def put(what, status="ok", **values):
    file.write(json.dumps({{"what": what, "values": values, "note": "a|b", "status": status}}) + "\\n")
    file.flush()
"""
pytestmark = pytest.mark.slow

STEPS = {
    "good": "put('one', x=1.5)",
    "raises": "put('one', x=2.5); raise KeyError('no such thing')",
    "exits": "put('one'); os._exit(7)",
    "killed": "os.kill(os.getpid(), 9)",
    "row_fails": "put('one'); put('two', 'failed')",
    "cut_off": "put('whole'); file.write('{\"what'); file.flush(); os._exit(1)",
    "hangs": "put('one', x=3.5); wait = 'import time; time.sleep(600)  # FOLDER';"
    "subprocess.Popen([sys.executable, '-c', wait], start_new_session=True); time.sleep(600)",
    "last": "put('one', x=4.5)",
}


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A report whose steps do what STEPS say, each in a process that needs no torch."""
    limits = {"hangs": 3.5, "last": 300.0}
    lenience = 1.5
    steps = tuple(schedule.Step(name, limits.get(name, 30.0) / lenience, name.upper()) for name in STEPS)
    machine = "put('machine', **{'kind of device': 'cpu', 'device': 'made up'})"

    def command_of(args: object, step: str, folder: Path, seconds: float) -> list[str]:
        code = machine if step == "machine.facts" else STEPS[step].replace("FOLDER", str(tmp_path))
        return [sys.executable, "-c", WRITE.format(rows=str(schedule.rows_file(folder, step))) + code]

    monkeypatch.setattr(schedule, "STEPS", steps)
    monkeypatch.setattr(schedule, "LENIENCE", {"cpu": lenience})
    monkeypatch.setattr(schedule, "command_of", command_of)
    return tmp_path / "out"


def report_of(out: Path) -> tuple[dict, str]:
    return json.loads((out / "report.json").read_text()), (out / "report.md").read_text()


def processes_with(text: str) -> list[int]:
    """Whose command holds the text."""
    found = [(file.parent.name, file) for file in Path("/proc").glob("[0-9]*/cmdline")]
    return [int(pid) for pid, file in found if int(pid) != os.getpid() and text in read(file)]


def read(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_whatever_a_step_does_to_itself_the_others_run(faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    started = time.monotonic()
    assert gpu_check.main(["-o", str(faulty), "--minutes", "3"]) == 1
    assert time.monotonic() - started < 60
    report, text = report_of(faulty)
    assert report["asked"] == [step["name"] for step in report["steps"]] == list(STEPS)
    steps = {step["name"]: step for step in report["steps"]}
    assert {name for name, step in steps.items() if step["status"] == "ok"} == {"good", "last"}
    assert {name: step["reason"] for name, step in steps.items() if step["status"] == "failed"} == {
        "raises": "KeyError: 'no such thing' (exit status 1)",
        "exits": "exit status 7",
        "killed": "ended by signal SIGKILL",
        "row_fails": "failed: two",
        "cut_off": "exit status 1",
        "hangs": f"over its limit of {steps['hangs']['limit']:.0f} s",
    }
    assert [len(steps[name]["rows"]) for name in STEPS] == [1, 1, 1, 0, 2, 1, 1, 1], "what was written before the fault is kept"
    assert steps["hangs"]["rows"][0]["values"] == {"x": 3.5}
    assert processes_with(f"# {tmp_path}") == [], "a process in a session of its own, as torchrun's workers are, is ended as well"
    assert "2 of 8 steps ran and are well; **failed**: raises, exits, killed, row_fails, cut_off, hangs." in text
    assert "| one | 3.5 | a\\|b |" in text and "| device | made up |" in text and "**failed**: a\\|b" in text
    assert "Traceback" in (faulty / "log.txt").read_text() and "hangs: failed" in capsys.readouterr().out


def test_time_goes_to_the_first_steps_and_what_they_leave_to_the_others(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of 20 s each: a second is left for them, then a minute, then ten."""
    monkeypatch.setattr(schedule, "STEPS", tuple(schedule.Step(name, 20.0, name) for name in ("good", "row_fails", "last")))
    limits = {}
    for seconds in (1, 60, 600):
        gpu_check.main(["-o", str(faulty), "--minutes", str(seconds / 60)])
        report, text = report_of(faulty)
        limits[seconds] = [step["limit"] for step in report["steps"]]
        if seconds == 1:
            assert {step["status"] for step in report["steps"]} == {"skipped"}
            assert report["steps"][0]["reason"] == "no time left; give more --minutes" and "not run: good, row_fails, last." in text
    assert limits[60] == pytest.approx([30, 30 * 60 / 40, 60], rel=0.1), "each may take half as much again as it needs, or more"
    assert limits[600] == pytest.approx([300, 450, 600], rel=0.1)
    assert gpu_check.main(["-o", str(faulty), "--minutes", "1", "--only", "last"]) == 0
    assert [step["name"] for step in report_of(faulty)[0]["steps"]] == ["last"]


def test_ctrl_c_and_sigterm_end_the_step_at_work(tmp_path: Path) -> None:
    """As the script itself handles them: the step's process is gone with it."""
    code = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tools.checks.limited import run_limited
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
run_limited([sys.executable, "-c", "import time; time.sleep(600)  # {tmp_path}"], Path("none"), Path({str(tmp_path / "log")!r}), 600)
"""
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)):
        outer = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while not processes_with(f"-c\0import time; time.sleep(600)  # {tmp_path}") and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        outer.send_signal(number)
        assert outer.wait(30) == status and processes_with(f"time.sleep(600)  # {tmp_path}") == []


def test_a_row_is_valid_json_whatever_was_measured() -> None:
    values = row("x", {"a": float("nan"), "b": float("inf"), "c": 1.0, "d": 3})["values"]
    assert values == {"a": "nan", "b": "inf", "c": 1.0, "d": 3}
    assert [shown(value) for value in (0.123456, 12345.6, 3, "a\nb|c", None)] == ["0.1235", "12,346", "3", "a b|c", "-"]
    begun = {"header": {"command": "x", "bases": "small"}, "asked": ["a", "b"], "steps": []}
    assert "0 of 2 steps ran and are well; **not finished**, still to come: a, b." in markdown(begun) and "in small" in markdown(begun)


def test_a_measurement_that_fails_is_a_row(capsys: pytest.CaptureFixture) -> None:
    def out_of_memory() -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def broken() -> dict:
        raise RuntimeError("first line\nsecond | line")

    assert attempt("a", out_of_memory) == row("a", {}, "out of memory, peak 0.00 GiB", "failed")
    assert attempt("b", broken) == row("b", {}, "RuntimeError: first line second | line", "failed")
    assert "second | line" in capsys.readouterr().err, "and in the log with its traceback"


def test_a_script_is_run_as_a_user_runs_it(setting: Setting) -> None:
    output, in_time = scripts.run_script(setting, "-c", "import os; print(os.getcwd())")
    assert in_time and output.strip() == str(ROOT)
    with pytest.raises(RuntimeError, match="^the reason$"):
        scripts.run_script(setting, "-c", "import sys; print('a'); sys.exit('the reason')")
    short = Setting(setting.device, False, setting.folder, time.time() + 7)
    started = time.monotonic()
    output, in_time = scripts.run_script(short, "-uc", "import time; print('so far'); time.sleep(600)")
    assert not in_time and output.strip() == "so far" and time.monotonic() - started < 6


# The steps themselves


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(torch.device("cpu"), False, tmp_path_factory.mktemp("check"), time.time() + 3600)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Scripts run here instead of in a process, whose imports take seconds each."""
    mains = {"train_d3sr.py": train_d3sr.main, "tools/pretrain_tiny.py": pretrain_tiny.main}

    def run(setting: Setting, *arguments: str) -> tuple[str, bool]:
        script = next(argument for argument in arguments if argument in mains)
        assert mains[script](list(arguments[arguments.index(script) + 1 :])) == 0
        return capsys.readouterr().out, True

    for module in (training, small_model):
        monkeypatch.setattr(module, "run_script", run)


def well(rows: list[dict]) -> dict[str, dict]:
    """The rows by name, none of which failed, and whose numbers JSON knows."""
    assert [line for line in rows if line["status"] == "failed"] == []
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert len({line["what"] for line in rows}) == len(rows)
    return {line["what"]: line for line in rows}


def test_correctness(setting: Setting) -> None:
    rows = well(list(correctness.small_model(setting)))
    assert rows["fp32, plain"]["values"]["largest (grey levels)"] == 0
    assert 0 < rows["fp32, fused"]["values"]["largest (grey levels)"] < 0.002
    assert 0.05 < rows["bf16, plain"]["values"]["largest (grey levels)"] < 4
    assert rows["fp16, plain"] == row("fp16, plain", {}, "fp16 is for GPUs", "skipped")
    assert rows["in tiles beside whole"]["values"]["largest (grey levels)"] > 0.5


def test_a_wrong_picture_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that turns left and right around."""
    build = correctness.build

    def mirrored(*arguments: object, **options: object) -> torch.nn.Module:
        generator = build(*arguments, **options)
        decode = generator.autoencoder.decode
        generator.autoencoder.decode = lambda z: decode(z).flip(-1)
        return generator

    monkeypatch.setattr(correctness, "build", mirrored)
    first = next(iter(correctness.small_model(setting)))
    assert first["status"] == "failed" and first["note"] == "more than rounding explains; 1 picture(s)"
    assert first["values"]["largest (grey levels)"] > 10


def test_iteration(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iteration, "PAIRS", iteration.PAIRS[:1])
    rows = well(list(iteration.both_players(setting)))
    truth = rows["d3sr-tiny against itself: CPU, fp32"]["values"]
    assert set(truth) == {*iteration.LOSSES, *iteration.NORMS} and all(value > 0 for value in truth.values())
    assert rows["d3sr-tiny against itself: fp32, TF32 off"]["values"]["largest difference"] == 0
    assert 0 < rows["d3sr-tiny against itself: bf16"]["values"]["largest difference"] < 0.2


def test_a_wrong_gradient_is_found() -> None:
    truth = dict.fromkeys((*iteration.LOSSES, *iteration.NORMS), 2.0)
    near = iteration.judged("x", truth | {"loss_d": 2.001}, truth, 1e-3, 0)
    assert near["status"] == "ok" and near["values"]["largest difference"] == pytest.approx(5e-4)
    far = iteration.judged("x", truth | {"gradient_d": 2.1}, truth, 1e-3, 0)
    assert far["status"] == "failed" and far["note"] == "farthest from the CPU: gradient_d"
    broken = iteration.judged("x", truth | {"loss_g": float("nan")}, truth, None, 3)
    assert broken["status"] == "failed" and broken["note"] == "3 steps skipped before, until the loss scale fitted; not finite"


def test_restoring(setting: Setting) -> None:
    rows = well(list(restoring.fast_vae(setting)))
    assert len(rows) == 2 + 3 and all(line["values"]["finite"] == "yes" for name, line in rows.items() if "limit" not in name)
    first = rows["fp32, 64 x 64, channels_last"]["values"]
    limit = max(line["values"]["TFLOP/s"] for name, line in rows.items() if "limit" in name)
    assert first["share of the limit"] == pytest.approx(first["TFLOP/s"] / limit) and first["times the first"] == 1
    assert "ms per image" in well(list(restoring.tiles(setting)))["fp32, 256 x 256"]["values"]


def test_compiled(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler, which takes minutes on a CPU: what it would be given runs as it is."""
    asked: list[str | None] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode=None: asked.append(mode))
    found = well(list(correctness.compiled(setting)))["fp32, compiled beside eager"]["values"]
    assert found["largest (grey levels)"] == 0 and found["s to compile"] > 0 and asked == [None]
    asked.clear()
    rows = well(list(restoring.compiled(setting)))
    assert "CUDA graphs" in rows["fp32, 64 x 64, graphs"]["note"] and asked == ["reduce-overhead"] * 3


def test_training(setting: Setting, in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Setting, "bases", lambda self: ("random:tiny", "random:tiny"))
    rows = well(list(training.torchrun(setting)))
    assert all("adversarial_gradient" in line for line in training.logged(setting, "torchrun")), "the generator hears its judge throughout"
    assert rows["collectives of one process"]["values"] == {"right": "yes"}
    values = rows["torchrun, fp32"]["values"]
    assert values["iterations"] == 2 and 0 <= values["waiting for data"] < 1 and values["dry run says (GiB)"] > 0
    assert well(list(training.fp16(setting)))["fp16, fp16"]["status"] == "skipped"
    rows = list(well(list(training.operators(setting))).values())
    assert len(rows) == 12 and rows[1]["what"] == "all operators"
    assert [line["values"]["ms"] for line in rows[2:]] == sorted((line["values"]["ms"] for line in rows[2:]), reverse=True)
    assert sum(line["values"]["share"] for line in rows[2:]) < 1


def test_the_speed_is_taken_after_the_first_line() -> None:
    line = {"data_share": 0.5, "memory_gib": 3.0, "skipped_steps": 1.0}
    lines = [line | {"iter": 4, "images_per_s": 1.0}, line | {"iter": 8, "images_per_s": 16.0}, line | {"iter": 10, "images_per_s": 2.0}]
    found = training.summary(lines, batch=4)  # 16 images in 1 s, 8 in 4 s
    assert found["images/s"] == pytest.approx(24 / 5) and found["iterations/s"] == pytest.approx(6 / 5) and found["iterations"] == 6
    assert found["waiting for data"] == pytest.approx(0.5) and found["peak (GiB)"] == 3 and found["skipped steps"] == 1
    assert training.summary(lines[:1], batch=4)["images/s"] == 1


def test_small_model(setting: Setting, in_process: None) -> None:
    rows = well(list(small_model.train(setting)))
    assert list(rows)[:2] == ["in memory, batch 1", "in memory, batch 2"] and list(rows)[2].startswith("train_d3sr.py, batch ")
    assert all(line["values"]["crops/s"] > 0 for line in rows.values())
    assert well(list(small_model.pretrain(setting)))["pretrain_tiny.py, batch 2"]["values"]["crops/s"] > 0


def test_every_step_is_there() -> None:
    for step in schedule.STEPS:
        module, _, function = step.name.partition(".")
        assert getattr(MODULES[module], function).__doc__, step


# The script


def test_a_report_of_this_machine(tmp_path: Path) -> None:
    assert gpu_check.main(["-o", str(tmp_path / "out"), "--device", "cpu", "--minutes", "4", "--only", "restoring.tiles"]) == 0
    report, text = report_of(tmp_path / "out")
    header = report["header"]
    assert header["kind of device"] == "cpu" and header["bases"] == "small" and header["torch"] == torch.__version__.partition("+")[0]
    assert header["command"].startswith("python tools/gpu_check.py -o ") and {"date", "python", "diffusers", "TF32", "NCCL"} <= set(header)
    assert [step["name"] for step in report["steps"]] == ["restoring.tiles"] and "## Restoring in tiles" in text
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["log.txt", "report.json", "report.md"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert gpu_check.main(["-o", str(tmp_path), "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu_check.py: device: cuda was asked for, but torch finds no CUDA device") and error.count("\n") == 1
    assert not (tmp_path / "report.md").exists()


def test_an_unknown_step_is_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        gpu_check.parse_args(["-o", "x", "--only", "training", "restoring.fast"])
    assert "--only restoring.fast: no such step; there are correctness.small_model, " in capsys.readouterr().err
    assert [step.name for step in schedule.chosen(["training"])][0] == "training.sdxl"


def test_a_step_needs_no_optional_package() -> None:
    """The machine with the GPU may have diffusers and little else."""
    absent = ("pyiqa", "lpips", "timm", "torchvision", "matplotlib", "tensorboard", "onnx", "onnxruntime", "onnxscript")
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); import tools.checks.run_step"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
