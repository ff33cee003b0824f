"""The autoencoder tile by tile: the memory on the device is bounded by the tile, the result is the untiled one up to float rounding.

An AutoencoderKL normalises over the whole picture, so tiles that go through all of it on their own differ in colour and contrast.
Here its layers stream one after the other over the whole map, window by window (`restoring.tiled_layers`), from one store in host memory
to the next (`restoring.tiled_maps`). An AutoencoderTiny and a BlockTransform look no further than a known distance: they are applied to
windows that are wider by that distance.
"""

import math
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from models.autoencoders import Autoencoder, KLAutoencoder
from restoring.tiled_attention import ATTENTION_TOKENS, attend
from restoring.tiled_layers import Layer, Lazy, Norm, Streamer, cuts
from restoring.tiled_maps import Statistics, Store, TensorMap
from restoring.tiling import Picture


@torch.no_grad()
def encode_tiled(autoencoder: Autoencoder, images: Picture, tile: int, *, attention_tokens: int = ATTENTION_TOKENS) -> Tensor:
    """What `Autoencoder.encode` gives for a whole picture.

    Host memory: two maps of the first level (128 channels of the picture's size for Stable Diffusion), in the weights' precision.

    Args:
        images: windows (1, 3, h, w) in [-1, 1]; height and width multiples of the autoencoder's factor.
        tile: side in pixels of the windows that are on the device at once; TAESD's are wider by `halo` on each side.
        attention_tokens: above so many latent positions the attention in the middle is no longer exact: see `attend`.

    Returns:
        z (1, C, h, w), float32 or finer, on the device.

    Raises:
        FloatingPointError: a value is not finite.
    """
    autoencoder = autoencoder.encoding
    stream = _streamer(autoencoder, "encoder", tile)
    if isinstance(autoencoder, KLAutoencoder):
        return _encode_kl(stream, autoencoder, images, attention_tokens)
    factor = autoencoder.factor
    reach = 0 if autoencoder.is_blockwise else halo(autoencoder.model.encoder.layers)
    rows = _windows(stream, autoencoder.encode, images, (factor, 1), math.ceil(reach / factor))
    return torch.cat([part for _, part in rows], dim=-2)


@torch.no_grad()
def decode_tiled(
    autoencoder: Autoencoder, z: Tensor, tile: int, *, attention_tokens: int = ATTENTION_TOKENS
) -> Iterator[tuple[int, Tensor]]:
    """What `Autoencoder.decode` gives for the latents of a whole picture, from top to bottom.

    Host memory: at most 2.5 maps of 128 channels of the picture's size for Stable Diffusion's decoder, in the weights' precision.

    Args:
        z: (1, C, h, w) on the autoencoder's device.
        tile: side in pixels of the result of the windows that are on the device at once; TAESD's are wider by `halo` on each side.
        attention_tokens: above so many latent positions the attention in the middle is no longer exact: see `attend`.

    Yields:
        (top, rows): rows (1, 3, r, W), about [-1, 1], not clamped, float32 or finer, on the device.

    Raises:
        FloatingPointError: a value is not finite. An AutoencoderKL's comes with the first rows, unless only its last layer overflows.
    """
    assert len(z) == 1, "one picture at a time"
    autoencoder = autoencoder.decoding
    stream = _streamer(autoencoder, "decoder", tile)
    if isinstance(autoencoder, KLAutoencoder):
        yield from _decode_kl(stream, autoencoder, z, attention_tokens)
    else:
        reach = 0 if autoencoder.is_blockwise else halo(autoencoder.model.decoder.layers)
        yield from _windows(stream, autoencoder.decode, TensorMap(z), (1, autoencoder.factor), reach)


def _streamer(autoencoder: Autoencoder, part: str, tile: int) -> Streamer:
    model = autoencoder.model
    if tile < autoencoder.factor:
        raise ValueError(f"tile: expected at least {autoencoder.factor} pixels, got {tile}")
    if isinstance(autoencoder, KLAutoencoder):
        network = getattr(model, part)
        width = network.conv_in.out_channels if part == "encoder" else network.conv_out.in_channels
    else:
        tile, width = tile // autoencoder.factor, 1
    weight = next(chain(model.parameters(), model.buffers()))
    return Streamer(part, tile, width, weight.dtype, weight.device)


def _encode_kl(stream: Streamer, autoencoder: Autoencoder, images: Picture, attention_tokens: int) -> Tensor:
    encoder = autoencoder.model.encoder
    (x,) = stream.convolve(images, Layer(encoder.conv_in))
    for block in encoder.down_blocks:
        _check_block(block)
        for resnet in block.resnets:
            x = _resnet(stream, resnet, x)
        for downsampler in block.downsamplers or ():
            x = _replaced(stream, x, _downsampling(downsampler))
    x = _middle(stream, encoder.mid_block, x, attention_tokens)
    last = Layer(encoder.conv_out, Norm(encoder.conv_norm_out, x.statistics), encoder.conv_act)
    moments = torch.cat([rows for _, rows in stream.rows(x, last)], dim=-2).to(stream.dtype)
    x.free()
    return stream.joined([autoencoder.latents(moments)])


