"""The plain UNet against diffusers' own, which it stands in for: the same names of weights and the same bits."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from models.backbones import load_unet, save_unet
from models.configs import SD15_UNET, SD21_UNET, SDXL_UNET, SMALL_SD_UNET, TINY_UNET
from models.fused_unet import FusedUNet
from models.plain_unet import FIXED, SIZES, PlainUNet, is_plain
from tests.tiny_models import random_model

SMALL_SD15 = {**SMALL_SD_UNET, "attention_head_dim": 4, "layers_per_block": 2, "use_linear_projection": False, "norm_eps": 1e-4}
OTHER = {
    **{"act_fn": "gelu", "resnet_time_scale_shift": "scale_shift", "mid_block_type": None, "transformer_layers_per_block": 2},
    **{"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "conv_in_kernel": 1, "conv_out_kernel": 1},
    **{"center_input_sample": True, "time_embedding_act_fn": "silu", "mid_block_scale_factor": 2, "dropout": 0.1},
    **{"addition_embed_type": "text_time", "class_embed_type": "timestep", "cross_attention_dim": [24] * 4, "layers_per_block": [1] * 4},
    **{"down_block_types": ["AttnDownBlock2D"] * 4, "up_block_types": ["ResnetUpsampleBlock2D"] * 4, "attention_head_dim": [2, 4]},
    **{"norm_num_groups": None, "block_out_channels": [32, 64, 64], "a_setting_of_tomorrow": None},
}


@pytest.fixture(scope="module", params=[SMALL_SD_UNET, SMALL_SD15, TINY_UNET], ids=["sd21", "sd15", "tiny"])
def pair(request):
    """diffusers' UNet and the plain one with the same weights."""
    theirs = random_model(UNet2DConditionModel, request.param).requires_grad_(False).eval()
    ours = PlainUNet(request.param).requires_grad_(False).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(unet):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, unet.config.in_channels, 16, 24, generator=generator)
    return z, torch.tensor([100, 7]), torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_bits(pair, dtype, layout):
    theirs, ours = (torch.nn.Module.to(unet, dtype) for unet in pair)
    z, timesteps, prompt = inputs(theirs)
    arguments = z.to(dtype, memory_format=layout), timesteps, prompt.to(dtype)
    assert torch.equal(ours(*arguments, return_dict=False)[0], theirs(*arguments, return_dict=False)[0])


def test_the_same_bits_when_fused(pair):
    z, _, prompt = inputs(pair[0])
    theirs, ours = (FusedUNet(torch.nn.Module.to(unet, torch.float32), 100, prompt[0])(z) for unet in pair)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("config", [SMALL_SD_UNET, SD15_UNET, SD21_UNET, TINY_UNET])
def test_what_is_plain(config):
    """As written by hand, and with all settings as diffusers writes them."""
    with torch.device("meta"):
        assert is_plain(config) and is_plain(dict(UNet2DConditionModel.from_config(config).config))


@pytest.mark.parametrize(("name", "value"), OTHER.items())
def test_what_is_not(name, value):
    assert is_plain(SMALL_SD_UNET) and not is_plain({**SMALL_SD_UNET, name: value})
    assert not is_plain(SDXL_UNET)


def test_settings_and_defaults_are_those_of_diffusers():
    with torch.device("meta"):
        theirs = UNet2DConditionModel(block_out_channels=[32] * 4, norm_num_groups=1).config
    ours = {**SIZES, **FIXED, "block_out_channels": [32] * 4, "norm_num_groups": 1}
    assert ours == {name: value for name, value in theirs.items() if not name.startswith("_")}


def test_which_class_is_loaded(sd_base, sdxl_base):
    assert type(load_unet(str(sd_base), only_run=True)) is PlainUNet
    assert type(load_unet(str(sd_base))) is type(load_unet(str(sdxl_base), only_run=True)) is UNet2DConditionModel


def test_saved_as_diffusers_saves_it(sd_base, tmp_path):
    for name, only_run in (("ours", True), ("theirs", False)):
        save_unet(tmp_path / name, load_unet(str(sd_base), only_run=only_run))
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
