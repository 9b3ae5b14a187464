"""The hash of a record that grows without end: of any of its beginnings, in the memory of a piece."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest

from diffcli.engine.ledger import PIECE, Ledger


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 4 * PIECE, None])
def test_the_digest_is_that_of_the_first_bytes(tmp_path: Path, size: int | None) -> None:
    data = bytes(k % 251 for k in range(1000)) * (3 * PIECE // 1000)
    (tmp_path / "metrics.jsonl").write_bytes(data)
    first = data[:size]
    assert Ledger(tmp_path).digest(size) == {"bytes": len(first), "sha256": hashlib.sha256(first).hexdigest()}


def test_no_record_is_an_empty_one(tmp_path: Path) -> None:
    assert Ledger(tmp_path).digest() == {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}


def test_a_longer_record_takes_no_more_memory(tmp_path: Path) -> None:
    """Two pieces at a time, as one is read while the other is still held."""
    (tmp_path / "metrics.jsonl").write_bytes(bytes(16 * PIECE))
    tracemalloc.start()
    try:
        Ledger(tmp_path).digest()
        assert tracemalloc.get_traced_memory()[1] < 3 * PIECE
    finally:
        tracemalloc.stop()
