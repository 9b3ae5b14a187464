"""A sound plugin of every kind, for tests; each fault is a change of one line of this text or of sound_parts.py."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from diffcli import Spec, hookimpl, opt
from diffcli.plugin import Use


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    cond: Literal["none", "label"] = opt("none", "Condition: label learns classes.")
    weight: float = opt(1.0, "Factor of the loss.", min=0)


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    width: int = opt(8, "Features of the hidden layer.", min=1)


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="sound-flow",
        target="sound_parts:Flow",
        summary="A flow on small pictures.",
        config=FlowOptions,
        family="gaussian",
        uses={
            "model": Use(name="sound-net"),
            "schedule": Use(name="sound-line"),
            "dataset": Use(name="sound-data"),
            "sampler": Use(name="sound-solver"),
        },
        train={"steps": 100, "lr": 1e-2},
        metrics={"sound-mean": "sound_parts:mean"},
        plots={"sound-plain": "sound_parts:plain"},
    )
    yield Spec(
        name="sound-fill",
        target="sound_parts:Fill",
        summary="A table of tokens.",
        family="masked",
        uses={
            "model": Use(name="sound-table"),
            "schedule": Use(name="sound-mask"),
            "dataset": Use(name="sound-data"),
            "sampler": Use(name="sound-reveal"),
        },
        train={"steps": 100, "lr": 1e-2},
    )


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(name="sound-net", target="sound_parts:Net", summary="Two layers.", config=NetOptions, family="gaussian")
    yield Spec(name="sound-table", target="sound_parts:Logits", summary="A table of logits.", family="masked")


@hookimpl
def diffcli_schedules() -> Iterable[Spec]:
    yield Spec(name="sound-line", target="sound_parts:line", summary="A line.", family="gaussian", reaches_zero=True)
    yield Spec(name="sound-mask", target="sound_parts:mask", summary="Masked with t^2.", family="masked")


@hookimpl
def diffcli_samplers() -> Iterable[Spec]:
    yield Spec(name="sound-solver", target="sound_parts:solver", summary="Midpoint.", family="gaussian")
    yield Spec(name="sound-walk", target="sound_parts:walk", summary="Ancestral.", family="gaussian")
    yield Spec(name="sound-reveal", target="sound_parts:reveal", summary="Ancestral.", family="masked")


@hookimpl
def diffcli_datasets() -> Iterable[Spec]:
    yield Spec(name="sound-data", target="sound_parts:data", summary="Bright and dark pictures.")


@hookimpl
def diffcli_extractors() -> Iterable[Spec]:
    yield Spec(name="sound-eye", target="sound_parts:Eye", summary="Random features with fixed weights.")


@hookimpl
def diffcli_loggers() -> Iterable[Spec]:
    yield Spec(name="sound-log", target="sound_parts:Log", summary="Rows in a file of its own.")
