"""How much the generator hears of its discriminator: lambda_1 of Sec. 3.4, as a number or as a share of the spatial gradient."""

import torch
from torch import Tensor

DECAY = 0.99
LARGEST = 1e4


class AdversarialBalance:
    """lambda_1: `weight` itself, or the weight that makes the adversarial gradient at z_hat `ratio` times as long as the spatial one.

    The latter is VQGAN's adaptive weight (Esser et al. 2021, Eq. 7), taken at z_hat and smoothed: both norms are running means over
    iterations (decay 0.99, shorter at the start), so the weight of an iteration is known before it begins and no gradient flows through
    it. Before the first measurement it is 0. Everything stays on the device.
    """

    def __init__(self, device: torch.device, *, weight: float | None = None, ratio: float | None = None) -> None:
        """One of weight and ratio is None."""
        assert (weight is None) != (ratio is None)
        self.ratio = ratio
        self.weight = torch.tensor(0.0 if weight is None else weight, device=device)
        self._norms = torch.zeros(2, device=device)
        self._count = 0

    @torch.no_grad()
    def observe(self, norms: Tensor) -> None:
        """norms (2,): of the spatial and of the adversarial gradient before weighting. A pair that is not finite is passed over."""
        if self.ratio is None:
            return
        decay = min(DECAY, self._count / (self._count + 1))
        self._count += 1
        self._norms = torch.where(norms.isfinite().all(), torch.lerp(norms, self._norms, decay), self._norms)
        spatial, adversarial = self._norms
        weight = self.ratio * spatial / adversarial.clamp(min=torch.finfo(torch.float32).tiny)
        self.weight = weight.clamp(max=LARGEST)

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs, as JSON's numbers."""
        if self.ratio is None:
            return {}
        spatial, adversarial = self._norms.tolist()
        return {"spatial": spatial, "adversarial": adversarial, "weight": self.weight.item(), "count": self._count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from a saved state; one that was saved with a fixed weight starts anew."""
        if self.ratio is not None and state:
            self._norms = self._norms.new_tensor([state["spatial"], state["adversarial"]])
            self.weight, self._count = self.weight.new_tensor(state["weight"]), int(state["count"])
