"""Arrows of design.md section 2, read from the sources' imports: who may import whom, and what only one file may import.

The rules are in the tables below; `violations(root)` applies them to a tree. The synthetic trees show that each rule can fail.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "options": ("options", "degradations.stage", "losses.settings", "models.settings"),
    "engine": ("engine", "options", "data", "models", "losses", "restoring", "scoring"),
    "restoring": ("restoring", "scoring", "data", "models"),
    "scoring": ("scoring", "data", "models"),
    "data": ("data", "degradations"),
    "models": ("models", "data.whole_files"),
    "losses": ("losses", "data.whole_files"),
    "degradations": ("degradations",),
}
"""Package -> what of ours it may import. tools/ and the two scripts are where all parts meet: they may import everything above."""

RUN = ("restoring/run.py", "restoring/inputs.py", "restoring/outcome.py")
"""The whole run of test_d3sr.py, from its options to its exit status; these may import everything but tools/, too."""

SCRIPTS = ("train_d3sr", "test_d3sr")
OURS = (*MAY_IMPORT, "tools", "tests", *SCRIPTS)
UPWARDS = {("models/generator.py", "restoring.rows.upscale")}
"""Late imports against the arrows."""

ONLY_IN = {"diffusers": "models/backbones.py", "peft": "models/lora.py", "av": "data/videos/"}
ONLY_IN |= {"ncnn": "models/ncnn_unet.py", "pnnx": "tools/exporting/ncnn_export.py", "spandrel": "tools/timing/rivals.py"}
"""Foreign module -> the only file or folder that may import it."""
SLOW = ("pyiqa", "lpips", "tensorboard", "torch.utils.tensorboard")
"""Slow or optional, so imported inside functions only."""

WITHOUT = {
    "options": ("torch", "torchvision", "numpy", "cv2", "diffusers"),
    "models": ("torch.distributed", "torch.nn.parallel"),
    "losses": ("torch.distributed", "torch.nn.parallel"),
    "degradations": ("torch",),
}
"""Package -> foreign modules it does without: options are loaded before anything heavy, networks and losses know nothing of DDP."""

DYNAMIC = ("eval", "exec", "__import__", "builtins.eval", "builtins.exec", "importlib.import_module")


def within(name: str, module: str) -> bool:
    """True if a dotted name is the module or lies inside it."""
    return name == module or name.startswith(f"{module}.")


def imports(tree: ast.AST, inside_function: bool = False) -> Iterator[tuple[str, int, bool]]:
    """(dotted name, line, inside a function) of every import; `from a import b` is `a.b`, a relative import begins with a dot."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, inside_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((f"{module}.{alias.name}", node.lineno, inside_function) for alias in node.names)
        else:
            yield from imports(node, inside_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """(package, file) of everything but the tests; a script is its own package."""
    for package in (*MAY_IMPORT, "tools"):
        yield from ((package, path) for path in sorted((root / package).rglob("*.py")))
    yield from ((script, root / f"{script}.py") for script in SCRIPTS if (root / f"{script}.py").is_file())


def import_problem(package: str, file: str, name: str, inside_function: bool) -> str | None:
    """What is wrong with one import, if anything."""
    if name.startswith("."):
        return "relative import; write it from the repository root"
    top = name.split(".")[0]
    below = (*MAY_IMPORT, "tools") if package not in MAY_IMPORT else tuple(MAY_IMPORT) if file in RUN else MAY_IMPORT[package]
    if top in OURS and not any(within(name, allowed) for allowed in below) and not (inside_function and (file, name) in UPWARDS):
        return f"{package} may not import {name}"
    if top in ONLY_IN and not file.startswith(ONLY_IN[top]):
        return f"only {ONLY_IN[top]} may import {top}"
    if not inside_function and any(within(name, lazy) for lazy in SLOW):
        return f"{name} must be imported inside the function that uses it"
    if any(within(name, banned) for banned in WITHOUT.get(package, ())):
        return f"{package} does without {name}"
    return None


def violations(root: Path) -> list[str]:
    """`file:line: what is wrong` for every broken rule below `root`."""
    found = []
    for package, path in sources(root):
        file = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), file)
        for name, line, inside_function in imports(tree):
            problem = import_problem(package, file, name, inside_function)
            if problem:
                found.append(f"{file}:{line}: {problem}")
        calls = [(ast.unparse(node.func), node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found += [f"{file}:{line}: {name}() runs text as code" for name, line in calls if name in DYNAMIC]
    return found


def late_imports(file: str, code: str) -> list[str]:
    """Imports inside functions without a comment on their line or the line above that says why, and a script's second one."""
    lines, late = code.splitlines(), []
    for function in ast.walk(ast.parse(code, file)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            late += [node for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]
    numbers = sorted({node.lineno for node in late})
    found = [f"{file}:{n}: late, but no comment says why" for n in numbers if "# " not in lines[n - 1] and "# " not in lines[n - 2]]
    if 'if __name__ == "__main__"' in code:
        found += [f"{file}:{n}: a script has one late import, of the module that does the work" for n in numbers[1:]]
    return found + [f"{file}: TYPE_CHECKING; import at the top" for line in lines if line.startswith("if TYPE_CHECKING")]


def circles(root: Path) -> list[str]:
    """Modules of ours that import each other, however late, in groups."""
    modules = {".".join(path.relative_to(root).with_suffix("").parts): path for _, path in sources(root)}
    arrows: dict[str, set[str]] = {}
    for module, path in modules.items():
        file = path.relative_to(root).as_posix()
        names = {name for name, _, _ in imports(ast.parse(path.read_text(encoding="utf-8"))) if (file, name) not in UPWARDS}
        arrows[module] = {known for name in names for known in (name, name.rpartition(".")[0]) if known in modules}
    reached: dict[str, set[str]] = {}
    for module in modules:
        ahead = list(arrows[module])
        reached[module] = set()
        while ahead:
            step = ahead.pop()
            if step not in reached[module]:
                reached[module].add(step)
                ahead += arrows[step]
    return sorted(module for module in modules if module in reached[module])


def test_the_repository_keeps_its_layers() -> None:
    assert violations(ROOT) == []


def test_imports_stand_at_the_top_of_files_and_run_in_no_circle() -> None:
    files = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for _, path in sources(ROOT)}
    assert [problem for file, code in files.items() for problem in late_imports(file, code)] == []
    assert circles(ROOT) == []


def test_the_repository_is_really_read() -> None:
    read = {path.relative_to(ROOT).as_posix() for _, path in sources(ROOT)}
    assert {"options/schema.py", "degradations/stage.py"} <= read


def write(root: Path, file: str, code: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


BAD = [
    ("options/d3sr.py", "from models.generator import Generator", "options may not import models.generator.Generator"),
    ("options/d3sr.py", "from degradations.blur import blur", "options may not import degradations.blur.blur"),
    ("options/d3sr.py", "def f():\n    import torch.nn", "options does without torch.nn"),
    ("engine/logs.py", "import tools.score", "engine may not import tools.score"),
    ("engine/logs.py", "def f():\n    from train_d3sr import main", "engine may not import train_d3sr.main"),
    ("data/paired.py", "from losses.dists import DISTS", "data may not import losses.dists.DISTS"),
    ("data/deep/er.py", "import engine", "data may not import engine"),
    ("models/generator.py", "from losses import sobel", "models may not import losses.sobel"),
    ("models/generator.py", "if True:\n    import options", "models may not import options"),
    ("models/generator.py", "from torch.nn.parallel import DistributedDataParallel", "models does without torch.nn.parallel"),
    ("losses/spatial.py", "import models.diffusion as diffusion", "losses may not import models.diffusion"),
    ("losses/spatial.py", "import torch.distributed as dist", "losses does without torch.distributed"),
    ("degradations/blur.py", "from data.image_io import read_image", "degradations may not import data.image_io.read_image"),
    ("models/lora.py", "from . import generator", "relative import"),
    ("models/generator.py", "from diffusers import UNet2DConditionModel", "only models/backbones.py may import diffusers"),
    ("restoring/video.py", "import av", "only data/videos/ may import av"),
    ("tools/export.py", "def f():\n    import diffusers.models", "only models/backbones.py may import diffusers"),
    ("models/backbones.py", "import peft", "only models/lora.py may import peft"),
    ("train_d3sr.py", "from peft import LoraConfig", "only models/lora.py may import peft"),
    ("scoring/metrics.py", "import pyiqa", "pyiqa must be imported inside"),
    ("losses/perceptual.py", "class A:\n    import lpips", "lpips must be imported inside"),
    ("engine/logs.py", "from torch.utils.tensorboard import SummaryWriter", "torch.utils.tensorboard.SummaryWriter must be"),
    ("test_d3sr.py", "from torch.utils import tensorboard", "torch.utils.tensorboard must be imported inside"),
    ("tools/export.py", "import tests.util", "tools may not import tests.util"),
    ("tools/export.py", "from train_d3sr import train", "tools may not import train_d3sr.train"),
    ("models/generator.py", "from restoring.rows import upscale", "models may not import restoring.rows.upscale"),
    ("models/lora.py", "def f():\n    from restoring.rows import upscale", "models may not import restoring.rows.upscale"),
    ("tools/export.py", "x = eval('1')", "eval() runs text as code"),
    ("options/schema.py", "def f():\n    exec('x = 1')", "exec() runs text as code"),
    ("engine/logs.py", "import importlib\nimportlib.import_module('data')", "importlib.import_module() runs text as code"),
]


@pytest.mark.parametrize(("file", "code", "problem"), BAD)
def test_each_rule_can_fail(tmp_path: Path, file: str, code: str, problem: str) -> None:
    write(tmp_path, file, code)
    found = violations(tmp_path)
    assert len(found) == 1 and found[0].startswith(f"{file}:") and problem in found[0], found


MAIN = 'if __name__ == "__main__":\n    main()\n'


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def f():\n    import torch\n", "late, but no comment"),
        ("class A:\n    def f(self):\n        if self:\n            from torch import nn\n", "late, but no comment"),
        (f"def f():\n    import a, b  # late: heavy\n    import c  # late\n{MAIN}", "one late import"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n", "TYPE_CHECKING"),
    ],
)
def test_each_rule_of_late_imports_can_fail(code: str, problem: str) -> None:
    found = late_imports("tools/x.py", code)
    assert len(found) == 1 and problem in found[0]


def test_late_imports_with_a_reason_pass() -> None:
    assert late_imports("tools/x.py", f"import sys\ndef f():\n    import a  # late: heavy\n{MAIN}") == []
    assert late_imports("data/x.py", "def f():\n    # Late: they are slow.\n    import a\n    import b  # so is this\n") == []


def test_a_circle_is_found_however_late_its_imports_are(tmp_path: Path) -> None:
    write(tmp_path, "data/a.py", "from data.b import f\n")
    write(tmp_path, "data/b.py", "def f():\n    import data.c\n")
    write(tmp_path, "data/c.py", "import torch\n")
    assert circles(tmp_path) == []
    write(tmp_path, "data/c.py", "from data import a\n")
    assert circles(tmp_path) == ["data.a", "data.b", "data.c"]


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    write(tmp_path, "options/d3sr.py", "import yaml\nfrom degradations.stage import Degradation\nfrom options.schema import build\n")
    write(tmp_path, "scoring/metrics.py", "import torch\nfrom models.generator import Generator\ndef f():\n    import pyiqa\n")
    write(tmp_path, "data/hr_crops.py", "import modelsummary\nfrom degradations.second_order import degrade\n")
    write(tmp_path, "models/backbones.py", "from diffusers import AutoencoderKL\nmodel.eval()\n")
    write(tmp_path, "models/lora.py", "import peft\n")
    write(tmp_path, "models/generator.py", "def f():\n    from restoring.rows import upscale\n")
    write(tmp_path, "train_d3sr.py", "import torch.distributed\nimport data.sampler, engine.logs, losses.spatial, options.d3sr\n")
    write(tmp_path, "tools/export.py", "from models.generator import Generator\nfrom engine.loop import train\n")
    write(tmp_path, "tests/test_x.py", "import diffusers, peft, pyiqa\n")
    assert violations(tmp_path) == []
