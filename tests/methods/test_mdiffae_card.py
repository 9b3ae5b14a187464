"""Model folders as they are published: config.json as a recipe, and tensors under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffcli import load
from diffcli.errors import RunError, UsageError
from diffcli.recipe import resolve
from diffcli_mdiffae.card import card
from masked_autoencoders import SHAPE, SKIP, bare, mdiffae, normal, rows

CONFIG: dict[str, Any] = {
    "patch_size": 4,
    "model_dim": 32,
    "encoder_depth": 2,
    "decoder_depth": 2,
    "bottleneck_dim": 8,
    "mlp_ratio": 2.0,
    "depthwise_kernel_size": 3,
    "adaln_low_rank_rank": 8,
    "in_channels": 3,
    "logsnr_min": -10.0,
    "logsnr_max": 10.0,
    "pixel_noise_std": 0.558,
    "pdg_mask_ratio": 0.75,
}
V1 = {"patch_size": 16, "model_dim": 896, "encoder_depth": 4, "decoder_depth": 4, "bottleneck_dim": 64, "mlp_ratio": 4}
V1 |= {"depthwise_kernel_size": 7, "adaln_low_rank_rank": 128}
PREFIX = "denoiser.net."


def stored(method: Any) -> dict[str, torch.Tensor]:
    """Its tensors as a file holds them, under our names."""
    return {name.removeprefix(PREFIX): tensor.detach().clone() for name, tensor in method.state_dict().items()}


def renamed(found: dict[str, torch.Tensor], **names: str) -> dict[str, torch.Tensor]:
    """The same tensors, parts of their names written otherwise."""

    def other(name: str) -> str:
        for ours, theirs in names.items():
            name = name.replace(ours.replace("__", "."), theirs)
        return name

    return {other(name): tensor for name, tensor in found.items()}


def same(made: dict[str, torch.Tensor], method: Any) -> bool:
    """Whether a state dict is that of a method, tensor by tensor."""
    wanted = method.state_dict()
    return made.keys() == wanted.keys() and all(torch.equal(made[name], wanted[name]) for name in wanted)


def test_a_published_config_is_a_recipe():
    assert card.recognizes(CONFIG) and not card.recognizes({"patch_size": 4, "recipe": {}})
    tables, facts = card.tables({**CONFIG, "sampler": "dpmpp_2m", "schedule": "linear", "num_steps": 4, "seed": 3})
    recipe = resolve(tables)
    model, schedule = recipe.parts["model"].config, recipe.parts["schedule"].config
    assert (model.p, model.d, model.z, model.hidden, model.k, model.rank) == (4, 32, 8, 64, 3, 8)
    assert (schedule.logsnr_min, schedule.logsnr_max, schedule.noise_std) == (-10, 10, 0.558)
    assert recipe.parts["sampler"].name == "dpmpp-2m" and recipe.sample.guidance_scale == 1
    assert (recipe.sample.steps, recipe.sample.spacing, recipe.sample.seed) == (4, "uniform", 3)
    assert facts["shape"] == [3, 64, 64] and facts["classes"] == 0
    tables, facts = card.tables(V1)
    assert facts["shape"] == [3, 256, 256]
    given = {key: value for key, value in tables["model"].items() if key != "name"}
    assert sum(p.numel() for p in bare(**given).parameters()) == 81_410_496
    v2 = card.tables({"topology": "skip", "bottleneck_dim": 96, "adaln_low_rank_rank": 128})[0]["model"]
    assert v2["decoder_depth"] == 8 and v2["width"] == 896


def test_guidance_of_a_config():
    for more, scale in (
        ({"pdg": "on"}, 1.05),
        ({"pdg": True, "pdg_strength": 1.02}, 1.02),
        ({"pdg_strength": 1.1}, 1.1),
        ({"pdg": "off", "pdg_strength": 1.1}, 1.0),
        ({"pdg": False}, 1.0),
    ):
        assert resolve(card.tables({**CONFIG, **more})[0]).sample.guidance_scale == scale


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"semantic_dim": 3}, "key semantic_dim of config.json is unknown to mdiffae"),
        ({"pdg_mask_ratio": 0.5}, "pdg_mask_ratio is 0.5 in config.json: 0.75 is what one token"),
        ({"model_dim": 32.5}, "model_dim is 32.5 in config.json: it is no whole number"),
        ({"model_dim": True}, "model_dim is True in config.json: it is no whole number"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio is nan"),
        ({"logsnr_min": "low"}, "logsnr_min is 'low' in config.json: it is no number"),
        ({"sampler": "euler"}, "sampler is 'euler' in config.json: known are ddim"),
        ({"sampler": ["ddim"]}, "sampler is"),
        ({"pdg": 2}, "pdg is 2 in config.json: known are on and off"),
    ],
)
def test_a_key_or_value_that_is_not_understood_is_named(more, why):
    with pytest.raises(UsageError, match=why):
        card.tables({**CONFIG, **more})


def test_a_file_under_our_names_needs_no_inference():
    method, theirs = mdiffae(), stored(mdiffae())
    assert len(theirs) == len(method.state_dict()) == 84
    made, lines = card.tensors(theirs, method)
    assert same(made, method) and len(lines) == 1 and "no published weights" in lines[0]
    assert all(any(tensor.data_ptr() == t.data_ptr() for t in theirs.values()) for tensor in made.values())


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"cca__conv": "cca", "gate_1": "gate_attn", "gate_2": "gate_mlp"}, "likely name"),
        ({"cca__conv": "squeeze"}, "shape"),
        ({"mlp__conv_in": "up", "mlp__conv_out": "lower", "mask_feature": "hidden"}, "shape"),
        ({"gate_1": "alpha", "gate_2": "beta"}, "order among 2 of one shape"),
    ],
)
def test_other_names_are_found_by_likely_names_shapes_and_order(names, told):
    method = mdiffae()
    theirs = renamed(stored(method), **names)
    assert theirs.keys() != stored(method).keys()
    made, lines = card.tensors(theirs, method)
    moved = len(theirs.keys() - stored(method).keys())
    assert same(made, method) and len(lines) == 1 + moved and all(f"by its {told}" in line for line in lines[1:])


def test_every_tensor_of_a_skip_is_read_once_and_gates_may_have_more_axes():
    method = mdiffae(options=SKIP)
    theirs = {
        n: t.view(1, -1, 1, 1) if ".gate_" in n else t for n, t in renamed(stored(method), cca__conv="se").items()
    }
    made, _ = card.tensors(theirs, method)
    assert same(made, method) and len(made) == len(theirs)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop("decoder.fuse_in.bias"), r"1 missing \(decoder.fuse_in.bias\)"),
        (lambda t: t.pop("encoder.blocks.1.gate_2"), r"1 missing \(encoder.blocks.1.gate_2\)"),
        (lambda t: t.update({"decoder.extra": torch.zeros(3)}), r"1 left over \(decoder.extra\)"),
        (
            lambda t: t.update({"decoder.out_proj.weight": torch.zeros(48, 31, 1, 1)}),
            r"1 of another shape \(decoder.out_proj.weight \(48, 31, 1, 1\), not \(48, 32, 1, 1\)\)",
        ),
        (
            lambda t: t.update({"encoder.norm_in.scale": t.pop("encoder.norm_in.weight")[:5]}),
            r"1 missing \(encoder.norm_in.weight\); 1 left over \(encoder.norm_in.scale\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, why):
    theirs = stored(mdiffae())
    change(theirs)
    with pytest.raises(RunError, match=why):
        card.tensors(theirs, mdiffae())


def test_all_140_tensors_of_the_published_file_have_a_place():
    """A file of the shapes that the published counts force, under inferred names, on the meta device."""

    class Method:
        def state_dict(self) -> dict[str, torch.Tensor]:
            return {PREFIX + name: tensor for name, tensor in bare().state_dict().items()}

    ours = {name.removeprefix(PREFIX): tensor for name, tensor in Method().state_dict().items()}
    theirs = renamed(ours, cca__conv="cca", gate_1="gate_attn", gate_2="gate_mlp", mlp__conv="conv")
    made, lines = card.tensors(theirs, Method())
    assert len(made) == 140 and len({id(t) for t in theirs.values()}) == 140 and len(lines) > 1


def test_a_published_folder_is_loaded_by_path(tmp_path, capsys):
    """Config and tensors as published: what is loaded reconstructs as the method they were taken from."""
    method, folder = mdiffae((3, 64, 64)), Path(tmp_path, "published")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    theirs = renamed(stored(method), cca__conv="cca", gate_1="gate_attn", gate_2="gate_mlp")
    save_file(theirs, folder / "model.safetensors")
    model, x = load(str(folder)), normal(1, *SHAPE).clamp(-1, 1)
    with torch.no_grad():
        assert torch.equal(model.encode(x), method.encode(x))
        wanted = method.decode(method.encode(x), rows(1))
    assert model.reconstruct(x).shape == wanted.shape
    told = capsys.readouterr().err
    assert "untested" in told or "no published weights" in told
