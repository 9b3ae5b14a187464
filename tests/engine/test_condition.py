"""`eval --plot condition`: every section of every network, and the faults that it is there to find."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from diffcli import recipe as recipes
from diffcli.core.parameterization import eps as of_eps
from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import Model, load, overlay
from diffcli.engine.plots import listening
from diffcli.engine.plots.condition import CONVENTION, condition, constant, draws, panels, refuse
from diffcli.errors import UsageError
from diffcli.nn.blocks import CrossAttention
from diffcli.nn.embedding import LabelEmbedding
from diffcli.recipe import Recipe

FORMS = {"concat": "unet-concat", "cross-attention": "unet-cross", "embedding": "unet"}


def bench(form: str, *, method: str = "ldm", cond: str = "label") -> Bench:
    """An untrained network on digits, in pixels, with ten steps in its table."""
    tables = {
        "method": {"name": method, "cond": cond},
        "model": {"name": FORMS[form], "channels": 8, "multipliers": [1, 2]},
        "schedule": {"name": "scaled-linear", "timesteps": 10},
    }
    return untrained(recipes.resolve(tables))


def untrained(recipe: Recipe) -> Bench:
    """A model of a recipe, a sample a class."""
    facts = Facts.of(open_data(recipe, "train"))
    made = assemble(recipe, facts)
    method = made.method.eval().requires_grad_(False)
    model = Model(made.recipe, method, made.space, facts, torch.device("cpu"), "here", 0, "raw", "")
    return Bench(model, made.recipe, replace(made.recipe.evaluation({}), per_class=1))


@torch.no_grad()
def drawn(it: Bench):
    return condition(it)


@pytest.mark.parametrize("form", FORMS)
def test_every_section_is_reported(form: str) -> None:
    it, ticks = bench(form), []
    it.tick = ticks.append
    made = drawn(it)
    facts, text = made.facts, made.facts["text"]
    (table,) = facts["tables"].values()
    assert table["shape"] == {"concat": [1, 8, 8], "cross-attention": [4, 128], "embedding": [32]}[form]
    assert [len(table[key]) for key in ("rows", "mean", "std", "norm", "distances")] == [11] * 5
    assert table["gradient"] > 0 and facts["gradients"]["rest_max"] > facts["gradients"]["rest_mean"] > 0
    assert (facts["stem"] is not None) == (form == "concat")
    assert len(facts["attention"]) == (4 if form == "cross-attention" else 0)
    assert (
        list(facts["gap"]["by_time"]) == ["0.05", "0.2", "0.5", "0.8", "0.95"] and len(facts["gap"]["by_class"]) == 10
    )
    panels = facts["panels"]
    assert [(one["sampler"]["name"], one["guidance_scale"], one["clip"], one["nfe"]) for one in panels.values()] == [
        ("ddim", 3.0, 1.0, 20),
        ("ancestral", 3.0, 1.0, 20),
        ("ancestral", 1.0, 1.0, 10),
        ("ancestral", 1.0, 0.0, 10),
    ]
    assert panels["ancestral, w = 1"]["max_x_0"] <= 1 + 1e-6 < panels["ancestral, w = 1, unclipped"]["max_x_0"]
    assert {name: one["found"] for name, one in facts["verdict"].items()} == {
        "condition ignored": False,
        "table not trained": False,
        "attention constant": False if form == "cross-attention" else None,
    }
    assert all(f"({letter})" in text for letter in "cdefg") and "(a, b)" in text and CONVENTION in text
    pictures = {"condition-gap": Figure, "condition-table": Figure, "condition-panels": Image.Image}
    pictures |= {"condition-attention": Figure} if form == "cross-attention" else {}
    assert {stem: isinstance(picture, pictures[stem]) for stem, picture in made.pictures.items()} == dict.fromkeys(
        pictures, True
    )
    assert draws(it) == ticks[-1] == 40, "the bar ends where it says"


def test_a_class_channel_that_is_not_read_is_found() -> None:
    it = bench("concat")
    with torch.no_grad():
        it.model.method.denoiser.net.stem.weight[:, -1] = 0
    facts = drawn(it).facts
    assert facts["stem"]["condition"] == 0 < min(facts["stem"]["input"])
    assert set(facts["gap"]["by_time"].values()) == {0.0}
    found = {name: one["found"] for name, one in facts["verdict"].items()}
    assert found == {"condition ignored": True, "table not trained": True, "attention constant": None}
    assert "condition ignored: YES" in facts["text"]


def test_attention_that_looks_everywhere_alike_is_found() -> None:
    """Of queries that are 0 all scores are, and the entropy is that of M equal shares, ln M."""
    it = bench("cross-attention")
    parts = [part for part in it.model.method.denoiser.modules() if isinstance(part, CrossAttention)]
    with torch.no_grad():
        parts[1].q.weight.zero_()
        parts[1].q.bias.zero_()
        found = listening.measure(it)["attention"]
    dead = list(found)[1]
    assert found[dead]["entropy"] == pytest.approx(math.log(4), abs=1e-6)
    assert all(one["entropy"] < math.log(4) - 1e-4 for name, one in found.items() if name != dead)
    assert constant(found) == {"found": True, "why": f"1 of 4 look everywhere alike: {dead}"}


@pytest.mark.parametrize(("entropy", "spread", "dead"), [(0.9, 0.1, False), (math.log(4), 0.1, True), (0.9, 0.0, True)])
def test_attention_is_constant_over_tokens_or_over_positions(entropy: float, spread: float, dead: bool) -> None:
    one = {"entropy": entropy, "ln_tokens": math.log(4), "spatial_std": spread}
    assert constant({"cross": one})["found"] == dead


def test_the_gap_is_that_of_a_network_that_is_known() -> None:
    """eps_c - eps_null = c + 1 everywhere, so the root mean square is c + 1 for class c, at any t."""

    class Knows(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            return (cond["label"] + 1.0).reshape(-1, 1, 1, 1).expand_as(x)

    it = bench("embedding")
    it.model.method.denoiser.net, it.model.method.denoiser.param = Knows(), of_eps
    index = torch.arange(20)
    batch = it.train.batch(index, index, it.model.space)
    found = listening.gaps(it.model.method, batch, 0, list("0123456789"))
    assert list(found["by_class"].values()) == pytest.approx(range(1, 11), rel=1e-5)
    mean = float((batch.label + 1.0).square().mean().sqrt())
    assert list(found["by_time"].values()) == pytest.approx([mean] * 5, rel=1e-5)


def test_rows_of_a_table() -> None:
    table = LabelEmbedding(2, 1, 2, 2)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [3, 4, 0, 0], [1, 1, 1, 1]]))
    found = listening.rows(table, ["null", "a", "b"])
    assert found["mean"] == [0, 1.75, 1] and found["norm"] == [0, 5, 2] and found["std"][2] == 0
    assert found["distances"][0] == [0, 5, 2]
    assert found["class_class"]["min"] == found["class_class"]["max"] == pytest.approx(math.sqrt(15))
    assert table(torch.tensor([-1, 0, 1])).shape == (3, 1, 2, 2) and table(torch.tensor([0]))[0, 0, 0, 1] == 4


def test_measuring_changes_nothing() -> None:
    it = bench("cross-attention")
    before = {name: value.clone() for name, value in it.model.method.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():
        assert listening.measure(it) == listening.measure(it)
    assert all(torch.equal(value, before[name]) for name, value in it.model.method.state_dict().items())
    assert not it.model.method.training and torch.equal(random, torch.get_rng_state())
    assert not any(p.requires_grad or p.grad is not None for p in it.model.method.parameters())


def test_what_has_no_classes_is_refused(filled) -> None:
    with pytest.raises(UsageError, match="--plot condition needs classes"):
        refuse(bench("embedding", method="ddpm", cond="none"))
    model = load(filled / "pictures")
    with pytest.raises(UsageError, match="--plot condition is of gaussian methods, but fill is none"):
        refuse(Bench(model, model.recipe, model.recipe.evaluation({})))


def with_variance(**tables: object) -> Bench:
    """An untrained iddpm with ten steps in its table, which is drawn with ddim."""
    small = {"name": "biggan-unet", "channels": 8, "multipliers": [1, 2], "attention": [0, 1]}
    data, schedule = {"name": "digits", "size": 8}, {"name": "cosine", "timesteps": 10}
    it = untrained(recipes.resolve({"model": small, "dataset": data, "schedule": schedule, **tables}))
    it.recipe = overlay(it.model.recipe, {"name": "ddim"}, {})
    it.options = replace(it.recipe.evaluation({}), per_class=1, label="3")
    return it


@pytest.mark.parametrize(
    ("tables", "variance"),
    [
        ({"method": {"name": "iddpm"}}, "learned"),
        ({"method": {"name": "iddpm", "objective": "simple", "variance": "large"}}, "large"),
        ({"method": {"name": "iddpm"}, "sampler": {"name": "ancestral", "variance": "small"}}, "small"),
    ],
)
def test_each_panel_takes_the_sampler_of_the_run(tables: dict, variance: str) -> None:
    """With the variance that is trained, or that the run's own recipe says, whatever --sampler names."""
    it = with_variance(**tables)
    refuse(it)
    told = {name: one.facts["sampler"] for name, one in panels(it).items()}
    assert [one.get("variance") for one in told.values()] == [None, *[variance] * 3]


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 5},
        {"spacing": "uniform"},
        {"rho": 5.0},
        {"guidance_scale": 2.0},
        {"guidance_interval": (0.2, 0.8)},
        {"clip": 0.5},
    ],
)
def test_what_the_panels_say_themselves_is_refused(given: dict) -> None:
    """It would change nothing, and yet stand in the command; what the recipe of the run says is no flag."""
    it, (key,) = with_variance(method={"name": "iddpm"}), given
    refuse(it)
    it.options = replace(it.options, **given)
    with pytest.raises(UsageError, match=f"--plot condition has its own --{key.replace('_', '-')}; leave it out"):
        refuse(it)
    it.recipe = replace(it.recipe, sample=replace(it.recipe.sample, **given))
    refuse(it)
