"""Machines that stand in for Colab's: a fresh environment with an older torch, no checkout, a kernel, a Drive.

The packages that Colab ships are installed once into build/colab-*, which takes minutes; a machine is an environment
of its own on top of them, made in a moment, into which a notebook's setup cell installs for real.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from filelock import FileLock
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

from grae_helpers.notebooks import ANSI, FOLDERS
from tools.project import ROOT, Project

OLDEST = ("torch", "torchvision", "numpy")
"""What Colab ships and an installation must leave alone: here the oldest that pyproject.toml allows."""
NOT_SHIPPED = ("torch-fidelity",)
STAMP = "installed.txt"
SPACE = 9_000_000_000  # bytes: CUDA's libraries come with torch
COLAB = """\
import os, pathlib


def mount(place):
    from grae_helpers import runtime

    runtime.DRIVE = pathlib.Path(os.environ["COLAB_DRIVE"])
    (runtime.DRIVE / "MyDrive").mkdir(parents=True, exist_ok=True)
    print("Mounted at", place)
"""
FACTS = """\
import json as _json, sys as _sys
import numpy as _numpy, torch as _torch, torchvision as _torchvision
_found = {module.__name__: [module.__version__, module.__file__] for module in (_torch, _torchvision, _numpy)}
print(_json.dumps(_found | {"grae_helpers": [None, _sys.modules["grae_helpers"].__file__]}))
"""


def shipped() -> list[str]:
    """The requirements of a machine of Colab's, as far as the book needs them."""
    settings = Project().pyproject["project"]
    wanted = [*settings["dependencies"], *settings["optional-dependencies"].get("own", []), "ipykernel>=6"]
    return [_oldest(Requirement(entry)) for entry in wanted if Requirement(entry).name not in NOT_SHIPPED]


def _oldest(requirement: Requirement) -> str:
    if requirement.name not in OLDEST:
        return str(requirement)
    (lowest,) = [each.version for each in requirement.specifier if each.operator == ">="]
    if requirement.name == "numpy" and sys.version_info >= (3, 13):
        lowest = "2.1"  # the first with a wheel for this Python
    return f"{requirement.name}=={lowest}.*"


