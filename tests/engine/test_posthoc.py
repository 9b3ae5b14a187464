"""Averages of a width that is chosen after the training, of what a run has stored."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from commands import run as command
from diffcli import recipe as recipes
from diffcli.engine import checkpoint, posthoc
from diffcli.engine.ema import PowerEMA
from diffcli.engine.job import prepare
from diffcli.engine.load import load, split
from diffcli.engine.profiles import Profile, fit, gamma_of, inner
from diffcli.engine.rundir import committed
from diffcli.engine.step import step_once
from diffcli.errors import RunError
from runs import forget, same

SHORT = (
    "--channels",
    "8",
    "--batch-size",
    "4",
    "--steps",
    "12",
    "--save-every",
    "4",
    "--log-every",
    "1",
    "--keep",
    "2",
)
ON = ("--ema-snapshots", "3")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps with snapshots after 3, 6, 9 and 12, saved in the background."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    ran = command("train", "rf", *SHORT, *ON, "--async-save", "--output", folder)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def run(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "run"))


def walk(
    folder: Path, steps: int, every: int, widths: dict[str, float], wanted: float
) -> tuple[nn.Module, torch.Tensor]:
    """Averages of a random walk, stored every so many steps; (the average of `wanted`, kept along; the walk (steps, 40))."""
    torch.manual_seed(0)
    module = nn.Linear(39, 1)
    kept = {name: PowerEMA(module, width) for name, width in widths.items()}
    direct, path = PowerEMA(module, wanted), []
    for n in range(steps):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn(p.shape))
        path.append(torch.cat([p.detach().flatten() for p in module.parameters()]).double())
        for ema in (direct, *kept.values()):
            ema.update(module, n)
        if (n + 1) % every == 0:
            tensors = {name: ema.model.state_dict() for name, ema in kept.items()}
            checkpoint.commit(folder / "ema", n + 1, tensors, {posthoc.STATE: widths}, {})
    return direct.model, torch.stack(path)


@pytest.mark.parametrize("wanted", [0.04, 0.07, 0.15, 0.25])
def test_it_is_the_direct_average_within_the_bound(tmp_path, wanted):
    """Each weight is off by at most error |p| |theta - c| (Cauchy and Schwarz), and by float32: 60 roundings of 2^-24 of
    weights up to 60, in averages whose shares |x_i| add up to no more than 20 here."""
    steps, widths = 60, {"profile_1": 0.05, "profile_2": 0.10}
    direct, path = walk(tmp_path, steps, 6, widths, wanted)
    last = checkpoint.open_checkpoint(committed(tmp_path, "ema")[-1][1])
    found = posthoc.kept(tmp_path, last, pytest.fail)
    assert len(found) == 20
    tensors, error = posthoc.reconstruct(found, wanted, steps)
    profile = Profile(gamma_of(wanted), steps)
    x, same_error = fit([average.profile for average in found], profile)
    assert error == same_error and sum(map(abs, x)) < 20
    off = torch.cat([(tensors[n].double() - p.double()).abs().flatten() for n, p in direct.named_parameters()])
    bound = error * math.sqrt(inner(profile, profile)) * (path - path.mean(0)).square().sum(0).sqrt()
    assert bool((off <= bound + 20 * 60 * 60 * 2**-24).all())
    assert off.max() > 0


def exported(run: Path, *given: object) -> dict[str, torch.Tensor]:
    place = run.parent / f"model-{len(list(run.parent.iterdir()))}"
    ran = command("export", run, place, *given)
    assert ran.code == 0, ran.err
    return load_file(place / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_stored_width_is_exported_bit_for_bit(run):
    for width, name in ((0.05, "profile_1"), (0.1, "profile_2")):
        for place, step in ((run, 12), (run / "checkpoints" / "step-00000008", 8)):
            kept = load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")
            assert equal(exported(place, "--ema-width", width), kept)
    assert not equal(exported(run), kept)


@pytest.mark.slow
def test_another_width_is_near_its_own_training(run, tmp_path):
    """A run that keeps 0.07 itself: nearer to it than the stored ones of 0.05 and 0.10 are, by the ratio of the profiles' errors.

    With four snapshots the error of the profile is 3.5 %, and 0.05 or 0.10 in its place are 25 % off or more.
    """
    ran = command("train", "rf", *SHORT, *ON, "--ema-profiles", "0.07", "--output", tmp_path / "own")
    assert ran.code == 0, ran.err
    own = load_file(tmp_path / "own" / "checkpoints" / "step-00000012" / "profile_1.safetensors")

    def off(other: dict[str, torch.Tensor]) -> float:
        return math.sqrt(sum(float((own[name] - t).double().square().sum()) for name, t in other.items()))

    made = off(exported(run, "--ema-width", 0.07))
    assert made < 0.3 * min(off(exported(run, "--ema-width", width)) for width in (0.05, 0.1))


def test_saving_in_the_background_changes_no_bit_of_a_run(run, tmp_path):
    ran = command("train", "rf", *SHORT, "--output", tmp_path / "plain")
    assert ran.code == 0, ran.err
    same(tmp_path / "plain", run)
    names = {path.stem for path in (tmp_path / "plain" / "checkpoints" / "step-00000012").glob("*.safetensors")}
    assert names == {"model", "ema", "optim"}, "averages of other widths only where they are asked for"
    assert not (tmp_path / "plain" / "ema").exists()


def test_a_resume_makes_the_same_snapshots_each_once(run, stored):
    forget(run, 12)
    ran = command("train", "--resume", run)
    assert ran.code == 0, ran.err
    same(run, stored)
    for folder in ("ema/step-00000009", "ema/step-00000012", "checkpoints/step-00000012"):
        for k in (1, 2):
            file = f"{folder}/profile_{k}.safetensors"
            assert (run / file).read_bytes() == (stored / file).read_bytes(), file
    assert [path.name for path in sorted((run / "ema").iterdir())] == [f"step-{k:08d}" for k in (3, 6, 9, 12)]


def test_a_damaged_snapshot_is_told_of_and_passed_over(run):
    path = run / "ema" / "step-00000009" / "profile_1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    ran = command("export", run, run.parent / "model", "--ema-width", 0.07)
    assert ran.code == 0, ran.err
    assert "damaged snapshot passed over" in ran.err and "of 6 stored ones" in ran.err  # at 3, 6 and 12
    assert (run / "ema" / "step-00000009").is_dir()


def test_what_has_no_average_of_a_width_is_refused(run, tmp_path):
    for given, code, said in (
        ((run, "--ema-width", 0.5), 2, "takes a number from 0.001 to 0.2887"),
        ((run, "--ema-width", 0.1, "--raw"), 2, "leave one of them out"),
    ):
        ran = command("export", given[0], tmp_path / "m", *given[1:])
        assert ran.code == code and said in ran.err, ran.err
    exported(run)
    (model,) = tmp_path.glob("model-*")
    ran = command("export", model, tmp_path / "m", "--ema-width", 0.1)
    assert ran.code == 2 and "give --ema-width with its run" in ran.err
    ran = command("train", "rf", *SHORT, *ON, "--ema-profiles", "0.1,0.1", "--output", tmp_path / "twice")
    assert ran.code == 2 and "names a width twice" in ran.err
    assert not (tmp_path / "m").exists() and not (tmp_path / "twice").exists()
    with pytest.raises(RunError, match="train with --ema-snapshots"):
        posthoc.reconstruct([], 0.1, 12)


def test_a_poor_fit_is_warned_of(run):
    ran = command("export", run, run.parent / "model", "--ema-width", 0.28)
    assert ran.code == 0 and "warning: average of width 0.28 of 8 stored ones" in ran.err


def test_hostile_widths_are_no_averages(run):
    place = run / "checkpoints" / "step-00000012"
    stored = checkpoint.open_checkpoint(place)
    for widths in ({"profile_1": "0.1"}, [0.1], {"profile_1": True}):
        with pytest.raises(RunError, match="diffcli did not write it"):
            list(posthoc.averages(checkpoint.Checkpoint(place, 12, {}, stored.files, {posthoc.STATE: widths})))


def test_each_step_of_a_training_weighs_its_share():
    """The integral of the profile over its step; float32 rounds six updates of weights of size 1: 1e-6."""
    tables = {"method": {"name": "rf"}, "model": {"name": "unet", "channels": 8}}
    train = {"batch_size": 2, "ema_snapshots": "3", "ema_profiles": [0.1], "lr": 0.1}
    job, seen = prepare(recipes.resolve({**tables, "train": train})), []
    for step in range(6):
        step_once(job, step, 6, 0)
        seen.append([p.detach().double().clone() for p in job.method.parameters()])
    (average,) = job.profiles.values()
    edges = torch.arange(7).double().div(6) ** (gamma_of(0.1) + 1)
    for k, p in enumerate(average.model.parameters()):
        wanted = sum(share * now[k] for share, now in zip(edges.diff().tolist(), seen, strict=True))
        torch.testing.assert_close(p.double(), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_statistics_of_the_data_are_those_of_the_new_average(tmp_path):
    """vae's latents of its training images have standard deviation 1, whatever average encodes them; float32 leaves 1e-5."""
    short = ("--channels", "8", "--batch-size", "4", "--steps", "8", "--save-every", "8", "--ema-snapshots", "2")
    ran = command("train", "vae", *short, "--output", tmp_path / "run")
    assert ran.code == 0, ran.err
    exported(tmp_path / "run", "--ema-width", 0.15)
    model = load(next(tmp_path.glob("model-*")))
    assert model.weights == "ema-width 0.15"
    data = split(model, model.recipe, "train")
    items = torch.arange(len(data))
    with torch.no_grad():
        z = model.encode(data.batch(items, items, model.space).x)
    assert float(z.double().std(correction=0)) == pytest.approx(1, abs=1e-5)
