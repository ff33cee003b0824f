"""The diffusion discriminator (Sec. 3.2): the first half of a pre-trained UNet, adapted, and an MLP that votes per region.

Three kinds share this network and differ in what they are shown (`models.noising`): the paper's noise-aware one, and the vanilla
and diffusion-GAN ones of Table 6.
"""

import torch
from torch import Tensor, nn

from models.backbones import heavy_layers, load_trunk, needs_pooled_condition, pooled_width, trunk_features
from models.lora import add_lora
from models.precision import without_autocast
from models.prompt import initial_prompt
from models.settings import DiscriminatorSettings


class Discriminator(nn.Module):
    """UNet trunk (conv_in, embeddings, down blocks, mid block) and, for each judged depth, a per-position MLP to one realism logit.

    Args:
        trunk: a UNet cut after its mid block.
        prompt_embedding: (tokens, width), learnable.
        pooled_embedding: (width,) learnable, SDXL's pooled text condition; None for the others.
        image_size: side of the training crops in pixels, SDXL's size condition.
        features: "mid" judges the mid block's output, as in the paper; "multi" that of every down block as well.
        head_channels: hidden width of the MLPs.
    """

    def __init__(
        self,
        trunk: nn.Module,
        prompt_embedding: Tensor,
        pooled_embedding: Tensor | None,
        image_size: int,
        features: str,
        head_channels: int,
        seed: int = 0,
    ):
        super().__init__()
        self.trunk = trunk
        self.prompt_embedding = nn.Parameter(prompt_embedding)
        self.pooled_embedding = None if pooled_embedding is None else nn.Parameter(pooled_embedding)
        time_ids = torch.tensor([image_size, image_size, 0, 0, image_size, image_size], dtype=torch.float32)
        self.register_buffer("time_ids", time_ids, persistent=False)
        widths = trunk.config.block_out_channels
        judged = (*widths, widths[-1]) if features == "multi" else widths[-1:]
        self.heads = nn.ModuleList(realism_head(width, head_channels, seed + number) for number, width in enumerate(judged))

    def forward(self, z_t: Tensor, timesteps: Tensor) -> list[Tensor]:
        """Votes on latents.

        Args:
            z_t: noised latents (N, C, h, w), as they are: SDXL, too, gets the generator's latents without rescaling, since both
                scaling factors already bring their own latents to about unit variance.
            timesteps: (N,) integers.

        Returns:
            realism_logits of each judged depth, from the first down block to the mid block: (N, h / 2^k, w / 2^k) float32, positive for
            "real".
        """
        judged = self.features(z_t, timesteps)[-len(self.heads) :]
        with without_autocast(z_t):
            # No views: FSDP, which hooks onto them, asks for that.
            return [torch.squeeze_copy(head(of_depth.float()), 1) for head, of_depth in zip(self.heads, judged, strict=True)]

    def features(self, z_t: Tensor, timesteps: Tensor) -> list[Tensor]:
        """What the trunk makes of latents (see `forward`): (N, channels, h / 2^k, w / 2^k) after every down block and the mid block."""
        dtype = self.trunk.time_embedding.linear_1.weight.dtype  # not conv_in's, which may train in float32
        prompt = self.prompt_embedding.to(dtype).expand(len(z_t), -1, -1)
        return trunk_features(self.trunk, z_t, timesteps, prompt, self._added_condition(len(z_t), dtype))

    def _added_condition(self, count: int, dtype: torch.dtype) -> dict[str, Tensor] | None:
        if self.pooled_embedding is None:
            return None
        return {"text_embeds": self.pooled_embedding.to(dtype).expand(count, -1), "time_ids": self.time_ids.expand(count, -1)}

    @property
    def in_channels(self) -> int:
        """Channels of the latents that it judges."""
        return self.trunk.config.in_channels

    def heavy_layers(self) -> list[nn.Module]:
        """Pieces of a few percent each that hold nearly all frozen weights, none inside another: what sharding spreads."""
        return heavy_layers(self.trunk)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: adapters or the whole trunk, embeddings and heads."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def realism_head(channels: int, hidden: int, seed: int) -> nn.Sequential:
    """The MLP of Sec. 3.2 as 1 x 1 convolutions, so that every position of the features is judged alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, 1, 1))


def prepare_trunk(trunk: nn.Module, settings: DiscriminatorSettings, seed: int) -> None:
    """Decides what of a frozen trunk trains: adapters ("lora"), perhaps conv_in beside them, or all of it ("full"), always in float32."""
    if settings.train == "full":
        trunk.requires_grad_(True)
        return
    add_lora(trunk, settings.lora.rank, settings.lora.alpha, settings.lora.targets, seed)
    if settings.train_conv_in:
        for parameter in trunk.conv_in.parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def build_discriminator(
    settings: DiscriminatorSettings, *, image_size: int = 512, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Discriminator:
    """A discriminator ready to be trained from a base model. What is drawn at random depends on `seed` only.

    Args:
        image_size: see `Discriminator`.
        dtype: of the frozen weights. What is trained is always float32.
    """
    trunk = load_trunk(settings.pretrained, settings.revision, torch.float32 if settings.train == "full" else dtype)
    prepare_trunk(trunk, settings, seed)
    width = trunk.config.cross_attention_dim
    prompt = initial_prompt(settings.prompt_tokens, width, settings.prompt_init, settings.prompt_std, seed)
    pooled = torch.zeros(pooled_width(trunk)) if needs_pooled_condition(trunk) else None
    return Discriminator(trunk, prompt, pooled, image_size, settings.features, settings.head_channels, seed)
