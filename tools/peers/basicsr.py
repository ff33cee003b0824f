"""Real-ESRGAN's second-order degradation out of BasicSR's own functions, from a user's clone: the peer of tools/compare_degradations.py.

The clone's three files are imported one by one: its package needs a generated file, and its releases a torchvision of 2022. The order in
which their functions are called is that of arXiv 2107.10833, Sec. 3, and of Real-ESRGAN's training: on a batch, where kernels, noise levels
and JPEG qualities belong to each picture, but which resize, which noise and which order at the end is drawn once for all of them.
"""

import importlib.util
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from degradations.jpeg import jpeg_compress
from degradations.stage import Degradation, DegradationStage

FILES = {
    "basicsr/data/degradations.py": (
        "random_mixed_kernels",
        "circular_lowpass_kernel",
        "bivariate_Gaussian",
        "bivariate_generalized_Gaussian",
        "bivariate_plateau",
        "random_add_gaussian_noise_pt",
        "random_add_poisson_noise_pt",
    ),
    "basicsr/utils/img_process_util.py": ("filter2D",),
    "basicsr/utils/diffjpeg.py": ("DiffJPEG",),
}
"""What is needed of a clone: file -> its functions and classes."""

RESIZE_MODES = ("area", "bilinear", "bicubic")
MOVED = "torchvision.transforms.functional_tensor"
"""Where BasicSR 1.4.2 looks for `rgb_to_grayscale`; torchvision 0.17 and newer have it in `transforms.functional` alone."""

