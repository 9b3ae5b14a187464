"""What only a CUDA device can show: its kernels, its precisions, compiled networks, exact resume, and a host that never waits."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffcli import recipe as recipes
from diffcli.engine.bench_walks import Still, captured, loop, waits
from diffcli.engine.checkpoint import latest
from diffcli.engine.job import prepare, spread
from diffcli.engine.step import step_once
from diffcli.engine.train import train
from diffcli.nn.attention import attention, written_out
from diffcli.registry import registry

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device that torch can use"),
]
SMALL = {"name": "unet", "channels": 16, "multipliers": [1, 2], "attention": [0, 1]}


def recipe(**options):
    tables = {"method": {"name": "rf"}, "model": SMALL, "dataset": {"name": "digits"}}
    return recipes.resolve({**tables, "train": {"steps": 8, "batch_size": 32, "device": "cuda", **options}})


def losses(steps=6, **options):
    """Of the first steps; each is a pure function of the recipe and the weights before it."""
    job = prepare(recipe(**options))
    spread(job)
    return [step_once(job, step, steps, 0)["loss"] for step in range(steps)]


@pytest.mark.parametrize("kernel", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])
@pytest.mark.parametrize("tokens", [16, 64, 1024])
def test_fused_attention_is_the_formula(kernel, tokens):
    """Against float64; bfloat16 has 8 bits, and an answer is a mean of v of size 1, whatever the number of tokens."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, 32, generator=generator).cuda().bfloat16().requires_grad_() for _ in range(3))
    with sdpa_kernel(kernel):  # RuntimeError where there is no such kernel
        y = attention(q, k, v)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    exact = written_out(*wide)
    assert (y - exact).abs().max() < 0.03
    for ours, theirs in zip(
        torch.autograd.grad(y.sum(), (q, k, v)), torch.autograd.grad(exact.sum(), wide), strict=True
    ):
        assert (ours - theirs).abs().max() < 0.03 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_lower_precision_trains_to_the_same_loss(precision):
    """Rounding of 2^-8 of a prediction moves a squared error of about 1 by some hundredths at most."""
    exact, low = losses(precision="fp32"), losses(precision=precision)
    assert all(map(math.isfinite, low)) and low != exact
    assert max(abs(a - b) for a, b in zip(exact, low, strict=True)) < 0.05


def test_weights_and_losses_stay_float32_under_autocast():
    job = prepare(recipe(precision="bf16"))
    step_once(job, 0, 8, 0)
    assert {p.dtype for p in job.method.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in job.method.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_compiled_network_is_the_same_function(precision, channels_last):
    """Fused operations round less often: no more than one rounding a layer apart."""
    plain = losses(precision=precision, channels_last=channels_last)
    compiled = losses(precision=precision, channels_last=channels_last, compile=True)
    assert max(abs(a - b) for a, b in zip(plain, compiled, strict=True)) < (1e-3 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("options", [{"precision": "fp32"}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_a_resumed_run_is_the_undisturbed_one(options, tmp_path, monkeypatch):
    """Bit by bit, with the kernels that torch says are deterministic."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        same = recipe(save_every="4", **options)
        whole, torn = train(same, tmp_path / "whole"), train(same, tmp_path / "torn")
        shutil.rmtree(torn / "checkpoints" / "step-00000008")
        (torn / "summary.json").unlink()
        train(same, resume=torn)
    finally:
        torch.use_deterministic_algorithms(False)
    assert (torn / "summary.json").exists()
    one, other = (latest(run, move=False) for run in (whole, torn))
    for name in ("model", "ema", "optim"):
        mine, its = one.tensors(name), other.tensors(name)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)


@pytest.fixture(scope="module")
def walking():
    job = prepare(recipe(precision="bf16"))
    rng = Still(4, job.device)
    return job.method.eval().denoiser, rng, rng.normal("start", job.assembly.space.shape)


def names():
    return [name for name, spec in registry().specs("sampler").items() if spec.family == "gaussian"]


@pytest.mark.parametrize("name", names())
def test_the_host_never_waits_in_a_walk_of_a_network(name, walking):
    denoiser, rng, x = walking
    run = loop(name, denoiser, rng, 10, x.device)
    assert waits(lambda: run(x)) == 0


@pytest.mark.parametrize("method", ["ddpm", "rf", "vae", "mdlm"])
def test_the_host_waits_once_in_a_step(method):
    """Where it reads what is logged."""
    tables = {"method": {"name": method}, "dataset": {"name": "digits"}, "train": {"device": "cuda", "batch_size": 32}}
    job = prepare(recipes.resolve(tables))
    assert waits(lambda: step_once(job, 0, 8, 0)) == 1


def test_a_wait_is_seen(walking):
    """That the law above can fail."""
    _, _, x = walking
    assert waits(lambda: x * float(x.sum())) > 0


@pytest.mark.parametrize("name", names())
def test_a_whole_walk_is_one_graph(name, walking):
    """A replay with another start is the walk from there."""
    denoiser, rng, x = walking
    run, start = loop(name, denoiser, rng, 10, x.device), x.clone()
    replay, end = captured(run, start)
    start.copy_(x.flip(0))
    replay()
    expected = run(x.flip(0))
    assert (end - expected).abs().max() <= 0.03 * expected.abs().max()
