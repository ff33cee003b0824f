"""Prints parameters and multiply-accumulates (MACs) of a generator, and of its discriminator where the option file trains one.

    python tools/complexity.py -opt options/test_sd21.yml
    python tools/complexity.py -opt options/train.yml --size 1024

Nothing is downloaded and nothing computed: the networks are built without weights (on torch's meta device), with sizes from the base
model's config.json where it is on this machine, else from models/configs.py. The rules of counting are in tools/timing/complexity.py.
"""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from models.sizes import DiscriminatorPlan, GeneratorPlan
    from options.d3sr import TestOptions, TrainOptions
    from tools.timing.complexity import Macs, Parameters


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file of a test or a training")
    parser.add_argument("--size", type=int, default=512, help="side of the output picture in pixels (default: %(default)s)")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="change options: network_g.pretrained=FOLDER")
    return parser.parse_args(argv)


def load_options(path: str, force_yml: list[str]) -> "TrainOptions | TestOptions":
    """Options of either kind: only a training has a section `train`."""
    from options.d3sr import load_test_options, load_train_options
    from options.yaml_files import read_options

    return (load_train_options if "train" in read_options(path, force_yml) else load_test_options)(path, force_yml)


def plans_of(options: "TrainOptions | TestOptions") -> "tuple[GeneratorPlan, DiscriminatorPlan | None]":
    """What decides the sizes of the networks.

    Raises:
        ValueError: a test whose generator is not there and which names no base.
    """
    from models.sizes import DiscriminatorPlan, GeneratorPlan, trained_plan
    from options.d3sr import TrainOptions

    g = options.network_g
    if not isinstance(options, TrainOptions):
        plan, fast = trained_plan(g.path, base=g.pretrained, revision=g.revision), g.fast_vae
        return (replace(plan, fast_vae=fast.path, fast_vae_parts=fast.parts) if fast else plan), None
    sizes = {"train": g.train, "prompt_tokens": g.prompt_tokens, **asdict(g.lora)}
    generator, d = GeneratorPlan(source=g.pretrained, revision=g.revision, vae=g.vae, **sizes), options.network_d
    if d.type == "none":
        return generator, None
    sizes = {"head_channels": d.head_channels, "prompt_tokens": d.prompt_tokens, **asdict(d.lora)}
    return generator, DiscriminatorPlan(source=d.pretrained, revision=d.revision, **sizes)


def headline(macs: "Macs", parameters: "Parameters") -> list[str]:
    """Both countings, in the paper's units."""
    return [
        f"  {'':24}{'parameters':>12}{'MACs':>14}",
        f"  {'as thop counts':24}{parameters.thop / 1e6:>10,.2f} M{macs.thop / 1e9:>12,.1f} G",
        f"  {'everything':24}{parameters.everything / 1e6:>10,.2f} M{macs.everything / 1e9:>12,.1f} G",
    ]


def table(rows: dict[str, "Macs"]) -> list[str]:
    """GMACs by stage."""
    lines = [f"  {'GMACs':24}{'everything':>12}{'conv + linear':>16}"]
    return lines + [f"  {name:24}{macs.everything / 1e9:>12,.2f}{macs.layers / 1e9:>16,.2f}" for name, macs in rows.items()]


def describe_generator(plan: "GeneratorPlan", size: int) -> list[str]:
    """Both countings as the generator trains, and the stages as they run once the LoRA is merged."""
    from models.sizes import find_config, meta_generator
    from tools.timing.complexity import count_parameters, generator_macs, total

    generator = meta_generator(plan)
    rows = generator_macs(meta_generator(plan, adapted=False), size)
    macs = total(rows.values())
    how = "merged" if plan.train == "merged" else "all of the UNet trained"
    if plan.train == "lora":
        how = f"LoRA of rank {plan.rank}, not merged"
        merged, macs = macs, total(generator_macs(generator, size).values())
        rows |= {"total, LoRA merged": merged, "LoRA": macs - merged}
    origin = find_config(plan.source, "unet", plan.revision)[1]
    if plan.fast_vae:
        how += f", {plan.fast_vae_parts} of {plan.fast_vae}"
    head = f"Generator at {size}x{size} pixels: {plan.source}, {how}; sizes from {origin}"
    return [head, *headline(macs, count_parameters(generator)), "", *table({**rows, "total": macs})]


def describe_discriminator(plan: "DiscriminatorPlan", side: int) -> list[str]:
    """Both countings as the discriminator trains, and of its trunk alone."""
    from models.sizes import find_config, meta_discriminator
    from tools.timing.complexity import count_parameters, discriminator_macs

    bare, discriminator = meta_discriminator(plan, adapted=False), meta_discriminator(plan)
    macs = discriminator_macs(discriminator, side)["with head"]
    trunk, parameters = discriminator_macs(bare, side)["trunk"], count_parameters(bare.trunk)
    origin = find_config(plan.source, "unet", plan.revision)[1]
    return [
        f"Discriminator on a latent of {side}x{side}: {plan.source}, LoRA of rank {plan.rank}, not merged; sizes from {origin}",
        *headline(macs, count_parameters(discriminator)),
        "",
        *table({"trunk": trunk, "LoRA and head": macs - trunk, "total": macs}),
        f"  {'parameters of the trunk':24}{parameters.everything / 1e6:>10,.2f} M",
    ]


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        generator, discriminator = plans_of(load_options(args.opt, args.force_yml))
        print(*describe_generator(generator, args.size), sep="\n")
        if discriminator is not None:
            from models.sizes import meta_generator

            print("", *describe_discriminator(discriminator, args.size // meta_generator(generator).autoencoder.factor), sep="\n")
    except (ValueError, OSError) as error:
        print(f"complexity.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
