"""Which timestep has the noise level of an LR latent: T_L of Eq. 1 by measurement.

Eq. 1 takes z_lr for a z_t at t = T_L. Such a z_t = sqrt(alpha_bar) z_hr + sqrt(1 - alpha_bar) noise (Eq. 4) has the signal-to-noise ratio

    SNR(z_t) = alpha_bar E[z_hr^2] / (1 - alpha_bar),    and z_lr has    SNR(z_lr) = E[z_hr^2] / E[(z_lr - z_hr)^2].

OMGSR (arXiv 2508.08227, and the README of its code) chooses the t at which they are equal. The power of z_hr cancels, 1 or not:

    (1 - alpha_bar) / alpha_bar = E[(z_lr - z_hr)^2],    that is    alpha_bar = 1 / (1 + E[(z_lr - z_hr)^2]).

In words: the noise level sqrt((1 - alpha_bar) / alpha_bar), relative to the signal it was added to, is the RMS of the latent error. Only
powers are compared. The error itself is no noise: most of it is detail that LR lacks, so z_lr is weaker than any z_t, and what is left for
the UNet to find is another thing than what it was pre-trained on. `required_noise_rms` tells how strong it would have to be.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scoring.bootstrap import interval
from tools.figures.figures import COLOURS, TEXT_WIDTH, save_figure

PERCENTILES = (5, 25, 50, 75, 95)
DPI = 200
BIN = 25  # timesteps


@dataclass(frozen=True, kw_only=True)
class NoiseMatch:
    """What `match_noise_level` found; RMS values are over all latents together."""

    timestep: int
    """The t whose noise level is nearest to the latent error."""
    interval: tuple[int, int] | None
    """95 % bootstrap interval of it: how much it hangs on the choice of pictures. None for a single picture."""
    alpha_bar: float
    """At `timestep`."""
    error_rms: float
    """Of z_lr - z_hr: the measured noise level."""
    hr_rms: float
    lr_rms: float
    snr_db: float
    """10 log10 of SNR(z_lr)."""
    per_picture: np.ndarray
    """(N,) the timestep of each picture by itself."""
    omgsr_timestep: int
    """By OMGSR's own way to average: see `omgsr_timestep`."""

    @property
    def relative_error(self) -> float:
        """RMS of the error over that of z_hr; 1 means that as much is wrong as there is."""
        return self.error_rms / self.hr_rms

    @property
    def percentiles(self) -> dict[int, float]:
        """Of `per_picture`, by the percentages of PERCENTILES."""
        return dict(zip(PERCENTILES, np.percentile(self.per_picture, PERCENTILES).tolist(), strict=True))


def latent_powers(z_lr: Tensor, z_hr: Tensor) -> np.ndarray:
    """Mean squares of each picture's z_lr, z_hr and z_lr - z_hr: latents (N, C, h, w) -> float64 (N, 3)."""
    z_lr, z_hr = z_lr.cpu().double(), z_hr.cpu().double()
    return torch.stack([z.square().mean(dim=(1, 2, 3)) for z in (z_lr, z_hr, z_lr - z_hr)], dim=1).numpy()


def nearest_timestep(error_power: float | np.ndarray, alphas_cumprod: Tensor) -> np.ndarray:
    """The t with alpha_bar nearest to 1 / (1 + error_power), for a number or an array of any shape; beyond the table its ends."""
    wanted = 1 / (1 + np.asarray(error_power, dtype=np.float64))
    return np.abs(alphas_cumprod.double().numpy() - wanted[..., None]).argmin(axis=-1)


def omgsr_timestep(powers: np.ndarray, alphas_cumprod: Tensor) -> int:
    """argmin_t of the mean over pictures of |SNR(z_t) - SNR(z_lr)|, as OMGSR's README writes it: a median weighted by E[z_hr^2].

    Pictures without any error (flat ones) have no finite SNR and do not count.
    """
    _, hr, error = powers[powers[:, 2] > 0].T
    alpha_bar = alphas_cumprod.double().numpy()[:, None]
    return int(np.abs(hr * alpha_bar / (1 - alpha_bar) - hr / error).mean(axis=1).argmin())


