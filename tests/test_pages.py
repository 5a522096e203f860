"""The pages that run nothing: what they say about code, commands and numbers is tried here."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
import yaml
from reading import code, tables
from scipy import stats
from torch import nn

from grae_helpers import (
    data,
    folders,
    geometry,
    identifiability,
    jacobians,
    likelihoods,
    linear_vae,
    losses,
    posteriors,
    smoothness,
    sweep,
)
from tools import run_notebooks
from tools.project import ROOT, Project, ToolError

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
RUNNER = "python -m tools.run_notebooks"


def blocks(path, language):
    return [body for kind, body in FENCE.findall(path.read_text("utf8")) if kind == language]


def commands(path):
    """Every command that a page prints, one a line."""
    lines = [line for body in blocks(path, "bash") for line in body.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and line[0] != "#"]


each = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@each
def test_the_python_of_a_page_runs(path, monkeypatch, tmp_path):
    """The blocks of a page are one program; what it trains must have learned."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "\n".join(blocks(path, "python"))
    if not program:
        return
    with torch.random.fork_rng(devices=[]):
        names: dict = {}
        exec(compile(program, path.name, "exec"), names)
    if "terms" in names:
        images = names["images"]
        trivial = -likelihoods.Gaussian().log_prob(images, images.mean(0).expand_as(images)).mean()
        assert names["terms"].reconstruction.mean() < trivial
    if "rotated" in names:
        assert names["paid"] < names["rotated"]


@each
def test_the_commands_of_a_page_can_be_given(path, tmp_path):
    """Runner commands are planned, with every check of their parameters; make's targets exist."""
    book = Project(ROOT, tmp_path / "build", tmp_path / "html")
    for line in commands(path):
        words = shlex.split(line)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if not words:
            continue
        if RUNNER in line:
            options = run_notebooks._options(words[words.index("tools.run_notebooks") + 1 :])
            given = run_notebooks._collect(options.parameter, options.budget)
            assert run_notebooks.plan(book, options.only, given, book.build / "run"), line
        elif "grae_helpers.sweep" in words:
            words = words[words.index("grae_helpers.sweep") + 1 :]
            if words[0] != "collect":
                assert sweep_plan(words, tmp_path / "sweep"), line
        elif words[0] == "make":
            assert make_plan(book, words[1:]), line


def sweep_plan(words, out):
    options = sweep._options(words)
    fixed = sweep._fixed(options.parameter)
    return sweep.plan(ROOT / options.notebook, sweep._grid(options.grid), out, fixed=fixed).jobs


def make_plan(book, words):
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    targets = [word for word in words if "=" not in word]
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "ARGS" in variables and targets == ["book"]:
        options = run_notebooks._options(shlex.split(variables["ARGS"]))
        run_notebooks.plan(book, [], run_notebooks._collect(options.parameter, None), book.build / "run")
    return True


SUBMITTING = """
import json, sys
import dask_jobqueue
from grae_helpers import sweep

seen = {}
adapt = lambda cluster, **limits: seen.update(limits=limits, script=cluster.job_script())
dask_jobqueue.SLURMCluster.adapt = adapt
sweep.main = lambda words: print(json.dumps(seen | {"words": words}))
exec(compile(sys.stdin.read(), "slurm.py", "exec"), {"__name__": "__main__"})
"""


