"""Networks of tokens: their size, what they read, and what they answer."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.masked import MaskedDenoiser
from diffcli.core.process import MaskedProcess
from diffcli.core.space import Masked, Text, Tokens
from diffcli.engine.ema import EMA
from diffcli.errors import UsageError
from diffcli.nn.embedding import rotary, rotate
from diffcli_mdlm import MaskTransformerOptions
from diffcli_mdlm.network import MaskTransformer, MaskUNet
from diffcli_vision import UNetOptions

TINY = {"channels": 8, "multipliers": (1, 2), "attention": (0, 1)}
PAPER = {"channels": 64, "multipliers": (1, 2, 2, 4), "blocks": 2, "attention": (0, 0, 0, 0)}


def unet(space: Masked, *, classes: int = 0, **options) -> MaskUNet:
    torch.manual_seed(0)
    return MaskUNet(UNetOptions(**{**TINY, **options}), space, classes=classes).eval()


def transformer(space: Masked, *, classes: int = 0, **options) -> MaskTransformer:
    """Its head does not begin at zero, so that answers differ."""
    torch.manual_seed(0)
    config = MaskTransformerOptions(**{"width": 16, "heads": 2, "depth": 1, **options})
    net = MaskTransformer(config, space, classes=classes).eval()
    nn.init.normal_(net.head.weight)
    return net


def tokens(space: Masked, rows: int = 3) -> Tensor:
    """Values and [MASK], each alike."""
    return torch.randint(space.vocab + 1, (rows, *space.shape), generator=torch.Generator().manual_seed(1))


def noise(rows: int = 3) -> Tensor:
    return torch.linspace(0, 1000, rows)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


NETS = {
    "unet, black and white": (unet, Tokens((1, 8, 8), 3)),
    "unet, five greys": (unet, Tokens((1, 8, 8), 3, 5)),
    "unet, colours": (unet, Tokens((3, 6, 9), 3)),
    "unet, five of each colour": (unet, Tokens((3, 6, 9), 3, 5)),
    "transformer, pictures": (transformer, Tokens((1, 4, 4), 3)),
    "transformer, text": (transformer, Text(20, 3, "abcdefg")),
}


@pytest.fixture(params=NETS)
def made(request):
    return NETS[request.param]


# size


def test_parameters_of_the_paper_s_picture_network():
    with torch.device("meta"):
        assert count(MaskUNet(UNetOptions(**PAPER), Tokens((1, 28, 28), 0))) == 16_884_673


@pytest.mark.parametrize(
    ("vocab", "options", "expected"),
    [
        (65, {}, 10_796_225),
        (27, {}, 10_767_003),
        (65, {"width": 256, "heads": 4}, 4_838_209),
        (65, {"width": 8, "heads": 2, "depth": 1}, 66 * 8 + 256 * 8 + 12 * 64 + 13 * 8 + 16 + 65 * 9),
    ],
)
def test_parameters_of_a_transformer(vocab, options, expected):
    """The last by hand: table, positions, weights and biases of a block, norm, head."""
    with torch.device("meta"):
        space = Text(256, 0, "".join(map(chr, range(33, 33 + vocab))))
        assert count(MaskTransformer(MaskTransformerOptions(**options), space)) == expected


def test_a_class_table_is_a_row_a_class_and_one_for_none():
    for build, space, width in ((unet, Tokens((1, 8, 8), 0), 32), (transformer, Text(20, 0, "abc"), 16)):
        assert count(build(space, classes=10)) - count(build(space)) == 11 * width


# what they answer


def test_a_logit_for_each_value_of_each_token(made):
    build, space = made
    logits = build(space)(tokens(space), noise(), {})
    assert logits.shape == (3, *space.shape, space.vocab) and torch.isfinite(logits).all()
    probs = MaskedDenoiser(build(space), MaskedProcess(space.vocab))(tokens(space), torch.tensor(0.5), {}).log_probs
    assert torch.allclose(probs.exp().sum(-1), torch.ones(3, *space.shape), atol=1e-6)


def test_two_values_are_one_logit():
    """log p(1) = logsigmoid(l), log p(0) = logsigmoid(-l)."""
    space = Tokens((1, 8, 8), 0)
    net = unet(space)
    logits = net(tokens(space), noise(), {})
    one = logits[..., 1]
    assert net.unet.head.out_channels == 1 and logits[..., 0].abs().max() == 0 and one.std() > 0
    want = torch.stack([F.logsigmoid(-one), F.logsigmoid(one)], -1)
    assert torch.allclose(logits.log_softmax(-1), want, rtol=0, atol=1e-6)


class Echo(nn.Module):
    """In the place of the U-Net: keeps the planes it is given, and answers with numbers that say where they are from."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, planes: Tensor, c_noise: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.planes, (b, _, h, w) = planes, planes.shape
        return torch.arange(b * self.channels * h * w).reshape(b, self.channels, h, w).float()


