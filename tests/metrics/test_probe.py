"""The linear probe is the minimum it says it is, and its records are of what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from diffcli.engine.evaluate import Bench
from diffcli.engine.load import load
from diffcli.engine.probing import features, probe, stream, told, tuning, untrained
from diffcli.errors import PluginError
from diffcli.metrics import probe as linear
from diffcli.sections import EvalOptions
from diffcli_rf.method import RectifiedFlow


class Encoder(nn.Module):
    """What the network of a flow makes of an image at t = 0, less what is dropped in training: (B, C, H, W) -> (B, D)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.drop = net, nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        null = torch.full((len(x),), -1, device=x.device)
        return self.drop(self.net(x, torch.zeros(len(x)), {"label": null}).flatten(1))


@pytest.fixture
def encoder(monkeypatch) -> None:
    """rf gives features, as an encoder would."""
    monkeypatch.setattr(RectifiedFlow, "backbone", lambda self: Encoder(self.denoiser.net), raising=False)
    monkeypatch.setattr(RectifiedFlow, "features", lambda self, x: self.backbone().eval()(x), raising=False)


@pytest.fixture
def pixels(monkeypatch) -> None:
    """rf gives the pixels themselves."""
    monkeypatch.setattr(RectifiedFlow, "features", lambda self, x: x.flatten(1), raising=False)


def bench(trained: Path, **options) -> Bench:
    model = load(trained / "runs" / "rf")
    return Bench(model, model.recipe, EvalOptions(**options))


@pytest.mark.parametrize("ridge", [1e-1, pytest.param(1e-3, marks=pytest.mark.slow)])
def test_it_is_the_minimum_that_sklearn_finds(ridge):
    """C = 1/(ridge n) there. At a gradient of 1e-7, and curvature of ridge or more, weights are within 1e-7/ridge."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    weight, bias = linear.logistic(x, y, 10, ridge, 1000)
    known = LogisticRegression(C=1 / (ridge * len(x)), tol=1e-10, max_iter=5000).fit(x.numpy(), y.numpy())
    assert torch.allclose(weight.T, torch.tensor(known.coef_), atol=2e-4)
    expected = torch.tensor(known.intercept_)
    assert torch.allclose(bias - bias.mean(), expected - expected.mean(), atol=2e-3)


def test_it_finds_the_boundary_of_two_gaussians():
    """N(+-m, 1): the log odds are 2 m x, with a standard error of about sqrt(4/n) and a ridge that hardly bends it."""
    n, m = 40_000, 0.7
    y = torch.arange(n) % 2
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0)) + m * (2 * y[:, None] - 1)
    weight, bias = linear.logistic(x.double(), y, 2, 1e-5, 100)
    assert float(weight[0, 1] - weight[0, 0]) == pytest.approx(2 * m, abs=0.06)
    assert float(bias[1] - bias[0]) == pytest.approx(0, abs=0.04)


def test_scales_and_shifts_of_features_do_not_matter():
    """Standardized, features that were multiplied, moved, or never change give the same answers."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    fit, rest = slice(0, 600), slice(600, None)
    other = x * torch.linspace(1e-2, 50, 64) + torch.linspace(-9, 9, 64)
    (a, b) = (linear.probe(z[fit], y[fit], 10) for z in (x, other))
    assert (a.std == torch.inf).any() and a.ridge == b.ridge
    answers = a.classify(x[rest])
    assert (answers == b.classify(other[rest])).double().mean() > 0.999
    assert (answers == y[rest]).double().mean() > 0.88


