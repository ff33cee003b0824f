"""A discriminator whose frozen weights are spread over two processes that talk over gloo, beside the same one under plain DDP."""

import functools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

from engine.distributed import World, parallel, shard_frozen, synchronised
from engine.memory import frozen_bytes
from engine.objectives import frozen
from engine.optimization import build_adamw, clip_gradients, update
from models.discriminator import Discriminator
from tests.engine.test_distributed import in_processes
from tests.tiny_models import discriminator_of, disturb_lora, noise_like, write_sd_base, write_sdxl_base

pytestmark = pytest.mark.slow

GATHER, REDUCE = "_allgather_base_", "allreduce_"


class Collectives(TorchDispatchMode):
    """Counts what is sent inside: calls and numbers of every kind of collective."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.numbers: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function.namespace == "c10d":
            kind = function._schema.name.removeprefix("c10d::")
            sent = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            self.calls[kind] += 1
            self.numbers[kind] += sum(tensor.numel() for tensor in sent)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kinds = {"sd": write_sd_base, "sdxl": write_sdxl_base}
    return {kind: str(write(tmp_path_factory.mktemp("base"))) for kind, write in kinds.items()}


MORE = {"features": "multi", "train_conv_in": True}


def build(base: str, dtype: torch.dtype = torch.float32, **more: Any) -> Discriminator:
    """With adapters before, in and behind the attention, whose matrices B are not zero."""
    targets = ("conv1", "time_emb_proj", "to_q", "proj_out")
    discriminator = discriminator_of(base, rank=2, alpha=2, targets=targets, head_channels=8, dtype=dtype, **more)
    disturb_lora(discriminator.trunk)
    return discriminator


def shared(discriminator: Discriminator, world: World) -> Discriminator:
    shard_frozen(discriminator, discriminator.heavy_layers(), world)
    return discriminator


def here(module: nn.Module) -> int:
    """How many frozen numbers this process holds."""
    weights = [p for p in module.parameters() if not p.requires_grad]
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in weights)


def votes(discriminator: nn.Module, z: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The logits of all depths in one row."""
    return torch.cat([logits.flatten() for logits in discriminator(z, timesteps)])


def both_steps(discriminator: Discriminator, world: World, dtype: torch.dtype) -> dict[str, Any]:
    """The gradient that the generator gets, those of the discriminator accumulated over two batches, and what was sent meanwhile."""
    discriminator_all = parallel(discriminator, world)
    autocast = functools.partial(torch.autocast, "cpu", dtype, enabled=dtype != torch.float32)
    z_hat = noise_like(2, 4, 16, 16, seed=world.rank).requires_grad_()
    sent = {"generator": Collectives(), "first batch": Collectives(), "last batch": Collectives()}
    with sent["generator"], frozen(discriminator), autocast():
        gradient = torch.autograd.grad(votes(discriminator, z_hat, torch.tensor([3, 500])).mean(), z_hat)[0]
    untouched = all(p.grad is None for p in discriminator.parameters())
    for number, batch in enumerate(("first batch", "last batch")):
        with sent[batch], synchronised(discriminator_all, last=batch == "last batch"):
            with autocast():
                z = noise_like(2, 4, 16, 16, seed=10 * number + world.rank)
                logits = votes(discriminator_all, z, torch.tensor([10, 900]))
            logits.square().mean().backward()
    gradients = {name: p.grad.numpy().copy() for name, p in discriminator.trainable().items()}
    found = {name: (dict(s.calls), dict(s.numbers)) for name, s in sent.items()}
    return {"z_hat": gradient.numpy(), "gradients": gradients, "untouched": untouched, "sent": found, "here": here(discriminator)}


def note_gathered(discriminator: Discriminator, bytes_held: list[int]) -> None:
    """Whenever a layer begins, how many bytes of gathered weights there are."""
    trained = set(discriminator.trainable().values())

    def note(*_: object) -> None:
        whole = [p for p in discriminator.parameters() if p not in trained and not isinstance(p, DTensor)]
        bytes_held.append(sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in whole}.values()))

    for layer in discriminator.heavy_layers():
        layer.register_forward_pre_hook(note)


def _both_ways(base: str, dtype: torch.dtype, checkpointing: bool, more: dict[str, Any], world: World) -> SimpleNamespace:
    """`both_steps` of one discriminator under DDP and of the same one spread; what of the latter's weights is not as it was."""
    plain, spread, gathered = build(base, dtype, **more), shared(build(base, dtype, **more), world), []
    note_gathered(spread, gathered)
    if checkpointing:
        for discriminator in (plain, spread):
            discriminator.trunk.enable_gradient_checkpointing()
    found = SimpleNamespace(plain=both_steps(plain, world, dtype), spread=both_steps(spread, world, dtype), gathered=max(gathered))
    pairs = zip(plain.named_parameters(), spread.parameters(), strict=True)
    found.changed = [name for (name, p), q in pairs if not torch.equal(p, q.full_tensor() if isinstance(q, DTensor) else q)]
    return found


CASES = {
    "sdxl fp32": ("sdxl", torch.float32, False, {}),
    "sdxl bf16": ("sdxl", torch.bfloat16, False, {}),
    "sdxl fp32 checkpointing, every depth, conv_in": ("sdxl", torch.float32, True, MORE),
}


