"""DISTS (Ding et al. 2020, arXiv 2004.07728), written from its formulas; the L_DISTS of Eq. 5.

With x, y a channel of one stage of the two pictures, m its mean and v its (biased) variance over the positions, DISTS is
1 - sum(alpha S1 + beta S2) over all channels of all stages, where alpha and beta together sum to 1 and
    S1 = (2 m_x m_y + c) / (m_x^2 + m_y^2 + c),    S2 = (2 cov_xy + c) / (v_x + v_y + c),    c = 1e-6.
It is computed here as sum(alpha (1 - S1) + beta (1 - S2)), where the numerators become (m_x - m_y)^2 and the variance of x - y:
the same number, but exactly 0 for equal pictures, never negative, and without the cancellation of E[xy] - m_x m_y.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from losses.features import Features, build_features, check_pair, get_backbone, read_state_dict

STABILITY = 1e-6
DISTS_FILE = "DISTS_weights-f5e65c96.pth"


class Description(NamedTuple):
    """All that a comparison needs to know about N pictures; C counts the channels of all stages together."""

    means: Tensor  # (N, C)
    variances: Tensor  # (N, C)
    centred: list[Tensor]  # per stage (N, C_k, H_k, W_k), the mean of each channel taken off


class DISTS(nn.Module):
    """Structure and texture distance of two batches; 0 for equal pictures, otherwise positive. Frozen, float32 even under autocast.

    alpha, beta: (C,) weights of texture (means) and structure (correlations), scaled here so that they sum to 1 together.
    with_image: the picture itself (as it is, not normalised) is stage 0, as in DISTS; then C counts its 3 channels too.
    Float32 is needed: under bf16 the score is off by 1.4 %, under fp16 all gradients are NaN. (On a GPU cuDNN's TF32 is left as it is set.)
    """

    def __init__(self, features: Features, *, alpha: Tensor, beta: Tensor, with_image: bool) -> None:
        super().__init__()
        self.features = features
        self.with_image = with_image
        total = (alpha.sum() + beta.sum()).item()
        if not total > 0:
            raise ValueError(f"DISTS weights: alpha and beta sum to {total}; expected a positive sum")
        # Buffers, not parameters: the reference leaves them trainable by accident, and an optimiser would move them.
        self.register_buffer("alpha", alpha.float() / total, persistent=False)
        self.register_buffer("beta", beta.float() / total, persistent=False)

    def describe(self, images: Tensor) -> Description:
        """Statistics of images (N, 3, H, W) in [0, 1] (edge maps may exceed 1). Keep that of a fixed `hr` to compare it many times."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            stages = ([images] if self.with_image else []) + self.features(images)
            means = [stage.mean((2, 3), keepdim=True) for stage in stages]
            centred = [stage - mean for stage, mean in zip(stages, means, strict=True)]
            variances = [stage.square().mean((2, 3)) for stage in centred]
            return Description(torch.cat(means, 1).flatten(1), torch.cat(variances, 1), centred)

    def compare(self, x: Description, y: Description) -> Tensor:
        """DISTS of each of the N pairs: float32 (N,)."""
        with torch.autocast(x.means.device.type, enabled=False):
            difference = torch.cat([(a - b).square().mean((2, 3)) for a, b in zip(x.centred, y.centred, strict=True)], 1)
            texture = (x.means - y.means).square() / (x.means.square() + y.means.square() + STABILITY)  # 1 - S1
            structure = difference / (x.variances + y.variances + STABILITY)  # 1 - S2
            return texture @ self.alpha + structure @ self.beta

    def scores(self, sr: Tensor, hr: Tensor) -> Tensor:
        """DISTS of each pair of images (N, 3, H, W) in [0, 1]: float32 (N,). ValueError if the shapes differ."""
        check_pair(sr, hr)
        return self.compare(self.describe(sr), self.describe(hr))  # every weight is frozen, so a plain hr leaves no graph

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Mean of `scores` over the batch: float32 scalar."""
        return self.scores(sr, hr).mean()


def build_dists(backbone: str, backbone_weights: str, dists_weights: str | None) -> DISTS:
    """DISTS on one of two trunks (see build_features for the first two arguments).

    "vgg16": DISTS as published: the picture and 5 taps, alpha and beta from the file `dists_weights`; "uniform" in place of a file
    gives every stage the same weight (no published number). None raises ValueError that says where to get the file.
    "squeezenet1_1": the light variant, for a CPU: 4 taps, max-pools as they are, without the picture as stage 0; texture and structure
    1/2 each, mean over the channels of a tap, then over taps. Training lacks stage 0's view of colour: Eq. 8's MSE has it.
    `dists_weights` must be None or "uniform" (the file belongs to VGG16).
    """
    spec = get_backbone(backbone)
    with_image = backbone == "vgg16"
    channels = ((3,) if with_image else ()) + spec.channels
    if backbone == "vgg16" and dists_weights is None:
        raise ValueError(_missing_weights_message())
    if backbone == "vgg16" and dists_weights != "uniform":
        alpha, beta = read_dists_weights(dists_weights, sum(channels))
    elif dists_weights in (None, "uniform"):
        alpha = beta = torch.cat([torch.full((count,), 1 / count) for count in channels])
    else:
        raise ValueError(f'dists_weights: {dists_weights!r} belongs to vgg16; with {backbone} leave it out or say "uniform"')
    return DISTS(build_features(backbone, backbone_weights), alpha=alpha, beta=beta, with_image=with_image)


def read_dists_weights(path: str, channels: int) -> tuple[Tensor, Tensor]:
    """alpha and beta, float32 (channels,) each, from DISTS' weight file (.pth or .safetensors). ValueError if it holds anything else."""
    state = read_state_dict(Path(path).expanduser())
    for name in ("alpha", "beta"):
        if name not in state or state[name].numel() != channels:
            found = {key: tuple(value.shape) for key, value in state.items()}
            raise ValueError(f"dists_weights: {path} must hold alpha and beta of {channels} values each; found {found}")
    return state["alpha"].float().flatten(), state["beta"].float().flatten()


def _missing_weights_message() -> str:
    return (
        f"dists_weights: DISTS on vgg16 needs its alpha and beta: the 12 kB file {DISTS_FILE} (SHA-256 starts with f5e65c96), from "
        f"https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/{DISTS_FILE}, or DISTS_pytorch/weights.pt of "
        'https://github.com/dingkeyan93/DISTS (the same bytes). Give its path as dists_weights, or "uniform" for equal weights, '
        "which is not the published DISTS"
    )
