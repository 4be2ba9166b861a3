"""The import levels of docs/architecture.md, read from the syntax tree of every file."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import surgvivqa_audio

PACKAGE = "surgvivqa_audio"
SOURCE = Path(surgvivqa_audio.__file__).parent

LEVELS: dict[str, int] = {
    **dict.fromkeys(("", "errors", "taxonomy", "sample", "files", "provenance", "host_memory"), 0),
    **dict.fromkeys(("data", "colonsim", "speech", "scoring"), 1),
    "model": 2,
    "processing": 3,
    "answering": 4,
    **dict.fromkeys(("training", "evaluation"), 5),
    **dict.fromkeys(("bench", "apps"), 6),
    **dict.fromkeys(("cli", "commands"), 7),
}
# Single files of the ground level build on each other, and cli.py collects the commands.
OWN_LEVEL = {0, 7}
HEAVY = {
    "accelerate",
    "av",
    "bitsandbytes",
    "matplotlib",
    "numpy",
    "peft",
    "PIL",
    "scipy",
    "soundfile",
    "soxr",
    "streamlit",
    "tokenizers",
    "torch",
    "transformers",
}


def module_name(path: Path, root: Path) -> str:
    """``colonsim/scene.py`` → ``colonsim.scene``; the package itself is the empty string."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def relative(dotted: str) -> str | None:
    """The part after the package name, or None for foreign modules."""
    if dotted == PACKAGE:
        return ""
    return dotted.removeprefix(PACKAGE + ".") if dotted.startswith(PACKAGE + ".") else None


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names a file imports, at any depth, also under TYPE_CHECKING."""
    home = [PACKAGE, *[part for part in module.split(".") if part]]
    if not is_package:
        home.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


@cache
def edges(root: Path) -> dict[str, set[str]]:
    """Every file of the package mapped to the files of the package it imports."""
    paths = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        targets = set()
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for dotted in imported(tree, module, path.name == "__init__.py"):
            target = relative(dotted)
            if target is None:
                continue
            # ``from package.file import name``: the last part is a file only if such a file exists.
            targets.add(target if target in paths else target.rpartition(".")[0])
        graph[module] = targets - {module}
    return graph


def violations(graph: dict[str, set[str]]) -> list[str]:
    """Edges that do not go strictly downward, as readable lines."""
    found = []
    for module, targets in graph.items():
        source = module.split(".")[0]
        if source not in LEVELS:
            found.append(f"{module or PACKAGE}: '{source}' has no level; add it to docs/architecture.md")
            continue
        for target in targets:
            goal = target.split(".")[0]
            if goal == source or goal == "":
                continue
            below = LEVELS.get(goal, 99) < LEVELS[source]
            inside = goal in LEVELS and LEVELS[goal] == LEVELS[source] and LEVELS[source] in OWN_LEVEL
            if not below and not inside:
                found.append(f"{module} (level {LEVELS[source]}) imports {target} (level {LEVELS.get(goal)})")
    return found


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One import cycle between files, or an empty list."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if found := visit(target, [*trail, module]):
                return found
        done.add(module)
        return []

    for module in graph:
        if found := visit(module, []):
            return found
    return []


def test_every_import_goes_strictly_downward() -> None:
    assert violations(edges(SOURCE)) == []


def test_there_is_no_import_cycle_between_files() -> None:
    assert cycle(edges(SOURCE)) == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("model/graft.py", "from surgvivqa_audio.answering import engine", "model.graft"),
        ("data/store.py", "import surgvivqa_audio.speech.noise", "data.store"),
        ("sample.py", "def f():\n    from surgvivqa_audio.data import store", "sample"),
        ("scoring/rows.py", "from ..speech import noise", "scoring.rows"),
        ("bench/run.py", "import importlib\nimportlib.import_module('surgvivqa_audio.apps')", "bench.run"),
        ("novel/thing.py", "", "novel.thing"),
    ],
)
def test_the_check_finds_a_forbidden_import(tmp_path: Path, path: str, text: str, expected: str) -> None:
    for folder in ("model", "answering", "data", "speech", "scoring", "bench", "apps"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    target = tmp_path / path
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
    found = violations(edges(tmp_path))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_the_check_finds_a_cycle_inside_a_package(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.py").write_text("from surgvivqa_audio.model.b import thing")
    (tmp_path / "model" / "b.py").write_text("def f():\n    from surgvivqa_audio.model import a")
    assert cycle(edges(tmp_path)) == ["model.a", "model.b", "model.a"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_command_line_starts_without_heavy_imports() -> None:
    done = run_python(
        f"import sys, {PACKAGE}.cli\nprint(*sorted({HEAVY!r} & {{n.split('.')[0] for n in sys.modules}}))"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def import_everything() -> None:
    """Import every module of the package anew, where no optional library can be imported."""
    optional = {"streamlit", "edge_tts", "wandb", "tensorboard", "bitsandbytes", "matplotlib"}
    for name in list(sys.modules):
        if name.split(".")[0] in {PACKAGE, *optional}:
            del sys.modules[name]
    sys.modules.update(dict.fromkeys(optional))  # type: ignore[arg-type]
    before = (os.getcwd(), dict(os.environ))
    for name in sorted(edges(SOURCE)):
        importlib.import_module(f"{PACKAGE}.{name}" if name else PACKAGE)
    assert (os.getcwd(), dict(os.environ)) == before, "the environment changed"
    assert threading.active_count() == 1, threading.enumerate()


def test_importing_every_module_does_nothing_visible(tmp_path: Path) -> None:
    import peft  # noqa: F401  # what libraries set on their own is not ours
    import torch  # noqa: F401
    import transformers  # noqa: F401

    said = tmp_path / "said"
    pid = os.fork()  # a child forgets what is imported already; the libraries need not be loaded again
    if pid == 0:
        code = 1
        try:
            for stream in (1, 2):
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
            import_everything()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (code, said.read_text()) == (0, "")
