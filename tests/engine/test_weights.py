"""Tensors as bytes: those of safetensors' own writer, without its copies."""

from __future__ import annotations

import pytest
import torch
from safetensors import torch as safetensors

from diffcli.engine.weights import pack, pieces, whole
from diffcli.errors import NonFinite
from tensors import odd


@pytest.mark.parametrize("names", [[], ["tied"], list(odd()), list(odd())[::-1]])
def test_the_bytes_are_those_of_safetensors(names):
    """So hashes of runs and exports of before still hold; of the order, only each type's place in TYPES is ours."""
    group = {name: odd()[name] for name in names}
    plain = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in group.items()}
    assert pack(group, "x") == safetensors.save(plain)


def test_no_dense_tensor_is_copied():
    t = torch.arange(10.0)
    _, body = pieces({"t": t}, "x")
    t[3] = 99.0
    assert torch.frombuffer(bytearray(body), dtype=torch.float32)[3] == 99.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_any_number_that_is_not_finite_is_found(dtype, value, place):
    t = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert whole(t) and whole(t[:0]) and whole(t[0])
    t[place] = value
    assert not whole(t)
    with pytest.raises(NonFinite, match="in bad; it is not saved"):
        pack({"good": torch.ones(1), "bad": t}, "x")


def test_whole_numbers_are_finite():
    assert whole(torch.tensor([2**62])) and whole(torch.tensor([True]))
