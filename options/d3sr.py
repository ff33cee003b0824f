"""The option tree of D3SR: `TrainOptions` for train_d3sr.py, `TestOptions` for test_d3sr.py. Key names are BasicSR's where it has one.

    options = load_train_options("options/train.yml", ["train.optim_g.lr=1e-4"])
    options.train.optim_g.lr                      # 0.0001; every object is frozen
    to_yaml(options)                              # every default spelled out; loads back to an equal object

`options.datasets` holds the sections of images and metrics, `options.training` that of `train`; what a network, a loss or a degradation is
made of stands with its owner, in `settings` or `stage`. No torch here, so that `--help` and a typo are answered at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from degradations.stage import Degradation
from models.settings import DiscriminatorSettings, FastVaeSettings, GeneratorSettings
from options.datasets import MetricOptions, TestDatasets, TrainDatasets, check_folder_name
from options.schema import OptionsError, build, check
from options.shipped import find_shipped
from options.target_size import TargetSize
from options.training import TrainingOptions
from options.yaml_files import read_options, to_yaml

ColorFix = Literal["none", "wavelet", "adain", "ycbcr"]

__all__ = ["OptionsError", "TestOptions", "TrainOptions", "load_test_options", "load_train_options", "to_yaml"]


@dataclass(frozen=True, kw_only=True)
class TrainPaths:
    """The `path` section of a training."""

    experiments_root: str = "experiments"
    """A run lives in experiments_root/name."""
    tb_root: str = "tb_logger"
    """TensorBoard files go to tb_root/name."""
    pretrain_network_g: str | None = None
    """A models/NAME_ITER folder whose generator a new run starts from."""
    resume: bool = True
    """Go on where the run of this name stopped; false = start over, in a new folder."""


@dataclass(frozen=True, kw_only=True)
class ValOptions:
    """The `val` section."""

    val_freq: int = 5000
    """Iterations between validations; one more follows at the end of the run."""
    early: tuple[int, ...] = (0, 500)
    """Iterations at which a few pictures are validated besides; 0 shows what the base does."""
    early_pictures: int = 4
    """How many of each set then; 0 = none."""
    save_img: bool = True
    """Save the restored pictures of each validation."""
    tile: int = 0
    """Side of the tiles in output pixels; 0 = whole pictures."""
    color_fix: ColorFix = "none"
    """Take from LR the colours' low frequencies (wavelet), their mean and deviation (adain), or all but the luma (ycbcr)."""
    metrics: dict[str, MetricOptions] = field(default_factory=dict)
    """Name in log and tables -> metric."""
    best: str | None = None
    """SET/METRIC by which models/NAME_best is chosen, each a name of datasets.val and of metrics; null = no best is kept."""

    def __post_init__(self) -> None:
        check(self.val_freq >= 1, f"val_freq must be at least 1, got {self.val_freq}")
        check(all(iteration >= 0 for iteration in self.early), f"early must not hold negative iterations, got {list(self.early)}")
        check(self.early_pictures >= 0, f"early_pictures must not be negative, got {self.early_pictures}")
        check(self.tile >= 0, f"tile must not be negative, got {self.tile}")


