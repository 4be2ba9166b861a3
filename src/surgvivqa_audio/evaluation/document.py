"""A small document of headings, paragraphs, tables and pictures that renders to Markdown and to HTML."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2a6f97; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
div.table { overflow-x: auto; } th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th { text-align: left; background: var(--soft); } td.number { text-align: right; white-space: nowrap; }
p.notice { border-left: 4px solid var(--accent); padding: .5rem 1rem; background: var(--soft); }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; margin: 1rem 0; }
article .strip { display: flex; flex-wrap: wrap; gap: 4px; } article img { height: 96px; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text; a notice stands out."""

    text: str
    notice: bool = False


@dataclass(frozen=True)
class Items:
    """A list of plain texts."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of text under column names, as many cells in each as there are columns (ValueError)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells under {len(self.columns)} columns: {', '.join(row)}")


@dataclass(frozen=True)
class Picture:
    """An image file that lies beside the document, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Case:
    """One answer of the gallery: its frames as JPEG bytes, its sound as WAV bytes, its facts."""

    title: str
    facts: Sequence[tuple[str, str]]
    frames: Sequence[bytes] = ()
    sound: bytes = b""


Block = Heading | Paragraph | Items | Table | Picture | Case


@dataclass
class Document:
    """Blocks in reading order."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        """Append blocks."""
        self.blocks.extend(blocks)

    def markdown(self) -> str:
        """The document as Markdown; pictures are linked, gallery frames are left to the HTML."""
        return f"# {self.title}\n\n" + "\n\n".join(_markdown(block) for block in self.blocks) + "\n"

    def html(self, pictures: dict[str, str]) -> str:
        """One self-contained page; ``pictures`` maps file names to SVG text."""
        body = "\n".join(_html(block, pictures) for block in self.blocks)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body><h1>{escape(self.title)}</h1>\n{body}\n</body></html>\n"
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text, notice):
            return f"> {text}" if notice else text
        case Items(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(columns, rows, caption):
            lines = [columns, ["---"] * len(columns), *rows]
            table = "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
            return f"{table}\n\n{caption}" if caption else table
        case Picture(file, caption):
            return f"![{caption}]({file})"
        case Case(title, facts):
            return f"- **{title}**: " + "; ".join(f"{name}: {value}" for name, value in facts)


def _number(text: str) -> str:
    return ' class="number"' if text[:1].isdigit() or text[:1] in "+-<>" else ""


def _html(block: Block, pictures: dict[str, str]) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, notice):
            mark = ' class="notice"' if notice else ""
            return f"<p{mark}>{escape(text)}</p>"
        case Items(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(columns, rows, caption):
            head = "".join(f"<th>{escape(name)}</th>" for name in columns)
            body = "".join(
                "<tr>" + "".join(f"<td{_number(cell)}>{escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            )
            note = f"<p>{escape(caption)}</p>" if caption else ""
            return f'<div class="table"><table><tr>{head}</tr>{body}</table></div>{note}'
        case Picture(file, caption):
            svg = base64.b64encode(pictures[file].encode()).decode()
            return (
                f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{svg}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        case Case(title, facts, frames, sound):
            return _case(title, facts, frames, sound)


def _case(title: str, facts: Sequence[tuple[str, str]], frames: Sequence[bytes], sound: bytes) -> str:
    strip = "".join(
        f'<img alt="frame {number}" src="data:image/jpeg;base64,{base64.b64encode(frame).decode()}">'
        for number, frame in enumerate(frames, start=1)
    )
    player = (
        f'<audio controls src="data:audio/wav;base64,{base64.b64encode(sound).decode()}"></audio>'
        if sound
        else ""
    )
    lines = "".join(f"<br>{escape(name)}: {escape(value)}" for name, value in facts)
    return (
        f'<article><strong>{escape(title)}</strong>{lines}<div class="strip">{strip}</div>{player}</article>'
    )
