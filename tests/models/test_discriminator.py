"""The diffusion discriminator: one logit per region of the mid block, and what in it trains."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from models.discriminator import Discriminator, realism_head
from tests.tiny_models import discriminator_of, disturb_lora, noise_like

SMALL = {"rank": 4, "alpha": 4, "head_channels": 16, "prompt_tokens": 5}
BASES = pytest.mark.parametrize(("base", "channels", "stride"), [("sd_base", 4, 8), ("sdxl_base", 4, 4), ("tiny_base", 48, 4)])


def build(base: str, request: pytest.FixtureRequest, **options: object) -> Discriminator:
    return discriminator_of(str(request.getfixturevalue(base)), **SMALL | options)


@BASES
def test_one_logit_per_region(base, channels, stride, request):
    discriminator = build(base, request)
    with torch.no_grad():
        (logits,) = discriminator(noise_like(3, channels, 16, 32), torch.tensor([0, 500, 999]))
    assert logits.shape == (3, 16 // stride, 32 // stride) and logits.dtype == torch.float32


def test_logits_are_the_head_over_the_mid_block_of_the_full_unet(sdxl_base):
    """Truth: diffusers' whole UNet under the null condition of SDXL, then the MLP written out."""
    discriminator = discriminator_of(str(sdxl_base), **SMALL, prompt_init="zeros", image_size=256)
    unet = UNet2DConditionModel.from_pretrained(sdxl_base / "unet").requires_grad_(False)
    seen = []
    unet.mid_block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    z, timesteps = noise_like(2, 4, 16, 16), torch.tensor([10, 900])
    added = {"text_embeds": torch.zeros(2, 20), "time_ids": torch.tensor([[256.0, 256, 0, 0, 256, 256]] * 2)}
    unet(z, timesteps, torch.zeros(2, 5, 40), added_cond_kwargs=added)
    first, _, second = discriminator.heads[0]
    hidden = torch.nn.functional.silu(torch.einsum("oc,nchw->nohw", first.weight[..., 0, 0], seen[0]) + first.bias.view(1, -1, 1, 1))
    expected = torch.einsum("c,nchw->nhw", second.weight[0, :, 0, 0], hidden) + second.bias
    torch.testing.assert_close(discriminator(z, timesteps)[0], expected, rtol=1e-4, atol=1e-5)


def test_regions_are_judged_alike():
    """Per position: shuffling the positions of the features shuffles the votes."""
    head, features = realism_head(8, 4, seed=0), noise_like(1, 8, 1, 10)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(features)[..., order], head(features[..., order]))
    assert sum(p.numel() for p in realism_head(1280, 320, 0).parameters()) == 410_241


@pytest.mark.slow
@BASES
def test_everything_that_trains_gets_a_gradient_and_nothing_else(base, channels, stride, request):
    discriminator = build(base, request)
    disturb_lora(discriminator.trunk)
    z = noise_like(2, channels, 16, 16).requires_grad_()
    discriminator(z, torch.tensor([100, 800]))[0].square().mean().backward()
    trained = discriminator.trainable()
    kinds = {name if "." not in name else name.split(".")[0] for name in trained}
    assert kinds == {"prompt_embedding", "trunk", "heads"} | ({"pooled_embedding"} if base == "sdxl_base" else set())
    for name, parameter in discriminator.named_parameters():
        if name in trained:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None and name.startswith("trunk."), name
    assert all(".lora_" in name for name in trained if name.startswith("trunk."))
    assert z.grad.abs().sum() > 0  # the generator learns through it


def test_the_generator_learns_through_a_frozen_discriminator(sd_base):
    discriminator = discriminator_of(str(sd_base), **SMALL).requires_grad_(False)
    z = noise_like(1, 4, 16, 16).requires_grad_()
    assert torch.autograd.grad(discriminator(z, torch.tensor([300]))[0].sum(), z)[0].abs().sum() > 0


def test_the_vote_depends_on_the_timestep(sd_base):
    discriminator = discriminator_of(str(sd_base), **SMALL)
    z = noise_like(1, 4, 16, 16)
    votes = [discriminator(z, torch.tensor([timestep]))[0] for timestep in (0, 999)]
    assert not torch.allclose(*votes, atol=1e-4)


