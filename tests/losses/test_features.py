import hashlib
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from losses import features
from losses.features import BACKBONES, Features, L2Pool, build_features


def normalised(images: torch.Tensor) -> torch.Tensor:
    from torchvision.transforms.functional import normalize

    return normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_squeezenet_taps_equal_torchvisions(squeezenet, torchvision_squeezenet, pair):
    hidden = normalised(pair[0])
    taps = squeezenet(pair[0])
    assert [tap.shape[1] for tap in taps] == list(BACKBONES["squeezenet1_1"].channels)
    for index, layer in enumerate(torchvision_squeezenet):
        hidden = layer(hidden)
        if index in (1, 4, 7, 9):
            torch.testing.assert_close(taps.pop(0), hidden)
    assert not taps


def test_vgg_taps_equal_torchvisions_up_to_the_first_pool_and_with_the_pools_exchanged(vgg, torchvision_vgg, pair):
    hidden = normalised(pair[0])
    taps = vgg(pair[0])
    assert [tap.shape[1] for tap in taps] == list(BACKBONES["vgg16"].channels)
    pool = L2Pool()
    for index, layer in enumerate(torchvision_vgg):
        hidden = pool(hidden) if index in (4, 9, 16, 23) else layer(hidden)
        if index in (3, 8, 15, 22, 29):
            torch.testing.assert_close(taps.pop(0), hidden.clone())
    assert not taps


def test_l2_pool_by_hand():
    # One non-zero pixel at (1, 1) of 3x3: outputs (2x2) see it with the corner weight 1/16 of the window.
    image = torch.zeros(1, 2, 3, 3)
    image[:, 0, 1, 1] = 4.0
    pooled = L2Pool()(image)
    assert pooled.shape == (1, 2, 2, 2)
    torch.testing.assert_close(pooled[0, 0], torch.ones(2, 2))
    torch.testing.assert_close(pooled[0, 1], torch.full((2, 2), 1e-6))


@pytest.mark.parametrize("name", ["vgg", "squeezenet"])
def test_frozen_in_eval_and_without_state_to_save(name, request):
    trunk: Features = request.getfixturevalue(name)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert not trunk.training
    assert all(tensor.device.type == "cpu" for tensor in (*trunk.parameters(), *trunk.buffers()))
    assert all(key.startswith("layers.") for key in trunk.state_dict())


def test_random_is_repeatable_and_leaves_the_global_generator_alone(squeezenet):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = build_features("squeezenet1_1", "random")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), squeezenet.parameters(), strict=True))
    assert again.layers[0].weight.std() > 0


def test_all_ways_to_store_the_same_weights_load_the_same(squeezenet, tmp_path):
    bare = squeezenet.layers.state_dict()
    prefixed = {f"features.{key}": value.clone() for key, value in bare.items()}
    whole = prefixed | {"classifier.1.weight": torch.zeros(10, 512, 1, 1), "classifier.1.bias": torch.zeros(10)}
    torch.save(bare, tmp_path / "bare.pth")
    torch.save(whole, tmp_path / "whole.pt")
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    save_file({key: value.to(torch.float16) for key, value in bare.items()}, tmp_path / "half.safetensors")
    for name in ("bare.pth", "whole.pt", "prefixed.safetensors"):
        loaded = build_features("squeezenet1_1", str(tmp_path / name))
        assert all(torch.equal(loaded.layers.state_dict()[key], value) for key, value in bare.items()), name
    half = build_features("squeezenet1_1", str(tmp_path / "half.safetensors"))
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


def test_wrong_files_are_named(squeezenet, tmp_path):
    state = squeezenet.layers.state_dict()
    save_file({key: value for key, value in state.items() if key != "0.bias"}, tmp_path / "missing.safetensors")
    save_file(state | {"0.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "shape.safetensors")
    save_file(state | {"13.weight": torch.zeros(1)}, tmp_path / "extra.safetensors")
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 and then nothing")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 100)
    torch.save({"state_dict": state}, tmp_path / "nested.pth")
    torch.save(Path("code"), tmp_path / "code.pth")
    cases = {
        "missing.safetensors": r"0\.bias missing",
        "shape.safetensors": r"\(64, 3, 7, 7\) instead of \(64, 3, 3, 3\)",
        "extra.safetensors": r"13\.weight is not part of it",
        "damaged.pth": "cannot be read",
        "damaged.safetensors": "cannot be read",
        "nested.pth": "no plain state dict",
        "code.pth": "cannot be read",
        "absent.pth": "there is no file",
        "weights.bin": "not understood",
    }
    for name, words in cases.items():
        with pytest.raises(ValueError, match=words) as caught:
            build_features("squeezenet1_1", str(tmp_path / name))
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="does not hold the features of vgg16"):
        build_features("vgg16", str(tmp_path / "extra.safetensors"))


@pytest.mark.parametrize(
    ("backbone", "weights", "words"), [("vgg19", "random", "vgg16, squeezenet1_1"), ("vgg16", "torchvison", '"random"')]
)
def test_typing_errors_get_the_choices(backbone, weights, words):
    with pytest.raises(ValueError, match=words):
        build_features(backbone, weights)


def test_urls_are_torchvisions():
    from torchvision.models import SqueezeNet1_1_Weights, VGG16_Weights

    assert BACKBONES["vgg16"].url == VGG16_Weights.IMAGENET1K_V1.url
    assert BACKBONES["squeezenet1_1"].url == SqueezeNet1_1_Weights.IMAGENET1K_V1.url


def test_offline_says_which_file_and_where_to_put_it(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(OSError, match="vgg16-397923af.pth") as caught:
        build_features("vgg16", "torchvision")
    for words in ("https://download.pytorch.org/models/", str(tmp_path / "hub" / "checkpoints"), "backbone_weights", "not known"):
        assert words in str(caught.value)


def test_the_hub_cache_is_used_only_when_its_hash_is_right(monkeypatch, tmp_path, squeezenet):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = tmp_path / "hub" / "checkpoints" / "file.pth"
    source.parent.mkdir(parents=True)
    torch.save({f"features.{key}": value for key, value in squeezenet.layers.state_dict().items()}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    path = source.rename(source.with_name(f"tiny-{digest[:8]}.pth"))
    spec = replace(BACKBONES["squeezenet1_1"], url=f"https://localhost/{path.name}")
    monkeypatch.setitem(features.BACKBONES, "squeezenet1_1", spec)
    loaded = build_features("squeezenet1_1", "torchvision")
    assert torch.equal(loaded.layers[0].weight, squeezenet.layers[0].weight)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="Delete it"):
        build_features("squeezenet1_1", "torchvision")
    assert features.backbone_file("squeezenet1_1", check=False) == path, "as another process checked it"


def test_gradient_reaches_the_pictures_but_no_weight(squeezenet, pair):
    sr = pair[0].requires_grad_()
    sum(tap.mean() for tap in squeezenet(sr)).backward()
    assert sr.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in squeezenet.parameters())


@pytest.mark.parametrize("zipped", [True, False])
def test_no_byte_of_a_weights_file_is_more_than_one_line(tmp_path: Path, zipped: bool) -> None:
    """Each of the first 400 bytes turned over: a load that succeeds, or one line that names the file; never advice to run its code."""
    torch.save({"0.weight": torch.zeros(4)}, tmp_path / "good.pth", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "good.pth").read_bytes()
    for place in range(0, min(400, len(data)), 3):
        (tmp_path / "odd.pth").write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            features.read_state_dict(tmp_path / "odd.pth")
        except ValueError as error:
            assert "odd.pth" in str(error) and "\n" not in str(error) and "weights_only" not in str(error)
