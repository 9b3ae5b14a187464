"""The metrics of a run: metrics.jsonl is the record, a row a line; metrics.csv is its table."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

from diffcli.engine.files import acting, durable, parse_json
from diffcli.errors import NonFinite, RunError

Row = dict[str, Any]
PIECE = 2**20  # bytes that are hashed at a time: a record grows without end


class Ledger:
    """Rows with a "step" each. The table is written anew when a column joins, so that its one header fits every row.

    A line that does not parse, such as the torn last one of a killed process, is dropped. No file is held open: a row
    comes once in many steps.
    """

    def __init__(self, folder: Path):
        self.record, self.table = folder / "metrics.jsonl", folder / "metrics.csv"
        self.columns: list[str] | None = None  # None until both files are known to be sound

    def rows(self) -> list[Row]:
        """All rows, oldest first."""
        if not self.record.exists():
            return []
        with acting("read", self.record):
            lines = self.record.read_bytes().splitlines(keepends=True)
        return [row for row in map(parse, lines) if row is not None]

    def append(self, row: Row) -> None:
        """Add a row to both files; when this returns, no kill of the process can lose it."""
        try:
            line = json.dumps(row, allow_nan=False)
        except ValueError:
            bad = [k for k, v in row.items() if isinstance(v, float) and v - v != 0]
            raise NonFinite(f"metrics of step {row.get('step')} are not finite: {', '.join(bad)}") from None
        if self.columns is None or any(name not in self.columns for name in row):
            self.keep([*self.rows(), row])
            return
        for path, text in ((self.record, line + "\n"), (self.table, csv_text([row], self.columns))):
            with acting("write", path), path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)

    def digest(self, size: int | None = None) -> dict[str, Any]:
        """The size and the SHA-256 of the record, or of its first bytes: a resume tells by them whether it was changed."""
        sha256, done = hashlib.sha256(), 0
        if not self.record.exists():
            return {"bytes": 0, "sha256": sha256.hexdigest()}
        with acting("read", self.record), self.record.open("rb") as file:
            while piece := file.read(PIECE if size is None else min(PIECE, size - done)):
                sha256.update(piece)
                done += len(piece)
        return {"bytes": done, "sha256": sha256.hexdigest()}

    def cut(self, step: int) -> None:
        """Drop the rows after `step`: a resume writes them again, and each step stands once."""
        self.keep([row for row in self.rows() if row["step"] <= step])

    def keep(self, rows: list[Row]) -> None:
        """Make both files hold these rows, each replaced in one move."""
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        header = csv_text([dict(zip(self.columns, self.columns, strict=True))], self.columns) if self.columns else ""
        durable(self.record, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
        durable(self.table, (header + csv_text(rows, self.columns)).encode())

    def sync(self) -> None:
        """Put every row on the disk, where a loss of power does not lose it either."""
        if self.record.exists():
            with acting("write", self.record), self.record.open("ab") as file:
                os.fsync(file.fileno())


def parse(line: bytes) -> Row | None:
    """A row, or None for a line that was torn or is none."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = parse_json(line, "metrics.jsonl")
    except RunError:
        return None
    return row if type(row.get("step")) is int else None


def csv_text(rows: list[Row], columns: list[str]) -> str:
    """Rows as lines of a table; what a row lacks is empty."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([row.get(name) for name in columns] for row in rows)
    return out.getvalue()
