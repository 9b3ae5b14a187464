"""A model folder holds what was exported, tensor by tensor, or is refused by name; and the list of what it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffcli import recipe as recipes
from diffcli.engine.assemble import assemble
from diffcli.engine.export import export, parts
from diffcli.engine.inventory import inventory
from diffcli.engine.load import ENCODER, Model, load
from diffcli.engine.model_folder import write_model
from diffcli.engine.rundir import find
from diffcli.errors import RunError, UsageError
from diffcli.registry import registry
from model_folders import folder, model

NAME = "network.decoder.1.weight"


@pytest.fixture
def small(tmp_path) -> Path:
    return folder(tmp_path / "model")


def edit(path: Path, change) -> None:
    """The tensors of a folder, changed, under the same config.json."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def flip(path: Path) -> None:
    """One bit of the last byte of NAME."""
    data = bytearray((path / "model.safetensors").read_bytes())
    size = int.from_bytes(data[:8], "little")
    data[8 + size + json.loads(data[8 : 8 + size])[NAME]["data_offsets"][1] - 4] ^= (
        1  # of the mantissa: it stays finite
    )
    (path / "model.safetensors").write_bytes(data)


FAULTS = {
    "missing": (lambda path: edit(path, lambda t: t.pop(NAME)), NAME, "1 missing", "missing"),
    "extra": (lambda path: edit(path, lambda t: t.update(more=torch.ones(2))), "more", "1 left over", "left over"),
    "misshapen": (lambda path: edit(path, lambda t: t.update({NAME: t[NAME].mT.contiguous()[:1]})), NAME, "1 of another shape", "other shape"),
    "of another type": (lambda path: edit(path, lambda t: t.update({NAME: t[NAME].double()})), NAME, "1 of another type", "other type"),
    "bit-flipped": (flip, NAME, "1 changed", "changed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_is_not_as_it_was_exported_is_refused_by_name(small, cli, fault):
    """One line with its name, exit 4; doctor lists it, and all others as they are, and exits with 1."""
    load(small)
    spoil, name, why, verdict = FAULTS[fault]
    whole = len(load_file(small / "model.safetensors"))
    spoil(small)
    with pytest.raises(RunError, match=f"does not hold what was exported: {why} \\({name}") as error:
        load(small)
    assert "\n" not in str(error.value)
    ran = cli("sample", small)
    assert ran.code == 4 and name in ran.err and ran.err.splitlines()[-1].startswith("error: "), ran.err
    ran = cli("doctor", small, "--json")
    assert ran.code == 1 and f"the first, {name}, is {verdict}" in ran.err
    assert {line["tensor"]: line["verdict"] for line in ran.json["tensors"] if line["verdict"] != "ok"} == {
        name: verdict
    }
    counts = {key: ran.json[key] for key in ("missing", "left_over", "wrong")}
    assert counts == {
        "missing": verdict == "missing",
        "left_over": verdict == "left over",
        "wrong": verdict not in ("missing", "left over"),
    }
    assert len(ran.json["tensors"]) == whole + (verdict == "left over")


def test_the_list_is_of_all_tensors_with_shapes_and_counts(small, cli):
    ran = cli("doctor", small, "--json")
    network = model().method
    state = network.state_dict()
    assert ran.code == 0, ran.err
    assert [line["tensor"] for line in ran.json["tensors"]] == list(state)
    shapes = {name: f"{'x'.join(map(str, t.shape)) or 'scalar'} float32" for name, t in state.items()}
    assert all(line["in_file"] == line["in_model"] == shapes[line["tensor"]] for line in ran.json["tensors"])
    assert ran.json["parameters"] == sum(p.numel() for p in network.parameters())
    assert ran.json["numbers"] == ran.json["parameters"] + 2  # the scale and the bound of its latents
    assert (
        f"{len(state)} tensors: 0 missing, 0 left over, 0 otherwise wrong" in ran.out and ran.json["sha256"] in ran.err
    )


def test_runs_and_checkpoints_have_lists_too(trained, cli):
    run = next((trained / "runs" / "rf").iterdir())
    for place in (run, next((run / "checkpoints").iterdir())):
        ran = cli("doctor", place)
        assert ran.code == 0 and "0 missing, 0 left over" in ran.out, ran.err
    ran = cli("doctor", "no/such")
    assert ran.code == 4 and "does not exist" in ran.err


def test_a_config_that_says_something_else_than_was_exported_is_refused(small):
    """A number of the recipe is as dear as a number of a tensor; how the file is laid out means nothing."""
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config))
    load(small)
    for change in (
        {"facts": {**config["facts"], "classes": 7}},
        {"step": 3},
        {"recipe": {**config["recipe"], "sample": {}}},
    ):
        (small / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(RunError, match=r"config\.json does not say what was exported"):
            load(small)


def test_a_recipe_of_something_else_than_tables_is_refused(small):
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "recipe": {**config["recipe"], "foo": 1}}))
    with pytest.raises(RunError, match="holds something else than tables"):
        load(small)


