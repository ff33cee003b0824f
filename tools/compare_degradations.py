"""Compares our degradation model with BasicSR's functions, from a clone of it, on the same HR crops with the same settings.

    python tools/compare_degradations.py --basicsr BasicSR --data PHOTOS -o OUT            # do the LR pictures look alike?
    python tools/compare_degradations.py --basicsr BasicSR --data PHOTOS -o OUT --speed    # how fast are both?

The first makes an LR picture of every crop with either, tests whether ten statistics of them have the same distribution, compares every
operation alone, and writes OUT/degradations.{md,json}. Exit status: 0 they agree at --level; 1 they differ in at least one statistic;
2 a mistake. The second measures samples per CPU second on one thread, and writes OUT/speed.{md,json}. BasicSR's functions are called in the
order of Real-ESRGAN's pipeline (tools/peers/basicsr.py); the clone needs no installation.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from data.hr_crops import HRCrops
    from options.d3sr import TrainOptions
    from tools.peers.basicsr import BasicSRPipeline

SWAPS = 9999  # of the exact test
STAGE_CROPS = 32  # crops on which the operations are compared one by one


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--basicsr", required=True, metavar="CLONE", help="folder of a clone of https://github.com/XPixelGroup/BasicSR")
    add("--data", required=True, nargs="+", metavar="PHOTOS", help="HR images: folders, lists, manifests or shards, as for a training")
    add("--crops", type=int, help="HR crops (default: 500; with --speed 176 of each size)")
    add("--gt_size", type=int, nargs="+", help="side of the HR crops in pixels (default: 256; with --speed 512 256)")
    add("--seed", type=int, default=0, help="of crops and degradations (default: %(default)s)")
    add("-opt", default=str(ROOT / "options" / "train.yml"), metavar="FILE", help="training options (default: options/train.yml)")
    add("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="change options: degradation.final_sinc_prob=0")
    add("--level", type=float, default=0.05, help="probability of a false alarm, all tests together (default: %(default)s)")
    add("--real_jpeg", action="store_true", help="BasicSR's pipeline with our JPEG instead of its DiffJPEG: is a difference due to it?")
    add("--speed", action="store_true", help="measure the speed instead")
    add("-o", "--output", required=True, metavar="OUT", help="folder of the report")
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "tools/compare_degradations.py", *(sys.argv[1:] if argv is None else argv)])
    args.crops = args.crops or (176 if args.speed else 500)
    args.gt_size = args.gt_size or ([512, 256] if args.speed else [256])
    if args.crops < 2 or args.seed < 0 or not 0 < args.level < 1:
        parser.error("expected --crops of at least 2, --seed of at least 0, --level between 0 and 1")
    if len(args.gt_size) > 1 and not args.speed:
        parser.error("expected one --gt_size: only --speed takes several")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        from options.d3sr import load_train_options

        return (report_speed if args.speed else report_agreement)(args, load_train_options(args.opt, args.force_yml))
    except (ValueError, OSError) as error:
        print(f"compare_degradations.py: {error}", file=sys.stderr)
        return 2


def prepare(args: argparse.Namespace, options: "TrainOptions", gt_size: int) -> "tuple[HRCrops, BasicSRPipeline]":
    """Our training set and BasicSR's pipeline, with the same settings, on one thread."""
    import cv2
    import torch

    from data.hr_crops import HRCrops
    from tools.peers.basicsr import BasicSRPipeline, load_functions, real_jpeg

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    functions = load_functions(args.basicsr)
    pipeline = BasicSRPipeline(functions, options.degradation, options.scale, jpeg=real_jpeg if args.real_jpeg else None)
    if gt_size < pipeline.smallest_hr():
        raise ValueError(f"--gt_size {gt_size}: BasicSR's filter needs crops of at least {pipeline.smallest_hr()} pixels here")
    dataset = HRCrops(
        [(path, 1.0) for path in args.data],
        gt_size=gt_size,
        scale=options.scale,
        seed=args.seed,
        degradation=options.degradation,
        usm=options.datasets.train.gt_usm,
    )
    return dataset, pipeline


