"""What a plain restoring run imports: start-up is nearly all imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_NEEDED = (
    *("diffusers", "transformers", "peft", "accelerate", "huggingface_hub", "requests", "httpx", "httpx2"),  # models of others
    *("torch._dynamo", "torch._inductor", "torchvision", "sympy", "triton", "scipy"),
    *("pyiqa", "lpips", "matplotlib", "tensorboard", "jinja2", "av", "onnx"),  # scoring, figures, training, the page, videos, exports
    *("engine.run", "engine.loop", "losses.perceptual", "degradations.second_order"),
)
"""Modules; each costs 10 to 2000 ms."""


def test_a_plain_run_imports_nothing_that_it_does_not_need(tmp_path):
    program = (
        "import sys; from test_d3sr import main; arguments = sys.argv[2:]\n"
        "assert main(arguments) == 0\n"
        "print('imported:', *(name for name in sys.argv[1].split() if name in sys.modules))"
    )
    arguments = ["-opt", "options/test.yml", "-i", "assets/cat.png", "-o", str(tmp_path), "--device", "cpu"]
    command = [sys.executable, "-c", program, " ".join(NOT_NEEDED), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cat.png").is_file()
    assert done.stdout.splitlines()[-1].split() == ["imported:"]
