"""A fault of a schedule, sampler, network, data set, extractor or logger is found by the law that it breaks."""

from __future__ import annotations

import pytest

from faults import Fault

pytestmark = pytest.mark.slow  # a proof of many trials

LINE, MASK = "sound-line", "sound-mask"
SCHEDULES = {
    "not monotone": Fault(LINE, ("strictly falls", "time(sigma/alpha)", "0 <= beta~"), "of 1000 steps", more="Line.alpha = lambda self, t: 1 - t + 0.9 * torch.sin(20 * t) * t * (1 - t)"),
    "not clean at 0": Fault(LINE, ("alpha(0) = 1 and sigma(0) = 0", "ratio_min"), "sigma(0) 0.01; a floor above 0 must be declared", more="Line.sigma = lambda self, t: 0.01 + 0.99 * t"),
    "wrong derivative": Fault(LINE, ("derivative gives",), "alpha': at t =", more="Line.derivative = lambda self, t: (-2 * torch.ones_like(t), torch.ones_like(t))"),
    "wrong inverse": Fault(LINE, ("time(sigma/alpha)",), "at t = ", more="Line.time = lambda self, ratio: 0.5 * ratio / (1 + ratio)"),
    "says nothing of zero": Fault(LINE, ("Spec.reaches_zero",), "alpha(1) is 0, but its spec says reaches_zero=False", ", reaches_zero=True", ""),
    "another type": Fault(LINE, ("shape and dtype of t", "derivative"), "torch.float32", more="Line.alpha = lambda self, t: (1 - t.double()).float()"),
    "out of reach": Fault(LINE, ("ratio_min",), "ratio_max inf", more="Line.ratio_max = float('inf')"),
    "prior of another size": Fault(LINE, ("standard deviation",), "and sigma(1) is 1", more="Line.prior = lambda self, shape, rng: 0.5 * rng.normal('prior', shape)"),
    "prior of the global stream": Fault(LINE, ("its address alone",), "global stream of torch", more="Line.prior = lambda self, shape, rng: torch.randn(len(rng.index), *shape)"),
    "another family": Fault(LINE, ("Process of the family",), "its family is gaussian, but its spec says None", 'summary="A line.", family="gaussian", ', 'summary="A line.", '),
    "mask that does not end": Fault(MASK, ("alpha(0) = 1, alpha(1) = 0",), "alpha(1) is 0.1", more="Squared.rate = lambda self, t: 0.9 * t**2"),
    "mask that waits": Fault(MASK, ("alpha(0) = 1, alpha(1) = 0", "time(rate)", "slope gives", "stay and reveal"), "it does not fall", more="Squared.rate = lambda self, t: (2 * t - 1).clamp(min=0)\nSquared.time = lambda self, m: m"),
    "another mask": Fault(MASK, ("number of values", "mask hides"), "of 5 values [MASK] is 2, not 5", "Squared(space.vocab)", "Squared(2)"),
}  # fmt: skip
SCHEDULES |= {
    "not a number": Fault(LINE, ("finite and at least 0",), "alpha is nan at t = 0.5", more="Line.alpha = lambda self, t: torch.where(t == 0.5, torch.nan, 1 - t)"),
    "fails": Fault(LINE, ("made from its defaults",), "ZeroDivisionError: division by zero (at sound_parts.py", "    return Line()", "    return Line() / (1 / 0)"),
    "another diffusion": Fault(LINE, ("diffuse gives",), "it is off by", more="Line.diffuse = lambda self, x_0, eps, t: x_0 + eps"),
    "times beyond 1": Fault(LINE, ("quantile maps",), "it is 1.5e-12", more="Line.quantile = lambda self, u: 1.5 * u"),
}  # fmt: skip
SOLVER, WALK, REVEAL = "sound-solver", "sound-walk", "sound-reveal"
NOISE = 'rng.normal("step", x_t.shape[1:], x_t.dtype)'
SAMPLERS = {
    "order 1 that says 2": Fault(SOLVER, ("order it declares",), "it declares order 2, but ", "(v - u) * w_m", "(v - u) * w"),
    "wrong count of calls": Fault(SOLVER, ("nfe(steps)",), "nfe(1) is 1, but 2 calls were counted", "return 2 * steps", "return steps"),
    "writes into its input": Fault(SOLVER, ("a walk changes neither",), "x at t = 1 is another; do not work in place", "        return b * (y + (v - u) * w_m)", "        x_t.zero_()\n        return b * (y + (v - u) * w_m)"),
    "no order": Fault(SOLVER, ("declares an order",), "if it is no random walk, declare its order", 'family, order = "gaussian", 2', 'family = "gaussian"'),
    "global stream": Fault(WALK, ("draws from rng alone",), "draws from the global stream of torch; draw from rng", NOISE, "torch.randn_like(x_t)"),
    "one noise for all rows": Fault(WALK, ("(seed, number) alone", "the law of the data"), "away from what they are in a batch", NOISE, f"{NOISE}[:1]"),
    "a tenth too much noise": Fault(WALK, ("the law of the data",), "wider than the data", "torch.sqrt(small) * z", "1.1 * torch.sqrt(small) * z"),
    "a tenth too little noise": Fault(WALK, ("the law of the data",), "narrower than the data", "torch.sqrt(small) * z", "0.9 * torch.sqrt(small) * z"),
    "state in itself": Fault(WALK, ("a walk changes neither",), "thread the state through step", "        process, pair =", "        self.seen = True\n        process, pair ="),
    "noise at the end": Fault(WALK, ("are one image", "its own condition", "the law of the data"), "the step to s = 0 must give x_0", "torch.sqrt(small) * z", "(torch.sqrt(small) + 0.01) * z"),
    "a wider law": Fault(WALK, ("the law of the data",), "on vp the mean ", "torch.sqrt(small) * z", "torch.sqrt(2 * small) * z"),
    "not finite": Fault(WALK, ("finite",), "the end is not finite", "eps * pair.eps + ", "eps * pair.eps / process.alpha(t) * process.alpha(t) + "),
    "another type": Fault(WALK, ("keep shape and dtype",), "torch.float64 came of (8, 2) torch.float32", "x_t.dtype)", "torch.float64)"),
    "another's condition": Fault(REVEAL, ("its own condition",), "the condition of another", "denoiser(x_t, t, cond).log_probs", "denoiser(x_t, t, {k: v.flip(0) for k, v in cond.items()}).log_probs"),
    "changes what is given": Fault(REVEAL, ("tokens that are given stay", "its own condition", "two tokens"), "given tokens were changed", "reveal = masked & (", "x_t = torch.where(x_t == 0, 1, x_t)\n        reveal = masked & ("),
    "leaves masks": Fault(REVEAL, ("no [MASK] is left", "its own condition", "in one step"), "are [MASK] or no value at the end", "torch.where(reveal,", "torch.where(reveal & (s > 0),"),
    "all at once": Fault(REVEAL, ("two tokens",), "at most 0.1 is right", "stay, _ = denoiser.process.posterior(t, s)", "stay = 0"),
    "colder than the law": Fault(REVEAL, ("from its probabilities",), "of 0.2, 0.5, 0.3 the shares are", "categorical(denoiser(x_t, t, cond).log_probs", "categorical((2 * denoiser(x_t, t, cond).log_probs).log_softmax(-1)"),
}  # fmt: skip
SAMPLERS |= {
    "fails": Fault(SOLVER, ("made from its defaults",), "ZeroDivisionError", "    return Solver()", "    return Solver() / (1 / 0)"),
    "unknown spacing": Fault(SOLVER, ("with steps and a spacing",), "spacing odd is unknown", "    def nfe(self, steps):", "    spacing = 'odd'\n\n    def nfe(self, steps):"),
    "another family": Fault(REVEAL, ("of the family that its spec says",), "its family is gaussian, but its spec says masked", 'class Reveal(Sampler):\n    family = "masked"', 'class Reveal(Sampler):\n    family = "gaussian"'),
    "times of its own": Fault(WALK, ("yields each time of the grid",), "it tells 0, 0, 0, 0, 0, 0", more="Walk.trajectory = lambda self, *a, **k: ((s * 0, x) for s, x in Sampler.trajectory(self, *a, **k))"),
    "another step": Fault(WALK, ("plan has a point",), "apart after step 1 of 6", more="Walk.trajectory = lambda self, *a, **k: ((s, x + 0.01 * s) for s, x in Sampler.trajectory(self, *a, **k))"),
}  # fmt: skip
NET, FORWARD = "sound-net", "        h = self.first(torch.cat([x, level], 1))\n"
NETWORKS = {
    "mixes rows": Fault(NET, ("a row of the output",), "a row alone is", FORWARD, f"{FORWARD}        h = h - h.mean(0)\n"),
    "silent weight": Fault(NET, ("gets a gradient",), "for (1, 8, 8) 1 of 5 have none: extra", "        self.first =", "        self.extra = nn.Parameter(torch.ones(3))\n        self.first ="),
    "wrong outputs": Fault(NET, ("the output is",), "it is (3, 2, 8, 8) torch.float32, not (3, 3, 8, 8)", "config.width, outputs, 3", "config.width, inputs, 3"),
    "deaf to labels": Fault(NET, ("gets a gradient", "depends on the label"), "label", "        if self.label is not None:\n            h = h +", "        if False:\n            h = h +"),
    "random": Fault(NET, ("in evaluation it gives",), "global stream of torch in evaluation", FORWARD, f"{FORWARD}        h = F.dropout(h, 1e-9)\n"),
    "writes into x": Fault(NET, ("in evaluation it gives",), "do not work in place on it", FORWARD, f"        x.mul_(0.5)\n{FORWARD}"),
    "keeps a secret": Fault(NET, ("state_dict of another",), "keep all that was drawn in parameters and buffers", FORWARD, f"{FORWARD}        h = h + self.secret\n", more="made = Net.__init__\ndef secret(self, *a, **k):\n    made(self, *a, **k)\n    self.secret = torch.rand(())\nNet.__init__ = secret"),
}  # fmt: skip
NETWORKS |= {
    "fits nothing": Fault(NET, ("made from its defaults",), "it fits no space that was tried; of the last it says: too small", "        self.first =", "        from diffcli.errors import UsageError\n\n        raise UsageError('too small')\n        self.first ="),
    "nothing to train": Fault(NET, ("trains something", "gets a gradient"), "it has no parameters", '        return self.last(F.silu(h))', '        return self.last(F.silu(h))', "sound = Net.__init__\ndef frozen(self, *a, **k):\n    sound(self, *a, **k)\n    self.requires_grad_(False)\nNet.__init__ = frozen"),
}  # fmt: skip
DATA = "sound-data"
DATASETS = {
    "no names of classes": Fault(DATA, ("both splits open",), "data set sound-data lacks class_names; see docs/writing-a-plugin.md", 'classes, class_names = "sound-data", (1, SIDE, SIDE), 2, ("dark", "bright")', 'classes = "sound-data", (1, SIDE, SIDE), 2'),
    "no batches": Fault(DATA, ("both splits open",), "data set sound-data lacks to and batch;", "    def to(self, device):\n        return self\n", "", "del Data.batch"),
    "labels out of range": Fault(DATA, ("labels are",), "train: labels go from 1 to 2, of 2 classes", "self.labels[items])", "self.labels[items] + 1)"),
    "values out of range": Fault(DATA, ("in [-1, 1]",), "but must lie in [-1, 1]", "[:, None, None, None]) - 1", "[:, None, None, None]) * 1.5 - 1"),
    "values from 0": Fault(DATA, ("in [-1, 1]",), "scale [0, 1] to [-1, 1]", "[:, None, None, None]) - 1", "[:, None, None, None]) / 2"),
    "test is train": Fault(DATA, ("not in the training split",), "100 % of 32 test items are in the training split", '{"train": 0, "test": 1}[split]', "0"),
    "an item is missing": Fault(DATA, ("items() gives every item",), "an epoch holds 31 of 32 items", "return shuffled(seed, index, len(self))", "return shuffled(seed, index, len(self)).clamp(max=30)"),
    "one order for ever": Fault(DATA, ("items() gives every item",), "another seed is the same order", "return shuffled(seed, index, len(self))", "return index % len(self)"),
    "global stream": Fault(DATA, ("same in any batch",), "batch() draws from the global stream of torch", "space.encode(self.images[items])", "space.encode(self.images[items] * torch.rand(()))"),
    "loses index": Fault(DATA, ("same in any batch",), "index is not the one that was given", "Batch(index, ", "Batch(items, "),
    "names that do not fit": Fault(DATA, ("say what it holds",), "classes is 2, but 3 are named", '("dark", "bright")', '("dark", "bright", "grey")'),
    "no split": Fault(DATA, ("say what it holds",), "both splits call themselves", 'f"sound-data/{split}"', '"sound-data"'),
    "to gives nothing": Fault(DATA, ("to(device)",), "to() gave NoneType; return self", "        return self\n\n    def items", "        pass\n\n    def items"),
}  # fmt: skip
DATASETS |= {
    "fails": Fault(DATA, ("both splits open",), "KeyError", '"test": 1}', '"tests": 1}'),
}  # fmt: skip
EYE = "sound-eye"
EXTRACTORS = {
    "random weights": Fault(EYE, ("same features",), "fix its weights", "numbers = torch.Generator().manual_seed(0)", "numbers = None"),
    "random features": Fault(EYE, ("same features",), "draw from the global stream of torch", "@ self.weight", "@ self.weight + 1e-3 * torch.randn(self.size)"),
    "another size": Fault(EYE, ("finite numbers (n, size)",), "features are (12, 6) torch.float32, not (12, 5)", '"none", 6, 0', '"none", 5, 0', more="drawn = Eye.__init__\ndef six(self, config, facts):\n    self.weight = torch.ones(facts.shape[0], 6)\nEye.__init__ = six"),
    "mixes rows": Fault(EYE, ("of a picture are the same",), "of the largest apart", "x.mean((2, 3)) @", "(x - x.mean(0)).mean((2, 3)) @"),
    "another name": Fault(EYE, ("its name is that of its spec",), "its name is 'eye', but it is installed as sound-eye", '"sound-eye", "", "none"', '"eye", "", "none"'),
    "judge of too many": Fault(EYE, ("it tells the classes",), "it tells classes 0 to 99, of 10", '"none", 6, 0', '"none", 6, 10', more="Eye.classify = lambda self, x: torch.arange(len(x)) * 9"),
}  # fmt: skip
EXTRACTORS |= {
    "fits nothing": Fault(EYE, ("made from its defaults",), "it fits no data set that was tried; of the last it says: too small", "        numbers = torch", "        from diffcli.errors import UsageError\n\n        raise UsageError('too small')\n        numbers = torch"),
}  # fmt: skip
LOG, GOES_ON, STAYS = "sound-log", "takes the rest of the same run", "stays as it is"
LOGGERS = {
    "no pictures": Fault(LOG, ("made from its defaults",), "logger sound-log lacks picture; see docs", more="del Log.picture"),
    "another call": Fault(LOG, ("can be called so", "from its start to its end", GOES_ON, STAYS), "log(row, step) cannot be called with 1: missing a required argument: 'step'", "def log(self, row):", "def log(self, row, step):"),
    "writes when made": Fault(LOG, ("Making it writes nothing"[1:],), "it leaves sound.txt", "self.lines = []", "self.lines = __import__('pathlib').Path('sound.txt').write_text('')"),
    "one run alone": Fault(LOG, (GOES_ON,), "FileExistsError", '        self.write("start")', '        self.path.touch(exist_ok=False)'),
    "one column alone": Fault(LOG, ("from its start to its end", GOES_ON, STAYS), "KeyError: 'loss'", 'row["step"]', 'row["loss"]'),
    "takes rows apart": Fault(LOG, (STAYS,), "it changes the rows or the recipe that it is given", 'row["step"]', 'row.pop("step")'),
    "writes into the record": Fault(LOG, (STAYS,), "it changes metrics.jsonl of the run", '"sound.txt"', '"metrics.jsonl"'),
}  # fmt: skip
FAULTS = {
    f"{kind}: {name}": fault
    for kind, faults in (("schedule", SCHEDULES), ("sampler", SAMPLERS), ("model", NETWORKS), ("dataset", DATASETS), ("extractor", EXTRACTORS), ("logger", LOGGERS))
    for name, fault in faults.items()
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_part(install, fault):
    FAULTS[fault].hold(install)
