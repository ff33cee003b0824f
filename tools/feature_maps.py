#!/usr/bin/env python
"""Draws Fig. 4: the features that DISTS compares of a picture, and those of its Sobel edges, which EA-DISTS compares as well.

    python tools/feature_maps.py HR.png SR.png -o results/figures/figure4                      VGG16 of torchvision, downloaded once
    python tools/feature_maps.py HR.png -o FIGURE --backbone squeezenet1_1 --weights squeezenet1_1_features.safetensors
    python tools/feature_maps.py HR.png SR.png -o FIGURE --dists_weights DISTS_weights-f5e65c96.pth   also prints both distances

Writes FIGURE.pdf, FIGURE.svg and FIGURE.png: for every picture a line of what DISTS sees (the picture and its features) and one of what
EA-DISTS adds (the edges and theirs); a map is the mean over the channels of a tap, black is 0. Exit status: 0 done; 2 a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NAMES = {
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    "squeezenet1_1": ("relu 1", "fire 2", "fire 4", "fire 6"),
}
"""What the literature calls the taps; those of SqueezeNet are counted by torchvision's blocks."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURE", help="one, or several of one size: HR first")
    add("-o", "--output", required=True, metavar="NAME", help="of the files, without ending")
    add("--backbone", choices=tuple(NAMES), default="vgg16", help="default: %(default)s, as in the paper")
    add("--weights", default="torchvision", help="of the backbone: torchvision, a file, or random (default: %(default)s)")
    add("--dists_weights", metavar="FILE", help="alpha and beta of DISTS, to print the distances of the second picture from the first")
    add("--sobel_mode", choices=("channel", "grey"), default="channel", help="default: %(default)s")
    add("--crop", metavar="BOX", help="left,top,width,height in pixels (default: the whole pictures)")
    add("--labels", nargs="+", metavar="LABEL", help="of the pictures (default: their names)")
    add("--width", type=float, default=5.5, metavar="INCHES", help="of the figure (default: %(default)s, NeurIPS's text)")
    return parser.parse_args(argv)


def read_pictures(args: argparse.Namespace):
    """Label -> (3, H, W) in [0, 1], all of one size."""
    from data.image_io import read_image, to_tensor

    labels = args.labels or [Path(path).stem for path in args.pictures]
    if len(labels) != len(args.pictures) or len(set(labels)) < len(labels):
        raise ValueError(f"--labels: expected {len(args.pictures)} different ones, got {', '.join(labels)}")
    pictures = {label: to_tensor(read_image(path)) for label, path in zip(labels, args.pictures, strict=True)}
    if args.crop:
        pictures = {label: cropped(picture, args.crop) for label, picture in pictures.items()}
    sizes = {label: f"{picture.shape[2]}x{picture.shape[1]}" for label, picture in pictures.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the pictures must have one size: {', '.join(f'{label} {size}' for label, size in sizes.items())}")
    return pictures


def cropped(picture, text: str):
    """The part left,top,width,height of (3, H, W)."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--crop: expected left,top,width,height in pixels, got {text!r}")
    left, top, width, height = (int(part) for part in parts)
    if not (width and height) or left + width > picture.shape[2] or top + height > picture.shape[1]:
        raise ValueError(f"--crop: {text} leaves a picture of {picture.shape[2]}x{picture.shape[1]} pixels")
    return picture[:, top : top + height, left : left + width]


def draw(args: argparse.Namespace) -> list[Path]:
    """Reads the pictures, writes the files, prints the distances where they are known."""
    if args.width <= 0:
        raise ValueError(f"--width must be above 0, got {args.width}")
    pictures = read_pictures(args)
    from losses.perceptual import build_perceptual
    from losses.settings import PerceptualSettings
    from tools.figures.feature_maps import both_distances, draw_feature_maps, feature_rows

    how = {"backbone": args.backbone, "backbone_weights": args.weights, "sobel_mode": args.sobel_mode}
    # Features do not depend on alpha and beta; uniform ones stand in where only the maps are asked for.
    distance = build_perceptual(PerceptualSettings(type="ea_dists", weight=1, dists_weights=args.dists_weights or "uniform", **how))
    files = draw_feature_maps(
        Path(args.output), {label: feature_rows(distance, picture) for label, picture in pictures.items()}, NAMES[args.backbone], args.width
    )
    if args.dists_weights:
        (first, hr), *others = pictures.items()
        for label, sr in others:
            dists, ea_dists = both_distances(distance, sr, hr)
            print(f"{label} and {first}: DISTS {dists:.4f}, EA-DISTS {ea_dists:.4f}")
    return files


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        print(*draw(args), sep="\n")
    except (ValueError, OSError) as error:
        print(f"feature_maps.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
