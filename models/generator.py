"""The one-step generator: x_H = D(z_hat), z_hat = (z_L - sqrt(1 - alpha_bar) eps(z_L; T_L)) / sqrt(alpha_bar), z_L = E(x_L).

From a program of your own:

    from models.generator import load_generator
    generator = load_generator("weights/d3sr-tiny")
    sr = generator.upscale(lr)   # uint8 (h, w, 3) -> uint8 (4h, 4w, 3); grey, 16 bit, floats and tensors likewise
"""

import copy
import hashlib
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.autoencoders import Autoencoder, SharedAutoencoder
from models.backbones import (
    base_weights,
    cast,
    load_alphas_cumprod,
    load_autoencoder,
    load_unet,
    predict_noise,
)
from models.diffusion import predict_z0
from models.lora import LORA_FILE, add_lora, load_lora_state, lora_parameters, merge_lora, read_lora
from models.pretrained_files import check_fit
from models.prompt import initial_prompt
from models.release import GENERATOR_FILE, MERGED, base_of, full_state, read_generator_config, read_generator_tensors, revision_of
from models.settings import GeneratorSettings

Image = TypeVar("Image", np.ndarray, Tensor)


class Generator(nn.Module):
    """Frozen autoencoder, UNet, one learnable text embedding and a fixed timestep.

    Args:
        unet: predicts the noise; frozen, adapted or trained in full.
        autoencoder: pictures <-> latents, frozen.
        alphas_cumprod: (T,) table of the base model's noise schedule.
        prompt_embedding: (tokens, width), takes the place of an encoded prompt.
        timestep: T_L, the timestep whose noise level the LR latent is taken to have.
        scale: enlargement.
    """

    def __init__(
        self, unet: nn.Module, autoencoder: Autoencoder, alphas_cumprod: Tensor, prompt_embedding: Tensor, timestep: int, scale: int = 4
    ):
        super().__init__()
        if autoencoder.latent_channels != unet.config.in_channels:
            raise ValueError(
                f"the autoencoder's latents have {autoencoder.latent_channels} channels, the UNet takes {unet.config.in_channels}: "
                "set network_g.vae to an autoencoder of the base's own latent space, or leave it out"
            )
        if timestep >= len(alphas_cumprod):
            raise ValueError(f"timestep {timestep} lies beyond the {len(alphas_cumprod)} of the base's scheduler_config.json")
        self.unet = unet
        self.autoencoder = autoencoder
        self.prompt_embedding = nn.Parameter(prompt_embedding)
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        self.timestep = timestep
        self.register_buffer("timesteps", torch.tensor([timestep], device=alphas_cumprod.device), persistent=False)
        self.scale = scale
        self._in_float32: list[Generator] = []  # in a list, so that it is no submodule

    @property
    def size_multiple(self) -> int:
        """Both sides of an output picture must be multiples of this many pixels."""
        return self.autoencoder.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet's weights."""
        return self.unet.conv_in.weight.dtype

    def in_float32(self) -> "Generator":
        """This generator if its weights are float32 (or finer), else a float32 copy of it, made once and kept."""
        if torch.finfo(self.dtype).bits >= 32:
            return self
        if not self._in_float32:
            copied = copy.deepcopy(self)
            cast(copied, torch.float32)
            self._in_float32.append(copied)
        return self._in_float32[0]

    @staticmethod
    def upsample(lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Bicubic (a = -0.75, no antialiasing) to `size` = (H, W), clamped to [-1, 1]."""
        return F.interpolate(lr.float(), size=size, mode="bicubic", align_corners=False).clamp(-1.0, 1.0)

    def encode(self, images: Tensor) -> Tensor:
        """z = E(x) for pictures (N, 3, H, W) in [-1, 1]; without gradient, since nothing before it is learned."""
        with torch.no_grad():
            return self.autoencoder.encode(images)

    def denoise(self, z_lr: Tensor) -> Tensor:
        """z_hat of Eq. 1: latents (N, C, h, w) -> (N, C, h, w), float32."""
        prompt = self.prompt_embedding.to(self.unet.conv_in.weight.dtype).expand(len(z_lr), -1, -1)
        noise_pred = predict_noise(self.unet, z_lr, self.timesteps.expand(len(z_lr)), prompt)
        return predict_z0(z_lr, noise_pred, self.timesteps, self.alphas_cumprod)

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Restores LR pictures.

        Args:
            lr: (N, 3, h, w) in [-1, 1]; `scale` times its sides must be multiples of `size_multiple`.

        Returns:
            sr (N, 3, scale h, scale w), about [-1, 1], not clamped; and z_hat (N, C, H / factor, W / factor).
        """
        size = (lr.shape[-2] * self.scale, lr.shape[-1] * self.scale)
        z_hat = self.denoise(self.encode(self.upsample(lr, size)))
        return self.autoencoder.decode(z_hat).float(), z_hat

    @torch.no_grad()
    def restore(self, lr_up: Tensor) -> Tensor:
        """Restores pictures that already have the output's size: (N, 3, H, W) in [-1, 1] -> the same, clamped."""
        return self.autoencoder.decode(self.denoise(self.encode(lr_up))).float().clamp(-1.0, 1.0)

    def upscale(
        self, image: Image, *, scale: float | None = None, tile: int = 1024, tile_overlap: int = 64, color_fix: str = "wavelet"
    ) -> Image:
        """One picture restored, whatever its size, with memory that the tile bounds.

        Args:
            image: array (H, W), (H, W, 1) or (H, W, 3), or tensor (1 or 3, H, W), with or without a batch dimension of one; RGB or grey;
                uint8, uint16, or float in [0, 1].
            scale: any positive number; None for the generator's own.
            tile, tile_overlap: pixels of the output; tile 0 is the whole picture at once.
            color_fix: wavelet, adain or ycbcr: which colours are the input's again; none: the network's own.

        Returns:
            The same kind of object as `image`, round(scale H) x round(scale W).

        Raises:
            ValueError: no such picture, or a result that is not finite.
        """
        from restoring.rows import upscale  # late: restoring builds on this class, which offers it for a program's convenience only

        return upscale(self, image, scale=scale, tile=tile, tile_overlap=tile_overlap, color_fix=color_fix)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: the prompt embedding, and the adapters or the whole UNet."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def build_generator(settings: GeneratorSettings, *, scale: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0) -> Generator:
    """A generator ready to be trained from a base model. What is drawn at random depends on `seed` only.

    dtype: of the frozen weights. What is trained is always float32.
    """
    source, vae, lora = settings.pretrained, settings.vae, settings.lora
    unet = load_unet(source, settings.revision, torch.float32 if settings.train == "full" else dtype)
    autoencoder = load_autoencoder(vae or source, None if vae else settings.revision, dtype, subfolder="" if vae else "vae")
    width = unet.config.cross_attention_dim
    prompt = initial_prompt(settings.prompt_tokens, width, settings.prompt_init, settings.prompt_std, seed)
    if settings.train == "full":
        unet.requires_grad_(True)
    else:
        add_lora(unet, lora.rank, lora.alpha, lora.targets, seed)
    return Generator(unet, autoencoder, load_alphas_cumprod(source, settings.revision), prompt, settings.timestep, scale)


def base_fingerprint(source: str, revision: str | None = None) -> str:
    """SHA-256 of the base UNet's first convolution: tells one base from another in a moment.

    In half precision, so that a fp16 file and a fp32 file of the same base have the same one.
    """
    name = "conv_in.weight"
    weight = base_weights(source, "unet", revision, keep=name.__eq__).get(name)
    if weight is None:
        raise ValueError(f"the weights in {source}/unet hold no {name}: it is no UNet of diffusers'; download the model again")
    return hashlib.sha256(weight.half().contiguous().numpy().tobytes()).hexdigest()


def load_generator(
    path: str | Path,
    *,
    base: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    strength: float = 1.0,
) -> Generator:
    """A trained generator in eval mode, adapters merged into the UNet in float32.

    Args:
        path: folder with config.json: a release, experiments/NAME/models/NAME_ITER, or a merged one of tools/export.py.
        base: folder or hub id of the base model, where it is not the one the folder names. A merged folder needs none.
        revision: of the base on the hub; None for the one it was trained from.
        dtype: of all weights after merging.
        strength: how much of what training changed in the UNet is used; 1 is as trained, less is nearer to the base model.

    Raises:
        ValueError: something is missing or does not fit together; a strength other than 1 of a merged folder.
    """
    config = read_generator_config(path)
    if config["train"] == MERGED and strength != 1:
        raise ValueError(f"'{path}' is a merged model, whose strength is fixed: export it again with network_g.strength: {strength:g}")
    source = base_of(path, config, base)
    revision = revision_of(config, source, revision)
    if config.get("base_fingerprint") not in (None, base_fingerprint(source, revision)):
        raise ValueError(f"'{path}' was trained on another base than '{source}' ({config['base']}): set network_g.pretrained to that one")
    state = read_generator_tensors(path)
    unet = load_unet(source, revision, only_run=True)
    place = "the unet/ beside it" if Path(source) == Path(path) else f"the UNet of '{source}'"
    _check_state(Path(path) / GENERATOR_FILE, state, unet, whole=config["train"] == "full", place=place)
    if config["train"] == "full":
        trained = {name.removeprefix("unet."): tensor for name, tensor in state.items() if name.startswith("unet.")}
        if strength != 1:
            trained = {name: weight.lerp(trained[name].to(weight.dtype), strength) for name, weight in unet.state_dict().items()}
        unet.load_state_dict(trained)
    elif config["train"] != MERGED:
        adapters, scale = read_lora(Path(path) / LORA_FILE)
        try:
            merge_lora(unet, adapters, scale * strength)
        except ValueError as error:
            raise ValueError(f"{Path(path) / LORA_FILE}: {error}") from error
    vae = config.get("vae")
    autoencoder = load_autoencoder(vae or source, None if vae else revision, subfolder="" if vae else "vae")
    prompt = state["prompt_embedding"].float()
    generator = Generator(unet, autoencoder, load_alphas_cumprod(source, revision), prompt, config["timestep"], config["scale"])
    return _in_own_memory(cast_weights(generator, dtype)).requires_grad_(False).eval()


def _check_state(file: Path, state: dict[str, Tensor], unet: nn.Module, *, whole: bool, place: str) -> None:
    """Raises ValueError where the tensors of `file` are not those of a prompt, and of a `whole` UNet where that was trained."""
    name = "prompt_embedding"
    prompt = state.get(name)
    if prompt is None or prompt.ndim != 2 or prompt.shape[1] != unet.config.cross_attention_dim or not len(prompt):
        found = "missing" if prompt is None else tuple(prompt.shape)
        width = f"(tokens, {unet.config.cross_attention_dim})"
        raise ValueError(f"{file} does not fit {place}, first at {name}: {found}, expected {width}")
    expected = {f"unet.{key}": weight for key, weight in unet.state_dict().items()} if whole else {}
    check_fit(str(file), state, expected | {name: prompt}, place)


def use_fast_vae(generator: Generator, source: str, parts: str) -> None:
    """Puts a small autoencoder of the same latent space (TAESD) in the place of the generator's own, in float32: faster, less faithful.

    Args:
        source: folder or hub id with config.json and weights at its top, as madebyollin/taesd has them.
        parts: "decoder" keeps the own encoder; "both".

    Raises:
        ValueError: not found, or of another latent space.
    """
    fast, own = load_autoencoder(source, subfolder=""), generator.autoencoder
    if (fast.latent_channels, fast.factor) != (own.latent_channels, own.factor) or own.is_blockwise:
        raise ValueError(
            f"'{source}' has latents of {fast.latent_channels} channels, one per {fast.factor} pixels, the generator's own autoencoder "
            f"{own.latent_channels}, one per {own.factor}: fast_vae needs one that was made for the generator's base"
        )
    generator.autoencoder = (SharedAutoencoder(own, fast) if parts == "decoder" else fast).requires_grad_(False).eval()


def cast_weights(generator: Generator, dtype: torch.dtype) -> Generator:
    """Weights to `dtype`, but for the noise schedule and the whitening of a block transform, which stay float32."""
    cast(generator.unet, dtype)
    generator.autoencoder.to_precision(dtype)
    return generator


def _in_own_memory(generator: Generator) -> Generator:
    """Copies weights that still lie in a memory-mapped file: their alignment there decides how sums are rounded, and the same weights must
    give the same picture from whatever file they come."""
    for parameter in generator.parameters():
        parameter.data = parameter.data.clone()
    return generator


def load_trained(generator: Generator, path: str | Path) -> None:
    """Starts a generator that is about to be trained from the weights of an earlier run (path.pretrain_network_g).

    Raises:
        ValueError: it was trained in another way, or with other sizes, or is a merged folder.
    """
    config = read_generator_config(path)
    if config["train"] == MERGED:
        raise ValueError(
            f"'{path}' is a merged model, whose LoRA cannot be taken out again: set path.pretrain_network_g to the folder it was "
            "exported from, or network_g.pretrained to this one to train a new LoRA on it"
        )
    state = read_generator_tensors(path)
    own = full_state(generator)
    if (config["train"] == "lora") != bool(lora_parameters(generator.unet)):
        raise ValueError(f"'{path}' was trained with network_g.train: {config['train']}; set the same here to start from it")
    check_fit(str(Path(path) / GENERATOR_FILE), state, own, "network_g (prompt_tokens and pretrained as it was trained with)")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
    if config["train"] == "lora":
        load_lora_state(generator.unet, read_lora(Path(path) / LORA_FILE)[0])
