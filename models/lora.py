"""Low-rank adapters on a frozen UNet. The only file that imports peft, and only where adapters are trained."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.config_checks import GENERATOR, check_config
from models.json_files import read_json
from models.pretrained_files import reading_tensors
from models.settings import LORA_TARGETS

LORA_FILE = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"
PREFIX = "unet."


def add_lora(unet: nn.Module, rank: int, alpha: int, targets: Sequence[str] = LORA_TARGETS, seed: int = 0) -> None:
    """Freezes the UNet and puts trainable float32 adapters on every layer whose name ends in one of `targets`.

    The adapters start as the identity (B = 0), so the UNet's output does not change.

    Raises:
        ValueError: no layer matches.
    """
    from peft import LoraConfig  # late: peft is half of the start-up, and restoring does without it

    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config)
    for parameter in lora_parameters(unet):
        parameter.data = parameter.data.float()
    if alpha == rank:
        for module in unet.modules():
            if hasattr(module, "lora_variant"):
                module.lora_variant["default"] = Unscaled


class Unscaled:
    """peft's own adapter without the product with alpha / r, where that is 1: the same to the bit, two operations less for each and pass.

    What peft asks of `LoraLayer.lora_variant` when it runs forward; nothing here merges adapters through peft.
    """

    @staticmethod
    def forward(layer: nn.Module, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """result + B A x."""
        return result + layer.lora_B[active_adapter](layer.lora_A[active_adapter](layer.lora_dropout[active_adapter](x)))


def lora_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """The adapters' weights, A and B of every layer."""
    return [parameter for name, parameter in unet.named_parameters() if ".lora_A." in name or ".lora_B." in name]


def cast_inputs(unet: nn.Module, wanted: bool) -> None:
    """Whether the adapters bring their inputs to float32 themselves, as peft does unless told otherwise.

    Under autocast they need not, and it is the same to the bit: the products are in half precision all the same, and two conversions for
    every adapter are saved. Without autocast they must, or half-precision inputs meet float32 weights.
    """
    for module in unet.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = wanted