Jpeg = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(N, 3, H, W) in [0, 1], qualities (N,) -> (N, 3, H, W) in [0, 1]."""


def load_functions(clone: str | Path) -> dict[str, Callable]:
    """BasicSR's functions and classes by name, out of a clone that stays as it is.

    Raises:
        ValueError: a file or a name is missing, or a file cannot be imported here.
    """
    functions = {}
    for file, names in FILES.items():
        path = Path(clone) / file
        if not path.is_file():
            raise ValueError(f"{path}: no such file; expected a clone of https://github.com/XPixelGroup/BasicSR")
        module = _import_file(path)
        for name in names:
            if not hasattr(module, name):
                raise ValueError(f"{path}: has no {name}; expected a clone of https://github.com/XPixelGroup/BasicSR (1.4 or newer)")
            functions[name] = getattr(module, name)
    return functions


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"basicsr_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _moved_in_torchvision():
            spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be imported here: {error}") from error
    return module


@contextmanager
def _moved_in_torchvision() -> Iterator[None]:
    """`from torchvision.transforms.functional_tensor import rgb_to_grayscale` works inside, whatever torchvision this is."""
    from torchvision.transforms.functional import rgb_to_grayscale

    stand_in = ModuleType(MOVED)
    stand_in.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    before = sys.modules.get(MOVED)
    sys.modules[MOVED] = before or stand_in
    try:
        yield
    finally:
        if before is None:
            del sys.modules[MOVED]


def seed_all(*numbers: int) -> None:
    """Seeds the three global generators that BasicSR draws from."""
    python, of_numpy, of_torch = (int(word) for word in np.random.SeedSequence(numbers).generate_state(3))
    random.seed(python)
    np.random.seed(of_numpy)
    torch.manual_seed(of_torch)


def real_jpeg(image: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Our encoder in the place of DiffJPEG, at the nearest whole quality."""
    pictures = [jpeg_compress(picture.permute(1, 2, 0).numpy(), round(float(level))) for picture, level in zip(image, quality, strict=True)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _happens(probability: float) -> bool:
    return np.random.uniform() < probability


class BasicSRPipeline:
    """`pipeline(hr) -> lr` with our numbers (`degradation`, `scale`) and BasicSR's functions; draws from the global generators.

    Args:
        functions: of `load_functions`.
        jpeg: compression in place of BasicSR's DiffJPEG.

    Raises: ValueError for a range that BasicSR's kernels cannot be drawn from.
    """

    def __init__(self, functions: dict[str, Callable], degradation: Degradation, scale: int, *, jpeg: Jpeg | None = None) -> None:
        for stage in degradation.stages:
            if stage.blur_sigma[0] == stage.blur_sigma[1]:
                raise ValueError(f"blur_sigma: BasicSR draws kernels from [low, high] with low < high only, got {list(stage.blur_sigma)}")
        self.functions, self.degradation, self.scale = functions, degradation, scale
        diff_jpeg = functions["DiffJPEG"](differentiable=False)
        self.compress: Jpeg = jpeg or (lambda image, quality: diff_jpeg(image, quality=quality))
        self.widest = max(stage.kernel_range[1] for stage in degradation.stages)

    def smallest_hr(self) -> int:
        """The smallest HR side in pixels that works whatever is drawn: BasicSR's filter2D mirrors half a kernel at each border."""
        stages, half = self.degradation.stages, self.widest // 2
        sides = [stages[0].resize_range[0], *(stage.resize_range[0] / self.scale for stage in stages[1:-1]), 1 / self.scale]
        return math.ceil((half + 1) / min(sides))

    @torch.no_grad()
    def __call__(self, hr: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, H / scale, W / scale) on the grid k / 255."""
        stages, size = self.degradation.stages, (hr.shape[-2] // self.scale, hr.shape[-1] // self.scale)
        image, jpeg_last = hr, _happens(0.5)
        for number, stage in enumerate(stages, start=1):
            if _happens(stage.blur_prob):
                image = self._blur(image, stage)
            image = self._noise(self._resize(image, stage, None if number == 1 else size), stage)
            if number == len(stages) and jpeg_last:
                image = self._end(image, size)
            if _happens(stage.jpeg_prob):
                image = self.compress(image.clamp(0, 1), image.new_empty(len(image)).uniform_(*stage.jpeg_range))
        if not jpeg_last:
            image = self._end(image, size)
        return (image * 255).round().clamp(0, 255) / 255

    def _blur(self, image: torch.Tensor, stage: DegradationStage) -> torch.Tensor:
        return self._filter(image, [self._kernel(stage) for _ in image])

    def _filter(self, image: torch.Tensor, kernels: list[np.ndarray]) -> torch.Tensor:
        """One kernel a picture; all are padded to the widest, so that they make one tensor."""
        padded = [np.pad(kernel, (self.widest - len(kernel)) // 2) for kernel in kernels]
        # DiffJPEG leaves the channels last in memory, which the `view` in filter2D refuses for a batch.
        return self.functions["filter2D"](image.contiguous(), torch.from_numpy(np.stack(padded)).float())

    def _size(self, stage: DegradationStage) -> int:
        return random.randrange(stage.kernel_range[0], stage.kernel_range[1] + 1, 2)

    def _kernel(self, stage: DegradationStage) -> np.ndarray:
        size = self._size(stage)
        if _happens(stage.sinc_prob):
            cut_off = np.random.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi)
            return self.functions["circular_lowpass_kernel"](cut_off, size, pad_to=False)
        return self.functions["random_mixed_kernels"](
            stage.kernel_list,
            stage.kernel_prob,
            size,
            sigma_x_range=stage.blur_sigma,
            sigma_y_range=stage.blur_sigma,
            rotation_range=(-math.pi, math.pi),
            betag_range=stage.betag_range,
            betap_range=stage.betap_range,
            noise_range=None,
        )

    def _resize(self, image: torch.Tensor, stage: DegradationStage, base: tuple[int, int] | None) -> torch.Tensor:
        """Relative to the picture's own size, or to `base` (height, width)."""
        direction = random.choices(("up", "down", "keep"), stage.resize_prob)[0]
        low, high = {"up": (1.0, stage.resize_range[1]), "down": (stage.resize_range[0], 1.0), "keep": (1.0, 1.0)}[direction]
        factor, mode = np.random.uniform(low, high), random.choice(RESIZE_MODES)
        if base is None:
            return F.interpolate(image, scale_factor=factor, mode=mode)
        return F.interpolate(image, size=tuple(int(side * factor) for side in base), mode=mode)

    def _noise(self, image: torch.Tensor, stage: DegradationStage) -> torch.Tensor:
        how = {"gray_prob": stage.gray_noise_prob, "clip": True, "rounds": False}
        if _happens(stage.gaussian_noise_prob):
            return self.functions["random_add_gaussian_noise_pt"](image, sigma_range=stage.noise_range, **how)
        return self.functions["random_add_poisson_noise_pt"](image, scale_range=stage.poisson_scale_range, **how)

    def _end(self, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """To LR's size, then a sinc filter for some of the pictures; a single 1 is the kernel of the others."""
        image = F.interpolate(image, size=size, mode=random.choice(RESIZE_MODES))
        return self._filter(image, [self._final_kernel() for _ in image])

    def _final_kernel(self) -> np.ndarray:
        if not _happens(self.degradation.final_sinc_prob):
            return np.ones((1, 1))
        cut_off = np.random.uniform(math.pi / 3, math.pi)
        return self.functions["circular_lowpass_kernel"](cut_off, self._size(self.degradation.stages[-1]), pad_to=False)
