"""The house in order: what README and docs/ name is there, the lists of packages, what is tracked, the licence and the sample pictures."""

import ast
import hashlib
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from operator import attrgetter
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from options.d3sr import load_test_options, load_train_options

ROOT = Path(__file__).resolve().parents[1]
TESTING, OPTIONAL = "requirements-dev.txt", tuple(f"requirements-{name}.txt" for name in ("onnx", "extra", "ncnn", "peers"))
INSTALL = "pip install -r requirements.txt -c constraints.txt"
MAIN_JOB = "python test_d3sr.py -opt options/test.yml"
INSTALL_FOR_TESTS = f"pip install -r {TESTING} -c constraints.txt"
TESTS = "python -m pytest"
MEBIBYTE = 2**20

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
PAGES += ["README.md", "CONTRIBUTING.md", "assets/README.md", "weights/d3sr-tiny/README.md"]

MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(?:work|root|mnt|home/[\w.-]+|Users/[\w.-]+)/|(?<![\w-])shared[/]")
"""Absolute paths of one machine, and the folder beside the repository that nobody else has."""

APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""Of the whole licence text, as Debian's common-licenses and most packages carry it."""


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def requirements(file: str = "requirements.txt") -> list[Requirement]:
    """What a list names itself, without those that it builds on (`-r`)."""
    lines = [line.split("#")[0].strip() for line in read(file).splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def pins() -> dict[str, str]:
    """Normalized name -> exact version; a line that is anything else than a comment or `name==version` raises ValueError."""
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([a-z0-9-]+)==([\w.]+)", line) for line in lines]
    if None in pairs:
        raise ValueError(f"constraints.txt: not `name==version`: {lines[pairs.index(None)]}")
    return {pair[1]: pair[2] for pair in pairs if pair}


def tracked() -> list[Path]:
    """Files of the last `git add` or commit; skips the test where the code came without git."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listing.decode().split("\0") if name and (ROOT / name).is_file()]


def test_the_readme_begins_with_two_commands() -> None:
    commands = re.findall(r"^\s*(pip install .+? && .+?)\s*$", read("README.md"), re.MULTILINE)
    assert commands == [f"{INSTALL} && {MAIN_JOB}", f'{INSTALL_FOR_TESTS} && {TESTS} -m "not slow" -n auto']


def test_ci_runs_what_the_readme_says_and_the_slow_tests() -> None:
    script, order = read(".ci/run"), (INSTALL, MAIN_JOB, INSTALL_FOR_TESTS, TESTS)
    lines = [line.split(" #")[0].strip() for line in script.splitlines()]
    run = [command for line in lines if not line.startswith("echo") for command in order if command in line]
    assert run == list(order), "the main job must get by with what users install"
    assert [line for line in lines if line][-1] == TESTS, "pytest's closing line must be the last one printed"
    assert script.startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in lines


def test_what_tests_need_builds_on_what_users_install() -> None:
    assert "-r requirements.txt" in read(TESTING).splitlines()
    names = [{canonicalize_name(wanted.name) for wanted in requirements(file)} for file in ("requirements.txt", TESTING, *OPTIONAL)]
    assert sum(map(len, names)) == len(set().union(*names)), "a package stands in one list"


def test_every_requirement_is_pinned_within_its_range() -> None:
    pinned = pins()
    everything = [wanted for file in ("requirements.txt", TESTING, *OPTIONAL) for wanted in requirements(file)]
    versions = {str(wanted): pinned.get(canonicalize_name(wanted.name)) for wanted in everything}
    assert [text for text, version in versions.items() if version is None or not Requirement(text).specifier.contains(version)] == []


def test_both_opencv_packages_fill_cv2_with_one_version() -> None:
    assert pins()["opencv-python"] == pins()["opencv-python-headless"]


def needed_by(wanted: Requirement) -> Iterator[Requirement]:
    """What an installed distribution needs on this machine."""
    environments = [{**default_environment(), "extra": extra} for extra in ("", *wanted.extras)]
    for text in metadata.requires(wanted.name) or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate(environment) for environment in environments):
            yield need


def test_what_a_pinned_package_needs_is_pinned() -> None:
    """Checked for the distributions that are installed in their pinned version: someone may have left the constraints out."""
    pinned, seen, missing = pins(), set(), set()
    waiting = [*requirements(), *requirements(TESTING)]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name not in pinned:
            missing.add(name)
        elif str(wanted) not in seen and metadata.version(name) == pinned[name]:
            waiting.extend(needed_by(wanted))
        seen.add(str(wanted))
    assert missing == set()


def test_every_import_is_a_requirement() -> None:
    """What only tests import is no requirement of those who restore or train."""
    needed, testing = ({canonicalize_name(wanted.name) for wanted in requirements(file)} for file in ("requirements.txt", TESTING))
    # Perhaps not installed; imported by their own names.
    optional = {wanted.name.replace("-", "_") for file in OPTIONAL for wanted in requirements(file)}
    providers = metadata.packages_distributions()
    sources = [path for path in tracked() if path.suffix == ".py"]
    ours = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in sources}
    unlisted = set()
    for path in sources:
        listed = needed | testing if path.is_relative_to(ROOT / "tests") else needed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names} - ours - optional - sys.stdlib_module_names:
                if not listed & {canonicalize_name(provider) for provider in providers.get(top, [])}:
                    unlisted.add(f"{path.relative_to(ROOT)}: {top}")
    assert unlisted == set()


def test_no_tracked_file_is_large() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > 20 * MEBIBYTE] == []


def test_no_tracked_file_names_one_machines_paths() -> None:
    found = [(path.relative_to(ROOT).as_posix(), match.group()) for path in tracked() for match in MACHINE_PATH.finditer(path.read_bytes())]
    assert found == []


LOCAL = ("/{work}/a.py", "'/{root}/venv'", "(/home/{work}/a)", "-i /Users/{work}/a", "../{shared}/a", "{shared}/a")
ANYONES = ("weights/work/a", "https://a.org/work/a", "/data/photos", "framework/a", "/tmp/a", "unshared/a", "shared weights")


@pytest.mark.parametrize("text", LOCAL)
def test_a_machines_path_is_recognized(text: str) -> None:
    assert MACHINE_PATH.search(text.format(work="work", root="root", shared="shared").encode())


@pytest.mark.parametrize("text", ANYONES)
def test_other_paths_are_free(text: str) -> None:
    assert not MACHINE_PATH.search(text.encode())


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.sha256(text).hexdigest() == APACHE_2_SHA256


def test_every_sample_picture_is_free_small_and_explained() -> None:
    pictures = sorted(path for path in (ROOT / "assets").iterdir() if path.suffix in (".png", ".jpg"))
    rows = {row[1]: row for row in (re.split(r"\s*\|\s*", line) for line in read("assets/README.md").splitlines()) if len(row) > 4}
    assert len(pictures) >= 5 and sum(path.stat().st_size for path in pictures) < 300_000
    for path in pictures:
        row = rows[f"`{path.name}`"]
        with Image.open(path) as image:
            assert row[2] == f"{image.width} x {image.height}" and image.width * image.height <= 192 * 144
        assert row[4] in ("CC0", "public domain")


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def inline_code(page: str) -> list[str]:
    """What stands in backticks; not where the rest of a paragraph tells of a former commit."""
    text = re.sub(r"commit `[0-9a-f]{7,}`.*?(?=\n\n|\Z)", "", without_fences(read(page)), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def commands(page: str) -> list[tuple[str, list[str]]]:
    """(script, arguments) of every command of a page that runs a script of ours; a backslash goes on with the next line."""
    blocks = re.findall(r"^```\n(.*?)^```$", read(page).replace("\\\n", " "), re.MULTILINE | re.DOTALL)
    lines = [*"".join(block.split("git checkout")[0] for block in blocks).splitlines(), *inline_code(page)]
    found = []
    for line in lines:
        for command in line.split(" && "):
            if command.startswith(("python ", "torchrun ")):
                words = shlex.split(command, comments=True)
                scripts = [number for number, word in enumerate(words) if re.fullmatch(r"(train_d3sr|test_d3sr|tools/\w+)\.py", word)]
                found += [(words[number], words[number + 1 :]) for number in scripts[:1]]
    return found


COMMANDS = [(page, script, arguments) for page in PAGES for script, arguments in commands(page)]


@pytest.mark.parametrize(("page", "script", "arguments"), COMMANDS, ids=[f"{page}: {script}" for page, script, _ in COMMANDS])
def test_every_command_is_understood(page: str, script: str, arguments: list[str]) -> None:
    """Script, flags and option files are there, and options that it changes exist and may have that value."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if arguments == ["--help"]:
        return
    parsed = module.parse_args(arguments)
    for argument in arguments:
        assert not argument.startswith("options/") or list(ROOT.glob(argument)), argument
    file = getattr(parsed, "opt", None) or getattr(parsed, "base", None)
    if file is not None:
        load = load_train_options if "train" in Path(file).name else load_test_options
        load(ROOT / file, getattr(parsed, "force_yml", []))


def test_the_pages_are_read() -> None:
    assert len(COMMANDS) > 40 and {script for _, script, _ in COMMANDS} >= {"train_d3sr.py", "test_d3sr.py", "tools/ablate.py"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", without_fences(read(page))):
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), file
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    """`losses/sobel.py`, and `losses/sobel.py: sobel` with the name in it; capitals stand for a name to be."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for code in inline_code(page):
        path, _, name = code.partition(": ")
        if path.split("/")[0] not in folders or "/" not in path or " " in path or re.search(r"\b[A-Z]{4,}\b|_NAME", path):
            continue
        assert list(ROOT.glob(path)), code
        if path.endswith(".py") and name:
            attrgetter(name)(importlib.import_module(path.removesuffix(".py").replace("/", ".")))


@pytest.mark.parametrize("page", PAGES)
def test_every_program_imports_what_there_is(page: str) -> None:
    for program in re.findall(r"^```python\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("file", sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "options").glob("*.yml")))
def test_the_readme_names_every_option_file(file: str) -> None:
    assert file in read("README.md")


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "options").glob("*/*.yml")))
def test_a_page_names_every_variant(file: str) -> None:
    kind, _, variant = Path(file).stem.partition("_")
    assert any(f"`{variant or kind}`" in read(page) for page in PAGES)


def test_a_page_names_every_tool() -> None:
    tools = {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")} - {"tools/__init__.py"}
    assert tools - {script for _, script, _ in COMMANDS} == set()


def test_the_paper_has_a_command_for_each_table_and_figure() -> None:
    section = read("docs/paper.md").split("one command each")[1]
    rows = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| "))
    for name in ("Tables 1, 2", *(f"Table {number}" for number in (3, 4, 5, 6)), *(f"Fig. {number}" for number in (2, 3, 4)), "Fig. 5, 6"):
        assert name in rows
