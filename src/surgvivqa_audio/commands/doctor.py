"""`surgvivqa doctor`: what this machine can run, and how to get what is missing."""

from __future__ import annotations

import json
from typing import Any

import typer

NOTICE = "Research only, not for clinical use."
# The seed recipe as its author ran it: 4-bit base, bf16 adapters, one process per card, about 21 GB
# used on each of two 24 GB cards (which report 22 to 24 GiB).
SEED_CARDS = 2
SEED_CARD_GIB = 22.0
# Base checkpoint (17 GB), encoder (2 GB), a local copy of the graft, the run folder.
SEED_DISK_GIB = 60.0
# Two processes that each stream the shards through host memory.
SEED_MEMORY_GIB = 24.0
NANO_MEMORY_GIB = 2.0


def nano_verdict(report: dict[str, Any]) -> dict[str, Any]:
    """Whether the shipped model runs here, and what stands in the way."""
    why = []
    if not report["python"]["ok"]:
        why.append("Python 3.11 or newer is needed")
    if report["torch"]["version"] is None:
        why.append(f"torch cannot be imported ({report['torch']['problem']}): run `make setup`")
    if not report["nano_weights"]["files"]:
        why.append("its weights are not in the package: install a released wheel or train them (docs)")
    memory = report["memory_gib"]
    if memory < NANO_MEMORY_GIB:
        why.append(f"{memory} GiB of memory; {NANO_MEMORY_GIB} GiB are needed")
    if report["media"]["problem"]:
        why.append(f"audio or video libraries are broken: {report['media']['problem']}")
    return {"runs": not why, "why": why}


def seed_verdict(report: dict[str, Any]) -> dict[str, Any]:
    """Whether `recipes/seed.yaml` runs on this machine's cards, and what stands in the way."""
    why = []
    cards = report["torch"]["gpus"]
    fit = [card for card in cards if card["memory_gib"] >= SEED_CARD_GIB]
    if len(fit) < SEED_CARDS:
        seen = ", ".join(f"{card['name']} {card['memory_gib']} GiB" for card in cards) or "no card"
        why.append(f"needs {SEED_CARDS} cards of {SEED_CARD_GIB:.0f} GiB or more; torch sees {seen}")
    if report["driver"]["gpus"] and not cards:
        why.append("the driver sees a card, this build of torch does not: `make setup TORCH=cuda`")
    if not report["bitsandbytes"]["usable"]:
        why.append(f"bitsandbytes is not usable ({report['bitsandbytes']['problem']}): extra `train`")
    if report["extras"].get("train"):
        why.append(f"missing from extra `train`: {', '.join(report['extras']['train'])}")
    memory = report["memory_gib"]
    if memory < SEED_MEMORY_GIB:
        why.append(f"{memory} GiB of memory; {SEED_MEMORY_GIB:.0f} GiB are needed")
    free = report["disk"]["model_cache_free_gib"]
    if free < SEED_DISK_GIB:
        why.append(f"{free} GiB free in {report['disk']['model_cache']}; {SEED_DISK_GIB:.0f} GiB are needed")
    if report["hub"]["reachable"] is False:
        why.append("the model hub does not answer: point the recipe at local checkpoint folders")
    return {"runs": not why, "why": why}


def _marks(table: dict[str, bool]) -> str:
    return ", ".join(name if present else f"no {name}" for name, present in table.items()) or "none"


def _cards(cards: list[dict[str, Any]]) -> str:
    return ", ".join(f"{card['name']} ({card['memory_gib']} GiB)" for card in cards) or "none"


def _torch_line(torch: dict[str, Any]) -> str:
    if torch["version"] is None:
        return f"missing: {torch['problem']}"
    build = f"CUDA {torch['cuda_build']}" if torch["cuda_build"] else "CPU build"
    return f"{torch['version']}, {build}, {torch['threads']} threads"


def _hub_line(hub: dict[str, Any]) -> str:
    if not hub["probed"]:
        return "not asked (offline by default; --online asks)"
    return "answers" if hub["reachable"] else f"does not answer ({hub['problem']})"


def lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as (label, text) pairs, in the order they are printed."""
    speech, media, disk, driver = (report[name] for name in ("speech", "media", "disk", "driver"))
    bits, weights = report["bitsandbytes"], report["nano_weights"]
    edge = "installed" if speech["edge_tts"] else "not installed (extra `tts-online`)"
    table = [
        ("Python", f"{report['python']['version']} ({report['python']['executable']})"),
        ("PyTorch", _torch_line(report["torch"])),
        ("CPU", f"{report['cpu']['cores']} cores, OMP_NUM_THREADS={report['cpu']['omp_num_threads']}"),
        ("Memory", "unknown" if report["memory_gib"] is None else f"{report['memory_gib']} GiB"),
        ("Disk", f"{disk['here_free_gib']} GiB free here, {disk['model_cache_free_gib']} GiB free in "
                 f"{disk['model_cache']}"),
        ("GPU", _cards(report["torch"]["gpus"])),
        ("Driver", driver["problem"] or f"{driver['version']}: {_cards(driver['gpus'])}"),
        ("bitsandbytes", f"4-bit works on {bits['device']}" if bits["usable"] else f"no: {bits['problem']}"),
        ("espeak-ng", speech["problem"] or f"{speech['espeak']}, voices: {', '.join(speech['voices'])}"),
        ("espeak-ng binary", speech["system_binary"] or "none (not needed)"),
        ("flite", speech["flite"] or "not installed (apt install flite; an unfamiliar voice to test with)"),
        ("edge-tts", edge),
        ("Audio files", media["problem"] or _marks(media["audio"])),
        ("Video codecs", media["problem"] or _marks(media["video"])),
    ]  # fmt: skip
    for extra, missing in report["extras"].items():
        remedy = f"missing {', '.join(missing)}: pip install 'surgvivqa-audio[{extra}]'"
        table.append((f"Extra {extra}", remedy if missing else "complete"))
    table.append(("Model hub", _hub_line(report["hub"])))
    table.append(("Nano weights", f"{len(weights['files'])} files, {weights['mib']} MiB"))
    names = {"nano": "Runs nano", "seed": "Runs seed.yaml"}
    for name, verdict in report["verdicts"].items():
        table.append((names[name], "yes" if verdict["runs"] else "no: " + "; ".join(verdict["why"])))
    return table


def doctor(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    online: bool = typer.Option(False, "--online", help="Also ask whether the model hub answers."),
) -> None:
    """Say what this machine can run and what is missing; exit code 1 when nano cannot run."""
    from surgvivqa_audio.commands.machine import examine

    report = examine(online)
    report["verdicts"] = {"nano": nano_verdict(report), "seed": seed_verdict(report)}
    report["notice"] = NOTICE
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        for label, text in lines(report):
            typer.echo(f"{label:18}{text}")
        typer.echo(NOTICE)
    if not report["verdicts"]["nano"]["runs"]:
        raise typer.Exit(1)
