"""Training samples from HR images alone: random crop, flip, and an LR image made by the degradation model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from data.image_io import Size, to_levels
from data.pictures import Picture, PictureTable, find_pictures, picture_sizes, read_picture, usable_pictures
from data.sources import FileOrder, draw_readable, stream
from degradations.blur import usm_sharpen
from degradations.second_order import degrade
from degradations.stage import Degradation

_CROP, _DEGRADE = 1, 2


class HRCrops(Dataset):
    """Endless samples: item n, for any n >= 0, is a pure function of (seed, n), so neither workers nor restarts change it.

    Args:
        sources: pairs (path, weight); a path is a folder (recursive), an image, a `.txt` list (plain or BasicSR meta-info), a manifest
            (`.jsonl`, of tools/manifest.py) or shards (see data/shards.py). A manifest and indexed shards know the sizes of their images,
            of others the headers are read now. The weight says how often each image is drawn compared with one of weight 1.
        gt_size: side of the HR crop in pixels, a multiple of `scale`. Images with a shorter side are left out and named in `report()`.
        scale: HR side over LR side.
        seed: the run's seed, >= 0.
        use_hflip: flip every other sample, on average, from left to right.
        degradation: how LR is made; None gives HR only.
        usm: sharpen HR before it becomes both the target and the source of LR (Real-ESRGAN's gt_usm).

    Items: `hr` uint8 (3, gt_size, gt_size) in 0..255 (see `image_io.to_unit_range`); `lr` uint8 (3, gt_size/scale, gt_size/scale), unless
    degradation is None; `index` n; `path` of the file; `skipped`, "path: reason" for each file that could not be decoded and was redrawn.

    Raises: ValueError when a source is missing, a number is impossible or no image is usable.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str | Path, float]],
        *,
        gt_size: int,
        scale: int,
        seed: int,
        use_hflip: bool = True,
        degradation: Degradation | None = None,
        usm: bool = False,
    ) -> None:
        check_crop(gt_size, scale, seed)
        self.gt_size, self.scale, self.seed = gt_size, scale, seed
        self.use_hflip, self.degradation, self.usm = use_hflip, degradation, usm
        pictures, weights, told = _weighted_pictures(sources)
        sizes = picture_sizes(pictures)
        usable, counted = usable_pictures(pictures, sizes, gt_size)
        self._report = "\n".join([counted, *told])
        if not usable:
            where = ", ".join(str(path) for path, _ in sources)
            raise ValueError(f"{where}: no usable training image; lower gt_size ({gt_size}) or give larger images\n  {self._report}")
        self.pictures = PictureTable(pictures[i]._replace(size=sizes[i]) for i in usable)
        self._order = FileOrder([weights[i] for i in usable], seed)

    def report(self) -> str:
        """How many images were found, which are too small and which unreadable, and what was passed over, for the log."""
        return self._report

    def __getitem__(self, n: int) -> dict[str, Any]:
        file, crop, skipped = draw_readable(self._order, n, self._read_crop)
        hr = crop.astype(np.float32) / 255
        if self.usm:
            hr = usm_sharpen(hr)
        item: dict[str, Any] = {"hr": to_levels(hr if self.usm else crop), "index": n, "path": self.pictures[file].name, "skipped": skipped}
        if self.degradation is not None:
            item["lr"] = to_levels(degrade(hr, stream(self.seed, n, _DEGRADE), self.degradation, self.scale))
        return item

    def _read_crop(self, file: int, n: int) -> np.ndarray:
        """uint8 (gt_size, gt_size, 3). Raises ValueError as `read_picture` does."""
        picture = self.pictures[file]
        top, left, flip = draw_crop(stream(self.seed, n, _CROP), picture.size, self.gt_size)
        crop = read_picture(picture, (top, left, self.gt_size, self.gt_size))
        return crop[:, ::-1] if flip and self.use_hflip else crop


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: `hr` and `lr` stacked to (N, 3, H, W), `index` int64 (N,), `path` a list, `skipped` one flat list of all items.

    In a loader process the tensors are stacked in shared memory, by torch's collate: were they moved there when they are sent, a thread
    of torch's would do so, and the program would wait forever for what that thread had no room for.
    """
    tensors = [{key: torch.as_tensor(item[key]) for key in ("hr", "lr", "index") if key in item} for item in items]
    batch: dict[str, Any] = default_collate(tensors)
    batch["path"] = [item["path"] for item in items]
    batch["skipped"] = [line for item in items for line in item["skipped"]]
    return batch


def check_crop(gt_size: int, scale: int, seed: int) -> None:
    """Raises ValueError unless the crop divides by the scale and the seed can seed."""
    if scale < 1 or gt_size < 1 or gt_size % scale:
        raise ValueError(f"gt_size {gt_size} must be a positive multiple of scale {scale}")
    if seed < 0:
        raise ValueError(f"seed (manual_seed) must be at least 0, got {seed}")


def draw_crop(generator: np.random.Generator, size: Size, side: int) -> tuple[int, int, bool]:
    """(top, left, flip), uniform: a square of `side` pixels anywhere in an image of this size, flipped with probability 1/2."""
    height, width = size
    top, left = int(generator.integers(height - side + 1)), int(generator.integers(width - side + 1))
    return top, left, bool(generator.random() < 0.5)


def _weighted_pictures(sources: Sequence[tuple[str | Path, float]]) -> tuple[list[Picture], list[float], list[str]]:
    """(all pictures, the weight of each, what `find_pictures` told)."""
    pictures: list[Picture] = []
    told: list[str] = []
    weights: list[float] = []
    for path, weight in sources:
        if not 0 < weight < float("inf"):
            raise ValueError(f"{path}: its weight must be a positive number, got {weight}; leave the source out instead")
        found = find_pictures(path, told.append)
        pictures += found
        weights += [weight] * len(found)
    if not pictures:
        raise ValueError("no training images: dataroot_gt names no folder and no list")
    return pictures, weights, told
