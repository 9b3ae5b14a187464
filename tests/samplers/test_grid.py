"""Where the steps lie."""

import pytest
import torch

from diffcli.core.process import MaskedProcess
from diffcli.engine.bench_errors import FAMILIES, case, error, walk
from diffcli.errors import UsageError
from diffcli.registry import registry
from diffcli.samplers.grid import grid, levels
from diffcli.samplers.unipc import UniPC
from diffcli.schedules import CosineOptions, LinearOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine, linear

TABLE = linear(LinearOptions(), None)
ALL = {"vp": VP(), "edm": EDM(), "rectified": Rectified(), "linear": TABLE, "cosine": cosine(CosineOptions(), None)}


def index(times: torch.Tensor) -> list[int]:
    """Entries of a table of 1000."""
    return [round(float(t) * 1000) - 1 for t in times[:-1]]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spacing", ["uniform", "cosine", "trailing", "linspace", "leading", "karras", "logsnr", None])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 250])
def test_every_grid_falls_to_zero(name, spacing, steps):
    times = grid(ALL[name], steps, spacing)
    assert times.shape == (steps + 1,) and times.dtype == torch.float64 and times.device.type == "cpu"
    assert times[-1] == 0 and (times.diff() < 0).all()
    assert times[0] == 1 or spacing == "leading"


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 300, 999, 1000])
def test_a_table_gives_distinct_entries_that_start_at_the_last(steps):
    for spacing in ("uniform", "linspace", "leading"):
        nodes = grid(TABLE, steps, spacing)[:-1] * 1000
        assert torch.allclose(nodes, nodes.round(), atol=1e-9) and len(set(nodes.round().tolist())) == steps
        assert spacing == "leading" or nodes[0] == 1000


def test_no_sampler_takes_more_steps_of_its_own_than_a_table_has():
    short = cosine(CosineOptions(timesteps=7), None)
    for spec in registry().specs("sampler").values():
        if spec.family == "gaussian":
            sampler = spec.load()(spec.config())
            assert sampler.steps(short) <= 7 and 20 <= sampler.steps(Rectified()) <= 1000, spec.name


def test_the_published_entries():
    assert index(grid(TABLE, 50)) == list(range(999, 0, -20))
    assert index(grid(TABLE, 7)) == [999, 856, 713, 570, 428, 285, 142]
    assert index(grid(TABLE, 16))[1] == 937  # 937.5 rounds to the even 938, whose index is 937
    assert {0, 999} < set(index(grid(TABLE, 50, "linspace")))
    assert index(grid(TABLE, 1, "linspace")) == [999]
    assert index(grid(TABLE, 50, "leading")) == list(range(980, -1, -20))
    assert torch.equal(grid(TABLE, 7, "trailing"), grid(TABLE, 7, "uniform"))


def test_a_continuous_uniform_grid_is_even():
    assert torch.allclose(grid(Rectified(), 7), torch.linspace(1, 0, 8, dtype=torch.float64), rtol=0, atol=1e-15)


def test_the_cosine_grid_is_that_of_its_formula():
    """(1 + cos(pi k/N))/2, on a table between its entries."""
    k = torch.arange(8, dtype=torch.float64)
    for process in (Rectified(), TABLE):
        assert torch.allclose(grid(process, 7, "cosine"), (1 + torch.cos(torch.pi * k / 7)) / 2, rtol=0, atol=1e-15)


def test_karras_levels_are_the_papers():
    sigma = 80 * grid(EDM(), 18)  # Karras et al. 2022, Eq. 5
    i, low, high = torch.arange(18, dtype=torch.float64), 0.002 ** (1 / 7), 80 ** (1 / 7)
    assert torch.allclose(sigma[:-1], (high + i / 17 * (low - high)) ** 7, rtol=1e-12)


def test_logsnr_levels_are_even_in_their_logarithm():
    p = VP()
    steps = p.ratio(grid(p, 12, "logsnr")[1:-1]).log().diff()
    assert torch.allclose(steps, steps[0].expand(10), rtol=1e-8)


@pytest.mark.parametrize(("steps", "high", "low"), [(1, 1, 0.005), (5, 5, 0.005), (20, 20, 0.005), (500, 80, 0.005)])
def test_few_logsnr_levels_stay_where_the_path_bends(steps, high, low):
    """From N, and never beyond what the process declares, to the least; the first is replaced by t = 1."""
    p = Rectified()
    ratio = p.ratio(grid(p, steps, "logsnr")[1:-1])
    if steps > 1:
        assert ratio[-1] == pytest.approx(low)
        assert ratio[0] == pytest.approx(high * (low / high) ** (1 / (steps - 1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_of_logsnr_serve_coarse_and_fine_laws(family):
    """No family pays for the other: 10 steps of unipc are closer to the exact end than with all levels, on fresh laws."""
    sampler = UniPC()
    for on in (case("rectified", size, family, seed=30, problems=3, walks=16) for size in (2, 64)):
        full = levels(on.process, 10, "logsnr", 7.0, (on.process.ratio_max, on.process.ratio_min))
        own, all_ = (
            error((walk(sampler, p.denoiser, p.x, times) for p in on.problems), on.problems)
            for times in (grid(on.process, 10, "logsnr"), full)
        )
        assert own < 0.95 * all_


def test_rho_moves_levels_toward_the_low_end():
    assert grid(EDM(), 9, "karras", rho=9.0)[4] < grid(EDM(), 9, "karras", rho=3.0)[4]


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(UsageError, match=r"1001 steps .* 1000 entries"):
        grid(TABLE, 1001)
    with pytest.raises(UsageError, match="at least 1"):
        grid(VP(), 0)
    with pytest.raises(UsageError, match="spacing even is unknown"):
        grid(VP(), 5, "even")
    with pytest.raises(UsageError, match="masked"):
        grid(MaskedProcess(2), 5, "karras")


def test_a_masked_process_has_a_uniform_grid():
    assert torch.equal(grid(MaskedProcess(2), 4), torch.linspace(1, 0, 5, dtype=torch.float64))


def test_levels_that_do_not_fall_are_refused():
    p = Rectified()
    p.ratio_min, p.ratio_max = 1.0, 0.5
    with pytest.raises(UsageError, match="do not fall"):
        grid(p, 5, "karras")