def unreachable() -> str:
    """Why no package can be had from the index; "" where they can."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
    done = subprocess.run([*command, "--no-cache-dir", *NOT_SHIPPED], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"the package index cannot be reached: {done.stderr.strip()[-300:]}"


def place() -> Path:
    """Where the environment that Colab ships is kept: one for each torch and Python."""
    torch = "\n".join([*(line for line in shipped() if "==" in line), sys.version])
    return ROOT / "build" / f"colab-{hashlib.sha256(torch.encode()).hexdigest()[:12]}"


def environment() -> Path:
    """What Colab ships, installed or brought up to date if need be, and locked meanwhile.

    The stamp, written last, lists what is in it.
    """
    wanted, folder = "\n".join(shipped()), place()
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        stamp = folder / STAMP
        if not stamp.is_file() or stamp.read_text("utf8") != wanted:
            _run([sys.executable, "-m", "venv", folder])
            _run([python(folder), "-m", "pip", "install", "--quiet", "--no-cache-dir", *shipped()])
            stamp.write_text(wanted, "utf8")
    return folder


def _run(command: list, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def python(folder: Path) -> Path:
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def packages(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


def repository(folder: Path) -> Project:
    """A clone of this checkout whose last commit holds the files as they are now, committed or not."""
    _run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, folder])
    listed = _run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in _run(["git", "-C", folder, "ls-files", "-z"]).split("\0"):
        if name and name not in names:
            (folder / name).unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    _run(["git", "-C", folder, "add", "--all"])
    _run(["git", "-C", folder, *identity, "commit", "--quiet", "--allow-empty", "-m", "the files as they are"])
    return Project(folder, folder / "build", folder / "_build" / "html")


@dataclass
class Session:
    """A notebook after it ran on a machine: its cells, what went wrong, and what the machine looks like."""

    notebook: nbformat.NotebookNode
    error: str
    seconds: float
    facts: dict
    installed: set[str]
    mounted: bool

    def printed(self, tag: str | None = None) -> str:
        """What the cells printed and showed as text; of one tag, or of all."""
        cells = [cell for cell in self.notebook.cells if tag is None or tag in cell.metadata.get("tags", [])]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        return "\n".join(output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs)


@dataclass
class Machine:
    """A fresh machine of Colab's in `folder`, on which the book's address leads to the clone `origin`."""

    shipped: Path
    folder: Path
    origin: Project

    def __post_init__(self) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", self.folder / "env"])
        (packages(self.folder / "env") / "shipped.pth").write_text(f"{packages(self.shipped)}\n", "utf8")
        colab = packages(self.folder / "env") / "google" / "colab"
        colab.mkdir(parents=True)
        (colab / "__init__.py").write_text("", "utf8")
        (colab / "drive.py").write_text(COLAB, "utf8")
        (self.folder / "content").mkdir()

    def run(self, notebook: nbformat.NotebookNode, drive: Path | None = None, **parameters: object) -> Session:
        """Change parameters in the notebook's cell, as a reader does, and run all."""
        notebook = nbformat.from_dict(notebook)
        for name, value in parameters.items():
            _type_in(notebook, name, value)
        notebook.cells.append(nbformat.v4.new_code_cell(FACTS, id="facts"))
        started, error, facts = time.perf_counter(), "", {}
        client = NotebookClient(notebook, kernel_manager_class=self._kernel(), timeout=600, startup_timeout=300)
        try:
            asyncio.run(client.async_execute(cwd=str(self.folder / "content"), env=self._variables(drive)))
            facts = json.loads(notebook.cells[-1].outputs[0].text)
        except CellExecutionError as failed:
            error = ANSI.sub("", str(failed))
        seconds, drive = time.perf_counter() - started, drive or self.folder / "drive"
        names = {path.name.partition("-")[0] for path in packages(self.folder / "env").glob("*.dist-info")}
        return Session(notebook, error, seconds, facts, names, drive.exists())

    def _kernel(self) -> type:
        argv = [str(python(self.folder / "env")), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        argv += ["--IPKernelApp.exec_lines=import google.colab", "--log-level=CRITICAL"]  # as Colab's kernel does

        class Manager(AsyncKernelManager):
            kernel_spec = property(lambda self: KernelSpec(argv=argv, language="python"))

        return Manager

    def _variables(self, drive: Path | None) -> dict[str, str]:
        ours = ("GRAE_", "PYTHON", "VIRTUAL_", "COVERAGE", "PYTEST")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        kept |= {name: os.path.abspath(os.environ[name]) for name in FOLDERS[:2] if os.environ.get(name)}
        address = {"KEY": f"url.{self.origin.root.as_uri()}.insteadOf", "VALUE": f"{self.origin.repository}.git"}
        kept |= {f"GIT_CONFIG_{part}_0": text for part, text in address.items()} | {"GIT_CONFIG_COUNT": "1"}
        kept |= {"COLAB_DRIVE": str(drive or self.folder / "drive"), "CUDA_VISIBLE_DEVICES": ""}
        return kept | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _type_in(notebook: nbformat.NotebookNode, name: str, value: object) -> None:
    """Replace the default of a parameter, or of the box for Drive, in the cell where it is written."""
    for cell in notebook.cells:
        lines = cell.source.split("\n")
        for number, line in enumerate(lines):
            if cell.cell_type == "code" and line.startswith((f"{name}: ", f"{name} = ")):
                lines[number] = f"{line.partition('=')[0]}= {value!r}"
                cell.source = "\n".join(lines)
                return
    raise ValueError(f"{name}: expected a parameter of the notebook")
