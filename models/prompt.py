"""The learnable text embedding that takes the place of a prompt and its encoder, in the generator and in the discriminator."""

import torch
from torch import Tensor


def initial_prompt(tokens: int, width: int, init: str, std: float, seed: int) -> Tensor:
    """The embedding before training: (tokens, width) float32, zeros or N(0, std^2)."""
    if init == "zeros":
        return torch.zeros(tokens, width)
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) * std