def report_agreement(args: argparse.Namespace, options: "TrainOptions") -> int:
    """Writes degradations.{md,json}; 0 if no test rejects, else 1."""
    from engine.two_samples import compare, holm, smallest_rejected
    from tools.peers.reports import agreement_text, write_report
    from tools.peers.stage_by_stage import stage_differences

    dataset, pipeline = prepare(args, options, args.gt_size[0])
    samples = draw_samples(dataset, pipeline, options, args)
    comparisons, again = {}, {}
    for name in samples["ours"]:
        comparisons[name] = compare(samples["ours"][name], samples["basicsr"][name], swaps=SWAPS, seed=args.seed)
        again[name] = compare(samples["ours"][name], samples["again"][name], swaps=0).distance
    corrected = holm({f"{name}/{test}": p for name, found in comparisons.items() for test, p in found.p_values.items()})
    rows = {
        name: {
            "ours": found.medians[0],
            "basicsr": found.medians[1],
            "ks_distance": found.distance,
            "ks_distance_ours_again": again[name],
            "superiority": found.superiority,
            "p": found.p_values,
            "smallest_corrected_p": min(p for key, p in corrected.items() if key.startswith(f"{name}/")),
        }
        for name, found in comparisons.items()
    }
    operations = stage_differences(pipeline.functions, hr_crops(dataset, min(STAGE_CROPS, args.crops)), args.seed)
    document = {
        **provenance(args),
        "tests": len(corrected),
        "swaps": SWAPS,
        "smallest_distance_rejected": smallest_rejected(args.crops, args.level / len(corrected)),
        "differ": [name for name, row in rows.items() if row["smallest_corrected_p"] < args.level],
        "statistics": rows,
        "operations": [dict(zip(("operation", "mean", "largest", "note"), row, strict=True)) for row in operations],
    }
    write_report(args.output, "degradations", document, agreement_text(document))
    return int(bool(document["differ"]))


def draw_samples(dataset: "HRCrops", pipeline: "BasicSRPipeline", options: "TrainOptions", args: argparse.Namespace) -> dict[str, Any]:
    """{"ours", "basicsr", "again": {statistic: its value for every crop}}; "again" is ours with other random numbers."""
    import numpy as np
    from tqdm import trange

    from data.image_io import to_unit_range
    from degradations.second_order import degrade
    from engine.lr_statistics import STATISTICS, lr_statistics
    from tools.peers.basicsr import seed_all

    samples: dict[str, Any] = {who: {name: [] for name in STATISTICS} for who in ("ours", "basicsr", "again")}
    for n in trange(args.crops, desc="crops", disable=None):
        item = dataset[n]
        tensor = to_unit_range(item["hr"])
        hr, bicubic = picture(tensor), bicubic_lr(picture(tensor), options.scale)
        seed_all(args.seed, n)
        lrs = {
            "ours": picture(to_unit_range(item["lr"])),
            "basicsr": picture(pipeline(tensor[None])[0]),
            "again": degrade(hr, np.random.default_rng([args.seed, n, 1]), options.degradation, options.scale),
        }
        for who, lr in lrs.items():
            for name, value in lr_statistics(lr, bicubic).items():
                samples[who][name].append(value)
    return samples


def hr_crops(dataset: "HRCrops", number: int) -> "list[Tensor]":
    """The first HR crops, float32 (3, H, W) in [0, 1]."""
    from data.image_io import to_unit_range

    return [to_unit_range(dataset[n]["hr"]) for n in range(number)]


def picture(image: "Tensor") -> "np.ndarray":
    """(3, H, W) -> (H, W, 3)."""
    import numpy as np

    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def bicubic_lr(hr: "np.ndarray", scale: int) -> "np.ndarray":
    """HR, float32 (H, W, 3) in [0, 1], made smaller by Pillow's antialiased bicubic filter, on the grid k / 255."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.rint(hr * 255).astype(np.uint8))
    small = image.resize((image.width // scale, image.height // scale), Image.Resampling.BICUBIC)
    return np.asarray(small).astype(np.float32) / np.float32(255)


def report_speed(args: argparse.Namespace, options: "TrainOptions") -> int:
    """Writes speed.{md,json}; always 0, since how fast is fast enough is not this tool's to say."""
    from dataclasses import asdict

    from tools.peers.reports import speed_text, write_report
    from tools.peers.speed import measure

    speeds = []
    for gt_size in args.gt_size:
        dataset, pipeline = prepare(args, options, gt_size)
        crops = hr_crops(dataset, args.crops)
        speeds.append(asdict(measure(crops, dataset.__getitem__, pipeline, options.degradation, options.scale, args.seed)))
    document = {**provenance(args), "sizes": speeds}
    write_report(args.output, "speed", document, speed_text(document))
    return 0


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to make the same report again."""
    import platform
    from importlib.metadata import version

    commit = "not a git clone"
    if (Path(args.basicsr) / ".git").exists():
        git = ["git", "-c", "safe.directory=*", "-C", args.basicsr, "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "command": args.command,
        "crops": args.crops,
        "gt_size": args.gt_size,
        "seed": args.seed,
        "options": " ".join([Path(args.opt).name, *args.force_yml]),
        "level": args.level,
        "jpeg_of_basicsr": "ours" if args.real_jpeg else "DiffJPEG",
        "basicsr_commit": commit,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "opencv-python", "scipy")},
    }


if __name__ == "__main__":
    sys.exit(main())
