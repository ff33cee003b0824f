import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch

from losses.sobel import sobel, sobel_gradients


def picture(height: int = 13, width: int = 9) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_vertical_step_by_hand():
    image = torch.zeros(1, 3, 3, 4)
    image[..., 2:] = 0.5
    gradient_x, gradient_y = sobel_gradients(image)
    # The right column minus the left one, weighted 1 2 1: 4 * 0.5 on both sides of the step, nothing at the frame.
    expected = torch.tensor([0.0, 2.0, 2.0, 0.0]).expand(1, 3, 3, 4)
    torch.testing.assert_close(gradient_x, expected)
    torch.testing.assert_close(gradient_y, torch.zeros(1, 3, 3, 4))
    for mode in ("channel", "grey"):
        torch.testing.assert_close(sobel(image, mode=mode, eps=1e-12), expected, atol=2e-6, rtol=0)


def test_one_bright_pixel_by_hand():
    image = torch.zeros(1, 3, 3, 3)
    image[..., 1, 1] = 1.0
    root2 = 2**0.5
    expected = torch.tensor([[root2, 2.0, root2], [2.0, 0.0, 2.0], [root2, 2.0, root2]]).expand(1, 3, 3, 3)
    torch.testing.assert_close(sobel(image, eps=1e-12), expected, atol=2e-6, rtol=1e-6)
    with_eps = (expected.square() + 1e-6).sqrt()
    torch.testing.assert_close(sobel(image), with_eps, atol=1e-6, rtol=1e-6)


def test_equals_scipy_and_opencv():
    images = picture()
    ours_x, ours_y = sobel_gradients(images)
    magnitude = sobel(images, mode="channel", eps=1e-12)
    for n in range(2):
        for c in range(3):
            plane = images[n, c].double().numpy()
            scipy_x = scipy.ndimage.sobel(plane, axis=1, mode="nearest")
            scipy_y = scipy.ndimage.sobel(plane, axis=0, mode="nearest")
            np.testing.assert_allclose(ours_x[n, c], scipy_x, atol=1e-6)
            np.testing.assert_allclose(ours_y[n, c], scipy_y, atol=1e-6)
            cv2_x = cv2.Sobel(plane, cv2.CV_64F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
            cv2_y = cv2.Sobel(plane, cv2.CV_64F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
            np.testing.assert_allclose(magnitude[n, c], np.hypot(cv2_x, cv2_y), atol=2e-6)


def test_grey_is_the_magnitude_of_opencvs_grey_picture():
    images = picture()
    edges = sobel(images, mode="grey")
    grey = cv2.cvtColor(images[0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY).astype(np.float64)
    expected = np.hypot(scipy.ndimage.sobel(grey, axis=1, mode="nearest"), scipy.ndimage.sobel(grey, axis=0, mode="nearest"))
    assert edges.shape == images.shape
    for c in range(3):
        np.testing.assert_allclose(edges[0, c], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["channel", "grey"])
def test_flat_pictures_have_no_edges_and_a_zero_gradient(mode):
    image = torch.full((1, 3, 8, 8), 0.7, requires_grad=True)
    edges = sobel(image, mode=mode)
    assert torch.equal(edges, torch.full_like(edges, 1e-6).sqrt())
    edges.sum().backward()
    assert image.grad.abs().max() == 0


def test_gradient_against_finite_differences():
    images = picture(5, 6)[:1].requires_grad_()
    edges = sobel(images)
    weights = torch.rand(edges.shape, generator=torch.Generator().manual_seed(3))
    (edges * weights).sum().backward()
    step = 1e-2
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        ahead, behind = ((sobel(images + s * step * direction).double() * weights).sum() for s in (1, -1))
    assert torch.isclose((images.grad * direction).sum().double(), (ahead - behind) / (2 * step), rtol=1e-2)


def test_autocast_changes_nothing():
    images = picture()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sobel(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, sobel(images))


@pytest.mark.parametrize(("options", "words"), [({"mode": "gray"}, "channel, grey"), ({"eps": 0.0}, "sobel_eps")])
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        sobel(picture(), **options)
