"""config.json of a folder from others: absurd, hostile and wrong ones are one line that names file and key, and nothing is built before."""

import json
import shutil
from pathlib import Path

import pytest

from models.backbones import load_alphas_cumprod, load_autoencoder, load_unet
from models.config_checks import AUTOENCODERS, GENERATOR, SCHEDULER, UNET, check_component, check_config
from models.configs import KNOWN, SCHEDULE
from models.json_files import MOST_BYTES, read_json
from models.release import read_generator_config
from models.sizes import find_config

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    ("unet", "layers_per_block", 10**9),
    ("unet", "layers_per_block", [1, 1, 1, 10**9]),
    ("unet", "layers_per_block", "1"),
    ("unet", "transformer_layers_per_block", [[1] * 10**5] * 4),
    ("unet", "transformer_layers_per_block", 17),
    ("unet", "block_out_channels", [32] * 10**4),
    ("unet", "block_out_channels", 32),
    ("unet", "block_out_channels", [32, None, 64, 64]),
    ("unet", "cross_attention_dim", "24"),
    ("unet", "in_channels", 4.5),
    ("unet", "in_channels", True),
    ("unet", "out_channels", 8),
    ("unet", "freq_shift", "0"),
    ("unet", "norm_num_groups", 0),
    ("unet", "down_block_types", "DownBlock2D"),
    ("vae", "layers_per_block", 10**9),
    ("vae", "latent_channels", -4),
    ("vae", "scaling_factor", "0.18215"),
    ("vae", "scaling_factor", 0),
    ("vae", "_class_name", ["AutoencoderKL"]),
    ("scheduler", "num_train_timesteps", 10**11),
    ("scheduler", "num_train_timesteps", 0),
    ("scheduler", "beta_start", "0.1"),
    ("scheduler", "beta_end", 1e-5),
]
LOADERS = {"unet": load_unet, "vae": load_autoencoder, "scheduler": load_alphas_cumprod}


@pytest.mark.parametrize(("part", "key", "value"), HOSTILE)
def test_each_absurd_number_is_named(sd_base, tmp_path, part, key, value) -> None:
    shutil.copytree(sd_base, tmp_path / "base")
    file = tmp_path / "base" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ValueError) as raised:
        LOADERS[part](str(tmp_path / "base"))
    assert f"{file}: {key}: expected " in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 400
    if part != "scheduler":
        with pytest.raises(ValueError, match=key):
            find_config(str(tmp_path / "base"), part)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"down_block_types": ["X"] * 4}),
        ("unet", {"layers_per_block": [1, 1]}),
        ("unet", {"act_fn": "nothing"}),
        ("unet", {"attention_head_dim": [2]}),
        ("vae", {"norm_num_groups": 7}),
        ("vae", {"up_block_types": []}),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(sd_base, tmp_path, part, changes) -> None:
    shutil.copytree(sd_base, tmp_path / "base")
    file = tmp_path / "base" / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError) as raised:
        LOADERS[part](str(tmp_path / "base"))
    assert f"{file} does not describe a" in str(raised.value) or f"{file.parent} does not fit" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_many_blocks_in_many_ways_are_counted_together() -> None:
    check_component({"layers_per_block": 2, "transformer_layers_per_block": [1, 2, 10], "block_out_channels": [1, 1, 1]}, "unet", "f")
    with pytest.raises(ValueError, match="layers_per_block: expected 256 blocks at most"):
        check_component({"layers_per_block": 16, "transformer_layers_per_block": 16, "block_out_channels": [1, 1, 1]}, "unet", "f")


def test_every_model_we_know_of_passes() -> None:
    for parts in KNOWN.values():
        for name, config in parts.items():
            check_component(config, name, "f")
    check_component(SCHEDULE, "scheduler", "f")
    for file in (ROOT / "weights").glob("*/*/*config.json"):
        check_component(read_json(file), file.parent.name, str(file))
    for file in (ROOT / "weights").glob("*/config.json"):
        read_generator_config(file.parent)


@pytest.mark.parametrize("rules", [UNET, *AUTOENCODERS.values(), SCHEDULER, GENERATOR])
def test_no_rule_takes_what_json_can_hold_and_no_number_is(rules) -> None:
    for key, rule in rules.items():
        for value in (float("nan"), float("inf"), -1, 10**400, {}, [], [[[1]]], [{}], True, "\x1b[31m"):
            allowed = rule.allows(value)
            text = getattr(rule, "lists", None) is True and value == [] or isinstance(value, str)
            assert not allowed or text or (key == "freq_shift" and value == -1), (key, value)
    with pytest.raises(ValueError, match="^f lacks "):
        needed = {key: rule for key, rule in rules.items() if rule.needed}
        check_config({}, needed or {"x": GENERATOR["scale"]}, "f")


RELEASE = {"timestep": 100, "scale": 4, "train": "lora", "base": "owner/name", "rank": 4, "alpha": 4}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timestep", "100"), ("timestep", 1000), ("timestep", -1), ("timestep", 1.5), ("timestep", None), ("scale", "4"), ("scale", 0),
        ("scale", 10**6), ("train", "Lora"), ("train", ["lora"]), ("base", 7), ("vae", {}), ("rank", "16"), ("alpha", -1),
        ("targets", "to_q"),
    ],
)  # fmt: skip
def test_a_release_says_what_a_generator_can_be(tmp_path, key, value) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(RELEASE))
    assert read_generator_config(tmp_path) == RELEASE
    file.write_text(json.dumps(RELEASE | {key: value}))
    with pytest.raises(ValueError, match=rf"config\.json: {key}: expected .*, got "):
        read_generator_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": ' + "9" * 10_000 + "}", "not valid JSON"),
        ('{"a": 1, "b": 2, "a": 3}', 'the key "a" appears twice'),
        ("null", "expected a JSON object, got null"),
        ("[1]", "expected a JSON object, got a list of 1"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_hostile_json_is_one_line(tmp_path, text, problem) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=problem) as raised:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(raised.value) and str(tmp_path / "config.json") in str(raised.value)


def test_a_gigabyte_is_not_read(tmp_path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ValueError, match="larger than the 16 MiB"):
        read_json(tmp_path / "config.json")
