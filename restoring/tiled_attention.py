"""Self-attention over a map that is too large for the device: queries in tiles, keys and values of all of it or of a window."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoring.tiled_layers import Norm, Streamer, boxes
from restoring.tiled_maps import Box, Store

ATTENTION_TOKENS = 2**18
"""Most keys that a query attends to: the latent positions of a 4096 x 4096 picture of Stable Diffusion.

There the attention takes about as long as all convolutions of the decoder together (140 and 160 TFLOP), and its keys and values are
1 GiB in float32; both grow with the picture below the limit and no further above it.
"""

SCORES = 2**28
"""Most pairs of a query and a key at once: 1 GiB in float32 on a device whose attention is not fused, next to nothing elsewhere."""

QUERY_SHARE = 8
"""The side of a tile of queries is the side of a square window of keys divided by this."""


def attend(stream: Streamer, attention: nn.Module, x: Store, most: int = ATTENTION_TOKENS) -> Store:
    """diffusers' self-attention block over a map (C, H, W), residual included. Frees `x`.

    Exact up to H x W = `most` positions. Above, a query attends to the `most` positions around it only, so that the keys and values
    on the device, and the time per position, stay what they are at `most`. How far this is from exact depends on how far the weights
    look: with random ones, over smooth maps of nine times `most`, the result is off by a tenth of its size. All queries of a tile
    have one window, and from one tile to the next seven eighths of it stay: there the result steps no more than 1.05 times what it
    does from one position to the next anywhere else.
    """
    _check(attention)
    norm = Norm(attention.group_norm, x.statistics)
    keys, values = (stream.store(layer.out_features, x.height, x.width) for layer in (attention.to_k, attention.to_v))
    for box in boxes(x.height, x.width, stream.side(attention.to_k.out_features)):
        tokens = _tokens(norm(x.window(*box)))
        stream.put(keys, box, _map(attention.to_k(tokens), box))
        stream.put(values, box, _map(attention.to_v(tokens), box))
    result = stream.store(attention.to_out[0].out_features, x.height, x.width)
    seen = None
    for box in boxes(x.height, x.width, max(1, math.isqrt(most) // QUERY_SHARE)):
        around = neighbourhood(box, x.height, x.width, most)
        if around != seen:
            key, value = (_heads(_tokens(store.window(*around)), attention.heads) for store in (keys, values))
            seen = around
        window = x.window(*box)
        query = _heads(attention.to_q(_tokens(norm(window))), attention.heads)
        chunks = query.split(max(1, SCORES // (key.shape[1] * key.shape[2])), dim=2)
        attended = torch.cat([F.scaled_dot_product_attention(chunk, key, value, scale=attention.scale) for chunk in chunks], dim=2)
        tile = _map(attention.to_out[0](attended.transpose(1, 2).flatten(2)), box)
        if attention.residual_connection:
            tile = tile + window
        stream.put(result, box, tile / attention.rescale_output_factor)
    for store in (keys, values, x):
        store.free()
    return result


def neighbourhood(box: Box, height: int, width: int, most: int) -> Box:
    """The window of at most `most` positions around a box: as square as the map allows, and inside the map, all of it if it fits."""
    columns = min(width, max(math.isqrt(most), most // height))
    rows = min(height, most // columns)
    top = min(max(0, (box[0] + box[1] - rows) // 2), height - rows)
    left = min(max(0, (box[2] + box[3] - columns) // 2), width - columns)
    return top, top + rows, left, left + columns


def _check(attention: nn.Module) -> None:
    """Asserts what `attend` relies on."""
    plain = all(norm is None for norm in (attention.spatial_norm, attention.norm_q, attention.norm_k))
    assert plain and not attention.is_cross_attention, "tiling knows plain self-attention only"
    assert attention.inner_kv_dim == attention.inner_dim, "tiling expects as many heads of keys as of queries"
    assert not attention.to_out[1].training or attention.to_out[1].p == 0, "dropout: call eval() first"


def _tokens(window: Tensor) -> Tensor:
    """(1, C, h, w) -> (1, h w, C)."""
    return window.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, box: Box) -> Tensor:
    """(1, h w, C) -> (1, C, h, w) of a box."""
    return tokens.transpose(1, 2).unflatten(2, (box[1] - box[0], box[3] - box[2]))


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(1, n, C) -> (1, heads, n, C / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2).contiguous()
