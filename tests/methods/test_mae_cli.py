"""mae-noprop on the command line: trained once, sampled, completed, measured and drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from commands import run
from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.core.process import expand
from diffcli.core.random import Blocks, Rows
from diffcli.engine.evaluate import benched
from diffcli.engine.job import prepare
from diffcli.engine.pace import settle
from diffcli.engine.rundir import find
from diffcli.engine.step import batch_of, step_once
from diffcli_mae_noprop import measure

SMALL = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 8, "decoder_depth": 1, "patch": 2}
FLAGS = [part for key, value in SMALL.items() for part in (f"--{key.replace('_', '-')}", value)]
SHORT = ["--dataset", "shapes", "--size", "8", "--steps", "4", "--batch-size", "8", "--warmup", "2", "--log-every", "1"]
KARRAS = ["--levels", "karras"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mae") / "run"
    ran = run("train", "mae-noprop", *KARRAS, *FLAGS, *SHORT, "--output", folder)
    assert ran.code == 0, ran.err
    return folder, ran


def job(network=SMALL, levels="equiprob", **train):
    """As a training begins, on a few images."""
    model = {"name": "mae-decoders", **network}
    tables = {
        "method": {"name": "mae-noprop", "levels": levels},
        "model": model,
        "dataset": {"name": "shapes", "size": 8},
    }
    made = prepare(recipes.resolve({**tables, "train": {"batch_size": 8, "device": "cpu", **train}}))
    settle(made)
    return made


def bench(folder, **options):
    found = find(str(folder))
    recipe = recipes.resolve(recipes.read(folder / "recipe.toml"))
    return benched(found, recipe, recipe.evaluation({"images": 40, "samples": 40, "device": "cpu", **options}))


def test_a_run_tells_what_it_trains_and_draws_frames(trained):
    folder, ran = trained
    assert "4 decoders, levels sigma 80, 9.723, 0.47, 0.002; 4 of 16 patches of 2x2 are seen" in " ".join(
        ran.err.split()
    )
    assert (folder / "frames.png").stat().st_size and (folder / "samples" / "final-frames.png").stat().st_size
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss"] == pytest.approx(sum(last[f"decoder{i}"] for i in range(4)), rel=1e-5)


def test_held_out_images_are_completed(trained, tmp_path):
    """What is given stays, to the 8 bits of the picture; inpaint.png has truth, given and completed."""
    ran = run("sample", trained[0], "--samples", 3, "--output", tmp_path / "drawn", "--seed", 5, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["nfe"] == 4 and ran.json["given"] == 0.25 and (tmp_path / "drawn" / "inpaint.png").exists()
    less = run("sample", trained[0], "--samples", 3, "--output", tmp_path / "less", "--mask-ratio", 0.5, "--json")
    assert less.json["given"] == 0.5


def test_pictures_of_ones_own_are_completed(trained, tmp_path):
    """Each once, resized to the model; visible pixels are those of the picture."""
    for k, colour in enumerate(((255, 0, 0), (0, 255, 0))):
        Image.new("RGB", (20, 30), colour).save(tmp_path / f"{k}.png")
    ran = run("sample", trained[0], "--input", f"{tmp_path}/*.png", "--output", tmp_path / "drawn", "--json")
    assert ran.code == 0 and ran.json["samples"] == 2, ran.err
    for k, colour in enumerate(((255, 0, 0), (0, 255, 0))):
        picture = np.asarray(Image.open(tmp_path / "drawn" / "images" / f"{k:03d}.png"))[3::6, 3::6]
        assert (picture == colour).all(-1).sum() >= 16  # 4 patches of 2x2 of them
    missing = run("sample", trained[0], "--input", tmp_path / "none.png", "--output", tmp_path / "more")
    assert missing.code == 2 and "no picture that is there" in missing.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--steps", "7"], "7 steps were asked for, but the 4 decoders have karras levels"),
        (["--spacing", "uniform"], "leave --spacing out"),
        (["--sampler", "midpoint"], "was trained at its own levels alone; use one of:"),
        (["--sampler", "churn"], "was trained at its own levels alone"),
        (["--mask-ratio", "1"], "train with --mask-dropout above 0"),
        (["--mask-ratio", "0"], "hides none of 16 patches"),
        (["--guidance-scale", "2"], "--guidance-scale"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(trained, tmp_path, flags, says):
    ran = run("sample", trained[0], *flags, "--samples", 1, "--output", tmp_path / "drawn")
    assert ran.code == 2 and says in " ".join(ran.err.split()) and not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_operations_are_those_of_the_formula(trained, ratio):
    """A block of width w on n tokens with an MLP of 4: n (3 + 1 + 8) w^2 and 2 n^2 w multiplications; 1 + 16 patches here."""
    found = {r["metric"]: r["value"] for r in measure.flops(bench(trained[0], mask_ratio=ratio))}
    n, seen, patch = 16, int(16 * (1 - ratio)), 3 * 2 * 2
    encoder = n * patch * 16 + (1 + seen) * 12 * 16**2 + 2 * (1 + seen) ** 2 * 16
    decoder = (1 + seen) * 16 * 8 + n * patch * 8 + 17 * 12 * 8**2 + 2 * 17**2 * 8 + 17 * 8 * patch
    assert found["flops[encoder]"] == 2 * encoder and found["flops[decoder]"] == 2 * decoder
    assert found["flops[walk]"] == 2 * (encoder + 4 * decoder)


def test_its_likelihood_is_refused(trained):
    ran = run("eval", trained[0], "--metric", "nll")
    assert ran.code == 2 and "mae-noprop is told the image itself" in " ".join(ran.err.split())


def test_other_networks_and_other_methods_do_not_go_with_it(tmp_path):
    ran = run("train", "mae-noprop", "--model", "unet", *SHORT, "--output", tmp_path / "run")
    assert ran.code == 2 and "mae-decoders" in ran.err
    ran = run("train", "ddpm", "--model", "mae-decoders", *SHORT, "--output", tmp_path / "run")
    assert ran.code == 2 and "mae-decoders" in ran.err
    ran = run("train", "mae-noprop", "--resume", tmp_path / "nothing")
    assert ran.code == 4 and not (tmp_path / "nothing").exists()  # never a fresh start


def test_each_decoder_is_measured_at_its_own_level(trained):
    """The skip path's error is known: (sigma^2 x - sd^2 sigma eps)/(sigma^2 + sd^2), squared."""
    one = bench(trained[0])
    found = {record["metric"]: record for record in measure.decoders(one)}
    assert len(found) == 16 and all(record["images"] == 40 for record in found.values())
    method, (batch, rng) = one.model.method, next(measure.completed(one, 40))
    with torch.no_grad():
        cond = method.cond(batch, rng)
        for i, sigma in enumerate(method.levels.sigma.tolist()):
            eps = rng.normal("eps", (3, 8, 8))
            off = (sigma**2 * batch.x - 0.25 * sigma * eps) / (sigma**2 + 0.25)
            each = (off**2)[~batch.known].reshape(40, -1).mean(1)
            skip = found[f"decoders[{i} skip]"]
            # of x_0 in float32 behind x_t of size 80, and of differences of 0.002
            assert skip["value"] == pytest.approx(float(each.mean()), rel=1e-3)
            assert skip["sigma"] == [pytest.approx(sigma, rel=1e-5)]
            t = method.levels.draw(i, rng)
            pair = method.denoiser(batch.x + expand(method.denoiser.process.sigma(t), eps) * eps, t, cond)
            own = ((pair.x_0 - batch.x) ** 2)[~batch.known].reshape(40, -1).mean(1)
            assert found[f"decoders[{i} error]"]["value"] == pytest.approx(float(own.mean()), rel=1e-3)
            assert found[f"decoders[{i} ratio]"]["value"] == pytest.approx(float(own.mean() / each.mean()), rel=2e-3)
            assert found[f"decoders[{i} psnr]"]["value"] == pytest.approx(
                float(-10 * (own / 4).log10().mean()), rel=1e-3
            )


