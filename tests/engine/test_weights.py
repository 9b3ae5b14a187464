"""Tensors as bytes: those of safetensors' own writer, without its copies."""

from __future__ import annotations

import pytest
import torch
from safetensors import torch as safetensors

from diffcli.engine.weights import TYPES, pack, pieces, whole
from diffcli.errors import NonFinite


def odd() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(2, 3, 4)
    group = {
        "tied": base,
        "again": base,
        "view": base[:, 1:, ::2],
        "transposed": base.permute(2, 0, 1),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "nothing": torch.empty(0, 3),
        "every other": torch.arange(6.0)[::2],
        'é " \\ \n \u2028': torch.tensor(1.5),
        "grad": torch.ones(2, requires_grad=True),
        "last": torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    return group | {f"{dtype}{n}": torch.ones(n).to(dtype) for dtype in TYPES for n in (1, 3)}


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
