"""hub:OWNER/NAME is a model folder in the Hub's cache; what it holds is data, and links out of it lead nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from PIL import Image

from diffcli.engine import hub
from diffcli.engine.load import load
from diffcli.engine.rundir import find, recognize
from diffcli.errors import EnvironmentProblem, RunError, UsageError
from model_folders import COMMIT, folder, publish


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("plain") / "model")


def same(a, b) -> bool:
    one, two = (m.method.state_dict() for m in (a, b))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_cached_model_is_read_by_its_name_and_by_its_revision(cache, plain, tmp_path, capsys):
    """The newest is that of main; a commit and a branch are others. The hash is told."""
    publish(cache, plain)
    other = publish(cache, folder(tmp_path / "b", seed=1), ref="v1", commit=COMMIT[::-1])
    first, second = load("hub:me/it"), load("hub:me/it@v1")
    assert f"weights with sha256 {first.sha256}" in capsys.readouterr().err
    assert same(first, load(plain)) and same(second, load(tmp_path / "b")) and not same(first, second)
    assert same(load(f"hub:me/it@{COMMIT}"), first)
    assert find("hub:me/it@v1").path == other and same(load(other), second), "the path of a snapshot is as good"


def test_every_command_takes_it(cache, plain, cli, tmp_path):
    publish(cache, plain)
    for k in range(2):
        Image.new("L", (9, 7), 90 * k).save(tmp_path / f"{k}.png")
    for argv in (
        ("sample", "hub:me/it", "--input", "*.png", "--output", "drawn"),
        ("eval", "hub:me/it", "--samples", "4", "--images", "4", "--metric", "ssim"),
        ("export", "hub:me/it", "again"),
        ("doctor", "hub:me/it"),
    ):
        ran = cli(*argv)
        assert ran.code == 0, (argv, ran.err)
    assert len(list(Path("drawn/images").iterdir())) == 2
    assert Path("again/model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_it_is_an_autoencoder_to_live_in_and_goes_with_the_model(cache, plain, cli, tmp_path):
    publish(cache, plain)
    cheap = ("--steps", "1", "--batch-size", "4", "--channels", "8", "--sample-every", "0", "--save-every", "0")
    for argv in (
        ("train", "rf", "--dataset", "digits", "--size", "8", *cheap, "--autoencoder", "hub:me/it", "--output", "flow"),
        ("sample", "flow", "--samples", "1", "--steps", "1", "--autoencoder", "hub:me/it"),
        ("export", "flow", "latent", "--autoencoder", "hub:me/it"),
    ):
        ran = cli(*argv)
        assert ran.code == 0, (argv, ran.err)
    publish(cache, Path("latent"), "me/latent")
    assert same(load("hub:me/latent").encoder, load(plain)), "an autoencoder inside is of the same snapshot"


def test_a_folder_of_a_snapshot_that_is_a_link_is_refused(cache, plain, tmp_path):
    """Of a latent model, its autoencoder's: what it leads to is outside, though no file there is a link."""
    shutil.copytree(plain, tmp_path / "latent" / "autoencoder")
    snapshot = publish(cache, tmp_path / "latent")
    assert recognize(snapshot / "autoencoder").method == "vae"
    shutil.rmtree(snapshot / "autoencoder")
    (snapshot / "autoencoder").symlink_to(plain)
    with pytest.raises(RunError, match="is a link that leaves"):
        recognize(snapshot / "autoencoder")


@pytest.mark.parametrize(
    "text",
    ["hub:", "hub:it", "hub:../it", "hub:me/..", "hub:me/it@../main", "hub:me/it@", "hub:a/b/c", "hub:/etc/passwd",
     "hub:me/it@a/../b", "hub:me/.it", "hub:me/it\n", "hub:me/a--b", "hub:https://x.y/z", "hub:me/a..b", "hub:me/it@v..1", "hub:me/it."],
)  # fmt: skip
def test_a_name_that_is_none_is_refused_before_it_is_looked_up(cache, text, monkeypatch):
    (cache.parent / "refs").mkdir()
    if text != "hub:me/it.":  # the library knows more rules than the pattern
        monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(UsageError, match="is no model of the Hub") as error:
        find(text)
    assert "\n" not in str(error.value)


def test_what_is_neither_cached_nor_reachable_is_said_in_a_line(cache, plain, cli):
    publish(cache, plain)
    for name in ("hub:me/other", "hub:me/it@v2", f"hub:me/it@{COMMIT[::-1]}"):
        ran = cli("sample", name)
        assert ran.code == EnvironmentProblem.code == 6 and ran.err.count("\n") == 1, ran.err
        assert f"{name} is not in the cache" in ran.err and "cannot be asked" in ran.err


