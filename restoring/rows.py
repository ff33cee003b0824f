"""A picture of any size through the generator, tile by tile: encoder, UNet and decoder never see more than a tile at once."""

import math
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models.autoencoders import Autoencoder
from models.generator import Generator, Image
from restoring.arrays import Canvas, to_batch
from restoring.color_fix import fix_rows
from restoring.enlarged import AFTER, BEFORE, Enlarged
from restoring.tiled_autoencoder import decode_tiled, encode_tiled
from restoring.tiled_maps import TensorMap
from restoring.tiling import Picture, blend_rows

Warn = Callable[[str], None]


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) of the restored picture: Python's round(scale * side), at least one pixel."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def upscale(
    generator: Generator, image: Image, *, scale: float | None, tile: int, tile_overlap: int, color_fix: str
) -> Image:
    """One picture restored, in the form it came in: see `Generator.upscale`."""
    lr = to_batch(image)
    size = output_size(*lr.shape[-2:], generator.scale if scale is None else scale)
    canvas = Canvas(image, size)
    lr = lr.to(generator.prompt_embedding.device) * 2 - 1
    rows = restore_rows(generator, lr, size, tile=tile, overlap=tile_overlap, warn=warnings.warn)
    for top, fixed in fix_rows(rows, Enlarged(lr, size), color_fix):
        canvas.put(top, (fixed + 1) / 2)
    return canvas.image


@torch.inference_mode()
def restore_rows(
    generator: Generator, lr: Tensor, size: tuple[int, int], *, tile: int, overlap: int, warn: Warn
) -> Iterator[tuple[int, Tensor]]:
    """The restored picture from top to bottom.

    The network sees a frame of mirrored pixels around it, which is cut off: see `restoring.enlarged`.
    The UNet's tiles overlap and are blended as latents, in float32. A block transform, whose blocks know nothing of each other, works on
    one row of tiles at a time, so that memory does not grow with the picture's height. A learned autoencoder normalises over the whole
    picture, so its layers stream one after the other over all of it (see `restoring.tiled_autoencoder`): exact, not blended.

    Args:
        lr: (1, 3, h, w) in [-1, 1], on the generator's device.
        size: (H, W) of the result, any.
        tile, overlap: pixels of the output, rounded up to the network's grid. A picture within a tile, or with tile 0, is done at once.
        warn: told when half precision overflowed and a part is computed again in float32.

    Yields:
        (top, rows): rows (1, 3, r, W) float32 in [-1, 1]; together they are the picture.

    Raises:
        ValueError: the result is not finite, even in float32.
    """
    multiple = generator.size_multiple
    tile, overlap = (math.ceil(side / multiple) * multiple for side in (tile, overlap))
    images = Enlarged(lr.float(), size, multiple, BEFORE, AFTER)
    if tile == 0 or tile >= max(size):
        whole = images.window(0, images.height, 0, images.width)
        rows = iter([(0, finite(generator, lambda network: _restored(network, whole), warn))])
    elif generator.autoencoder.is_blockwise:
        rows = _blockwise_rows(generator, images, tile, overlap, warn)
    else:
        rows = _streamed_rows(generator, images, tile, overlap, warn)
    try:
        for top, restored in rows:
            first, last = max(top - BEFORE, 0), min(top - BEFORE + restored.shape[-2], size[0])
            if first < last:
                cut = restored[..., first + BEFORE - top : last + BEFORE - top, BEFORE : BEFORE + size[1]]
                yield first, cut.clamp(-1.0, 1.0)
    except FloatingPointError as error:
        raise ValueError(f"{error}: its weights or the picture are damaged") from error


def finite(generator: Generator, compute: Callable[[Generator], Tensor], warn: Warn) -> Tensor:
    """compute(generator), and where that is not finite in half precision compute(generator in float32). Raises ValueError."""
    result = compute(generator)
    if torch.isfinite(result).all():
        return result
    if generator.in_float32() is not generator:
        warn(f"{generator.dtype} overflowed: a tile is computed again in float32".replace("torch.", ""))
        result = compute(generator.in_float32())
        if torch.isfinite(result).all():
            return result
    raise ValueError("the network's output is not finite, even in float32: its weights or the picture are damaged")


def _restored(generator: Generator, lr_up: Tensor) -> Tensor:
    """Not clamped, unlike `Generator.restore`: an infinite value must not pass for white."""
    return generator.autoencoder.decode(generator.denoise(generator.encode(lr_up))).float()


class _Encoded:
    """The latents of a blockwise autoencoder, computed where they are looked at."""

    def __init__(self, images: Picture, autoencoder: Autoencoder):
        self.images, self.autoencoder, self.factor = images, autoencoder, autoencoder.factor
        self.height, self.width = images.height // self.factor, images.width // self.factor

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        return self.autoencoder.encode(self.images.window(*(side * self.factor for side in (top, bottom, left, right))))


def _denoised(generator: Generator, z_lr: Picture, tile: int, overlap: int, warn: Warn) -> Iterator[tuple[int, Tensor]]:
    factor = generator.autoencoder.factor

    def denoise(z: Tensor) -> Tensor:
        return finite(generator, lambda network: network.denoise(z), warn)

    return blend_rows(denoise, z_lr, tile // factor, overlap // factor, generator.size_multiple // factor)


def _blockwise_rows(generator: Generator, images: Picture, tile: int, overlap: int, warn: Warn) -> Iterator[tuple[int, Tensor]]:
    autoencoder = generator.autoencoder
    for top, z_hat in _denoised(generator, _Encoded(images, autoencoder), tile, overlap, warn):
        yield top * autoencoder.factor, autoencoder.decode(z_hat)


def _streamed_rows(generator: Generator, images: Picture, tile: int, overlap: int, warn: Warn) -> Iterator[tuple[int, Tensor]]:
    try:
        z_lr = encode_tiled(generator.autoencoder, images, tile)
    except FloatingPointError as error:
        z_lr = encode_tiled(_finer(generator, error, warn).autoencoder, images, tile)
    z_hat = torch.cat([rows for _, rows in _denoised(generator, TensorMap(z_lr), tile, overlap, warn)], dim=-2)
    done = 0
    try:
        for top, rows in decode_tiled(generator.autoencoder, z_hat, tile):
            yield top, rows
            done = top + rows.shape[-2]
    except FloatingPointError as error:
        network = _finer(generator, error, warn)
        for top, rows in decode_tiled(network.autoencoder, z_hat, tile):
            if top >= done:
                yield top, rows


def _finer(generator: Generator, error: FloatingPointError, warn: Warn) -> Generator:
    """The generator to compute with after its autoencoder overflowed; raises the error again where there is none."""
    if generator.in_float32() is generator:
        raise error
    warn(f"{error}; computed again in float32")
    return generator.in_float32()
