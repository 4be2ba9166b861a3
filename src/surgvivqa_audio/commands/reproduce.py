"""`surgvivqa reproduce`: the whole road of a recipe on one DATA folder, stage by stage.

Every stage is one of our own commands in a process of its own. A stage that ended well leaves a note in
``OUT/stages``; run again, the road continues at the first stage without one. A stage is run again when its
command has changed, and the stages after it with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

PUBLISHED_VIDEOS = ["002-001", "002-002", "002-003"]
PUBLISHED_TEST = ["002-004"]


@dataclass(frozen=True)
class Road:
    """Everything the stages are made of."""

    recipe: Path
    data: Path
    out: Path
    mode: str
    layout: str
    videos: list[str]
    held_out: list[str]
    policy: str
    source: str
    listing: str
    processes: int
    overrides: list[str]
    device: str = "auto"

    @property
    def model(self) -> Path:
        """Where the run leaves its model."""
        return self.out / "train" / "model"

    def split(self, name: str) -> str:
        """A file of the split."""
        return str(self.out / "splits" / f"{name}.jsonl")

    def predictions(self, name: str) -> str:
        """A prediction file."""
        return str(self.out / "predictions" / f"{name}.jsonl")

    @property
    def baselines(self) -> list[str]:
        """Systems that fit the layout and the model's parts."""
        systems = ["audio-zeroshot", "noframes", "majority", "constant"]
        return systems if self.layout == "seed" else ["text-zeroshot", *systems]


def stages(road: Road) -> dict[str, list[str]]:
    """Arguments of `surgvivqa` for every stage by name, in order."""
    data, every = str(road.data), [*road.videos, *road.held_out]
    made: dict[str, list[str]] = {}
    if road.source:
        made["annotations"] = ["data", "fetch", "annotations", data, "--source", road.source]
    listing = ["--listing", road.listing] if road.listing else []
    made["fetch"] = ["data", "fetch", "frames", data, "--videos", *every, *listing]
    made["verify"] = ["data", "verify", data, "--no-speech", "--videos", *every]
    for template in ("in", "out"):
        rows = str(road.data / f"{template}_template.jsonl")
        made[f"speech-{template}"] = ["speech", "make", rows, str(road.data / "speech")]
    split = ["data", "split", str(road.data / "in_template.jsonl"), str(road.out / "splits")]
    split += ["--policy", road.policy, "--held-out", *road.held_out, "--videos", *every]
    made["split"] = split
    train = ["train", str(road.recipe), "--out", str(road.out / "train"), "--resume"]
    settings = [f"data.folder={data}", f"data.train={road.split('train')}", f"data.eval={road.split('eval')}"]
    for setting in [*settings, *road.overrides]:
        train += ["--set", setting]
    made["train"] = train
    common = ["--model", str(road.model), "--train", road.split("train"), "--device", road.device]
    for part in ("eval", "test"):
        asked = ["eval", "run", data, "--system", road.mode, "--rows", road.split(part)]
        made[part] = [*asked, "--out", road.predictions(part), *common]
    baselines = ["eval", "baselines", str(road.out / "test"), "--out", str(road.out / "predictions")]
    baselines += ["--systems", ",".join(road.baselines), "--speech", str(road.data / "speech")]
    made["baselines"] = [*baselines, *common]
    files = [road.predictions(name) for name in ["test", *(f"{system}-in" for system in road.baselines)]]
    made["report"] = [
        "eval", "report", *files, "--out", str(road.out / "report"), "--train", road.split("train"),
        "--eval", road.predictions("eval"), "--data", data, "--title", f"Reproduction of {road.recipe.stem}",
    ]  # fmt: skip
    return made


