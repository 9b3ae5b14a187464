"""Our samplers beside those of diffusers and k-diffusion: error at each number of calls, and overhead a step, in one run.

    pip install diffusers scipy torchsde torchdiffeq && pip install --no-deps k-diffusion
    python benchmarks/peers/compare.py --output benchmarks/results/peers.json

All walk from the same noise, on the same exact denoisers and the same betas; what is not installed is left out. The
denoiser is asked at the very level a peer computes with, which can only help it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from overhead import ROUNDS, STEPS, overheads
from torch import Tensor

from diffcli.core.exact import Mixture
from diffcli.engine.bench import one_thread
from diffcli.engine.bench_errors import (
    BUDGETS,
    FAMILIES,
    MODES,
    PROBLEMS,
    WALKS,
    Case,
    Problem,
    case,
    error,
    errors,
    place,
)
from diffcli.engine.environment import environment
from diffcli.registry import registry
from diffcli.schedules.gaussian import EDM, Betas

SCHEDULES = ("linear", "cosine")  # what diffusers takes by default, and what ddpm does
Row = dict[str, Any]
# what it is, its steps within a budget, and the end of a walk of so many steps
Peer = tuple[Row, Callable[[int], int], Callable[[int, Problem], Tensor]]


def betas_of(process: Betas) -> Tensor:
    """The table a process was made of."""
    alpha_bar = torch.cos(process.angle) ** 2
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


class Seen:
    """An exact denoiser as peers ask for it, at a level r = sigma/alpha."""

    def __init__(self, law: Mixture):
        self.edm = EDM()
        self.law = Mixture(self.edm, law.weights, law.means, law.stds)

    def eps(self, x_t: Tensor, ratio: float) -> Tensor:
        """x_t: of alpha^2 + sigma^2 = 1."""
        y = x_t * (1 + ratio**2) ** 0.5
        return self.law(y, self.edm.time(torch.tensor(ratio, dtype=torch.float64)), {}).eps

    def x_0(self, y: Tensor, sigma: Tensor) -> Tensor:
        """y = x_0 + sigma eps; sigma (B,) of equal values."""
        return self.law(y, self.edm.time(sigma[0].double()), {}).x_0


def diffusers(betas: Tensor) -> Iterator[Peer]:
    import diffusers_peers as theirs

    def end(name: str, steps: int, on: Problem) -> Tensor:
        made = theirs.ready(name, betas, steps)
        return theirs.walk(made, Seen(on.denoiser).eps, noise(on), theirs.levels(made, betas))

    for name, (_, settings) in theirs.SCHEDULERS.items():
        facts = {"library": "diffusers", "sampler": name, "default": not settings}
        yield facts, partial(theirs.steps_within, name), partial(end, name)


def k_diffusion(betas: Tensor) -> Iterator[Peer]:
    import k_diffusion_peers as theirs

    sampling = theirs.load()

    def end(sample: Callable[..., Tensor], spacing: str, steps: int, on: Problem) -> Tensor:
        sigmas = theirs.sigmas(sampling, spacing, steps, betas)
        return sample(Seen(on.denoiser).x_0, noise(on) * sigmas[0], sigmas, disable=True)

    for name, sample in theirs.samplers(sampling).items():
        for spacing in theirs.GRIDS:
            facts = {"library": "k-diffusion", "sampler": f"{name} {spacing}", "default": spacing == "default"}
            yield facts, partial(theirs.steps_within, name), partial(end, sample, spacing)


LIBRARIES: dict[str, Callable[[Tensor], Iterator[Peer]]] = {"diffusers": diffusers, "k-diffusion": k_diffusion}


def peers(betas: Tensor, libraries: Iterable[str]) -> Iterator[Peer]:
    """The peers of those libraries that are installed."""
    for name in libraries:
        try:
            yield from LIBRARIES[name](betas)
        except ImportError as missing:
            print(f"{name} is left out: {missing}")


def noise(on: Problem) -> Tensor:
    """The standard normal noise that a problem starts from."""
    process = on.denoiser.process
    return (on.x / process.sigma(torch.ones((), dtype=torch.float64))).float()


def measured(on: Case, libraries: Iterable[str] = ("diffusers", "k-diffusion")) -> list[Row]:
    """A row for each sampler and budget, ours and theirs."""
    assert isinstance(on.process, Betas)
    rows, about = [], {"schedule": on.schedule, "laws": on.family, "dimensions": on.size}
    for name, spec in registry().specs("sampler").items():
        if spec.family != "gaussian" or (sampler := spec.load()(spec.config())).order is None:
            continue
        rows += [{"library": "diffcli", **row} for row in errors(name, sampler, on)]
    for facts, within, end in peers(betas_of(on.process), libraries):
        for budget in BUDGETS:
            row = {**facts, **about, "budget": budget, "steps": within(budget)}
            try:
                row["error"] = error((end(within(budget), p).double() for p in on.problems), on.problems)
            except Exception as fault:  # some settings do not go with some tables
                row |= {"error": None, "fault": f"{type(fault).__name__}: {fault}"}
            rows.append(row)
    return rows


def verdicts(rows: list[Row]) -> list[Row]:
    """For each case and budget: the best of ours, of the peers' defaults, and of all their rows."""
    made = []
    for key in dict.fromkeys((*place(r), r["budget"]) for r in rows):
        here = [r for r in rows if (*place(r), r["budget"]) == key and r["error"] is not None]
        ours = [r for r in here if r["library"] == "diffcli"]
        theirs = [r for r in here if r["library"] != "diffcli"]
        row: Row = dict(zip(("schedule", "laws", "dimensions", "budget"), key, strict=True))
        for what, among in (("ours", ours), ("default", [r for r in theirs if r["default"]]), ("peer", theirs)):
            if among:
                best = min(among, key=lambda r: r["error"])
                named = " ".join(str(best[k]) for k in ("library", "sampler", "spacing") if k in best)
                row |= {what: best["error"], f"{what} is": named.removeprefix("diffcli ")}
        if theirs:
            row |= {"over default": row["ours"] / row["default"], "over peer": row["ours"] / row["peer"]}
        made.append(row)
    return made


def versions() -> dict[str, str | None]:
    """Of the peers; None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in ("diffusers", "k-diffusion"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def compare(seed: int) -> Row:
    """Everything, with what it depends on."""
    with one_thread(), torch.no_grad():
        kinds = [(name, size, laws) for laws in FAMILIES for name in SCHEDULES for size in MODES]
        rows = [row for kind in kinds for row in measured(case(*kind, seed))]
        facts = environment("cpu")
        return {
            "environment": {**facts, "versions": {**facts["versions"], **versions()}},
            "protocol": f"{PROBLEMS} random Gaussian mixtures of seed {seed} a case, of modes of standard deviations {FAMILIES}, "
            f"{WALKS} starts each, median error (root mean square over dimensions); overhead: {STEPS} steps of 16x1x32x32, a free network, median of {ROUNDS} rounds",
            "verdicts": verdicts(rows),
            "overhead_us": overheads(),
            "rows": rows,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the laws and the noise; 0 are those of diffcli bench")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = compare(options.seed)
    for row in found["verdicts"]:
        case_ = f"{row['laws']:6} {row['schedule']:6} {row['dimensions']:2}d {row['budget']:2} calls"
        print(case_, *(f"| {row[f'{w} is']} {row[w]:.2g}" for w in ("ours", "default", "peer") if w in row), end=" ")
        print(f"| over default {row['over default']:.2f}, over peer {row['over peer']:.2f}" if "peer" in row else "")
    for name, cost in found["overhead_us"].items():
        print(f"{name}: {cost:.1f} us a step")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