def test_samples_do_not_mix(sdxl_base):
    discriminator = discriminator_of(str(sdxl_base), **SMALL)
    z, timesteps = noise_like(2, 4, 16, 16), torch.tensor([5, 900])
    with torch.no_grad():
        (together,) = discriminator(z, timesteps)
        apart = torch.cat([discriminator(z[i : i + 1], timesteps[i : i + 1])[0] for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_sdxl_starts_from_its_null_condition(sdxl_base):
    discriminator = discriminator_of(str(sdxl_base), **SMALL, prompt_init="zeros")
    assert discriminator.prompt_embedding.shape == (5, 40) and discriminator.prompt_embedding.abs().sum() == 0
    assert discriminator.pooled_embedding.shape == (20,) and discriminator.pooled_embedding.abs().sum() == 0
    assert discriminator.time_ids.tolist() == [512, 512, 0, 0, 512, 512]


def test_half_precision_trunk_with_float32_adapters_and_head(sdxl_base):
    discriminator = discriminator_of(str(sdxl_base), **SMALL, dtype=torch.bfloat16)
    assert {p.dtype for p in discriminator.trainable().values()} == {torch.float32}
    assert discriminator.trunk.conv_in.weight.dtype == torch.bfloat16
    (logits,) = discriminator(noise_like(2, 4, 16, 16), torch.tensor([5, 900]))
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in discriminator.trainable().values())
    (whole,) = discriminator_of(str(sdxl_base), **SMALL)(noise_like(2, 4, 16, 16), torch.tensor([5, 900]))
    torch.testing.assert_close(logits, whole, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("base", ["sd_base", "sdxl_base"])
def test_checkpointing_the_trunk_changes_no_gradient(base, request):
    gradients = []
    for checkpointed in (False, True):
        discriminator = build(base, request)
        disturb_lora(discriminator.trunk)
        if checkpointed:
            discriminator.trunk.enable_gradient_checkpointing()
        z = noise_like(1, 4, 16, 16).requires_grad_()
        discriminator(z, torch.tensor([300]))[0].square().mean().backward()
        gradients.append({name: p.grad for name, p in discriminator.trainable().items()} | {"z": z.grad})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_everything_initial_depends_on_the_seed_only(sd_base):
    states = [discriminator_of(str(sd_base), **SMALL, seed=seed).trainable() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name in ("prompt_embedding", "heads.0.0.weight", "trunk.mid_block.resnets.0.conv1.lora_A.default.weight"):
        assert not torch.equal(states[0][name], states[2][name])


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sd_base", "sdxl_base", "tiny_base"])
def test_every_depth_is_judged_by_a_head_of_its_own(base, request):
    """Truth: what diffusers' own whole UNet makes of it after each down block and after the mid block."""
    discriminator = build(base, request, features="multi")
    unet = UNet2DConditionModel.from_pretrained(request.getfixturevalue(base) / "unet").requires_grad_(False)
    seen = []
    for block in unet.down_blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    unet.mid_block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    z, timesteps = noise_like(2, unet.config.in_channels, 16, 16), torch.tensor([10, 900])
    prompt, added = discriminator.prompt_embedding.detach().expand(2, -1, -1), None
    if base == "sdxl_base":
        added = {"text_embeds": torch.zeros(2, 20), "time_ids": discriminator.time_ids.expand(2, -1)}
    unet(z, timesteps, prompt, added_cond_kwargs=added)
    votes = discriminator(z, timesteps)
    assert len(votes) == len(seen) == len(unet.config.block_out_channels) + 1
    for vote, features, head in zip(votes, seen, discriminator.heads, strict=True):
        torch.testing.assert_close(vote, head(features)[:, 0], rtol=1e-4, atol=1e-5)
    torch.stack([vote.square().mean() for vote in votes]).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in discriminator.heads.parameters())


@pytest.mark.parametrize(("base", "channels"), [("sdxl_base", 4), ("tiny_base", 48)])
def test_all_of_the_trunk_trains_in_float32_if_asked_for(base, channels, request):
    discriminator = build(base, request, train="full", dtype=torch.bfloat16)
    assert set(discriminator.trainable()) == {name for name, _ in discriminator.named_parameters()}
    assert {parameter.dtype for parameter in discriminator.parameters()} == {torch.float32}
    assert not any("lora" in name for name in discriminator.trainable())
    (logits,) = discriminator(noise_like(1, channels, 16, 16), torch.tensor([300]))
    logits.square().mean().backward()
    assert discriminator.trunk.conv_in.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_convolution_trains_beside_the_adapters_if_asked_for(sdxl_base, dtype):
    plain, more = (discriminator_of(str(sdxl_base), **SMALL, dtype=dtype, train_conv_in=wanted) for wanted in (False, True))
    assert set(more.trainable()) - set(plain.trainable()) == {"trunk.conv_in.weight", "trunk.conv_in.bias"}
    assert {parameter.dtype for parameter in more.trainable().values()} == {torch.float32}
    z, timesteps = noise_like(2, 4, 16, 16), torch.tensor([5, 900])
    votes = []
    for discriminator in (plain, more):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            votes.append(discriminator(z, timesteps)[0])
    torch.testing.assert_close(*votes)
    votes[1].square().mean().backward()
    assert more.trunk.conv_in.weight.grad.abs().sum() > 0
