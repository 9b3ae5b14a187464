"""Measures of samples and models: pure functions of tensors, and the features that distances are measured in."""

from __future__ import annotations

from collections.abc import Iterable

from diffcli.plugin import Spec, hookimpl

# What `eval` measures and draws of any method; a method's own are called otherwise.
MEASURES = (
    "loss",
    "fd",
    "kd",
    "prdc",
    "accuracy",
    "agreement",
    "memorization",
    "nll",
    "psnr",
    "ssim",
    "probe",
    "finetune",
)
PLOTS = {
    "neighbors": "diffcli.engine.plots.neighbors:neighbors",
    "guidance": "diffcli.engine.plots.guidance:guidance",
    "embedding": "diffcli.engine.plots.embedding:embedding",
    "latents": "diffcli.engine.plots.scatter:latents",
    "strips": "diffcli.engine.plots.strips:strips",
    "condition": "diffcli.engine.plots.condition:condition",
    "reconstructions": "diffcli.engine.plots.reconstructions:reconstructions",
}  # each imported when it is drawn


@hookimpl
def diffcli_extractors() -> Iterable[Spec]:
    yield Spec(
        name="pixels",
        target="diffcli.metrics.features:Pixels",
        summary="The pixels themselves; pictures above 32 pixels a side are shrunk to 32.",
    )
