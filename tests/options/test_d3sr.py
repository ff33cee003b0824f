"""D3SR's option tree: the keys that others rely on, and every kind of impossible value."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import losses.settings
from models import settings
from options import d3sr, datasets, target_size, training
from options.schema import OptionsError

ROOT = Path(__file__).resolve().parents[2]


def load(file: str, *force: str) -> Any:
    """The options of a file below the repository, after --force_yml."""
    kind = d3sr.load_test_options if Path(file).name.startswith("test") else d3sr.load_train_options
    return kind(ROOT / file, force)


def refusal(file: str, *force: str) -> str:
    with pytest.raises(OptionsError) as caught:
        load(file, *force)
    return str(caught.value)


def test_lora_targets_are_design_md_section_4s() -> None:
    text = """to_q to_k to_v to_out.0 proj_in proj_out ff.net.0.proj ff.net.2 conv1 conv2 conv_shortcut
        downsamplers.0.conv upsamplers.0.conv time_emb_proj"""
    assert set(settings.LoraSettings().targets) == set(text.split()) and len(settings.LORA_TARGETS) == 14


FIXED_KEYS = [
    "datasets.train.dataroot_gt=[a, {path: b.txt, weight: 2}]",
    "datasets.train.dataroot_lq=folder",
    "datasets.train.gt_size=256",
    "datasets.train.batch_size_per_gpu=2",
    "datasets.train.num_worker_per_gpu=0",
    "datasets.train.use_hflip=false",
    "datasets.val.set14={dataroot_lq: a, dataroot_gt: b}",
    "train.total_iter=10",
    "train.optim_g.lr=1e-4",
    "train.optim_d.lr=1e-4",
    "train.accumulate=2",
    "train.ema_decay=0.999",
    "train.precision=fp32",
    "val.val_freq=5",
    "val.save_img=false",
    "val.metrics={niqe: {type: niqe}}",
    "val.best=realsr/psnr",
    "train.check_ranks=0",
    "logger.print_freq=1",
    "logger.save_checkpoint_freq=5",
    "logger.keep_last=1",
    "logger.use_tb_logger=false",
    "path.experiments_root=/tmp/runs",
    "path.pretrain_network_g=experiments/a/models/a_10",
    "manual_seed=7",
    "device=cpu",
    "num_gpu=auto",
]


@pytest.mark.parametrize("assignment", FIXED_KEYS)
def test_keys_that_others_rely_on(assignment: str) -> None:
    assert load("options/train.yml", assignment) != load("options/train.yml")


@pytest.mark.parametrize(
    "assignment",
    ["tile=512", "color_fix=adain", "path.results_root=out", "datasets.test.a.dataroot_lq=x", "scale=2.5", "size.width=9"],
)
def test_keys_of_a_test_that_others_rely_on(assignment: str) -> None:
    assert load("options/test.yml", assignment) != load("options/test.yml")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.optim_g.lr=abc", "train.optim_g.lr: expected a finite number, got 'abc'"),
        ("train:optim_g:lrr=1", "train.optim_g.lrr: unknown key; did you mean train.optim_g.lr?"),
        ("train.optim_g.lr=0", "train.optim_g.lr: must be above 0"),
        ("train.optim_g.betas=[0.9, 1.0]", "train.optim_g.betas: must both be in [0, 1)"),
        ("train.optim_d.weight_decay=-1", "train.optim_d.weight_decay: must not be negative"),
        ("train.ema_decay=1.0", "train.ema_decay: must be in [0, 1)"),
        ("train.grad_clip=0", "train.grad_clip: must be above 0, or null"),
        ("train.total_iter=0", "train.total_iter: must be at least 1"),
        ("train.precision=fp8", "train.precision: expected fp32 | bf16 | fp16, got 'fp8'"),
        ("train.perceptual.type=ea-dists", "train.perceptual.type: expected mse | lpips"),
        ("train.perceptual.dists_weights=null", "train.perceptual.dists_weights: expected DISTS' alpha and beta"),
        ("train.perceptual.backbone=squeezenet1_1", "train.perceptual.dists_weights: expected null or uniform"),
        ("train.adversarial_ratio=-0.1", "train.adversarial_ratio: must not be negative"),
        ("train.adversarial_weight=0.1", "train.adversarial_ratio: expected a number either here or in adversarial_weight"),
        ("train.adversarial_ratio=null", "train.adversarial_ratio: expected a number either here or in adversarial_weight"),
        ("train.discriminator_start=501", "train.discriminator_start: must be from 0 to adversarial_start 500, or null, got 501"),
        ("network_d={pretrained: a, type: vanilla, timestep_max: 300}", "network_d.timestep_max: expected 999 with type vanilla"),
        ("network_d={pretrained: a, type: diffusion_gan, timestep_min: 1}", "network_d.timestep_min: expected 0 with type diffusion_gan"),
        ("train.r1_weight=-1", "train.r1_weight: must not be negative"),
        ("train.r1_every=0", "train.r1_every: must be at least 1"),
        ("network_d={pretrained: a, train: full, shard: true}", "network_d.shard: expected false with train: full"),
        ("network_d={pretrained: a, train: full, train_conv_in: true}", "network_d.train_conv_in: expected false with train: full"),
        ("val.early=[-1]", "val.early: must not hold negative iterations"),
        ("logger.first_checkpoint=-1", "logger.first_checkpoint: must not be negative"),
        ("train.gradient_checkpointing=[vae, vae]", "train.gradient_checkpointing: must not name a part twice"),
        ("train.scheduler={type: multistep}", "train.scheduler.milestones: expected at least one"),
        ("train.scheduler={type: multistep, milestones: [5, 5]}", "train.scheduler.milestones: must be above 0 and ascending"),
        ("train.scheduler.milestones=[5]", "train.scheduler.milestones: expected none with type constant"),
        ("train.scheduler.warmup_iter=100001", "train.scheduler.warmup_iter: must not exceed total_iter"),
        ("datasets.train.gt_size=510", "datasets.train.gt_size: must be a multiple of scale 4, got 510"),
        ("train.perceptual.shift=300", "train.perceptual.shift: must be at most half of gt_size 512, got 300"),
        ("datasets.train.dataroot_gt=[]", "datasets.train.dataroot_gt: must name at least one"),
        ("datasets.train.dataroot_gt=[{path: a, weight: 0}]", "datasets.train.dataroot_gt[0].weight: must be above 0"),
        ("datasets.train={dataroot_gt: [a], dataroot_lq: b}", "datasets.train.dataroot_gt: expected one folder or list"),
        ("datasets.val.realsr.dataroot_gt=null", "datasets.val.realsr.dataroot_gt: expected HR images, which val.metrics.psnr"),
        ("network_g.timestep=1000", "network_g.timestep: must be from 0 to 999, got 1000"),
        ("network_g.timestep=-1", "network_g.timestep: must be from 0 to 999, got -1"),
        ("network_g.lora.targets=[]", "network_g.lora.targets: must name at least one"),
        ("network_g.lora.rank=0", "network_g.lora.rank: must be at least 1"),
        ("network_d.pretrained=null", "network_d.pretrained: expected the folder or hub id"),
        ("network_d={pretrained: a, timestep_min: 500, timestep_max: 499}", "network_d.timestep_max: must not be below timestep_min 500"),
        ("network_d.type=noise-aware", "network_d.type: expected noise_aware | vanilla"),
        ("degradation.stages.1.jpeg_range=[95, 30]", "degradation.stages[1].jpeg_range: expected [low, high]"),
        ("degradation.stages.0.blur_prob=2", "degradation.stages[0].blur_prob: expected a probability"),
        ("degradation.resize_prob2=[1, 0, 0]", "degradation.resize_prob2: unknown key"),
        ("name=a/b", "name: expected a name that can be a folder's, got 'a/b'"),
        ("name=''", "name: expected a name that can be a folder's"),
        ("num_gpu=0", "num_gpu: must be auto or at least 1"),
        ("scale=2.5", "scale: expected an integer, got 2.5"),
        ("manual_seed=-1", "manual_seed: must not be negative"),
        ("train.check_ranks=-1", "train.check_ranks: must not be negative"),
        ("val.best=psnr", "val.best: expected SET/METRIC or null (known: realsr/psnr, realsr/ssim), got 'psnr'"),
        ("val={best: realsr/psnr, metrics: {niqe: {type: niqe}}}", "(known: realsr/niqe), got 'realsr/psnr'"),
        ("logger.keep_last=0", "logger.keep_last: must be at least 1"),
        ("val.metrics.psnr.crop_border=-1", "val.metrics.psnr.crop_border: must not be negative"),
    ],
)
def test_impossible_values_of_a_training_are_refused(assignment: str, message: str) -> None:
    assert message in refusal("options/train.yml", assignment)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("scale=0.5", "scale: must be at least 1, got 0.5"),
        ("size=2048", "size: expected a mapping with the keys long_side, short_side, width, height, megapixels, beyond or null, got 2048"),
        ("size.longside=2048", "size.longside: unknown key; did you mean size.long_side?"),
        ("size={}", "size: expected exactly one of long_side, short_side, width, height, megapixels, got none"),
        ("size={width: 5, height: 5}", "size: expected exactly one of long_side, short_side, width, height, megapixels, got width and"),
        ("size.width=0", "size.width: must be at least 1, got 0"),
        ("size.height=2.5", "size.height: expected an integer or null, got 2.5"),
        ("size.megapixels=0", "size.megapixels: must be above 0, got 0"),
        ("tile=-1", "tile: must not be negative"),
        ("tile=64", "tile_overlap: must be smaller than tile 64, got 64"),
        ("input=3", "input: expected text or a list of: text, got 3"),
        ("input=[a, '']", "input: must not hold an empty name"),
        ("color_fix=wavlet", "color_fix: expected none | wavelet | adain | ycbcr, got 'wavlet'; did you mean wavelet?"),
        ("tile=large", "tile: expected"),
        ("num_threads=0", "num_threads: must be auto or at least 1, got 0"),
        ("max_megapixels=0", "max_megapixels: must be above 0, got 0"),
        ("output.quality=101", "output.quality: must lie in 1..100, got 101"),
        ("output.suffix=a/b", "output.suffix: expected what can stand in a file's name, got 'a/b'"),
        ("output.format=tiff", "output.format: expected png | jpg | webp, got 'tiff'"),
        ("network_g={}", "network_g.path: this key is missing; expected text"),
        ("network_g.fast_vae={path: a, parts: encoder}", "network_g.fast_vae.parts: expected decoder | both, got 'encoder'"),
        ("network_g.fast_vae={parts: both}", "network_g.fast_vae.path: this key is missing"),
        ("network_g={path: a, runtime: ncnn, fuse: false}", "network_g.runtime: ncnn takes fuse: true, compile: false and no fast_vae"),
        ("network_g={path: a, runtime: ncnn, compile: true}", "network_g.runtime: ncnn takes fuse: true, compile: false and no fast_vae"),
        ("datasets.train.dataroot_gt=x", "datasets.train: unknown key; known keys here: test"),
        ("datasets.test={a/b: {dataroot_lq: x}}", "datasets.test: expected a name that can be a folder's, got 'a/b'"),
    ],
)
def test_impossible_values_of_a_test_are_refused(assignment: str, message: str) -> None:
    assert message in refusal("options/test.yml", assignment)


def test_a_size_goes_before_the_files_scale_and_excludes_one_of_the_command_line(tmp_path: Path) -> None:
    for assignment, chosen in (("size.long_side=2048", ("long_side", 2048)), ("size={megapixels: 2, beyond: true}", ("megapixels", 2.0))):
        assert load("options/test.yml", assignment).size.chosen == chosen
    assert load("options/test.yml").size is None and load("options/test.yml", "scale=2", "size=null").scale == 2
    path = tmp_path / "test.yml"
    path.write_text(f"base: {ROOT}/options/test.yml\nscale: 2\nsize: {{width: 640}}\n", encoding="utf-8")
    assert d3sr.load_test_options(path).size.chosen == ("width", 640)
    for force in (["scale=3"], ["scale=3", "size.width=5"]):
        with pytest.raises(OptionsError, match="^--force_yml: scale: expected a factor or a size, got both; size=null"):
            d3sr.load_test_options(path, force)
    assert d3sr.load_test_options(path, ["scale=3", "size=null"]).scale == 3


def test_without_a_set_nothing_can_be_the_best() -> None:
    message = refusal("options/train.yml", "val.best=realsr/psnr", "datasets.val.realsr=null")
    assert "val.best: expected SET/METRIC or null (known: none, since there is no set or no metric" in message


def test_ncnn_computes_on_the_cpu_in_float32_and_does_not_say_how_much_memory_it_takes() -> None:
    ncnn = "network_g.runtime=ncnn"
    assert "precision: expected fp32 with network_g.runtime: ncnn" in refusal("options/test.yml", ncnn, "precision=bf16")
    assert "tile: expected pixels with network_g.runtime: ncnn" in refusal("options/test.yml", ncnn, "tile=auto")
    assert "device: expected cpu with network_g.runtime: ncnn" in refusal("options/test.yml", ncnn, "device=cuda")


def test_fp16_needs_a_gpu() -> None:
    assert "train.precision: expected fp32 or bf16" in refusal("options/train.yml", "device=cpu", "train.precision=fp16")
    assert "precision: expected auto, fp32 or bf16" in refusal("options/test.yml", "device=cpu", "precision=fp16")


def test_the_error_names_the_file_of_the_wrong_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(f"base: {ROOT}/options/train.yml\nname: mine\ntrain:\n  optim_g:\n    lr: fast\n", encoding="utf-8")
    with pytest.raises(OptionsError) as caught:
        d3sr.load_train_options(path)
    assert str(caught.value) == f"{path}: train.optim_g.lr: expected a finite number, got 'fast' (line 5)"


def test_a_discriminator_of_type_none_needs_no_base() -> None:
    assert load("options/train.yml", "network_d={type: none}").network_d.pretrained is None


def test_a_set_without_hr_may_be_scored_without_reference() -> None:
    force = ("datasets.val.realsr.dataroot_gt=null", "val.metrics={niqe: {type: niqe}, musiq: {type: musiq}}")
    assert load("options/train.yml", *force).datasets.val["realsr"].dataroot_gt is None
    full = ("psnr", "psnry", "ssim", "ms_ssim", "lpips", "lpips-vgg", "dists", "topiq_fr")
    blind = ("niqe", "musiq", "maniqa-pipal", "clipiqa", "topiq_nr", "pi", "liqe")
    assert [datasets.MetricOptions(type=name).needs_gt for name in full + blind] == [True] * len(full) + [False] * len(blind)


def test_sources_and_inputs_read_the_same_however_written() -> None:
    one = load("options/train.yml", "datasets.train.dataroot_gt=a").datasets.train
    many = load("options/train.yml", "datasets.train.dataroot_gt=[a, {path: b.txt, weight: 2}]").datasets.train
    assert one.sources == (("a", 1.0),) and many.sources == (("a", 1.0), ("b.txt", 2.0))
    assert load("options/test.yml", "input=a").inputs == ("a",) and load("options/test.yml", "input=[a, b]").inputs == ("a", "b")


def test_options_are_frozen() -> None:
    options = load("options/train.yml")
    for section in (options, options.train, options.train.optim_g, options.degradation.stages[0], options.datasets.val["realsr"]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(section, dataclasses.fields(section)[0].name, None)


@pytest.mark.parametrize("module", [d3sr, datasets, target_size, training, settings, losses.settings])
def test_every_field_has_a_docstring(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node, following in zip(owner.body, [*owner.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert documented, f"{owner.name}.{ast.unparse(node.target)}"


def test_options_import_nothing_heavy() -> None:
    heavy = "torch", "numpy", "cv2", "diffusers", "peft", "pyiqa", "PIL"
    code = f"import sys, options.d3sr; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_r1_and_a_spread_discriminator_exclude_each_other() -> None:
    message = "train.r1_weight: expected 0 with network_d.shard"
    assert message in refusal("options/train.yml", "train.r1_weight=1", "network_d.shard=true")
    assert load("options/train.yml", "train.r1_weight=1", "network_d.shard=true", "network_d.type=none").network_d.shard
