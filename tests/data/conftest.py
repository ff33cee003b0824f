"""Pictures whose pixels say where they come from: R = row, G = column, B = number of the file. So a crop can be located from its pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def located(height: int, width: int, number: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=2).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five located pictures of different sizes: hr/0.png ... hr/4.png, sides 40..60 by 50..70."""
    root = tmp_path / "hr"
    root.mkdir()
    for number in range(5):
        Image.fromarray(located(40 + 5 * number, 70 - 5 * number, number)).save(root / f"{number}.png")
    return root
