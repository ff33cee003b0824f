"""Quality metrics by their pyiqa names, and the five of scoring/looks.py. pyiqa costs seconds, so it is imported when the first of its own
is built; nothing else needs it."""

import contextlib
import difflib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.whole_files import why_no_tensors
from scoring.looks import BEST_AT, LOOKS
from scoring.metric_weights import FILES, how_to_get
from scoring.weight_loading import first_line, npz_to_mat, only_numbers

# The papers' protocol (OSEDiff's published RealSR averages come out with it): luma of BT.601 in [16, 235]. pyiqa's own default is the
# full-range "yiq", which gives 1.3 dB less. NIQE is left at pyiqa's default, because the published NIQE values were computed with it.
PAPER_PROTOCOL: dict[str, dict[str, Any]] = {
    "psnr": {"test_y_channel": True, "color_space": "ycbcr"},
    "psnry": {"color_space": "ycbcr"},
    "ssim": {"test_y_channel": True, "color_space": "ycbcr"},
    "ms_ssim": {"color_space": "ycbcr"},
}


class WeightsError(ValueError):
    """The weights of a metric are not on this machine, or what lies in their place is something else; others may still be computed."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, ready to score.

    `options` is what pyiqa was told beyond its own defaults; `needs_hr` is False for no-reference metrics. `best_at`: the best score, where
    those on both sides of it are worse, so that `lower_better` does not say it; else None.
    """

    name: str
    type: str
    lower_better: bool
    needs_hr: bool
    options: dict[str, Any]
    network: Callable[..., Any]
    device: torch.device | str
    best_at: float | None = None

    def __call__(self, sr: np.ndarray, hr: np.ndarray | None = None) -> float:
        """The score of one picture.

        sr, hr: uint8 (H, W, 3) RGB; hr is ignored by a no-reference metric.
        Raises ValueError, naming the metric and the reason, for pictures it cannot score (NIQE: sides below 96 pixels, flat pictures).
        """
        pictures = [sr]
        if self.needs_hr:
            if hr is None or hr.shape != sr.shape:
                raise ValueError(f"{self.name}: needs an HR picture of {sr.shape[1]}x{sr.shape[0]} pixels, got {_size(hr)}")
            pictures.append(hr)
        try:
            score = float(torch.as_tensor(self.network(*(_to_batch(picture, self.device) for picture in pictures))).float().mean())
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"{self.name}: cannot score a picture of {_size(sr)} pixels: {first_line(error)}") from error
        if not np.isfinite(score):
            raise ValueError(f"{self.name}: the score of a picture of {_size(sr)} pixels is {score}")
        return score


def build_metric(
    name: str,
    type: str,
    *,
    test_y_channel: bool | None = None,
    color_space: str | None = None,
    crop_border: int | None = None,
    pretrained_model_path: str | None = None,
    device: torch.device | str = "cpu",
) -> Metric:
    """The metric that tables call `name` and pyiqa, or scoring/looks.py, calls `type`.

    None leaves an option at the papers' protocol (PAPER_PROTOCOL) and otherwise at pyiqa's default.
    pretrained_model_path: a local weights file; for niqe MATLAB's .mat or BasicSR's .npz. No file runs code, here or from the caches.
    Raises ValueError, saying what to do, for an unknown metric, an option it does not have, and a file that does not hold its weights;
    WeightsError for weights that are neither on this machine nor can be downloaded.
    """
    if type in LOOKS:
        _refuse_options(name, type, test_y_channel, color_space, crop_border, pretrained_model_path)
        network, lower = _on_levels(LOOKS[type]), type != "acutance"
        best_at = BEST_AT.get(type)
        return Metric(name=name, type=type, lower_better=lower, needs_hr=True, options={}, network=network, device=device, best_at=best_at)

    import pyiqa  # late: it takes seconds

    logging.getLogger("pyiqa").setLevel(logging.WARNING)
    _check_type(name, type, pyiqa.list_models())
    given = {"test_y_channel": test_y_channel, "color_space": color_space, "crop_border": crop_border}
    options = PAPER_PROTOCOL.get(type, {}) | {key: value for key, value in given.items() if value is not None}
    with _weights_file(name, pretrained_model_path) as path, only_numbers():
        weights = {} if path is None else {"pretrained_model_path": path}
        try:
            network = pyiqa.create_metric(type, device=torch.device(device), **options, **weights)
        except (OSError, ImportError) as error:
            raise WeightsError(missing_weights(name, type, error)) from error
        except Exception as error:  # a file of anyone's may make the libraries say anything
            given_here = ", ".join([*options, *weights]) or "none"
            if path is not None and "unexpected keyword argument" not in str(error):
                reason = f"{pretrained_model_path} holds no weights of pyiqa's {type}: {why_no_tensors(error)}"
                raise ValueError(f"metric {name}: {reason}") from error
            if isinstance(error, (TypeError, KeyError)):
                reason = f"pyiqa's {type} does not accept these options ({given_here}): {first_line(error)}"
                raise ValueError(f"metric {name}: {reason}") from error
            raise WeightsError(wrong_weights(name, type, error)) from error
    if pretrained_model_path is not None:
        options["pretrained_model_path"] = pretrained_model_path
    return Metric(
        name=name,
        type=type,
        lower_better=bool(network.lower_better),
        needs_hr=network.metric_mode == "FR",
        options=options,
        network=network,
        device=device,
    )