def test_a_stronger_ridge_is_chosen_where_noise_could_be_learned():
    """300 images of 200 features, 5 of which tell: the strongest ridge is 1 % better than the weakest on 3,000 others."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 200, generator=draw)
    y = (x[:, :5].sum(1) + torch.randn(4000, generator=draw) > 0).long()
    found = linear.probe(x[:300], y[:300], 2)
    weight, bias = linear.logistic(x[:300].double(), y[:300], 2, linear.RIDGES[-1], 100)
    rest, truth = x[1000:], y[1000:]
    weakest = ((rest.double() @ weight + bias).argmax(1) == truth).double().mean()
    assert found.ridge == linear.RIDGES[0] and (found.classify(rest) == truth).double().mean() > weakest + 0.005


def test_of_ridges_that_tell_alike_the_strongest_is_taken():
    """Two heaps far apart: every ridge tells all of them."""
    y = torch.arange(200) % 2
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) + 20 * y[:, None]
    assert linear.probe(x, y, 2).ridge == linear.RIDGES[0]


def test_labels_without_a_relation_are_told_at_chance():
    """3,000 held-out images of 10 classes: chance is 0.1, with a standard error of 0.0055."""
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randn(4000, 8, generator=draw), torch.randint(10, (4000,), generator=draw)
    found = linear.probe(x[:1000], y[:1000], 10)
    assert (found.classify(x[1000:]) == y[1000:]).double().mean() == pytest.approx(0.1, abs=0.025)


def test_a_record_is_the_probe_of_all_training_images(trained, pixels):
    """Of pixels, which no training changes, floor and value are one; and both are what the pure function gives."""
    it = bench(trained, probe_epochs=30)
    (record,) = probe(it)
    assert (record["metric"], record["images"], record["n_train"], record["split"]) == (
        "probe",
        359,
        1438,
        it.test.split,
    )
    assert record["value"] == record["floor"] and record["floor_seed"] == 1 and "n" not in record
    assert record["epochs"] == 30 and record["features"] == 64
    (x, label), (test, test_label) = (
        (data.batch(i, i, it.model.space).x.flatten(1), data.batch(i, i, it.model.space).label)
        for data, i in ((it.train, it.order(it.train, 1438)), (it.test, torch.arange(359)))
    )
    hits = linear.probe(x, label, 10, passes=30).classify(test) == test_label
    assert record["value"] == float(hits.double().mean()) > 0.9
    p = (float(hits.sum()) + 1) / 361
    assert record["standard_error"] == pytest.approx((p * (1 - p) / 359) ** 0.5)


def test_the_floor_is_of_fresh_weights(trained, encoder):
    it = bench(trained, reference=200)
    fresh, seed = untrained(it)
    theirs, ours = fresh.state_dict(), it.model.method.state_dict()
    assert seed == it.model.recipe.train.seed + 1 and theirs.keys() == ours.keys()
    assert any(not torch.equal(theirs[name], ours[name]) for name in ours)
    (record,) = probe(it)
    assert (record["n_train"], record["images"]) == (200, 359)
    value, floor = (float(told(method, it)[0].double().mean()) for method in (it.model.method, fresh))
    assert (record["value"], record["floor"]) == (value, floor) and value != floor


@pytest.mark.slow
def test_fine_tuning_learns_and_leaves_the_model_alone(trained, encoder, capsys):
    """Half of ten classes within 50 steps, where chance is 0.1; the same again is the same number to the bit."""
    asked = {"reference": 400, "finetune_epochs": 2.5, "finetune_batch": 20, "images": 200, "finetune_lr": 3e-3}
    it = bench(trained, **asked)
    before = {name: t.clone() for name, t in it.model.method.state_dict().items()}
    state = torch.get_rng_state()
    (record,) = tuning(it)
    assert record["value"] > 0.5 and record["floor"] > 0.3 and record["n_train"] == 400
    assert all(torch.equal(t, before[name]) for name, t in it.model.method.state_dict().items())
    assert not any(p.requires_grad for p in it.model.method.parameters()) and torch.equal(state, torch.get_rng_state())
    assert "finetune from scratch: step 50 of 50" in capsys.readouterr().err


def test_fine_tuning_is_a_function_of_its_seed(trained, encoder):
    asked = {"reference": 60, "finetune_epochs": 1.0, "finetune_batch": 20, "images": 359}
    values = []
    for before, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(before)  # the dropout of its layers follows from (seed, step) all the same
        values.append(next(iter(tuning(bench(trained, **asked, seed=seed))))["value"])
    assert values[0] == values[1] != values[2]


def test_an_epoch_of_fine_tuning_sees_each_of_its_images_once(trained):
    it = bench(trained, reference=50)
    items, chosen = stream(it), it.order(it.train, 50)
    assert sorted(items(torch.arange(50)).tolist()) == sorted(chosen.tolist())
    assert items(torch.arange(50)).tolist() != items(torch.arange(50, 100)).tolist()
    it.splits["train"].flip = True
    mirrored = items(torch.arange(100))
    assert sorted((mirrored[:50] % 1438).tolist()) == sorted(chosen.tolist()) and 30 < (mirrored >= 1438).sum() < 70


@pytest.mark.parametrize("wrong", [torch.zeros(4), torch.full((200, 3), torch.nan)])
def test_features_that_are_none_are_the_methods_fault(trained, monkeypatch, wrong):
    monkeypatch.setattr(RectifiedFlow, "features", lambda self, x: wrong[: len(x)], raising=False)
    it = bench(trained, reference=20)
    with pytest.raises(PluginError, match=r"method rf: features\(\) gave no finite numbers \(B, D\)"):
        features(it, it.model.method, it.train, torch.arange(20))


@pytest.mark.parametrize("name", ["probe", "finetune"])
def test_what_cannot_be_probed_is_refused(trained, cli, tmp_path, monkeypatch, name):
    (one,) = (trained / "runs" / "rf").iterdir()
    run = shutil.copytree(one, tmp_path / "runs" / "rf" / "only")
    hook = {"probe": "features", "finetune": "backbone"}[name]
    ran = cli("eval", run, "--metric", name)
    assert ran.code == 2 and f"{name} is of methods with {hook}() of an image, and rf has none; leave it out" in ran.err
    monkeypatch.setattr(RectifiedFlow, hook, lambda self, x: x.flatten(1), raising=False)
    ran = cli("eval", run, "--metric", name, "--reference", "9")
    assert ran.code == 2 and f"{name} needs 10 training images or more, but there are 9; raise --reference" in ran.err


def test_data_without_classes_are_refused(cli, monkeypatch):
    from PIL import Image

    from commands import TINY

    Path("data").mkdir()
    for k in range(20):
        Image.new("RGB", (8, 8), (12 * k, 0, 0)).save(f"data/{k}.png")
    assert (
        cli("train", "rf", "--dataset", "folder", "--path", "data", "--size", "8", *TINY, "--output", "run").code == 0
    )
    monkeypatch.setattr(RectifiedFlow, "features", lambda self, x: x.flatten(1), raising=False)
    ran = cli("eval", "run", "--metric", "probe")
    assert ran.code == 2 and "probe needs classes, but folder has none; take a data set with classes" in ran.err


def test_the_command_gives_records_that_stand_beside_others(trained, cli, tmp_path, pixels):
    (one,) = (trained / "runs" / "rf").iterdir()
    run = shutil.copytree(one, tmp_path / "runs" / "rf" / "only")
    ran = cli("eval", run, "--metric", "probe,loss", "--images", "50", "--reference", "300", "--json")
    assert ran.code == 0, ran.err
    record = ran.json["records"][0]
    assert (
        record["metric"] == "probe" and "--reference 300" in record["command"] and "--metric probe" in record["command"]
    )
    assert len((run / "evals.jsonl").read_text().splitlines()) == 2
