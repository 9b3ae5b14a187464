"""A latent model and its autoencoder: trained first where none is given, found by its hash, carried by an export."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

import diffcli
from commands import run
from diffcli import recipe as recipes
from diffcli.core.space import Latents
from diffcli.engine import job as jobs
from diffcli.engine.encoded import Encoded, encoded
from diffcli.engine.export import export
from diffcli.engine.finished import encoding, finished
from diffcli.engine.job import prepare
from diffcli.engine.latents import with_autoencoder
from diffcli.engine.rundir import find
from diffcli.engine.step import batch_of, losses_of
from diffcli.engine.train import train
from diffcli.errors import RunError, UsageError

SMALL = {"name": "kl-autoencoder", "channels": 8}
VAE = {"method": {"name": "vae"}, "model": SMALL, "train": {"steps": 4, "batch_size": 8, "save_every": "2"}}
RF = {"method": {"name": "rf"}, "model": {"name": "unet", "channels": 8}, "train": {"steps": 2, "batch_size": 8}}


def latent(tables: dict, autoencoder: object, **train: object) -> dict:
    """The tables, in the latents of a run."""
    return {**tables, "train": {**tables["train"], "autoencoder": str(autoencoder), **train}}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vae, and an rf that lives in its latents."""
    folder = tmp_path_factory.mktemp("latent")
    diffcli.train(VAE, folder / "vae")
    diffcli.train(latent(RF, folder / "vae"), folder / "rf")
    return folder


@pytest.fixture
def here(pair: Path, tmp_path: Path) -> Path:
    """A copy of it. The rf says that its autoencoder lies where the original does."""
    return Path(shutil.copytree(pair, tmp_path / "copy"))


