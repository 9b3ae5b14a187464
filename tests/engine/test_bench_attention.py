"""What `diffcli bench attention` measures, and what nn.attention takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffcli.engine.bench_attention import DTYPES, attention, ways
from diffcli.nn.attention import attention as ours
from diffcli.nn.attention import few, written_out

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [16, 64])
def test_all_ways_compute_the_same(dtype, tokens):
    """Sums of at most 64 terms of size 1, rounded to the dtype some five times."""
    there = ways(tokens, dtype, CPU, False)
    assert {"written out", "math", "flash", "torch"} <= there.keys()
    want = there["written out"].once().float()
    for way in there.values():
        assert (way.once().float() - want).abs().max() < 8 * torch.finfo(dtype).eps * want.abs().max()


def test_a_row_says_what_is_taken_and_what_that_costs():
    rows = attention("cpu", tokens=[16, 64], rounds=1, seconds=0.0)
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        either = min(row["us"]["written out"], row["us"]["torch"])
        assert row["loss"] == row["us"][row["chosen"]] / either >= 1
        assert row["ok"] == (row["loss"] <= 1.15) and row["us"][row["fastest"]] == min(row["us"].values())
        taken = "written out" if row["tokens"] == 16 or row["dtype"] == "bfloat16" else "torch"
        assert row["chosen"] == taken


@pytest.mark.parametrize("tokens", [32, 33])
def test_the_choice_is_what_is_computed(tokens):
    """Bitwise: the two ways round differently."""
    q, k, v = torch.randn(3, 2, 3, tokens, 8, generator=torch.Generator().manual_seed(0)).unbind()
    assert few(k) == (tokens == 32)
    want = written_out(q, k, v) if tokens == 32 else F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(ours(q, k, v), want)
    assert not torch.equal(written_out(q, k, v), F.scaled_dot_product_attention(q, k, v))
