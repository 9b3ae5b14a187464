"""What became of the user's own pictures, as a table."""

from __future__ import annotations

from typing import Any

from diffcli.cli import output

COLUMNS = {
    "file": "FILE", "width": "WIDTH", "height": "HEIGHT", "psnr": "PSNR", "ssim": "SSIM", "latent": "LATENT",
    "encode_ms": "ENCODE MS", "decode_ms": "DECODE MS",
}  # fmt: skip
MOST = 64  # lines of that table


def told(table: list[dict[str, Any]], means: dict[str, Any]) -> None:
    """How near each reconstruction of a file is, and what it took; of many files the first, and the means of all."""
    if not table:
        return
    keys = [key for key in COLUMNS if key in table[0]]
    lines = [*table[:MOST], {"file": f"mean of {len(table)}", **means}]
    output.rows([COLUMNS[key] for key in keys], ([number(line.get(key)) for key in keys] for line in lines))
    if len(table) > MOST:
        output.say(f"{len(table) - MOST} more are in table.csv")


def number(value: Any) -> str:
    """A value of that table."""
    if isinstance(value, list):
        return "x".join(map(str, value))
    return output.cell(f"{value:.4g}" if isinstance(value, float) else value)
