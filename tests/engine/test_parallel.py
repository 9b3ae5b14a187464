"""What a training may be besides plain: in other numbers, recomputed, compiled, channels last."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffcli.engine.parallel import blocks, recompute
from diffcli.engine.precision import autocast, precision_of
from diffcli.engine.step import losses_of, step_once
from diffcli.errors import NonFinite, UsageError
from together import SMALL, made


def job(name="rf", **train):
    plain = {"batch_size": 16, "precision": "fp32", "warmup": "0", "steps": 8}
    return made({"method": {"name": name}, "train": {**plain, **train}})


def grads(made):
    losses_of(made, torch.arange(16))["loss"].backward()
    return {name: p.grad for name, p in made.method.named_parameters()}


@pytest.mark.parametrize("name", SMALL)
def test_blocks_are_apart_and_are_called(name):
    """No block lies in another; each is called as a module in a step, which is when its weights are gathered."""
    method, called = job(name).method, set()
    found = list(blocks(method))
    inside = [id(m) for block in found for m in block.modules()]
    assert len(inside) == len(set(inside)) and found
    for block in found:
        block.register_forward_hook(lambda module, *_: called.add(id(module)))
    made = job(name)
    handles = [b.register_forward_hook(lambda module, *_: called.add(id(module))) for b in blocks(made.method)]
    losses_of(made, torch.arange(16))
    assert len(called) == len(handles)


@pytest.mark.parametrize("name", SMALL)
def test_recomputed_activations_change_no_bit(name):
    plain, again = grads(job(name)), grads(job(name, checkpointing=True))
    assert plain.keys() == again.keys()
    assert all((a is None and again[n] is None) or torch.equal(a, again[n]) for n, a in plain.items())


def held(made) -> int:
    """Bytes that the backward pass of a step holds."""
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = losses_of(made, torch.arange(16))
    assert alive["loss"].requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", ["rf", "mae-noprop", "mdiffae"])
def test_recomputing_holds_fewer_activations(name):
    assert held(job(name, checkpointing=True)) < 0.8 * held(job(name))


def test_recomputing_leaves_names_and_copies_alone():
    made = job(checkpointing=True)
    assert set(made.method.state_dict()) == set(made.ema.model.state_dict()) == set(job().method.state_dict())


def test_float64_is_the_same_function():
    """The float32 loss is that of float64 to its own rounding: some 1e-7 a sum, and its depth."""
    low, high = (losses_of(job(precision=p), torch.arange(16))["loss"].item() for p in ("fp32", "fp64"))
    assert low == pytest.approx(high, rel=1e-5)
    assert job(precision="fp64").averaged().state_dict().keys() == job().method.state_dict().keys()
    assert {p.dtype for p in job(precision="fp64").averaged().parameters()} == {torch.float32}


def test_channels_last_is_the_same_function():
    plain, last = job(), job(channels_last=True)
    assert any(p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) for p in last.method.parameters())
    a, b = (losses_of(made, torch.arange(16))["loss"].item() for made in (plain, last))
    assert a == pytest.approx(b, rel=1e-5)


def test_half_precision_trains_near_float32():
    """fp16 and its scale change a loss by less than the 2^-11 of its numbers, a few layers deep."""
    exact = [step_once(made := job(), 0, 8, 0)["loss"]] + [step_once(made, k, 8, 0)["loss"] for k in range(1, 8)]
    half = [step_once(made := job(precision="fp16"), 0, 8, 0)] + [step_once(made, k, 8, 0) for k in range(1, 8)]
    assert all(row["loss"] == pytest.approx(loss, rel=0.02) for loss, row in zip(exact, half, strict=True))
    assert all(row["loss_scale"] > 1 for row in half)


def test_a_scale_too_high_leaves_a_step_out_and_is_halved():
    """Gradients beyond fp16's numbers say nothing of the loss: no weight moves, and nothing is lost."""
    made = job(precision="fp16")
    made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = {name: p.clone() for name, p in made.method.named_parameters()}
    row = step_once(made, 0, 8, 0)
    assert row["skipped"] == 1 and row["grad_norm"] == 0
    assert all(torch.equal(before[name], p) for name, p in made.method.named_parameters())
    assert made.scaler.get_scale() == 2.0**119


def test_a_loss_that_is_not_finite_is_no_overflow():
    made = job(precision="fp16")
    with torch.no_grad():
        next(made.method.parameters()).fill_(float("nan"))
    with pytest.raises(NonFinite):
        step_once(made, 0, 8, 0)


def test_tensorfloat_is_of_cuda():
    with pytest.raises(UsageError, match="CUDA"):
        job(precision="tf32")
    assert precision_of("tf32", torch.device("cuda")) == torch.float32
    with autocast("fp16", torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch in its own compiler
def test_a_compiled_network_is_the_same_function(monkeypatch):
    """As it is traced; what a compiler makes of that is torch's, and takes it minutes on a CPU."""
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile(module, backend="aot_eager"))
    plain, compiled = job(steps=2), job(steps=2, compile=True)
    for step in range(2):
        a, b = (step_once(made, step, 2, 0) for made in (plain, compiled))
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert set(compiled.method.state_dict()) == set(plain.method.state_dict())


def test_recompute_is_of_training_alone():
    """Without gradients nothing is computed twice."""
    made, calls = job(), []
    recompute(made.method)
    for block in blocks(made.method):
        block.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        losses_of(made, torch.arange(16))
    assert len(calls) == len(list(blocks(made.method)))
