"""Adapters: what they sit on, what they start as, how they are merged, and that diffusers itself reads our file."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from models.backbones import load_unet
from models.lora import LORA_TARGETS, add_lora, cast_inputs, load_lora_state, lora_parameters, lora_state, merge_lora, read_lora, save_lora
from tests.tiny_models import SCHEDULE, disturb_lora, noise_like


@pytest.fixture
def unet(sd_base) -> torch.nn.Module:
    return load_unet(str(sd_base))


def run(unet: torch.nn.Module) -> torch.Tensor:
    weight = unet.conv_in.weight
    with torch.no_grad():
        return unet(noise_like(1, 4, 16, 16).to(weight.dtype), torch.tensor([399]), noise_like(1, 5, 24, seed=1).to(weight.dtype)).sample


def expected_shapes(unet: torch.nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """From the list alone: A is the layer with `rank` outputs, B goes from `rank` to its outputs, 1 x 1 for a convolution."""
    shapes = {}
    for name, layer in unet.named_modules():
        if any(name == target or name.endswith("." + target) for target in LORA_TARGETS):
            outputs, *rest = layer.weight.shape
            shapes[f"{name}.lora_A.weight"] = (rank, *rest)
            shapes[f"{name}.lora_B.weight"] = (outputs, rank, *[1] * (len(rest) - 1))
    return shapes


def test_adapters_sit_on_the_papers_layers(unet):
    expected = expected_shapes(unet, 4)
    add_lora(unet, 4, 4)
    assert {name: tuple(tensor.shape) for name, tensor in lora_state(unet).items()} == expected
    kinds = {name.rsplit(".lora_", 1)[0].split(".")[-1] for name in expected}
    assert {
        "to_q",
        "to_k",
        "to_v",
        "0",
        "proj_in",
        "proj_out",
        "proj",
        "2",
        "conv1",
        "conv2",
        "conv_shortcut",
        "conv",
        "time_emb_proj",
    } == kinds


def test_the_start_is_the_identity_to_the_bit(unet):
    before = run(unet)
    add_lora(unet, 4, 8)
    assert torch.equal(run(unet), before)
    disturb_lora(unet)
    assert (run(unet) - before).abs().max() > 1e-3


def test_only_adapters_train(unet):
    add_lora(unet, 4, 4)
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trained and all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert len(trained) == len(lora_parameters(unet)) == len(lora_state(unet))


@pytest.mark.slow
def test_adapters_are_float32_on_half_precision_weights(sd_base):
    unet = load_unet(str(sd_base), dtype=torch.bfloat16)
    before = run(unet)
    add_lora(unet, 4, 4)
    assert {p.dtype for p in lora_parameters(unet)} == {torch.float32}
    assert unet.conv_in.weight.dtype == torch.bfloat16
    assert torch.equal(run(unet), before)
    disturb_lora(unet)
    loss = unet(noise_like(1, 4, 16, 16).bfloat16(), torch.tensor([399]), noise_like(1, 5, 24).bfloat16()).sample.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in lora_parameters(unet))


@pytest.mark.slow
def test_the_start_depends_on_the_seed_only(sd_base):
    states = []
    for seed in (0, 0, 1):
        unet = load_unet(str(sd_base))
        add_lora(unet, 4, 4, seed=seed)
        states.append(lora_state(unet)["mid_block.resnets.0.conv1.lora_A.weight"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_targets_that_match_nothing_are_refused(unet):
    with pytest.raises(ValueError, match="nothing_like_this"):
        add_lora(unet, 4, 4, targets=("nothing_like_this",))


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4), (4, 8), (8, 2)])
def test_merging_is_the_adapters(unet, tmp_path, rank, alpha):
    """alpha / rank counts: here with alpha unlike the rank, too."""
    plain = copy.deepcopy(unet)
    add_lora(unet, rank, alpha)
    disturb_lora(unet)
    save_lora(tmp_path / "lora.safetensors", unet)
    state, scale = read_lora(tmp_path / "lora.safetensors")
    assert scale == alpha / rank
    before = run(plain)
    merge_lora(plain, state, scale)
    torch.testing.assert_close(run(plain), run(unet), rtol=1e-5, atol=1e-5)
    assert (run(plain) - before).abs().max() > 1e-2


def test_merging_by_hand(unet):
    """W + scale * B A for a linear layer, and the convolution of the convolutions for a 3 x 3 one."""
    linear, conv = "mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"
    add_lora(unet, 4, 4, targets=("proj_in", "conv1"))
    disturb_lora(unet)
    state = lora_state(unet)
    a, b = state[f"{linear}.lora_A.weight"], state[f"{linear}.lora_B.weight"]
    down, up = state[f"{conv}.lora_A.weight"], state[f"{conv}.lora_B.weight"]
    wrapped = dict(unet.named_modules())
    old = {name: wrapped[name].base_layer.weight.clone() for name in (linear, conv)}
    merged = torch.nn.Module()
    with torch.random.fork_rng(devices=[]):
        merged.add_module("linear", torch.nn.Linear(*reversed(old[linear].shape)))
        merged.add_module("conv", torch.nn.Conv2d(*reversed(old[conv].shape[:2]), 3, padding=1, bias=False))
    with torch.no_grad():
        merged.linear.weight.copy_(old[linear])
        merged.conv.weight.copy_(old[conv])
    renamed = {
        key.replace(linear, "linear").replace(conv, "conv"): v for key, v in state.items() if key.startswith((linear + ".", conv + "."))
    }
    merge_lora(merged, renamed, 0.5)
    torch.testing.assert_close(merged.linear.weight, old[linear] + 0.5 * b @ a)
    x = noise_like(1, down.shape[1], 5, 5)
    once = torch.nn.functional.conv2d(x, old[conv], padding=1)
    twice = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up)
    torch.testing.assert_close(merged.conv(x), once + 0.5 * twice, rtol=1e-4, atol=1e-4)


def test_merging_into_another_model_is_refused(unet):
    with pytest.raises(ValueError, match="a layer 'elsewhere' that this UNet does not have"):
        merge_lora(unet, {"elsewhere.lora_A.weight": torch.ones(1, 1), "elsewhere.lora_B.weight": torch.ones(1, 1)}, 1.0)


def test_merging_nothing_is_refused(unet):
    """Names of another convention (lora.down) would otherwise be passed over without a word."""
    with pytest.raises(ValueError, match="it is no adapter of this project"):
        merge_lora(unet, {"mid_block.attentions.0.proj_in.lora.down.weight": torch.ones(4, 64)}, 1.0)


@pytest.mark.slow
def test_saved_and_read_back(unet, tmp_path):
    add_lora(unet, 4, 4)
    disturb_lora(unet)
    save_lora(tmp_path / "lora.safetensors", unet)
    other = load_unet_with_lora(unet)
    load_lora_state(other, read_lora(tmp_path / "lora.safetensors")[0])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(unet.parameters(), other.parameters(), strict=True))
    assert all(p.requires_grad for p in lora_parameters(other))


def load_unet_with_lora(unet: torch.nn.Module) -> torch.nn.Module:
    """The same model with its adapters back at the start."""
    other = copy.deepcopy(unet)
    with torch.no_grad():
        for parameter in lora_parameters(other):
            parameter.zero_()
    return other


def test_another_state_can_be_saved_in_place_of_the_current_one(unet, tmp_path):
    add_lora(unet, 4, 4)
    doubled = {name: 2 * tensor for name, tensor in lora_state(unet).items()}
    save_lora(tmp_path / "lora.safetensors", unet, doubled)
    state, _ = read_lora(tmp_path / "lora.safetensors")
    assert set(state) == set(doubled) and all(torch.equal(state[name], doubled[name]) for name in state)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "targets"), [(8, LORA_TARGETS), (4, ("to_q", "to_k"))])
def test_adapters_of_other_sizes_are_refused(sd_base, unet, rank, targets):
    add_lora(unet, 4, 4)
    other = load_unet(str(sd_base))
    add_lora(other, rank, rank, targets)
    with pytest.raises(ValueError, match="set lora.rank and lora.targets to the values it was trained with"):
        load_lora_state(other, lora_state(unet))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"lora\.safetensors is missing"):
        read_lora(tmp_path / "lora.safetensors")
    (tmp_path / "lora.safetensors").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"lora\.safetensors is damaged or incomplete"):
        read_lora(tmp_path / "lora.safetensors")


@pytest.fixture
def without_header(unet, tmp_path) -> Path:
    """Adapters of rank 4 and alpha 32 that some program read and saved again."""
    add_lora(unet, 4, 32, targets=("to_q", "conv1"))
    save_lora(tmp_path / "lora.safetensors", unet)
    assert read_lora(tmp_path / "lora.safetensors")[1] == 8.0
    save_file(load_file(tmp_path / "lora.safetensors"), tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


def test_without_a_header_alpha_comes_from_the_config_beside_and_r_from_the_tensors(without_header):
    without_header.with_name("config.json").write_text('{"alpha": 32}')
    assert read_lora(without_header)[1] == 8.0


def test_without_any_alpha_it_is_refused(without_header):
    with pytest.raises(ValueError, match="nothing says its alpha"):
        read_lora(without_header)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ('{"alpha": 32, "rank": 16}', "config.json: rank: expected 4, which the tensors"),
        ('{"alpha": "32"}', 'config.json: alpha: expected a number from 1e-06 to 1e.06, or null, got "32"'),
        ('{"alpha": 0}', "config.json: alpha: expected a number"),
        ("[]", "config.json: expected a JSON object"),
    ],
)
def test_a_config_beside_that_does_not_fit_the_tensors_is_refused(without_header, config, problem):
    without_header.with_name("config.json").write_text(config)
    with pytest.raises(ValueError, match=problem):
        read_lora(without_header)


def test_a_header_and_a_config_that_disagree_are_refused(unet, tmp_path):
    add_lora(unet, 4, 8, targets=("to_q",))
    save_lora(tmp_path / "lora.safetensors", unet)
    (tmp_path / "config.json").write_text('{"alpha": 16, "rank": 4}')
    with pytest.raises(ValueError, match="header of .* says 8 and .*config.json says 16; which is it"):
        read_lora(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "header", ["{", "[" * 5000, '{"unet.use_rslora": true, "unet.r": 4, "unet.lora_alpha": 4}', '{"unet.r": 8, "unet.lora_alpha": 8}']
)
def test_headers_that_say_something_else_are_refused(unet, tmp_path, header):
    add_lora(unet, 4, 4, targets=("to_q",))
    save_file(lora_state(unet), tmp_path / "lora.safetensors", {"lora_adapter_metadata": header})
    with pytest.raises(ValueError, match="lora.safetensors.*(not valid JSON|no adapters of this project|rank: expected 4)"):
        read_lora(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "odd", [{"a.lora_B.weight": (6, 8)}, {"c.lora_A.weight": (8, 6), "c.lora_B.weight": (6, 8)}, {"a.lora_A.weight": (4,)}]
)
def test_ranks_that_disagree_are_refused(tmp_path, odd):
    shapes = {"a.lora_A.weight": (4, 6), "a.lora_B.weight": (6, 4)} | odd
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"lora.safetensors: expected adapters of one rank.*: [ac].lora_[AB].weight has the shape"):
        read_lora(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("name", ["mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"])
@pytest.mark.parametrize("side", ["A", "B"])
def test_a_lora_of_another_width_is_refused(unet, name, side):
    add_lora(unet, 4, 4, targets=("proj_in", "conv1"))
    state = lora_state(unet)
    key = f"{name}.lora_{side}.weight"
    state[key] = torch.cat([state[key]] * 2, dim=1 if side == "A" else 0)
    plain = load_unet_without(unet)
    with pytest.raises(ValueError, match=f"does not fit this UNet, first at {name}"):
        merge_lora(plain, state, 1.0)


def load_unet_without(unet: torch.nn.Module) -> torch.nn.Module:
    """The same model without adapters."""
    plain = copy.deepcopy(unet)
    plain.delete_adapters("default")
    return plain


def test_the_header_says_what_peft_needs(unet, tmp_path):
    add_lora(unet, 4, 8)
    save_lora(tmp_path / "lora.safetensors", unet)
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    assert settings["unet.r"] == 4 and settings["unet.lora_alpha"] == 8
    assert sorted(settings["unet.target_modules"]) == sorted(LORA_TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "alpha"), [(4, 4), (4, 8)])
def test_diffusers_reads_every_tensor_back(sd_base, unet, tmp_path, rank, alpha):
    """The pipeline's own load_lora_weights: all layers, the same numbers, the same output, alpha counted."""
    add_lora(unet, rank, alpha)
    disturb_lora(unet)
    save_lora(tmp_path / "pytorch_lora_weights.safetensors", unet)
    assert len(load_file(tmp_path / "pytorch_lora_weights.safetensors")) == len(lora_parameters(unet))
    fresh = UNet2DConditionModel.from_pretrained(sd_base / "unet").requires_grad_(False)
    pipeline = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=fresh, scheduler=PNDMScheduler(**SCHEDULE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        pipeline.load_lora_weights(tmp_path)
    loaded = {name.replace(".default_0.", ".default."): p for name, p in pipeline.unet.named_parameters() if ".lora_" in name}
    ours = {name: p for name, p in unet.named_parameters() if ".lora_" in name}
    assert set(loaded) == set(ours) and all(torch.equal(loaded[name], p) for name, p in ours.items())
    torch.testing.assert_close(run(pipeline.unet), run(unet), rtol=1e-5, atol=1e-5)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    torch.testing.assert_close(run(pipeline.unet), run(unet), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_without_casting_inputs_autocast_gives_the_same_bits(sd_base):
    """Outputs and gradients of a half-precision UNet with float32 adapters; and the casts are really left out."""
    found, casts = [], []
    for wanted in (True, False):
        unet = load_unet(str(sd_base), dtype=torch.bfloat16)
        add_lora(unet, 4, 4)
        disturb_lora(unet)
        cast_inputs(unet, wanted)
        z = noise_like(2, 4, 16, 16).requires_grad_()
        with Casts() as seen, torch.autocast("cpu", torch.bfloat16):
            noise_pred = unet(z.bfloat16(), torch.tensor([300]), noise_like(2, 5, 24).bfloat16(), return_dict=False)[0]
        noise_pred.float().square().mean().backward()
        found.append([noise_pred, z.grad, *(parameter.grad for parameter in lora_parameters(unet))])
        casts.append(seen.count)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert casts[0] - casts[1] >= len(lora_parameters(unet)) // 2, casts


class Casts(TorchDispatchMode):
    """Counts conversions between data types."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


def test_adapters_of_scale_1_multiply_by_nothing(unet, sd_base):
    """As peft's own to the bit, forward and backward, without its products with alpha / r; of another scale they are peft's own."""
    add_lora(unet, 4, 4)
    disturb_lora(unet)
    found, products = {}, {}
    for name in ("ours", "peft"):
        with Operations() as operations:
            result = unet(noise_like(1, 4, 16, 16), torch.tensor([399]), noise_like(1, 5, 24, seed=1)).sample
            gradients = torch.autograd.grad(result.square().sum(), lora_parameters(unet))
        found[name], products[name] = [result, *gradients], operations.count("aten.mul.Tensor")
        for layer in adapted_layers(unet):  # for the second round, on the same weights in the same memory
            layer.lora_variant.clear()
    assert len(found["ours"]) > 50 and all(torch.equal(*pair) for pair in zip(*found.values(), strict=True))
    assert products["peft"] - products["ours"] == 2 * len(adapted_layers(unet))
    other = load_unet(str(sd_base))
    add_lora(other, 4, 8)
    assert not any(layer.lora_variant for layer in adapted_layers(other))


def adapted_layers(unet: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in unet.modules() if hasattr(module, "lora_variant")]


class Operations(TorchDispatchMode, list):
    """The names of all that run inside."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.append(str(function))
        return function(*args, **(kwargs or {}))
