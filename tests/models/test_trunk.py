"""A UNet cut after its mid block, against diffusers' own forward of the whole UNet."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from models import pretrained_files
from models.backbones import heavy_layers, load_trunk, meta_trunk, needs_pooled_condition, pooled_width, trunk_features
from models.configs import SD21_UNET, SDXL_UNET
from tests.tiny_models import noise_like, random_model

WEIGHTS = "diffusion_pytorch_model.safetensors"


def added_condition(count: int) -> dict[str, torch.Tensor]:
    return {"text_embeds": noise_like(count, 20, seed=5), "time_ids": torch.tensor([[512.0, 512, 0, 0, 512, 512]] * count)}


@pytest.mark.parametrize(("base", "width", "side"), [("sd_base", 24, 2), ("sdxl_base", 40, 4), ("tiny_base", 12, 4)])
def test_trunk_is_the_mid_block_of_the_full_unet(base, width, side, request):
    """Truth: what diffusers' own forward of the whole UNet hands from the mid block to the up blocks."""
    folder = request.getfixturevalue(base)
    trunk, unet = load_trunk(str(folder)), UNet2DConditionModel.from_pretrained(folder / "unet").requires_grad_(False)
    assert not trunk.training and not any(p.requires_grad for p in trunk.parameters())
    added = added_condition(2) if needs_pooled_condition(unet) else None
    z, prompt, timesteps = noise_like(2, unet.config.in_channels, 16, 16), noise_like(2, 5, width, seed=1), torch.tensor([0, 700])
    seen = []
    unet.mid_block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    unet(z, timesteps, prompt, added_cond_kwargs=added)
    features = trunk_features(trunk, z, timesteps, prompt, added)[-1]
    assert features.shape == (2, unet.config.block_out_channels[-1], side, side)
    assert torch.equal(features, seen[0])


def test_trunk_feels_every_condition(sdxl_base):
    trunk = load_trunk(str(sdxl_base))
    z, prompt, timesteps, added = noise_like(1, 4, 16, 16), noise_like(1, 5, 40), torch.tensor([500]), added_condition(1)
    before = trunk_features(trunk, z, timesteps, prompt, added)[-1]
    changes = [
        (timesteps + 100, prompt, added),
        (timesteps, prompt + 1, added),
        (timesteps, prompt, added | {"text_embeds": added["text_embeds"] + 1}),
        (timesteps, prompt, added | {"time_ids": added["time_ids"] + 100}),
    ]
    for change in changes:
        assert (trunk_features(trunk, z, *change)[-1] - before).abs().max() > 1e-4
    assert pooled_width(trunk) == 20


@pytest.mark.parametrize("base", ["sd_base", "sdxl_base"])
def test_trunk_never_reads_nor_holds_the_up_blocks(base, request, monkeypatch):
    read = []
    original = pretrained_files.safe_open

    class Spy:
        def __init__(self, path, **options):
            self.file = original(path, **options)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *problem):
            return self.file.__exit__(*problem)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(pretrained_files, "safe_open", Spy)
    trunk = load_trunk(str(request.getfixturevalue(base)))
    assert sorted(read) == sorted(name for name, _ in trunk.named_parameters())
    parts = {name.split(".")[0] for name in read}
    assert parts == {"conv_in", "time_embedding", "down_blocks", "mid_block"} | ({"add_embedding"} if base == "sdxl_base" else set())


@pytest.mark.slow
def test_trunk_loads_from_shards_half_precision_and_pickles(sd_base, tmp_path):
    expected = load_trunk(str(sd_base)).state_dict()
    weights = load_file(sd_base / "unet" / WEIGHTS)
    folders = [Path(shutil.copytree(sd_base, tmp_path / name)) for name in ("shards", "half", "pickle")]
    for folder in folders:
        (folder / "unet" / WEIGHTS).unlink()
    config = json.loads((sd_base / "unet" / "config.json").read_text())
    unet = random_model(UNet2DConditionModel, config)
    unet.load_state_dict(weights)
    unet.save_pretrained(folders[0] / "unet", max_shard_size="500KB")
    save_file({name: tensor.half() for name, tensor in weights.items()}, folders[1] / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    torch.save(weights, folders[2] / "unet" / "diffusion_pytorch_model.bin")
    for folder in folders:
        state = load_trunk(str(folder)).state_dict()
        assert set(state) == set(expected)
        tolerance = 1e-3 if folder.name == "half" else 0
        assert all(torch.allclose(state[name], tensor, rtol=tolerance, atol=tolerance) for name, tensor in expected.items())


@pytest.mark.parametrize(("config", "share"), [(SD21_UNET, 0.90), (SDXL_UNET, 0.98)], ids=["sd21", "sdxl"])
def test_heavy_layers_hold_nearly_everything_in_small_pieces(config: dict, share: float) -> None:
    trunk = meta_trunk(config)
    pieces = [{p: p.numel() for p in layer.parameters()} for layer in heavy_layers(trunk)]
    whole = sum(p.numel() for p in trunk.parameters())
    assert len({p for piece in pieces for p in piece}) == sum(map(len, pieces)), "a weight is in two layers"
    assert sum(sum(piece.values()) for piece in pieces) > share * whole
    assert max(sum(piece.values()) for piece in pieces) < 36_000_000