def reproduce(
    recipe: Annotated[Path, typer.Argument(help="Recipe of stage vqa, for example recipes/seed.yaml.")],
    data: Annotated[Path, typer.Argument(help="DATA folder; filled on the way.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/reproduce/<recipe>.")] = None,
    videos: Annotated[list[str], typer.Option(help="Procedures to train on.")] = PUBLISHED_VIDEOS,
    held_out: Annotated[list[str], typer.Option(help="Procedures to test on.")] = PUBLISHED_TEST,
    policy: Annotated[str, typer.Option(help="As in data split: seed (as published) or leak-free.")] = "seed",
    source: Annotated[str, typer.Option(help="Where the annotations are; empty: in DATA already.")] = "",
    listing: Annotated[str, typer.Option(help="File listing of another mirror.")] = "",
    processes: Annotated[int, typer.Option(min=1, help="Training processes, one per GPU.")] = 1,
    overrides: Annotated[list[str], typer.Option("--set", help="As in train.")] = [],  # noqa: B006
    device: Annotated[str, typer.Option(help="Of the evaluation: auto, cpu or cuda.")] = "auto",
) -> None:
    """Fetch, verify, speak, split, train, evaluate, compare, report; continues where it was stopped."""
    from surgvivqa_audio.errors import ConfigError, SurgVivqaError
    from surgvivqa_audio.model.device import find_device
    from surgvivqa_audio.training.recipe import read_recipe
    from surgvivqa_audio.training.vqa_recipe import VqaRecipe

    find_device(device)
    chosen = read_recipe(recipe, overrides)
    if not isinstance(chosen, VqaRecipe) or chosen.data.target != "answer":
        raise ConfigError(f"{recipe}: a recipe of stage vqa with answers as target is needed")
    if not source and not (data / "in_template.jsonl").is_file():
        raise ConfigError(f"{data}: no in_template.jsonl; name its folder or address by --source")
    road = Road(
        recipe, data, out or Path("runs") / "reproduce" / recipe.stem, chosen.data.mode, chosen.prompt.layout,
        videos, held_out, policy, source, listing, processes, overrides, device,
    )  # fmt: skip
    made, valid = stages(road), True
    for number, (name, arguments) in enumerate(made.items(), start=1):
        note = road.out / "stages" / f"{name}.json"
        valid = valid and _done(note, arguments)
        if valid:
            typer.echo(f"{number}/{len(made)} {name}: already done")
            continue
        typer.echo(f"{number}/{len(made)} {name}: surgvivqa {' '.join(arguments)}")
        if name == "baselines":
            _test_folder(road)
        seconds = _run(arguments, processes if name == "train" else 1)
        if seconds is None:
            raise SurgVivqaError(f"stage {name} failed; mend what it says and run the same command again")
        _note(note, arguments, seconds)
    typer.echo(f"{road.out / 'report' / 'report.html'}: the report; every file lies in {road.out}")


def _done(note: Path, arguments: list[str]) -> bool:
    if not note.is_file():
        return False
    return bool(json.loads(note.read_text(encoding="utf-8"))["arguments"] == arguments)


def _note(note: Path, arguments: list[str], seconds: float) -> None:
    from surgvivqa_audio.files import write_json

    write_json(note, {"arguments": arguments, "seconds": round(seconds, 1)})


def _run(arguments: list[str], processes: int) -> float | None:
    """Seconds that the command took, None when it failed."""
    command = [sys.executable, "-m", "surgvivqa_audio.cli", *arguments]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, *launcher, "surgvivqa_audio.cli", *arguments]
    start = monotonic()
    done = subprocess.run(command, check=False)
    return monotonic() - start if done.returncode == 0 else None


def _test_folder(road: Road) -> None:
    """The test split as a DATA folder of its own: both wordings, the frames of the whole one."""
    from surgvivqa_audio.data.folder import derive_out_template
    from surgvivqa_audio.files import write_bytes
    from surgvivqa_audio.taxonomy import load_taxonomy

    folder = road.out / "test"
    write_bytes(folder / "in_template.jsonl", Path(road.split("test")).read_bytes())
    derive_out_template(folder, load_taxonomy())
    if (road.data / "video_info.csv").is_file():
        write_bytes(folder / "video_info.csv", (road.data / "video_info.csv").read_bytes())
    if not (folder / "frames").exists():
        (folder / "frames").symlink_to((road.data / "frames").resolve(), target_is_directory=True)