def moved(here: Path, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original autoencoder is out of the way."""
    monkeypatch.setattr(Path, "is_dir", lambda path, real=Path.is_dir: path != pair / "vae" and real(path))
    monkeypatch.setattr(Path, "exists", lambda path, real=Path.exists: path != pair / "vae" and real(path))


def test_sampling_needs_no_flag_and_gives_images(pair):
    model = diffcli.load(pair / "rf", device="cpu")
    assert isinstance(model.space, Latents)
    assert model.sample(2, steps=2).shape == (2, 1, 8, 8)


def test_a_run_remembers_its_autoencoder_by_path_and_hash(pair):
    found, encoder = find(str(pair / "rf")), diffcli.load(pair / "vae", device="cpu")
    assert found.tables["train"]["autoencoder"] == str(pair / "vae")
    manifest = json.loads(next((pair / "rf").glob("checkpoints/*/manifest.json")).read_text())
    assert manifest["meta"]["autoencoder"] == encoder.sha256


def test_a_missing_autoencoder_is_named_and_can_be_given(here, pair, monkeypatch):
    before = diffcli.load(here / "rf", device="cpu").sample(2, steps=2)
    moved(here, pair, monkeypatch)
    with pytest.raises(RunError, match=f"{pair.name}.*vae.*--autoencoder"):
        diffcli.load(here / "rf", device="cpu")
    again = diffcli.load(here / "rf", device="cpu", autoencoder=here / "vae").sample(2, steps=2)
    assert torch.equal(before, again)


def test_plots_take_the_autoencoder_that_is_given(here, pair, monkeypatch):
    moved(here, pair, monkeypatch)
    asked = ("eval", here / "rf", "--plot", "strips", "--samples", "2", "--steps", "2")
    ran = run(*asked)
    assert ran.code == 4 and "give the place where it lies now with --autoencoder" in ran.err
    ran = run(*asked, "--autoencoder", here / "vae")
    assert ran.code == 0, ran.err
    told = json.loads((here / "rf" / "plots" / "strips.json").read_text())
    assert told["autoencoder_sha256"] == diffcli.load(here / "vae", device="cpu").sha256


def test_another_autoencoder_is_refused_and_both_are_named(here, tmp_path):
    other = diffcli.train({**VAE, "train": {**VAE["train"], "seed": 1}}, tmp_path / "other")
    theirs, mine = (diffcli.load(path, device="cpu").sha256[:12] for path in (other, here / "vae"))
    with pytest.raises(RunError, match=f"other.*changed.*{theirs}.*{mine}"):
        diffcli.load(here / "rf", device="cpu", autoencoder=other)


@pytest.mark.slow
def test_an_autoencoder_that_was_trained_on_is_found_at_its_old_checkpoint(here, tmp_path):
    """The hash is of a checkpoint; the run may have gone on since. The model is sampled and trained as it was."""
    known, run = diffcli.load(here / "vae", device="cpu").sha256, here / "vae"
    before = diffcli.load(here / "rf", device="cpu", autoencoder=run).sample(2, steps=2)
    later = diffcli.train({**VAE, "train": {**VAE["train"], "steps": 6}}, tmp_path / "later")
    newer = run / "checkpoints" / "step-00000006"
    shutil.copytree(later / "checkpoints" / newer.name, newer)  # as if it had gone on
    assert diffcli.load(run, device="cpu").sha256 != known
    model = diffcli.load(here / "rf", device="cpu", autoencoder=run)
    assert model.encoder.sha256 == known
    assert torch.equal(model.sample(2, steps=2), before)
    tables = latent(diffcli.load(here / "rf", device="cpu").recipe.tables(), run)
    train(recipes.resolve(tables), resume=here / "rf", console=Console(quiet=True))
    assert diffcli.load(here / "rf", device="cpu").encoder.sha256 == known


@pytest.mark.slow
def test_a_run_goes_on_where_its_autoencoder_lies_now(pair, here, monkeypatch, tmp_path):
    """Resumed with the autoencoder at another place, it ends with the same bits."""
    long = {**RF["train"], "steps": 4, "save_every": "2"}
    whole = diffcli.train(latent({**RF, "train": long}, pair / "vae"), tmp_path / "whole")
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    shutil.rmtree(cut / "checkpoints" / "step-00000004")
    moved(here, pair, monkeypatch)
    tables = latent(recipes.read(cut / "recipe.toml"), here / "vae")
    train(recipes.resolve(tables), resume=cut, console=Console(quiet=True))
    a, b = (diffcli.load(path, device="cpu", autoencoder=here / "vae") for path in (whole, cut))
    assert a.sha256 == b.sha256


def test_a_model_of_pixels_takes_no_autoencoder(pair, tmp_path):
    run = diffcli.train({**RF, "train": {**RF["train"], "steps": 1}}, tmp_path / "pixels")
    with pytest.raises(UsageError, match="does not live in latents"):
        diffcli.load(run, device="cpu", autoencoder=pair / "vae")
    with pytest.raises(UsageError, match="encodes nothing"):
        prepare(recipes.resolve(latent(RF, run)))


@pytest.mark.parametrize("method", ["vae", "mdlm"])
def test_only_numbers_of_their_own_live_in_latents(pair, method):
    digits = {"dataset": {"name": "digits", "size": 8}}
    with pytest.raises(UsageError, match=f"{method} cannot live in latents"):
        prepare(recipes.resolve({**digits, "method": {"name": method}, "train": {"autoencoder": str(pair / "vae")}}))


@pytest.mark.parametrize("lie", ["no hash", "no autoencoder"])
def test_a_latent_model_that_names_no_autoencoder_is_refused(pair, tmp_path, lie):
    """Nothing it could be decoded by is trusted: neither any run that lies there, nor an untrained one."""
    folder = export(pair / "rf", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["autoencoder"] = None
    del config["seal"]  # a liar makes none, or a new one
    if lie == "no autoencoder":
        config["recipe"] = {**config["recipe"], "method": {"name": "ldm", "cond": "none"}}
        del config["recipe"]["train"]["autoencoder"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="autoencoder it lives in"):
        diffcli.load(folder, device="cpu")


def test_a_latent_model_is_no_autoencoder(here):
    with pytest.raises(UsageError, match="lives in latents itself"):
        prepare(recipes.resolve(latent(RF, here / "rf")))


def test_an_autoencoder_of_other_images_is_refused(pair):
    with pytest.raises(UsageError, match=r"8x8.*16x16"):
        prepare(recipes.resolve({**latent(RF, pair / "vae"), "dataset": {"name": "digits", "size": 16}}))


def test_an_export_carries_the_autoencoder(here, pair, monkeypatch, tmp_path):
    """A latent model is nothing without it, so what is handed to others holds both, with the same hashes."""
    before = diffcli.load(here / "rf", device="cpu")
    folder = export(here / "rf", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["autoencoder"] == before.encoder.sha256
    moved(here, pair, monkeypatch)
    shutil.move(folder, tmp_path / "elsewhere")
    after = diffcli.load(tmp_path / "elsewhere", device="cpu")
    assert after.encoder.sha256 == before.encoder.sha256
    assert torch.equal(after.sample(2, steps=2), before.sample(2, steps=2))


def test_data_encoded_once_are_the_data(pair):
    """The same latents, to rounding: convolutions of other batch sizes add in another order; real pictures stay pictures."""
    once, each = (prepare(recipes.resolve(latent(RF, pair / "vae", cache_latents=cached))) for cached in (True, False))
    assert isinstance(once.data, Encoded)
    assert not isinstance(each.data, Encoded)
    index = torch.arange(40)
    a, b = batch_of(once, index), batch_of(each, index)
    assert torch.equal(a.label, b.label)
    torch.testing.assert_close(a.x, b.x, rtol=1e-4, atol=1e-4)
    pixels = once.assembly.facts.space(None)
    assert torch.equal(once.data.batch(index, index, pixels).x, each.data.batch(index, index, pixels).x)
    torch.testing.assert_close(losses_of(once, index)["loss"], losses_of(each, index)["loss"], rtol=1e-4, atol=0)


def test_mirrored_data_are_not_encoded_once(pair):
    job = prepare(recipes.resolve(latent(RF, pair / "vae")))
    job.held_out.dataset.flip = True
    assert encoded(job.held_out.dataset, job.assembly.space, job.device, True) is job.held_out.dataset


def test_the_autoencoder_is_frozen(pair):
    job = prepare(recipes.resolve(latent(RF, pair / "vae")))
    inside = job.assembly.space.autoencoder
    mine = {id(p) for group in job.optimizer.param_groups for p in group["params"]}
    assert not inside.training
    assert not any(p.requires_grad or id(p) in mine for p in inside.parameters())
    assert not any("autoencoder" in name for name in job.method.state_dict())


def larger(recipe: recipes.Recipe) -> dict:
    """The parts, with digits of another size."""
    data = recipe.parts["dataset"]
    return {**recipe.parts, "dataset": replace(data, config=replace(data.config, size=16))}


class Trainer:
    """Notes what is trained, and trains it in two steps."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, []

    def __call__(self, recipe: recipes.Recipe) -> Path:
        self.asked.append(recipe)
        small = recipes.overlay(recipe.tables(), {"train": {"steps": 2, "batch_size": 8}})
        return diffcli.train(small, self.folder / "runs" / "vae" / f"{len(self.asked)}")


@pytest.mark.slow
def test_a_latent_method_trains_its_autoencoder_first(tmp_path, monkeypatch):
    """On the same data and from the same seed, and says so."""
    monkeypatch.chdir(tmp_path)
    train, said = Trainer(tmp_path), []
    wanted = {"method": {"name": "ldm"}, "dataset": {"name": "digits", "size": 16}, "train": {"seed": 3}}
    recipe = with_autoencoder(recipes.resolve(wanted), train, said.append)
    (first,) = train.asked
    assert first.method.name == "vae"
    assert first.parts["dataset"].config.size == 16
    assert first.train.seed == 3
    assert "training a small vae on digits first" in said[0]
    assert Path(recipe.train.autoencoder) == tmp_path / "runs" / "vae" / "1"


def test_the_recipe_of_an_autoencoder_is_trained_once(tmp_path, monkeypatch):
    """A finished run of the very same recipe is taken; of another seed, or an unfinished one, it is not."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.toml"
    file.write_text(recipes.dumps(recipes.resolve(recipes.overlay(VAE, {"train": {"steps": 2}}))))
    train, said = Trainer(tmp_path), []
    recipe = recipes.resolve(latent(RF, file))
    first = with_autoencoder(recipe, train, said.append).train.autoencoder
    again = with_autoencoder(recipe, train, said.append).train.autoencoder
    assert Path(again).resolve() == Path(first)
    assert len(train.asked) == 1
    assert "trained before by the same recipe" in said[-1]
    wanted = encoding(recipe)
    assert [found.path.resolve() for found in finished(wanted)] == [Path(first)]
    older = (Path(first) / "recipe.toml").read_text()  # written before there was such an option
    (Path(first) / "recipe.toml").write_text(older.replace("cache_latents = true\n", ""))
    assert "cache_latents" in older
    assert [found.path.resolve() for found in finished(wanted)] == [Path(first)]
    (Path(first) / "summary.json").unlink()
    assert not list(finished(wanted))
    with pytest.raises(UsageError, match=r"1x8x8.*1x16x16"):  # before anything is trained
        with_autoencoder(replace(recipe, parts=larger(recipe)), train, said.append)
    assert len(train.asked) == 1
    assert encoding(recipes.resolve(latent(RF, tmp_path))) is None
    assert encoding(recipes.resolve(RF)) is None


def test_an_autoencoder_of_other_files_is_not_taken(tmp_path, monkeypatch):
    """A data set that is read from a path is another one where the path is another."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for k in range(24):
            Image.linear_gradient("L").rotate(15 * k).resize((8, 8)).save(tmp_path / name / f"{k}.png")
    tables = {
        **VAE,
        "train": {"steps": 2, "batch_size": 4},
        "dataset": {"name": "folder", "path": "one", "size": 8, "color": "grey"},
    }
    run = diffcli.train(tables, tmp_path / "runs" / "vae" / "first")
    assert [found.path.resolve() for found in finished(recipes.resolve(tables))] == [run]
    assert not list(finished(recipes.resolve(recipes.overlay(tables, {"dataset": {"path": "two"}}))))


def test_a_recipe_that_names_itself_is_refused(tmp_path):
    file = tmp_path / "self.toml"
    file.write_text(recipes.dumps(recipes.resolve(latent(RF, file))))
    with pytest.raises(UsageError, match="lives in latents itself"):
        with_autoencoder(recipes.resolve(recipes.read(file)), Trainer(tmp_path), print)


def test_the_trial_batch_leaves_no_trace_in_buffers(pair, monkeypatch):
    """A method may count as it trains; before the first step nothing is counted."""
    seen = []
    real = jobs.losses_of

    def counting(job, index):
        for buffer in job.method.buffers():
            buffer.add_(1)
        seen.append(sum(1 for _ in job.method.buffers()))
        return real(job, index)

    before = {k: v.clone() for k, v in prepare(recipes.resolve(VAE)).method.state_dict().items()}
    monkeypatch.setattr(jobs, "losses_of", counting)
    after = prepare(recipes.resolve(VAE)).method.state_dict()
    assert seen[0] > 0
    assert all(torch.equal(before[name], after[name]) for name in before)
