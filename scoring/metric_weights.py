"""The files that pyiqa's metrics load: their names, where they come from, where they lie, and whether they are what they should be.

pyiqa and timm look into the caches of torch.hub and of the hugging face hub and take whatever lies there: a wrong file gives wrong numbers
in silence. The hexadecimal digits in the names are the beginnings of SHA-256, by which `state_of` tells.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.whole_files import sha256_of, write_text

RECORD = "SHA256SUMS"
"""Written beside the weights by `write_record`; `sha256sum -c SHA256SUMS` reads it, too."""

_PYIQA, _TORCHVISION = "chaofengc/IQA-PyTorch-Weights", "https://download.pytorch.org/models"
_CLIP_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file. `folder` is below torch.hub's; None for a file of the hugging face hub's cache, then `url` is REPOSITORY/NAME.

    sha256: what its SHA-256 begins with, as published; "" where nobody publishes it.
    """

    name: str
    url: str
    folder: str | None
    sha256: str = ""


@dataclass(frozen=True)
class State:
    """What was found: `path` where the file lies or belongs, `sha256` of what lies there (None: nothing), `problem` in words or None."""

    file: WeightFile
    path: Path
    sha256: str | None
    problem: str | None


def _own(name: str, sha256: str = "") -> WeightFile:
    """One of pyiqa's own files."""
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return WeightFile(name=name, url=f"{host}/{_PYIQA}/resolve/main/{name}", folder="pyiqa", sha256=sha256)


def _torchvision(name: str, sha256: str) -> WeightFile:
    return WeightFile(name=name, url=f"{_TORCHVISION}/{name}", folder="checkpoints", sha256=sha256)


def _timm(repository: str) -> WeightFile:
    return WeightFile(name="model.safetensors", url=f"{repository}/model.safetensors", folder=None)


_ALEXNET = _torchvision("alexnet-owt-7be5be79.pth", "7be5be79")
_VGG16 = _torchvision("vgg16-397923af.pth", "397923af")
_VIT = _timm("timm/vit_base_patch8_224.augreg2_in21k_ft_in1k")
_RN50_URL = f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA256}/RN50.pt"

FILES: dict[str, tuple[WeightFile, ...]] = {
    "psnr": (),
    "psnry": (),
    "ssim": (),
    "ms_ssim": (),
    "niqe": (_own("niqe_modelparameters.mat"),),
    "lpips": (_own("LPIPS_v0.1_alex-df73285e.pth", "df73285e"), _ALEXNET),
    "lpips-vgg": (_own("LPIPS_v0.1_vgg-a78928a0.pth", "a78928a0"), _VGG16),
    "dists": (_own("DISTS_weights-f5e65c96.pth", "f5e65c96"), _VGG16),
    "fid": (_own("pt_inception-2015-12-05-6726825d.pth", "6726825d"),),
    "musiq": (_own("musiq_koniq_ckpt-e95806b9.pth", "e95806b9"),),
    "maniqa": (_own("ckpt_koniq10k.pt"), _VIT),
    "maniqa-pipal": (_own("MANIQA_PIPAL-ae6d356b.pth", "ae6d356b"), _VIT),
    "clipiqa": (WeightFile(name="RN50.pt", url=_RN50_URL, folder="clip", sha256=_CLIP_SHA256),),
    "topiq_nr": (_own("cfanet_nr_koniq_res50-9a73138b.pth", "9a73138b"), _timm("timm/resnet50.a1_in1k")),
}
"""pyiqa's metric -> everything it loads, first its own file, which `pretrained_model_path` stands for."""


def use_cache(folder: str | Path) -> None:
    """Makes `folder` the place of all weights in this process, instead of the user's caches. To be called before torch and pyiqa are used:
    both remember what they find at first."""
    os.environ["TORCH_HOME"] = str(folder)
    os.environ["HF_HOME"] = str(Path(folder) / "huggingface")


def files_of(types: Iterable[str]) -> list[WeightFile]:
    """Everything that these metrics load, each file once. Raises ValueError for a metric that is not listed here."""
    unknown = [type for type in types if type not in FILES]
    if unknown:
        raise ValueError(f"the weights of {', '.join(unknown)} are not listed; known: {', '.join(FILES)}")
    return list(dict.fromkeys(file for type in types for file in FILES[type]))


def cached_path(file: WeightFile) -> Path:
    """Where a file lies, or belongs."""
    if file.folder is not None:
        return _hub() / file.folder / file.name
    # late: they read HF_HOME once, which `use_cache` may set until then
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name  # late: as above

    repository = file.url.removesuffix(f"/{file.name}")
    found = try_to_load_from_cache(repository, file.name)
    if isinstance(found, str):
        return Path(found)
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))


def state_of(file: WeightFile, recorded: dict[str, str] | None = None) -> State:
    """Whether a file is there and is what it should be.

    recorded: what `read_record` read; for files whose SHA-256 nobody publishes it is the only thing to compare with.
    """
    path = cached_path(file)
    if not path.is_file():
        return State(file, path, None, "missing")
    found, expected = sha256_of(path), file.sha256 or (recorded or {}).get(relative(path), "")
    if not found.startswith(expected):
        return State(file, path, found, f"another file than it should be: its SHA-256 begins with {found[:8]}, not with {expected[:8]}")
    return State(file, path, found, None)


def how_to_get(file: WeightFile) -> str:
    """Where to get a file and where to put it."""
    if file.folder is None:
        repository = file.url.removesuffix(f"/{file.name}")
        return f"{file.name} of {repository} on the hugging face hub, in its cache: {cached_path(file)}"
    return f"{file.name} from {file.url}, to be put into {cached_path(file).parent}"


def relative(path: Path) -> str:
    """A file's name in the record, which lies in torch.hub's folder."""
    return os.path.relpath(path, _hub())


def write_record(states: Sequence[State]) -> Path:
    """Writes SHA256SUMS: what lies there now, and what an earlier record says of other files. Returns its path."""
    sums = read_record() | {relative(state.path): state.sha256 for state in states if state.sha256 and not state.problem}
    path = _hub() / RECORD
    write_text(path, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    return path


def read_record() -> dict[str, str]:
    """Name -> SHA-256 of an earlier `write_record`; nothing where there was none."""
    path = _hub() / RECORD
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def _hub() -> Path:
    import torch  # late: tools ask for this file's names before anything heavy is loaded

    return Path(torch.hub.get_dir())
