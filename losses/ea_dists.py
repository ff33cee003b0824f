"""EA-DISTS (Eq. 5): a perceptual distance on the pictures plus the same distance on their Sobel edges."""

import torch
from torch import Tensor, nn

from losses.dists import DISTS
from losses.features import check_pair
from losses.lpips_loss import LPIPS, UniformLPIPS
from losses.settings import PerceptualSettings
from losses.sobel import sobel


class EdgeAware(nn.Module):
    """L(sr, hr) + L(S(sr), S(hr)) (Eq. 5): EA-DISTS when `distance` is DISTS, EA-LPIPS (Table 5) when it is LPIPS.

    Pictures and edges go through the trunk as one batch of 2N. See `sobel` for mode and eps, and their ValueErrors.
    """

    def __init__(
        self,
        distance: DISTS | LPIPS | UniformLPIPS,
        *,
        sobel_mode: str = PerceptualSettings.sobel_mode,
        sobel_eps: float = PerceptualSettings.sobel_eps,
    ) -> None:
        super().__init__()
        self.distance = distance
        self.sobel_mode = sobel_mode
        self.sobel_eps = sobel_eps
        sobel(torch.zeros(1, 3, 1, 1), mode=sobel_mode, eps=sobel_eps)  # a wrong option should fail here, not in the first step

    def with_edges(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> float32 (2N, 3, H, W): the pictures, then their edge maps."""
        return torch.cat((images.float(), sobel(images, mode=self.sobel_mode, eps=self.sobel_eps)))

    def scores(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The distance of each pair of images (N, 3, H, W) in [0, 1]: float32 (N,). ValueError if the shapes differ."""
        check_pair(sr, hr)
        pictures, edges = self.distance.scores(self.with_edges(sr), self.with_edges(hr)).chunk(2)
        return pictures + edges

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Mean of `scores` over the batch: float32 scalar."""
        return self.scores(sr, hr).mean()
