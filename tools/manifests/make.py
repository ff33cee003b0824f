"""What tools/manifest.py does: a manifest of measured images with a summary, shards of what is used, indexes of shards that are there."""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from tqdm import tqdm

from data.console import say
from data.manifest import Entry, file_of, measure_all, select, write_manifest
from data.shards import shard_paths, write_index, write_shards
from data.sources import some

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def summary(entries: Sequence[Entry], found: Counter[str], num_read: int, min_side: int, min_sharpness: float, dropped: bool) -> list[str]:
    """What there is and what is used, in lines for the terminal."""
    readable = [entry for entry in entries if entry.width]
    used = [entry for entry in entries if not entry.left_out]
    lines = [
        f"images      {len(entries):,}, {_megapixels(entries):,.1f} megapixels ({num_read:,} read, the others unchanged)",
        f"used        {len(used):,}, {_megapixels(used):,.1f} megapixels",
    ]
    for kind, what in (
        ("unreadable", "unreadable"),
        ("too small", f"too small (a side under {min_side} px)"),
        ("blurred", f"blurred (sharpness under {min_sharpness:g})"),
        ("duplicate", "exact duplicates" + ("" if dropped else ", kept")),
        ("near duplicate", "near duplicates" + ("" if dropped else ", kept")),
    ):
        if found[kind]:
            named = [f"{entry.path}: {entry.left_out.partition(': ')[2]}" for entry in entries if entry.why == kind]
            lines.append(f"{found[kind]:,} {what}{some(named)}")
    if readable:
        values = np.quantile([entry.sharpness for entry in readable], QUANTILES)
        shown = "  ".join(f"{quantile:.0%} {value:.4g}" for quantile, value in zip(QUANTILES, values, strict=True))
        lines.append(f"sharpness   {shown}")
    return lines


def make_manifest(args: argparse.Namespace) -> None:
    """Measure, filter, write, report; then the shards, if they are asked for."""
    measured, num_read, passed_over = measure_all(args.folders, args.output, workers=args.workers)
    dropped = args.duplicates == "drop"
    entries, found = select(measured, min_side=args.min_side, min_sharpness=args.min_sharpness, drop_duplicates=dropped)
    write_manifest(args.output, entries)
    say(*summary(entries, found, num_read, args.min_side, args.min_sharpness, dropped))
    if passed_over:
        say(passed_over)
    say(f"wrote {args.output}")
    if args.shards:
        used = [entry for entry in entries if not entry.left_out]
        if not used:
            raise ValueError(f"--shards {args.shards}: no image is left to write")
        images = ((file_of(entry, args.output), {"path": entry.path, "sha256": entry.sha256}) for entry in used)
        shards = write_shards(tqdm(images, total=len(used), desc="writing", disable=None), args.shards, args.shard_size)
        say(f"wrote {len(shards)} shard(s) of {len(used):,} images, with their indexes: {shards[0]} ... {shards[-1].name}")


def index_shards(root: str) -> None:
    """Write the index beside every shard that `root` names."""
    shards = shard_paths(root)
    if not shards:
        raise ValueError(f"{root}: no shards; give a .tar, a folder of them, or braces like shards/{{00000..00127}}.tar")
    for shard in shards:
        say(f"{shard}: {write_index(shard):,} images indexed")


def _megapixels(entries: Iterable[Entry]) -> float:
    return sum(entry.width * entry.height for entry in entries) / 1e6
