"""Whether a training is well: the discriminator at each noise level, gradients that are not finite, processes that drifted apart."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.distributed import World, gather, sum_over_ranks

BUCKETS = 4
LOGIT, RIGHT, COUNT = range(3)


class DiscriminatorHealth:
    """Mean logits and accuracy of the discriminator in four equal buckets of its range of timesteps [low, high].

    real_accuracy is the share of votes on real latents above 0, fake_accuracy that of votes on generated ones below 0. A range of a
    single timestep, which says nothing of noise (vanilla), is one bucket without a name. Nothing waits for the device until `read`.
    """

    def __init__(self, low: int, high: int, device: torch.device) -> None:
        self.low, self.span = low, high - low + 1
        self.buckets = min(BUCKETS, self.span)
        self._numbers = torch.arange(self.buckets, device=device)
        self._sums = torch.zeros(2, self.buckets, 3, device=device)  # real and generated; buckets; LOGIT, RIGHT, COUNT

    def add(
        self, real_logits: Sequence[Tensor], real_timesteps: Tensor, fake_logits: Sequence[Tensor], fake_timesteps: Tensor
    ) -> None:
        """Adds the votes (N, h', w') of each depth on N real and N generated latents, shown at timesteps (N,)."""
        for side, (logits, sign, timesteps) in enumerate(((real_logits, 1, real_timesteps), (fake_logits, -1, fake_timesteps))):
            means = [per_sample(logits), per_sample([of_depth * sign > 0 for of_depth in logits])]
            found = torch.stack([*means, torch.ones_like(means[0])], dim=1)  # (N, 3)
            bucket = torch.div((timesteps - self.low) * self.buckets, self.span, rounding_mode="floor")
            here = (bucket[:, None] == self._numbers)[:, :, None]  # (N, buckets, 1)
            self._sums[side] += torch.where(here, found[:, None], 0.0).sum(0)

    def read(self, world: World) -> dict[str, float]:
        """`real_logits_t0-249`, `real_accuracy_t0-249` and so on over all processes since the last read; a bucket nobody saw is left out.

        Every process must call it.
        """
        sums = sum_over_ranks(self._sums.clone(), world).tolist()
        self._sums.zero_()
        values = {}
        for number in range(self.buckets):
            for side, of in zip(sums, ("real", "fake"), strict=True):
                seen = side[number]
                if seen[COUNT]:
                    values[f"{of}_logits{self._name(number)}"] = seen[LOGIT] / seen[COUNT]
                    values[f"{of}_accuracy{self._name(number)}"] = seen[RIGHT] / seen[COUNT]
        return values

    def _name(self, number: int) -> str:
        if self.buckets == 1:
            return ""
        first, following = (self.low - (-self.span * n // self.buckets) for n in (number, number + 1))
        return f"_t{first}-{following - 1}"


def per_sample(maps: Sequence[Tensor]) -> Tensor:
    """(N,) means of maps (N, h', w'), over the regions of each depth and then over depths."""
    return torch.stack([of_depth.float().flatten(1).mean(1) for of_depth in maps]).mean(0)


def not_finite(parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of the parameters whose gradient holds a NaN or an inf."""
    names = [name for name, parameter in parameters.items() if parameter.grad is not None]
    if not names:
        return []
    finite = torch.stack([parameters[name].grad.isfinite().all() for name in names]).tolist()
    return [name for name, whole in zip(names, finite, strict=True) if not whole]


def check_ranks(players: Mapping[str, Mapping[str, Tensor]], iteration: int, world: World) -> None:
    """Compares every process's trained weights, {"g": {name: float32 tensor}, ...}; every process must call it.

    Compared are the sums of the weights' bits read as integers: exact, whatever the order of summation, so that nothing but a difference
    differs, and one wrong bit does.

    Raises:
        ValueError: they differ; the same on every process.
    """
    if world.size == 1:
        return
    names = [(player, name) for player, tensors in players.items() for name in tensors]
    sums = [players[player][name].detach().view(torch.int32).sum(dtype=torch.int64) for player, name in names]
    everyone = gather(torch.stack(sums).tolist(), world)
    for rank, theirs in enumerate(everyone):
        odd = [place for place, mine, other in zip(names, everyone[0], theirs, strict=True) if mine != other]
        if odd:
            player, name = odd[0]
            raise ValueError(
                f"the processes have drifted apart: at iteration {iteration} process {rank} differs from process 0 in {len(odd)} of "
                f"{len(names)} trained tensors, first in network_{player}'s {name}. Start the same command again to go on from the last "
                "state before; if it happens again, a GPU, its memory or the network is at fault (train.check_ranks)"
            )