def replaced(snapshot: Path, name: str, target: Path) -> None:
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(target)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("where", ["outside", "another repository", "relative"])
def test_a_link_that_leaves_the_repository_is_refused(cache, plain, name, where):
    snapshot = publish(cache, plain)
    other = publish(cache, plain, "me/other")
    target = {
        "outside": plain,
        "another repository": other,
        "relative": Path("../../../models--me--other/snapshots") / COMMIT,
    }
    replaced(snapshot, name, target[where] / name)
    with pytest.raises(RunError, match=f"{name} is a link that leaves .*models--me--it"):
        find("hub:me/it")
    assert find("hub:me/other").path == other


def test_links_are_followed_in_the_cache_alone(cache, plain, tmp_path):
    """A folder of links is no model folder elsewhere; a link that leads to no file is no file in the cache, either."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in plain.iterdir():
        (elsewhere / path.name).symlink_to(path)
    with pytest.raises(RunError, match="holds no run"):
        find(str(elsewhere))
    snapshot = publish(cache, plain)
    replaced(snapshot, "model.safetensors", Path("../../blobs/none"))
    with pytest.raises((RunError, EnvironmentProblem)):
        find("hub:me/it")


@pytest.mark.parametrize("commit", ["../../models--me--other/snapshots/x", "/", "..", "."])
def test_a_ref_that_names_another_folder_is_refused(cache, plain, commit):
    publish(cache, plain)
    publish(cache, plain, "me/other", commit="x")
    (cache / "models--me--it" / "refs" / "main").write_text(commit)
    with pytest.raises(RunError, match="is not inside"):
        find("hub:me/it")


def test_a_snapshot_that_is_a_link_is_refused(cache, plain):
    snapshot = publish(cache, plain)
    there = snapshot.rename(snapshot.parent.parent / "moved")
    snapshot.symlink_to(there)
    with pytest.raises(RunError, match="is not inside"):
        find("hub:me/it")


@pytest.mark.parametrize(
    "config", ["{}", '{"recipe": 3}', '{"model_type": "llama"}', "[", '{"recipe": {"method": {"name": "os.system"}}}']
)
def test_a_folder_that_nobody_knows_is_refused(cache, plain, config, cli, tmp_path):
    source = tmp_path / "unknown"
    source.mkdir()
    (source / "config.json").write_text(config)
    (source / "model.safetensors").write_bytes((plain / "model.safetensors").read_bytes())
    publish(cache, source)
    with pytest.raises(RunError):
        load("hub:me/it")
    ran = cli("sample", "hub:me/it")
    assert ran.code == RunError.code and ran.err.count("\n") == 1, ran.err


def test_only_its_two_files_are_asked_for_and_only_where_they_are_not_cached(cache, plain, monkeypatch):
    """The cache is asked first, the Hub then; what the Hub refuses is an error in our words."""
    asked = []

    def download(*, local_files_only=False, **about):
        asked.append((local_files_only, about))
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        return str(publish(cache, plain))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    find("hub:me/it@main")
    assert [local for local, _ in asked] == [True, False]
    assert all((a["repo_id"], a["revision"], a["cache_dir"]) == ("me/it", "main", cache.resolve()) for _, a in asked)
    patterns = asked[1][1]["allow_patterns"]
    assert patterns == hub.WANTED and all(p.endswith(("config.json", ".safetensors")) for p in patterns)
    for kind, refusal, why in (
        (errors.RevisionNotFoundError, RunError, "no such revision"),
        (errors.RepositoryNotFoundError, RunError, "no model or data set of that name"),
        (errors.GatedRepoError, RunError, "not open to all"),
        (ConnectionError, EnvironmentProblem, "cannot be asked"),
    ):

        def fail(*, local_files_only=False, kind=kind, **about):
            raise errors.LocalEntryNotFoundError("not here") if local_files_only else kind.__new__(kind)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(refusal, match=why):
            find("hub:me/it")


def test_an_incomplete_snapshot_is_completed(cache, plain, monkeypatch):
    """Another program may have fetched config.json alone."""
    snapshot = publish(cache, plain)
    (snapshot / "model.safetensors").unlink()
    real = huggingface_hub.snapshot_download

    def download(*, local_files_only=False, **about):
        if not local_files_only:
            (snapshot / "config.json").unlink()
            publish(cache, plain)
            return str(snapshot)
        return real(local_files_only=True, **about)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert same(load("hub:me/it"), load(plain))
