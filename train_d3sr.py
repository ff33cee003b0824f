"""Trains D3SR: a one-step diffusion generator against a diffusion discriminator.

    python train_d3sr.py -opt options/train_tiny.yml
    torchrun --nproc_per_node 4 train_d3sr.py -opt options/train.yml

Running the same command again resumes. Ctrl-C, or SIGTERM, finishes the iteration and saves first.
"""

import argparse
import dataclasses
import sys

from options.d3sr import TrainOptions, load_train_options, to_yaml

STOPPED = 130  # the exit status that shells give to Ctrl-C
DEBUG = (
    "train.total_iter=8",
    "train.scheduler.warmup_iter=0",
    "logger.print_freq=1",
    "logger.save_checkpoint_freq=4",
    "val.val_freq=4",
    "val.early=[0]",
    "logger.use_tb_logger=false",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file, e.g. options/train.yml")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options, e.g. train.total_iter=1000")
    parser.add_argument("--launcher", choices=["none", "pytorch"], help="default: what torchrun's environment says")
    parser.add_argument("--debug", action="store_true", help="eight iterations of everything, each of them logged")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved options and what would be loaded, then stop")
    return parser.parse_args(argv)


def dry_run(options: TrainOptions) -> str:
    """What would be loaded from where, parameters and memory, in words; needs no weights, no network and no GPU."""
    from data.pictures import find_pictures
    from engine.dry_run import BatchPlan, PerceptualPlan, describe_training
    from models.sizes import DiscriminatorPlan, GeneratorPlan

    g, d, t, data = options.network_g, options.network_d, options.train, options.datasets.train
    generator = GeneratorPlan(
        source=g.pretrained, revision=g.revision, vae=g.vae, train=g.train, prompt_tokens=g.prompt_tokens, **dataclasses.asdict(g.lora)
    )
    discriminator = None
    if d.type != "none":
        sizes = {"head_channels": d.head_channels, "prompt_tokens": d.prompt_tokens, **dataclasses.asdict(d.lora)}
        parts = {"train": d.train, "train_conv_in": d.train_conv_in, "features": d.features}
        discriminator = DiscriminatorPlan(source=d.pretrained, revision=d.revision, **parts, **sizes)
    p = t.perceptual
    batch = BatchPlan(
        gt_size=data.gt_size, per_process=data.batch_size_per_gpu, accumulate=t.accumulate, precision=t.precision,
        processes=None if options.num_gpu == "auto" else options.num_gpu, checkpointing=t.gradient_checkpointing, ema=t.ema_decay > 0,
        shard=d.shard and d.type != "none",
    )  # fmt: skip
    folders = [("training HR", path) for path, _ in data.sources] + [("training LR", data.dataroot_lq)]
    for name, paired in options.datasets.val.items():
        folders += [(f"val {name} LR", paired.dataroot_lq), (f"val {name} HR", paired.dataroot_gt)]
    return describe_training(
        generator, discriminator, PerceptualPlan(p.type, p.backbone, p.backbone_weights, p.dists_weights), batch,
        folders=folders, list_images=find_pictures, start_from=options.path.pretrain_network_g,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        options = load_train_options(args.opt, [*(DEBUG if args.debug else ()), *args.force_yml])
        if args.dry_run:
            print(to_yaml(options))
            print(dry_run(options))
            return 0
        from engine.distributed import start
        from engine.loop import train

        with start(options.device, args.launcher) as world:
            if options.num_gpu not in ("auto", world.size):
                raise ValueError(
                    f"{args.opt}: num_gpu is {options.num_gpu}, but {world.size} process(es) were started: use "
                    f"torchrun --nproc_per_node {options.num_gpu}, or set num_gpu (and train.accumulate, to keep the batch)"
                )
            return 0 if train(options, world) else STOPPED
    except (ValueError, OSError) as error:
        print(f"train_d3sr.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
