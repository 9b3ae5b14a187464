"""One model on several devices: whole on each (DDP, Li et al. 2020), or a share of every tensor on each (FSDP2, Zhao et al. 2023)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from diffcli.core.method import Batch, Method
from diffcli.core.random import Rng


class Step(nn.Module):
    """A method's loss as the call of a module: it is what DDP and FSDP2 hang their hooks on."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        return self.method.loss(batch, rng)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks that networks are stacked of, those in them left out: what stands in a ModuleList and can be called."""
    for child in module.children():
        for one in child if isinstance(child, nn.ModuleList) else ():
            if type(one).forward is nn.Module.forward:  # a list of lists, or a level that holds some
                yield from blocks(nn.ModuleList([one]) if isinstance(one, nn.ModuleList) else one)
            elif next(one.parameters(), None) is not None:
                yield one
        if not isinstance(child, nn.ModuleList):
            yield from blocks(child)


def recompute(method: Method) -> None:
    """Keep no activations inside blocks: they are computed again in the backward pass (Chen et al. 2016), bit by bit the same."""
    for block in blocks(method):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def whole_on_each(step: Step, device: torch.device, unused: bool) -> nn.Module:
    """The step of a model of which each process has all; the gradients it leaves are the mean over them.

    unused: whether a step may leave parameters without a gradient.
    """
    options = {"gradient_as_bucket_view": True, "find_unused_parameters": unused}
    with warnings.catch_warnings():  # buffers are alike already; newer versions of torch have another word for it
        warnings.simplefilter("ignore", FutureWarning)
        places = [device] if device.type == "cuda" else None
        return DistributedDataParallel(step, places, broadcast_buffers=False, **options)


def shares(step: Step, device: torch.device) -> nn.Module:
    """The same step, of a model of which each process has a share of every tensor: a block is whole while it computes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks(step):
        fully_shard(block, mesh=mesh)
    return fully_shard(step, mesh=mesh)


def accumulating(step: nn.Module, last: bool) -> AbstractContextManager[None]:
    """For one part of a batch: gradients are added up over processes after the last part alone."""
    if isinstance(step, DistributedDataParallel):
        return nullcontext() if last else step.no_sync()
    if hasattr(step, "set_requires_gradient_sync"):
        step.set_requires_gradient_sync(last)
    return nullcontext()


def local(t: Tensor) -> Tensor:
    """What of a tensor lies here: its share, or all of it."""
    return t.to_local() if isinstance(t, DTensor) else t


def whole(t: Tensor) -> Tensor:
    """All of a tensor of which each process has a share; all of them must ask at once."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def like(t: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, shared out as another one is."""
    if not isinstance(other, DTensor):
        return t
    return distribute_tensor(t.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def collected(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors, one after the other; kept by one process, on its CPU where they were shared out, let go by the others."""
    found = {}
    for name, t in tensors.items():
        full = whole(t)
        if keep:
            found[name] = full.cpu() if isinstance(t, DTensor) else full
    return found


def plain(method: Method) -> Method:
    """A copy to look at, untouched by what a training hangs on to the original."""
    return copy.deepcopy(method).eval().requires_grad_(False)