def required_noise_rms(powers: np.ndarray, alpha_bar: float) -> float:
    """RMS of the noise_pred with which Eq. 1 gives exactly z_hr, (z_lr - sqrt(alpha_bar) z_hr) / sqrt(1 - alpha_bar).

    1 is what the UNet was pre-trained to predict; far above it, training has to undo that first.
    """
    lr, hr, error = powers.mean(axis=0)
    product = (lr + hr - error) / 2  # E[z_lr z_hr]
    return float(np.sqrt((lr - 2 * alpha_bar**0.5 * product + alpha_bar * hr) / (1 - alpha_bar)))


def match_noise_level(powers: np.ndarray, alphas_cumprod: Tensor) -> NoiseMatch:
    """The timestep whose noise level the LR latents have; see the module's docstring.

    Args:
        powers: (N, 3) of `latent_powers`, batches concatenated; all pictures of one size, so that each counts alike.
        alphas_cumprod: the (T,) table.

    Raises:
        ValueError: no pictures, latents that are not finite, or LR latents that equal the HR latents.
    """
    if not len(powers):
        raise ValueError("no pictures to measure the latent error on")
    if not np.isfinite(powers).all():
        raise ValueError("latents are not finite: the autoencoder's weights are damaged, or not those of its config.json")
    lr, hr, error = powers.mean(axis=0)
    if error == 0:
        raise ValueError("the latents of LR and HR are equal: there is no error whose noise level could be found")
    timestep = int(nearest_timestep(error, alphas_cumprod))
    between = interval(powers[:, 2].tolist())
    return NoiseMatch(
        timestep=timestep,
        interval=None if between is None else tuple(nearest_timestep(np.array(between), alphas_cumprod).tolist()),
        alpha_bar=float(alphas_cumprod[timestep]),
        error_rms=float(np.sqrt(error)),
        hr_rms=float(np.sqrt(hr)),
        lr_rms=float(np.sqrt(lr)),
        snr_db=float(10 * np.log10(hr / error)),
        per_picture=nearest_timestep(powers[:, 2], alphas_cumprod),
        omgsr_timestep=omgsr_timestep(powers, alphas_cumprod),
    )


def draw_match(stem: Path, match: NoiseMatch, alphas_cumprod: Tensor, configured: int, title: str) -> list[Path]:
    """stem.png: above the noise level of every timestep with the latent error across, below a histogram of the pictures' own timesteps.

    Both share their timesteps, and both mark the matched and the configured one.
    """
    table = alphas_cumprod.double().numpy()
    figure = Figure(figsize=(TEXT_WIDTH, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.semilogy(np.sqrt((1 - table) / table), color=COLOURS[0], label=r"noise level $\sqrt{(1-\bar\alpha_t)/\bar\alpha_t}$")
    above.axhline(match.error_rms, color=COLOURS[2], linestyle="--", label=f"latent error, RMS: {match.error_rms:.3g}")
    above.set_ylabel("noise level", fontsize=9)
    below.hist(match.per_picture, bins=np.arange(0, len(table) + BIN, BIN), color=COLOURS[5])
    below.set_ylabel("pictures", fontsize=9)
    below.set_xlabel("timestep $t$ (below: matched by each picture alone)", fontsize=9)
    for axes in (above, below):
        axes.axvline(match.timestep, color=COLOURS[1], label=f"matched: $t$ = {match.timestep}")
        axes.axvline(configured, color=COLOURS[6], linestyle=":", label=f"network_g.timestep: {configured}")
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    below.set_xlim(0, len(table) - 1)
    figure.suptitle(title, fontsize=10)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return save_figure(figure, stem, ("png",), DPI)
