"""Pre-trained diffusion models as the rest of the project sees them. The only file that imports diffusers, and only for models that
`models.plain_unet` and `models.block_transform` are not.

Any folder or hub id of the Stable Diffusion family works by its own config.json: SD 1.5, SD 2.1-base, SD-Turbo, SDXL (as a
discriminator), AutoencoderTiny as the VAE, and the small base of this project with its `BlockTransform`. Random weights of their sizes
(`random:sd21-base`) work wherever these do.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from models.autoencoders import Autoencoder, BlockAutoencoder, KLAutoencoder, TinyAutoencoder
from models.block_transform import BlockTransform
from models.configs import SCHEDULE
from models.diffusion import scaled_linear_alphas_cumprod
from models.plain_unet import PlainUNet, is_plain
from models.pretrained_files import address_of, check_fit, everything, read_config, read_weights
from models.random_source import is_random, kind_and_seed, random_tensors


@contextmanager
def _out_of_sight(import_utils: ModuleType, *packages: str) -> Iterator[None]:
    """Inside, diffusers takes these packages for not installed.

    Its model classes import whole training and quantization libraries where they find them, for ways of loading that nobody uses here,
    and that is half of the start-up. Afterwards all is as before: training finds peft. What diffusers has for LoRA and single files is
    forgotten again, so that a program that also uses its pipelines gets it with all packages in sight.
    """
    flags = [name for name in (f"_{package}_available" for package in packages) if hasattr(import_utils, name)]
    before, loaded = {name: getattr(import_utils, name) for name in flags}, set(sys.modules)
    try:
        for name in flags:
            setattr(import_utils, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(import_utils, name, value)
        for name in set(sys.modules) - loaded:
            if name.startswith(("diffusers.loaders.", "diffusers.models.lora")):
                del sys.modules[name]
                package, _, child = name.rpartition(".")
                vars(sys.modules[package]).pop(child, None)  # `from package import child` looks there first


@cache
def _diffusers(kind: str) -> type:
    """A model class of diffusers."""
    import diffusers.loaders  # late: it takes seconds; and first, to note what could be loaded from where: see `_out_of_sight`
    from diffusers.utils import import_utils  # late: as above

    with _out_of_sight(import_utils, "peft", "bitsandbytes", "transformers", "torchvision"):
        return getattr(diffusers, kind)


AUTOENCODERS = {"AutoencoderKL": KLAutoencoder, "AutoencoderTiny": TinyAutoencoder, "BlockTransform": BlockAutoencoder}
"""Kind, as config.json names it -> the class that wraps the model."""
UNET = "UNet2DConditionModel"
TRUNK_PARTS = ("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.")


def base_weights(
    source: str,
    subfolder: str,
    revision: str | None = None,
    keep: Callable[[str], bool] = everything,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The tensors of one component whose names `keep` accepts: read as they are stored, or drawn, in `dtype`, where the source is
    `random:KIND`. No others are made.

    Raises:
        ValueError: not found, or damaged.
    """
    if not is_random(source):
        return read_weights(source, subfolder, revision, keep)
    config = read_config(source, subfolder)
    if config.get("_class_name") == "BlockTransform":
        return BlockTransform.from_config(config).state_dict()  # nothing in it is random
    state = (meta_unet(config) if subfolder == "unet" else meta_autoencoder(config).model).state_dict()
    return random_tensors({name: tensor.shape for name, tensor in state.items() if keep(name)}, kind_and_seed(source)[1], dtype)


def load_autoencoder(source: str, revision: str | None = None, dtype: torch.dtype = torch.float32, subfolder: str = "vae") -> Autoencoder:
    """A frozen autoencoder in eval mode, of the kind its config.json names.

    Raises:
        ValueError: not found, or of a kind this project does not know.
    """
    config = read_config(source, subfolder, revision)
    model_kind, wrapper = _autoencoder_kind(config, address_of(source, subfolder))
    weights = base_weights(source, subfolder, revision, dtype=dtype)
    if model_kind is BlockTransform:
        model = BlockTransform.from_config(config)
        check_fit(f"the weights file in {address_of(source, subfolder)}", weights, model.state_dict(), "its config.json")
        model.load_state_dict(weights)
    else:
        model = _build(model_kind, config, weights, dtype, address_of(source, subfolder))
    return wrapper(model).requires_grad_(False).eval()


