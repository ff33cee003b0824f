"""The options of the images to train, validate and test on, and of the metrics they are scored with.

Objects are frozen and check themselves when they are built; `schema.build` adds file and dotted key to what a check says.
"""

from dataclasses import dataclass, field

from options.schema import check

FULL_REFERENCE = (
    *("psnr", "ssim", "ms_ssim", "cw_ssim", "lpips", "stlpips", "dists", "fsim", "vif", "vsi", "gmsd", "topiq_fr", "pieapp"),
    *("acutance", "flat_texture", "roughness", "overshoot", "fringe"),
)
"""How the names of pyiqa's usual full-reference metrics begin, and ours. A rarer one is recognized when it is built, not here."""


def check_folder_name(key: str, name: str) -> None:
    """Refuses a name that cannot be one folder's."""
    proper = name.strip() == name != "" and not name.startswith(".") and not set(name) & set('/\\:*?"<>|')
    check(proper, f"{key}: expected a name that can be a folder's, got {name!r}")


def check_templates(paired: bool, **templates: str) -> None:
    """Refuses templates of names that are none, or of no use since LR and HR are not `paired`."""
    for key, template in templates.items():
        proper = template.count("{}") == 1 and not set(template.replace("{}", "")) & set("{}/\\")
        check(proper, f"{key}: expected a name with one {{}} in place of what LR and HR share, such as '{{}}x4', got {template!r}")
        check(paired or template == "{}", f"{key}: there is no use for it without dataroot_lq and dataroot_gt")


@dataclass(frozen=True, kw_only=True)
class HRSource:
    """One of several sources of HR images."""

    path: str
    """Folder (searched recursively), image, `.txt` list, manifest or shards."""
    weight: float = 1.0
    """How often an image of this source is drawn, compared with one of weight 1."""

    def __post_init__(self) -> None:
        check(bool(self.path), "path must not be empty")
        check(self.weight > 0, f"weight must be above 0, got {self.weight}")


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """What the networks train on."""

    dataroot_gt: str | tuple[str | HRSource, ...]
    """HR images: a folder (searched recursively), a `.txt` list (plain or BasicSR meta-info), a `.jsonl` manifest of tools/manifest.py,
    WebDataset shards (`shards/{00000..00127}.tar`, or a folder of .tar), or several of them, with weights."""
    dataroot_lq: str | None = None
    """LR images of one's own pairs, matched with dataroot_gt by name; null = LR is made from HR by `degradation`."""
    filename_tmpl: str = "{}"
    """How LR's names come from those of their pairs, without the extension: '{}x4' for 0801x4.png of 0801.png. Left at '{}', the names of
    DIV2K, RealSR, DRealSR and the like are recognised where plain ones do not pair."""
    filename_tmpl_gt: str = "{}"
    """The same for HR: '{}_HR' for Canon_001_HR.png."""
    gt_size: int = 512
    """Side of the HR crops in pixels, a multiple of scale."""
    batch_size_per_gpu: int = 4
    """Crops per process and batch."""
    num_worker_per_gpu: int = 4
    """Loader processes per training process; 0 = load in the training process. The samples do not depend on it."""
    use_hflip: bool = True
    """Flip half of the crops from left to right."""
    gt_usm: bool = False
    """Sharpen HR before it becomes target and source of LR, as Real-ESRGAN does (OSEDiff does not)."""

    def __post_init__(self) -> None:
        check(bool(self.dataroot_gt) and all(path for path, _ in self.sources), "dataroot_gt must name at least one folder or list")
        pairs = self.dataroot_lq is not None
        check(not pairs or isinstance(self.dataroot_gt, str), "dataroot_gt: expected one folder or list to match dataroot_lq by name")
        by_name = not pairs or not str(self.dataroot_gt).endswith((".jsonl", ".tar"))
        check(by_name, "dataroot_gt: expected a folder or .txt list with dataroot_lq (pairs are matched by name), got a manifest or shards")
        check_templates(pairs, filename_tmpl=self.filename_tmpl, filename_tmpl_gt=self.filename_tmpl_gt)
        check(not pairs or not self.gt_usm, "gt_usm: expected false with dataroot_lq, since one's own pairs are used as they are")
        check(self.gt_size >= 1, f"gt_size must be at least 1, got {self.gt_size}")
        check(self.batch_size_per_gpu >= 1, f"batch_size_per_gpu must be at least 1, got {self.batch_size_per_gpu}")
        check(self.num_worker_per_gpu >= 0, f"num_worker_per_gpu must not be negative, got {self.num_worker_per_gpu}")

    @property
    def sources(self) -> tuple[tuple[str, float], ...]:
        """dataroot_gt as pairs (path, weight), however it was written."""
        roots = (self.dataroot_gt,) if isinstance(self.dataroot_gt, str) else self.dataroot_gt
        return tuple((root, 1.0) if isinstance(root, str) else (root.path, root.weight) for root in roots)

    @property
    def templates(self) -> tuple[str, str]:
        """Of LR's and HR's names."""
        return self.filename_tmpl, self.filename_tmpl_gt


