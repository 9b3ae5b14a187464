"""Micro benchmarks of attention: `pytest benchmarks --benchmark-enable`. Every way there is, forward and with its backward pass."""

import pytest
import torch

from diffcli.engine.bench_attention import DTYPES, TOKENS, ways


@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", ["written out", "math", "flash", "efficient", "cudnn", "torch"])
def test_attention(benchmark, name, tokens, dtype, back):
    there = ways(tokens, dtype, torch.device("cpu"), back)
    if name not in there:
        pytest.skip(f"torch has no {name} kernel here")
    assert torch.isfinite(benchmark(there[name].once)).all()
