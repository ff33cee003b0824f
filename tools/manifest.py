"""Measures a data set once: sizes, hashes, sharpness and duplicates of all images, in a manifest that training starts from.

    python tools/manifest.py /data/LSDIR /data/FFHQ -o data.jsonl --min-side 512
    python train_d3sr.py -opt options/train.yml --force_yml datasets.train.dataroot_gt=data.jsonl

Every readable image has its line; one that the filters leave out says why. A rerun reads only files whose size or time changed, so
filters can be changed at no cost. Paths are relative to the manifest.

    python tools/manifest.py /data/LSDIR -o data.jsonl --shards shards --shard-size 1GB
    python tools/manifest.py --index "shards/{00000..00127}.tar"

The first also copies the images that are used into WebDataset shards, the second writes the indexes of shards that others made.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="folders of images (searched recursively), images or .txt lists")
    parser.add_argument("-o", "--output", metavar="FILE.jsonl", help="the manifest; one that is there is brought up to date")
    parser.add_argument("--min-side", type=int, default=512, help="leave out images with a shorter side, in pixels (default: %(default)s)")
    parser.add_argument(
        "--min-sharpness", type=float, default=0.0, help="leave out images of less (variance of the Laplacian of 8-bit luma)"
    )
    parser.add_argument("--duplicates", choices=["drop", "keep"], default="drop", help="copies, exact and near (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=4, help="processes that read; the result does not depend on it (default: %(default)s)"
    )
    parser.add_argument("--shards", metavar="OUT", help="also write the used images as .tar shards to this new folder")
    parser.add_argument("--shard-size", type=shard_bytes, default="1GB", help="of a shard: 500MB, 1GB, 2GiB ... (default: %(default)s)")
    parser.add_argument(
        "--index", metavar="SHARDS", help="write the indexes of these shards (a .tar, a folder of them, or braces), no manifest"
    )
    args = parser.parse_args(argv)
    if bool(args.index) == bool(args.folders and args.output) or (args.index and (args.folders or args.output or args.shards)):
        parser.error("expected FOLDER ... -o FILE.jsonl, or --index SHARDS alone")
    if args.output and Path(args.output).suffix != ".jsonl":
        parser.error(f"-o {args.output}: expected a name that ends in .jsonl, by which training knows a manifest")
    if args.workers < 0:
        parser.error("--workers must be at least 0")
    return args


def shard_bytes(text: str) -> int:
    """1GB -> 1,000,000,000; 2GiB -> 2,147,483,648. Raises argparse.ArgumentTypeError for anything but a positive size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size like 500MB or 1GB, got {text!r}")
    return size


def main(argv: list[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)

    from tools.manifests.make import index_shards, make_manifest  # late: --help and mistakes answer at once

    try:
        if args.index:
            index_shards(args.index)
        else:
            make_manifest(args)
    except (ValueError, OSError) as error:
        say(f"manifest.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