def _autoencoder_kind(config: dict, where: str) -> tuple[type, type[Autoencoder]]:
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in AUTOENCODERS:
        raise ValueError(f"'{address_of(where, 'config.json')}' describes a {kind}; known autoencoders: {', '.join(AUTOENCODERS)}")
    return _autoencoder_class(kind), AUTOENCODERS[kind]


def _autoencoder_class(kind: str) -> type:
    return BlockTransform if kind == "BlockTransform" else _diffusers(kind)


def load_unet(source: str, revision: str | None = None, dtype: torch.dtype = torch.float32, *, only_run: bool = False) -> nn.Module:
    """A frozen UNet in eval mode, sizes from its config.json.

    only_run: no adapters will be put on it, so that a plain one does without diffusers.
    """
    config = read_config(source, "unet", revision)
    kind = PlainUNet if only_run and is_plain(config) else _diffusers(UNET)
    unet = _build(kind, config, base_weights(source, "unet", revision, dtype=dtype), dtype, f"{source}/unet")
    return unet.requires_grad_(False).eval()


def load_trunk(source: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A UNet cut after its mid block: conv_in, time (and add) embedding, down blocks and mid block.

    The up blocks, half of a UNet, are never allocated and never read from the file. Use `trunk_features` to run it.
    """
    config = read_config(source, "unet", revision)
    weights = base_weights(source, "unet", revision, lambda name: name.startswith(TRUNK_PARTS), dtype)
    return _build(_diffusers(UNET), config, weights, dtype, f"{source}/unet", cut=cut_after_mid_block).requires_grad_(False).eval()


def cut_after_mid_block(unet: nn.Module) -> None:
    """Removes what a discriminator does not use."""
    del unet.up_blocks, unet.conv_norm_out, unet.conv_act, unet.conv_out


def _build(kind: type, config: dict, weights: dict[str, Tensor], dtype: torch.dtype, where: str, cut=lambda model: None) -> nn.Module:
    model = _on_meta(kind, config, where)
    cut(model)
    weights = _current_names(weights)
    check_fit(f"the weights file in {where}", weights, model.state_dict(), "its config.json (download the model again)")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, strict=True, assign=True)
    return model


def _on_meta(kind: type, config: dict, where: str) -> nn.Module:
    """A model on the meta device. Raises ValueError where its settings contradict each other; `where`: the folder of its config.json."""
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except Exception as error:  # diffusers' classes look at hardly any of their settings before they use them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = config.get("_class_name", kind.__name__)
        raise ValueError(f"{address_of(where, 'config.json')} does not describe a {name}: {reason}") from error


def _current_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the VAE's attention layers as diffusers has written them since 0.18; Stable Diffusion's own files are older."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

    def current(name: str) -> str:
        if ".attentions." not in name:
            return name
        *path, layer, kind = name.split(".")
        return ".".join([*path, renamed.get(layer, layer), kind])

    return {current(name): tensor for name, tensor in weights.items()}


def load_alphas_cumprod(source: str, revision: str | None = None) -> Tensor:
    """The (T,) float32 noise schedule of a base model.

    Raises:
        ValueError: the model predicts something else than noise, or was trained on another kind of schedule.
    """
    config = read_config(source, "scheduler", revision, name="scheduler_config.json")
    prediction_type, schedule = config.get("prediction_type", "epsilon"), config.get("beta_schedule")
    if prediction_type != "epsilon":
        raise ValueError(
            f"'{source}' predicts {prediction_type}, but Eq. 1 needs a model that predicts noise (epsilon): "
            "use a 'base' model such as 2-1-base, not the 768 pixel one"
        )
    if schedule != "scaled_linear":
        raise ValueError(f"'{source}' was trained on the noise schedule '{schedule}'; only Stable Diffusion's 'scaled_linear' is supported")
    return scaled_linear_alphas_cumprod(config.get("num_train_timesteps", 1000), config["beta_start"], config["beta_end"])


def predict_noise(unet: nn.Module, z_t: Tensor, timesteps: Tensor, prompt_embedding: Tensor) -> Tensor:
    """epsilon_theta(z_t; t): noise_pred (N, C, h, w). prompt_embedding is (N, tokens, width)."""
    return unet(z_t.to(unet.conv_in.weight.dtype), timesteps, encoder_hidden_states=prompt_embedding, return_dict=False)[0]


def needs_pooled_condition(unet: nn.Module) -> bool:
    """Whether the UNet is SDXL-like: conditioned on a pooled text embedding and on picture sizes."""
    return unet.config.addition_embed_type == "text_time"


def pooled_width(unet: nn.Module) -> int:
    """Width of SDXL's pooled text embedding: what the six size embeddings leave of add_embedding's input (1280)."""
    return unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim


def trunk_features(
    trunk: nn.Module, z_t: Tensor, timesteps: Tensor, prompt_embedding: Tensor, added: dict[str, Tensor] | None
) -> list[Tensor]:
    """Latents (N, C, h, w) -> features (N, channels, h / 2^k, w / 2^k) after every down block and, last, after the mid block.

    `added` holds SDXL's text_embeds (N, width) and time_ids (N, 6); None for the others.
    """
    sample = z_t.to(prompt_embedding.dtype)
    temb = trunk.time_embedding(trunk.get_time_embed(sample=sample, timestep=timesteps))
    if added is not None:
        temb = temb + trunk.get_aug_embed(emb=temb, encoder_hidden_states=prompt_embedding, added_cond_kwargs=added)
    sample = trunk.conv_in(sample.to(trunk.conv_in.weight.dtype)).to(prompt_embedding.dtype)  # its weights may train in float32
    features = []
    for block in trunk.down_blocks:
        if getattr(block, "has_cross_attention", False):
            sample, _ = block(hidden_states=sample, temb=temb, encoder_hidden_states=prompt_embedding)
        else:
            sample, _ = block(hidden_states=sample, temb=temb)
        features.append(sample)
    if getattr(trunk.mid_block, "has_cross_attention", False):
        return [*features, trunk.mid_block(sample, temb, encoder_hidden_states=prompt_embedding)]
    return [*features, trunk.mid_block(sample, temb)]


def heavy_layers(unet: nn.Module) -> list[nn.Module]:
    """The ResNet and transformer blocks, none inside another: nearly all weights of a UNet in pieces of a few percent."""
    kinds = {"ResnetBlock2D", "BasicTransformerBlock"}  # or what FSDP makes of them: its own classes, derived from these
    return [layer for layer in unet.modules() if kinds & {kind.__name__ for kind in type(layer).__mro__}]


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Weights to `dtype`, without the warning that diffusers' own `to` gives where there is nothing to warn of."""
    return nn.Module.to(module, dtype)


def save_base(folder: Path, unet: nn.Module, autoencoder: Autoencoder) -> None:
    """Writes a base model that `load_unet`, `load_autoencoder` and diffusers can read: unet/, vae/, scheduler/."""
    from diffusers import DDPMScheduler  # late: only what makes a base needs it

    folder = Path(folder)
    save_unet(folder / "unet", unet)
    autoencoder.model.save_pretrained(folder / "vae")
    scheduler = DDPMScheduler(**SCHEDULE, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")


def save_unet(folder: Path, unet: nn.Module) -> None:
    """Writes config.json and weights, as diffusers does."""
    if isinstance(unet, PlainUNet):
        state = unet.state_dict()
        unet = _on_meta(_diffusers(UNET), unet.config, str(folder))
        unet.load_state_dict(state, assign=True)
    unet.save_pretrained(folder)


def new_unet(config: dict, seed: int = 0) -> nn.Module:
    """A UNet with freshly drawn weights, the same for the same seed; the global random state is left alone."""
    return _new(_diffusers(UNET), config, seed)


def new_autoencoder(config: dict, seed: int = 0) -> Autoencoder:
    """An autoencoder of the kind that config["_class_name"] says, with freshly drawn weights where it has weights."""
    kind = config["_class_name"]
    return AUTOENCODERS[kind](_new(_autoencoder_class(kind), config, seed))


def _new(kind: type, config: dict, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_config(config)


def meta_unet(config: dict, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A frozen UNet of the config's sizes on the meta device: shapes only, no memory and no weights."""
    return cast(_on_meta(_diffusers(UNET), config, "unet"), dtype).requires_grad_(False).eval()


def meta_trunk(config: dict, dtype: torch.dtype = torch.float32) -> nn.Module:
    """What `load_trunk` loads, on the meta device."""
    unet = meta_unet(config, dtype)
    cut_after_mid_block(unet)
    return unet


def meta_autoencoder(config: dict, dtype: torch.dtype = torch.float32) -> Autoencoder:
    """What `load_autoencoder` loads, on the meta device."""
    kind, wrapper = _autoencoder_kind(config, "vae")
    with torch.device("meta"):
        return wrapper(_on_meta(kind, config, "vae")).to_precision(dtype).requires_grad_(False).eval()
