"""The figure of `tools.figures.noise_level`: noise level against timestep, what was measured, and what each picture asks for."""

from pathlib import Path

import numpy as np
from torch import Tensor

from tools.figures.figures import COLOURS, TEXT_WIDTH, save_figure
from tools.figures.noise_level import NoiseMatch

DPI = 200
BIN = 25  # timesteps


def draw_match(stem: Path, match: NoiseMatch, alphas_cumprod: Tensor, configured: int, title: str) -> list[Path]:
    """stem.png: above the noise level of every timestep with the latent error across, below a histogram of the pictures' own timesteps.

    Both share their timesteps, and both mark the matched and the configured one.
    """
    from matplotlib.figure import Figure

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
