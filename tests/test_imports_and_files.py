"""References to the user's code, and atomic writes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import elbowroom
from elbowroom.files import write_atomically
from elbowroom.imports import is_reference, resolve


def test_references(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text("def make():\n    return 7\nNUMBER = 3\n")
    monkeypatch.chdir(tmp_path)
    assert resolve("my_nets:make")() == 7
    assert is_reference("a.b:c.d")
    assert not is_reference("C:/images")
    for bad, message in (
        ("my_nets", "package.module:callable"),
        ("no_such_module_here:f", "cannot import module"),
        ("my_nets:nothing", "has no attribute"),
        ("my_nets:NUMBER", "is a int, not a callable"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve(bad)


def test_a_write_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "file.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(OSError, match="cannot write"):
        write_atomically(blocked / "file.bin", b"three")


# What each layer of docs/architecture.md may import; nothing imports upwards.
LAYERS = [
    {
        "norms",
        "goals",
        "results",
        "sampling",
        "files",
        "hyperparameters",
        "imports",
        "version",
        "graph",
    },
    {"classifier"},
    {"features", "optimise", "regions"},
    {"perception", "attacks", "invariance", "certificates", "data", "models"},
    {"manifold"},
    {"training"},
    {"audit"},
    {"report"},
    {"job", "papers"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def _imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([node.module] if node.module != "elbowroom" else
                        [f"elbowroom.{alias.name}" for alias in node.names])  # fmt: skip
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_module_reaches_up_the_layers():
    root = Path(elbowroom.__file__).parent
    for path in root.rglob("*.py"):
        own = path.relative_to(root).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for module in _imports(path):
            parts = module.split(".")
            if parts[0] == "elbowroom" and len(parts) > 1:
                assert LEVEL[parts[1]] <= LEVEL[own], f"{path} imports {module}"
