"""Pre-trained diffusion models as the rest of the project sees them. The only file that imports diffusers.

Any folder or hub id of the Stable Diffusion family works by its own config.json: SD 1.5, SD 2.1-base, SD-Turbo, SDXL (as a
discriminator), AutoencoderTiny as the VAE, and the small base of this project with its `BlockTransform`. Random weights of their sizes
(`random:sd21-base`) work wherever these do.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import diffusers.loaders  # noqa: F401  notes what could be loaded from where, for which it must see all packages: see `_out_of_sight`
import torch
import torch.nn.functional as F
from diffusers.utils import import_utils
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.block_transform import BlockTransform
from models.configs import SCHEDULE
from models.diffusion import scaled_linear_alphas_cumprod
from models.precision import without_autocast
from models.pretrained_files import everything, place, read_config, read_weights
from models.random_source import is_random, kind_and_seed, random_tensors


@contextmanager
def _out_of_sight(*packages: str) -> Iterator[None]:
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


with _out_of_sight("peft", "bitsandbytes", "transformers", "torchvision"):
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny, "BlockTransform": BlockTransform}
TRUNK_PARTS = ("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.")


class Autoencoder(nn.Module):
    """One face for every kind of autoencoder: pictures in [-1, 1] <-> latents already times their scaling factor.

    The latent of a learned VAE is the mode of its distribution, so that the same picture always gives the same latent.
    """

    def __init__(self, model: AutoencoderKL | AutoencoderTiny | BlockTransform):
        super().__init__()
        self.model = model

    @property
    def latent_channels(self) -> int:
        return self.model.latent_channels if isinstance(self.model, BlockTransform) else self.model.config.latent_channels

    @property
    def is_blockwise(self) -> bool:
        """Whether a latent position and its own block of pixels are all that each other depend on."""
        return isinstance(self.model, BlockTransform)

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side: 8 for Stable Diffusion, the block size for a BlockTransform."""
        if isinstance(self.model, BlockTransform):
            return self.model.block_size
        config = self.model.config
        levels = config.block_out_channels if isinstance(self.model, AutoencoderKL) else config.decoder_block_out_channels
        return 2 ** (len(levels) - 1)

    @property
    def channel_gain(self) -> Tensor:
        """(C,) float32: how loud each latent channel of the discriminator's gradient is heard; their root mean square is 1.

        Of a whitened transform its standard deviations, which a loss on pictures brings along to z_hat through the decoder and a
        discriminator that judges latents does not, in intensity; 0 in the colours, where a small generator answers with fringes beside
        every edge. All ones for a learned VAE, whose channels weigh about the same and mix colours and intensity.
        """
        if isinstance(self.model, BlockTransform):
            gain = self.model.std.clone()
            gain[self.model.block_size**2 :] = 0
            return gain / gain.square().mean().sqrt()
        return torch.ones(self.latent_channels, device=next(self.model.parameters()).device)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> z (N, C, H / factor, W / factor), float32 or finer."""
        if isinstance(self.model, BlockTransform):
            return self.model.encode(images)
        images = images.to(next(self.model.parameters()).dtype)
        if isinstance(self.model, AutoencoderTiny):
            latents = self.model.encode(images).latents
            return latents.to(torch.promote_types(latents.dtype, torch.float32)) * self.model.config.scaling_factor
        return self.latents(self.model.encoder(images))

    def decode(self, z: Tensor) -> Tensor:
        """z (N, C, h, w) -> (N, 3, factor h, factor w), about [-1, 1], not clamped."""
        if isinstance(self.model, BlockTransform):
            return self.model.decode(z)
        return self.model.decoder(self.decoder_input(z))

    def latents(self, moments: Tensor) -> Tensor:
        """What z is made of: an AutoencoderKL's encoder output (N, 2C, h, w) -> z, the mode (N, C, h, w), float32 or finer.

        Not in half precision even under autocast: generated latents come from Eq. 1 in float32, and a discriminator must not tell real ones
        by their rounding.
        """
        dtype, quant_conv = torch.promote_types(moments.dtype, torch.float32), self.model.quant_conv
        moments = moments.to(dtype)
        if quant_conv is not None:
            with without_autocast(moments):
                moments = F.conv2d(moments, quant_conv.weight.to(dtype), quant_conv.bias.to(dtype))
        return moments.chunk(2, dim=1)[0] * self.model.config.scaling_factor

    def decoder_input(self, z: Tensor) -> Tensor:
        """z (N, C, h, w) as a learned decoder takes it, in the weights' dtype."""
        z = z.to(next(self.model.parameters()).dtype) / self.model.config.scaling_factor
        post_quant_conv = getattr(self.model, "post_quant_conv", None)  # AutoencoderTiny has none
        return z if post_quant_conv is None else post_quant_conv(z)

    @property
    def encoding(self) -> "Autoencoder":
        """The autoencoder that encodes: this one, unless two share the work."""
        return self

    @property
    def decoding(self) -> "Autoencoder":
        """The autoencoder that decodes: this one, unless two share the work."""
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Checkpoints the decoder only: nothing is learned before it, and its activations are the largest of all.

        Not the reentrant kind: it refuses `torch.autograd.grad`, which the training loop takes the gradient at z_hat with.
        """
        if not isinstance(self.model, BlockTransform):
            self.model.decoder.gradient_checkpointing = True
            self.model.decoder._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


class SharedAutoencoder(Autoencoder):
    """Two autoencoders of one latent space: one encodes, the other decodes. For inference: what neither needs is given up."""

    def __init__(self, encoding: Autoencoder, decoding: Autoencoder):
        sizes = [(half.latent_channels, half.factor) for half in (encoding, decoding)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"two autoencoders of different latent spaces: (channels, pixels per position) are {sizes[0]} and {sizes[1]}")
        super().__init__(encoding.model)
        self._halves = nn.ModuleList([encoding, decoding])
        for half, unused in ((encoding, "decoder"), (decoding, "encoder")):
            half.model._modules.pop(unused, None)

    @property
    def encoding(self) -> Autoencoder:
        """The one that encodes."""
        return self._halves[0]

    @property
    def decoding(self) -> Autoencoder:
        """The one that decodes."""
        return self._halves[1]

    def encode(self, images: Tensor) -> Tensor:
        """As the one that encodes."""
        return self.encoding.encode(images)

    def decode(self, z: Tensor) -> Tensor:
        """As the one that decodes."""
        return self.decoding.decode(z)


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
    if subfolder == "unet":
        state = meta_unet(config).state_dict()
    elif config["_class_name"] == "BlockTransform":
        return BlockTransform(config["block_size"]).state_dict()  # nothing in it is random
    else:
        state = meta_autoencoder(config).model.state_dict()
    return random_tensors({name: tensor.shape for name, tensor in state.items() if keep(name)}, kind_and_seed(source)[1], dtype)


def load_autoencoder(source: str, revision: str | None = None, dtype: torch.dtype = torch.float32, subfolder: str = "vae") -> Autoencoder:
    """A frozen autoencoder in eval mode, of the kind its config.json names.

    Raises:
        ValueError: not found, or of a kind this project does not know.
    """
    config = read_config(source, subfolder, revision)
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in AUTOENCODERS:
        raise ValueError(f"'{place(source, subfolder, 'config.json')}' describes a {kind}; known autoencoders: {', '.join(AUTOENCODERS)}")
    weights = base_weights(source, subfolder, revision, dtype=dtype)
    if kind == "BlockTransform":
        model = BlockTransform(config["block_size"])
        model.load_state_dict(weights)
    else:
        model = _build(AUTOENCODERS[kind], config, weights, dtype, place(source, subfolder))
    return Autoencoder(model).requires_grad_(False).eval()


def load_unet(source: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """A frozen UNet in eval mode, sizes from its config.json."""
    config = read_config(source, "unet", revision)
    unet = _build(UNet2DConditionModel, config, base_weights(source, "unet", revision, dtype=dtype), dtype, f"{source}/unet")
    return unet.requires_grad_(False).eval()


def load_trunk(source: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """A UNet cut after its mid block: conv_in, time (and add) embedding, down blocks and mid block.

    The up blocks, half of a UNet, are never allocated and never read from the file. Use `trunk_features` to run it.
    """
    config = read_config(source, "unet", revision)
    weights = base_weights(source, "unet", revision, lambda name: name.startswith(TRUNK_PARTS), dtype)
    return _build(UNet2DConditionModel, config, weights, dtype, f"{source}/unet", cut=cut_after_mid_block).requires_grad_(False).eval()


def cut_after_mid_block(unet: UNet2DConditionModel) -> None:
    """Removes what a discriminator does not use."""
    del unet.up_blocks, unet.conv_norm_out, unet.conv_act, unet.conv_out


def _build(kind: type, config: dict, weights: dict[str, Tensor], dtype: torch.dtype, where: str, cut=lambda model: None) -> nn.Module:
    with torch.device("meta"):
        model = kind.from_config(config)
    cut(model)
    weights = {name: tensor.to(dtype) for name, tensor in _current_names(weights).items()}
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {where} do not fit its config.json; download the model again. {error}") from error
    return model


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


def predict_noise(unet: UNet2DConditionModel, z_t: Tensor, timesteps: Tensor, prompt_embedding: Tensor) -> Tensor:
    """epsilon_theta(z_t; t): noise_pred (N, C, h, w). prompt_embedding is (N, tokens, width)."""
    return unet(z_t.to(unet.conv_in.weight.dtype), timesteps, encoder_hidden_states=prompt_embedding, return_dict=False)[0]


def needs_pooled_condition(unet: UNet2DConditionModel) -> bool:
    """Whether the UNet is SDXL-like: conditioned on a pooled text embedding and on picture sizes."""
    return unet.config.addition_embed_type == "text_time"


def pooled_width(unet: UNet2DConditionModel) -> int:
    """Width of SDXL's pooled text embedding: what the six size embeddings leave of add_embedding's input (1280)."""
    return unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim


def trunk_features(
    trunk: UNet2DConditionModel, z_t: Tensor, timesteps: Tensor, prompt_embedding: Tensor, added: dict[str, Tensor] | None
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


def heavy_layers(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The ResNet and transformer blocks, none inside another: nearly all weights of a UNet in pieces of a few percent."""
    kinds = {"ResnetBlock2D", "BasicTransformerBlock"}  # or what FSDP makes of them: its own classes, derived from these
    return [layer for layer in unet.modules() if kinds & {kind.__name__ for kind in type(layer).__mro__}]


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Weights to `dtype`, without the warning that diffusers' own `to` gives where there is nothing to warn of."""
    return nn.Module.to(module, dtype)


