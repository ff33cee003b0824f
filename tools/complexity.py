"""Prints parameters and multiply-accumulates (MACs) of a generator, and of its discriminator where the option file trains one.

    python tools/complexity.py -opt options/test_sd21.yml
    python tools/complexity.py -opt options/train.yml --size 1024
    python tools/complexity.py -opt options/train.yml --launches      how often a GPU would be asked for work (takes minutes)

Nothing is downloaded and nothing computed: the networks are built without weights (on torch's meta device), with sizes from the base
model's config.json where it is on this machine, else from models/configs.py. The rules of counting are in tools/timing/complexity.py
and launches.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from options.arguments import add_option_arguments
from options.d3sr import load_test_options, load_train_options
from options.yaml_files import read_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_arguments(parser, "option file of a test or a training", "change options: network_g.pretrained=FOLDER")
    parser.add_argument("--size", type=int, default=512, help="side of the output picture in pixels (default: %(default)s)")
    parser.add_argument("--launches", action="store_true", help="calls of operators instead: restoring, and one iteration of a training")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        load = load_train_options if "train" in read_options(args.opt, args.force_yml) else load_test_options
        options = load(args.opt, args.force_yml)
        from tools.timing.complexity import describe  # late: torch takes seconds

        say(*describe(options, args.size, args.launches))
    except (ValueError, OSError) as error:
        say(f"complexity.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
