"""Pre-trains the small base of D3SR: a diffusion model over block-transform latents of photographs, from scratch.

    python tools/pretrain_tiny.py --data FOLDER [FOLDER ...] --out weights/my-base
    python tools/pretrain_tiny.py --data FOLDER --latents weights/my-base --channels 160 192 192 --out weights/larger   its discriminator's

Epsilon prediction on Stable Diffusion's noise schedule, timesteps uniform over the whole range, no text (a zero embedding is
the null condition). The result is a folder in diffusers' layout that `network_g.pretrained` and `network_d.pretrained` accept.
Running the same command again resumes.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NULL_TOKENS = 8


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="folders of photographs, or lists of files")
    parser.add_argument("--out", required=True, help="folder of the base to write")
    parser.add_argument("--iterations", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16, help="crops per iteration")
    parser.add_argument("--channels", type=int, nargs=3, help="of the UNet's levels, multiples of 16 (default: 96 112 112)")
    parser.add_argument("--layers", type=int, nargs=3, help="residual blocks of each level (default: 1 1 1)")
    parser.add_argument("--size", type=int, default=128, help="side of a crop in pixels")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="peak; 100 iterations of warm-up, then a cosine down to zero")
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that read pictures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="default: %(default)s")
    parser.add_argument("--save-every", type=int, default=200, help="iterations between states to resume from")
    parser.add_argument("--log-every", type=int, default=50, help="iterations between lines")
    parser.add_argument("--fit-crops", type=int, default=1024, help="crops that the block transform is whitened over")
    parser.add_argument("--latents", metavar="BASE", help="whiten as this base does, so that one can judge what the other generates")
    return parser.parse_args(argv)


def fit_transform(dataset, num_crops: int):
    """The block transform, whitened over the first crops of the run."""
    import torch

    from data.image_io import to_unit_range
    from models.block_transform import BlockTransform

    transform = BlockTransform(block_size=4)
    transform.fit(to_unit_range(torch.stack([dataset[n]["hr"] for n in range(num_crops)])) * 2 - 1)
    return transform


def read_transform(base: str):
    """The block transform of another base. Raises ValueError where it has a learned autoencoder instead."""
    from models.backbones import load_autoencoder

    autoencoder = load_autoencoder(base)
    if not autoencoder.is_blockwise:
        raise ValueError(f"--latents: '{base}' has a learned autoencoder; expected a base that this tool made")
    return autoencoder.model


def learning_rate_at(iteration: int, args: argparse.Namespace) -> float:
    """Linear warm-up, then half a cosine."""
    import math

    warmup = min(1.0, (iteration + 1) / 100)
    return args.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * iteration / args.iterations))


def denoising_loss(unet, z, alphas_cumprod, generator, precision: str = "bf16"):
    """Mean squared error of the predicted noise at uniform timesteps, one per sample."""
    import torch
    import torch.nn.functional as F

    from models.diffusion import forward_diffusion

    timesteps = torch.randint(0, len(alphas_cumprod), (len(z),), generator=generator)
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    z_t = forward_diffusion(z, timesteps, noise, alphas_cumprod)
    null = z.new_zeros(len(z), NULL_TOKENS, unet.config.cross_attention_dim)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bf16"):
        noise_pred = unet(z_t, timesteps.to(z.device), encoder_hidden_states=null, return_dict=False)[0]
    return F.mse_loss(noise_pred.float(), noise)


def save_state(path: Path, **state) -> None:
    """Writes the state under a temporary name first, so that a kill leaves the former one intact."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def pretrain(args: argparse.Namespace) -> None:
    """Trains, or goes on training, and writes the base."""
    import torch

    from data.hr_crops import HRCrops
    from data.loading import endless_batches
    from data.sampler import ShardedSampler
    from models.autoencoders import BlockAutoencoder
    from models.backbones import cast, new_unet, save_base
    from models.block_transform import BlockTransform
    from models.configs import TINY_UNET
    from models.diffusion import scaled_linear_alphas_cumprod

    # Data and models
    dataset = HRCrops([(path, 1.0) for path in args.data], gt_size=args.size, scale=4, seed=args.seed, use_hflip=True)
    print(dataset.report())
    state_path = Path(args.out) / "pretrain_state.pt"
    sizes = {"block_out_channels": args.channels, "layers_per_block": args.layers}
    config = TINY_UNET | {name: size for name, size in sizes.items() if size}
    unet = new_unet(config, args.seed).to(args.device, memory_format=torch.channels_last)
    ema = {name: p.detach().clone() for name, p in unet.named_parameters()}
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    alphas_cumprod = scaled_linear_alphas_cumprod()
    iteration = 0

    # Resume
    if state_path.is_file():
        state = torch.load(state_path, map_location="cpu", weights_only=True)
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        transform = BlockTransform(block_size=4)
        transform.load_state_dict(state["transform"])
        ema, iteration = {name: state["ema"][name].to(args.device) for name in ema}, state["iteration"]
        print(f"resuming {state_path} at iteration {iteration}")
    else:
        transform = read_transform(args.latents) if args.latents else fit_transform(dataset, num_crops=args.fit_crops)
    transform.to(args.device)
    sampler = ShardedSampler(rank=0, world_size=1, start=iteration * args.batch)
    loader = endless_batches(dataset, args.batch, sampler, workers=args.workers, device=torch.device(args.device), warn=print)

    # Train
    started, first, running = time.time(), iteration, 0.0
    while iteration < args.iterations:
        batch = next(loader)
        with torch.no_grad():
            z = transform.encode(batch["hr"] * 2 - 1)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + iteration)
        loss = denoising_loss(unet, z, alphas_cumprod, generator, args.precision)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(iteration, args)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay = min(args.ema_decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(list(ema.values()), [p.detach() for p in unet.parameters()], 1 - decay)
        iteration += 1
        running += loss.item()
        if iteration % args.log_every == 0:
            speed = (iteration - first) * args.batch / (time.time() - started)
            print(f"iter {iteration:6d}  loss {running / args.log_every:.4f}  {speed:.4g} crops/s", flush=True)
            running = 0.0
        if iteration % args.save_every == 0:
            save_state(
                state_path,
                unet=unet.state_dict(),
                optimizer=optimizer.state_dict(),
                transform=transform.state_dict(),
                ema=ema,
                iteration=iteration,
            )

    # Write the base: averaged weights, half precision
    unet.load_state_dict(ema)
    save_base(Path(args.out), cast(unet, torch.half), BlockAutoencoder(transform.cpu()))
    print(f"wrote {args.out}; {state_path} is needed no more")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        pretrain(args)
    except (ValueError, OSError) as error:
        print(f"pretrain_tiny.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
