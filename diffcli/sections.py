"""The shared sections of a recipe: [train], [sample], [eval] and [claim]. Their fields are flags, recipe keys and metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from diffcli.plugin import opt

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
SPAN: Any = {"pattern": r"\d+(ep)?", "like": "500, which are steps, or 10ep"}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """[train]: how long, how, and what is kept. A method has its own defaults for some."""

    steps: int | None = opt(None, "Length in optimizer steps.", min=1)
    epochs: float | None = opt(None, "Length in passes over the data; another way to say --steps.", min=0.001)
    budget: str | None = opt(
        None,
        "Length in time: 90s, 10m or 2h; fixes the number of steps from the first ones.",
        pattern=r"\d+(\.\d+)?[smh]",
        like="90s, 10m or 2h",
    )
    batch_size: int = opt(128, "Images or texts a step, over all devices and accumulation.", min=1)
    accumulate: int = opt(1, "Parts a batch is computed in, to save memory.", min=1)
    lr: float = opt(1e-3, "Peak learning rate of AdamW.", min=0)
    min_lr: float = opt(1e-6, "Learning rate at the end.", min=0)
    lr_schedule: Literal["cosine", "linear", "constant"] = opt("cosine", "Shape of the way from --lr to --min-lr.")
    warmup: str = opt("0", "Linear rise of the learning rate at the start: 500 steps, or 1ep.", **SPAN)
    warmup_lr: float | None = opt(
        None, "Learning rate of the first step of --warmup; unset is --lr over the steps of the warm-up.", min=0
    )
    weight_decay: float = opt(1e-4, "Decoupled weight decay of AdamW.", min=0)
    beta1: float = opt(0.9, "Decay of AdamW's mean of gradients.", min=0, max=0.99999)
    beta2: float = opt(0.999, "Decay of AdamW's mean of squared gradients.", min=0, max=0.9999999)
    adam_eps: float = opt(1e-8, "Added to AdamW's root of squared gradients.", min=1e-16)
    clip_grad: float = opt(1.0, "Bound of the gradient norm; 0 is none.", min=0)
    clip_by: Literal["all", "part"] = opt(
        "all", "What --clip-grad bounds: all gradients together, or those of each part of the network by itself."
    )
    ema: float = opt(
        0.995, "Decay of the averaged weights, warmed up as (1 + n)/(10 + n); 0 keeps none.", min=0, max=0.9999999
    )
    ema_snapshots: str = opt(
        "0",
        "Averages of other widths: store their snapshots every 500 steps, or 10ep, for export --ema-width; 0 keeps none.",
        **SPAN,
    )
    ema_profiles: tuple[float, ...] = opt(
        (0.05, 0.10),
        "Widths of the averages in the snapshots, as shares of the training (Karras et al. 2024, Sec. 3.1).",
        min=0.001,
        max=0.288,
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp64"] = opt(
        "auto",
        "Numbers that the network computes in; auto is bf16 on CUDA, fp32 elsewhere. fp16 scales its loss; tf32 is of CUDA; "
        "fp64 is for proofs.",
    )
    compile: bool = opt(False, "Compile the networks with torch.compile: minutes first, then faster steps on CUDA.")
    checkpointing: bool = opt(
        False, "Keep no activations inside the blocks of the networks, and compute them again in the backward pass."
    )
    channels_last: bool = opt(False, "Keep images with their channels innermost; measure it before you choose it.")
    keep_memory: bool = opt(
        False, "Keep what a step frees on a CPU for the next one, by glibc's mallopt: faster where maps take many MB."
    )
    strategy: Literal["ddp", "fsdp"] = opt(
        "ddp", "On several devices, each has the whole model (ddp), or a share of it (fsdp: PyTorch's FSDP2)."
    )
    device: Device = opt("auto", "Where to compute; auto takes CUDA, then MPS, then the CPU.")
    seed: int = opt(0, "Everything random follows from it.", min=0, max=2**31 - 1)
    sample_every: str = opt("0", "Preview pictures every 500 steps, or 10ep; 0 is at the end alone.", **SPAN)
    save_every: str = opt("500", "Checkpoints every 500 steps, or 10ep; 0 is at the end alone.", **SPAN)
    eval_every: str = opt("0", "Held-out loss every 500 steps, or 10ep; 0 is at the end alone.", **SPAN)
    log_every: int = opt(10, "Steps a line of the metrics; the losses of the steps between are averaged.", min=1)
    async_save: bool = opt(
        False,
        "Write checkpoints while training goes on, from a copy in memory; a save that fails is told at the next step.",
    )
    keep: int = opt(3, "Newest checkpoints to keep.", min=2)
    keep_every: int = opt(0, "Keep every checkpoint whose step is a multiple of this as well; 0 is none.", min=0)
    loggers: str = opt(
        "",
        "Where rows and pictures go besides, with commas: tensorboard; metrics.jsonl and metrics.csv are always written.",
        pattern=r"|[a-z0-9-]+(,[a-z0-9-]+)*",
        like="tensorboard, or several with commas",
    )
    init: str | None = opt(None, "Run whose trained weights to start from; unset is a fresh start.")
    autoencoder: str | None = opt(
        None,
        "Run of an autoencoder, or the recipe of one that is trained first: the method then lives in its latents; unset "
        "is pixels.",
    )
    cache_latents: bool = opt(
        True, "Encode the data once, before the first step, where no picture changes from epoch to epoch."
    )


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """[sample]: what is drawn and along which grid. The sampler's own options stand in [sampler]."""

    samples: int = opt(16, "Samples in all.", min=1)
    per_class: int | None = opt(None, "Samples a class, in place of --samples.", min=1)
    label: str | None = opt(
        None,
        "Classes to draw, in turn: 3, or 0,1,2, or 0-4, or a name such as star; none is without a class, unset "
        "is every class in turn.",
        pattern=r"[^,]+(,[^,]+)*",
        like="3, or 0,1,2",
    )
    steps: int | None = opt(None, "Solver steps; unset is the sampler's own number.", min=1)
    spacing: Literal["uniform", "cosine", "linspace", "trailing", "leading", "karras", "logsnr"] | None = opt(
        None, "Where the steps lie; unset is the sampler's own way, else the schedule's."
    )
    rho: float = opt(7.0, "Exponent of the karras spacing (Karras et al. 2022, Eq. 5).", min=1)
    guidance_scale: float = opt(
        1.0,
        "Classifier-free guidance w, null + w (class - null): 0 is without the class, 1 is none, above 1 is stronger.",
        min=0,
    )
    guidance_interval: tuple[float, ...] | None = opt(
        None, "Times between which guidance acts: 0.2,0.8; unset is everywhere.", min=0, max=1
    )
    guidance_calls: Literal["auto", "one", "two"] = opt(
        "auto", "Both guided halves in one call of the network, or in two; auto chooses by batch and device."
    )
    clip: float | None = opt(None, "Bound of the predicted x_0; 0 is none, unset is the bound of the data.", min=0)
    final: Literal["x0", "floor"] = opt("x0", "End at x_0, or at the floor of a schedule whose sigma(0) is above 0.")
    batch_size: int = opt(250, "Samples at a time; it does not change any of them.", min=1)
    seed: int = opt(0, "Sample i depends on (seed, i) alone.", min=0, max=2**31 - 1)
    raw: bool = opt(False, "Draw with the trained weights, not with their average.")
    autoencoder: str | None = opt(
        None, "Where the autoencoder of a latent model lies now; unset is where it lay in training."
    )
    upscale: int | None = opt(
        None,
        "Least pixels a side of each image's own file, by a whole factor and nearest neighbours: 256; unset is 48.",
        min=1,
        max=4096,
    )
    columns: int | None = opt(None, "Columns of the grid; unset is near square, or one a class.", min=1)
    format: Literal["png", "pdf", "webp", "gif"] = opt("png", "Of pictures; webp and gif move with --trajectory.")
    trajectory: int = opt(0, "Snapshots along the way of each sample; 0 is none.", min=0, max=1000)
    precision: Precision = opt("auto", "Numbers that the network computes in; auto is bf16 on CUDA, fp32 elsewhere.")
    device: Device = opt("auto", "Where to compute; auto takes CUDA, then MPS, then the CPU.")


