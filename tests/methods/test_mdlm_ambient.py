"""Training on data with missing pixels: what is missing never gets in, and where nothing is, nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffcli.core.random import Blocks
from diffcli.core.space import Tokens
from diffcli.errors import UsageError
from diffcli.schedules.masked import LogLinear
from diffcli_mdlm import MaskTransformerOptions, MDLMEval, MDLMOptions, MDLMSample
from diffcli_mdlm.method import MDLM
from diffcli_mdlm.network import MaskTransformer
from diffcli_vision.datasets import Images

SPACE = Tokens((1, 6, 6), 0)


def made(n: int = 32, *, split: str = "made/train", images: Tensor | None = None) -> Images:
    drawn = torch.randint(0, 256, (n, 1, 6, 6), generator=torch.Generator().manual_seed(0)).byte()
    return Images(drawn if images is None else images, None, name="made", split=split)


def method(**options) -> MDLM:
    """With a small transformer whose weights do not begin near zero: all of its answers differ."""
    torch.manual_seed(0)
    net = MaskTransformer(MaskTransformerOptions(width=16, heads=2, depth=1), SPACE)
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.normal_(net.table.weight)
    return MDLM(MDLMOptions(**options), SPACE, model=lambda **_: net, process=LogLinear(2)).train()


def step(method: MDLM, dataset: Images, start: int = 0, size: int = 16, total: int = 16) -> dict[str, Tensor]:
    """All losses at some positions of the stream of what the method trains on, and all gradients."""
    data, index = method.data(dataset), torch.arange(start, start + size)
    losses = method.loss(data.batch(data.items(0, index), index, SPACE), Blocks(0, index, total))
    losses["loss"].backward()
    return losses | {name: p.grad for name, p in method.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """To the bit."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_truth_of_missing_pixels_changes_nothing(weight):
    """Neither a loss nor a gradient, to the bit; that of observed pixels changes them."""
    options = {"missing": 0.5, "consistency_weight": weight}
    data = made()
    known = method(**options).data(data).known(torch.arange(32), data.shape)
    turned = [made(images=torch.where(where, data.images, 255 - data.images)) for where in (known, ~known)]
    a, hidden, shown = (step(method(**options), images) for images in (data, *turned))
    assert same(a, hidden) and not torch.equal(a["loss"], shown["loss"])
    assert ("consistency" in a) == bool(weight)


def test_where_nothing_is_missing_it_is_the_baseline():
    """To the bit."""
    plain = step(method(), made())
    for options in ({"missing": 0.0}, {"consistency_weight": 0.0}, {"missing": 0.0, "consistency_weight": 0.0}):
        assert same(plain, step(method(**options), made()))
    assert plain.keys() >= {"loss", "nats", "masked"} and "consistency" not in plain


def test_weight_0_takes_consistency_off_and_leaves_the_rest():
    with_it, without = (step(method(missing=0.5, consistency_weight=w), made()) for w in (2.0, 0.0))
    assert torch.equal(with_it["easy"], without["loss"]) and torch.equal(with_it["nats"], without["nats"])
    assert torch.equal(with_it["loss"], with_it["easy"] + 2 * with_it["consistency"])
    assert with_it["consistency"] != 0 and not {"easy", "consistency"} & without.keys()


def test_consistency_begins_with_its_epoch():
    """Epoch 1.5 of 32 images begins at position 48: before it, the gradients are those of weight 0, to the bit."""
    late = {"missing": 0.5, "consistency_weight": 1.0, "consistency_start": 1.5}
    before, after = (step(method(**late), made(), start) for start in (32, 48))
    without, whole = (
        step(method(missing=0.5, consistency_weight=0.0), made(), 32),
        step(method(missing=0.5), made(), 48),
    )
    assert before["consistency"] == 0 and all(torch.equal(before[name], value) for name, value in without.items())
    assert same(after, whole) and after["consistency"] != 0


@pytest.mark.parametrize(("start", "begun"), [(32, False), (64, True)])
def test_parts_of_a_batch_begin_with_it(start, begun):
    """Two parts average to the whole, also where the epoch begins at position 48: else --accumulate would change a run."""
    late = {"missing": 0.5, "consistency_weight": 1.0, "consistency_start": 1.5}
    places = ((start, 32), (start, 16), (start + 16, 16))
    whole, *parts = (step(method(**late), made(), *place, 32)["consistency"] for place in places)
    assert torch.allclose(sum(parts) / 2, whole, rtol=1e-4, atol=0) and (whole != 0) == begun


def test_evaluation_is_of_the_whole_bound_on_what_is_there():
    """Whatever is missing in training: held-out losses of all runs compare."""
    plain, ambient = (method(**options).eval() for options in ({}, {"missing": 0.9}))
    index = torch.arange(32)
    losses = []
    for model in (plain, ambient):
        batch = model.view(made(split="made/test")).batch(index, index, SPACE)
        assert batch.known is None and int(batch.x.max()) < 2
        losses.append(model.loss(batch, Blocks(0, index, 32)))
    assert same(*losses)


def test_what_is_missing_is_fixed_by_its_seed_and_split():
    """The rate is within 0.005 of what was asked for, which is 4 standard errors of 4,000 images of 36 pixels."""
    ask = lambda data, **options: method(missing=0.5, **options).data(data)
    index = torch.arange(4000)
    masks = [
        data.batch(index, index + shift, SPACE).known
        for shift, data in (
            (0, ask(made(4000))),
            (777, ask(made(4000), binarize="dynamic", consistency_weight=0.0)),
            (0, ask(made(4000), corruption_seed=1)),
            (0, ask(made(4000, split="made/test"))),
        )
    ]
    assert float((~masks[0]).double().mean()) == pytest.approx(0.5, abs=0.005)
    assert torch.equal(masks[0], masks[1])
    for other in masks[2:]:
        assert float((other == masks[0]).double().mean()) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(
    ("missing", "weight", "p", "loss"),
    [
        (None, None, 0, 0),
        (None, 2.0, 0.5, 2),
        (0.9, None, 0.9, 1),
        (0.9, 0.0, 0.9, 0),
        (0.3, 5.0, 0.3, 5),
        (0, None, 0, 0),
    ],
)
def test_what_is_unset_follows_from_what_is_set(missing, weight, p, loss):
    options = MDLMOptions(missing=missing, consistency_weight=weight)
    assert (options.p, options.weight) == (p, loss)


@pytest.mark.parametrize("options", [MDLMOptions, MDLMSample, MDLMEval])
@pytest.mark.parametrize("missing", [1, 1.5, 90])
def test_missing_is_a_fraction(missing, options):
    with pytest.raises(UsageError, match=r"missing is a fraction: for 90 % write 0\.9$"):
        options(missing=missing)


def test_consistency_needs_missing_pixels():
    with pytest.raises(UsageError, match="--consistency-weight needs missing pixels, but --missing is 0"):
        MDLMOptions(missing=0.0, consistency_weight=1.0)


def test_the_header_says_what_is_missing_and_why():
    (line,) = method(consistency_weight=2.0).notes(method(consistency_weight=2.0).data(made()))
    assert (
        line.startswith("ambient: 50 % of the data is missing (") and "% measured), as --consistency-weight is" in line
    )
    (line,) = method(missing=0.9).notes(method(missing=0.9).data(made()))
    assert line.startswith("ambient: 90 % of the data") and line.endswith("; consistency weight 1")
    assert method().notes(method().data(made())) == []
