"""The tensors of a run or a model folder, beside those of the model that its recipe builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from diffcli.engine.assemble import assemble
from diffcli.engine.checkpoint import Checkpoint
from diffcli.engine.foreign import translated
from diffcli.engine.load import opened, parse, within
from diffcli.engine.rundir import find
from diffcli.engine.weights import contents, name, unpack, whole
from diffcli.errors import RunError


class Line(NamedTuple):
    """A tensor: its name in the model, what the file holds of it and what the model does, "" where it has none."""

    tensor: str
    in_file: str
    in_model: str
    verdict: str


@dataclass(frozen=True)
class Inventory:
    """lines: one a tensor; parameters: numbers that are trained; numbers: all that the model stores, buffers too; notes:
    what was inferred, or why names could not be matched."""

    place: str
    sha256: str
    lines: list[Line]
    parameters: int
    numbers: int
    notes: list[str]

    def count(self, *verdicts: str) -> int:
        """How many tensors have one of these verdicts."""
        return sum(line.verdict in verdicts for line in self.lines)


def inventory(text: str, *, raw: bool = False, autoencoder: str | None = None) -> Inventory:
    """Of a RUN. raw: the trained weights, not their average. Raises RunError where there is nothing to look into."""
    found = find(text)
    stored, group = opened(found, raw)
    recipe, facts = parse(stored.meta, found.path)
    encoder = within(found, recipe, facts, stored.meta, autoencoder, "cpu")
    method = assemble(recipe, facts, encoder and encoder.method).method
    data = stored.read(group)
    there = unpack(data, str(found.path))
    mapped, notes = matched(stored, there, method)
    changed = unlike(stored, data)
    expected = {key: t for key, t in method.state_dict().items() if isinstance(t, Tensor)}
    names = {id(t): key for key, t in there.items()} | {t.data_ptr(): key for key, t in there.items() if t.numel()}
    lines, used = list[Line](), set[str]()
    for key, wanted in expected.items():
        t = mapped.get(key)
        source = None if t is None else names.get(id(t), names.get(t.data_ptr(), key))
        used |= {str(source)}
        lines.append(Line(key, described(t, source, key), described(wanted), verdict(t, wanted, source in changed)))
    left = [key for key in there if key not in used]
    lines += [Line(key, described(there[key]), "", "left over") for key in left]
    return Inventory(
        str(found.path), stored.sha256, lines, sum(p.numel() for p in method.parameters()),
        sum(t.numel() for t in expected.values()), notes,
    )  # fmt: skip


def matched(stored: Checkpoint, there: dict[str, Tensor], method: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the model's names, and notes; as they are named where a card cannot read them, and why."""
    try:
        return translated(stored.meta, there, method)
    except RunError as error:
        return there, [str(error)]


def unlike(stored: Checkpoint, data: bytes) -> set[str]:
    """The tensors of a model folder whose bytes are not those that were exported."""
    listed = stored.listed if isinstance(stored.listed, dict) else {}
    there = contents(data, str(stored.path)) if listed else {}
    return {key for key, about in there.items() if key in listed and about != listed[key]}


def described(t: Tensor | None, source: str | None = None, key: str | None = None) -> str:
    """`4x3 float32`, behind the name in the file where that is another."""
    if t is None:
        return ""
    plain = f"{'x'.join(map(str, t.shape)) or 'scalar'} {name(t.dtype)}"
    return plain if source == key else f"{source}: {plain}"


def verdict(t: Tensor | None, wanted: Tensor, changed: bool) -> str:
    """What is wrong with a tensor of the file, or ok."""
    if t is None:
        return "missing"
    if t.shape != wanted.shape:
        return "other shape"
    if t.dtype != wanted.dtype:
        return "other type"
    return "changed" if changed else "ok" if whole(t) else "not finite"