def lora_state(unet: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights under peft's own names, as diffusers reads them back.

    Not through diffusers' `convert_state_dict_to_diffusers`: it renames the attention layers only, and the mixture is then
    read back without them and without a word.
    """
    from peft import get_peft_model_state_dict  # late: peft is half of the start-up, and restoring does without it

    return {name: tensor.detach() for name, tensor in get_peft_model_state_dict(unet).items()}


def load_lora_state(unet: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts saved weights into adapters that `add_lora` made.

    Raises:
        ValueError: the saved adapters sit on other layers or have another rank.
    """
    from peft import set_peft_model_state_dict  # late: peft is half of the start-up, and restoring does without it

    expected = {name: tensor.shape for name, tensor in lora_state(unet).items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if expected != found:
        odd = sorted(expected.items() ^ found.items())[0]
        raise ValueError(
            f"the saved LoRA does not fit this model: {len(found)} tensors, {len(expected)} expected, first difference at "
            f"{odd[0]} {tuple(odd[1])}; set lora.rank and lora.targets to the values it was trained with"
        )
    set_peft_model_state_dict(unet, state)


def save_lora(path: Path, unet: nn.Module, state: dict[str, Tensor] | None = None) -> None:
    """Writes pytorch_lora_weights.safetensors: names under `unet.`, the adapter's settings in the header.

    diffusers' `load_lora_weights` reads it. `state` replaces the current weights (an average of them, say).
    """
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in unet.peft_config["default"].to_dict().items()}
    settings = {PREFIX + key: value for key, value in config.items()}
    metadata = {METADATA_KEY: json.dumps(settings, sort_keys=True, default=str), "format": "pt"}
    tensors = lora_state(unet) if state is None else state
    save_file({PREFIX + name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)


def read_lora(path: Path) -> tuple[dict[str, Tensor], float]:
    """The tensors of a LoRA file, without the `unet.` prefix, and the scale alpha / r they were trained with.

    r is that of the tensors. alpha is in the file's header, and where a program saved the file again without it, in config.json beside it.

    Raises:
        ValueError: the file is missing or damaged, its parts or config.json disagree about r or alpha, or nothing says alpha.
    """
    with reading_tensors(path), safe_open(path, framework="pt") as file:
        state = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
        header = (file.metadata() or {}).get(METADATA_KEY, "{}")
    rank = _rank_of(path, state)
    said = {f"the header of {path}": _header_settings(path, header)}
    beside = path.with_name("config.json")
    if beside.is_file():
        said[str(beside)] = {name: value for name, value in read_json(beside).items() if name in ("rank", "alpha")}
    alphas = {}
    for where, settings in said.items():
        check_config(settings, {"rank": GENERATOR["rank"], "alpha": GENERATOR["alpha"]}, where)
        if settings.get("rank") not in (None, rank):
            raise ValueError(f"{where}: rank: expected {rank}, which the tensors of {path} have, got {settings['rank']}")
        if settings.get("alpha") is not None:
            alphas[where] = settings["alpha"]
    if not alphas:
        raise ValueError(f"{path}: nothing says its alpha: neither its header, which a program left out when saving it, nor {beside}")
    if len(set(alphas.values())) > 1:
        raise ValueError(f"alpha: {' and '.join(f'{where} says {alpha:g}' for where, alpha in alphas.items())}; which is it?")
    return state, next(iter(alphas.values())) / rank


def _rank_of(path: Path, state: dict[str, Tensor]) -> int:
    """The one inner width of all adapters."""
    numbers = {name: tensor for name, tensor in state.items() if tensor.ndim >= 2 and tensor.is_floating_point()}
    ranks = {name: tensor.shape[:2][-1 if ".lora_B." in name else 0] for name, tensor in numbers.items()}
    odd = next((name for name in state if ranks.get(name) != next(iter(ranks.values()), None) or not ranks.get(name)), None)
    if odd is not None or not state:
        shape = f"{odd} has the shape {tuple(state[odd].shape)} ({state[odd].dtype})" if odd else "it holds none"
        raise ValueError(f"{path}: expected adapters of one rank, pairs of lora_A.weight and lora_B.weight: {shape}")
    return next(iter(ranks.values()))


def _header_settings(path: Path, header: str) -> dict[str, Any]:
    """rank and alpha as the file's own header has them, where it has them."""
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {METADATA_KEY} in its header is not valid JSON; copy or download it again") from error
    found = found if isinstance(found, dict) else {}
    other = [name for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if found.get(PREFIX + name)]
    if other:
        raise ValueError(f"{path}: {other[0]}: these are no adapters of this project, whose strength is alpha / rank everywhere")
    return {name: found.get(PREFIX + key) for name, key in (("rank", "r"), ("alpha", "lora_alpha"))}


@torch.no_grad()
def merge_lora(unet: nn.Module, state: dict[str, Tensor], scale: float) -> None:
    """Adds scale * B A to the weights of a plain UNet, in float32, so that inference needs neither adapters nor peft.

    Raises:
        ValueError: the LoRA names a layer that the UNet does not have, is of another width, or follows another naming convention.
    """
    modules = dict(unet.named_modules())
    adapted = sorted(key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight"))
    if 2 * len(adapted) != len(state):
        raise ValueError("the LoRA holds other tensors than pairs of lora_A.weight and lora_B.weight: it is no adapter of this project")
    for name in adapted:
        if name not in modules:
            raise ValueError(f"the LoRA adapts a layer '{name}' that this UNet does not have: it was trained on another base model")
        weight = modules[name].weight
        down, up = state[name + ".lora_A.weight"].float(), state[name + ".lora_B.weight"].float()
        if (up.shape[0], *down.shape[1:]) != weight.shape or up.shape[1:].numel() != len(down):
            shapes = f"{tuple(up.shape)} times {tuple(down.shape)}, the layer {tuple(weight.shape)}"
            raise ValueError(f"the LoRA does not fit this UNet, first at {name}: it is {shapes}; it was trained on another base model")
        delta = torch.einsum("or,r...->o...", up.flatten(1), down)
        weight.copy_(weight.float() + scale * delta)
