import pytest
import torch
import torch.nn.functional as F

from restoring.enlarged import Enlarged, extended

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
    expected = F.interpolate(lr, size, mode="bicubic").clamp(-1, 1)
    for multiple in (1, 16):
        enlarged = Enlarged(lr, size, multiple)
        whole = enlarged.window(0, enlarged.height, 0, enlarged.width)
        bottom, right = enlarged.height - size[0], enlarged.width - size[1]
        assert 0 <= bottom < multiple and 0 <= right < multiple
        padded = F.pad(expected, (0, 0, 0, bottom), mode="reflect" if bottom < size[0] else "replicate")
        padded = F.pad(padded, (0, right, 0, 0), mode="reflect" if right < size[1] else "replicate")
        torch.testing.assert_close(whole, padded, rtol=0, atol=5e-6)


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


def test_extension_reflects_where_it_can_and_replicates_where_it_cannot():
    assert extended(5, 8).tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert extended(3, 8).tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert extended(4, 4).tolist() == [0, 1, 2, 3]