def test_the_walk_is_measured_step_by_step(trained):
    """PSNR of what is predicted after each step; the last is the sample; the floor is the mean colour of what is seen."""
    one = bench(trained[0])
    found = {record["metric"]: record for record in measure.walk(one)}
    assert list(found) == ["walk[floor]", *(f"walk[{k}]" for k in (1, 2, 3, 4)), "walk[gain]"]
    samples = one.samples
    hidden = ~samples.given.known

    def hand(x):
        return [-10 * torch.log10(((x - samples.given.x) ** 2)[i][hidden[i]].mean() / 4) for i in range(40)]

    assert found["walk[4]"]["value"] == pytest.approx(float(torch.stack(hand(samples.x)).mean()), rel=1e-4)
    mean = torch.stack(
        [
            torch.stack([x[c][k[c]].mean() for c in range(3)])[:, None, None].expand(3, 8, 8)
            for x, k in zip(samples.given.x, samples.given.known, strict=True)
        ]
    )
    floor = torch.stack(hand(mean))
    assert found["walk[floor]"]["value"] == pytest.approx(float(floor.mean()), rel=1e-4)
    assert found["walk[gain]"]["value"] == pytest.approx(found["walk[1]"]["value"] - float(floor.mean()), abs=1e-3)
    took = [found[f"walk[{k}]"]["seconds_per_image"] for k in (1, 2, 3, 4)]
    assert took == sorted(took) and took[0] > 0
    assert {"sampler", "nfe", "seed", "hardware", "command", "mask_ratio"} <= found["walk[1]"].keys()


