import pytest
import torch

from losses.dists import build_dists
from losses.ea_dists import EdgeAware
from losses.lpips_loss import UniformLPIPS
from losses.sobel import sobel


@pytest.fixture(scope="module", params=["dists", "lpips"])
def distance(request, squeezenet):
    return build_dists("squeezenet1_1", "random", None) if request.param == "dists" else UniformLPIPS(squeezenet)


@pytest.mark.parametrize("mode", ["channel", "grey"])
def test_eq_5_computed_in_two_steps(distance, mode, pair):
    sr, hr = pair
    together, apart = sr.clone().requires_grad_(), sr.clone().requires_grad_()
    loss = EdgeAware(distance, sobel_mode=mode)(together, hr)
    expected = distance(apart, hr) + distance(sobel(apart, mode=mode), sobel(hr, mode=mode))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    loss.backward()
    expected.backward()
    assert (together.grad - apart.grad).norm() < 1e-4 * apart.grad.norm()


def test_scores_belong_to_their_own_pair(distance, pair):
    sr, hr = pair
    edge_aware = EdgeAware(distance)
    scores = edge_aware.scores(torch.cat((sr[:1], hr[1:])), hr)
    assert scores[0] > 0.01
    assert scores[1] == pytest.approx(0, abs=1e-6)
    assert edge_aware(sr, hr).item() == pytest.approx(edge_aware.scores(sr, hr).mean().item(), rel=1e-6)


def test_autocast_changes_nothing(distance, pair):
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        sr = pair[0].clone().requires_grad_()
        loss = EdgeAware(distance)(sr, pair[1])
        loss.backward()
        return loss.detach(), sr.grad

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run()
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.0, 1.0), (0.0, 0.0)])
def test_finite_on_flat_pictures(distance, values):
    sr = torch.full((1, 3, 32, 32), values[0], requires_grad=True)
    loss = EdgeAware(distance)(sr, torch.full((1, 3, 32, 32), values[1]))
    loss.backward()
    assert torch.isfinite(loss) and sr.grad.isfinite().all()


def test_finite_where_a_picture_is_flat_in_part(distance, pair):
    sr, hr = (image.clone() for image in pair)
    sr[..., :32] = 1.0
    hr[..., :40] = 1.0
    sr.requires_grad_()
    EdgeAware(distance)(sr, hr).backward()
    assert sr.grad.isfinite().all() and sr.grad.abs().max() > 0


def test_wrong_options_fail_when_it_is_built(distance):
    with pytest.raises(ValueError, match="sobel_mode"):
        EdgeAware(distance, sobel_mode="grau")
    with pytest.raises(ValueError, match="sobel_eps"):
        EdgeAware(distance, sobel_eps=0.0)
