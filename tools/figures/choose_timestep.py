"""What tools/choose_timestep.py does: latents of the training's own crops, the timestep that fits them, and the files."""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from data.console import say
from data.loading import endless_batches
from data.sampler import ShardedSampler
from engine.distributed import choose_device
from engine.loop import build_dataset
from models.autoencoders import Autoencoder
from models.backbones import load_alphas_cumprod, load_autoencoder
from models.generator import Generator
from options.d3sr import TrainOptions
from tools.figures.noise_level import NoiseMatch, draw_match, latent_powers, match_noise_level, required_noise_rms


def choose(args: argparse.Namespace, options: TrainOptions) -> list[Path]:
    """Measures, prints the findings and writes the files."""
    g, data, device = options.network_g, options.datasets.train, choose_device(options.device)
    dataset = build_dataset(options)
    alphas_cumprod = load_alphas_cumprod(g.pretrained, g.revision)
    autoencoder = load_autoencoder(g.vae or g.pretrained, None if g.vae else g.revision, subfolder="" if g.vae else "vae").to(device)
    powers, paths = measure(dataset, autoencoder, args.pictures, data.batch_size_per_gpu, device)
    match = match_noise_level(powers, alphas_cumprod)
    alpha_bars = {"matched": match.alpha_bar, "configured": float(alphas_cumprod[g.timestep])}
    noise = {name: required_noise_rms(powers, alpha_bar) for name, alpha_bar in alpha_bars.items()}
    counted, latents = f"{args.pictures} crops of {data.gt_size} pixels", g.vae or g.pretrained
    say(dataset.report(), f"{counted} in the latents of {latents}", *report(match, noise, g.timestep))
    stem = Path(args.output) / "choose_timestep"
    files = draw_match(stem, match, alphas_cumprod, g.timestep, f"{'/'.join(Path(latents).parts[-2:])}\n{counted}")
    found = {"options": " ".join([args.opt, *args.force_yml]), "gt_size": data.gt_size, "manual_seed": options.manual_seed}
    text = json.dumps(found | document(match, noise, g.timestep, paths), indent=2) + "\n"
    stem.with_suffix(".json").write_text(text, encoding="utf-8")
    return [*files, stem.with_suffix(".json")]


def measure(
    dataset: Dataset, autoencoder: Autoencoder, number: int, batch_size: int, device: torch.device
) -> tuple[np.ndarray, list[str]]:
    """The (number, 3) of `latent_powers` of the first crops, and the files they are from."""
    powers, paths, warn = [], [], partial(say, error=True)
    batches = endless_batches(dataset, min(batch_size, number), ShardedSampler(), workers=0, device=device, warn=warn)
    with torch.no_grad(), tqdm(total=number, desc="encoding", unit="picture", disable=None) as bar:
        while len(paths) < number:
            batch = next(batches)
            left = number - len(paths)
            lr, hr = batch["lr"][:left], batch["hr"][:left]
            enlarged = Generator.upsample(lr * 2 - 1, tuple(hr.shape[-2:]))
            powers.append(latent_powers(autoencoder.encode(enlarged), autoencoder.encode(hr * 2 - 1)))
            paths += batch["path"][:left]
            bar.update(len(lr))
    return np.concatenate(powers), paths


def report(match: NoiseMatch, noise: dict[str, float], configured: int) -> list[str]:
    """The findings in words."""
    interval = f" (95 % interval {match.interval[0]} to {match.interval[1]})" if match.interval else ""
    spread = ", ".join(f"{percent} %: {value:.0f}" for percent, value in match.percentiles.items())
    return [
        f"  matched timestep      {match.timestep}{interval}, alpha_bar {match.alpha_bar:.4f}; network_g.timestep is {configured}",
        f"  of each picture alone {spread}; averaged as OMGSR does: {match.omgsr_timestep}",
        f"  latent error          RMS {match.error_rms:.4f}, {match.relative_error:.1%} of the HR latents', SNR {match.snr_db:.2f} dB",
        f"  latents               RMS {match.hr_rms:.4f} (HR), {match.lr_rms:.4f} (LR)",
        f"  noise Eq. 1 asks for  RMS {noise['matched']:.2f} at {match.timestep}, {noise['configured']:.2f} at {configured}"
        " (1 is what the UNet was pre-trained on)",
    ]


def document(match: NoiseMatch, noise: dict[str, float], configured: int, paths: Sequence[str]) -> dict[str, Any]:
    """The findings as choose_timestep.json holds them."""
    return {
        "timestep": match.timestep,
        "interval_95": match.interval,
        "alpha_bar": match.alpha_bar,
        "configured_timestep": configured,
        "omgsr_timestep": match.omgsr_timestep,
        "latent_error_rms": match.error_rms,
        "relative_error": match.relative_error,
        "snr_db": match.snr_db,
        "hr_latent_rms": match.hr_rms,
        "lr_latent_rms": match.lr_rms,
        "required_noise_rms": noise,
        "percentiles": match.percentiles,
        "pictures": [{"path": path, "timestep": t} for path, t in zip(paths, match.per_picture.tolist(), strict=True)],
    }
