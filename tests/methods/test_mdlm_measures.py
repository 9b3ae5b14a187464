"""Measures of masked diffusion on predictors of which the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffcli import recipe as recipes
from diffcli.core.exact import Joint
from diffcli.engine.assemble import Facts, assemble
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import Model
from diffcli.errors import UsageError
from diffcli.schedules.masked import CosineMask, LogLinear
from diffcli_mdlm import MDLMEval, measure
from diffcli_vision.datasets import Images
from diffcli_vision.text import Texts
from masked_laws import Fixed, Known, coin

ALPHABET = "abcdefg"
SIZE = 64


def pictures(n: int = 60, split: str = "made/test") -> Images:
    """Black and white noise: no two images are alike, not even in half of their pixels."""
    noise = torch.randint(0, 2, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)) * 255
    return Images(noise.byte(), torch.arange(n) % 2, name="made", split=split, class_names=("a", "b"))


def texts(n: int = 60) -> Texts:
    numbers = torch.randint(0, len(ALPHABET), (n * SIZE,), generator=torch.Generator().manual_seed(0)).byte()
    return Texts(numbers, length=SIZE, alphabet=ALPHABET, name="text", split="text/test", part="text/test")


def bench(denoiser, data=None, *, method=None, **options) -> Bench:
    """A denoiser in closed form on the bench, as if it were a trained model; data: what is held out."""
    data = pictures() if data is None else data
    model = {"name": "mask-unet", "channels": 8, "multipliers": [1, 2]}
    if isinstance(data, Texts):
        model = {"name": "mask-transformer", "width": 8, "heads": 2, "depth": 1}
    recipe = recipes.resolve({"method": {"name": "mdlm", **(method or {})}, "model": model})
    made = assemble(recipe, Facts.of(data))
    made.method.denoiser = Known(denoiser)
    made.method.eval()
    model = Model(made.recipe, made.method, made.space, made.facts, torch.device("cpu"), "here", 0, "ema", "")
    return Bench(model, made.recipe, MDLMEval(**options), test=made.method.view(data))


def held_out(it: Bench) -> Tensor:
    """(n, L) all held-out tokens."""
    items = torch.arange(len(it.test))
    return it.test.batch(items, items, it.model.space).x


def found(records) -> dict[str, dict]:
    return {record["metric"]: record for record in records}


# the bound


@pytest.mark.parametrize("make", [LogLinear, CosineMask])
def test_the_bound_of_independent_pixels_is_their_cross_entropy(make):
    """Within 3 standard errors, which are below 2 % with 64 draws; bits/dim are nats/(L ln 2)."""
    probs = torch.linspace(0.1, 0.9, SIZE)
    process = make(2)
    it = bench(Fixed(process, torch.stack([1 - probs, probs], -1)), draws=64)
    chances = torch.where(held_out(it) == 1, probs, 1 - probs)
    want = float(-chances.double().log().sum(1).mean())
    records = found(measure.nelbo(it))
    nats, bits = records["nelbo"], records["nelbo[bits/dim]"]
    assert abs(nats["value"] - want) < 3 * nats["standard_error"] and nats["standard_error"] < 0.02 * want
    for key in ("value", "standard_error"):
        assert bits[key] == pytest.approx(nats[key] / (SIZE * math.log(2)), rel=1e-12)
    assert (nats["unit"], bits["unit"]) == ("nats", "bits/dim")
    assert (nats["images"], nats["draws"], nats["split"]) == (60, 64, "made/test, binarized by threshold at 127")


@pytest.mark.parametrize("draws", [1, 4])
def test_its_error_is_how_much_it_varies(draws):
    """A coin: all images alike, so nothing but draws differs. Over 40 seeds, 1 +- 3 standard errors of a spread."""
    values, errors = [], []
    for seed in range(40):
        record = found(measure.nelbo(bench(coin(LogLinear(2)), draws=draws, seed=seed)))["nelbo"]
        values.append(record["value"])
        errors.append(record["standard_error"])
    spread, error = float(torch.tensor(values).std()), sum(errors) / 40
    assert abs(spread / error - 1) < 3 / math.sqrt(2 * 39)
    assert abs(sum(values) / 40 - SIZE * math.log(2)) < 3 * spread / math.sqrt(40)


def test_its_error_is_of_images_however_often_each_is_measured():
    """Half are white and likely, half are black and not: 64 draws tell each apart, but images are 60 as before."""
    images = (torch.arange(60) % 2 * 255).byte().reshape(60, 1, 1, 1).expand(60, 1, 8, 8)
    it = bench(Fixed(LogLinear(2), torch.tensor([0.1, 0.9])), Images(images, None, name="two", split="two"), draws=64)
    error = SIZE * math.log(9) / 2 / math.sqrt(60)  # of the costs 64 log(10/9) and 64 log 10
    assert found(measure.nelbo(it))["nelbo"]["standard_error"] == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize("make", [LogLinear, CosineMask])
def test_parts_below_and_above_a_rate_make_the_whole(make):
    """Of a coin they are p L ln 2 and (1 - p) L ln 2, by any clock; the upper one is what is trained where p is missing."""
    it = bench(coin(make(2)), method={"missing": 0.3}, draws=64)
    records = found(measure.nelbo(it))
    whole, below = records["nelbo"], records["nelbo[rate<0.3]"]
    nats, rates = measure.bounds(it, 60, 64)
    above = torch.where(rates < 0.3, 0.0, nats).mean(1)
    assert below["value"] + float(above.mean()) == pytest.approx(whole["value"], rel=1e-12)
    assert abs(below["value"] - 0.3 * SIZE * math.log(2)) < 3 * below["standard_error"]
    assert abs(float(above.mean()) - 0.7 * SIZE * math.log(2)) < 3 * float(above.std()) / math.sqrt(60)
    assert below["unit"] == "nats" and below["value"] < whole["value"]


def test_perplexity_is_the_number_of_characters_to_guess_from():
    """exp(nats/L): 7 for a coin of 7 sides."""
    it = bench(coin(LogLinear(7)), texts(), draws=64)
    records = found(measure.nelbo(it))
    nats, perplexity = records["nelbo"], records["perplexity"]
    assert perplexity["value"] == pytest.approx(math.exp(nats["value"] / SIZE), rel=1e-12)
    assert perplexity["standard_error"] == pytest.approx(perplexity["value"] * nats["standard_error"] / SIZE, rel=1e-12)
    assert abs(perplexity["value"] - 7) < 3 * perplexity["standard_error"] < 0.5
    assert records["nelbo[bits/char]"]["unit"] == "bits/char" and "nelbo[bits/dim]" not in records


def test_an_ambient_run_is_measured_on_whole_images():
    """To the bit as one that was trained on whole ones; its split says nothing of missing pixels."""
    probs = torch.tensor([0.3, 0.7])
    plain, ambient = (
        found(measure.nelbo(bench(Fixed(LogLinear(2), probs), method=options)))["nelbo"]
        for options in ({}, {"missing": 0.9})
    )
    assert plain == ambient and "missing" not in ambient["split"]


def test_it_says_by_which_protocol_pixels_are_black():
    for protocol, words in (("static", "statically"), ("dynamic", "statically"), ("threshold", "by threshold")):
        it = bench(coin(LogLinear(2)), method={"binarize": protocol}, images=2)
        assert f"binarized {words}" in found(measure.nelbo(it))["nelbo"]["split"]


# filling in


def oracle(data: Images) -> Joint:
    """Knows all images by heart."""
    return Joint(LogLinear(2), data.images.flatten(1).long().clamp(max=1), torch.ones(len(data)))


@pytest.mark.parametrize("missing", [0.1, 0.5])
def test_an_oracle_fills_in_everything_rightly(missing):
    data = pictures()
    records = found(measure.recovery(bench(oracle(data), data, missing=missing, samples=60)))
    assert [records[f"recovery[{name}]"]["value"] for name in ("one pass", "sampled")] == [1, 1]
    assert records["recovery[sampled]"]["missing"] == missing


def test_images_of_which_nothing_is_hidden_do_not_count():
    """At 1 % about half of them: the oracle is right still."""
    it = bench(oracle(pictures()), missing=0.01, samples=60)
    whole = measure.given(it, torch.arange(60), 0.01)[0].known.all(1)
    assert 10 < int(whole.sum()) < 50
    assert [record["value"] for record in measure.recovery(it)] == [1, 1]


def test_a_coin_is_right_half_of_the_time():
    """Within 3 standard errors, of 60 images with 32 pixels each: 0.011."""
    it = bench(Fixed(LogLinear(2), torch.tensor([0.5, 0.5])), samples=60)
    drawn = found(measure.recovery(it))["recovery[sampled]"]
    assert abs(drawn["value"] - 0.5) < 3 * drawn["standard_error"]
    assert drawn["standard_error"] == pytest.approx(0.5 / math.sqrt(60 * 32), rel=0.5)


def test_one_pass_takes_the_likelier_value():
    """0.6 of white is white always in one pass, and 0.6 of the time when drawn."""
    it = bench(Fixed(LogLinear(2), torch.tensor([0.4, 0.6])), samples=60, missing=0.5)
    batch, truth = measure.given(it, torch.arange(60), 0.5)
    white = ((truth == 1) & ~batch.known).sum(1) / (~batch.known).sum(1)
    records = found(measure.recovery(it))
    assert records["recovery[one pass]"]["value"] == pytest.approx(float(white.double().mean()), rel=1e-12)
    share, drawn = records["recovery[one pass]"]["value"], records["recovery[sampled]"]
    assert abs(drawn["value"] - (0.6 * share + 0.4 * (1 - share))) < 3 * drawn["standard_error"]


@pytest.mark.parametrize(("asked", "trained", "share"), [(0.2, 0.9, 0.2), (None, 0.9, 0.9), (None, 0.0, 0.5)])
def test_as_much_is_hidden_as_was_asked_for_or_trained(asked, trained, share):
    it = bench(coin(LogLinear(2)), method={"missing": trained}, missing=asked)
    assert measure.hidden(it) == share
    batch, truth = measure.given(it, torch.arange(60), share)
    assert float((~batch.known).double().mean()) == pytest.approx(share, abs=0.03)  # 4 standard errors
    assert torch.equal(batch.x == 2, ~batch.known) and torch.equal(truth, held_out(it))


def test_nothing_to_hide_is_refused():
    with pytest.raises(UsageError, match="--missing 0 hides nothing"):
        MDLMEval(missing=0.0)
    with pytest.raises(UsageError, match="--missing 1e-06 hides nothing of these 60 images"):
        list(measure.recovery(bench(coin(LogLinear(2)), missing=1e-6)))


# consistency


class Forgets(Fixed):
    """Sure of white while more than 8 of 10 pixels are missing, and then no more."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: object):
        self.log_probs = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).log()[((x_t == 2).double().mean(1) > 0.8).long()]
        self.log_probs = self.log_probs[:, None]
        return super().__call__(x_t, t, cond)


