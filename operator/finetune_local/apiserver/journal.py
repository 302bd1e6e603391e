"""Keeps the store's objects in SQLite, so that a killed server comes back with them."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from finetune_local.apiserver.store import Entry

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT, namespace TEXT, name TEXT, raw BLOB NOT NULL, PRIMARY KEY (bucket, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class SqliteJournal:
    """One SQLite file. Every write is committed before it is answered.

    A write survives the death of this process at any instant (it is with the operating system by then), not
    that of the machine: the file is not flushed to the disk each time.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.executescript(_TABLES)

    def load(self) -> tuple[int, Iterable[tuple[str, bytes]]]:
        rows = self._connection.execute("SELECT bucket, raw FROM objects").fetchall()
        return int(self.fact("revision") or 0), rows

    def put(self, entry: Entry) -> None:
        row = (entry.bucket, *entry.key, entry.raw)
        self._write("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row, entry.revision)

    def remove(self, entry: Entry) -> None:
        row = (entry.bucket, *entry.key)
        self._write("DELETE FROM objects WHERE bucket = ? AND namespace = ? AND name = ?", row, entry.revision)

    def _write(self, statement: str, row: tuple[object, ...], revision: int) -> None:
        with self._connection:
            self._connection.execute("BEGIN")
            self._connection.execute(statement, row)
            self.set_fact("revision", str(revision))

    def fact(self, name: str) -> str | None:
        """Something the server remembers about itself, such as its port."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_fact(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def secret(self, name: str) -> str:
        """A random secret that is made once and stays the same."""
        value = self.fact(name)
        if value is None:
            value = secrets.token_hex(32)
            self.set_fact(name, value)
        return value

    def close(self) -> None:
        self._connection.close()
