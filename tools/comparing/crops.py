"""From folders of several methods' results to the figure that shows the same box of each."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from data.console import say
from data.image_io import read_image
from scoring.tables import BICUBIC, HR
from tools.comparing.arguments import LR
from tools.comparing.result_sets import ResultSets, enlarged, match_folders
from tools.figures.crop_figure import Block, Box, busiest_box, draw_crops


def draw(args: argparse.Namespace, folders: Mapping[str, str], suffixes: Mapping[str, str], boxes: Sequence[Box | None]) -> list[Path]:
    """Reads the pictures, says which boxes are shown, and writes the files. Raises ValueError for what the folders do not hold.

    folders: label -> folder, the methods before HR and LR. boxes: one for each image, None where it is to be found; empty: find all.
    """
    sets = match_folders(folders, suffixes)
    for name in args.images or ():
        lacking = [label for label, files in sets.files.items() if name not in files]
        if lacking:
            raise ValueError(f"--images: {name} is not in {folders[lacking[0]]} ({lacking[0]})")
    images = args.images or sets.names[:3]
    boxes = boxes or [None] * len(images)
    if len(boxes) != len(images):
        raise ValueError(f"--boxes: expected one for each of {len(images)} images, got {len(boxes)}")
    blocks = [make_block(sets, name, box, args.box_size, args.lr_as) for name, box in zip(images, boxes, strict=True)]
    files = draw_crops(Path(args.output), blocks, args.width, args.rows)
    say(*(f"{name}: box {','.join(map(str, block.box))}" for name, block in zip(images, blocks, strict=True)))
    return files


def make_block(sets: ResultSets, name: str, box: Box | None, box_size: int, lr_as: str) -> Block:
    """One image: its pictures in the order LR, methods, HR. The whole one is HR, else the first method's."""
    methods = {label: read_image(files[name]) for label, files in sets.files.items() if label not in (HR, LR)}
    size = next(iter(methods.values())).shape[:2]
    crops, last = dict(methods), {}
    if HR in sets.files:
        last[HR] = read_image(sets.files[HR][name])
    if LR in sets.files:
        lr = read_image(sets.files[LR][name])
        crops = {f"LR ({BICUBIC})" if lr_as == BICUBIC else LR: enlarged(lr, size) if lr_as == BICUBIC else in_squares(lr, size)} | crops
    crops |= last
    odd = {label: f"{picture.shape[1]}x{picture.shape[0]}" for label, picture in crops.items() if picture.shape[:2] != size}
    if odd:
        raise ValueError(f"{name}: {next(iter(methods))} has {size[1]}x{size[0]} pixels, {next(iter(odd))} {next(iter(odd.values()))}")
    if box is None:
        box = busiest_box(list(crops.values()), box_size, box_size)
    return Block(title=Path(name).name, whole=last.get(HR, next(iter(methods.values()))), box=box, crops=crops)


def in_squares(lr: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) at `size` = (H, W), every pixel a square."""
    return cv2.resize(lr, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
