"""A trained generator as one folder that needs nothing else: written whole or not at all, never over what is no export."""

import json
import shutil
from pathlib import Path

from data.whole_files import refuse_leftovers, write_folder
from engine.distributed import dtype_of
from models.backbones import save_unet
from models.generator import Generator, load_generator
from models.ncnn_unet import NCNN_FILES
from models.pretrained_files import read_config
from models.release import CODE_VERSION, CONFIG_FILE, MERGED, base_of, read_generator_config, revision_of, save_generator_tensors
from options.d3sr import TestOptions
from tools.exporting import ncnn_export, onnx_export
from tools.exporting.readme import readme

ONNX_FILE, README_FILE = "model.onnx", "README.md"
EXAMPLE = Path(__file__).with_name("restore_onnx.py")
CONTENTS = {"config.json", "generator.safetensors", "unet", "vae", "scheduler", README_FILE}
CONTENTS |= {ONNX_FILE, ONNX_FILE + ".data", EXAMPLE.name, *NCNN_FILES}


def export(options: TestOptions, folder: Path, dtype: str, *, with_onnx: bool, with_ncnn: bool, overwrite: bool) -> list[str]:
    """Writes the folder. Returns lines that say what is in it.

    Raises:
        ValueError: something is in the way, a package is missing, the generator cannot be loaded, the disk is full, or the ONNX or
            ncnn files are not the same network. Nothing is written then.
    """
    check_output(folder, overwrite)
    if with_onnx:
        onnx_export.check_packages()
    if with_ncnn:
        ncnn_export.check_packages()
    network = options.network_g
    config = read_generator_config(network.path)
    source = base_of(network.path, config, network.pretrained)
    revision = revision_of(config, source, network.revision)
    scheduler = read_config(source, "scheduler", revision, name="scheduler_config.json")
    generator = load_generator(
        network.path, base=network.pretrained, revision=network.revision, strength=network.strength, dtype=dtype_of(dtype)
    )
    lines = [f"merged {network.path} (T_L = {generator.timestep}, x{generator.scale}) in float32, stored as {dtype}"]

    def write(temporary: Path) -> None:
        write_merged(temporary, generator, merged_config(config, dtype, network.strength), scheduler)
        if with_onnx:
            lines.append(add_onnx(temporary))
        if with_ncnn:
            difference = ncnn_export.write_ncnn(load_generator(temporary), temporary)
            lines.append(f"{NCNN_FILES[0]} against PyTorch, largest difference relative to the largest value: {difference:.2g}")
        (temporary / README_FILE).write_text(readme(folder.name, generator, config, dtype, with_onnx, with_ncnn), encoding="utf-8")
        open_to_readers(temporary)

    write_folder(folder, write)
    return lines


def check_output(folder: Path, overwrite: bool) -> None:
    """Raises ValueError where writing `folder` would destroy what is there."""
    refuse_leftovers(folder)
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
    """Whether it is what this module writes."""
    try:
        return read_generator_config(folder)["train"] == MERGED
    except ValueError:
        return False


def merged_config(config: dict, dtype: str, strength: float) -> dict:
    """config.json of the folder: what restoring needs, and under `merged_from` the config.json of what was merged."""
    origin = config.get("merged_from", config)
    strength = config.get("strength", strength)  # of a merged folder that is exported again
    kept = {name: config[name] for name in ("timestep", "scale", "base")}
    return {"code_version": CODE_VERSION, "train": MERGED, **kept, "dtype": dtype, "strength": strength, "merged_from": origin}


def write_merged(folder: Path, generator: Generator, config: dict, scheduler: dict) -> None:
    """Everything but README.md and ONNX."""
    save_unet(folder / "unet", generator.unet)
    generator.autoencoder.model.save_pretrained(folder / "vae")
    save_generator_tensors(folder, {"prompt_embedding": generator.prompt_embedding.detach()})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n", encoding="utf-8")
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def add_onnx(folder: Path) -> str:
    """Writes model.onnx of a merged folder, from what the folder holds, and a program for it. Returns a line that says how it compares."""
    shutil.copyfile(EXAMPLE, folder / EXAMPLE.name)
    differences = onnx_export.write_onnx(load_generator(folder), folder / ONNX_FILE)
    shown = ", ".join(f"{difference:.2g} at {width}x{height}" for (height, width), difference in differences.items())
    return f"{ONNX_FILE} against PyTorch, largest difference of [-1, 1]: {shown} (allowed: {onnx_export.LARGEST_DIFFERENCE:g})"


def open_to_readers(folder: Path) -> None:
    """Gives all files the mode that config.json got from the user's umask: safetensors makes its own readable by the owner only."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
