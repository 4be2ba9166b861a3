"""Documents name only commands, make targets and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from surgvivqa_audio.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"\bsurgvivqa ([a-z][a-z-]*)(?: ([a-z][a-z-]*)\b)?")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
MAKE = re.compile(r"(?:^|`)make ([a-z]+)\b", re.MULTILINE)


def commands() -> dict[str, set[str] | None]:
    """Top-level commands, each with its subcommands or None."""
    groups = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: set(child.commands) if hasattr(child, "commands") else None for name, child in groups.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_a_document_exist_unless_marked_planned(page: Path) -> None:
    known = commands()
    missing = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if "planned" in line:
            continue
        for group, sub in COMMAND.findall(line):
            children = known.get(group, set())
            if group not in known or (children is not None and sub not in children):
                missing.append(f"{group} {sub}".strip())
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_in_a_document_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(MAKE.findall(page.read_text(encoding="utf-8"))) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_in_a_document_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_starts_with_the_two_commands_and_says_research_only() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text.split("```")[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()[1:]] == ["make demo", "make test"]
    assert "Research only, not for clinical use." in text
    assert "```mermaid" in text
    assert "```bibtex" in text


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()
