"""Training samples from HR images alone: random crop, flip, and an LR image made by the degradation model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data.image_io import image_size, list_images, read_image, to_tensor
from data.sources import FileOrder, Scan, draw_readable, scan_sizes, stream
from degradations.blur import usm_sharpen
from degradations.second_order import degrade
from degradations.stage import Degradation

_CROP, _DEGRADE = 1, 2


class HRCrops(Dataset):
    """Endless samples: item n, for any n >= 0, is a pure function of (seed, n), so neither workers nor restarts change it.

    Args:
        sources: pairs (path, weight); a path is a folder (recursive), an image or a `.txt` list (plain or BasicSR meta-info). The weight
            says how often each image of this source is drawn compared with an image of weight 1.
        gt_size: side of the HR crop in pixels, a multiple of `scale`. Images with a shorter side are left out and named in `report()`.
        scale: HR side over LR side.
        seed: the run's seed, >= 0.
        use_hflip: flip every other sample, on average, from left to right.
        degradation: how LR is made; None gives HR only.
        usm: sharpen HR before it becomes both the target and the source of LR (Real-ESRGAN's gt_usm).

    Items: `hr` float32 (3, gt_size, gt_size) in [0, 1]; `lr` float32 (3, gt_size/scale, gt_size/scale) in [0, 1], unless degradation is
    None; `index` n; `path` of the file; `skipped`, "path: reason" for each file that could not be decoded and was redrawn.

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
        files, weights = _weighted_files(sources)
        self.scan: Scan = scan_sizes(lambda i: image_size(files[i]), len(files), gt_size, lambda i: files[i])
        if not self.scan.usable:
            where = ", ".join(str(path) for path, _ in sources)
            raise ValueError(f"{where}: no usable training image; lower gt_size ({gt_size}) or give larger images\n{self.report()}")
        self.files = [files[i] for i in self.scan.usable]
        self._order = FileOrder([weights[i] for i in self.scan.usable], seed)

    def report(self) -> str:
        """How many images were found, which are too small and which unreadable, for the log."""
        return self.scan.report(self.gt_size)

    def __getitem__(self, n: int) -> dict[str, Any]:
        file, image, skipped = draw_readable(self._order, n, self._load)
        hr = self._crop(image, stream(self.seed, n, _CROP)).astype(np.float32) / 255
        if self.usm:
            hr = usm_sharpen(hr)
        item: dict[str, Any] = {"hr": to_tensor(hr), "index": n, "path": self.files[file], "skipped": skipped}
        if self.degradation is not None:
            item["lr"] = to_tensor(degrade(hr, stream(self.seed, n, _DEGRADE), self.degradation, self.scale))
        return item

    def _load(self, file: int) -> np.ndarray:
        image = read_image(self.files[file])
        if min(image.shape[:2]) < self.gt_size:
            raise ValueError(f"{self.files[file]}: {image.shape[1]}x{image.shape[0]} is now too small for gt_size {self.gt_size}")
        return image

    def _crop(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        top, left, flip = draw_crop(generator, image.shape[0] - self.gt_size, image.shape[1] - self.gt_size)
        crop = image[top : top + self.gt_size, left : left + self.gt_size]
        return crop[:, ::-1] if flip and self.use_hflip else crop


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: `hr` and `lr` stacked to (N, 3, H, W), `index` int64 (N,), `path` a list, `skipped` one flat list of all items."""
    batch: dict[str, Any] = {key: torch.stack([item[key] for item in items]) for key in ("hr", "lr") if key in items[0]}
    batch["index"] = torch.tensor([item["index"] for item in items], dtype=torch.int64)
    batch["path"] = [item["path"] for item in items]
    batch["skipped"] = [line for item in items for line in item["skipped"]]
    return batch


def check_crop(gt_size: int, scale: int, seed: int) -> None:
    """Raises ValueError unless the crop divides by the scale and the seed can seed."""
    if scale < 1 or gt_size < 1 or gt_size % scale:
        raise ValueError(f"gt_size {gt_size} must be a positive multiple of scale {scale}")
    if seed < 0:
        raise ValueError(f"seed (manual_seed) must be at least 0, got {seed}")


def draw_crop(generator: np.random.Generator, spare_height: int, spare_width: int) -> tuple[int, int, bool]:
    """(top, left, flip), uniform: top in 0..spare_height, left in 0..spare_width, flip with probability 1/2."""
    top, left = int(generator.integers(spare_height + 1)), int(generator.integers(spare_width + 1))
    return top, left, bool(generator.random() < 0.5)


def _weighted_files(sources: Sequence[tuple[str | Path, float]]) -> tuple[list[str], list[float]]:
    files: list[str] = []
    weights: list[float] = []
    for path, weight in sources:
        if not 0 < weight < float("inf"):
            raise ValueError(f"{path}: its weight must be a positive number, got {weight}; leave the source out instead")
        found = [str(file.path) for file in list_images(path)]
        files += found
        weights += [weight] * len(found)
    if not files:
        raise ValueError("no training images: dataroot_gt names no folder and no list")
    return files, weights
