"""Writes a sheet of degraded LR examples of one picture, each beside the parameters that were drawn for it.

    python tools/preview_degradations.py photo.jpg -o sheet.png -n 12 --seed 0 -opt options/train.yml

HR comes first (sharpened where `datasets.train.gt_usm` says so). LR is enlarged without interpolation: every LR pixel is a square.
Example #k of a seed is always the same, whatever -n.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say, shown


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of this tool; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", metavar="IMAGE", help="a sharp picture (HR)")
    parser.add_argument("-o", "--output", default="sheet.png", help="PNG to write (default: %(default)s)")
    parser.add_argument("-n", "--num", type=int, default=12, help="how many LR examples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="first half of each example's seed (default: %(default)s)")
    parser.add_argument("-opt", "--options", help="training options: degradation, scale and gt_usm come from there (default: x4plus)")
    parser.add_argument("--crop", type=int, default=256, help="side of the centre crop of IMAGE that is degraded (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    if parsed.num < 1 or parsed.crop < 1 or parsed.seed < 0:
        parser.error("-n and --crop must be at least 1, --seed at least 0")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    """Reads the picture, writes the sheet. Exits with a message on a user's mistake."""
    prepare()
    parsed = parse_args(arguments)

    from tools.figures.degradations import write_sheet  # late: --help and mistakes answer at once

    try:
        write_sheet(parsed.image, parsed.output, options=parsed.options, crop=parsed.crop, num=parsed.num, seed=parsed.seed)
    except ValueError as error:
        sys.exit(shown(f"error: {error}"))
    say(f"wrote {parsed.output}")


if __name__ == "__main__":
    main()