def test_the_slurm_script_asks_for_what_it_says(tmp_path):
    """The page's own program, but for submitting: the batch script of a worker, and the sweep that it runs.

    In a process of its own: to import dask_jobqueue changes what Ctrl-C does.
    """
    (program,) = blocks(ROOT / "book" / "howto.md", "py")
    command = [sys.executable, "-c", SUBMITTING]
    done = subprocess.run(command, input=program, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout, done.stderr
    seen = json.loads(done.stdout)
    for line in ("-p gpu", "--cpus-per-task=4", "--mem=15G", "-t 04:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}\n" in seen["script"]
    assert "export GRAE_DATA=$HOME/data\n" in seen["script"] and "--nthreads 1 " in seen["script"]
    assert seen["limits"] == {"minimum_jobs": 10, "maximum_jobs": 10}
    assert seen["words"][-2] == "--scheduler" and seen["words"][-1].startswith("tcp://")
    assert len(sweep_plan(seen["words"], tmp_path / "sweep")) == 30


def test_the_cluster_of_kubernetes_holds_together():
    """Claims, volumes, mounts and ports name each other, and the sweep lies on what is mounted."""
    (text,) = blocks(ROOT / "book" / "howto.md", "yaml")
    claim, cluster = yaml.safe_load_all(text)
    name, roles = cluster["metadata"]["name"], cluster["spec"]
    for role in ("worker", "scheduler"):
        pod = roles[role]["spec"]
        (volume,), (container,) = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/sweeps"}]
        assert container["args"][:2] == ["dask", role]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"]: port["port"] for port in roles["scheduler"]["service"]["ports"]} == ports
    assert roles["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == name
    (command,) = [line for line in commands(ROOT / "book" / "howto.md") if "kubectl exec" in line]
    assert f"deployment/{name}-scheduler" in command and "--out /sweeps/" in command
    assert command.endswith(f"tcp://localhost:{ports['tcp-comm']}")


@each
def test_what_a_page_says_is_refused_is_refused_in_these_words(path):
    for body in blocks(path, "console"):
        command, *expected = body.splitlines()
        with pytest.raises(ToolError) as refused:
            run_notebooks.main(shlex.split(command.partition(RUNNER)[2]))
        printed = f"error: {refused.value}".splitlines()
        shown = expected[: expected.index("...")] if "..." in expected else expected
        assert printed[: len(shown)] == shown and (len(shown) < len(expected) or len(shown) == len(printed))


@each
def test_a_page_names_no_other_repository_than_the_project(path):
    book = Project()
    owner = book.repository.split("/")[-2]
    for link in re.findall(r"https://github\.com/[\w.-]+/[\w-]+", path.read_text("utf8")):
        assert link == book.repository or f"/{owner}/" not in link
    for link in re.findall(r"https://colab\.research\.google\.com/github/[^\s)\"]+", path.read_text("utf8")):
        stem = link.rsplit("/", 1)[1].removesuffix(".ipynb")
        tail = f"{book.repository.removeprefix('https://github.com/')}/blob/{book.colab_branch}/notebooks/{stem}.ipynb"
        assert link.endswith(tail) and book.source(stem).is_file(), link


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_relative_links_outside_the_book_lead_somewhere(page):
    text = (ROOT / page).read_text("utf8")
    for link in re.findall(r"(?:\]\(|src=\"|href=\")(?!https?:|#)([^)\"\s#]+)", text):
        assert (ROOT / link).exists(), link


def symbols():
    """The notation page's rows with code in them: code and shape."""
    rows = [row for row in tables(ROOT / "book" / "notation.md") if len(row) == 4 and code(row[1])]
    return [(code(row[1]), row[3]) for row in rows]


@pytest.fixture(scope="module")
def scene():
    """One value for each name that the notation page uses; all its sizes differ."""
    torch.manual_seed(0)
    sizes = {"batch": 5, "D": 7, "d": 4, "k": 3}
    batch, D, d, b = 5, 7, 4, 2
    x, z, likelihood = torch.randn(batch, D), torch.randn(batch, d), likelihoods.Gaussian()
    decoder = nn.Sequential(nn.Linear(d, 9), nn.Tanh(), nn.Linear(9, D))
    posterior = posteriors.gaussian(z, torch.zeros(batch, posteriors.n_raw(d, b)), b)
    names = {"latent_dim": d, "block_size": b, "beta": 0.3, "n_columns": 3}
    names["columns"] = torch.tensor([3, 0, 1])
    names |= {"x": x, "z": z, "code": z, "decoder": decoder, "likelihood": likelihood, "posterior": posterior}
    names["prior"] = posteriors.gaussian(torch.zeros(1, d), torch.zeros(1, d), 1)
    names["hessian"] = jacobians.hessian(decoder, likelihood, x, z)
    names["jacobian"] = jacobians.jacobian(decoder, z)
    names["gauss_newton"] = jacobians.gauss_newton(decoder, likelihood, x, z)
    names["covariance"] = posteriors.covariance(posterior)
    names["rotation"] = torch.linalg.qr(torch.randn(d, d)).Q
    names["marginals"] = [stats.norm(), stats.laplace(), stats.logistic(), stats.norm()]
    names |= {"weights": torch.randn(D, 2), "latents": torch.randn(9, 2), "inferred": torch.randn(9, 2)}
    names |= {"activation": "tanh", "penalty": 1.0, "column": torch.randn(batch, D)}
    names["images"] = torch.rand(batch, 1, 16, 16)
    modules = [torch, geometry, identifiability, jacobians, linear_vae, losses, posteriors, smoothness]
    return sizes | names | {module.__name__.rpartition(".")[2]: module for module in modules}


@pytest.mark.parametrize(("expression", "shape"), symbols())
def test_a_symbol_has_its_name_and_shape(expression, shape, scene):
    value = eval(expression, dict(scene))
    sizes = re.search(r"\[([\w, ]+)\]", shape)
    expected = tuple(scene.get(name) or int(name) for name in sizes[1].split(", ")) if sizes else ()
    if shape.startswith("event"):
        assert tuple(value.event_shape) == expected
    elif sizes:
        assert tuple(value.shape) == expected
    elif shape == "number":
        assert isinstance(value, int | float)


def test_the_notation_page_names_a_symbol_once():
    named = [row[0] for row in tables(ROOT / "book" / "notation.md") if len(row) == 4]
    letters = [letter.strip() for cell in named for letter in cell.split(",") if "$" in letter]
    assert len(letters) > 20 and len(letters) == len(set(letters))


def test_a_decoder_of_variance_v_is_the_package_at_beta_times_v(scene):
    """The table's row on v, on the package's own objectives: one model, so gradients in a fixed ratio."""
    s = SimpleNamespace(**scene)
    parameters, v = list(s.decoder.parameters()), 0.4
    ours = losses.grae(s.x, s.code, s.decoder, likelihoods.Gaussian(), s.beta).total.sum()
    theirs = losses.grae(s.x, s.code, s.decoder, likelihoods.Gaussian(variance=v), s.beta / v).total.sum()
    pairs = zip(*(torch.autograd.grad(loss, parameters) for loss in (ours, theirs)), strict=True)
    assert all(torch.allclose(a, v * b, rtol=1e-4, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_data_page_counts_the_digits_right(split):
    rows = tables(ROOT / "book" / "datasets.md")
    row = dict(zip(rows[0], next(row for row in rows if row[0] == "`digits`"), strict=True))
    assert row[split] == f"{len(data.load('digits', split)):,}"


def test_the_data_page_names_every_data_set_and_suffix():
    text = (ROOT / "book" / "datasets.md").read_text("utf8")
    assert all(f"| `{name}` |" in text for name in data.NAMES)
    assert all(f"`{suffix}`" in text for suffix in folders.SUFFIXES)
