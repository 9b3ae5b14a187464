"""The tables of the reference projects: where each of their flags, or of what they always do, is found here.

The references are the seven MNIST projects (ddpm, latent ddpm by class and not, rf, latent rf, vae), the one of Improved
DDPM on CIFAR-10, that of MAE-NoProp, and the card of mDiffAE. Their defaults are those of the recipes that are named;
without a recipe a method trains minutes on data that are embedded.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

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

RATES = ("--epochs", "--batch-size", "--lr", "--min-lr", "--weight-decay", "--warmup", "--warmup-lr")
KEPT = "no model_best and latest: best_step of summary.json is that of the least held-out loss"

MAE = [
    Row("--dataset cifar10", "train mae-noprop --dataset cifar10", {"--dataset": "cifar10", "--flip": True, "--data-dir": None}, "mae-noprop-cifar10", note="--data is --data-dir of cifar10, --path of your own"),
    Row("--dataset tiny-imagenet --data_path", "train mae-noprop --dataset folder", {"--path": None, "--classes": None, "--size": 64, "--crop": "resized", "--flip": True}, "mae-noprop-tiny-imagenet"),
    Row("--dataset imagenet-100 --data_path", "train mae-noprop --dataset folder", {"--path": None, "--classes": "imagenet100", "--size": 224, "--crop": "resized", "--flip": True}, "mae-noprop-imagenet100"),
    Row("--img_size", "train mae-noprop --dataset folder", {"--size": 64}, takes={"--crop": ("resized", "random", "middle")}, note="--image-size is --size"),
    Row("--patch_size --embed_dim --depth --num_heads", "train mae-noprop", named(("--patch", "--width", "--depth", "--heads"), (4, 192, 12, 3)), "mae-noprop-cifar10"),
    Row("--decoder_embed_dim --decoder_depth --decoder_num_heads --mlp_ratio", "train mae-noprop",
        named(("--decoder-width", "--decoder-depth", "--decoder-heads", "--mlp-ratio"), (96, 4, 3, 4.0)), "mae-noprop-cifar10"),
    Row("--T", "train mae-noprop", {"--decoders": 4}),
    Row("--mask_ratio", "train mae-noprop", {"--mask-ratio": 0.75, "--mask-dropout": 0.0}),
    Row("--vis_type stochastic, heun", "sample mae-noprop", {"--sampler": "renoise", "--mask-ratio": None, "--input": None},
        takes={"--sampler": ("renoise", "heun", "euler", "ancestral")}),
    Row("--epochs --batch_size --lr --min_lr --weight_decay --warmup_epochs --start_warmup_value", "train mae-noprop",
        named(RATES, (1600, 128, 1.5e-4, 1e-6, 0.05, "10ep", 1e-6)), "mae-noprop-cifar10", note="--warmup-epochs 10 is --warmup 10ep"),
    Row("--opt --opt-eps --opt-betas --momentum --clip-grad", "train mae-noprop",
        {"--adam-eps": 1e-8, "--beta1": 0.9, "--beta2": 0.999, "--clip-grad": 0.0, "--clip-by": "all"}, "mae-noprop-cifar10", {"--clip-by": ("all", "part")},
        note="AdamW alone; --betas are two flags"),
    Row("(fixed) no EMA", "train mae-noprop", {"--ema": 0.0}, "mae-noprop-cifar10"),
    Row("--use_amp --use_checkpoint", "train mae-noprop", {"--precision": "auto", "--checkpointing": False}, "mae-noprop-cifar10",
        takes={"--precision": ("bf16", "fp32")}),
    Row("--save_freq --log_freq --resume --output_dir --seed --device", "train mae-noprop",
        {"--save-every": "20ep", "--log-every": 100, "--resume": SAID, "--output": SAID, "--seed": 0, "--device": "auto"}, "mae-noprop-cifar10"),
    Row("--num_workers", "train mae-noprop --dataset folder", {"--workers": 8}, note="cifar10 lies in memory and needs none"),
    Row("- (levels, weighting, gradients)", "train mae-noprop", {"--levels": SAID, "--weighting": "edm", "--encoder-grad": "joint", "--sigma-data": 0.5},
        takes={"--levels": ("karras", "equiprob"), "--weighting": ("edm", "none"), "--encoder-grad": ("joint", "detach")}),
    Row("reconstruction_epoch_N.png at start and each epoch", "train mae-noprop", {"--sample-every": SAID}, note="samples/step-*: held-out images; 1ep is each epoch, and the recipe's 20ep"),
    Row("checkpoint_epoch_N, checkpoint_latest, model_best", "train mae-noprop", {"--output": None}, note=KEPT),
    Row("--model_name --alpha --linear_schedule --num_cycles --start_epoch --warmup_lr_init", "train mae-noprop", note="dropped: they had no effect"),
    Row("attention-map helper", "eval mae-noprop", {"--plot": SAID}, takes={"--plot": ("attention", "frames")}),
    Row("classifier on class-token features", "eval mae-noprop", {"--metric": SAID, "--probe-epochs": 100}, takes={"--metric": ("probe", "finetune")}, note="--probe is --metric probe"),
    Row("- (each decoder, the walk, FLOPs)", "eval mae-noprop", {"--metric": SAID}, takes={"--metric": ("decoders", "walk", "flops")}),
    Row("launch preset T 4, depth 1", "train mae-noprop", {"--decoders": 4, "--decoder-depth": 1}, "mae-noprop-cifar10-t4"),
    Row("launch preset T 10, depth 2", "train mae-noprop", {"--decoders": 10, "--decoder-depth": 2}, "mae-noprop-cifar10-t10"),
    Row("launch preset T 1, depth 4", "train mae-noprop", {"--decoders": 1, "--decoder-depth": 4}, "mae-noprop-cifar10-t1"),
]  # fmt: skip

DICO = (
    "--patch-size",
    "--width",
    "--encoder-depth",
    "--decoder-depth",
    "--latent-channels",
    "--mlp-ratio",
    "--kernel",
    "--adaln-rank",
)

MDIFFAE = [
    Row("patch_size, model_dim, encoder_depth, decoder_depth, bottleneck_dim, mlp_ratio, depthwise_kernel_size, adaln_low_rank_rank, in_channels", "train mdiffae",
        named(DICO, (16, 896, 4, 4, 64, 4, 7, 128)), "mdiffae-v1", note="unset goes by the size of the images: the published network from 128 pixels a side; channels are the data's"),
    Row("logsnr_min, logsnr_max, pixel_noise_std", "train mdiffae", {"--logsnr-min": -10.0, "--logsnr-max": 10.0, "--noise-std": 0.558}),
    Row("pdg_mask_ratio 0.75", "train mdiffae", note="three of each four tokens; another value in an imported config is refused"),
    Row("masking 75 %, applied 50 %", "train mdiffae", {"--mask-prob": 0.5, "--latent-noise-prob": 0.1, "--weighting": "x0", "--final-time-share": 0.1}, takes={"--weighting": ("x0", "sigmoid")}),
    Row("v2: 96 channels, 2+4+2", "train mdiffae", {"--topology": "skip", "--latent-channels": 96, "--decoder-depth": 8, "--path-drop-prob": 0.1}, "mdiffae-v2", {"--topology": ("flat", "skip")}),
    Row("num_steps, sampler, schedule", "sample mdiffae", {"--steps": None, "--sampler": "ddim", "--spacing": SAID},
        takes={"--sampler": ("ddim", "dpmpp-2m"), "--spacing": ("uniform", "cosine")}, note="unset steps are one; linear is uniform"),
    Row("pdg on/off, pdg_strength", "sample mdiffae", {"--guidance-scale": 1.0, "--pdg": None}, takes={"--pdg": ("token", "path")}, note="1 is off"),
    Row("seed", "sample mdiffae", {"--seed": 0}),
    Row("(ddim ending)", "sample mdiffae", {"--final": "x0"}, takes={"--final": ("x0", "floor")}, note="--final ddim is floor: the step to the last level, as it is"),
    Row("from_pretrained(dir), encode, decode, reconstruct", "sample mdiffae", {"--input": None, "--output": SAID, "--keep-latents": False},
        note="diffcli.load(folder) has encode, decode and reconstruct; --save-latents is --keep-latents"),
    Row("weights + config.json", "sample mdiffae", note=f"the folder itself, or hub:OWNER/NAME, is RUN; {RUN}"),
    Row("- (pictures of a training)", "train mdiffae", {"--sample-every": SAID}, note="samples/step-*: original, reconstruction, their difference, the masked path"),
    Row("- (PSNR by steps and guidance, speed, latents, worst images)", "eval mdiffae", {"--metric": SAID, "--plot": SAID},
        takes={"--metric": ("psnr", "ssim", "steps", "guided", "speed", "latents"), "--plot": ("latents", "reconstructions")}),
]  # fmt: skip

ROWS = {"ddpm": DDPM, "rf": RF, "iddpm": IDDPM, "vae": VAE, "ldm": LDM, "mae-noprop": MAE, "mdiffae": MDIFFAE}