@dataclass(frozen=True, kw_only=True)
class PairedData:
    """One set to validate or test on; files are matched by name."""

    dataroot_lq: str
    """LR images: folder, image, or `.txt` list."""
    dataroot_gt: str | None = None
    """Their HR images; null = pictures only, and metrics that need no HR."""
    filename_tmpl: str = "{}"
    """How LR's names come from those of their pairs, as for training."""
    filename_tmpl_gt: str = "{}"
    """The same for HR."""

    def __post_init__(self) -> None:
        check_templates(self.dataroot_gt is not None, filename_tmpl=self.filename_tmpl, filename_tmpl_gt=self.filename_tmpl_gt)
        check(bool(self.dataroot_lq), "dataroot_lq must not be empty")
        check(self.dataroot_gt != "", "dataroot_gt must not be empty; null means that there is no HR")

    @property
    def templates(self) -> tuple[str, str]:
        """Of LR's and HR's names."""
        return self.filename_tmpl, self.filename_tmpl_gt


@dataclass(frozen=True, kw_only=True)
class TrainDatasets:
    """The `datasets` section of a training."""

    train: TrainData
    """What the networks train on."""
    val: dict[str, PairedData] = field(default_factory=dict)
    """Named sets to validate on; none = no validation."""

    def __post_init__(self) -> None:
        for name in self.val:
            check_folder_name("val", name)


@dataclass(frozen=True, kw_only=True)
class TestDatasets:
    """The `datasets` section of a test."""

    test: dict[str, PairedData] = field(default_factory=dict)
    """Named sets to restore, and to score where HR is given."""

    def __post_init__(self) -> None:
        for name in self.test:
            check_folder_name("test", name)


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """One metric, by its pyiqa name; null = pyiqa's own default, or the papers' protocol where the two differ."""

    type: str
    """pyiqa's name: psnr, ssim, lpips, dists, niqe, musiq, maniqa-pipal, clipiqa ...; or one of scoring/looks.py's: acutance, flat_texture,
    roughness, overshoot, fringe."""
    test_y_channel: bool | None = None
    """Compare luma only."""
    color_space: str | None = None
    """The luma's colour space; the papers' PSNR and SSIM use ycbcr."""
    crop_border: int | None = None
    """Pixels left out at each side; the papers leave out none."""
    pretrained_model_path: str | None = None
    """The metric's own weights as a file, instead of a download."""

    def __post_init__(self) -> None:
        check(bool(self.type), "type must be the pyiqa name of a metric")
        check(self.crop_border is None or self.crop_border >= 0, f"crop_border must not be negative, got {self.crop_border}")

    @property
    def needs_gt(self) -> bool:
        """True for a metric known to compare with HR."""
        return self.type.startswith(FULL_REFERENCE)