def test_a_folder_of_before_the_hashes_is_read_and_its_hash_told(small, capsys):
    config = json.loads((small / "config.json").read_text())
    listed, _ = config.pop("tensors"), config.pop("seal")
    assert listed.keys() == load_file(small / "model.safetensors").keys()
    (small / "config.json").write_text(json.dumps(config))
    assert load(small).sha256 in (told := capsys.readouterr().err) and "does not say the hash of each" in told
    flip(small)
    load(small)  # nobody can know


@pytest.mark.parametrize("listed", [[], "x", {"a": 3}, {}])
def test_a_list_that_is_none_is_refused(small, listed):
    config = json.loads((small / "config.json").read_text())
    del config["seal"]
    (small / "config.json").write_text(json.dumps({**config, "tensors": listed}))
    with pytest.raises(RunError, match=r"list of its tensors|left over"):
        load(small)


@pytest.fixture
def card(monkeypatch, tmp_path) -> Path:
    """A folder that others published for vae, while vae has a card for such folders."""
    specs = registry().specs("method")
    monkeypatch.setitem(specs, "vae", replace(specs["vae"], card="foreign_card:card"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"kind": "small vae", "channels": 8}')
    tensors = {f"theirs.{name}": t for name, t in model().method.state_dict().items()}
    save_file(tensors, theirs / "published.safetensors")
    return theirs


def test_what_others_published_is_read_by_its_card(card, capsys, cli):
    """Under the names of the model; what was inferred, and the hash, are told. It is exported as any other."""
    found = load(card)
    told = capsys.readouterr().err
    assert "begin with theirs (inferred)" in told and found.sha256 in told
    wanted = model().method.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in found.method.state_dict().items())
    assert find(str(card)).method == "vae"
    ran = cli("doctor", card, "--json")
    assert ran.code == 0 and ran.json["tensors"][0]["in_file"].startswith(
        f"theirs.{ran.json['tensors'][0]['tensor']}: "
    )
    again = load(export(card, card.parent / "again"))
    assert all(torch.equal(t, wanted[name]) for name, t in again.method.state_dict().items())


def test_a_model_that_lives_in_what_others_published_is_exported_with_it(card, tmp_path):
    """The autoencoder in the new folder has our names and so another hash than theirs: it is the one that is told."""
    encoder = load(card)
    facts, cheap = encoder.facts, {"channels": 8, "multipliers": [1, 2]}
    tables = {
        "method": {"name": "rf", "cond": "none"},
        "model": {"name": "unet", **cheap},
        "train": {"autoencoder": str(card)},
    }
    made = assemble(recipes.resolve(tables), facts, encoder.method)
    latent = Model(made.recipe, made.method, made.space, facts, encoder.device, "rf", 1, "ema", "", encoder)
    folder = write_model(tmp_path / "latent", {"": parts(latent), ENCODER: parts(encoder)})
    again = load(folder).encoder
    assert again is not None and again.sha256 != encoder.sha256
    assert torch.equal(again.method.state_dict()[NAME], encoder.method.state_dict()[NAME])


def test_a_folder_of_another_kind_is_not_given_to_a_card(card):
    (card / "config.json").write_text('{"kind": "large vae", "channels": 8}')
    assert find(str(card)).method is None
    with pytest.raises(RunError, match="nothing usable of its recipe"):
        load(card)


def test_what_a_card_does_not_understand_is_refused(card, cli):
    (card / "config.json").write_text('{"kind": "small vae", "channels": 8, "more": 1}')
    with pytest.raises(UsageError, match="not known: more"):
        load(card)
    (card / "config.json").write_text('{"kind": "small vae", "channels": 8}')
    tensors = load_file(card / "published.safetensors")
    tensors["theirs.other"] = tensors.pop(f"theirs.{NAME}")
    save_file(tensors, card / "published.safetensors")
    with pytest.raises(RunError, match=f"1 missing \\({NAME}"):
        load(card)
    ran = cli("doctor", card)
    assert ran.code == 1 and f"note: 1 missing ({NAME})" in ran.out
    save_file(tensors, card / "second.safetensors")
    with pytest.raises(RunError, match="holds no run"):
        find(str(card))


def test_an_inventory_reads_the_weights_that_are_asked_for(trained):
    """The average, or the weights as trained: they have one shape and two hashes."""
    run = str(next((trained / "runs" / "rf").iterdir()))
    average, raw = inventory(run), inventory(run, raw=True)
    assert average.lines == raw.lines and average.count("ok") == len(average.lines)
