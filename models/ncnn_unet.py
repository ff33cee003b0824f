"""The UNet of a fused generator, computed by ncnn: faster than PyTorch on a CPU without AMX, since it convolves as Winograd did.

tools/export.py --ncnn writes the two files. Needs the package ncnn, see requirements-ncnn.txt.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.fused import FusedGenerator

NCNN_FILES = ("unet.ncnn.param", "unet.ncnn.bin")
"""Layers as text, and their weights, in float32."""
NO_MEMORY = -100  # ncnn's status where it cannot allocate


class NcnnNet:
    """A network of one input and one output as pnnx wrote it, in float32 on the CPU, with as many threads as torch has now.

    Raises:
        ValueError: ncnn is not installed, or a file is missing or damaged.
    """

    def __init__(self, param: Path, weights: Path):
        try:
            import ncnn  # late: optional, see requirements-ncnn.txt
        except ImportError as error:
            raise ValueError("ncnn is not installed: pip install -r requirements-ncnn.txt -c constraints.txt") from error
        for file in (param, weights):
            if not file.is_file():
                raise ValueError(f"no {file}: write it with tools/export.py --ncnn, and set network_g.path to that folder")
        self.matrix, self.net = ncnn.Mat, ncnn.Net()
        option = self.net.opt
        option.num_threads, option.use_vulkan_compute = torch.get_num_threads(), False
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = option.use_bf16_storage = False
        if self.net.load_param(str(param)) or self.net.load_model(str(weights)):
            raise ValueError(f"{param} and {weights.name} are damaged, or of another version of ncnn: export them again")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(C, h, w) float32 -> (K, H, W) float32. Raises MemoryError, or RuntimeError for what ncnn cannot compute."""
        x = np.ascontiguousarray(x)
        extractor = self.net.create_extractor()
        extractor.input("in0", self.matrix(x))  # pnnx's names
        status, result = extractor.extract("out0")
        if status == NO_MEMORY:
            raise MemoryError("ncnn: out of memory")
        if status:
            raise RuntimeError(f"ncnn failed with status {status}")
        return np.array(result)


class NcnnUNet(nn.Module):
    """Latents (N, C, h, w) -> (N, C, h, w), as the `FusedUNet` that was exported, up to rounding; one after another.

    Args:
        net: the exported one.
        fused: says its sizes; nothing else of it is kept.
    """

    def __init__(self, net: NcnnNet, fused: nn.Module):
        super().__init__()
        self.net, self.config, self.conv_in = net, fused.config, fused.conv_in

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(self.net(latent.numpy())) for latent in z])


def use_ncnn(generator: FusedGenerator, folder: str | Path) -> None:
    """Puts the net in `folder` in the place of a float32 generator's UNet, in place; the generator is this folder's own.

    Raises:
        ValueError: as `NcnnNet`.
    """
    assert generator.dtype == torch.float32 and generator.prompt_embedding.device.type == "cpu"
    generator.unet = NcnnUNet(NcnnNet(*(Path(folder) / name for name in NCNN_FILES)), generator.unet)
    generator.memory_format = torch.contiguous_format
