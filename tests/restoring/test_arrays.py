import numpy as np
import pytest
import torch

from restoring.arrays import Canvas, to_batch

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        COLOR,
        COLOR.astype(np.uint16) * 257,
        (COLOR / 255).astype(np.float32),
        COLOR / 255,
        torch.from_numpy(COLOR.transpose(2, 0, 1).copy()),
        torch.from_numpy(COLOR.transpose(2, 0, 1) / 255).half(),
        torch.from_numpy(COLOR.transpose(2, 0, 1).copy())[None],
    ],
)
def test_every_kind_of_colour_picture_is_the_same_batch_and_comes_back(image):
    batch = to_batch(image)
    assert batch.dtype == torch.float32 and batch.shape == (1, 3, 5, 7)
    expected = torch.from_numpy(COLOR.transpose(2, 0, 1) / 255)[None].float()
    torch.testing.assert_close(batch, expected, rtol=0, atol=5e-4 if getattr(image, "dtype", None) == torch.float16 else 1e-7)
    canvas = Canvas(image, (5, 7))
    canvas.put(0, batch[..., :2, :])
    canvas.put(2, batch[..., 2:, :])
    assert type(canvas.image) is type(image) and canvas.image.dtype == image.dtype and canvas.image.shape == image.shape
    assert (torch.as_tensor(canvas.image).double() - torch.as_tensor(image).double()).abs().max() <= 1e-6


@pytest.mark.parametrize(
    "image", [COLOR[..., 0], COLOR[..., :1], torch.from_numpy(COLOR[..., 0].copy())[None], COLOR[..., 0].astype(np.uint16)]
)
def test_grey_stays_grey(image):
    batch = to_batch(image)
    assert batch.shape == (1, 3, 5, 7) and batch[:, 0].equal(batch[:, 2])
    canvas = Canvas(image, (10, 14))
    colors = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1).expand(1, 3, 10, 14)
    canvas.put(0, colors)
    assert canvas.image.shape == (10, 14, *image.shape[2:]) if isinstance(image, np.ndarray) else canvas.image.shape == (1, 10, 14)
    white = 65535 if image.dtype == np.uint16 else 255
    assert int(torch.as_tensor(canvas.image).flatten()[0]) == int((0.299 + 0.587 * 0.5 + 0.114 * 0.25) * white + 0.5)


def test_integers_are_rounded_half_up_and_clamped():
    canvas = Canvas(np.zeros((1, 4), np.uint8), (1, 4))
    canvas.put(0, torch.tensor([-0.2, 1.4, 0.5 / 255, 1.4999 / 255]).view(1, 1, 1, 4).expand(1, 3, 1, 4))
    assert canvas.image.tolist() == [[0, 255, 1, 1]]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((4, 4, 4), np.uint8), "4, 4, 4"),
        (np.zeros((0, 4, 3), np.uint8), "0, 4, 3"),
        (np.zeros(4, np.uint8), "tensor"),
        (torch.zeros(2, 3, 4, 4), "2, 3, 4, 4"),
        (np.full((4, 4), 255.0), "white level"),
        (np.full((4, 4), np.nan), "finite"),
        (np.zeros((4, 4), np.int32), "int32"),
    ],
)
def test_what_is_no_picture_is_refused(image, expected):
    with pytest.raises(ValueError, match=expected):
        to_batch(image)
