"""Vision transformers: timm's blocks around our attention, and the patches of a picture. The one place that imports timm."""

from __future__ import annotations

import importlib.util
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from diffcli.errors import EnvironmentProblem, show
from diffcli.nn.attention import attention

EPS = 1e-6  # of layer normalization (Dosovitskiy et al. 2020, as published)
OLDEST = "1.0.29"  # version of timm whose Block takes an attention layer
NATIVE = {".so", ".pyd", ".dylib"}
OPERATOR = re.compile(r'register_fake\("torchvision::(\w+)"')


class SelfAttention(nn.Module):
    """Linear(attention(x)) over tokens (B, N, width), one matrix for queries, keys and values (Vaswani et al. 2017).

    In the place of timm's own: the same parameters by the same names.
    """

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = False, **unused: Any):
        super().__init__()
        self.heads = num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=qkv_bias), nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v, each (B, heads, N, d)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return q, k, v

    def weights(self, x: Tensor) -> Tensor:
        """(B, heads, N, N): how much each token looks at each; they add up to 1."""
        q, k, _ = self.split(x)
        found: Tensor = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)
        return found

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """attn_mask: True where a query may look at a key, or a number added to the score."""
        if is_causal:
            raise ValueError("tokens of pictures have no order; give attn_mask")
        y: Tensor = self.proj(rearrange(attention(*self.split(x), attn_mask), "b h n d -> b n (h d)"))
        return y


def block(width: int, heads: int, mlp_ratio: float = 4.0) -> nn.Module:
    """A pre-norm block: x + attention(LN(x)), then x + MLP(LN(x)) with GELU (Dosovitskiy et al. 2020, Eq. 2 and 3)."""
    made: nn.Module = timm_block()(
        width,
        heads,
        mlp_ratio=mlp_ratio,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=EPS),
        attn_layer=SelfAttention,
    )
    return made


@cache
def timm_block() -> Any:
    """timm's Block. EnvironmentProblem where timm is not installed, or too old."""
    declare()
    try:
        from timm.models.vision_transformer import Block
    except (ImportError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"timm cannot be imported: {show(error, 200)}; install it with pip install 'timm>={OLDEST}'"
        ) from error
    return Block


@cache
def declare() -> torch.library.Library | None:
    """Declare the operators of a torchvision that cannot load them, for as long as the result is kept.

    timm imports torchvision. Beside a torch that its native library was not built for, as a CUDA build beside a CPU torch,
    that fails: its Python part describes operators which nobody has declared. None is called by timm's blocks.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    native = [path for path in root.glob("_C.*") if path.suffix in NATIVE]
    try:
        for path in native:
            torch.ops.load_library(path)
        return None
    except OSError:
        described = root / "_meta_registrations.py"
        names = OPERATOR.findall(described.read_text(encoding="utf-8")) if described.is_file() else []
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in names:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def patches(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, L, side^2 C): row by row, and in each patch in the order (row, column, channel)."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=side, q=side)


def picture(tokens: Tensor, side: int, height: int) -> Tensor:
    """The inverse of `patches`; height: patches from top to bottom."""
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", p=side, q=side, h=height)


def positions(height: int, width: int, size: int) -> Tensor:
    """(1 + height width, size) float32: fixed sines and cosines of the place of each patch, after zeros for a class token.

    Half of the size for the column, half for the row, each [sin | cos] of place x 10000^(-4k/size) (He et al. 2021,
    after Vaswani et al. 2017). ValueError where 4 does not divide the size.
    """
    if size % 4:
        raise ValueError(f"positions in the plane are four parts, which {size} numbers do not make")
    omega = 10000.0 ** (-torch.arange(size // 4, dtype=torch.float64) / (size / 4))
    row, column = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    angles = [place.reshape(-1, 1) * omega for place in (column, row)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)
    return torch.cat([torch.zeros(1, size, dtype=torch.float64), table]).float()


def begin(module: nn.Module) -> None:
    """Xavier-uniform matrices, those of a convolution flattened, and biases of 0 (He et al. 2021, as published)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(len(part.weight), -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