@dataclass(frozen=True, kw_only=True)
class LoggerOptions:
    """The `logger` section."""

    print_freq: int = 100
    """Iterations between log lines."""
    save_checkpoint_freq: int = 5000
    """Iterations between checkpoints; one more is saved at the end of the run."""
    first_checkpoint: int = 500
    """Iteration of one more checkpoint, so that an early fault costs little; 0 = none."""
    keep_last: int = 3
    """How many of the newest checkpoints stay on disk."""
    use_tb_logger: bool = True
    """Write TensorBoard files as well."""

    def __post_init__(self) -> None:
        for name in ("print_freq", "save_checkpoint_freq", "keep_last"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        check(self.first_checkpoint >= 0, f"first_checkpoint must not be negative, got {self.first_checkpoint}")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything a training needs to know."""

    name: str
    """Name of the run and of its folder; running the same name again resumes it."""
    scale: int = 4
    """HR side over LR side."""
    manual_seed: int = 0
    """Seed of everything random, together with rank and iteration or sample number."""
    num_gpu: int | Literal["auto"] = "auto"
    """Number of processes this setting is meant for, checked against torchrun's; auto = any."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto = cuda, else mps, else cpu."""
    datasets: TrainDatasets
    """Images to train and validate on."""
    degradation: Degradation = field(default_factory=Degradation)
    """How LR is made from HR; the default is Real-ESRGAN's x4plus."""
    network_g: GeneratorSettings
    """The generator."""
    network_d: DiscriminatorSettings
    """The discriminator."""
    path: TrainPaths = field(default_factory=TrainPaths)
    """Where files go and come from."""
    train: TrainingOptions
    """The run, its optimizers and its losses."""
    val: ValOptions = field(default_factory=ValOptions)
    """Validation during the run."""
    logger: LoggerOptions = field(default_factory=LoggerOptions)
    """Log lines, checkpoints, TensorBoard."""

    def __post_init__(self) -> None:
        check_folder_name("name", self.name)
        check(self.scale >= 1, f"scale must be at least 1, got {self.scale}")
        check(self.manual_seed >= 0, f"manual_seed must not be negative, got {self.manual_seed}")
        known = self.num_gpu == "auto" or self.num_gpu >= 1
        check(known, f"num_gpu must be auto or at least 1 (for a CPU say device: cpu), got {self.num_gpu}")
        size = self.datasets.train.gt_size
        check(size % self.scale == 0, f"datasets.train.gt_size must be a multiple of scale {self.scale}, got {size}")
        shift = self.train.perceptual.shift
        check(shift <= size // 2, f"train.perceptual.shift must be at most half of gt_size {size}, got {shift}")
        fits = self.train.precision != "fp16" or self.device != "cpu"
        check(fits, "train.precision: expected fp32 or bf16 with device: cpu, got fp16")
        penalised = bool(self.train.r1_weight) and self.network_d.type != "none"
        check(not (penalised and self.network_d.shard), "train.r1_weight: expected 0 with network_d.shard: FSDP has no second derivative")
        compared = [name for name, metric in self.val.metrics.items() if metric.needs_gt]
        for name, data in self.datasets.val.items():
            needed = f"expected HR images, which val.metrics.{compared[0]} compares with" if compared else ""
            check(not compared or data.dataroot_gt is not None, f"datasets.val.{name}.dataroot_gt: {needed}")
        known = [f"{name}/{metric}" for name in self.datasets.val for metric in self.val.metrics]
        best, listed = self.val.best, ", ".join(known) or "none, since there is no set or no metric to validate with"
        check(best is None or best in known, f"val.best: expected SET/METRIC or null (known: {listed}), got {best!r}")


@dataclass(frozen=True, kw_only=True)
class TestGenerator:
    """The `network_g` section of a test."""

    path: str
    """A released folder such as weights/d3sr-tiny, or experiments/NAME/models/NAME_ITER."""
    pretrained: str | None = None
    """Folder or hub id of the base model, instead of the one that `path` names."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; null = its main branch."""
    strength: float = 1.0
    """How much of what training changed is used: 1 = as trained, less = more faithful, more = more vivid."""
    fast_vae: FastVaeSettings | None = None
    """A small autoencoder instead of the own one: about half to a quarter of the operations, and fine detail is lost."""
    fuse: bool = True
    """Fold what is the same for every picture into the weights: the same result up to rounding, with fewer operations."""
    runtime: Literal["torch", "ncnn"] = "torch"
    """What computes the UNet. ncnn: often faster on a CPU without AMX; `path` is then a folder of tools/export.py --ncnn."""
    compile: bool = False
    """Compile the networks (torch.compile): the first picture of a size waits for the compiler, which must be there for a CPU (C++)."""

    def __post_init__(self) -> None:
        check(bool(self.path), "path must not be empty")
        check(0 <= self.strength <= 2, f"strength must lie in 0..2, got {self.strength:g}")
        plain = self.fuse and not self.compile and self.fast_vae is None
        check(self.runtime == "torch" or plain, "runtime: ncnn takes fuse: true, compile: false and no fast_vae")


@dataclass(frozen=True, kw_only=True)
class TestPaths:
    """The `path` section of a test."""

    results_root: str = "results"
    """Pictures and scores go to results_root/name, unless -o says otherwise."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The `output` section: how results are written."""

    format: Literal["png", "jpg", "webp"] = "png"
    """png keeps 16 bit and alpha, webp alpha, jpg neither."""
    quality: int = 95
    """Of jpg, webp and videos, 1 to 100."""
    suffix: str = ""
    """Added to every name: _x4 turns a.jpg into a_x4.png."""
    overwrite: bool = False
    """false = a picture whose result exists already is not restored again."""

    def __post_init__(self) -> None:
        check(1 <= self.quality <= 100, f"quality must lie in 1..100, got {self.quality}")
        check(not set(self.suffix) & set('/\\:*?"<>|'), f"suffix: expected what can stand in a file's name, got {self.suffix!r}")


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """Everything a restoration needs to know."""

    name: str
    """Name of the test and of its folder."""
    scale: float = 4.0
    """Output side over input side."""
    size: TargetSize | None = None
    """How large results become, in place of the option file's scale; null = by scale."""
    manual_seed: int = 0
    """Seed; restoration itself draws nothing at random."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto = cuda, else mps, else cpu."""
    num_threads: int | Literal["auto"] = "auto"
    """Of each process on a CPU; auto = as many as there are cores, also under torchrun. Another number rounds other last bits."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Of the networks; fp16 and bf16 halve memory and time on a GPU. auto = bf16 on a CPU with AMX, else fp32."""
    max_megapixels: float = 100.0
    """Larger inputs are refused before they are decoded; the result has scale^2 times as many."""
    input: str | tuple[str, ...] = ()
    """Files, folders or `.txt` lists to restore when there is neither -i nor datasets.test."""
    datasets: TestDatasets = field(default_factory=TestDatasets)
    """Named sets to restore and score."""
    network_g: TestGenerator
    """The generator."""
    path: TestPaths = field(default_factory=TestPaths)
    """Where files go."""
    tile: int | Literal["auto"] = 0
    """Side of the tiles in output pixels; 0 = whole pictures; auto = by the free memory, and smaller when it does not suffice."""
    tile_overlap: int = 64
    """How far neighbouring tiles overlap, in output pixels."""
    color_fix: ColorFix = "none"
    """Take from the input the colours' low frequencies (wavelet), their mean and deviation (adain), or all but the luma (ycbcr)."""
    output: OutputOptions = field(default_factory=OutputOptions)
    """How results are written."""
    metrics: dict[str, MetricOptions] = field(default_factory=dict)
    """Name in the tables -> metric."""
    comparison_sheet: bool = True
    """Where HR is known, also write pictures of bicubic | ours | HR."""
    report: bool = False
    """Also write index.html: every picture behind a slider, before and after, with its scores."""

    def __post_init__(self) -> None:
        check_folder_name("name", self.name)
        check(self.scale >= 1, f"scale must be at least 1, got {self.scale}")
        check(self.manual_seed >= 0, f"manual_seed must not be negative, got {self.manual_seed}")
        check(all(self.inputs), "input must not hold an empty name")
        check(self.num_threads == "auto" or self.num_threads >= 1, f"num_threads must be auto or at least 1, got {self.num_threads}")
        check(self.max_megapixels > 0, f"max_megapixels must be above 0, got {self.max_megapixels:g}")
        check(self.tile == "auto" or self.tile >= 0, f"tile must not be negative, got {self.tile}")
        check(self.tile_overlap >= 0, f"tile_overlap must not be negative, got {self.tile_overlap}")
        fits = self.tile in ("auto", 0) or self.tile_overlap < self.tile
        check(fits, f"tile_overlap must be smaller than tile {self.tile}, got {self.tile_overlap}")
        fits = self.precision != "fp16" or self.device != "cpu"
        check(fits, "precision: expected auto, fp32 or bf16 with device: cpu, got fp16")
        ncnn = self.network_g.runtime == "ncnn"
        fits = not ncnn or self.precision in ("auto", "fp32")
        check(fits, f"precision: expected fp32 with network_g.runtime: ncnn, got {self.precision}")
        check(not ncnn or self.tile != "auto", "tile: expected pixels with network_g.runtime: ncnn, whose memory is not counted, got auto")
        check(not ncnn or self.device in ("auto", "cpu"), f"device: expected cpu with network_g.runtime: ncnn, got {self.device}")

    @property
    def inputs(self) -> tuple[str, ...]:
        """input as a tuple, however it was written."""
        return (self.input,) if isinstance(self.input, str) else self.input


def load_train_options(path: str | Path, force_yml: Iterable[str] = ()) -> TrainOptions:
    """Reads and checks a training's option file; `force_yml` holds assignments such as `train.optim_g.lr=1e-4`. Raises OptionsError."""
    return build(TrainOptions, find_shipped(read_options(path, force_yml)), str(path))


def load_test_options(path: str | Path, force_yml: Iterable[str] = ()) -> TestOptions:
    """Reads and checks a test's option file; a scale in `force_yml` excludes a size. Raises OptionsError."""
    section = read_options(path, force_yml)
    scale = section.sources.get("scale")
    if section.get("size") is not None and scale is not None and scale.line is None:  # no line: it was written in no file
        raise scale.error("expected a factor or a size, got both; size=null goes by the factor")
    return build(TestOptions, find_shipped(section), str(path))