@dataclass(frozen=True, kw_only=True)
class EvalOptions(SampleOptions):
    """[eval]: what is measured, and on how many samples. The rest says how they are drawn."""

    metric: str = opt(
        "auto",
        "Measures, with commas: loss, fd, kd, prdc, accuracy, agreement, memorization, nll, probe, finetune, and the "
        "method's own; auto is all that apply and take no minutes.",
    )
    extractor: str = opt(
        "auto", "Features that distances are measured in, with commas: pixels, lenet; auto is all that fit the data."
    )
    samples: int = opt(1000, "Samples that are drawn for a measure of samples.", min=2)
    images: int = opt(10000, "Most held-out images or texts that the loss is measured on.", min=1)
    neighbors: int | None = opt(
        None, "Neighbors that vote in agreement, or that UMAP looks at; unset is 3 and 15.", min=1
    )
    reference: int | None = opt(
        None,
        "Most real training images that agreement, probe and finetune are fitted on; unset is 20000 of agreement, all of "
        "the others.",
        min=1,
    )
    probe_epochs: int = opt(100, "Most passes over the training features that probe takes for a fit.", min=1)
    finetune_epochs: float = opt(10.0, "Passes over the training images of finetune.", min=0.001)
    finetune_batch: int = opt(128, "Images a step of finetune.", min=1)
    finetune_lr: float = opt(1e-3, "Peak learning rate of finetune, after a tenth of its steps.", min=0)
    finetune_decay: float = opt(0.05, "Decay of the matrices in finetune.", min=0)
    scales: tuple[float, ...] = opt(
        (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 50.0, 100.0),
        "Guidance scales of --plot guidance; 1 is none, 0 is without the condition.",
        min=0,
    )
    real: int = opt(1000, "Most held-out images of --plot embedding and latents.", min=2)
    projection: Literal["pca", "umap", "tsne"] = opt(
        "pca", "Of --plot embedding onto the plane; umap and tsne need pip install 'diffcli[plots]'."
    )
    min_dist: float = opt(0.1, "Least distance of points in UMAP's plane.", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """[claim]: what a recipe reaches, by which measure, and on what machine. `diffcli repro` holds it to that."""

    metric: str = opt(
        "", "The measure, as its record is named: agreement[3nn], fd[lenet]. [eval] says how it is taken."
    )
    value: float = opt(0.0, "What was measured: the mean over the training seeds.")
    tolerance: float = opt(0.0, "How far a run with another training seed may be off.", min=0)
    seeds: tuple[float, ...] | None = opt(None, "What training seeds 0, 1, ... gave.")
    protocol: str = opt("", "Data set, split, n, sampler, NFE and seed of the number.")
    command: str = opt("", "The command that gives it.")
    hardware: str = opt("", "The machine, and how long it took.")
    source: str = opt("", "Whose number it is: this recipe and its month, or a paper.")
