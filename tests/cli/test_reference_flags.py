"""Every flag of the reference projects has its place here: a row for each row of their tables, held to the commands.

The references are the seven MNIST projects (ddpm, latent ddpm by class and not, rf, latent rf, vae) and the one of Improved
DDPM on CIFAR-10. Their defaults are those of the recipes that are named; without a recipe a method trains minutes on digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from diffcli import recipe as recipes
from diffcli.metrics import MEASURES, PLOTS
from diffcli.options import options
from diffcli.parts import fits
from diffcli.plugin import KINDS
from diffcli.registry import registry

GROUPS = {"train": "Train", "sample": "Sample", "eval": "Eval"}
SECTIONS = {"train": ("method", "model", "schedule", "dataset", "train"), "sample": ("sampler", "sample"), "eval": ("sampler", "eval")}  # fmt: skip
SAID = ...  # no default is stated
NONE: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """reference: its flags, or what it always does. command: as it is typed, with the flags that choose parts. flags: ours,
    with the default that is stated; in the recipe, where one is named, else of the command. takes: values that must be
    allowed. note: where the name, or the default, is another, and why; or, without flags, what does it."""

    reference: str
    command: str
    flags: Mapping[str, Any] = NONE
    recipe: str = ""
    takes: Mapping[str, tuple[str, ...]] = NONE
    note: str = ""


NETWORK = ("--channels", "--multipliers", "--blocks", "--attention")
LENGTH = ("--epochs", "--lr", "--batch-size")
OFTEN = ("--sample-every", "--save-every")
PIXELS, LATENTS = ((32, [1, 2, 3, 3], 1, [0, 0, 0, 1]), (64, [1, 2], 1, [0, 1]))
MNIST, TENTH = (100, 1e-3, 512), ("10ep", "10ep")
RUN = "no --checkpoint: RUN is a method, whose newest run is taken, a run, a checkpoint or a model folder"
TOTAL = "--samples is always the total; --per-class asks for so many of each class"
FOLDER = "written with every run: recipe.toml, metrics.jsonl (log.jsonl), loss.png and .pdf, summary.json, log.txt, samples/step-*.png (epoch-*)"


def named(names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


DDPM = [
    Row("train_ddpm, train-ddpm.sh", "train ddpm"),
    Row("train_latent_diffusion --vae_checkpoint", "train ddpm", {"--autoencoder": None}, note="or train ldm"),
    Row("--epochs --lr --batch_size", "train ddpm", named(LENGTH, MNIST), "ddpm-mnist"),
    Row("--sample_every", "train ddpm", named(OFTEN, TENTH), "ddpm-mnist"),
    Row("--timesteps", "train ddpm --schedule cosine", {"--timesteps": 1000, "--schedule": "cosine"},
        takes={"--schedule": ("cosine", "linear", "scaled-linear")}),
    Row("(fixed beta clips)", "train ddpm --schedule cosine", {"--beta-cap": 0.999, "--beta-floor": 0.0}),
    Row("--base_channels --channel_multipliers --layers_per_block --attention_levels", "train ddpm", named(NETWORK, PIXELS), "ddpm-mnist"),
    Row("(fixed) EMA, weight decay, clip, min lr", "train ddpm", {"--ema": 0.995, "--weight-decay": 1e-4, "--clip-grad": 1.0, "--min-lr": 1e-6}, "ddpm-mnist"),
    Row("generate_ddpm --mode ddpm, ddim", "sample ddpm", {"--sampler": SAID}, takes={"--sampler": ("ancestral", "ddim")},
        note="dpmpp-2m-sde unless asked otherwise: nearest to the law of the random walks, by 50 calls"),
    Row("--ddim_steps --eta", "sample ddpm --sampler ddim", {"--steps": None, "--eta": 0.0, "--spacing": None},
        takes={"--spacing": ("uniform", "linspace")}, note="unset steps are the sampler's own: 50 of ddim, 1000 of ancestral"),
    Row("--checkpoint --num_samples --nrow --output_dir --device", "sample ddpm",
        {"--samples": 16, "--columns": None, "--output": SAID, "--device": "auto"}, note=f"{RUN}; unset columns are near square"),
    Row("per-sample folders with each step (always)", "sample ddpm", {"--trajectory": 0}),
    Row("PDF pictures", "sample ddpm", {"--format": "png"}, takes={"--format": ("png", "pdf")}),
    Row("(unseeded)", "sample ddpm", {"--seed": 0}),
    Row("visualize_distribution", "eval ddpm", {"--plot": SAID}, takes={"--plot": ("embedding",)}),
    Row("setup.sh, conda, MNIST download at import", "train ddpm --dataset mnist", {"--data-dir": None},
        note="--data is --data-dir for named sets, --path for your own"),
    Row("screen, nvidia-smi", "train ddpm", {"--resume": SAID}, note="a run resumes, and its metrics carry images/s and memory"),
    Row("config.txt, logs, curves, samples, checkpoints", "train ddpm", {"--output": SAID}, note=FOLDER),
]  # fmt: skip

RF = [
    Row("train_rf, train-rf.sh", "train rf"),
    Row("train_latent_rf --vae_checkpoint", "train rf", {"--autoencoder": "vae-mnist"}, "rf-latent-mnist"),
    Row("--epochs --lr --batch_size --sample_every", "train rf", named((*LENGTH, *OFTEN), (*MNIST, *TENTH)), "rf-mnist"),
    Row("--sampling_steps (stored, for previews and sampling)", "sample rf", {"--steps": None},
        note="[sample] of the recipe; unset is the sampler's own number, 20 of unipc"),
    Row("--time_sampling uniform, logit_normal", "train rf",
        {"--time-sampling": None, "--time-mean": 0.0, "--time-std": 1.0, "--time-uniform": 0.0},
        takes={"--time-sampling": ("uniform", "logit_normal")}, note="unset is logit_normal, and uniform on --pairs"),
    Row("--base_channels ... of train_rf", "train rf", named(NETWORK, PIXELS), "rf-mnist"),
    Row("--base_channels ... of train_latent_rf", "train rf", named(NETWORK, LATENTS), "rf-latent-mnist"),
    Row("generate_rf --checkpoint; generate_latent_rf --vae_checkpoint --unet_checkpoint", "sample rf", {"--autoencoder": None}, note=RUN),
    Row("--sampler euler, midpoint", "sample rf", {"--sampler": SAID}, takes={"--sampler": ("euler", "midpoint", "heun")},
        note="unipc unless asked otherwise: the least error of all solvers at 10 calls"),
    Row("--sampling_steps --num_samples --nrow --output_dir --device", "sample rf",
        {"--steps": None, "--samples": 16, "--columns": None, "--output": SAID, "--device": "auto"}),
    Row("per-sample strips and steps, decoded; grid, profile", "sample rf", {"--trajectory": 0}),
    Row("denoising_steps/", "train rf", note="trajectory/ of every run, in pixels and in latents"),
    Row("epoch_samples, curves, logs, config", "train rf", {"--output": SAID}, note=FOLDER),
    Row("- (pairs)", "sample rf", {"--pairs": None}),
    Row("- (reflow)", "train rf", {"--pairs": None, "--init": None}),
    Row("- (nll, embedding)", "eval rf", {"--metric": SAID, "--plot": SAID},
        takes={"--metric": ("nll",), "--plot": ("embedding",)}, note="--nll is --metric nll"),
]  # fmt: skip

IDDPM = [
    Row("python -m train", "train iddpm"),
    Row("NUM_DIFFUSION_STEPS, BETA_SCHEDULE", "train iddpm --schedule cosine", {"--timesteps": 1000, "--schedule": "cosine"}, takes={"--schedule": ("cosine", "linear")}),
    Row("BETA_START, BETA_END", "train iddpm --schedule linear", {"--beta-start": 1e-4, "--beta-end": 0.02}),
    Row("MODEL_CHANNELS, CHANNEL_MULTIPLIERS, NUM_RES_BLOCKS, ATTENTION_LAYERS", "train iddpm", named(NETWORK, (128, [1, 2, 2, 2], 2, [0, 1, 1, 0])), "iddpm-cifar10"),
    Row("DROPOUT_RATE; one skip a level", "train iddpm", {"--dropout": 0.1, "--skips": "block"}, "iddpm-cifar10", {"--skips": ("block", "level")}),
    Row("TIME_EMBED_DIM, SINUSOIDAL_EMBEDDING_DIM, NUM_GROUPS", "train iddpm", note="derived: 4 channels, channels, the group rule"),
    Row("EPOCHS, LEARNING_RATE, BATCH_SIZE", "train iddpm", named(LENGTH, (150, 1e-4, 128)), "iddpm-cifar10"),
    Row("KL_WEIGHT", "train iddpm", {"--objective": "hybrid", "--vlb-weight": 0.001}),
    Row("- (variance, times)", "train iddpm", {"--variance": "learned", "--time-sampling": "uniform", "--label-dropout": 0.1},
        takes={"--variance": ("learned", "small", "large"), "--time-sampling": ("uniform", "importance")}),
    Row("- (mirroring)", "train iddpm --dataset cifar10", {"--flip": True, "--no-flip": SAID}, "iddpm-cifar10"),
    Row("EMA_DECAY, GLOBAL_STEP_EMA", "train iddpm", {"--ema": 0.9999}, "iddpm-cifar10", note="warmed up as (1 + n)/(10 + n) in place of a first step"),
    Row("RESUME_TRAINING, FILENAME", "train iddpm", {"--resume": None}, note="--resume latest"),
    Row("DEVICE, SAVE_DIR, SAVE_DIR_TRAIN, IMAGE_OUT_DIR", "train iddpm", {"--device": "auto", "--output": None}),
    Row("preview every 5 epochs", "train iddpm", named(OFTEN, ("5ep", "5ep")), "iddpm-cifar10", note="samples/final.png; a class a column"),
    Row("python -m load_model", "sample iddpm", {"--per-class": None, "--samples": 16, "--columns": None}, note=TOTAL),
    Row("generate(class) -> 256x256", "sample iddpm", {"--label": None, "--upscale": None}, note="from Python diffcli.load(run).sample(label=)"),
    Row("GIF frames every 100 steps, strip every 50", "sample iddpm", {"--trajectory": 0, "--format": "png"}, takes={"--format": ("gif", "webp")}, note="--gif is --format gif"),
    Row("loss printed at 50 % and 100 % of an epoch", "train iddpm", {"--log-every": 10}, note="metrics.jsonl (log.jsonl) and a progress line"),
    Row("- (bits a dimension)", "eval iddpm", {"--metric": SAID, "--images": SAID, "--nll-levels": SAID}, takes={"--metric": ("nll",)},
        note="--nll is --metric nll, and vlb measures the bound"),
]  # fmt: skip

VAE = [
    Row("train_vae, train-vae.sh", "train vae"),
    Row("--epochs --lr --batch_size", "train vae", named(LENGTH, (20, 1e-4, 512)), "vae-mnist"),
    Row("--kl_weight", "train vae", {"--kl-weight": 1e-6}),
    Row("--base_channels --channel_multipliers --layers_per_block --latent_channels", "train vae",
        named((*NETWORK[:3], "--latent-channels"), (64, [1, 2, 4], 1, 2)), "vae-mnist"),
    Row("--sample_every", "train vae", named(OFTEN, ("4ep", "4ep")), "vae-mnist"),
    Row("latent scaling factor", "train vae", note="latent_scale and latent_bound are buffers of the autoencoder"),
    Row("epoch reconstructions", "train vae", note="samples/step-*.png: rows of originals and of reconstructions"),
    Row("latent_space/epoch_NNN.pdf", "eval vae", {"--plot": SAID}, takes={"--plot": ("latents",)}),
    Row("config.txt, training_log.txt, loss_curves, performance.txt", "train vae", {"--output": None}, note=FOLDER),
    Row("checkpoint fields: reconstruction and KL", "train vae", note="rec and kl of metrics.jsonl"),
    Row("--device", "train vae", {"--device": "auto"}),
    Row("- (reconstruct your own, the prior)", "sample vae", {"--samples": 16, "--input": None, "--prior": False}),
    Row("- (PSNR, SSIM, worst reconstructions)", "eval vae", {"--metric": SAID, "--plot": SAID},
        takes={"--metric": ("psnr", "ssim"), "--plot": ("reconstructions",)}),
]  # fmt: skip

LDM = [
    Row("train_latent_diffusion", "train ldm", {"--cond": "none", **named((*NETWORK[:1], *LENGTH), (64, *MNIST))}, "ldm-mnist", note="--model unet is --cond none"),
    Row("train_conditioned_latent_diffusion", "train ldm", {"--autoencoder": None, "--conditioning": None}, takes={"--conditioning": ("concat",), "--model": ("unet-concat",)}),
    Row("train_conditioned_latent_diffusion_ca --cross_attention_dim", "train ldm --conditioning cross-attention", {"--context-dim": 128, "--context-tokens": 4},
        takes={"--conditioning": ("cross-attention",), "--model": ("unet-cross",)}),
    Row("--vae_checkpoint", "train ldm", {"--autoencoder": "vae-mnist"}, "ldm-concat-mnist", note="not given: one is trained first"),
    Row("--timesteps; --base_channels ...", "train ldm", {"--timesteps": 1000, "--schedule": "scaled-linear", **named(NETWORK, LATENTS)}, "ldm-concat-mnist"),
    Row("--unconditional_probability", "train ldm", {"--label-dropout": 0.1}),
    Row("--number_of_classes", "train ldm", note="from the data set"),
    Row("--guidance_scale --ddim_steps --ddim_eta (previews)", "sample ldm", {"--guidance-scale": 3.0, "--steps": 100, "--eta": 0.05}, "ldm-concat-mnist",
        note="[sample] and [sampler] of the recipe"),
    Row("--epochs --lr --batch_size --sample_every", "train ldm", named((*LENGTH, *OFTEN), (*MNIST, *TENTH)), "ldm-cross-mnist"),
    Row("- (cache)", "train ldm", {"--cache-latents": True, "--no-cache-latents": SAID}),
    Row("generate_latent_diffusion --mode ddpm, ddim", "sample ldm", {"--sampler": "ddim"}, "ldm-mnist", {"--sampler": ("ancestral", "ddim")},
        note="ddim by 50 steps, with classes or without: ancestral takes 1000"),
    Row("generate_conditioned_...[_ca] --class_label --num_samples --guidance_scale --sampling_steps --eta --nrow --output_dir --device", "sample ldm",
        {"--label": None, "--samples": 16, "--per-class": None, "--guidance-scale": 3.0, "--steps": 100, "--eta": 0.05, "--columns": None, "--output": SAID, "--device": "auto"},
        note=f"{TOTAL}; columns are classes"),
    Row("visualize_cfg_effect --guidance_scales --samples_per_cell --sampling_steps --eta --seed", "eval ldm",
        {"--plot": SAID, "--scales": [0, 0.5, 1, 2, 3, 5, 7, 10, 50, 100], "--per-class": None, "--steps": 100, "--eta": 0.05, "--seed": 0}, takes={"--plot": ("guidance",)},
        note="--samples is --per-class, 10 unless asked; --seed is 0 as everywhere"),
    Row("--concat_checkpoint --cross_attention_checkpoint", "eval ldm", {"--plot": SAID}, note=f"eval RUN RUN: side by side; {RUN}"),
    Row("debug_conditioned_generation --class_label --output_dir", "eval ldm", {"--plot": SAID, "--label": None}, takes={"--plot": ("condition",)},
        note="every class unless --label says 7; into plots/ of the run"),
    Row("visualize_distribution --num_generated --num_real --mode --ddim_steps --eta --batch_size --umap_neighbors --umap_min_dist --seed", "eval ddpm --sampler ddim",
        {"--plot": SAID, "--samples": 1000, "--real": 1000, "--sampler": "ddim", "--steps": None, "--eta": 0.0, "--batch-size": 250, "--neighbors": None, "--min-dist": 0.1, "--seed": 0},
        takes={"--plot": ("embedding",)}, note="--generated is --samples; unset neighbors are 15; the batch size changes no sample"),
    Row("VAE latent scatter", "eval ldm", {"--plot": SAID}, takes={"--plot": ("latents",)}),
]  # fmt: skip

ROWS = {"ddpm": DDPM, "rf": RF, "iddpm": IDDPM, "vae": VAE, "ldm": LDM}


def cases() -> Iterator[Any]:
    for of, rows in ROWS.items():
        for row in rows:
            yield pytest.param(row, id=f"{of}: {row.reference}")


@cache
def flags(command: str) -> frozenset[str]:
    """The flags that a command takes, as its parser knows them."""
    name, method, *args = command.split()
    made = getattr(import_module(f"diffcli.cli.{name}"), GROUPS[name]).build(method, args)
    return frozenset(flag for param in made.params for flag in (*param.opts, *param.secondary_opts))


@cache
def settled(command: str, recipe: str) -> dict[str, Any]:
    """The defaults of a command's options, of the recipe where one is named; what is unset is left out."""
    name, method, *args = command.split()
    asked = {key.lstrip("-"): value for key, value in zip(args[::2], args[1::2], strict=True)}
    chosen = {kind: {"name": value} for kind, value in asked.items() if kind in KINDS}
    own = {key: value for key, value in asked.items() if key not in KINDS}
    tables = recipes.read(recipes.named(recipe)) if recipe else {"method": {"name": method, **own}, **chosen}
    made = recipes.resolve(tables)
    assert made.method.name == method
    found = {**made.tables(), "eval": {**vars(made.evaluation({}))}}
    values = {kind: part.name for kind, part in made.parts.items()}
    for section in SECTIONS[name]:
        values |= {key: value for key, value in found.get(section, {}).items() if key != "name"}
    return values


