"""Measures of samples and models: pure functions of tensors, and the features that distances are measured in."""

from __future__ import annotations

from collections.abc import Iterable

from diffcli.plugin import Spec, hookimpl

# What `eval` measures and draws of any method; a method's own are called otherwise.
MEASURES = ("loss", "fd", "kd", "prdc", "accuracy", "agreement", "memorization", "nll", "psnr", "ssim")
PLOTS = ("neighbors", "guidance", "embedding", "latents", "strips", "condition", "reconstructions")


@hookimpl
def diffcli_extractors() -> Iterable[Spec]:
    yield Spec(
        name="pixels",
        target="diffcli.metrics.features:Pixels",
        summary="The pixels themselves; pictures above 32 pixels a side are shrunk to 32.",
    )
