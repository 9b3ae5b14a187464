"""Published model folders of mDiffAE: config.json as tables of a recipe, and tensors under our names.

Written from the model card and from the shapes that its counts force; untested with real weights, as `tensors` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from diffcli.errors import RunError, UsageError, show
from diffcli.options import table
from diffcli_mdiffae import LARGE, DiCoOptions

if TYPE_CHECKING:
    from torch import Tensor

UNTESTED = (
    "no published weights were at hand when this import was written: look at a reconstruction before you trust it"
)
MARKS = {"bottleneck_dim", "adaln_low_rank_rank"}  # no other model's config has both
TOKENS = 16  # a side of the images that the published models were trained on: 256 pixels
STRENGTH = 1.05  # of guidance where it is on
MASKED = 0.75  # share of tokens that the 2x2 groups hide

Read = Callable[[Any], Any]


def whole(value: Any) -> int:
    """A whole number, which may be written as 4.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError("it is no whole number")
    return int(value)


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it is no number")
    return float(value)


def switch(value: Any) -> bool:
    """On or off, in words or as a truth value."""
    if value not in ("on", "off", True, False) or type(value) not in (str, bool):
        raise ValueError("known are on and off")
    return value in ("on", True)


def ratio(value: Any) -> None:
    """The share of hidden tokens, which is fixed."""
    if number(value) != MASKED:
        raise ValueError(f"{MASKED:g} is what one token of each 2x2 group leaves, and no other share is known here")


def among(**names: str) -> Read:
    """One of some words, each by its name here."""

    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(f"known are {', '.join(names)}")
        return names[value]

    return read


# Each key of the card: where it belongs in a recipe, and how it is read.
KEYS: dict[str, tuple[str, str, Read]] = {
    "patch_size": ("model", "patch_size", whole),
    "model_dim": ("model", "width", whole),
    "encoder_depth": ("model", "encoder_depth", whole),
    "decoder_depth": ("model", "decoder_depth", whole),
    "bottleneck_dim": ("model", "latent_channels", whole),
    "mlp_ratio": ("model", "mlp_ratio", whole),
    "depthwise_kernel_size": ("model", "kernel", whole),
    "adaln_low_rank_rank": ("model", "adaln_rank", whole),
    "logsnr_min": ("schedule", "logsnr_min", number),
    "logsnr_max": ("schedule", "logsnr_max", number),
    "pixel_noise_std": ("schedule", "noise_std", number),
    "num_steps": ("sample", "steps", whole),
    "schedule": ("sample", "spacing", among(linear="uniform", cosine="cosine")),
    "sampler": ("sampler", "name", among(ddim="ddim", dpmpp_2m="dpmpp-2m", **{"dpmpp-2m": "dpmpp-2m"})),
    "seed": ("sample", "seed", whole),
    "in_channels": ("", "in_channels", whole),
    "pdg_mask_ratio": ("", "", ratio),
    "pdg": ("", "pdg", switch),
    "pdg_strength": ("", "pdg_strength", number),
    "topology": ("model", "topology", among(flat="flat", skip="skip")),
}


def recognizes(config: dict[str, Any]) -> bool:
    """Whether a config.json is of such a folder."""
    return config.keys() >= MARKS


