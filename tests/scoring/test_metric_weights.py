"""The table of weights against pyiqa's own sources, and what is said of files that are missing, right and wrong."""

import hashlib
import re
from pathlib import Path

import pyiqa
import pytest

from scoring import metric_weights
from scoring.metric_weights import FILES, WeightFile, cached_path, files_of, how_to_get, read_record, state_of, write_record

ARCHS = Path(pyiqa.__file__).parent / "archs"
CONTENT = b"weights of a metric"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub"


def put(hub: Path, name: str, content: bytes = CONTENT) -> Path:
    path = hub / "pyiqa" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def own(name: str, sha256: str) -> WeightFile:
    return WeightFile(name=name, url=f"https://a.org/{name}", folder="pyiqa", sha256=sha256)


def test_pyiqa_really_loads_files_of_these_names() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in ARCHS.glob("*.py"))
    ours = {file.name for file in files_of(FILES) if file.folder == "pyiqa"}
    assert {name for name in ours if f"'{name}'" not in sources} == set()
    clip = FILES["clipiqa"][0]
    assert f"'RN50': '{clip.url}'" in sources and clip.sha256 in clip.url


def test_torchvision_really_loads_files_of_these_names() -> None:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    urls = {file.url for file in files_of(FILES) if file.folder == "checkpoints"}
    assert urls == {AlexNet_Weights.IMAGENET1K_V1.url, VGG16_Weights.IMAGENET1K_V1.url}


def test_the_hash_in_a_name_is_the_one_that_is_checked() -> None:
    for file in files_of(FILES):
        in_name = re.search(r"-([0-9a-f]{8})\.pth$", file.name)
        assert in_name is None or file.sha256 == in_name[1]


@pytest.mark.slow
def test_timm_really_loads_from_these_repositories() -> None:
    import timm

    architectures = {"vit_base_patch8_224", "resnet50"}
    repositories = {timm.create_model(name, pretrained=False).pretrained_cfg["hf_hub_id"] for name in architectures}
    assert {file.url.removesuffix("/model.safetensors") for file in files_of(FILES) if file.folder is None} == repositories


def test_a_file_is_missing_right_or_wrong(hub: Path) -> None:
    file = own("a.pth", DIGEST[:8])
    state = state_of(file)
    assert (state.path, state.sha256, state.problem) == (hub / "pyiqa/a.pth", None, "missing")
    put(hub, "a.pth")
    assert (state_of(file).sha256, state_of(file).problem) == (DIGEST, None)
    put(hub, "a.pth", b"something else")
    assert "another file" in state_of(file).problem and DIGEST[:8] in state_of(file).problem
    assert str(hub / "pyiqa") in how_to_get(file) and file.url in how_to_get(file)


def test_what_nobody_publishes_is_compared_with_the_record(hub: Path) -> None:
    file = own("b.mat", "")
    path = put(hub, "b.mat")
    assert state_of(file, read_record()).problem is None
    assert write_record([state_of(file)]).read_text() == f"{DIGEST}  pyiqa/b.mat\n"
    path.write_bytes(b"changed since")
    assert "another file" in state_of(file, read_record()).problem


def test_a_record_keeps_what_it_knew_and_leaves_out_what_is_wrong(hub: Path) -> None:
    put(hub, "a.pth")
    write_record([state_of(own("a.pth", DIGEST[:8]))])
    put(hub, "b.pth", b"wrong")
    write_record([state_of(own("b.pth", "00000000")), state_of(own("absent.pth", ""))])
    assert read_record() == {"pyiqa/a.pth": DIGEST}


def test_files_of_the_hub_are_looked_for_in_its_cache() -> None:
    file = FILES["maniqa"][1]
    assert cached_path(file).name == "models--timm--vit_base_patch8_224.augreg2_in21k_ft_in1k"
    assert "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k on the hugging face hub" in how_to_get(file)


def test_an_unlisted_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="weights of brisque are not listed"):
        files_of(["psnr", "brisque"])
    assert files_of(["psnr", "dists", "lpips-vgg"]).count(FILES["dists"][1]) == 1


def test_use_cache_moves_both_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, "elsewhere")
    metric_weights.use_cache(tmp_path)
    assert cached_path(FILES["dists"][0]) == tmp_path / "hub/pyiqa/DISTS_weights-f5e65c96.pth"
