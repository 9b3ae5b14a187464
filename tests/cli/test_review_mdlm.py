"""What masked diffusion refuses before it costs time, and what its numbers and samples say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import DIGITS, SHORT, TINY, WORDS, run
from diffcli.core.masked import categorical, substitute
from diffcli.engine.explain import explain
from diffcli.engine.load import load, overlay

TEXT = ["train", "mdlm", *SHORT, "--path", "words.txt", "--output", "new"]


def recipe(folder: Path, sample: str) -> Path:
    """A recipe of a small text, with one line of [sample]."""
    (folder / "words.txt").write_text(WORDS * 60)
    tables = {
        "method": 'name = "mdlm"',
        "model": 'name = "mask-transformer"\nwidth = 16\nheads = 2\ndepth = 1',
        "dataset": 'name = "text"\npath = "words.txt"\nlength = 16',
        "train": "steps = 2\nbatch_size = 8",
        "sample": sample,
    }
    path = folder / "recipe.toml"
    path.write_text("\n".join(f"[{section}]\n{lines}" for section, lines in tables.items()))
    return path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('prompt = "7"', "'7' is none of the 28 characters"),
        ("inpaint = true", "--inpaint completes images, but this model is of text"),
        ("guidance_scale = 2.0", "--guidance-scale 2 needs a condition, but the model was trained without"),
        ('format = "webp"', "--format webp lays out pictures"),
        ("clip = 1.0", "--clip 1 bounds x_0 of numbers"),
    ],
)
def test_a_recipe_that_could_not_be_sampled_is_refused_before_it_is_trained(line, says, cli, tmp_path):
    ran = cli("train", "--recipe", recipe(tmp_path, line), "--output", "new")
    assert ran.code == 2 and says in ran.err and not Path("new").exists()


def test_a_recipe_with_a_prompt_is_trained(cli, tmp_path):
    assert cli("train", "--recipe", recipe(tmp_path, 'prompt = "the "'), "--output", "new").code == 0
    assert Path("new/samples/final.txt").read_text().count("\nthe ") == 4


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([*TEXT, "--binarize", "static"], "--binarize static is of images"),
        (["train", "mdlm", *DIGITS, "--model", "unet", "--output", "new"], "unet is a gaussian model, but mdlm is masked; use one of: mask-transformer, mask-unet"),
        (["sample", "ambient", "--rho", "3"], "--rho 3 spaces levels of noise, but mdlm is masked"),
        (["sample", "ambient", "--final", "floor"], "--final floor is of a last level of noise, but mdlm is masked"),
        (["sample", "ambient", "--guidance-interval", "0.2,0.8"], "--guidance-interval needs a model that knows classes"),
        (["eval", "ambient", "--metric", "nelbo", "--images", "1"], "a standard error takes 2 images or more"),
    ],
)  # fmt: skip
def test_what_means_nothing_here_is_refused(argv, says, made, monkeypatch):
    monkeypatch.chdir(made)
    ran = run(*argv)
    assert ran.code == 2 and says in ran.err and not Path("new").exists()


def test_weights_of_another_alphabet_are_refused_though_they_fit(made, monkeypatch):
    """As many characters, all others: a letter would be read as another one."""
    monkeypatch.chdir(made)
    Path("loud.txt").write_text((WORDS * 60).upper())
    args = ["train", "mdlm", *SHORT, "--init", "text", "--output", "new", "--path"]
    ran = run(*args, "loud.txt")
    assert ran.code == 2 and "knows other characters than this text has" in ran.err and not Path("new").exists()
    assert run(*args, "words.txt").code == 0


def test_numbers_of_samples_name_what_was_trained_on_and_how_they_were_drawn(made, monkeypatch):
    monkeypatch.chdir(made)
    ran = run("eval", "ambient", "--metric", "recovery,fd", "--samples", "8", "--steps", "3")
    assert ran.code == 0 and ran.err.count("binarized by threshold at 7\n") == 1  # of each split once
    records = {r["metric"]: r for r in map(json.loads, Path("ambient/evals.jsonl").read_text().splitlines())}
    for name in ("recovery[sampled]", "fd[pixels]"):
        record = records[name]
        assert record["trained_on"].endswith("binarized by threshold at 7, 50 % missing (seed 0)")
        assert record["split"].endswith("binarized by threshold at 7")
        assert record["sampler"]["name"] == "unmask" and record["steps"] == 3 and 0 < record["nfe"] <= 3
    assert "sampler" not in records["recovery[one pass]"]


def test_a_profile_says_how_much_was_given(made, monkeypatch):
    """Of 8 characters out of 16 half; of images that miss a tenth about nine tenths (3 standard errors of 3 x 64 are 0.065)."""
    monkeypatch.chdir(made)
    for run_, args, given, about in (
        ("text", ["--prompt", WORDS[:8]], 0.5, 0),
        ("ambient", ["--inpaint", "--missing", "0.1"], 0.9, 0.065),
    ):
        ran = run("sample", run_, *args, "--samples", "9", "--output", f"{run_}-drawn", "--json")
        assert abs(ran.json["given"] - given) <= about, ran.err
    assert "given" not in run("sample", "text", "--samples", "2", "--json").json


@pytest.mark.parametrize("flags", [{"name": "unmask"}, {"name": "remdm", "strategy": "cap"}, {"name": "confidence"}])
def test_an_explanation_counts_as_the_walk_does(flags, runs):
    """To the evaluation, over the same 16 samples: which tokens are revealed when does not depend on their values."""
    model = load(runs / "whole")
    made = overlay(model.recipe, flags, {"samples": 16, "steps": 100, "guidance_scale": 2.0})
    from diffcli.engine.sample import sample

    assert explain(runs / "whole", made)["nfe"] == sample(model, made.sample, made.parts["sampler"]).nfe


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_leaves_the_probabilities_as_they_were(dtype):
    """In every precision: the cumulative sum is taken in place, of a copy."""
    log_probs = torch.randn(4, 5, 7, dtype=dtype, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    before, u = log_probs.clone(), torch.full((4, 5), 0.5)
    categorical(log_probs, u, dtype)
    assert torch.equal(log_probs, before)


def test_revealed_tokens_take_no_gradient():
    """SUBS: what is certain does not depend on the network; what is masked does."""
    logits, x_t = torch.zeros(1, 2, 3, requires_grad=True), torch.tensor([[1, 3]])
    answer = substitute(logits.log_softmax(-1), x_t, 3)
    answer[0, :, 1].sum().backward()
    assert answer[0, 0].tolist() == [-torch.inf, 0, -torch.inf] and logits.grad is not None
    assert (logits.grad[0, 0] == 0).all() and (logits.grad[0, 1] != 0).all()


def test_the_numbers_of_tiny_runs_are_the_same_in_every_sampling_batch(runs):
    """Sample i depends on (seed, i) alone, guided or not: an image of two values is the same, or it is not."""
    model = load(runs / "whole")
    for more in ({}, {"guidance_scale": 2.0, "guidance_interval": (0.2, 0.7)}):
        a, b = (model.sample(6, steps=8, batch_size=size, **more) for size in (6, 4))
        assert torch.equal(a, b)


def test_images_of_other_classes_are_not_completed(cli, tmp_path):
    """Their numbers would be read as those of the classes that the model knows, or lie beyond them."""
    for k in range(40):
        path = tmp_path / "pictures" / "ab"[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 6 * k).save(path)
    flags = ["--dataset", "folder", "--path", "pictures", "--size", "8", "--color", "grey", "--cond", "label", *TINY]
    assert cli("train", "mdlm", *flags, "--output", "new").code == 0
    assert cli("sample", "new", "--inpaint", "--samples", "2", "--output", "drawn").code == 0
    (tmp_path / "pictures" / "a").rename(tmp_path / "pictures" / "z")
    ran = cli("sample", "new", "--inpaint", "--samples", "2", "--output", "more")
    assert ran.code == 2 and "and 2 classes with other names; give it data of its own kind" in ran.err
    assert not Path("more").exists()