def allowed(command: str, flag: str) -> set[str]:
    """The values that a flag takes, where they are names."""
    method, key = command.split()[1], flag.lstrip("-").replace("-", "_")
    spec = registry().get("method", method)
    if key == "plot":
        return {*PLOTS, *spec.plots}
    if key == "metric":
        return {*MEASURES, *spec.metrics}
    if key in KINDS:
        return {name for name, part in registry().specs(key).items() if fits(key, part, spec)}
    made = recipes.resolve({"method": {"name": method}})
    configs = [*(type(part.config) for part in made.parts.values()), type(made.train), type(made.sample)]
    return {str(choice) for config in configs if key in options(config) for choice in options(config)[key].choices}


@pytest.mark.parametrize("row", list(cases()))
def test_it_has_its_place(row: Row, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no run changes what a command takes
    assert row.flags or row.note or len(row.command.split()) == 2
    known = flags(row.command)
    missing = [flag for flag in {**row.flags, **row.takes} if flag not in known]
    assert not missing, f"diffcli {row.command} has no {', '.join(missing)}, for {row.reference}"
    for flag, names in row.takes.items():
        assert set(names) <= allowed(row.command, flag), f"diffcli {row.command} {flag} takes no {names}"


@pytest.mark.parametrize("row", [case for case in cases() if any(v is not SAID for v in case.values[0].flags.values())])
def test_it_has_the_default_that_is_stated(row: Row) -> None:
    values = settled(row.command, row.recipe)
    for flag, default in row.flags.items():
        if default is not SAID:
            found = values.get(flag.removeprefix("--").replace("-", "_"))
            assert (list(found) if isinstance(found, tuple) else found) == default, (flag, row.recipe or row.command)