def save_base(folder: Path, unet: UNet2DConditionModel, autoencoder: Autoencoder) -> None:
    """Writes a base model that `load_unet`, `load_autoencoder` and diffusers can read: unet/, vae/, scheduler/."""
    from diffusers import DDPMScheduler

    folder = Path(folder)
    unet.save_pretrained(folder / "unet")
    autoencoder.model.save_pretrained(folder / "vae")
    scheduler = DDPMScheduler(**SCHEDULE, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")


def new_unet(config: dict, seed: int = 0) -> UNet2DConditionModel:
    """A UNet with freshly drawn weights, the same for the same seed; the global random state is left alone."""
    return _new(UNet2DConditionModel, config, seed)


def new_autoencoder(config: dict, seed: int = 0) -> Autoencoder:
    """An autoencoder of the kind that config["_class_name"] says, with freshly drawn weights where it has weights."""
    if config["_class_name"] == "BlockTransform":
        return Autoencoder(BlockTransform(config["block_size"]))
    return Autoencoder(_new(AUTOENCODERS[config["_class_name"]], config, seed))


def _new(kind: type, config: dict, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_config(config)


def meta_unet(config: dict, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """A frozen UNet of the config's sizes on the meta device: shapes only, no memory and no weights."""
    with torch.device("meta"):
        return cast(UNet2DConditionModel.from_config(config), dtype).requires_grad_(False).eval()


def meta_trunk(config: dict, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """What `load_trunk` loads, on the meta device."""
    unet = meta_unet(config, dtype)
    cut_after_mid_block(unet)
    return unet


def meta_autoencoder(config: dict, dtype: torch.dtype = torch.float32) -> Autoencoder:
    """What `load_autoencoder` loads, on the meta device."""
    with torch.device("meta"):
        kind = config.get("_class_name", "AutoencoderKL")
        model = BlockTransform(config["block_size"]) if kind == "BlockTransform" else cast(AUTOENCODERS[kind].from_config(config), dtype)
        return Autoencoder(model).requires_grad_(False).eval()
