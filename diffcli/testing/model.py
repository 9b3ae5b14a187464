"""The laws of a network: the outputs asked for, a gradient to each weight, and rows that know nothing of each other."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from diffcli.core.space import Masked, Pixels, Space, Text, Tokens
from diffcli.errors import UsageError, show
from diffcli.testing.network import awake, few, silent
from diffcli.testing.suite import Suite, apart, drawn, need

SHAPES = ((1, 8, 8), (3, 16, 16), (1, 7, 9), (2, 5, 5))  # of images, two of them odd
CLASSES, ROWS = 5, 3
INPUTS, OUTPUTS = 2, 3  # channels that a method asks for


def spaces(family: str | None) -> list[Space]:
    """Where a network may live: images of even and odd sizes; for tokens two and more values, and a text."""
    if family != "masked":
        return [Pixels(shape, CLASSES) for shape in SHAPES]
    images = [Tokens(shape, CLASSES, vocab) for shape, vocab in (((1, 8, 8), 2), ((1, 6, 6), 5), ((1, 7, 5), 2))]
    return [*images, Text(12, CLASSES, "abcdefg")]


class Case(NamedTuple):
    """A network and where it lives; classes: 0 where it is told of none."""

    space: Space
    net: nn.Module
    classes: int

    def asked(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(x, c_noise, cond) of a few rows."""
        generator, shape = torch.Generator().manual_seed(0), self.space.shape
        if isinstance(self.space, Masked):
            x = torch.randint(self.space.vocab + 1, (ROWS, *shape), generator=generator)
        else:
            x = torch.randn(ROWS, INPUTS, *shape[1:], generator=generator)
        return x, torch.tensor([20.0, 500.0, 999.0]), {"label": torch.tensor([3, -1, 0])} if self.classes else {}

    def answer(self, net: nn.Module | None = None) -> Tensor:
        """What it, or another, says of them; x is a copy."""
        x, c_noise, cond = self.asked()
        found: Tensor = (net or self.net)(x, c_noise, cond)
        return found

    def __str__(self) -> str:
        return f"for {tuple(self.space.shape)}" + (f" and {self.classes} classes" if self.classes else "")


class Coded(nn.Module):
    """An autoencoder as a network of its images: what the mean of q(z | x) decodes to."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, c_noise: Tensor, cond: dict[str, Tensor]) -> Tensor:
        net: Any = self.net
        found: Tensor = net.decode(net.posterior(x)[0])
        return found


class ModelSuite(Suite):
    """The laws of a network: net(x, c_noise (B,), cond) -> F, or logits (B, L, V) of a masked family's.

    One of the variational family has posterior(x) -> (mean, logvar) and decode(z) -> x in place of a call; one with an
    interface of its own is seen by the laws of the method that has the same.
    """

    kind: ClassVar[str] = "model"

    @classmethod
    def make(cls) -> list[Case]:
        """The network for each space that it says it fits, without and with classes."""
        found, refused = [], None
        for space in spaces(cls.spec().family):
            for classes in (0, CLASSES):
                try:
                    found.append(Case(space, cls.build(space, classes), classes))
                except UsageError as error:
                    refused = error
        if not found:
            raise AssertionError(f"it fits no space that was tried; of the last it says: {show(refused)}") from refused
        return found

    @classmethod
    def build(cls, space: Space, classes: int, seed: int = 0) -> nn.Module:
        """A new one, as a method asks for it. UsageError where it does not fit."""
        config = cls.config()
        config = config.fit(space.layout) if hasattr(config, "fit") else config
        asked = {} if isinstance(space, Masked) else {"inputs": INPUTS, "outputs": OUTPUTS}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net: nn.Module = cls.spec().load()(config, space, **asked, classes=classes)
        return (Coded(net) if cls.spec().family == "variational" else net).eval()

    @property
    def called(self) -> list[Case]:
        """The networks whose answer is known how to ask for."""
        if own := self.spec().network:
            self.skip(f"its interface is that of {own}, whose laws see it")
        made: list[Case] = self.made
        return made

    def test_it_is_a_module(self) -> None:
        """It is an nn.Module that trains something."""
        for case in self.made:
            need(isinstance(case.net, nn.Module), f"it is a {type(case.net).__name__}")
            need(any(p.requires_grad for p in case.net.parameters()), f"{case} it has no parameters")

    @torch.no_grad()
    def test_the_output_is_as_asked(self) -> None:
        """The output is (B, outputs, H, W), or (B, L, V) of tokens, in float32, for every size that it says it fits."""
        for case in self.called:
            x, c_noise, cond = case.asked()
            size = tuple(case.space.shape)
            shape = (ROWS, *size, case.space.vocab) if isinstance(case.space, Masked) else (ROWS, OUTPUTS, *size[1:])
            f = case.net(x, c_noise, cond)
            found = f"{case} of x {tuple(x.shape)} it is {tuple(f.shape)} {f.dtype}"
            need(f.shape == shape and f.dtype == torch.float32, f"{found}, not {shape} torch.float32")
            need(torch.isfinite(f).all(), f"{found} and not finite")

    def test_every_parameter_gets_a_gradient(self) -> None:
        """Every trainable parameter gets a gradient."""
        for case in self.called:
            net = awake(case.net)
            net.zero_grad()
            f = case.answer(net)
            (f * torch.randn(f.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
            without, total = silent(net.named_parameters()), sum(1 for _ in net.parameters())
            need(not without, f"{case} {len(without)} of {total} have none: {few(without)}")

    @torch.no_grad()
    def test_rows_are_independent(self) -> None:
        """A row of the output is the same in any batch."""
        for case in self.called:
            x, c_noise, cond = case.asked()
            net = awake(case.net)
            rows = [slice(k, k + 1) for k in range(ROWS)]
            alone = torch.cat([net(x[k].clone(), c_noise[k], {name: v[k] for name, v in cond.items()}) for k in rows])
            off = apart(case.answer(net), alone)
            need(off < 1e-4, f"{case} a row alone is {off:.2g} of the largest number away from what it is in a batch")

    @torch.no_grad()
    def test_evaluation_is_a_function(self) -> None:
        """In evaluation it gives the same twice, draws nothing, and leaves its inputs as they were."""
        for case in self.called:
            x, c_noise, cond = case.asked()
            kept = x.clone()
            first, moved = drawn(partial(case.net, x, c_noise, cond))
            need(not moved, f"{case} it draws from the global stream of {', '.join(moved)} in evaluation")
            need(torch.equal(x, kept), f"{case} x is another afterwards; do not work in place on it")
            need(torch.equal(first, case.answer()), f"{case} it gives something else the second time")

    @torch.no_grad()
    def test_the_label_is_heard(self) -> None:
        """With classes, the output depends on the label."""
        for case in self.called:
            if case.classes:
                x, c_noise, cond = case.asked()
                net, other = awake(case.net), torch.full_like(cond["label"], 2)
                heard = not torch.equal(case.answer(net), net(x, c_noise, {"label": other}))
                need(heard, f"{case} another label gives the same output")

    @torch.no_grad()
    def test_its_state_is_whole(self) -> None:
        """A network with the state_dict of another is that other."""
        for case in self.called:
            other = self.build(case.space, case.classes, seed=1)
            other.load_state_dict(awake(case.net).state_dict())
            off = apart(case.answer(other), case.answer())
            need(off == 0, f"{case} they are {off:.2g} apart; keep all that was drawn in parameters and buffers")
