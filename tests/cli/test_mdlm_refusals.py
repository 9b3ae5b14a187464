"""What masked diffusion refuses, each in one line that says what to do."""

from __future__ import annotations

import shutil

import pytest

from commands import DIGITS, TINY, WORDS, run

FRACTION = "missing is a fraction: for 90 % write 0.9"
AMBIENT, WHOLE, TEXT = "made/ambient", "made/whole", "made/text"
TRAIN = ["train", "mdlm", *DIGITS, *TINY, "--output", "new"]
WORDY = ["train", "mdlm", "--dataset", "text", "--path", "made/words.txt", "--length", "16", "--output", "new"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([*TRAIN, "--missing", "90"], f"--missing is 90, but {FRACTION}"),
        ([*TRAIN, "--missing", "1"], f"--missing is 1, but {FRACTION}"),
        ([*TRAIN, "--missing", "-0.1"], "--missing is '-0.1'"),
        ([*TRAIN, "--missing", "0", "--consistency-weight", "1"], "--consistency-weight needs missing pixels"),
        ([*TRAIN, "--schedule", "cosine"], "cosine is a gaussian schedule, but mdlm is masked; use one of: cosine-mask"),
        ([*TRAIN, "--schedule", "polynomial-mask", "--power", "0.5"], "--power"),
        ([*WORDY, "--model", "mask-unet"], "a U-Net works on images, but these data are sequences; use --model mask-transformer"),
        ([*WORDY, "--cond", "label"], "--cond label needs classes, but text has none"),
        (["train", "rf", "--dataset", "text", "--output", "new"], "text is a masked dataset, but rf is gaussian"),
        (["train", "rf", "--model", "mask-unet", "--output", "new"], "mask-unet is a masked model, but rf is gaussian"),
        (["sample", AMBIENT, "--sampler", "midpoint"], "midpoint samples gaussian processes, but mdlm is masked; use one of: confidence, first-hitting, remdm, unmask"),
        (["sample", "rf", "--sampler", "unmask"], "unmask samples masked processes, but rf is gaussian; use one of: ab2, ancestral"),
        (["sample", AMBIENT, "--inpaint", "--missing", "90"], FRACTION),
        (["sample", AMBIENT, "--inpaint", "--missing", "0"], "--missing 0 hides nothing"),
        (["sample", AMBIENT, "--prompt", "a"], "--prompt begins a text, but this model is of images"),
        (["sample", AMBIENT, "--guidance-scale", "2"], "--guidance-scale 2 needs a condition"),
        (["sample", AMBIENT, "--clip", "1"], "--clip 1 bounds x_0 of numbers, but mdlm is masked"),
        (["sample", TEXT, "--prompt", "THE"], "'T' is none of the 28 characters of the training text; leave it out"),
        (["sample", TEXT, "--prompt", WORDS[:17]], "--prompt has 17 characters, but a sample has 16; shorten it"),
        (["sample", TEXT, "--inpaint"], "--inpaint completes images, but this model is of text"),
        (["sample", TEXT, "--inpaint", "--prompt", "a"], "keep one"),
        (["eval", AMBIENT, "--missing", "90"], FRACTION),
        (["eval", AMBIENT, "--metric", "recovery", "--guidance-scale", "2"], "--guidance-scale 2 needs a condition"),
        (["eval", WHOLE, "--metric", "consistency"], "was trained with none missing"),
        (["eval", TEXT, "--plot", "completion"], "these plots are of images, but the model is of text"),
    ],
)  # fmt: skip
def test_one_line_says_what_to_do(argv, says, made, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "runs", tmp_path / "runs")
    before = {p for p in tmp_path.rglob("*") if p.name != ".lock"}
    ran = run(*argv)
    assert ran.code == 2 and ran.out == "", ran.err
    (error,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert says in error and ran.err.splitlines()[-1] == error
    assert {p for p in tmp_path.rglob("*") if p.name != ".lock"} == before
