"""The tables of docs/mirror.md, so that the documentation and what is tested cannot differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from registryd.config import Config, load

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "mirror.md"
COLUMNS = ("path", "`ns`", "repository", "upstream", "its name there", "`OCI-Namespace`")
ERRORS = {"NAME_UNKNOWN": 404, "NAME_INVALID": 400}
_BLOCK = re.compile(r"### (?P<title>[^\n]+)\n|```yaml\n(?P<yaml>.*?)```|(?P<row>\|[^\n]*\|)\n", re.DOTALL)


@attrs.frozen
class Row:
    """A row: a request below the configuration of its table, and where it leads, or the error that answers it."""

    config: str
    path: str
    ns: str | None
    repository: str
    upstream: str | None
    name: str | None
    namespace: str | None

    def __str__(self) -> str:
        return f"{self.path}?ns={self.ns}" if self.ns else self.path

    @property
    def error(self) -> str | None:
        return self.repository if self.repository in ERRORS else None

    @property
    def document(self) -> Mapping[str, Any]:
        """The configuration as it is written."""
        document: Mapping[str, Any] = yaml.safe_load(self.config)
        return document


def rows() -> Iterator[Row]:
    """Every row, in the order of the document; a failed assertion where a table is not as it should be."""
    config = ""
    for block in _BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8")):
        config = block["yaml"] or config
        cells = [cell.strip() for cell in (block["row"] or "").strip("|").split("|")]
        if block["row"] and tuple(cells) != COLUMNS and set("".join(cells)) != {"-"}:
            assert len(cells) == len(COLUMNS), cells
            path, ns, repository, upstream, name, namespace = (cell.strip("`") for cell in cells)
            yield Row(config, path, ns or None, repository, upstream or None, name or None, namespace or None)


def config_of(text: str, folder: Path) -> Config:
    """The configuration that a document's fragment is a part of; ``folder`` is one to write it to."""
    path = folder / "config.yml"
    path.write_text(f"version: 0.1\nstorage: {{inmemory: }}\n{text}", encoding="utf-8")
    return load(str(path), {"REGISTRY_HTTP_ADDR": "127.0.0.1:0"})
