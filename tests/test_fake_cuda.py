"""Both steps of an iteration, and a validation, on a GPU that is not there: what it would refuse, and what everybody would wait for.

Tensors claim to lie on cuda:0 and have no values (torch's FakeTensorMode); hooks.cpp, compiled here, keeps torch from asking for the
driver. One process of its own trains the networks of all cases (tests/fake_cuda/session.py); what it saw is looked at here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_cuda.cases import CASES, TILES, VALIDATED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
HALVES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def compiled(folder: Path) -> Path:
    """The library of hooks.cpp; skips the tests where it cannot be made."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C++ compiler, g++ or c++")
    library, torch_folder = folder / "hooks.so", Path(torch.__file__).parent
    source = str(ROOT / "tests/fake_cuda/hooks.cpp")
    places = [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    command = [compiler, "-O0", "-std=c++20", "-shared", "-fPIC", source, "-o", str(library), *places]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        pytest.skip(f"hooks.cpp does not compile with the headers of torch {torch.__version__}: {errors[0]}")
    return library


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What was seen in each case."""
    folder = tmp_path_factory.mktemp("fake_cuda")
    command = [sys.executable, "-m", "tests.fake_cuda.session", str(compiled(folder)), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    if done.returncode < 0 and not (folder / "started").exists():
        pytest.skip(f"hooks.cpp does not fit torch {torch.__version__}: the process ended with signal {-done.returncode}")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(params=CASES)
def seen(request: pytest.FixtureRequest, report: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was seen in one case, if it came to its end."""
    case = report[request.param]
    if "fault" in case and request.node.originalname != "test_a_gpu_refuses_nothing":
        pytest.skip("it did not come to its end")
    return case


def test_a_gpu_refuses_nothing(seen: dict[str, Any]) -> None:
    """Neither CPU and CUDA nor data types are mixed in the steps, in the updates or in a validation."""
    assert "fault" not in seen, seen["fault"]


def test_gradients_are_as_the_optimizers_want_them(seen: dict[str, Any]) -> None:
    assert min(seen["trained"].values()) > 50, "the networks are small, not empty"
    assert seen["odd_gradients"] == [], "every gradient is float32, on the GPU, in its parameter's layout"


def test_latents_are_float32(seen: dict[str, Any]) -> None:
    assert seen["latents"] == ["float32 cuda"], "z_hat and z_hr, which the discriminator compares, must not differ in rounding"


def test_an_iteration_waits_once(seen: dict[str, Any]) -> None:
    """The timesteps and the noise of each batch come from pinned memory, without waiting; the norms of both gradients are read at once."""
    known = Counter({"host->device: engine/objectives.py draw": 2 * seen["batches"], "device->host, waited for: engine/run.py step": 1})
    crossings = Counter(re.sub(r":\d+ ", " ", copy) for copy in seen["copies"])
    assert crossings == known, "copies between CPU and GPU in an iteration: " + "; ".join(seen["copies"])


def test_attention_is_in_half_precision(seen: dict[str, Any]) -> None:
    assert list(seen["attention"]) == [HALVES[seen["precision"]]], "the precision that was asked for, in every layer and nothing else"


def test_the_perceptual_distance_convolves_in_float32(seen: dict[str, Any]) -> None:
    assert list(seen["convolutions"]) == ["float32 cuda"], "what goes into its convolutions and what comes out"


def test_equations_and_losses_are_in_float32_under_autocast(seen: dict[str, Any]) -> None:
    """Even where they are given half precision."""
    assert ("halves" in seen) == (seen["precision"] != "fp32")
    assert {name: found for name, found in seen.get("halves", {}).items() if found} == {}, "operations in half precision"


def test_adapters_that_do_not_cast_save_conversions(seen: dict[str, Any]) -> None:
    """As `models.lora.cast_inputs` says of autocast; without adapters there is nothing to save."""
    if "conversions" in seen:
        saved = seen["conversions"]["casting"] - seen["conversions"]["plain"]
        assert (saved > 0) == seen["adapted"], f"conversions that a pass of the UNet does without: {saved}, of {seen['conversions']}"


@pytest.mark.parametrize("case", VALIDATED)
def test_pictures_are_restored(report: dict[str, dict[str, Any]], case: str) -> None:
    """Whole and in tiles, without autocast, as `Housekeeping` does it in the middle of a training: the picture and its enlargement."""
    if "fault" in report[case]:
        pytest.skip("it did not come to its end")
    assert report[case]["restored"] == {str(tile): ["float32 cuda (1, 3, 80, 144)"] * 2 for tile in TILES}
