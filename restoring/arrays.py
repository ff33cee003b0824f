"""Pictures as programs hold them (NumPy arrays or tensors, 8 bit, 16 bit or float, grey or colour) and as networks take them."""

import numpy as np
import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # BT.601, what every decoder calls the grey of a colour
LEVELS = {torch.uint8: 255, torch.uint16: 65535}


def to_batch(image: np.ndarray | Tensor) -> Tensor:
    """One picture as (1, 3, H, W) float32 in [0, 1]; grey is repeated.

    image: an array (H, W), (H, W, 1) or (H, W, 3), or a tensor (1, H, W), (3, H, W) or a batch of one such tensor; uint8, uint16, or any
        float in [0, 1].
    Raises ValueError for anything else, values outside of [0, 1] and not finite ones included.
    """
    planes = _planes(image)
    if planes.dtype in LEVELS:
        batch = planes.float() / LEVELS[planes.dtype]
    elif planes.dtype.is_floating_point:
        batch = planes.float()
        if not ((batch >= 0) & (batch <= 1)).all():
            raise ValueError("a picture of floats must lie in [0, 1] and be finite; divide by its white level first")
    else:
        raise ValueError(f"a picture must be uint8, uint16 or float, got {planes.dtype}")
    return batch.expand(3, -1, -1)[None]


class Canvas:
    """The result of a restoration, filled row by row: of the kind, layout, depth and colours of the picture it was made from.

    image: what `to_batch` took; size: (H, W) of the result. `image` is complete when all rows were put.
    """

    def __init__(self, image: np.ndarray | Tensor, size: tuple[int, int]):
        channels = len(_planes(image))
        if isinstance(image, np.ndarray):
            self.image = np.empty((*size, *image.shape[2:]), image.dtype)
        else:
            self.image = torch.empty((*image.shape[:-2], *size), dtype=image.dtype, device=image.device)
        self._planes = _planes(self.image)
        assert len(self._planes) == channels

    def put(self, top: int, rows: Tensor) -> None:
        """rows: (1, 3, r, W) float in [0, 1], clamped here; integers are rounded half up."""
        rows = rows[0].clamp(0, 1)
        target = self._planes[:, top : top + rows.shape[-2]]
        if len(target) == 1:
            rows = (rows * rows.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
        if target.dtype in LEVELS:
            # numpy's casts, because torch has hardly any operator for uint16
            levels = (rows.float() * LEVELS[target.dtype] + 0.5).floor().cpu()
            rows = levels.to(target.dtype)
        target.copy_(rows)


def _planes(image: np.ndarray | Tensor) -> Tensor:
    """(C, H, W), C 1 or 3, a view of the picture's own memory."""
    if isinstance(image, np.ndarray):
        planes = torch.from_numpy(image)
        planes = planes.permute(2, 0, 1) if planes.ndim == 3 else planes[None] if planes.ndim == 2 else planes
    else:
        planes = image[0] if image.ndim == 4 and len(image) == 1 else image
    if planes.ndim != 3 or planes.shape[0] not in (1, 3) or 0 in planes.shape:
        raise ValueError(f"a picture must be an array (H, W), (H, W, 1) or (H, W, 3), or a tensor (1 or 3, H, W); got {tuple(image.shape)}")
    return planes
