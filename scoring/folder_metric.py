"""FID, which compares two folders of pictures and has no score of a single one."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scoring.metrics import WeightsError, missing_weights, wrong_weights
from scoring.weight_loading import only_numbers

FOLDER_METRICS = ("fid",)


@dataclass(frozen=True, kw_only=True)
class FolderMetric:
    """pyiqa's FID, ready to score: Inception features of pictures shrunk with antialiasing ("clean"), Fréchet distance of two Gaussians.

    Of 100 pictures it is far above its value for many, since 2048 features cannot be estimated from so few: compare it at one size of set.
    """

    name: str
    type: str
    options: dict[str, Any]
    network: torch.nn.Module
    lower_better: bool = True
    needs_hr: bool = True
    best_at: float | None = None

    def __call__(self, sr: Path, hr: Path) -> float:
        """The distance of the pictures in two folders that hold two at least, and nothing else. ValueError where there is none."""
        try:
            # Without loader processes: they would start slower than they decode.
            return float(self.network(str(hr), str(sr), num_workers=0, verbose=False))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"{self.name}: cannot compare {sr} and {hr}: {error}") from error


def build_folder_metric(name: str, type: str = "fid", *, device: torch.device | str = "cpu") -> FolderMetric:
    """The metric that tables call `name`. Raises WeightsError, saying what to do, when its weights cannot be had."""
    import pyiqa  # late: it takes seconds

    assert type in FOLDER_METRICS
    logging.getLogger("pyiqa").setLevel(logging.WARNING)
    try:
        with only_numbers():
            network = pyiqa.create_metric(type, device=torch.device(device))
    except (OSError, ImportError) as error:
        raise WeightsError(missing_weights(name, type, error)) from error
    except Exception as error:  # a file of anyone's may make the libraries say anything
        raise WeightsError(wrong_weights(name, type, error)) from error
    return FolderMetric(name=name, type=type, options={"mode": "clean"}, network=network)
