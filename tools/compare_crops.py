#!/usr/bin/env python
"""Draws comparison sheets as papers print them: each picture with a box on it, and beside it the box in every method's result, enlarged.

    python tools/compare_crops.py --hr RealSR/HR --lr RealSR/LR --results D3SR=results/realsr/D3SR OSEDiff=osediff/realsr \\
        --images Canon_001_LR4 Nikon_010_LR4 --boxes 210,130,96,64 auto -o results/figures/figure6

Writes figure6.pdf, figure6.svg (text stays text in both) and figure6.png. `auto` takes the window in which all these pictures differ most;
the boxes are printed, so that a later figure can have the same. Exit status: 0 done; 2 a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from scoring.result_sets import ResultSets
    from tools.figures.crop_figure import Block, Box

HR, LR, BICUBIC, AUTO = "HR", "LR", "bicubic", "auto"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    several = {"nargs": "+", "action": "extend", "default": []}
    add("--results", **several, required=True, metavar="NAME=FOLDER", help="a method and its outputs; NAME is its label")
    add("--hr", metavar="FOLDER", help="the HR pictures: the last crop")
    add("--lr", metavar="FOLDER", help="the LR pictures: the first crop, enlarged")
    add("--lr_as", choices=("pixels", "bicubic"), default="bicubic", help="how LR is enlarged (default: %(default)s)")
    add("--suffix", **several, metavar="NAME=SUFFIX", help=f"what a method's names (or {HR}'s, {LR}'s) end in beyond the others': _out")
    add("--images", nargs="+", metavar="NAME", help="paths below the folders, without extension (default: the first three)")
    add("--boxes", nargs="+", metavar="BOX", help="left,top,width,height in pixels of each image, or auto (default: auto)")
    add("--box_size", type=int, default=96, metavar="N", help="side of boxes that are found (default: %(default)s)")
    add("--width", type=float, default=5.5, metavar="INCHES", help="of the figure (default: %(default)s, NeurIPS's text)")
    add("--rows", type=int, help="of crops beside a picture (default: one for up to three crops, else two)")
    add("-o", "--output", required=True, metavar="NAME", help="of the files, without ending")
    return parser.parse_args(argv)


def find_results(args: argparse.Namespace) -> "ResultSets":
    """The pictures that all folders hold. Raises ValueError for an image that one of them lacks."""
    from scoring.result_sets import assignments, match_folders

    methods = assignments("--results", args.results)
    taken = [name for name in (HR, LR) if name in methods]
    if taken:
        raise ValueError(f"--results: {taken[0]} is a label of its own; call the method otherwise")
    folders = methods | ({HR: args.hr} if args.hr else {}) | ({LR: args.lr} if args.lr else {})
    suffixes = assignments("--suffix", args.suffix)
    strange = [name for name in suffixes if name not in folders]
    if strange:
        raise ValueError(f"--suffix: {strange[0]} is none of {', '.join(folders)}")
    sets = match_folders(folders, suffixes)
    for name in args.images or ():
        lacking = [label for label, files in sets.files.items() if name not in files]
        if lacking:
            raise ValueError(f"--images: {name} is not in {folders[lacking[0]]} ({lacking[0]})")
    return sets


def read_box(text: str) -> "Box | None":
    """left,top,width,height; None for auto."""
    if text == AUTO:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--boxes: expected left,top,width,height in pixels or {AUTO}, got {text!r}")
    left, top, width, height = (int(part) for part in parts)
    return left, top, width, height


def make_block(sets: "ResultSets", name: str, box: "Box | None", box_size: int, lr_as: str) -> "Block":
    """One image: its pictures in the order LR, methods, HR. The whole one is HR, else the first method's."""
    from data.image_io import read_image
    from scoring.result_sets import enlarged
    from tools.figures.crop_figure import Block, busiest_box

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


def in_squares(lr, size: tuple[int, int]):
    """LR with every pixel a square."""
    import cv2

    return cv2.resize(lr, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def draw(args: argparse.Namespace) -> list[Path]:
    """Reads the pictures and writes the files."""
    for name, number in (("--box_size", args.box_size), ("--width", args.width), ("--rows", args.rows)):
        if number is not None and number <= 0:
            raise ValueError(f"{name} must be above 0, got {number}")
    sets = find_results(args)
    images = args.images or sets.names[:3]
    boxes = [read_box(text) for text in args.boxes or [AUTO] * len(images)]
    if len(boxes) != len(images):
        raise ValueError(f"--boxes: expected one for each of {len(images)} images, got {len(boxes)}")
    from tools.figures.crop_figure import draw_crops

    blocks = [make_block(sets, name, box, args.box_size, args.lr_as) for name, box in zip(images, boxes, strict=True)]
    files = draw_crops(Path(args.output), blocks, args.width, args.rows)
    print(*(f"{name}: box {','.join(map(str, block.box))}" for name, block in zip(images, blocks, strict=True)), sep="\n")
    return files


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        print(*draw(args), sep="\n")
    except (ValueError, OSError) as error:
        print(f"compare_crops.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
