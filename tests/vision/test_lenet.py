"""The shipped classifiers: pinned, as good as is said, and loaded without trust in their files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from diffcli.core.space import Pixels
from diffcli.engine.assemble import Facts
from diffcli.errors import PluginError, UsageError
from diffcli.registry import registry
from diffcli_vision import lenet, teach
from diffcli_vision.lenet import JUDGES, LARGEST, Extractor, LeNet, shipped

FOLDER = Path(lenet.__file__).parent / "judges"


def opened(name: str, split: str = "test", **options: object):
    spec = registry().get("dataset", name)
    return spec.load()(spec.config(**options), split)


def pictures(data, n: int | None = None):
    """Pictures in [-1, 1] and labels."""
    items = torch.arange(n or len(data))
    batch = data.batch(items, items, Pixels(data.shape, data.classes))
    return batch.x, batch.label


def accuracy(name: str, data) -> float:
    x, label = pictures(data)
    return float((Extractor(None, Facts.of(data)).classify(x) == label).double().mean())


@pytest.mark.parametrize("name", JUDGES)
def test_each_is_small_pinned_and_finite(name):
    assert (FOLDER / f"{name}.safetensors").stat().st_size < LARGEST
    net = shipped(name)
    assert all(bool(t.isfinite().all()) for t in net.state_dict().values())
    x = torch.zeros(2, *JUDGES[name].shape)
    assert net.features(x).shape == (2, JUDGES[name].widths[-1]) and net(x).shape == (2, 10)


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_each_reaches_what_is_said_of_it(name):
    """Within one image of 359, and two of 2,000: other machines round otherwise."""
    assert 100 * accuracy(name, opened(name)) == pytest.approx(JUDGES[name].accuracy, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_each_large_one_reaches_what_is_said_of_it(name):
    from diffcli.errors import DiffcliError

    try:
        data = opened(name)
    except DiffcliError as error:
        pytest.skip(f"{name} is not on this machine: {error}")
    assert 100 * accuracy(name, data) == pytest.approx(JUDGES[name].accuracy, abs=0.1)


def test_targets_are_met():
    assert JUDGES["digits"].accuracy >= 98 and JUDGES["mnist"].accuracy >= 99.3 and JUDGES["shapes"].accuracy >= 99


def test_enlarged_pictures_are_made_small_again():
    """digits at 16x16 is between the pixels of 8x8: the judge still knows it; so does it in colours, of grey or of luma."""
    data = opened("digits", size=16)
    extractor = Extractor(None, Facts.of(data))
    assert extractor.resizer == "bilinear antialiased 16x16 to 8x8"
    assert accuracy("digits", data) > 0.95
    x, _ = pictures(data)
    colours = Extractor(None, Facts("digits", "", (3, 16, 16), 10, tuple("0123456789")))
    assert colours.resizer.endswith(", grey")
    assert torch.allclose(colours.features(x.expand(-1, 3, -1, -1)), extractor.features(x), atol=1e-4)


def test_grey_pictures_of_a_colour_set_are_taken_as_colours():
    grey = Extractor(None, Facts("shapes", "", (1, 16, 16), 10, tuple("0123456789")))
    x = torch.rand(3, 1, 16, 16) * 2 - 1
    assert grey.resizer.endswith(", grey as RGB")
    colour = Extractor(None, Facts.of(opened("shapes")))
    assert torch.equal(grey.features(x), colour.features(x.expand(-1, 3, -1, -1)))


def test_each_picture_is_seen_alone():
    """Features of a batch are those of its pictures, up to the rounding of float32 in another order."""
    extractor = Extractor(None, Facts.of(opened("digits")))
    x, _ = pictures(opened("digits"), 7)
    singles = torch.cat([extractor.features(row[None]) for row in x])
    assert torch.allclose(extractor.features(x), singles, rtol=1e-4, atol=1e-5)


def test_a_set_is_known_by_its_name_through_views():
    from diffcli_vision.wrappers import Binarized

    assert Extractor(None, Facts.of(Binarized(opened("digits"), "threshold"))).sha256 == JUDGES["digits"].sha256
    with pytest.raises(UsageError, match="these data are fashion-mnist; use --extractor pixels"):
        Extractor(None, Facts("fashion-mnist", "", (1, 28, 28), 10, tuple("0123456789")))


# loading


@pytest.fixture
def judges(tmp_path, monkeypatch) -> Path:
    """The shipped files in a folder of their own."""
    (tmp_path / "judges").mkdir()
    shutil.copy(FOLDER / "digits.safetensors", tmp_path / "judges")
    monkeypatch.setattr(lenet, "__file__", str(tmp_path / "lenet.py"))
    return tmp_path / "judges" / "digits.safetensors"


def test_a_changed_file_is_refused(judges):
    data = bytearray(judges.read_bytes())
    data[-5] ^= 1
    judges.write_bytes(data)
    with pytest.raises(PluginError, match="is not the judge that was shipped: its SHA-256 differs; reinstall diffcli"):
        shipped("digits")


def test_a_missing_file_a_link_and_a_large_one_are_refused(judges):
    other = judges.rename(judges.with_name("other"))
    with pytest.raises(PluginError, match="is missing; reinstall"):
        shipped("digits")
    judges.symlink_to(other)
    with pytest.raises(PluginError, match="is a link"):
        shipped("digits")
    judges.unlink()
    judges.write_bytes(bytes(LARGEST + 1))
    with pytest.raises(PluginError, match="at most"):
        shipped("digits")


def test_another_network_is_refused(judges, monkeypatch):
    monkeypatch.setitem(JUDGES, "digits", JUDGES["digits"]._replace(widths=(32, 32)))
    with pytest.raises(PluginError, match=r"the judge of digits cannot be used: .*shape"):
        shipped("digits")


# training


def test_folding_changes_nothing():
    """The norm in the weights: the same function to the rounding of float32."""
    torch.manual_seed(0)
    net = LeNet(3, (8, 12), teach.norm)
    for _ in range(3):
        net(torch.randn(16, 3, 16, 16) * 2 + 1)
    for stage in net.stages:
        torch.nn.init.normal_(stage.norm_a.bias)
        torch.nn.init.zeros_(stage.a.bias)
        torch.nn.init.zeros_(stage.b.bias)
    x = torch.randn(5, 3, 16, 16)
    want = net.eval()(x)
    assert torch.allclose(teach.folded(net, (8, 12))(x), want, rtol=1e-4, atol=1e-5)


def test_whitened_patches_are_white():
    """The covariance of what the first half of the filters sees is the identity, but for the 5e-4 that keeps it bounded."""
    x = torch.rand(200, 1, 12, 12, generator=torch.Generator().manual_seed(0)).cumsum(-1) - 1
    seen = F.conv2d(x, teach.whitening(x)[:4]).transpose(0, 1).flatten(1).double()
    assert torch.allclose(seen @ seen.T / seen.shape[1], torch.eye(4, dtype=torch.float64), atol=0.05)
    assert torch.equal(teach.whitening(x)[4:], -teach.whitening(x)[:4])


def test_training_is_a_function_of_the_seed(monkeypatch, tmp_path):
    monkeypatch.setitem(teach.LESSONS, "digits", teach.Lesson(1, 0.2, 1))
    hashes = [teach.written(teach.train("digits", seed, say=lambda line: None), tmp_path / "x") for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert accuracy_of(tmp_path / "x") > 0.5, "one pass teaches something"


def accuracy_of(path: Path) -> float:
    return teach.accuracy("digits", path) / 100


def test_the_command_says_how_it_is_used(capsys):
    for words in ([], ["train"], ["train", "nothing"], ["train", "digits", "x"], ["train", "digits", "1", "a", "b"]):
        assert teach.main(words) == 2
        assert "usage: python -m diffcli_vision.lenet train digits|mnist|shapes|cifar10" in capsys.readouterr().err
