"""Which parts a method is put together from, and which go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffcli.errors import PluginError, UsageError, show
from diffcli.options import options, structure
from diffcli.plugin import Kind, Spec, Use
from diffcli.registry import registry

Tables = Mapping[str, Mapping[str, Any]]
LENGTHS = ("steps", "epochs", "budget")  # three ways to say one length of training


@dataclass(frozen=True)
class Part:
    """A chosen component and its options."""

    name: str
    config: Any


def named_part(values: Mapping[str, Any], kind: str, default: str) -> str:
    """The name of the part in its table."""
    name = values.get("name", default)
    if not isinstance(name, str):
        raise UsageError(f"[{kind}] name is {show(repr(name), 80)}, but takes a text")
    return name


def unnamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a part without its name."""
    return {key: value for key, value in values.items() if key != "name"}


def below(spec: Spec, tables: Tables) -> tuple[dict[Kind, Use], dict[str, Any]]:
    """(parts, [train]) where nothing is said: the method's own, and over them what its data set goes better with.

    A method's config may have `train() -> Mapping` and `uses() -> Mapping`: what its options change in the method's own
    [train] and parts.
    """
    uses, train = dict(spec.uses), dict(spec.train)
    if hasattr(spec.config, "train") or hasattr(spec.config, "uses"):
        config = structure(spec.config, unnamed(tables["method"]), "[method]")
        train = training(train, config.train()) if hasattr(config, "train") else train
        uses |= config.uses() if hasattr(config, "uses") else {}
    if "dataset" in uses:
        known, name = (
            registry().specs("dataset"),
            named_part(tables.get("dataset", {}), "dataset", uses["dataset"].name),
        )
        data = known.get(name)
        for kind, use in data.uses.items() if data else ():
            part = registry().specs(kind).get(use.name)
            if kind in uses and part is not None and fits(kind, part, spec):
                uses[kind] = use
        train = training(train, data.train) if data else train
    return uses, train


def sampling(parts: Mapping[Kind, Part], uses: Mapping[Kind, Use]) -> dict[str, Any]:
    """[sample] where nothing is said. A method's config may have `sample() -> Mapping`: what its options change there.

    Steps and spacing are dropped when another sampler is chosen: they belong to the method's own. A table with fewer
    entries than the method's own steps is walked whole.
    """
    config = parts["method"].config
    values = dict(config.sample()) if hasattr(config, "sample") else {}
    entries = getattr(parts["schedule"].config, "timesteps", None) if "schedule" in parts else None
    if entries and values.get("steps"):
        values["steps"] = min(values["steps"], entries)
    own = "sampler" in parts and parts["sampler"].name == uses["sampler"].name
    return {key: value for key, value in values.items() if own or key not in ("steps", "spacing")}


def training(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """[train] over its defaults; one length replaces another."""
    given = [name for name in LENGTHS if values.get(name) is not None]
    if len(given) > 1:
        raise UsageError(f"[train] {' and '.join(given)} are two ways to say one length; keep one")
    return {**{key: value for key, value in defaults.items() if not (given and key in LENGTHS)}, **values}


def choose(spec: Spec, kind: Kind, use: Use, values: Mapping[str, Any]) -> Part:
    """The part of a kind that a table asks for; the defaults of a use hold for its own part alone."""
    if "name" not in values and use.name not in registry().specs(kind):
        raise PluginError(f"{spec.name} needs {kind} {use.name}, which no working plugin brings; see diffcli plugins")
    part = registry().get(kind, named_part(values, kind, use.name))
    refuse_misfit(spec, kind, part)
    defaults = use.options if part.name == use.name else {}
    try:
        structure(part.config, defaults, f"[{kind}]")
    except UsageError as error:
        raise PluginError(f"the defaults of {spec.name} for {kind} {part.name} are wrong: {error}") from None
    return Part(part.name, structure(part.config, {**defaults, **unnamed(values)}, f"[{kind}]"))


def fitting(spec: Spec, kind: Kind) -> list[str]:
    """The parts of a kind that fit a method."""
    return [name for name, part in registry().specs(kind).items() if fits(kind, part, spec)]


def fits(kind: Kind, part: Spec, method: Spec) -> bool:
    """Whether a part can serve a method: of its family, and a network of its interface."""
    akin = part.family is None or method.family is None or part.family == method.family
    return akin and (kind != "model" or part.network == method.network)


def refuse_misfit(spec: Spec, kind: Kind, part: Spec) -> None:
    """Parts of two families do not go together, nor a network and a method of two interfaces."""
    if fits(kind, part, spec):
        return
    others = ", ".join(fitting(spec, kind)) or "none is installed"
    if part.family in (None, spec.family):
        made, wanted = (f"a network of {one}" if one else "a plain denoiser" for one in (part.network, spec.network))
        raise UsageError(f"{part.name} is {made}, but {spec.name} needs {wanted}; use one of: {others}")
    what = "samples {} processes" if kind == "sampler" else f"is a {{}} {kind}"
    raise UsageError(f"{part.name} {what.format(part.family)}, but {spec.name} is {spec.family}; use one of: {others}")


def readable(parts: Mapping[Kind, Part]) -> None:
    """Refuse eps-prediction on a schedule that reaches alpha = 0: noise says nothing of x_0 there."""
    method, schedule = parts["method"], parts.get("schedule")
    if (
        schedule
        and getattr(method.config, "prediction", None) == "eps"
        and registry().get("schedule", schedule.name).reaches_zero
    ):
        others = [str(choice) for choice in options(type(method.config))["prediction"].choices if choice != "eps"]
        raise UsageError(
            f"eps-prediction has no x_0 where alpha is 0 ({schedule.name} at t = 1); use --prediction {' or '.join(others)}"
        )