def _refuse_options(name: str, type: str, *options: object) -> None:
    if any(option is not None for option in options):
        raise ValueError(f"metric {name}: {type} has no options")


def _on_levels(look: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """A function of two uint8 pictures (H, W, 3) as one of two batches (1, 3, H, W) in [0, 1]."""

    def score(*batches: torch.Tensor) -> float:
        return look(*((batch[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy() for batch in batches))

    return score


def _check_type(name: str, type: str, known: list[str]) -> None:
    if type not in known:
        near = difflib.get_close_matches(type, [*LOOKS, *known], n=3, cutoff=0.4)
        hint = f"; near: {', '.join(near)}" if near else ""
        listing = "python -c 'import pyiqa; print(pyiqa.list_models())'"
        raise ValueError(f"metric {name}: pyiqa has no metric {type!r}{hint} (all names: {listing})")
    if "fid" in type or type == "inception_score":
        raise ValueError(f"metric {name}: {type} compares folders, not pictures, so it cannot be scored per image")


@contextlib.contextmanager
def _weights_file(name: str, path: str | None) -> Iterator[str | None]:
    """`path` as something pyiqa reads: as it is, or BasicSR's NIQE parameters (.npz) as a temporary .mat."""
    if path is None:
        yield None
        return
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"metric {name}: pretrained_model_path: no file {path}")
    if file.suffix != ".npz":
        yield str(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield npz_to_mat(file, Path(folder) / "niqe.mat")


def missing_weights(name: str, type: str, error: Exception) -> str:
    """What a metric lacks, where that is to be had and where it belongs."""
    where = "Its files belong below $TORCH_HOME/hub (default ~/.cache/torch/hub) or in the hugging face cache."
    if type in FILES:
        where = f"It needs {'; and '.join(how_to_get(file) for file in FILES[type])}."
    clip = " (openai-clip needs setuptools < 81)" if isinstance(error, ImportError) else ""
    return (
        f"metric {name}: the weights of pyiqa's {type} are not on this machine and could not be downloaded ({first_line(error)}{clip}). "
        f"{where} Run python tools/metrics_weights.py once with a network, copy the files there, or take the metric out of the options."
    )


def wrong_weights(name: str, type: str, error: Exception) -> str:
    """What is the matter with the files in the caches, and what to do about it."""
    return (
        f"metric {name}: pyiqa's {type} cannot be built with the files in the caches: {why_no_tensors(error)}. Run "
        "python tools/metrics_weights.py --check and delete what is wrong, or take the metric out of the options."
    )


def _to_batch(picture: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1]."""
    return (torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255).to(device)


def _size(picture: np.ndarray | None) -> str:
    return "none" if picture is None else f"{picture.shape[1]}x{picture.shape[0]}"