def tables(config: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """(tables of a recipe, facts of the data) of a published config.json.

    UsageError names a key that is not understood, a value that is none, or a model that cannot be built.
    """
    made: dict[str, dict[str, Any]] = {"method": {"name": "mdiffae"}}
    loose: dict[str, Any] = {}
    for key, value in config.items():
        if key not in KEYS:
            raise UsageError(
                f"key {show(key, 80)} of config.json is unknown to mdiffae, so the model may be another; known are "
                f"{', '.join(KEYS)}"
            )
        section, name, read = KEYS[key]
        try:
            found = read(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"{key} is {show(repr(value), 80)} in config.json: {show(error)}") from None
        if section:
            made.setdefault(section, {})[name] = found
        elif name:
            loose[name] = found
    if loose.get("pdg", "pdg_strength" in loose):
        made.setdefault("sample", {})["guidance_scale"] = loose.get("pdg_strength", STRENGTH)
    channels = loose.get("in_channels", 3)
    given = made.get("model", {})
    published = DiCoOptions(topology=given.get("topology", "flat")).fit((3, LARGE, LARGE))  # of what is not said
    made["model"] = {"name": "dico-autoencoder", **table(published), **given}
    side = TOKENS * int(made["model"]["patch_size"])
    made["dataset"] = {"name": "folder", "size": side}
    facts = {"name": "unpublished", "split": "unpublished images", "shape": [channels, side, side]}
    return made, facts | {"classes": 0, "class_names": []}


PREFIX = "denoiser.net."  # of every tensor of the network, in the state dict of the method
OTHERS = {  # what the same thing may be called: ours, and other names, of the part of a name before weight or bias
    "cca.conv": ("cca", "ca", "channel_attention", "attn", "se", "cca.proj", "cca.conv1x1"),
    "mlp.conv_in": ("conv_in", "mlp_in", "conv4", "ffn.conv_in"),
    "mlp.conv_out": ("conv_out", "mlp_out", "conv5", "ffn.conv_out"),
    "gate_1": ("gate_attn", "gate_conv", "gate1"),
    "gate_2": ("gate_mlp", "gate_ffn", "gate2"),
}


def tensors(found: Mapping[str, Tensor], method: Any) -> tuple[dict[str, Tensor], list[str]]:
    """(the state dict of the built method, lines on what was inferred), of the same tensors.

    First by name; then, module by module, by a shape that only one is left of; then by order, which a line says. RunError
    names what is missing, left over or of another shape.
    """
    wanted = {name.removeprefix(PREFIX): tensor for name, tensor in method.state_dict().items()}
    made = {name: name for name in wanted if name in found}
    shapes = [f"{n} {tuple(found[n].shape)}, not {tuple(wanted[n].shape)}" for n in made if wrong(found[n], wanted[n])]
    lines = [UNTESTED]
    for module in dict.fromkeys(place(name) for name in wanted):
        missing = {n: wanted[n] for n in wanted if n not in made and place(n) == module}
        spare = {n: found[n] for n in found if n not in made.values() and place(n) == module}
        pairs = dict(matched(missing, spare))
        made |= {name: theirs for name, (theirs, _) in pairs.items()}
        lines += [f"{name} is read from {theirs}, by its {by}" for name, (theirs, by) in pairs.items()]
    faults = {
        "missing": [n for n in wanted if n not in made],
        "left over": [n for n in found if n not in made.values()],
        "of another shape": shapes,
    }
    if told := "; ".join(f"{len(names)} {fault} ({few(names)})" for fault, names in faults.items() if names):
        raise RunError(f"the tensors of this folder are not those of its config.json: {told}; ask for the folder again")
    return {PREFIX + name: found[theirs].view(wanted[name].shape) for name, theirs in made.items()}, lines


def place(name: str) -> str:
    """The module that a tensor belongs to: encoder.blocks.3, decoder.adaln_deltas.0, or the encoder or decoder itself."""
    parts = name.split(".")
    numbered = next((k for k, part in enumerate(parts) if part.isdecimal()), 0)
    return ".".join(parts[: numbered + 1])


def wrong(theirs: Tensor, ours: Tensor) -> bool:
    """Whether two tensors are of different shapes; a gate may be written as (D,), or as (1, D, 1, 1)."""
    return squeezed(theirs) != squeezed(ours)


def squeezed(tensor: Tensor) -> tuple[int, ...]:
    """The shape without what is 1."""
    return tuple(side for side in tensor.shape if side != 1)


def matched(missing: dict[str, Tensor], spare: dict[str, Tensor]) -> Iterator[tuple[str, tuple[str, str]]]:
    """(our name, (their name, how it was found)) of what is left in one module."""
    missing, spare = dict(missing), dict(spare)
    for name in list(missing):
        theirs = next((other for other in called(name) if other in spare), None)
        if theirs is not None and not wrong(spare[theirs], missing[name]):
            yield name, (theirs, "likely name")
            del missing[name], spare[theirs]
    kinds = dict.fromkeys(kind(name, tensor) for name, tensor in missing.items())
    for one in kinds:
        ours = [name for name, tensor in missing.items() if kind(name, tensor) == one]
        theirs_ = [name for name, tensor in spare.items() if kind(name, tensor) == one]
        if len(ours) == len(theirs_):
            by = "shape" if len(ours) == 1 else f"order among {len(ours)} of one shape"
            yield from ((name, (other, by)) for name, other in zip(ours, theirs_, strict=True))


def kind(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """What two tensors must share to be taken for each other: weight, bias or neither, and the shape."""
    last = name.rpartition(".")[2]
    return last if last in ("weight", "bias") else "", squeezed(tensor)


def called(name: str) -> Iterator[str]:
    """What a tensor of ours may be called by others."""
    module = place(name)
    inner = name.removeprefix(module + ".")
    for ours, others in OTHERS.items():
        if inner == ours or inner.startswith(ours + "."):
            yield from (f"{module}.{other}{inner[len(ours) :]}" for other in others)


def few(names: list[str], most: int = 3) -> str:
    """The first few names, and a mark where there are more."""
    return ", ".join(show(name, 80) for name in names[:most]) + (", ..." if len(names) > most else "")


card = SimpleNamespace(recognizes=recognizes, tables=tables, tensors=tensors)
