"""What each masked sampler costs and how exact it is, measured on denoisers that are known: no training, no data."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Counted, Denoiser
from diffcli.core.exact import Joint
from diffcli.core.masked import MaskedPrediction, substitute
from diffcli.core.process import MaskedProcess
from diffcli.core.random import Rng, Rows
from diffcli.engine.bench_errors import Whole
from diffcli.errors import show
from diffcli.plugin import Spec
from diffcli.registry import registry
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid

LENGTHS = (784, 256)  # tokens: of a small image, of a text
STEPS = (40, 1000)  # of the walks whose evaluations are counted
ROWS = 16  # samples of those walks
EXACT = (1, 4, 16, 64)  # steps of the walks whose law is measured
DRAWS = 40_000  # samples that a law is counted on: its distances are known to about 0.005


def pair(process: MaskedProcess) -> Joint:
    """Two tokens that are always equal: of N even steps `unmask` is exactly 1/(2N) away in total variation."""
    return Joint(process, torch.tensor([[0, 0], [1, 1]]), torch.tensor([0.5, 0.5]))


def triple(process: MaskedProcess) -> Joint:
    """Three tokens of three values, four of the 27 sequences, none alike: no symmetry flatters a sampler."""
    states = torch.tensor([[0, 0, 1], [1, 2, 0], [2, 1, 1], [0, 1, 2]])
    return Joint(process, states, torch.tensor([0.4, 0.3, 0.2, 0.1]))


class Uniform:
    """A denoiser of tokens that knows nothing: every value is as likely as any other. What calls it can be counted."""

    def __init__(self, process: MaskedProcess):
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        vocab = self.process.vocab
        log_probs = torch.full((*x_t.shape, vocab), -math.log(vocab), device=x_t.device)
        return MaskedPrediction(substitute(log_probs, x_t, self.process.mask_id))


class Known:
    """A denoiser that costs nothing: it knows what it says of any rows."""

    def __init__(self, process: MaskedProcess, log_probs: Tensor):
        self.process, self.log_probs = process, log_probs

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        return MaskedPrediction(self.log_probs[: len(x_t)])


def fill(sampler: Sampler, denoiser: Denoiser, length: int, steps: int, rng: Rng) -> Tensor:
    """(B, length) tokens, from all [MASK] along an even grid."""
    process = denoiser.process
    x: Tensor = process.prior((length,), rng)
    for _, end in sampler.trajectory(denoiser, x, grid(process, steps), cond={}, rng=rng):
        x = end
    return x


def spent(sampler: Sampler, length: int, steps: int) -> float:
    """Evaluations a sample, of a denoiser that knows nothing."""
    counted = Counted(Uniform(MaskedProcess(2)))
    fill(sampler, counted, length, steps, Rows(0, torch.arange(ROWS), ROWS))
    return counted.rows / ROWS


def distance(sampler: Sampler, law: Joint, steps: int, draws: int = DRAWS, seed: int = 0) -> float:
    """Total variation between a law and that of the sampler, on the law's own posterior."""
    return law.distance(fill(sampler, law, law.states.shape[1], steps, Whole(seed, draws)))


def overhead(sampler: Sampler, length: int = 784, steps: int = 40, rounds: int = 7) -> float:
    """CPU microseconds a call with 16 sequences, all draws included, with a denoiser that costs nothing. Median of rounds."""
    generator = torch.Generator().manual_seed(0)
    known = Known(MaskedProcess(2), torch.randn(ROWS, length, 2, generator=generator).log_softmax(-1))
    taken = []
    for _ in range(rounds):
        counted, rng, begin = Counted(known), Rows(0, torch.arange(ROWS), ROWS), time.process_time()
        fill(sampler, counted, length, steps, rng)
        taken.append((time.process_time() - begin) / counted.calls * 1e6)
    return statistics.median(taken)


def masked_samplers(
    names: Sequence[str] | None = None, report: Callable[[str], None] | None = None, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """A row for each installed masked sampler, with its default options.

    784@40, ...: evaluations a sample, of so many tokens in so many steps, and as `784@40 saved` the share that is saved
    against one call a step, below 0 where it is more; pair@1, triple@64, ...: total variation to a known law, see
    `distance`; overhead_us: see `overhead`; fault: what went wrong, where anything did, which ends what is measured of that
    sampler alone. report is called with the name of each sampler before it is measured.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        laws, rows = {"pair": pair(MaskedProcess(2)), "triple": triple(MaskedProcess(3))}, []
        for name, spec in registry().specs("sampler").items():
            if spec.family != "masked" or (names is not None and name not in names):
                continue
            if report:
                report(name)
            rows.append(row := {"sampler": name})
            try:
                measure(row, spec, laws, draws)
            except Exception as error:  # third parties' code: whatever it does is its own row
                row["fault"] = f"{type(error).__name__}: {show(error, 120)}"
        return rows
    finally:
        torch.set_num_threads(threads)


def measure(row: dict[str, Any], spec: Spec, laws: Mapping[str, Joint], draws: int) -> None:
    """Fill the row of one sampler, as far as it gets."""
    sampler: Sampler = spec.load()(spec.config())
    for length in LENGTHS:
        for steps in STEPS:
            nfe = spent(sampler, length, steps)
            row |= {f"{length}@{steps}": nfe, f"{length}@{steps} saved": 1 - nfe / steps}
    for law, joint in laws.items():
        row |= {f"{law}@{steps}": distance(sampler, joint, steps, draws) for steps in EXACT}
    row["overhead_us"] = overhead(sampler)