def test_operations_are_those_of_the_matrix_products(trained):
    """Two a multiplication with addition: embeddings, and in each block 12 E^2 a token and 2 N E for attention."""
    found = {record["metric"]: record["value"] for record in measure.flops(bench(trained[0]))}

    def blocks(tokens, width):
        return tokens * (12 * width**2 + 2 * tokens * width)

    encoder = 16 * 12 * 16 + blocks(5, 16)
    decoder = 5 * 16 * 8 + 16 * 12 * 8 + blocks(17, 8) + 17 * 8 * 12
    assert found["flops[encoder]"] == 2 * encoder
    assert found["flops[decoder]"] == 2 * decoder
    assert found["flops[walk]"] == 2 * (encoder + 4 * decoder)


def test_gradients_of_the_encoder_are_shared_out(trained):
    """Shares of each weighting make 1; unweighted, the lowest level has none worth the name (Karras et al. 2022)."""
    found = {record["metric"]: record["value"] for record in measure.gradients(bench(trained[0]))}
    for weighting in ("edm", "none"):
        assert sum(found[f"gradients[{i} {weighting}]"] for i in range(4)) == pytest.approx(1)
    assert found["gradients[3 none]"] < 1e-4 * found["gradients[3 edm]"]


def test_every_group_warms_up_and_decays():
    """The first step at --warmup-lr, the peak at the end of the warm-up, within 1 % of --min-lr at the last."""
    steps, peak, low = 400, 1.5e-4, 1e-6
    made = job(steps=steps, lr=peak, min_lr=low, warmup="40", warmup_lr=low)
    for step, rate in ((0, low), (40, peak), (steps - 1, low)):
        step_once(made, step, steps, 40)
        rates = [group["lr"] for group in made.optimizer.param_groups]
        assert rates == [pytest.approx(rate, rel=0.01)] * 10


@pytest.mark.slow
@pytest.mark.parametrize(("levels", "gain"), [("karras", 1.5), ("equiprob", 0.5)])
def test_a_few_images_are_learned(levels, gain):
    """200 steps on 8 images halve the loss, and the first decoder's hidden patches beat the mean color of the visible.

    At sigma 80 alone, where walks begin, by more dB than where that is one end of an interval.
    """
    made = job({**SMALL, "width": 64, "decoder_width": 48}, levels=levels, lr=3e-3)
    method, x, found = made.method, batch_of(made, torch.arange(8)).x, []
    for step in range(200):
        index = torch.arange(8 * step, 8 * step + 8)
        made.optimizer.zero_grad()
        losses = method.train().loss(Batch(index, x), Blocks(0, index, 8))
        losses["loss"].backward()
        made.optimizer.step()
        found.append(losses["loss"].item())
    assert sum(found[-20:]) / 20 < sum(found[:3]) / 3 / 2
    rng = Rows(0, torch.arange(8), 8)
    known = method.denoiser.net.pixels(method.mask(rng, 4)).expand(x.shape)
    given = Batch(torch.arange(8), x, known=known)
    with torch.no_grad():
        start, cond = method.eval().begin((3, 8, 8), given, rng), method.cond(given, rng)
        first = method.denoiser(start, torch.ones((), dtype=torch.float64), cond).x_0
    own, floor = (measure.psnr(measure.apart(made_up, given)).mean() for made_up in (first, measure.filled(given)))
    assert own > floor + gain
