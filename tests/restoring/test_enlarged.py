import numpy as np
import pytest
import torch
import torch.nn.functional as F

from restoring.enlarged import Enlarged, mirrored

SIZES = [
    (13, 29, (52, 116)),
    (13, 29, (35, 78)),
    (1, 1, (4, 4)),
    (1, 50, (3, 165)),
    (40, 31, (20, 16)),
    (30, 20, (480, 320)),
    (33, 50, (33, 50)),
]


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_equals_torchs_bicubic_clamped_and_padded(height, width, size):
    lr = picture(height, width)
    expected = F.interpolate(lr, size, mode="bicubic").clamp(-1, 1)[0].numpy()
    for multiple, before, after in ((1, 0, 0), (16, 0, 0), (16, 16, 24), (1, 3, 2)):
        enlarged = Enlarged(lr, size, multiple, before, after)
        whole = enlarged.window(0, enlarged.height, 0, enlarged.width)
        bottom, right = enlarged.height - size[0] - before, enlarged.width - size[1] - before
        assert enlarged.height % multiple == enlarged.width % multiple == 0
        assert after <= bottom < after + multiple and after <= right < after + multiple
        padded = np.pad(expected, ((0, 0), (before, bottom), (before, right)), mode="reflect")
        np.testing.assert_allclose(whole[0], padded, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_windows_are_cut_from_the_whole(height, width, size):
    enlarged = Enlarged(picture(height, width), size, 8)
    whole = enlarged.window(0, enlarged.height, 0, enlarged.width)
    top, left = enlarged.height // 3, enlarged.width // 2
    for bottom, right in ((top + 1, left + 1), (enlarged.height, enlarged.width)):
        window = enlarged.window(top, bottom, left, right)
        torch.testing.assert_close(window, whole[..., top:bottom, left:right], rtol=0, atol=1e-6)


def test_a_large_picture_lies_where_torch_puts_it():
    lr = picture(2, 3001)
    expected = F.interpolate(lr, (8, 8102), mode="bicubic").clamp(-1, 1)
    torch.testing.assert_close(Enlarged(lr, (8, 8102)).window(0, 8, 8000, 8102), expected[..., 8000:], rtol=0, atol=1e-5)


def test_mirrors_stand_in_the_first_and_last_pixel_and_see_each_other():
    assert mirrored(5, 2, 3).tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    assert mirrored(2, 3, 3).tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert mirrored(1, 2, 2).tolist() == [0] * 5
    assert mirrored(4, 0, 0).tolist() == [0, 1, 2, 3]