def test_an_oracle_is_consistent_and_what_forgets_is_not():
    """Within 3 standard errors; a predictor that forgets is off by 0.4^2, in a part of the rows."""
    data = pictures()
    (exact,) = measure.consistency(bench(oracle(data), data, method={"missing": 0.9}))
    (wrong,) = measure.consistency(bench(Forgets(LogLinear(2), torch.ones(2)), data, method={"missing": 0.9}))
    assert abs(exact["value"]) < 3 * exact["standard_error"] + 1e-12
    assert wrong["value"] > 3 * wrong["standard_error"] and wrong["value"] < 0.16


def test_consistency_of_a_model_of_whole_images_is_refused():
    with pytest.raises(UsageError, match="here was trained with none missing"):
        list(measure.consistency(bench(coin(LogLinear(2)))))


# all


@pytest.mark.parametrize("name", ["nelbo", "recovery", "consistency"])
def test_the_same_seed_is_the_same_number_whatever_the_batch(name):
    """To the bit, as there is no network; another seed is another number."""
    predictor = Forgets(LogLinear(2), torch.ones(2))

    def values(seed: int, rows: int = 250) -> list[float]:
        it = bench(predictor, method={"missing": 0.9}, seed=seed)
        it.model.space.rows = rows
        return [record["value"] for record in getattr(measure, name)(it)]

    first = values(0)
    assert values(0) == first and values(1) != first
    assert values(0, rows=7) == pytest.approx(first, rel=1e-12)


def test_agreement_is_of_models_that_know_classes():
    for cond, more in (("none", ()), ("label", ("accuracy", "agreement"))):
        it = bench(coin(LogLinear(2)), method={"cond": cond})
        assert it.model.method.measures(it.model.facts) == (
            "nelbo",
            "recovery",
            "fd",
            "kd",
            "prdc",
            *more,
            "memorization",
        )
