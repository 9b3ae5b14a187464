"""A fault of a method or of its denoiser is found by the law that it breaks, and by no other but what follows from it."""

from __future__ import annotations

import pytest

from faults import Fault

pytestmark = pytest.mark.slow  # a proof of many trials

FLOW, FILL = "sound-flow", "sound-fill"
PAIR = "self.denoiser = Preconditioned(net, process, straight)"
LOSS = '{"loss": self.weight * error.mean()}'
COUNT = "self.count = getattr(self, 'count', 0) + self.training\n        "
OFF = "class Off(Preconditioned):\n    def forward(self, x_t, t, cond):\n        pair = super().forward(x_t, t, cond)\n        return pair._replace(eps=0.99 * pair.eps)"
LEAKY = "from diffcli.core.masked import substitute\n\n\nclass Leaky(MaskedDenoiser):\n    def forward(self, x_t, t, cond):\n        found = super().forward(x_t, t, cond)\n        return found._replace(log_probs={})"
FAULTS = {
    "weight without gradient": Fault(FLOW, ("gets a gradient",), "2 of 6 have none: unused.weight, unused.bias", PAIR, f"{PAIR}\n        self.unused = nn.Linear(2, 2)"),
    "sum over the batch": Fault(FLOW, ("halves of a batch", "that of halves"), "it is a sum: divide by the rows", LOSS, LOSS.replace("error.mean()", "error.flatten(1).mean(1).sum()")),
    "global stream": Fault(FLOW, ("loss draws from rng alone",), "in training it draws from the global stream of torch; draw from rng", 'rng.normal("eps", batch.x.shape[1:])', "torch.randn_like(batch.x)"),
    "not resumable": Fault(FLOW, ("two steps, a checkpoint",), "keep no state but parameters and buffers", f"return {LOSS}", f"{COUNT}return {LOSS.replace('self.weight', '(1 + 1e-3 * self.count * self.training)')}"),
    "state that is not saved": Fault(FLOW, ("what is saved and loaded",), "the loss was", f"return {LOSS}", f"{COUNT}return {LOSS.replace('self.weight', '(1 if self.training else 1 + self.count)')}"),
    "deaf to its label": Fault(FLOW, ("with --cond label the prediction",), "with --cond label another label gives the same prediction at every t", "classes=space.classes if self.conditional else 0", "classes=0"),
    "learns nothing": Fault(FLOW, ("the loss falls",), "at learning rate 0", '"lr": 1e-2},\n        metrics', '"lr": 0.0},\n        metrics'),
    "loss of something else": Fault(FLOW, ("gets a gradient", "the loss falls"), "4 of 4 have none", LOSS, LOSS.replace("error.mean()", "(error.mean() * 0 + 1)")),
    "evaluation that is random": Fault(FLOW, ("in evaluation the loss",), "of the same rows", LOSS, LOSS.replace("error.mean()", "(error.mean() + (0 if self.training else next(TICKS)))"), "import itertools\n\nTICKS = itertools.count()"),
    "no number": Fault(FLOW, ("made from its defaults",), "loss() gave loss that is no 0-dim tensor; take its mean", LOSS, LOSS.replace("error.mean()", "error")),
    "not optimized": Fault(FLOW, ("parameter_groups() holds", "two steps, a checkpoint"), "2 of 4 are in no group: denoiser.net.last", more="Flow.parameter_groups = lambda self: [{'params': list(self.denoiser.net.first.parameters())}]"),
    "weak side of one row": Fault(FLOW, ("weaken() keeps",), "and its weak side (1,)", more="Flow.weaken = lambda self, cond: {'label': cond['label'][:1] * 0 - 1}"),
    "begins by the batch": Fault(FLOW, ("begin() gives", "sample i follows"), "row 5 is another alone than in a batch", more="Flow.begin = lambda self, shape, batch, rng: Method.begin(self, shape, batch, rng) + 0.1 * len(batch.index)"),
    "preview of nothing": Fault(FLOW, ("made from its defaults",), "preview() names ghost, which is none of its Spec.plots", 'Preview(sample={"steps": 3})\n\n    def loss(self, batch, rng):\n        t, eps', 'Preview(sample={"steps": 3}, plots=("ghost",))\n\n    def loss(self, batch, rng):\n        t, eps'),
    "raises": Fault(FLOW, ("made from its defaults",), "ZeroDivisionError: division by zero (at sound_parts.py", LOSS, LOSS.replace("self.weight", "1 / 0")),
    "pair that does not explain x_t": Fault(FLOW, ("alpha x_0 + sigma eps = x_t",), "it is off by", PAIR, PAIR.replace("Preconditioned", "Off"), OFF),
    "denoiser that mixes rows": Fault(FLOW, ("each row is answered", "halves of a batch", "that of halves", "sample i follows", "two halves of one call"), "a row alone is", "        return self.last(F.silu(h))", "        return self.last(F.silu(h - h.mean(0)))"),
    "denoiser that is random": Fault(FLOW, ("draws nothing, and leaves x_t",), "draws from the global stream of torch", PAIR, PAIR.replace("Preconditioned", "Off"), OFF.replace("0.99 * pair.eps", "pair.eps + 0 * torch.rand(())")),
    "denoiser with one clock": Fault(FLOW, ("t as () and as (B,)",), "of the largest apart", PAIR, PAIR.replace("Preconditioned", "Off"), OFF.replace("(x_t, t, cond)\n        return pair._replace(eps=0.99 * pair.eps)", "(x_t, t[0] / 2 if t.ndim else t, cond)\n        return pair")),
    "answer of another type": Fault(FLOW, ("shape and dtype of x_t", "samples of every sampler", "sample i follows", "guided samples", "previews that", "own measures give"), "x_0 is (4, 1, 4, 4) torch.float64, and x_t (4, 1, 4, 4) torch.float32", PAIR, PAIR.replace("Preconditioned", "Off"), OFF.replace("eps=0.99 * pair.eps", "x_0=pair.x_0.double()")),
    "loss without a gradient": Fault(FLOW, ("can be differentiated", "gets a gradient", "the loss falls", "what is saved", "two steps"), "has no gradient", LOSS, LOSS.replace("error.mean()", "error.mean().detach()")),
    "condition without rows": Fault(FLOW, ("cond() gives rows", "sample i follows"), "without a row for each of 16", more="told = Flow.cond\nFlow.cond = lambda self, batch, rng: told(self, batch, rng) if self.training else {k: v[:1] for k, v in told(self, batch, rng).items()}"),
    "weak side out of range": Fault(FLOW, ("guided samples", "it answers with x_0", "alpha x_0", "guidance of scale 1"), "IndexError", more="Flow.weaken = lambda self, cond: {'label': torch.full_like(cond['label'], 7)}"),
    "options that grow": Fault(FLOW, ("recipe that a run keeps", "what is saved", "two steps"), "it makes another recipe", '    width: int = opt(8, "Features of the hidden layer.", min=1)', '    width: int = opt(8, "Features of the hidden layer.", min=1)\n\n    def __post_init__(self):\n        object.__setattr__(self, "width", self.width + 1)'),
    "preview that fails": Fault(FLOW, ("previews that", "samples of every sampler"), "ZeroDivisionError", "        small = process.posterior", "        1 / 0\n        small = process.posterior", "Flow.preview = lambda self: Preview(sampler={'name': 'sound-walk'}, sample={'steps': 3})"),
    "measure of nothing": Fault(FLOW, ("own measures give",), "sound-mean gave {'metric': 'sound-mean', 'value': nan}", "float(bench.samples.x.mean())", 'float("nan")'),
    "plot that is no picture": Fault(FLOW, ("own plots draws",), "plot sound-plain of sound-flow gave a str, not a PIL image", 'return Image.new("L", (8, 8))', 'return "picture"'),
    "mass on [MASK]": Fault(FILL, ("[MASK] has none", "samples of every sampler"), "[MASK] is among the values, with a probability of up to 0.3", "MaskedDenoiser(model(), process)", "Leaky(model(), process)", LEAKY.format("substitute(F.pad(self.net(x_t, t, cond), (0, 1)).log_softmax(-1), x_t, self.process.mask_id)")),
    "probabilities that make two": Fault(FILL, ("of a token make 1",), "the logarithm of their sum is up to 0.69", "MaskedDenoiser(model(), process)", "Leaky(model(), process)", LEAKY.format("found.log_probs + 0.6931")),
    "revealed tokens in doubt": Fault(FILL, ("revealed token",), "one has probability", "MaskedDenoiser(model(), process)", "Leaky(model(), process)", LEAKY.format("self.net(x_t, t, cond).log_softmax(-1)")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_method(install, fault):
    FAULTS[fault].hold(install)
