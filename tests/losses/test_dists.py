"""Our DISTS against pyiqa's on the same random VGG16 and random alpha and beta, and the light variant against its formula in numpy."""

import numpy as np
import pytest
import torch

from losses.dists import DISTS, build_dists, read_dists_weights

CHANNELS = 3 + 64 + 128 + 256 + 512 + 512


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> str:
    generator = torch.Generator().manual_seed(2)
    path = tmp_path_factory.mktemp("dists") / "weights.pth"
    state = {name: torch.rand(1, CHANNELS, 1, 1, generator=generator) for name in ("alpha", "beta")}
    for value in state.values():
        value[:, :3] *= 100  # or a wrong stage 0 would drown in the other 1472 channels
    torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def ours(vgg, weights_file) -> DISTS:
    alpha, beta = read_dists_weights(weights_file, CHANNELS)
    return DISTS(vgg, alpha=alpha, beta=beta, with_image=True)


@pytest.fixture(scope="module")
def light(squeezenet) -> DISTS:
    return build_dists("squeezenet1_1", "random", None)


def test_equals_pyiqas_in_value_and_gradient(ours, weights_file, pair, patched_torchvision):
    from pyiqa.archs import dists_arch

    theirs = dists_arch.DISTS(pretrained=False, pretrained_model_path=weights_file)
    sr, hr = 0.7 * pair[0] + 0.1, pair[1]  # another brightness and contrast, so that means differ too
    ours_sr, theirs_sr = sr.clone().requires_grad_(), sr.clone().requires_grad_()
    ours_scores, theirs_scores = ours.scores(ours_sr, hr), theirs(theirs_sr, hr).flatten()
    assert theirs_scores.min() > 0.01
    torch.testing.assert_close(ours_scores, theirs_scores, rtol=1e-4, atol=0)
    assert ours(sr, hr).item() == pytest.approx(theirs_scores.mean().item(), rel=1e-4)
    ours_scores.mean().backward()
    theirs_scores.mean().backward()
    assert (ours_sr.grad - theirs_sr.grad).norm() < 1e-3 * theirs_sr.grad.norm()


def test_the_light_variant_equals_its_formula(light, torchvision_squeezenet, pair):
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    stages = []
    x, y = ((image - mean) / std for image in pair)
    for index, layer in enumerate(torchvision_squeezenet):
        x, y = layer(x), layer(y)
        if index in (1, 4, 7, 9):
            stages.append((x.double().numpy().copy(), y.double().numpy().copy()))
    taps = []
    for a, b in stages:
        a, b = a.reshape(*a.shape[:2], -1), b.reshape(*b.shape[:2], -1)
        mean_a, mean_b = a.mean(2), b.mean(2)
        covariance = ((a - mean_a[..., None]) * (b - mean_b[..., None])).mean(2)
        s1 = (2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6)
        s2 = (2 * covariance + 1e-6) / (a.var(2) + b.var(2) + 1e-6)
        taps.append(1 - (s1.mean(1) + s2.mean(1)) / 2)
    np.testing.assert_allclose(light.scores(*pair), np.mean(taps, axis=0), rtol=1e-4)


@pytest.mark.parametrize("name", ["ours", "light"])
def test_zero_for_equal_pictures_and_growing_with_the_noise(name, request, pair):
    distance = request.getfixturevalue(name)
    sr, hr = pair
    assert distance(hr, hr).item() == 0
    assert 0 < distance(hr + 0.3 * (sr - hr), hr) < distance(sr, hr) < 1


@pytest.mark.parametrize("name", ["ours", "light"])
@pytest.mark.parametrize("values", [(0.5, 0.5), (0.0, 0.5), (0.0, 0.0), (1.0, 0.0)])
def test_finite_on_flat_pictures(name, values, request):
    distance = request.getfixturevalue(name)
    sr = torch.full((1, 3, 32, 32), values[0], requires_grad=True)
    score = distance(sr, torch.full((1, 3, 32, 32), values[1]))
    score.backward()
    assert torch.isfinite(score) and sr.grad.isfinite().all()


def test_autocast_changes_nothing(light, pair):
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        sr = pair[0].clone().requires_grad_()
        score = light(sr, pair[1])
        score.backward()
        return score.detach(), sr.grad

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run()
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_half_precision_pictures_are_computed_in_float32(light, pair):
    sr, hr = pair[0].bfloat16(), pair[1].bfloat16()
    assert torch.equal(light(sr, hr), light(sr.float(), hr.float()))


def test_a_kept_description_gives_the_same_score(light, pair):
    kept = light.describe(pair[1])
    assert torch.equal(light.compare(light.describe(pair[0]), kept), light.scores(*pair))


def test_hr_is_described_without_a_graph_unless_it_wants_a_gradient(light, pair):
    sr, hr = pair[0].requires_grad_(), pair[1].clone()
    description = light.describe(hr)
    assert not any(tensor.requires_grad for tensor in (description.means, description.variances, *description.centred))
    light(sr, hr.requires_grad_()).backward()
    assert hr.grad.abs().max() > 0


def test_nothing_can_be_trained(ours, light):
    for distance in (ours, light):
        assert not any(parameter.requires_grad for parameter in distance.parameters())
        assert {"alpha", "beta"} <= {name for name, _ in distance.named_buffers()}
        assert (distance.alpha.sum() + distance.beta.sum()).item() == pytest.approx(1, abs=1e-5)


def test_uniform_vgg_counts_the_six_stages_alike():
    distance = build_dists("vgg16", "random", "uniform")
    for weights in (distance.alpha, distance.beta):
        for stage in weights.split((3, 64, 128, 256, 512, 512)):
            assert stage.sum().item() == pytest.approx(1 / 12, rel=1e-5)


def test_a_missing_file_says_where_it_comes_from():
    with pytest.raises(ValueError, match="DISTS_weights-f5e65c96.pth") as caught:
        build_dists("vgg16", "random", None)
    for words in ("https://", "SHA-256", "f5e65c96", '"uniform"'):
        assert words in str(caught.value)


def test_wrong_weight_files_are_named(tmp_path, weights_file):
    with pytest.raises(ValueError, match="belongs to vgg16"):
        build_dists("squeezenet1_1", "random", weights_file)
    with pytest.raises(ValueError, match="there is no file"):
        build_dists("vgg16", "random", str(tmp_path / "absent.pth"))
    for state in ({"alpha": torch.ones(CHANNELS)}, {"alpha": torch.ones(3), "beta": torch.ones(3)}):
        torch.save(state, tmp_path / "wrong.pth")
        with pytest.raises(ValueError, match="1475 values") as caught:
            build_dists("vgg16", "random", str(tmp_path / "wrong.pth"))
        assert "wrong.pth" in str(caught.value)


def test_pictures_of_two_shapes_are_refused(light, pair):
    with pytest.raises(ValueError, match="of one shape"):
        light(pair[0], pair[1][..., 1:])
