"""LR/HR pairs from disk, matched by name: whole images to validate and test on, aligned crops to train on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from data.hr_crops import check_crop, draw_crop
from data.image_io import Size, read_image, to_levels, to_tensor
from data.listing import ImageFile
from data.pairing import PLAIN, Pair, Roots, Templates, pair_by_name
from data.pictures import NameTable, Picture, PictureTable, picture_sizes, read_picture, usable_pictures
from data.sources import FileOrder, draw_readable, some, stream

_CROP = 1


class PairedFolder(Dataset):
    """Whole images for validation and test, in natural order of the LR names.

    Which LR and HR belong together says `pair_by_name`.

    Args:
        dataroot_lq: folder (recursive), image, `.txt` list, or several of them, with the LR images.
        dataroot_gt: the same for HR; None when there is none.
        scale: HR side over LR side.
        templates: see `Templates`.

    Items: `lr` float32 (3, h, w) in [0, 1]; `hr` float32 (3, h*scale, w*scale) in [0, 1] unless dataroot_gt is None; `name`, the path
    below the root without extension; `path` of the LR file.

    Raises: ValueError naming the files, when one is unreadable, has no partner or two, or when HR is not exactly scale times LR.
    """

    def __init__(self, dataroot_lq: Roots, dataroot_gt: Roots | None, scale: float, templates: Templates = PLAIN) -> None:
        pairs, self._remarks, unreadable = pair_by_name(dataroot_lq, dataroot_gt, templates)
        unreadable += [size for size in _hr_sizes(pairs, scale) if isinstance(size, str)]
        if unreadable:
            raise ValueError(f"{len(unreadable)} unreadable images; repair or remove them:{some(unreadable)}")
        self._names = NameTable(lr.relative.with_suffix("").as_posix() for lr, _ in pairs)
        self._lr = NameTable(str(lr.path) for lr, _ in pairs)
        self._hr = NameTable(str(hr.path) for _, hr in pairs if hr is not None)

    def report(self) -> str:
        """How LR and HR were paired where their names differ, and which files were passed over, for the log; mostly empty."""
        return "\n".join(self._remarks)

    def __len__(self) -> int:
        return len(self._lr)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._lr[index]
        item: dict[str, Any] = {"lr": to_tensor(read_image(path)), "name": self._names[index], "path": path}
        if self._hr:
            item["hr"] = to_tensor(read_image(self._hr[index]))
        return item


class PairedCrops(Dataset):
    """Endless aligned crops of one's own LR/HR pairs; items, `report()` and the meaning of item n are those of `HRCrops`.

    Args:
        dataroot_lq, dataroot_gt: as for `PairedFolder`, HR required.
        gt_size: side of the HR crop in pixels, a multiple of `scale`. Pairs with a shorter side are left out and named in `report()`.
        scale: HR side over LR side, a whole number.
        seed: the run's seed, >= 0.
        use_hflip: flip every other pair, on average, from left to right.
        templates: as for `PairedFolder`.

    Raises: ValueError when names or sizes do not match, a number is impossible or no pair is usable.
    """

    def __init__(
        self, dataroot_lq: Roots, dataroot_gt: Roots, *, gt_size: int, scale: int, seed: int, use_hflip: bool = True,
        templates: Templates = PLAIN,
    ) -> None:  # fmt: skip
        check_crop(gt_size, scale, seed)
        self.gt_size, self.scale, self.seed, self.use_hflip = gt_size, scale, seed, use_hflip
        pairs, remarks, _ = pair_by_name(dataroot_lq, dataroot_gt, templates)
        sizes, hr = _hr_sizes(pairs, scale), [_picture(hr) for _, hr in pairs if hr is not None]
        usable, counted = usable_pictures(hr, sizes, gt_size)
        self._report = "\n".join([counted, *remarks])
        if not usable:
            raise ValueError(f"{dataroot_gt}: no usable training pair; lower gt_size ({gt_size}) or give larger images\n  {self._report}")
        self._hr = PictureTable(hr[i]._replace(size=sizes[i]) for i in usable)
        self._lr = PictureTable(_picture(pairs[i][0])._replace(size=(sizes[i][0] // scale, sizes[i][1] // scale)) for i in usable)
        self._order = FileOrder([1.0] * len(usable), seed)

    def report(self) -> str:
        """How many pairs were found and how, which are too small and which unreadable, what was passed over, for the log."""
        return self._report

    def __getitem__(self, n: int) -> dict[str, Any]:
        file, (lr, hr), skipped = draw_readable(self._order, n, self._read_crops)
        return {"hr": to_levels(hr), "lr": to_levels(lr), "index": n, "path": self._hr[file].name, "skipped": skipped}

    def _read_crops(self, file: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR, uint8 (side, side, 3). Raises ValueError as `read_picture` does."""
        picture, scale = self._lr[file], self.scale
        side = self.gt_size // scale
        top, left, flip = draw_crop(stream(self.seed, n, _CROP), picture.size, side)
        lr = read_picture(picture, (top, left, side, side))
        hr = read_picture(self._hr[file], (top * scale, left * scale, self.gt_size, self.gt_size))
        return (lr[:, ::-1], hr[:, ::-1]) if flip and self.use_hflip else (lr, hr)


def _picture(file: ImageFile) -> Picture:
    return Picture(str(file.path), str(file.path))


def _hr_sizes(pairs: Sequence[Pair], scale: float) -> list[Size | str]:
    """`picture_sizes` of HR (of LR where there is no HR); of an unreadable LR its reason stands there.

    Raises: ValueError when an HR is not exactly `scale` times its LR.
    """
    sizes = picture_sizes([_picture(file) for file, _ in pairs] + [_picture(file) for _, file in pairs if file is not None])
    lr_sizes, hr_sizes = sizes[: len(pairs)], sizes[-len(pairs) :]
    found: list[Size | str] = []
    wrong: list[str] = []
    for (lr, hr), lr_size, hr_size in zip(pairs, lr_sizes, hr_sizes, strict=True):
        found.append(lr_size if isinstance(lr_size, str) else hr_size)
        if hr is None or isinstance(found[-1], str):
            continue
        if hr_size != (round(lr_size[0] * scale), round(lr_size[1] * scale)):
            wrong.append(f"{lr.path} and {hr.path}: LR {lr_size[1]}x{lr_size[0]}, HR {hr_size[1]}x{hr_size[0]}")
    if wrong:
        raise ValueError(f"HR must be exactly {scale} times LR; {len(wrong)} pairs are not:{some(wrong)}")
    return found
