"""The wheel works outside the checkout: taxonomy, recipes and shipped weights travel inside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LIMIT = 40 << 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the tools of this environment, so that nothing is downloaded."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout that holds the package; its dependencies come from this environment."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target)]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python outside the checkout; PYTHONPATH comes before the editable install."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "src/surgvivqa_audio", "recipes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {
        name.removeprefix("src/") if name.startswith("src/") else f"surgvivqa_audio/{name}"
        for name in tracked
        if Path(name).name != ".gitkeep" and (ROOT / name).is_file()
    }
    assert "surgvivqa_audio/taxonomy/realcolon.toml" in expected
    assert expected - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_wheel_stays_small_and_holds_no_real_annotations(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < LIMIT
    published = ("in_template.jsonl", "out_template.jsonl", "video_info.csv", "lesion_info.csv")
    assert [name for name in names if name.endswith(published)] == []
    assert [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_taxonomy_loads_from_the_installed_wheel(installed: Path) -> None:
    done = run(
        installed,
        "-c",
        "import surgvivqa_audio\n"
        "from surgvivqa_audio.taxonomy import load_taxonomy\n"
        "print(surgvivqa_audio.__file__)\n"
        "print(len(load_taxonomy().types))",
    )
    assert done.returncode == 0, done.stderr
    where, types = done.stdout.split()
    assert Path(where).is_relative_to(installed)
    assert types == "20"


def test_the_command_line_runs_from_the_installed_wheel(installed: Path) -> None:
    done = run(installed, "-m", "surgvivqa_audio.cli", "--help")
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout
    assert "not for clinical use" in done.stdout
