"""Pictures restored: the network's rows, the colour fix, alpha, and what happens when memory runs out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from models.generator import Generator
from restoring.alpha import fill_hidden_colors, within_neighbours
from restoring.arrays import Canvas, to_batch
from restoring.color_fix import fix_rows
from restoring.enlarged import Enlarged
from restoring.rows import output_size, restore_rows
from restoring.target import Target
from restoring.tile_size import largest_tile, with_smaller_tiles

Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """How pictures are restored; all in pixels of the output.

    scale: the factor, or the size that each picture is to have.
    tile "auto" takes the largest tile for which the memory suffices, and a smaller one when it does not after all; 0 is the whole picture.
    """

    scale: float | Target
    tile: int | Literal["auto"] = 1024
    tile_overlap: int = 64
    color_fix: str = "none"

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for a picture of this size."""
        return output_size(height, width, self.scale.factor(height, width) if isinstance(self.scale, Target) else self.scale)


def restore_array(generator: Generator, image: np.ndarray, settings: Restoration, warn: Warn) -> np.ndarray:
    """A picture (H, W, 1 or 3), uint8 or uint16, restored to `settings.output_size`, same channels and dtype.

    Memory is that of a row of tiles, of LR and of the result (with color_fix adain also the whole result in float32).
    Raises ValueError for a result that is not finite, and what the device raises when its memory is too small.
    """
    lr = to_batch(image).to(generator.prompt_embedding.device) * 2 - 1
    size = settings.output_size(*lr.shape[-2:])
    canvas = Canvas(image, size)

    @torch.inference_mode()
    def fill(tile: int) -> np.ndarray:
        rows = restore_rows(generator, lr, size, tile=tile, overlap=min(settings.tile_overlap, tile // 2), warn=warn)
        for top, fixed in fix_rows(rows, Enlarged(lr, size), settings.color_fix):
            canvas.put(top, (fixed + 1) / 2)
        return canvas.image

    if settings.tile != "auto":
        return fill(settings.tile)
    return with_smaller_tiles(fill, largest_tile(generator, size), warn)


def restore_alpha(generator: Generator, alpha: np.ndarray, settings: Restoration, warn: Warn) -> np.ndarray:
    """An alpha channel (H, W), restored as a grey picture of its own, held between the values that LR has around each pixel.

    So what is wholly opaque or transparent stays so. Errors as `restore_array`.
    """
    height, width = settings.output_size(*alpha.shape)
    if alpha.min() == alpha.max():
        return np.full((height, width), alpha.flat[0], alpha.dtype)
    restored = restore_array(generator, alpha[..., None], settings, warn)[..., 0]
    return within_neighbours(restored, alpha)


def restore_with_alpha(
    generator: Generator, pixels: np.ndarray, alpha: np.ndarray | None, settings: Restoration, warn: Warn
) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture (H, W, 1 or 3) and its alpha channel (H, W) if there is one, restored apart from each other.

    Colours that transparency hides are replaced by their visible neighbours' before, so that they leave no fringe. A size that is not
    reached is said.
    """
    note = settings.scale.note(*pixels.shape[:2]) if isinstance(settings.scale, Target) else None
    if note is not None:
        warn(note)
    if alpha is None:
        return restore_array(generator, pixels, settings, warn), None
    return restore_array(generator, fill_hidden_colors(pixels, alpha), settings, warn), restore_alpha(generator, alpha, settings, warn)


def enlarge_array(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the network is given, for comparison: the bicubic enlargement to (H, W), as `restore_array` returns its result."""
    lr = to_batch(image) * 2 - 1
    canvas, picture = Canvas(image, size), Enlarged(lr, size)
    for top in range(0, size[0], 1024):
        bottom = min(top + 1024, size[0])
        canvas.put(top, (picture.window(top, bottom, 0, size[1]) + 1) / 2)
    return canvas.image


def as_rgb8(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) uint8 or uint16 as uint8 (H, W, 3), 16 bit rounded, for metrics and sheets."""
    levels = pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


@torch.inference_mode()
def restore_picture(
    generator: Generator, lr: torch.Tensor, *, tile: int = 0, tile_overlap: int = 64, color_fix: str = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """For validation: lr (1, 3, h, w) in [0, 1] restored at the generator's own scale, and the enlarged picture that it was given.

    Returns (sr, lr_up), both (1, 3, scale h, scale w) float32 in [0, 1]. Raises ValueError for a result that is not finite.
    """
    lr = lr.float() * 2 - 1
    size = output_size(*lr.shape[-2:], generator.scale)
    picture = Enlarged(lr, size)
    rows = restore_rows(generator, lr, size, tile=tile, overlap=min(tile_overlap, tile // 2), warn=_ignore)
    sr = torch.cat([part for _, part in fix_rows(rows, picture, color_fix)], dim=-2)
    return ((sr + 1) / 2).clamp(0, 1), (picture.window(0, size[0], 0, size[1]) + 1) / 2


def _ignore(message: str) -> None:
    """Validation reports what it scored; that a tile took two attempts is not part of it."""
