"""What tools/random_base.py does."""

from pathlib import Path

from engine.distributed import dtype_of
from models.backbones import load_autoencoder, load_unet, save_base


def write_random_base(kind: str, seed: int, dtype: str, folder: Path) -> int:
    """Writes unet/, vae/ and scheduler/ of `random:KIND:SEED`. Returns the number of the UNet's parameters."""
    source = f"random:{kind}:{seed}"
    unet = load_unet(source, dtype=dtype_of(dtype))
    save_base(folder, unet, load_autoencoder(source, dtype=dtype_of(dtype)))
    return sum(p.numel() for p in unet.parameters())
