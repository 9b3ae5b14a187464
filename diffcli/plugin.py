"""What the author of a plugin imports: Spec, Use, opt and the hooks. Nothing here, or at the top of a plugin, imports torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pluggy

from diffcli.errors import PluginError, show

Kind = Literal["method", "model", "schedule", "sampler", "dataset", "extractor", "logger"]
Family = Literal["gaussian", "masked", "variational"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PARTS: tuple[Kind, ...] = KINDS[1:5]  # what a method is put together from; the others only look at what it made
API_VERSION = 1  # a plugin may state the version it was written for as DIFFCLI_API = 1

hookspec = pluggy.HookspecMarker("diffcli")
hookimpl = pluggy.HookimplMarker("diffcli")


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The config of a component that takes none."""


def opt(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    pattern: str | None = None,
    like: str | None = None,
) -> Any:
    """A field of a config: its default, its help line, and what values it takes.

    min, max: inclusive bounds of a number, or of each number of a tuple; pattern: a regular expression that a text
    must match whole; like: examples that match it, which tell more than it does. The annotation says the type: bool, int, float, str, Path, Literal[...], tuple[int, ...],
    tuple[float, ...], or one of these | None.
    """
    return field(default=default, metadata={"help": help, "min": min, "max": max, "pattern": pattern, "like": like})


@dataclass(frozen=True, kw_only=True)
class Use:
    """A default part of a method, with the method's own defaults for the options of that part.

    The options hold for this part alone: they are dropped when another part of the kind is chosen.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A named component: its typed options now, its implementation, an import string, when it is first used.

    target, called by the engine: dataset(config, split), sampler(config), schedule(config, space),
    model(config, space, *, inputs, outputs, classes=0), method(config, space, *, model, process) with `model` a factory
    model(inputs=..., outputs=...); a network of tokens reads both off the space: model(config, space, *, classes=0).
    extractor(config, facts) with facts: engine.assemble.Facts of the data; it gives a metrics.features.Extractor;
    logger(config), which gives an engine.loggers.Logger.
    config: a frozen dataclass of opt() fields; if it has `fit(shape) -> config`, the engine calls it with the layout of
    the space, (C, H, W) or (L,), and the recipe of the run records the result.
    family: the processes it belongs to, or variational: autoencoders, which have none; None fits any.
    uses: for methods, the kinds of part they need, each with its default, over which config.uses() goes, if the config has
    it; for data sets, the parts that go better with them than a method's defaults, where the method uses that kind and the
    part fits.
    network: for models and methods, the interface between them: "" is the call net(c_in x_t, c_noise, cond) -> F of any
    denoiser; a network of another interface names it, and serves the methods that name the same.
    train: for methods, their own defaults of the shared [train] options, over which config.train() goes, if the config has
    it; for data sets, defaults over both.
    sample, eval: for methods, dataclasses like `config`: subclasses of SampleOptions and EvalOptions with other
    defaults or more options; None is the shared one.
    metrics: for methods, measures of their own: name -> import string of metric(bench) -> records, see engine.evaluate.Bench.
    plots: for methods, pictures of their own: name -> import string of plot(bench) -> PIL image or engine.plots.Drawn;
    `eval --plot NAME`, and those that Method.preview() names are drawn during training.
    autoencoder: for methods that live in latents, the method that is trained first, on the same data and with its own
    defaults, where no --autoencoder is given; "" is none.
    card: for methods whose authors published weights, an import string of what reads such a folder, see engine.foreign;
    "" is none.
    reaches_zero: for schedules, True where alpha(1) = 0: eps-prediction has no x_0 there.
    tools: for data sets, import strings of what `diffcli data` does with their files: check(config, split, tick) ->
    (files, lines about bad ones), which decodes all of them; pack(config, out, size, bytes, tick) makes shards of a folder.
    """

    name: str
    target: str
    summary: str
    config: type = NoOptions
    family: Family | None = None
    uses: Mapping[Kind, Use] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    sample: type | None = None
    eval: type | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    plots: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    autoencoder: str = ""
    card: str = ""
    reaches_zero: bool = False
    tools: Mapping[str, str] = field(default_factory=dict)
    paper: str = ""

    def load(self) -> Any:
        """The object that `target` names."""
        return load(self.target)


def load(target: str) -> Any:
    """The object at an import string "package.module:attribute"; only ever one that an installed plugin declared.

    Raises PluginError where it is not there.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"{target} cannot be loaded: {show(error)}; update or reinstall the plugin that names it"
        ) from error


class Hooks:
    """The hooks a plugin may implement: one for each kind of component, each returning specs."""

    @hookspec
    def diffcli_methods(self) -> Iterable[Spec]:  # type: ignore[empty-body]
        """Methods: one paper each, a loss and what it trains."""

    @hookspec
    def diffcli_models(self) -> Iterable[Spec]:  # type: ignore[empty-body]
        """Networks."""

    @hookspec
    def diffcli_schedules(self) -> Iterable[Spec]:  # type: ignore[empty-body]
        """Forward processes."""

    @hookspec
    def diffcli_samplers(self) -> Iterable[Spec]:  # type: ignore[empty-body]
        """Solvers of the reverse process."""

    @hookspec
    def diffcli_datasets(self) -> Iterable[Spec]:  # type: ignore[empty-body]
        """Data sets."""

    @hookspec
    def diffcli_extractors(self) -> Iterable[Spec]:  # type: ignore[empty-body]
        """Feature extractors, in whose features distances between sets of images are measured."""

    @hookspec
    def diffcli_loggers(self) -> Iterable[Spec]:  # type: ignore[empty-body]
        """Loggers: where the numbers and pictures of a training go beside its own metrics.jsonl and metrics.csv."""