def _decode_kl(stream: Streamer, autoencoder: Autoencoder, z: Tensor, attention_tokens: int) -> Iterator[tuple[int, Tensor]]:
    decoder = autoencoder.model.decoder
    (x,) = stream.convolve(TensorMap(autoencoder.decoder_input(z)), Layer(decoder.conv_in))
    x = _middle(stream, decoder.mid_block, x, attention_tokens)
    last = decoder.up_blocks[-1]
    for block, following in zip(decoder.up_blocks, [*decoder.up_blocks[1:], None], strict=True):
        _check_block(block)
        for resnet in block.resnets:
            x = _resnet(stream, resnet, x)
        for upsampler in block.upsamplers or ():
            widest = following is last and last.resnets[0].conv_shortcut is not None
            x = _enlarged(stream, x, upsampler, keep=not widest)
    yield from stream.rows(x, Layer(decoder.conv_out, Norm(decoder.conv_norm_out, x.statistics), decoder.conv_act))
    x.free()


def _middle(stream: Streamer, block: nn.Module, x: Store, attention_tokens: int) -> Store:
    x = _resnet(stream, block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            x = attend(stream, attention, x, attention_tokens)
        x = _resnet(stream, resnet, x)
    return x


def _check_block(block: nn.Module) -> None:
    assert not hasattr(block, "attentions"), "tiling knows attention in the middle block only"


def _replaced(stream: Streamer, x: Store, layer: Layer) -> Store:
    (result,) = stream.convolve(x, layer)
    x.free()
    return result


def _downsampling(module: nn.Module) -> Layer:
    """diffusers' Downsample2D; with padding 0 it puts zeros only at the bottom and the right."""
    assert module.use_conv and module.norm is None, f"tiling knows downsampling by a plain convolution only, not {module}"
    return Layer(module.conv, zeros=(0, 1) if module.padding == 0 else None)


def _enlarged(stream: Streamer, x: Store, module: nn.Module, keep: bool) -> Store | Lazy:
    """The result of diffusers' Upsample2D.

    The last one, of 256 channels of the picture's size, is the largest map of all and looked at only once more: to keep it would
    take 1.6 times the memory of the whole decoder and save an eighth of its time.
    """
    plain = module.use_conv and not module.use_conv_transpose and module.interpolate and module.name == "conv" and module.norm is None
    assert plain, f"tiling knows upsampling by a plain convolution only, not {module}"
    layer = Layer(module.conv, enlargement=2)
    return _replaced(stream, x, layer) if keep else stream.postpone(x, layer)


def _resnet(stream: Streamer, block: nn.Module, x: Store | Lazy) -> Store:
    """diffusers' ResnetBlock2D. Its input is freed or written over: nothing looks at it any more."""
    assert block.time_emb_proj is None and block.time_embedding_norm != "scale_shift", "tiling knows no time embedding"
    assert block.upsample is None and block.downsample is None, "tiling knows no resampling inside a block"
    assert not block.dropout.training or block.dropout.p == 0, "dropout: call eval() first"
    first = Layer(block.conv1, Norm(block.norm1, x.statistics), block.nonlinearity)
    if block.conv_shortcut is None:
        (hidden,), result = stream.convolve(x, first), x
    else:
        hidden, result = stream.convolve(x, first, Layer(block.conv_shortcut))
        x.free()
    second = Layer(block.conv2, Norm(block.norm2, hidden.statistics), block.nonlinearity)
    result.statistics = Statistics(block.conv2.out_channels)
    for box in stream.boxes(second, hidden):
        stream.put(result, box, (result.window(*box) + second(hidden, box)) / block.output_scale_factor)
    hidden.free()
    return result


def halo(layers: nn.Sequential) -> int:
    """How many positions of its input a network of AutoencoderTiny's kind looks beyond a window that lies on its grid of latents."""
    return _reach(layers, 0)


def _reach(layers: nn.Sequential, beyond: int) -> int:
    """Positions beyond a window at the input of `layers`, for `beyond` at their end."""
    for layer in reversed(layers):
        if isinstance(layer, nn.Conv2d):
            assert layer.padding == (layer.kernel_size[0] // 2,) * 2, f"tiling expects a centred convolution, not {layer}"
            beyond = beyond * layer.stride[0] + layer.padding[0]
        elif isinstance(layer, nn.Upsample):
            beyond = math.ceil(beyond / layer.scale_factor)
        elif hasattr(layer, "conv"):  # diffusers' AutoencoderTinyBlock: three convolutions beside a shortcut
            beyond = _reach(layer.conv, beyond)
        else:
            assert not list(layer.children()) and not list(layer.parameters()), f"tiling does not know how far {layer} looks"
    return beyond


def _windows(
    stream: Streamer, network: Callable[[Tensor], Tensor], source: Picture, pixels: tuple[int, int], reach: int
) -> Iterator[tuple[int, Tensor]]:
    """A network applied to windows that are wider than needed by `reach` positions of the latent grid, and cut to size afterwards.

    pixels: per latent position, of the input and of the result. Yields (top row, rows (1, C, r, W)) of the result.
    """
    before, after = pixels
    height, width = source.height // before, source.width // before
    for top, bottom in cuts(height, stream.tile):
        above, below = max(0, top - reach), min(height, bottom + reach)
        tiles = []
        for left, right in cuts(width, stream.tile):
            first, last = max(0, left - reach), min(width, right + reach)
            result = network(source.window(above * before, below * before, first * before, last * before))
            result = result[..., (top - above) * after : (bottom - above) * after, (left - first) * after : (right - first) * after]
            tiles.append(result.clone())  # without its halo
        yield top * after, stream.joined(tiles)
