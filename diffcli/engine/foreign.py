"""Model folders that others published for a method: the method's card says what their config.json means.

Spec.card names an object with three functions, torch-free at import:
recognizes(config) -> bool: whether a config.json is of this kind;
tables(config) -> (tables, facts): the tables of a recipe, and the keys of engine.assemble.Facts as plain JSON; UsageError or
RunError names a key that is not understood;
tensors(found, method) -> (tensors, lines): from the tensors of the file, by name, the state dict of the built method, the
same objects or views of them, and lines that say what was inferred; RunError names what is missing, left over or misshapen.
"""

from __future__ import annotations

from typing import Any

from diffcli.errors import PluginError, show
from diffcli.plugin import load
from diffcli.registry import registry

FOREIGN = "foreign"  # in what a folder says of itself: the method whose card reads it


def described(config: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says of its model, as diffcli writes it: itself, or what a card makes of it.

    Unchanged where no installed method knows it: it then has no recipe, which whoever reads it will say.
    """
    if "recipe" in config:
        return {key: value for key, value in config.items() if key != FOREIGN}
    for name, spec in registry().specs("method").items():
        if not spec.card:
            continue
        card = load(spec.card)
        if card.recognizes(config):
            tables, facts = card.tables(config)
            return {"recipe": tables, "facts": facts, FOREIGN: name}
    return {key: value for key, value in config.items() if key != FOREIGN}


def translated(meta: dict[str, Any], found: dict[str, Any], method: Any) -> tuple[dict[str, Any], list[str]]:
    """The tensors of a folder under the names of the built method, and lines that say what was inferred for it."""
    name = meta.get(FOREIGN)
    if name is None:
        return found, []
    tensors, lines = load(registry().get("method", name).card).tensors(found, method)
    if not isinstance(tensors, dict):
        raise PluginError(f"the card of {show(name)} gives no table of tensors; mend the plugin")
    return tensors, lines
