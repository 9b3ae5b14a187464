"""Masked diffusion from the command line: what it says, writes, keeps and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from commands import DIGITS, TINY, WORDS, Ran, run
from diffcli.engine.load import load, overlay
from diffcli.engine.sample import sample
from diffcli.registry import registry

SAMPLERS = [name for name, spec in registry().specs("sampler").items() if spec.family == "masked"]
PURPLE = (170, 51, 119)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def purple(picture: Path) -> int:
    """How many of its pixels are purple."""
    return int((np.asarray(Image.open(picture).convert("RGB")) == PURPLE).all(-1).sum())


def ambient(ran: Ran) -> str:
    """The one line of the header on missing data."""
    (line,) = [line for line in ran.err.splitlines() if line.startswith("ambient: ")]
    return line


def texts(folder: Path) -> list[str]:
    """The samples of a samples.txt."""
    blocks = f"\n\n{(folder / 'samples.txt').read_text()[:-1]}".split("\n\n--- ")[1:]
    return [block.partition(" ---\n")[2] for block in blocks]


# training


@pytest.mark.parametrize(
    ("flags", "begins", "ends"),
    [
        (["--consistency-weight", "2"], "ambient: 50 % of", "as --consistency-weight is given and --missing is not; consistency weight 2"),
        (["--missing", "0.9"], "ambient: 90 % of", "measured); consistency weight 1"),
        (["--missing", "0.5", "--consistency-weight", "0"], "ambient: 50 % of", "measured); consistency weight 0"),
    ],
)  # fmt: skip
def test_the_header_says_what_is_missing_and_what_was_chosen(flags, begins, ends, cli):
    ran = cli("train", "mdlm", *DIGITS, *TINY, *flags, "--output", "run")
    assert ran.code == 0, ran.err
    assert ambient(ran).startswith(begins) and ambient(ran).endswith(ends)
    asked, measured = (float(ambient(ran).partition(before)[2].split()[0]) for before in ("ambient: ", "missing ("))
    assert abs(asked - measured) < 1 and "binarized by threshold at 7" in ran.err
    with_it = not ends.endswith("0")
    assert all(({"easy", "consistency"} <= row.keys()) == with_it for row in rows(Path("run")))


def test_what_is_logged(runs):
    """Each a number, in every step; the loss is what is minimized of them."""
    for row in rows(runs / "ambient"):
        assert row["loss"] == pytest.approx(row["easy"] + row["consistency"], rel=1e-6)
        assert row["easy"] == pytest.approx(row["nats"] / 64, rel=1e-6)
        assert 0.5 < row["masked"] < 1
    for row in rows(runs / "whole"):
        assert row["loss"] == pytest.approx(row["nats"] / 64, rel=1e-6) and not {"easy", "consistency"} & row.keys()


def test_pictures_of_what_is_missing_and_how_it_is_filled_in(runs):
    """The first at the start and only where pixels are missing, the other beside each preview."""
    assert purple(runs / "ambient" / "corruption.png") > 0 and not (runs / "whole" / "corruption.png").exists()
    for name in ("step-00000002", "final"):
        assert purple(runs / "ambient" / "samples" / f"{name}-completion.png") > 0
        assert purple(runs / "ambient" / "samples" / f"{name}.png") == 0, "samples are complete"
    assert (runs / "whole" / "samples" / "final-completion.png").is_file()


def test_a_run_on_text_leaves_texts(runs):
    final = (runs / "text" / "samples" / "final.txt").read_text()
    assert final.count("--- 0") == 4 and "\u2591" not in final, "a few, and complete"
    assert not list(runs.glob("text/**/*completion*")) and not (runs / "text" / "corruption.png").exists()


@pytest.mark.slow
def test_three_steps_and_three_more_are_six_where_pixels_are_missing(cli):
    """To the bit, with dropout; consistency begins at step 4 of batches of 8, in the resumed part."""
    flags = ["--missing", "0.5", "--consistency-start", "0.02", "--dropout", "0.1", "--steps", "6", "--save-every", "3"]
    for name in ("whole", "parts"):
        assert cli("train", "mdlm", *DIGITS, *TINY, *flags, "--output", name).code == 0
    shutil.rmtree("parts/checkpoints/step-00000006")
    ran = cli("train", "mdlm", "--resume", "parts")
    assert ran.code == 0, ran.err
    for name in ("model", "ema", "optim"):
        a, b = (load_file(f"{place}/checkpoints/step-00000006/{name}.safetensors") for place in ("whole", "parts"))
        assert a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items()), name
    clock = {"seconds", "images_per_second", "memory"}
    a, b = ([{k: v for k, v in row.items() if k not in clock} for row in rows(Path(n))] for n in ("whole", "parts"))
    assert a == b and [row["consistency"] != 0 for row in a] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("schedule", ["cosine-mask", "polynomial-mask"])
@pytest.mark.parametrize("protocol", ["static", "dynamic"])
def test_every_clock_and_every_binarization_trains(schedule, protocol, cli):
    flags = ["--schedule", schedule, "--binarize", protocol, "--missing", "0.5"]
    ran = cli("train", "mdlm", *DIGITS, *TINY, *flags, "--output", "run")
    assert ran.code == 0, ran.err
    kind = {"static": "statically", "dynamic": "dynamically"}[protocol]
    assert f"binarized {kind}" in ran.err and all(0 < row["loss"] < 5 for row in rows(Path("run")))


# sampling


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_completions_keep_what_is_known(sampler, runs):
    """Three of each held-out image, of which half is hidden; what is filled in differs, and nothing stays masked."""
    model = load(runs / "whole")
    asked = overlay(model.recipe, {"name": sampler}, {"inpaint": True, "samples": 9, "steps": 5, "batch_size": 4})
    drawn = sample(model, asked.sample, asked.parts["sampler"])
    x, given = drawn.x_0, drawn.given
    assert torch.equal(x[given.known], given.x[given.known]) and int(x.max()) < 2
    assert torch.equal(given.x[::3], given.x[2::3]) and torch.equal(given.known[::3], given.known[2::3])
    assert float(given.known.double().mean()) == pytest.approx(0.5, abs=0.15)  # 4 standard errors of 3 x 64
    assert not torch.equal(x[0], x[1]) and not torch.equal(given.x[0], given.x[3])
    data = model.method.view(registry().get("dataset", "digits").load()(model.recipe.parts["dataset"].config, "test"))
    items = torch.arange(9) // 3
    truth = data.batch(items, items, model.space)
    assert torch.equal(given.x, truth.x) and torch.equal(drawn.label, truth.label), "files are named after their class"


def test_completions_from_the_command_line(made):
    ran = run("sample", made / "ambient", "--inpaint", "--samples", "6", "--steps", "4", "--output", made / "drawn")
    assert ran.code == 0, ran.err
    assert purple(made / "drawn" / "inpaint.png") > 0 and purple(made / "drawn" / "grid.png") == 0
    few, many = (made / "few", made / "many")
    for folder, missing in ((few, 0.1), (many, 0.9)):
        ran = run("sample", made / "ambient", "--inpaint", "--missing", missing, "--steps", "4", "--output", folder)
        assert ran.code == 0, ran.err
    assert purple(few / "inpaint.png") < purple(many / "inpaint.png") / 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sample_begins_with_the_prompt(sampler, made):
    folder = made / "drawn"
    flags = ["--prompt", "the quick", "--sampler", sampler, "--steps", "4", "--samples", "5"]
    ran = run("sample", made / "text", *flags, "--output", folder)
    assert ran.code == 0, ran.err
    found = texts(folder)
    assert len(found) == 5 and all(text.startswith("the quick") and len(text) == 16 for text in found)
    assert len(set(found)) > 1 and "\u2591" not in "".join(found)


def test_a_prompt_may_be_as_long_as_a_sample(made):
    ran = run("sample", made / "text", "--prompt", WORDS[:16], "--samples", "2", "--output", made / "drawn")
    assert ran.code == 0, ran.err
    assert texts(made / "drawn") == [WORDS[:16]] * 2


def test_guidance_takes_two_evaluations_where_there_was_one(made):
    """And draws of a class are another picture then; scale 1 is none."""
    drawn = {}
    for scale in ("1", "3"):
        flags = ["--guidance-scale", scale, "--label", "3", "--samples", "4", "--steps", "5", "--json"]
        drawn[scale] = run("sample", made / "whole", *flags, "--output", made / scale)
        assert drawn[scale].code == 0, drawn[scale].err
        assert sorted(p.name for p in (made / scale / "images").iterdir()) == [f"{i:03d}-class3.png" for i in range(4)]
    assert drawn["3"].json["nfe"] == 2 * drawn["1"].json["nfe"]


# measures


def test_an_ambient_run_is_measured_on_whole_images(made):
    ran = run("eval", made / "ambient", "--samples", "8", "--images", "16", "--steps", "4", "--json")
    assert ran.code == 0, ran.err
    records = {record["metric"]: record for record in ran.json["records"]}
    own = ["nelbo", "nelbo[bits/dim]", "nelbo[rate<0.5]", "recovery[one pass]", "recovery[sampled]", "consistency"]
    assert list(records)[:7] == [*own, "fd[lenet]"] and list(records)[-1] == "copying[pixels]"
    for name, record in records.items():
        split = "train, index % 5 !=" if name in ("memorization[pixels]", "copying[pixels]") else "test, index % 5 =="
        assert record["split"] == f"digits/{split} 4, binarized by threshold at 7"
    again = run("eval", made / "ambient", "--metric", "nelbo", "--images", "16", "--json").json["records"][0]
    other = run("eval", made / "ambient", "--metric", "nelbo", "--images", "16", "--seed", "1", "--json")
    assert again["value"] == records["nelbo"]["value"] != other.json["records"][0]["value"]


def test_a_text_is_measured_in_bits_a_character(made):
    ran = run("eval", made / "text", "--samples", "4", "--images", "8", "--json")
    assert ran.code == 0, ran.err
    names = [record["metric"] for record in ran.json["records"]]
    assert names == ["nelbo", "nelbo[bits/char]", "perplexity", "recovery[one pass]", "recovery[sampled]"]


def test_its_own_plots(made):
    ran = run("eval", made / "ambient", "--plot", "completion,corruption", "--steps", "4")
    assert ran.code == 0, ran.err
    assert all(purple(made / "ambient" / "plots" / f"{name}.png") > 0 for name in ("completion", "corruption"))
