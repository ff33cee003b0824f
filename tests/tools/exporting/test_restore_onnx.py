"""The example beside an exported model.onnx: its enlargement is torch's, and its tiles join without a seam."""

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")

from tools.exporting.restore_onnx import OVERLAP, TILE, cubic, restore


class Unchanged:
    """A session of a network that changes nothing."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(feeds["lr_up"].shape[2:])
        return [feeds["lr_up"]]


def bicubic(picture: np.ndarray, scale: int) -> np.ndarray:
    """torch's, of (h, w, 3)."""
    lr = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    return torch.nn.functional.interpolate(lr, scale_factor=scale, mode="bicubic")[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("size", "scale"), [(1, 4), (2, 2), (17, 4), (23, 3)])
def test_the_enlargement_is_torchs(size: int, scale: int) -> None:
    random = np.random.default_rng(0).normal(size=(size, 5, 3))
    found = np.einsum("ab,bcd->acd", cubic(size, scale), np.einsum("ab,cbd->cad", cubic(5, scale), random))
    np.testing.assert_allclose(found, bicubic(random, scale), atol=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (TILE, TILE), (TILE + 1, 7), (9, 2 * TILE + 40)])
def test_tiles_cover_any_picture_without_a_seam_and_stay_small(size: tuple[int, int]) -> None:
    rgb, session = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8), Unchanged()
    result = restore(session, 4, rgb)
    assert result.shape == (4 * size[0], 4 * size[1], 3) and result.dtype == np.uint8
    assert np.abs(result - bicubic(rgb, 4).clip(0, 255)).max() <= 0.51
    assert max(map(max, session.sizes)) <= 4 * (TILE + 2 * OVERLAP)
