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
from diffcli.engine import listening
from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli.engine.condition import CONVENTION, condition, constant, draws, refuse
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import Model, load
from diffcli.errors import UsageError
from diffcli.nn.blocks import CrossAttention
from diffcli.nn.embedding import LabelEmbedding

FORMS = {"concat": "unet-concat", "cross-attention": "unet-cross", "embedding": "unet"}


def bench(form: str, *, method: str = "ldm", cond: str = "label") -> Bench:
    """An untrained network on digits, in pixels, with ten steps in its table."""
    tables = {
        "method": {"name": method, "cond": cond},
        "model": {"name": FORMS[form], "channels": 8, "multipliers": [1, 2]},
        "schedule": {"name": "scaled-linear", "timesteps": 10},
    }
    recipe = recipes.resolve(tables)
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