@pytest.mark.parametrize(("channels", "vocab"), [(1, 2), (1, 5), (3, 2), (3, 5)])
def test_logits_of_a_token_lie_at_its_pixel(channels, vocab):
    """Logit v of the token at (c, i, j) is plane v C + c of the output, there."""
    space = Tokens((channels, 4, 6), 0, vocab)
    net, planes = unet(space), 1 if vocab == 2 else vocab
    net.unet = Echo(channels * planes)
    logits = net(tokens(space), noise(), {})
    at = torch.arange(3 * planes * channels * 24).reshape(3, planes, channels, 4, 6).float()
    got = logits[..., -planes:].unflatten(1, (channels, 4, 6))  # (B, C, H, W, planes)
    assert torch.equal(got, at.permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize(("channels", "vocab"), [(1, 2), (1, 5), (3, 2), (3, 5)])
def test_values_are_seen_where_they_are_revealed_and_nowhere_else(channels, vocab):
    """Planes of the values in [-1, 1], 0 where masked, and then of the mask."""
    space = Tokens((channels, 4, 6), 0, vocab)
    net, x_t = unet(space), tokens(space)
    net.unet = Echo(channels * (1 if vocab == 2 else vocab))
    net(x_t, noise(), {})
    value, mask = net.unet.planes.flatten(2).chunk(2, 1)
    masked = (x_t == vocab).unflatten(1, (channels, -1))
    assert torch.equal(mask, masked.float()) and (value[masked] == 0).all()
    levels = torch.linspace(-1, 1, vocab)[torch.where(masked, 0, x_t.unflatten(1, (channels, -1)))]
    assert torch.allclose(value[~masked], levels[~masked], rtol=0, atol=1e-6)


def test_every_token_depends_on_every_revealed_one(made):
    """But none of the other rows of a batch."""
    build, space = made
    net, x_t = build(space), tokens(space)
    other = x_t.clone()
    other[0, 0] = (x_t[0, 0] + 1) % (space.vocab + 1)
    with torch.no_grad():
        before, after = net(x_t, noise(), {}), net(other, noise(), {})
    assert (before[0] != after[0]).any(-1).double().mean() > 0.9 and torch.allclose(before[1:], after[1:], atol=1e-6)


# what they are told


def test_a_transformer_reads_no_time_and_a_u_net_does():
    for build, space, reads in ((transformer, Text(20, 0, "abc"), False), (unet, Tokens((1, 8, 8), 0), True)):
        net, x_t = build(space), tokens(space)
        assert torch.equal(net(x_t, noise(), {}), net(x_t, noise().flip(0), {})) != reads


def test_classes_matter(made):
    """Each has an answer of its own, and so has the null class -1; without a table none is read."""
    build, space = made
    net, x_t = build(space, classes=3), tokens(space, 1).expand(4, -1)
    with torch.no_grad():
        answers = net(x_t, torch.full((4,), 500.0), {"label": torch.tensor([-1, 0, 1, 2])})
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(answers[i], answers[j], atol=1e-4)
    assert build(space).state_dict().keys() < net.state_dict().keys()


def test_positions_matter():
    """A transformer without them could not tell one [MASK] from another."""
    net = transformer(Text(20, 0, "abc"))
    logits = net(torch.full((1, 20), 3), noise(1), {})[0]
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_turned_queries_and_keys_know_their_distance_alone():
    """Su et al. 2021, Eq. 16: products are as far from the diagonal everywhere, lengths stay; no two distances are alike."""
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    turn = rotary(32, 16).double()
    turned = [rotate(x.expand(1, 1, 32, 16), turn)[0, 0] for x in (q, k)]
    scores = turned[0] @ turned[1].T
    for distance in range(-31, 32):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert torch.allclose(turned[0].norm(dim=1), q.norm().expand(32), rtol=1e-6)
    assert torch.allclose(scores[0, 0], (q * k).sum(), rtol=1e-6)
    assert scores[0].unique().numel() == 32


# weights


def test_copies_and_stored_weights_answer_alike(made):
    """As an average and a resume need; an average of decay 0 is the network itself."""
    build, space = made
    net, x_t = build(space, classes=3), tokens(space)
    cond = {"label": torch.tensor([0, 2, -1])}
    want = net(x_t, noise(), cond)
    later = build(space, classes=3)
    for p in later.parameters():
        nn.init.normal_(p)
    ema = EMA(later, 0.0)
    later.load_state_dict(net.state_dict())
    ema.update(later, 1)
    for twin in (copy.deepcopy(net), later, ema.model):
        assert torch.equal(twin(x_t, noise(), cond), want)
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_dropout_is_of_training_alone():
    space = Text(20, 0, "abc")
    net, x_t = transformer(space, dropout=0.5), tokens(space)
    assert torch.equal(net(x_t, noise(), {}), net(x_t, noise(), {}))
    net.train()
    assert not torch.equal(net(x_t, noise(), {}), net(x_t, noise(), {}))


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UsageError, match="sequences; use --model mask-transformer"):
        UNetOptions().fit((256,))
    with pytest.raises(UsageError, match="--width 102 is no multiple of twice --heads 6"):
        MaskTransformerOptions(width=102)
