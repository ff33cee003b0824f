"""Writes a trained generator as one folder that needs nothing else: LoRA merged, laid out as diffusers lays out a model.

    python tools/export.py -opt options/test_sd21.yml -o FOLDER --force_yml network_g.path=experiments/NAME/models/NAME_ITER
    python tools/export.py -opt options/test.yml -o FOLDER --dtype fp16 --onnx

FOLDER restores with `test_d3sr.py -opt options/test.yml --force_yml network_g.path=FOLDER`, without peft, base model or network; its
README.md says how to use it without this repository. --onnx adds model.onnx, in float32, and compares it with PyTorch; it needs
`pip install -r requirements-onnx.txt -c constraints.txt`. FOLDER appears whole or not at all.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from models.generator import Generator
    from options.d3sr import TestOptions

ONNX_FILE, README_FILE = "model.onnx", "README.md"
CONTENTS = {"config.json", "generator.safetensors", "unet", "vae", "scheduler", README_FILE, ONNX_FILE, ONNX_FILE + ".data"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file of a test; its network_g is exported")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where to write; new or empty")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="of the stored weights (default: %(default)s)")
    parser.add_argument("--onnx", action="store_true", help=f"also write {ONNX_FILE}")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER if it is an earlier export")
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change options: network_g.path=A")
    return parser.parse_args(argv)


def check_output(folder: Path, overwrite: bool) -> None:
    """Raises ValueError where writing `folder` would destroy what is there."""
    from data.whole_files import FORMER, TEMPORARY

    for beside in (folder.with_name(folder.name + ending) for ending in (TEMPORARY, FORMER)):
        if beside.exists():
            raise ValueError(f"{beside} is in the way; if an export was killed there, remove it, else choose another -o")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; -o names a folder")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not found:
        return
    if not is_export(folder):
        raise ValueError(f"{folder} is neither empty nor an earlier export; choose another -o")
    if found - CONTENTS:
        raise ValueError(f"{folder} also holds {sorted(found - CONTENTS)[0]}, which no export wrote; move it away or choose another -o")
    if not overwrite:
        raise ValueError(f"{folder} is an earlier export; give --overwrite to replace it, or choose another -o")


def is_export(folder: Path) -> bool:
    from models.release import MERGED, read_generator_config

    try:
        return read_generator_config(folder)["train"] == MERGED
    except ValueError:
        return False


def export(options: "TestOptions", folder: Path, dtype: str, with_onnx: bool) -> list[str]:
    """Writes the folder. Returns lines that say what is in it.

    Raises:
        ValueError: the generator cannot be loaded, the disk is full, or the ONNX file is not the same network. Nothing is written then.
    """
    from data.whole_files import write_folder
    from engine.distributed import dtype_of
    from models.generator import load_generator
    from models.pretrained_files import read_config
    from models.release import base_of, read_generator_config, revision_of
    from tools.exporting.readme import readme

    network = options.network_g
    config = read_generator_config(network.path)
    source = base_of(network.path, config, network.pretrained)
    revision = revision_of(config, source, network.revision)
    scheduler = read_config(source, "scheduler", revision, name="scheduler_config.json")
    how = {"base": network.pretrained, "revision": network.revision, "strength": network.strength}
    generator = load_generator(network.path, **how, dtype=dtype_of(dtype))
    said = [f"merged {network.path} (T_L = {generator.timestep}, x{generator.scale}) in float32, stored as {dtype}"]

    def write(temporary: Path) -> None:
        write_merged(temporary, generator, merged_config(config, dtype, network.strength), scheduler)
        if with_onnx:
            said.append(add_onnx(temporary))
        (temporary / README_FILE).write_text(readme(folder.name, generator, config, dtype, with_onnx))
        open_to_readers(temporary)

    write_folder(folder, write)
    return said


def merged_config(config: dict, dtype: str, strength: float) -> dict:
    """config.json of the folder: what restoring needs, and under `merged_from` the config.json of what was merged."""
    from models.release import CODE_VERSION, MERGED

    origin = config.get("merged_from", config)
    strength = config.get("strength", strength)  # of a merged folder that is exported again
    kept = {name: config[name] for name in ("timestep", "scale", "base")}
    return {"code_version": CODE_VERSION, "train": MERGED, **kept, "dtype": dtype, "strength": strength, "merged_from": origin}


def write_merged(folder: Path, generator: "Generator", config: dict, scheduler: dict) -> None:
    """Everything but README.md and ONNX."""
    from models.release import CONFIG_FILE, save_generator_tensors

    generator.unet.save_pretrained(folder / "unet")
    generator.autoencoder.model.save_pretrained(folder / "vae")
    save_generator_tensors(folder, {"prompt_embedding": generator.prompt_embedding.detach()})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def add_onnx(folder: Path) -> str:
    """Writes model.onnx of a merged folder, from what the folder holds. Returns a line that says how it compares."""
    from models.generator import load_generator
    from tools.exporting.onnx_export import LARGEST_DIFFERENCE, write_onnx

    differences = write_onnx(load_generator(folder), folder / ONNX_FILE)
    shown = ", ".join(f"{difference:.2g} at {width}x{height}" for (height, width), difference in differences.items())
    return f"{ONNX_FILE} against PyTorch, largest difference of [-1, 1]: {shown} (allowed: {LARGEST_DIFFERENCE:g})"


def open_to_readers(folder: Path) -> None:
    """Gives all files the mode that config.json got from the user's umask: safetensors makes its own readable by the owner only."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        from options.d3sr import load_test_options

        options = load_test_options(args.opt, args.force_yml)
        folder = Path(args.output).expanduser().resolve()
        check_output(folder, args.overwrite)
        if args.onnx:
            from tools.exporting.onnx_export import check_packages

            check_packages()
        said = export(options, folder, args.dtype, args.onnx)
    except (ValueError, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    print(*said, f"wrote {args.output}", *(f"  {name:<44}{size / 1e6:>10,.3f} MB" for name, size in sizes.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
