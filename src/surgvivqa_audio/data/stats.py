"""What each part of a split contains: types, domains, kinds of question, answers, videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgvivqa_audio.data.audit_checks import constant_types
from surgvivqa_audio.data.floors import informative
from surgvivqa_audio.errors import ConfigError, MissingExtra
from surgvivqa_audio.files import atomic_writer, write_json, write_text
from surgvivqa_audio.sample import Sample, read_samples
from surgvivqa_audio.taxonomy import Taxonomy

PARTS = ("train", "eval", "test")
TEMPLATES = ("in_template", "out_template")


def read_parts(folder: str | Path, taxonomy: Taxonomy) -> dict[str, list[Sample]]:
    """The split files of a folder, else its two template files, by name.

    Raises:
        ConfigError: the folder holds neither.
        BadAnnotation: a file breaks the schema.
    """
    folder = Path(folder)
    for names in (PARTS, TEMPLATES):
        paths = [path for name in names if (path := folder / f"{name}.jsonl").is_file()]
        if paths:
            # A split without held-out videos has an empty test file.
            return {path.stem: read_samples(path, taxonomy) if path.stat().st_size else [] for path in paths}
    raise ConfigError(
        f"{folder}: neither train.jsonl, eval.jsonl, test.jsonl nor in_template.jsonl; split first"
    )


def part_stats(samples: Sequence[Sample], taxonomy: Taxonomy) -> dict[str, Any]:
    """Counts of one part; every count is a number of rows."""
    types = Counter(row.question_type for row in samples)
    domains = Counter(taxonomy.types[row.question_type].domain for row in samples)
    binary = sum(taxonomy.types[row.question_type].binary for row in samples)
    answers: dict[str, Counter[str]] = {}
    for row in samples:
        answers.setdefault(row.question_type, Counter())[row.short_answer] += 1
    return {
        "rows": len(samples),
        "videos": dict(sorted(Counter(row.video_id for row in samples).items())),
        "types": dict(sorted(types.items())),
        "domains": {name: domains[name] for name in taxonomy.domains if domains[name]},
        "yes_no": binary,
        "limited_choice": len(samples) - binary,
        "answers": {name: dict(found.most_common()) for name, found in sorted(answers.items())},
        "single_class_types": constant_types(samples),
        "informative": informative(samples),
    }


def data_stats(parts: Mapping[str, Sequence[Sample]], taxonomy: Taxonomy) -> dict[str, Any]:
    """Statistics of all parts, and the types that some part lacks."""
    report = {name: part_stats(rows, taxonomy) for name, rows in parts.items()}
    present = sorted({row.question_type for rows in parts.values() for row in rows})
    return {
        "taxonomy": taxonomy.name,
        "parts": report,
        "missing_types": {
            name: [kind for kind in present if kind not in each["types"]] for name, each in report.items()
        },
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def markdown(stats: Mapping[str, Any], taxonomy: Taxonomy) -> str:
    """The content of ``data_distribution.md``."""
    parts: Mapping[str, Any] = stats["parts"]
    names = list(parts)

    def by(field: str) -> str:
        keys = sorted({key for each in parts.values() for key in each[field]})
        labels = {key: taxonomy.domains.get(key, key) for key in keys}
        return _table(
            [field[:-1], *names],
            [[labels[key], *(parts[name][field].get(key, 0) for name in names)] for key in keys],
        )

    sections = [
        "# Distribution of the data\n",
        _table(
            ["part", "rows", "videos", "yes/no", "limited choice", "types", "informative types"],
            [
                [
                    name,
                    each["rows"],
                    ", ".join(each["videos"]),
                    each["yes_no"],
                    each["limited_choice"],
                    len(each["types"]),
                    len(each["informative"]),
                ]
                for name, each in parts.items()
            ],
        ),
        "## Domains\n",
        by("domains"),
        "## Question types\n",
        by("types"),
        "## Videos\n",
        by("videos"),
        "## Answers\n",
        _answers(parts),
        "## Types with a single answer\n",
        _table(
            ["part", "types"],
            [
                [
                    name,
                    ", ".join(f"{kind} ({answer})" for kind, answer in each["single_class_types"].items())
                    or "none",
                ]
                for name, each in parts.items()
            ],
        ),
    ]
    return "\n".join(sections)


def _answers(parts: Mapping[str, Any]) -> str:
    keys = sorted(
        {
            (kind, short)
            for each in parts.values()
            for kind, found in each["answers"].items()
            for short in found
        }
    )
    rows = [
        [kind, short, *(each["answers"].get(kind, {}).get(short, 0) for each in parts.values())]
        for kind, short in keys
    ]
    return _table(["type", "answer", *parts], rows)


def write_plots(folder: Path, stats: Mapping[str, Any]) -> list[Path]:
    """Bar charts of types and domains per part, and of the answers within each type, as PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "plots need matplotlib: install the extra 'ui' or 'train', or use --no-plots"
        ) from error
    parts = stats["parts"]
    written = []
    for field in ("types", "domains", "videos"):
        keys = sorted({key for each in parts.values() for key in each[field]}, reverse=True)
        figure = Figure(figsize=(8, 1 + 0.3 * len(keys)), layout="constrained")
        axes = figure.add_subplot()
        left = [0] * len(keys)
        for name, each in parts.items():
            widths = [each[field].get(key, 0) for key in keys]
            axes.barh(keys, widths, left=left, label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_xlabel("rows")
        axes.legend()
        written.append(_save(figure, folder / f"data_{field}.png"))
    written.append(_plot_answers(folder, parts, Figure))
    return written


def _plot_answers(folder: Path, parts: Mapping[str, Any], figure_class: Any) -> Path:
    figure = figure_class(figsize=(5 * len(parts), 7), layout="constrained")
    for place, (name, each) in enumerate(parts.items(), start=1):
        axes = figure.add_subplot(1, len(parts), place)
        for row, kind in enumerate(sorted(each["answers"], reverse=True)):
            found, left = each["answers"][kind], 0.0
            # One colour per answer in all panels.
            order = sorted({short for other in parts.values() for short in other["answers"].get(kind, {})})
            for short, count in sorted(found.items()):
                share = count / sum(found.values())
                axes.barh(row, share, left=left, edgecolor="white", color=f"C{order.index(short)}")
                if share > 0.15:
                    axes.text(left + share / 2, row, short, ha="center", va="center", fontsize=6)
                left += share
        axes.set_yticks(range(len(each["answers"])), sorted(each["answers"], reverse=True), fontsize=7)
        axes.set_title(f"{name}: share of answers")
    return _save(figure, folder / "data_answers.png")


def _save(figure: Any, path: Path) -> Path:
    with atomic_writer(path) as stream:
        # Without the version in the file, equal data gives equal bytes.
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return path


def write_stats(folder: str | Path, out: str | Path, taxonomy: Taxonomy, plots: bool = True) -> list[Path]:
    """Write ``data_stats.json``, ``data_distribution.md`` and the plots; returns what was written."""
    stats = data_stats(read_parts(folder, taxonomy), taxonomy)
    out = Path(out)
    write_json(out / "data_stats.json", stats)
    write_text(out / "data_distribution.md", markdown(stats, taxonomy))
    written = [out / "data_stats.json", out / "data_distribution.md"]
    return written + (write_plots(out, stats) if plots else [])
