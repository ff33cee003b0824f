"""Attention in tiles: exact up to a limit, in windows above it."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from restoring import tiled_attention
from restoring.tiled_attention import attend, neighbourhood
from restoring.tiled_layers import Streamer, cuts
from restoring.tiled_maps import Store
from tests.tiny_models import noise_like


def attention(channels: int, heads: int, residual: bool = True, factor: float = 1.0, peaked: float = 1.0) -> Attention:
    """As the VAE's middle block has it, with seeded weights in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = channels // heads
        module = Attention(channels, None, heads, None, head, 0.0, True, norm_num_groups=4, eps=1e-6, residual_connection=residual)
    module.rescale_output_factor = factor
    module.double().requires_grad_(False).eval()
    module.group_norm.weight += noise_like(channels).double() / 2
    module.to_q.weight *= peaked
    return module


def tiled(module: Attention, x: Tensor, most: int, tile: int = 16) -> Tensor:
    channels = x.shape[1]
    stream = Streamer("decoder", tile, channels, x.dtype, x.device)
    store: Store = stream.store(*x.shape[1:])
    stream.put(store, (0, x.shape[2], 0, x.shape[3]), x)
    return attend(stream, module, store, most).values


@pytest.mark.parametrize(("heads", "residual", "factor"), [(1, True, 1.0), (4, True, 2.0), (2, False, 0.5)])
@pytest.mark.parametrize("scores", [2**28, 100])
def test_exact_up_to_the_limit(monkeypatch: pytest.MonkeyPatch, heads: int, residual: bool, factor: float, scores: int) -> None:
    monkeypatch.setattr(tiled_attention, "SCORES", scores)
    module, x = attention(16, heads, residual, factor, peaked=6.0), noise_like(1, 16, 13, 22).double()
    assert torch.allclose(tiled(module, x, 13 * 22), module(x), rtol=0, atol=1e-12)
    assert not torch.allclose(tiled(module, x, 13 * 22 - 1), module(x), rtol=0, atol=1e-4)


def test_above_the_limit_a_query_attends_to_its_window() -> None:
    """Against a loop over tiles of queries that masks the attention over the whole map."""
    module, x, most = attention(16, 2, peaked=6.0), noise_like(1, 16, 20, 17).double(), 16 * 16
    side = 2  # of a tile of queries: an eighth of the window's
    tokens = module.group_norm(x).flatten(2).transpose(1, 2)
    query, key, value = (layer(tokens).unflatten(2, (2, 8)).transpose(1, 2) for layer in (module.to_q, module.to_k, module.to_v))
    truth = torch.empty_like(x)
    for top, bottom in cuts(20, side):
        for left, right in cuts(17, side):
            rows, columns = (min(max(0, (a + b - 16) // 2), size - 16) for a, b, size in ((top, bottom, 20), (left, right, 17)))
            seen = torch.zeros(20, 17, dtype=torch.bool)
            seen[rows : rows + 16, columns : columns + 16] = True
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen.flatten()[None, :].expand(20 * 17, -1))
            whole = module.to_out[0](attended.transpose(1, 2).flatten(2)).transpose(1, 2).view_as(x) + x
            truth[..., top:bottom, left:right] = whole[..., top:bottom, left:right]
    assert torch.allclose(tiled(module, x, most), truth, rtol=0, atol=1e-12)


def smooth(channels: int, side: int) -> Tensor:
    """A random map that changes little from one position to the next, so that a seam would show; unit variance."""
    x = noise_like(1, channels, side, side).double()
    for _ in range(8):
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, 1)
    return x / x.std()


def step(x: Tensor, columns: list[int]) -> float:
    """Mean change on entering these columns."""
    return torch.stack([(x[..., column] - x[..., column - 1]).abs().mean() for column in columns]).mean().item()


def test_above_the_limit_it_is_near_exact_and_without_seams() -> None:
    module, x, most = attention(32, 1), smooth(32, 72), 24 * 24
    exact, windowed = module(x), tiled(module, x, most)
    seams = [end for _, end in cuts(72, 3)][:-1]
    elsewhere = [column for column in range(1, 72) if column not in seams]
    assert 0.05 * exact.norm() < (windowed - exact).norm() < 0.15 * exact.norm()
    assert step(windowed, seams) < 1.05 * step(windowed, elsewhere)
    checked = exact + 0.15 * (torch.arange(72) // 3 % 2)
    assert step(checked, seams) > 1.05 * step(checked, elsewhere), "the test would not see seams of 0.15 of the map's deviation"


@pytest.mark.parametrize(("height", "width"), [(30, 40), (3, 5000), (5000, 3), (16, 16), (17, 15), (1, 1), (100, 17)])
@pytest.mark.parametrize("most", [256, 5000])
def test_a_window_is_as_large_as_allowed_and_holds_the_queries(height: int, width: int, most: int) -> None:
    for top, left in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        above, below, first, last = neighbourhood((top, top + 1, left, left + 1), height, width, most)
        assert 0 <= above <= top < below <= height and 0 <= first <= left < last <= width
        area = (below - above) * (last - first)
        assert area == height * width if height * width <= most else most * 0.9 < area <= most
