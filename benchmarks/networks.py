"""The forward pass of each network of tokens: in bf16 under the engine's autocast, beside the same in plain fp32.

    python benchmarks/networks.py --output benchmarks/results/networks.json

Both are of one network and one batch, asked in turn; a second is the processor's. Told is the median of the ratios of the
rounds, with their least and most, and how far the two answers are apart, as a share of the size of the answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcli import recipe as recipes
from diffcli.core.random import Rows
from diffcli.engine.environment import environment
from diffcli.engine.job import prepare
from diffcli.engine.precision import autocast
from diffcli.engine.step import batch_of
from diffcli.testing.network import awake

IMAGES = {"dataset": {"name": "shapes", "size": 32}}  # of the size of CIFAR-10's
NETWORKS: dict[str, dict[str, Any]] = {
    "mdlm": {"model": {"name": "mask-transformer", "width": 192, "depth": 4, "heads": 6}},
    "mae-noprop": {
        "model": {"width": 192, "depth": 12, "decoder_width": 96, "decoder_depth": 4, "decoder_heads": 3},
        **IMAGES,
    },
    "mdiffae": {
        "model": {"patch_size": 4, "width": 192, "encoder_depth": 4, "decoder_depth": 4, "mlp_ratio": 4, "kernel": 7},
        **IMAGES,
    },
}


def ways(name: str, rows: int) -> dict[str, Callable[[], Tensor]]:
    """The prediction for one batch, in either precision."""
    train = {"steps": 1, "batch_size": rows, "device": "cpu"}
    job = prepare(recipes.resolve({"method": {"name": name}, **NETWORKS[name], "train": train}))
    method, index, t = awake(job.method).eval(), torch.arange(rows), torch.ones((), dtype=torch.float64)
    batch = batch_of(job, index)
    x_t = method.begin(tuple(job.assembly.space.shape), batch._replace(x=None), Rows(0, index, rows))

    def forward(precision: str) -> Tensor:
        with torch.no_grad(), autocast(precision, torch.device("cpu")):
            answer: Tensor = method.denoiser(x_t, t, method.cond(batch, Rows(0, index, rows)))[0]
        return answer

    return {precision: lambda precision=precision: forward(precision) for precision in ("fp32", "bf16")}  # type: ignore[misc]


def cost(work: Callable[[], Tensor], seconds: float) -> float:
    """Processor seconds a call."""
    began, done = time.process_time(), 0
    while not done or time.process_time() - began < seconds:
        work()
        done += 1
    return (time.process_time() - began) / done


def measured(name: str, rows: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The ratio of a network, and how far its answers are apart."""
    of = ways(name, rows)
    plain, ours = (of[precision]().float() for precision in ("fp32", "bf16"))
    finite = torch.isfinite(plain)
    apart = float((ours - plain)[finite].square().mean().sqrt() / plain[finite].square().mean().sqrt())
    found = [{precision: cost(work, seconds) for precision, work in of.items()} for _ in range(rounds)]
    ratios = [one["fp32"] / one["bf16"] for one in found]
    told = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    each = {f"{p}_ms_a_row": 1000 * statistics.median(one[p] for one in found) / rows for p in of}
    return {"network": name, "rows": rows, "ratio": told, **each, "apart": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(name, given.rows, given.rounds, given.seconds) for name in NETWORKS]
    print("| network | fp32 / bf16 | least to most | bf16, ms a row | apart |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        r = row["ratio"]
        least, most = (f"{r[key]:.2f}" for key in ("least", "most"))
        print(
            f"| {row['network']} | {r['median']:.2f} | {least} to {most} | {row['bf16_ms_a_row']:.2f} | {row['apart']:.4f} |"
        )
    if given.output:
        about = {"rounds": given.rounds, "seconds": given.seconds, **environment(torch.device("cpu"))}
        given.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