@pytest.fixture(scope="module", params=CASES)
def ranks(request: pytest.FixtureRequest, bases: dict[str, str]) -> list[SimpleNamespace]:
    base, dtype, checkpointing, more = CASES[request.param]
    found = in_processes(2, functools.partial(_both_ways, bases[base], dtype, checkpointing, more))
    for rank in found:
        rank.dtype, rank.meta = dtype, build(bases[base], dtype, **more).to("meta")
    return found


def test_both_players_gradients_are_those_of_ddp(ranks: list[SimpleNamespace]) -> None:
    """To rounding: prompt and timestep reach every layer, and what comes back from them is summed in another order."""
    rounding = 20 * torch.finfo(ranks[0].dtype).eps
    for rank in ranks:
        z_hat, gradients = rank.plain["z_hat"], rank.plain["gradients"]
        assert abs(z_hat - rank.spread["z_hat"]).max() <= rounding * abs(z_hat).max() > 0
        assert gradients.keys() == rank.spread["gradients"].keys() == rank.meta.trainable().keys()
        for name, gradient in gradients.items():
            assert abs(gradient - rank.spread["gradients"][name]).max() <= rounding * abs(gradient).max() > 0, name
            assert (ranks[0].spread["gradients"][name] == rank.spread["gradients"][name]).all(), "the same in every process"


def test_only_shares_of_the_frozen_weights_are_sent_and_kept(ranks: list[SimpleNamespace]) -> None:
    """And of what trains, only the gradients of the last batch; never a frozen weight's gradient, never one in the generator's step."""
    whole, layers = here(ranks[0].meta), len(ranks[0].meta.heavy_layers())
    numbers = sum(p.numel() for p in ranks[0].meta.trainable().values())
    for rank in ranks:
        plain, spread = rank.plain, rank.spread
        assert rank.changed == [] and plain["untouched"] and spread["untouched"]
        assert plain["here"] == whole and whole / 2 <= spread["here"] < 0.51 * whole
        assert [plain["sent"][of] for of in ("generator", "first batch")] == [({}, {}), ({}, {})]
        assert plain["sent"]["last batch"][1] == {REDUCE: numbers}
        for of, (calls, sent) in spread["sent"].items():
            assert calls[GATHER] == 2 * layers + 1, "each layer for the forward and for the backward pass, the rest once"
            assert 1.5 * whole < sent[GATHER] < 2.05 * whole
            assert (sent.keys() - {GATHER}, sent.get(REDUCE)) == (({REDUCE}, numbers) if of == "last batch" else (set(), None))


def test_the_estimate_of_memory_covers_what_is_gathered_at_once(ranks: list[SimpleNamespace]) -> None:
    """`frozen_bytes` adds the next layer twice, which is not there yet where, as on a CPU, nothing is fetched ahead."""
    meta, size = ranks[0].meta, ranks[0].meta.trunk.conv_in.weight.element_size()
    layers = [size * here(layer) for layer in meta.heavy_layers()]
    assert frozen_bytes(meta, 1) == size * here(meta)
    for rank in ranks:
        held = size * rank.spread["here"] + rank.gathered
        assert held + 2 * max(layers) == pytest.approx(frozen_bytes(meta, 2), rel=0.01)


def _clipped(base: str, world: World) -> list[dict[str, Any]]:
    """One step in fp16 with a scaler, one that only process 1 knows to be infinite, and one after it; plain and spread."""
    found = []
    for discriminator in (build(base, torch.float16), shared(build(base, torch.float16), world)):
        discriminator_all, trained = parallel(discriminator, world), discriminator.trainable()
        optimizer = build_adamw(trained, learning_rate=1e-3, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        steps = []
        for number in range(3):
            z = noise_like(2, 4, 16, 16, seed=10 * number + world.rank)
            with torch.autocast("cpu", torch.float16):
                loss = votes(discriminator_all, z, torch.tensor([10, 900])).square().mean()
            scaler.scale(loss * (torch.inf if number == world.rank == 1 else 1.0)).backward()
            norm = clip_gradients(optimizer, scaler, 0.01).item()
            steps.append((norm, update(optimizer, scaler, norm)))
        found.append({"steps": steps, "scale": scaler.get_scale(), "weights": {name: p.detach().numpy() for name, p in trained.items()}})
    return found


def test_clipping_scaling_and_skipped_steps_are_those_of_ddp(bases: dict[str, str]) -> None:
    fresh = build(bases["sd"]).trainable()
    ranks = in_processes(2, functools.partial(_clipped, bases["sd"]))
    for plain, spread in ranks:
        assert [taken for _, taken in spread["steps"]] == [taken for _, taken in plain["steps"]] == [True, False, True]
        assert spread["scale"] == plain["scale"] == 2.0
        for mine, ddps in zip(spread["steps"][::2], plain["steps"][::2], strict=True):
            assert mine[0] == pytest.approx(ddps[0], rel=0.01) and mine[0] > 0.01, "it is clipped"
        for name, weight in plain["weights"].items():
            apart, moved = abs(weight - spread["weights"][name]).max(), abs(weight - fresh[name].detach().numpy()).max()
            assert apart <= 0.02 * moved + 2**-23, name
            assert (ranks[0][1]["weights"][name] == spread["weights"][name]).all(), "the same in every process"


def test_an_old_torch_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, bases: dict[str, str]) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0"))
    with pytest.raises(ValueError, match="network_d.shard: true needs torch 2.7 or newer, this is 2.6.0"):
        shared(build(bases["sd"]), World(0, 2, torch.device("cpu")))
