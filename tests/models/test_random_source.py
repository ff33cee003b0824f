"""`random:KIND` in the place of a folder: the tensors that diffusers itself would make, drawn as announced, and the same every time."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from models.backbones import (
    TRUNK_PARTS,
    base_weights,
    load_alphas_cumprod,
    load_autoencoder,
    load_trunk,
    load_unet,
    new_autoencoder,
    new_unet,
)
from models.configs import KNOWN, SMALL_SD_UNET, SMALL_TAESD
from models.diffusion import scaled_linear_alphas_cumprod
from models.generator import base_fingerprint, use_fast_vae
from models.pretrained_files import read_config
from models.random_source import BLOCK, kind_and_seed, random_tensors
from models.sizes import UnknownSizesError, meta_discriminator, meta_generator
from tests.tiny_models import discriminator_of, discriminator_settings, generator_of, generator_settings


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", ["small-sd", "small-sdxl", "tiny"])
def test_a_unet_is_the_one_that_diffusers_makes(kind):
    unet = load_unet(f"random:{kind}")
    assert shapes(unet) == shapes(new_unet(KNOWN[kind]["unet"]))
    assert not any(p.requires_grad for p in unet.parameters()) and not unet.training
    assert shapes(load_trunk(f"random:{kind}")) == {name: shape for name, shape in shapes(unet).items() if name.startswith(TRUNK_PARTS)}


@pytest.mark.parametrize(("source", "subfolder"), [("small-sd", "vae"), ("small-taesd", ""), ("tiny", "vae")])
def test_an_autoencoder_is_the_one_that_diffusers_makes(source, subfolder):
    assert shapes(load_autoencoder(f"random:{source}", subfolder=subfolder)) == shapes(new_autoencoder(KNOWN[source][subfolder]))


def test_norms_biases_and_the_rest_are_as_announced():
    unet = load_unet("random:small-sd")
    norms = {f"{name}.weight" for name, layer in unet.named_modules() if isinstance(layer, (torch.nn.GroupNorm, torch.nn.LayerNorm))}
    for name, tensor in unet.state_dict().items():
        if tensor.ndim == 1:
            assert torch.equal(tensor, torch.full_like(tensor, float(name in norms))), name
        elif tensor.numel() > 2000:
            deviation = tensor.std() * math.sqrt(tensor[0].numel())
            assert deviation.item() == pytest.approx(1, abs=5 / math.sqrt(tensor.numel())), name


def test_more_numbers_than_are_drawn():
    """Several times the block: the same numbers again after BLOCK of them, and still no two rows alike."""
    (tensor,) = random_tensors({"a.weight": torch.Size((2_000, 500))}, 0, torch.float32).values()
    flat = tensor.flatten()
    assert torch.equal(flat[BLOCK:], flat[:-BLOCK]) and len(flat[:BLOCK].unique()) > 3_000
    assert len(tensor.unique(dim=0)) == 2_000
    assert torch.corrcoef(tensor[::250]).triu(1).abs().max() < 0.2


@pytest.mark.slow
def test_a_tensor_is_the_same_whatever_else_is_made_and_in_every_precision():
    everything = base_weights("random:small-sdxl", "unet")
    kept = base_weights("random:small-sdxl", "unet", keep=lambda name: name.startswith("mid_block."))
    assert kept and all(torch.equal(tensor, everything[name]) for name, tensor in kept.items()) and len(kept) < len(everything)
    half, bf16 = (base_weights("random:small-sdxl", "unet", dtype=dtype) for dtype in (torch.float16, torch.bfloat16))
    assert all(torch.equal(tensor, half[name].float()) for name, tensor in everything.items())
    assert all(torch.equal(bf16[name], half[name].bfloat16()) for name in half)
    assert base_fingerprint("random:small-sd") == base_fingerprint("random:small-sd:0") != base_fingerprint("random:small-sd:1")


def test_tensors_share_no_memory():
    tensors = random_tensors({"a.weight": torch.Size((3, 4)), "b.weight": torch.Size((3, 4))}, 0, torch.float32)
    before = tensors["b.weight"].clone()
    tensors["a.weight"].zero_()
    assert torch.equal(tensors["b.weight"], before)
    assert all(tensor.untyped_storage().nbytes() == 48 for tensor in tensors.values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_players_give_finite_numbers_of_moderate_size(dtype):
    """Half precision too: activations keep their size from layer to layer."""
    generator = generator_of("random:small-sd", rank=2, alpha=2, prompt_tokens=3, dtype=dtype)
    use_fast_vae(generator, "random:small-taesd", "decoder")
    generator.autoencoder.to(dtype)
    discriminator = discriminator_of("random:small-sdxl", rank=2, alpha=2, prompt_tokens=3, head_channels=4, dtype=dtype)
    lr = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z = generator.encode(generator.upsample(lr, (64, 64)))
        sr, z_hat = generator(lr)
        logits = discriminator(z_hat, torch.tensor([5]))
    assert all(torch.isfinite(votes).all() for votes in logits)
    for tensor in (z / 0.18215, z_hat, sr):
        assert torch.isfinite(tensor).all() and 0.1 < tensor.float().std() < 10


def test_the_schedule_is_stable_diffusions():
    assert torch.equal(load_alphas_cumprod("random:small-sd"), scaled_linear_alphas_cumprod())


@pytest.mark.slow
def test_the_plans_are_those_of_the_real_ones():
    generator, discriminator = generator_of("random:small-sd", vae="random:small-taesd"), discriminator_of("random:small-sdxl")
    planned = meta_generator(generator_settings("random:small-sd", vae="random:small-taesd"))
    assert shapes(planned) == shapes(generator)
    assert shapes(meta_discriminator(discriminator_settings("random:small-sdxl"))) == shapes(discriminator)
    assert read_config("random:small-sd", "unet") == SMALL_SD_UNET and read_config("random:small-taesd", "") == SMALL_TAESD


@pytest.mark.parametrize(
    ("source", "subfolder", "said"),
    [
        ("random:sd3", "unet", r"'random:sd3': expected random:KIND or random:KIND:SEED; kinds: sd15, sd21-base, "),
        ("random:", "unet", "expected random:KIND"),
        ("random:tiny:x", "unet", "expected random:KIND or random:KIND:SEED"),
        ("random:taesd", "unet", "'random:taesd': it has no unet, it is an autoencoder alone"),
        ("random:small-sd", "", "'random:small-sd': expected an autoencoder: taesd, small-taesd"),
    ],
)
def test_mistakes_are_named(source, subfolder, said):
    with pytest.raises(ValueError, match=said):
        read_config(source, subfolder)
    plan = generator_settings("random:small-sd", vae=source) if subfolder == "" else generator_settings(source)
    with pytest.raises(UnknownSizesError, match=said):
        meta_generator(plan)


def test_the_seed_is_a_number_after_the_kind():
    assert kind_and_seed("random:tiny") == ("tiny", 0) and kind_and_seed("random:tiny:12") == ("tiny", 12)


def test_a_folder_of_the_same_weights_is_the_same_base(tmp_path):
    """What is drawn is what a file of those tensors gives when it is read."""
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL_SD_UNET))
    save_file(base_weights("random:small-sd", "unet", dtype=torch.float16), folder / "diffusion_pytorch_model.safetensors")
    read, drawn = load_unet(str(tmp_path)).state_dict(), load_unet("random:small-sd").state_dict()
    assert read.keys() == drawn.keys() and all(torch.equal(read[name], drawn[name]) for name in read)
