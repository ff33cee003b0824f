"""One operation at a time, on the same picture with the same numbers: how far ours and BasicSR's lie apart, in 8-bit levels."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from degradations.blur import blur
from degradations.jpeg import jpeg_compress
from degradations.kernels import DrawnKernel, build_kernel
from degradations.noise import DrawnNoise, add_noise
from degradations.resize import DrawnResize, resize
from tools.peers.basicsr import RESIZE_MODES, seed_all

AREA_NOTE = "torch counts a pixel that it touches as a whole one, OpenCV counts what it covers"
FACTOR_NOTE = "the first pass tells torch the factor, not the size: the picture slides by up to one of the new pixels; ours keeps its frame"
JPEG_NOTE = "DiffJPEG has the luma table transposed: it treats a picture's rows as the standard treats its columns"
TURNED_NOTE = (
    "DiffJPEG on its side, which undoes that; left: its tables and its result are not rounded to whole numbers, its chroma not smoothed"
)
Row = tuple[str, float, float, str]


def stage_differences(functions: dict[str, Callable], crops: Sequence[torch.Tensor], seed: int) -> list[Row]:
    """(operation, mean and largest |difference| over the `crops` (3, H, W) in [0, 1], note); of noise, of its standard deviation."""
    rows: dict[str, tuple[list[float], list[float], str]] = {}
    for number, crop in enumerate(crops):
        seed_all(seed, number)
        for name, difference, note in _operations(functions, crop, np.random.default_rng([seed, number])):
            means, largest, _ = rows.setdefault(name, ([], [], note))
            means.append(float(difference.mean()))
            largest.append(float(difference.max()))
    return [(name, float(np.mean(means)), max(largest), note) for name, (means, largest, note) in rows.items()]


def _operations(
    functions: dict[str, Callable], crop: torch.Tensor, generator: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, str]]:
    """(name, |ours - BasicSR's| in 8-bit levels, note) of every operation, with numbers from the generator."""
    picture = np.ascontiguousarray(crop.permute(1, 2, 0).numpy())
    for family, theirs, drawn in _kernels(functions, generator):
        kernel = torch.from_numpy(theirs).float()[None]
        yield f"blur, {family}", _apart(blur(picture, build_kernel(drawn)), functions["filter2D"](crop[None], kernel)), ""
    for mode in RESIZE_MODES:
        for direction, factor in (("down", generator.uniform(0.15, 1)), ("up", generator.uniform(1, 1.5))):
            size = tuple(int(side * factor) for side in picture.shape[:2])
            to = DrawnResize(direction=direction, factor=factor, mode=mode, height=size[0], width=size[1])
            theirs = F.interpolate(crop[None], size=size, mode=mode)
            yield f"resize {direction}, {mode}", _apart(resize(picture, to), theirs), AREA_NOTE if mode == "area" else ""
            if mode == "bilinear":
                theirs = F.interpolate(crop[None], scale_factor=factor, mode=mode)
                yield f"resize {direction} by a factor, {mode}", _apart(resize(picture, to), theirs), FACTOR_NOTE
    yield from _jpegs(functions["DiffJPEG"](differentiable=False), crop, picture)
    yield from _noises(functions, crop, picture)


def _kernels(functions: dict[str, Callable], generator: np.random.Generator) -> Iterator[tuple[str, np.ndarray, DrawnKernel]]:
    """(family, BasicSR's kernel, ours as drawn): every family, with random numbers of x4plus's first pass."""
    size = 7 + 2 * int(generator.integers(8))
    (sigma_x, sigma_y), theta = generator.uniform(0.2, 3.0, 2), generator.uniform(-math.pi, math.pi)
    for family, function, beta in (
        ("", "bivariate_Gaussian", None),
        ("generalized_", "bivariate_generalized_Gaussian", generator.uniform(0.5, 4.0)),
        ("plateau_", "bivariate_plateau", generator.uniform(1.0, 2.0)),
    ):
        for shape in ("iso", "aniso"):
            numbers = (size, sigma_x, sigma_y, theta, *(() if beta is None else (beta,)))
            theirs = functions[function](*numbers, isotropic=shape == "iso")
            across = {"sigma_y": sigma_x} if shape == "iso" else {"sigma_y": sigma_y, "theta": theta}
            yield f"{family}{shape}", theirs, DrawnKernel(family=f"{family}{shape}", size=size, sigma_x=sigma_x, beta=beta or 1.0, **across)
    cut_off = generator.uniform(math.pi / 3, math.pi)
    theirs = functions["circular_lowpass_kernel"](cut_off, size, pad_to=False)
    yield "sinc", theirs, DrawnKernel(family="sinc", size=size, omega=cut_off)


@torch.no_grad()
def _jpegs(diff_jpeg: torch.nn.Module, crop: torch.Tensor, picture: np.ndarray) -> Iterator[tuple[str, np.ndarray, str]]:
    for quality in (30, 60, 95):
        ours = jpeg_compress(picture, quality)
        yield f"JPEG {quality}", _apart(ours, diff_jpeg(crop[None], quality=quality)), JPEG_NOTE
        turned = diff_jpeg(crop.mT[None], quality=quality).mT
        yield f"JPEG {quality}, turned", _apart(ours, turned), TURNED_NOTE


def _noises(functions: dict[str, Callable], crop: torch.Tensor, picture: np.ndarray) -> Iterator[tuple[str, np.ndarray, str]]:
    note = "of the noise's standard deviation; the noise itself is random"
    for kind, level, keyword in (("gaussian", 15.0, "sigma_range"), ("poisson", 1.5, "scale_range")):
        for grey in (False, True):
            ours = add_noise(picture, DrawnNoise(kind=kind, level=level, grey=grey, seed=int(torch.randint(2**62, ()))))
            add = functions[f"random_add_{kind}_noise_pt"]
            theirs = add(crop[None], **{keyword: (level, level)}, gray_prob=float(grey), clip=True, rounds=False)
            spread = abs((ours - picture).std() - float((theirs - crop).std(correction=0))) * 255.0
            yield f"{kind} noise, {'grey' if grey else 'colour'}", np.array(spread), note


def _apart(ours: np.ndarray, theirs: torch.Tensor) -> np.ndarray:
    return np.abs(ours - theirs[0].permute(1, 2, 0).numpy()) * 255.0
