"""Writes a trained generator as one folder that needs nothing else: LoRA merged, laid out as diffusers lays out a model.

    python tools/export.py -opt options/test_sd21.yml -o FOLDER --force_yml network_g.path=experiments/NAME/models/NAME_ITER
    python tools/export.py -opt options/test.yml -o FOLDER --dtype fp16 --onnx
    python tools/export.py -opt options/test.yml -o FOLDER --ncnn

FOLDER restores with `test_d3sr.py -opt options/test.yml --force_yml network_g.path=FOLDER`, without peft, base model or network; its
README.md says how to use it without this repository. --onnx adds model.onnx, in float32, and compares it with PyTorch; it needs
`pip install -r requirements-onnx.txt -c constraints.txt`. --ncnn adds the UNet for network_g.runtime: ncnn, in float32 and compared
likewise; it needs `pip install -r requirements-ncnn.txt -c constraints.txt`. FOLDER appears whole or not at all.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from options.arguments import add_option_arguments
from options.d3sr import load_test_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_arguments(parser, "option file of a test; its network_g is exported", "change options: network_g.path=A")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where to write; new or empty")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="of the stored weights (default: %(default)s)")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    parser.add_argument("--ncnn", action="store_true", help="also write unet.ncnn.param and .bin, for network_g.runtime: ncnn")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER if it is an earlier export")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        options = load_test_options(args.opt, args.force_yml)
        from tools.exporting.merged_folder import export  # late: it imports torch

        folder = Path(args.output).expanduser().resolve()
        lines = export(options, folder, args.dtype, with_onnx=args.onnx, with_ncnn=args.ncnn, overwrite=args.overwrite)
    except (ValueError, OSError) as error:
        say(f"export.py: {error}", error=True)
        return 2
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    say(*lines, f"wrote {args.output}", *(f"  {name:<44}{size / 1e6:>10,.3f} MB" for name, size in sizes.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
