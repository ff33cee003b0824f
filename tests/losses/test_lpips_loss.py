"""LPIPS against the lpips package built the ordinary way, on the same random trunks."""

import pytest
import torch

from losses.lpips_loss import LPIPS, UniformLPIPS


@pytest.fixture(scope="module")
def calibrated() -> LPIPS:
    return LPIPS("vgg16", "random")


@pytest.fixture(scope="module")
def uniform(squeezenet) -> UniformLPIPS:
    return UniformLPIPS(squeezenet)


def reference(net: str):
    import lpips

    return lpips.LPIPS(net=net, verbose=False)  # patched torchvision: "pretrained" is the random trunk, the heads are the shipped ones


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("backbone", "net"), [("vgg16", "vgg"), ("squeezenet1_1", "squeeze")])
def test_equals_the_package_on_minus_one_to_one(backbone, net, calibrated, pair, patched_torchvision):
    ours = calibrated if backbone == "vgg16" else LPIPS(backbone, "random")
    sr, hr = pair
    ours_sr, theirs_sr = sr.clone().requires_grad_(), sr.clone().requires_grad_()
    scores, expected = ours.scores(ours_sr, hr), reference(net)(2 * theirs_sr - 1, 2 * hr - 1).flatten()
    assert expected.min() > 0
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=0)
    assert ours(sr, hr).item() == pytest.approx(expected.mean().item(), rel=1e-5)
    scores.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours_sr.grad, theirs_sr.grad, rtol=1e-3, atol=1e-3 * theirs_sr.grad.abs().max().item())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_uniform_equals_the_package_with_its_heads_set_to_uniform(uniform, pair, patched_torchvision):
    theirs = reference("squeeze")
    for index, head in enumerate(theirs.lins):
        head.model[-1].weight.data.fill_(0.25 if index < 4 else 0.0)
    torch.testing.assert_close(uniform.scores(*pair), theirs(*pair, normalize=True).flatten(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["calibrated", "uniform"])
def test_frozen_and_free_of_dropout_even_in_train_mode(name, request, pair):
    distance = request.getfixturevalue(name)
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert all(tensor.device.type == "cpu" for tensor in (*distance.parameters(), *distance.buffers()))
    expected = distance(*pair)
    distance.train()
    assert torch.equal(distance(*pair), expected)
    distance.eval()


def test_building_it_leaves_the_global_generator_alone(recwarn):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    LPIPS("squeezenet1_1", "random")
    assert torch.equal(before, torch.get_rng_state())
    assert not [warning for warning in recwarn if "pretrained" in str(warning.message)]


@pytest.mark.parametrize("name", ["calibrated", "uniform"])
def test_autocast_changes_nothing(name, request, pair):
    distance = request.getfixturevalue(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = distance(*pair)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, distance(*pair))


@pytest.mark.parametrize("name", ["calibrated", "uniform"])
@pytest.mark.parametrize("values", [(0.5, 0.5), (0.0, 0.5), (0.0, 0.0)])
def test_finite_on_flat_pictures(name, values, request):
    sr = torch.full((1, 3, 32, 32), values[0], requires_grad=True)
    score = request.getfixturevalue(name)(sr, torch.full((1, 3, 32, 32), values[1]))
    score.backward()
    assert torch.isfinite(score) and sr.grad.isfinite().all()


def test_uniform_is_finite_where_a_whole_position_is_dead(squeezenet):
    class Dead(torch.nn.Module):
        def forward(self, images):
            return [images * 0, images]

    sr = torch.rand(1, 3, 4, 4, requires_grad=True)
    UniformLPIPS(Dead())(sr, torch.rand(1, 3, 4, 4)).backward()
    assert sr.grad.isfinite().all()


def test_pictures_of_two_shapes_are_refused(uniform, pair):
    with pytest.raises(ValueError, match="of one shape"):
        uniform(pair[0][:, :1], pair[1][:, :1])


def test_an_unknown_backbone_gets_the_choices():
    with pytest.raises(ValueError, match="vgg16, squeezenet1_1"):
        LPIPS("alex", "random")
