"""Generator and discriminator on the meta device: their sizes without their weights, to count what they hold, compute and keep.

Sizes come from the base model's own config.json where it is on this machine (its folder, or the hub's cache), else from
`models.configs` for the bases that are known by name. Nothing is ever downloaded here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from torch import nn

from models.autoencoders import SharedAutoencoder
from models.backbones import meta_autoencoder, meta_trunk, meta_unet, needs_pooled_condition, pooled_width
from models.configs import KNOWN, known_model
from models.discriminator import Discriminator, prepare_trunk
from models.generator import Generator
from models.lora import add_lora
from models.pretrained_files import WEIGHTS_NAMES, is_local, read_component, reading_tensors, shards_of
from models.random_source import is_random, kind_and_seed, random_config
from models.release import CONFIG_FILE, GENERATOR_FILE, base_of, read_generator_config, revision_of
from models.settings import NUM_TIMESTEPS, DiscriminatorSettings, FastVaeSettings, GeneratorSettings, LoraSettings


class UnknownSizesError(ValueError):
    """The sizes of a base model cannot be told without a download."""


def may_be_hub_id(source: str) -> bool:
    """Whether `source` can be the id of a repository on the hub, as `find_file` sees it."""
    return not (is_local(source) or Path(source).is_absolute() or source.startswith(".") or source.count("/") != 1)


def find_here(source: str, names: Sequence[str], subfolder: str, revision: str | None = None) -> Path | None:
    """The first of `names` in `source`/`subfolder` that is on this machine: in the folder, or in the hub's cache. None if none is."""
    if is_local(source):
        return next((path for path in (Path(source, subfolder, name) for name in names) if path.is_file()), None)
    if not may_be_hub_id(source):
        return None
    try:
        found = [huggingface_hub.try_to_load_from_cache(source, f"{subfolder}/{name}".lstrip("/"), revision=revision) for name in names]
    except HFValidationError:  # letters that no id has
        return None
    return next((Path(path) for path in found if isinstance(path, str)), None)


def weights_are_here(source: str, subfolder: str, revision: str | None = None) -> bool:
    """Whether all files of a component's weights are on this machine."""
    path = find_here(source, WEIGHTS_NAMES, subfolder, revision)
    if path is None or not path.name.endswith(".index.json"):
        return path is not None
    return all(find_here(source, [shard], subfolder, revision) for shard in set(shards_of(path).values()))


def find_config(source: str, subfolder: str, revision: str | None = None) -> tuple[dict[str, Any], str]:
    """A component's sizes, and where they were read.

    Raises:
        UnknownSizesError: no config.json on this machine, and a name that is not known.
        ValueError: a damaged config.json.
    """
    if is_random(source):
        try:
            return random_config(source, subfolder), f"models/configs.py ({kind_and_seed(source)[0]})"
        except ValueError as error:
            raise UnknownSizesError(str(error)) from error
    path = find_here(source, ["config.json"], subfolder, revision)
    if path is not None:
        return read_component(path, subfolder), str(path)
    known = known_model(source) if may_be_hub_id(source) else None
    if known is None or subfolder not in KNOWN[known]:
        raise UnknownSizesError(
            f"the sizes of '{source}' are unknown: no such folder holds {subfolder}/config.json, nor does the hub's cache, and by its name "
            "it is neither Stable Diffusion 2.1-base nor SDXL-base. Give a local folder in diffusers' layout, or download the model first"
        )
    return KNOWN[known][subfolder], f"models/configs.py ({known})"


def trained_settings(path: str | Path, *, base: str | None = None, revision: str | None = None) -> GeneratorSettings:
    """The settings of a trained generator's folder. Where nothing trained is there yet: LoRA on `base` as the paper trains it, or the bare
    base that lies in the folder. Of a merged folder, `train` is `models.release.MERGED`, which cannot be trained.

    Raises:
        ValueError: there is none of these.
    """
    if not Path(path, CONFIG_FILE).is_file():
        if base is not None:
            return GeneratorSettings(pretrained=base, revision=revision)
        if Path(path, "unet", CONFIG_FILE).is_file():
            return GeneratorSettings(pretrained=str(path), train="full")
    config = read_generator_config(path)
    source = base_of(path, config, base)
    known = {name: config[name] for name in ("vae", "train", "timestep") if name in config}
    lora = {name: config[name] for name in ("rank", "alpha") if config.get(name) is not None}
    if config.get("targets") is not None:
        lora["targets"] = tuple(config["targets"])
    file = Path(path) / GENERATOR_FILE
    if file.is_file():
        with reading_tensors(file), safe_open(file, framework="pt") as tensors:
            known["prompt_tokens"], _ = tensors.get_slice("prompt_embedding").get_shape()
    return GeneratorSettings(pretrained=source, revision=revision_of(config, source, revision), lora=LoraSettings(**lora), **known)


def meta_generator(
    settings: GeneratorSettings, fast_vae: FastVaeSettings | None = None, *, dtype: torch.dtype = torch.float32, adapted: bool = True
) -> Generator:
    """The generator that `build_generator`, and then `use_fast_vae`, would build, on the meta device. Not `adapted`: its LoRA merged.

    Raises:
        UnknownSizesError: see `find_config`.
    """
    source, vae, lora = settings.pretrained, settings.vae, settings.lora
    unet = meta_unet(find_config(source, "unet", settings.revision)[0], torch.float32 if settings.train == "full" else dtype)
    config, _ = find_config(vae, "", None) if vae else find_config(source, "vae", settings.revision)
    autoencoder = meta_autoencoder(config, dtype)
    if fast_vae is not None:
        fast = meta_autoencoder(find_config(fast_vae.path, "", None)[0], dtype)
        autoencoder = SharedAutoencoder(autoencoder, fast) if fast_vae.parts == "decoder" else fast
    prompt = torch.empty(settings.prompt_tokens, unet.config.cross_attention_dim, device="meta")
    if settings.train == "full":
        unet.requires_grad_(True)
    elif adapted and settings.train == "lora":
        add_lora(unet, lora.rank, lora.alpha, lora.targets)
    return Generator(unet, autoencoder, torch.empty(NUM_TIMESTEPS, device="meta"), prompt, timestep=0)


def meta_discriminator(settings: DiscriminatorSettings, *, dtype: torch.dtype = torch.float32, adapted: bool = True) -> Discriminator:
    """The discriminator that `build_discriminator` would build, on the meta device. Not `adapted`: without its LoRA.

    Raises:
        UnknownSizesError: see `find_config`.
    """
    config, _ = find_config(settings.pretrained, "unet", settings.revision)
    trunk = meta_trunk(config, torch.float32 if settings.train == "full" else dtype)
    if adapted:
        prepare_trunk(trunk, settings, seed=0)
    with torch.device("meta"):
        prompt = torch.empty(settings.prompt_tokens, trunk.config.cross_attention_dim)
        pooled = torch.empty(pooled_width(trunk)) if needs_pooled_condition(trunk) else None
        return Discriminator(trunk, prompt, pooled, image_size=512, features=settings.features, head_channels=settings.head_channels)


def parameter_summary(module: nn.Module) -> str:
    """`16.94 M trained in 557 tensors, 949.56 M frozen`."""
    trained = [p.numel() for p in module.parameters() if p.requires_grad]
    frozen = sum(p.numel() for p in module.parameters()) - sum(trained)
    return f"{sum(trained) / 1e6:.2f} M trained in {len(trained)} tensors, {frozen / 1e6:.2f} M frozen"
