"""Where things are, what the project's settings say, and how a tool ends."""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from grae_helpers.notebooks import BadInput as ToolError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Project:
    """The folders of one checkout; `build` and `html` may lie elsewhere, as the tests' do."""

    root: Path = ROOT
    build: Path = ROOT / "build"
    html: Path = ROOT / "_build" / "html"

    @property
    def sources(self) -> list[Path]:
        return sorted((self.root / "notebooks").glob("*.py"))

    def source(self, stem: str) -> Path:
        return self.root / "notebooks" / f"{stem}.py"

    @property
    def pyproject(self) -> dict:
        return tomllib.loads((self.root / "pyproject.toml").read_text("utf8"))

    @property
    def repository(self) -> str:
        """The repository's address: the only place that says it is `[project.urls]`."""
        url = self.pyproject.get("project", {}).get("urls", {}).get("Repository", "").rstrip("/").removesuffix(".git")
        if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
            wanted = "[project.urls] Repository should be https://github.com/owner/name"
            raise ToolError(f"pyproject.toml: {wanted}, got {url!r}")
        return url

    @property
    def edition(self) -> str:
        """The tag that is being published, such as v0.1.0: a release says it in $GRAE_EDITION. "" for main's."""
        tag = os.environ.get("GRAE_EDITION", "")
        if tag and not re.fullmatch(r"v\d+\.\d+(\.\d+)?", tag):
            raise ToolError(f"$GRAE_EDITION should be a tag like v0.1.0, or not be set, got {tag!r}")
        return tag

    @property
    def version(self) -> str:
        """What `grae_helpers` of this checkout calls itself."""
        source = self.root / "grae_helpers" / "__init__.py"
        found = re.search(r'^__version__ = "([^"]+)"$', source.read_text("utf8"), re.MULTILINE)
        if not found:
            raise ToolError(f'{source.name} of grae_helpers should hold a line __version__ = "…"')
        return found[1]

    @property
    def home(self) -> str:
        """The address of the published site, main's: GitHub Pages of the repository."""
        owner, name = self.repository.split("/")[-2:]
        return f"https://{owner}.github.io/{name}"

    @property
    def site(self) -> str:
        """The address at which the site of this edition is published: a folder of `home` for a tag."""
        return f"{self.home}/{self.edition}".rstrip("/")

    @property
    def colab_branch(self) -> str:
        """The branch that holds this edition's clean notebooks: none are kept beside their sources."""
        return "-".join(filter(None, ["colab", self.edition]))

    @property
    def toc(self) -> dict:
        return yaml.safe_load((self.root / "_toc.yml").read_text("utf8"))

    @property
    def pages(self) -> list[str]:
        """Every page that _toc.yml names, in reading order."""
        return [self.toc["root"], *_files(self.toc)]

    @property
    def chapters(self) -> list[str]:
        """The stems of the notebooks among the pages."""
        return [page.removeprefix("notebooks/") for page in self.pages if page.startswith("notebooks/")]

    def shown(self, path: Path) -> Path:
        """A path as messages name it: from the checkout, if it is in there."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def git(self, *arguments: str) -> str:
        """What git prints, or "" where this is no checkout."""
        command = ["git", "-C", str(self.root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""


def _files(node: object) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if not isinstance(node, dict):
        return []
    below = [name for key, value in node.items() if key != "file" for name in _files(value)]
    return ([node["file"]] if "file" in node else []) + below


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every tool has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    made.add_argument(
        "--build", type=Path, help="folder of everything on the way to the site (default: ROOT/build)"
    )
    return made


def project(options: argparse.Namespace) -> Project:
    root = options.root.resolve()
    build = (options.build or root / "build").resolve()
    html = (getattr(options, "html", None) or root / "_build" / "html").resolve()
    return Project(root, build, html)


def run(main: Callable[[list[str]], int]) -> None:
    """Run a tool's `main`: its own errors are a message and status 2, never a traceback."""
    try:
        sys.exit(main(sys.argv[1:]))
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
