"""Maps of a network that are too large for its device: kept in host memory, looked at and written window by window."""

import math
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from restoring.host import available_memory
from restoring.tiling import Picture

Box = tuple[int, int, int, int]
"""(top, bottom, left, right) of a window; bottom and right are the first positions behind it."""

RAM_SHARE = 4
"""A store larger than the available memory divided by this lies in a file."""


class Statistics:
    """Mean and squared deviations, per channel, of a map that is seen piece by piece; float64."""

    def __init__(self, channels: int):
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.deviation = torch.zeros(channels, dtype=torch.float64)

    def add(self, tile: Tensor) -> None:
        """Takes in a piece (1, C, h, w): the pairwise update of Chan, Golub and LeVeque (1979)."""
        values = tile[0].flatten(1).to(torch.promote_types(tile.dtype, torch.float32))
        mean = values.mean(dim=1, keepdim=True)
        deviation = (values - mean).square_().sum(dim=1).cpu().double()
        delta = mean[:, 0].cpu().double() - self.mean
        count, total = values.shape[1], self.count + values.shape[1]
        self.deviation += deviation + delta.square() * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    @property
    def finite(self) -> bool:
        """False once a value that is not finite was among the pieces."""
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.deviation).all())

    def of_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (groups,) of `groups` groups of neighbouring channels."""
        means = self.mean.view(groups, -1)
        mean = means.mean(dim=1, keepdim=True)
        deviation = self.deviation.view(groups, -1) + self.count * (means - mean).square()
        return mean[:, 0], deviation.mean(dim=1) / self.count


@dataclass(frozen=True)
class TensorMap:
    """A map that exists as a whole: (1, C, H, W)."""

    values: Tensor

    @property
    def height(self) -> int:
        return self.values.shape[-2]

    @property
    def width(self) -> int:
        return self.values.shape[-1]

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """(1, C, bottom - top, right - left), a view."""
        return self.values[..., top:bottom, left:right]


class Patch:
    """A window of a map, fetched once and looked at several times, by the map's own positions."""

    def __init__(self, source: Picture, box: Box):
        self.height, self.width = source.height, source.width
        self.top, self.left = box[0], box[2]
        self.values = source.window(*box)

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """(1, C, bottom - top, right - left), a view; inside the patch."""
        return self.values[..., top - self.top : bottom - self.top, left - self.left : right - self.left]


class Store:
    """A map (1, C, H, W) in host memory, whatever device computes it.

    In RAM as long as it takes no more than a quarter of what is available, else in a temporary file that is mapped into memory: the
    system then writes out what does not fit, instead of ending the program. The file lies in TMPDIR, or else in /var/tmp, because
    /tmp is often itself in RAM; it has no name any more as soon as it is mapped, so that nothing is left behind (on Windows: until `free`).

    `statistics` is for whoever writes the map to fill, and for the norm that comes next.

    Raises:
        OSError: there is no room for the file.
    """

    def __init__(self, channels: int, height: int, width: int, dtype: torch.dtype, device: torch.device):
        self.height, self.width, self.device = height, width, device
        self.statistics = Statistics(channels)
        self._cleanup = ExitStack()
        shape = (1, channels, height, width)
        if math.prod(shape) * dtype.itemsize * RAM_SHARE <= available_memory():
            self.values = torch.empty(shape, dtype=dtype)
        else:
            self.values = self._mapped(math.prod(shape), dtype).view(shape)

    def _mapped(self, count: int, dtype: torch.dtype) -> Tensor:
        where = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)
        with ExitStack() as leaving:
            folder = leaving.enter_context(tempfile.TemporaryDirectory(prefix="d3sr-", dir=where))
            file = os.path.join(folder, "map")
            _reserve(file, count * dtype.itemsize)
            values = torch.from_file(file, shared=True, size=count, dtype=dtype)
            if os.name != "posix":  # where a file cannot be deleted while it is mapped
                self._cleanup = leaving.pop_all()
        return values

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """(1, C, bottom - top, right - left) on the device; on a CPU a view."""
        return self.values[..., top:bottom, left:right].to(self.device)

    def write(self, box: Box, tile: Tensor) -> None:
        """Puts in a tile (1, C, bottom - top, right - left)."""
        top, bottom, left, right = box
        self.values[..., top:bottom, left:right] = tile

    def free(self) -> None:
        """Gives the memory back at once; the map cannot be looked at any more."""
        del self.values
        self._cleanup.close()


def _reserve(file: str, size: int) -> None:
    """Takes the room on the disk now: a mapped file that finds the disk full when it is written to ends the program."""
    with open(file, "wb") as stream:
        if not hasattr(os, "posix_fallocate"):
            stream.truncate(size)
            return
        try:
            os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            where = os.path.dirname(os.path.dirname(file))
            text = f"no room in {where} for {size / 2**30:.1f} GiB of the VAE's maps ({error.strerror}): set TMPDIR to a larger disk"
            raise OSError(error.errno, text) from error
