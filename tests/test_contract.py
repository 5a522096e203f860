"""The names and signatures that the contract promises, the order of imports, docstrings and examples."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import grae_helpers

FOLDER = Path(grae_helpers.__file__).parent
LEVELS = [
    ["checks"],
    ["runtime"],
    [
        "data", "models", "posteriors", "likelihoods", "decoding", "downloads", "folders", "storage", "archives",
        "procedural", "portraits", "drawing", "classifiers",
        "notebooks", "frechet",
    ],
    ["tangents"],
    ["jacobians"],
    ["regularizers"],
    ["losses"],
    ["checkpoints", "stepping"],
    ["runs"],
    ["training"],
    ["autoencoders"],
    [
        "priors", "identifiability", "angles", "linear_vae", "dependence", "quadrature", "toy_vae", "uniqueness",
        "geometry", "smoothness", "features", "fid",
    ],
    [
        "results", "published", "plotting", "plotting_theory", "plotting_latents", "plotting_dependence",
        "plotting_uniqueness", "plotting_training", "plotting_samples", "plotting_fid", "sliders",
    ],
    ["jobs"],
    ["executors"],
    ["grids"],
    ["sweep"],
]
ORDER = {name: level for level, names in enumerate(LEVELS) for name in names}
# Within a level: models are made of posteriors, a data source of its machinery, a part's figures of the one
# style.
SIDEWAYS = {
    ("models", "posteriors"), ("data", "downloads"), ("data", "folders"), ("data", "archives"),
    ("data", "procedural"), ("archives", "downloads"), ("archives", "folders"), ("folders", "downloads"),
    ("procedural", "drawing"), ("procedural", "portraits"), ("portraits", "drawing"),
    ("plotting_theory", "plotting"), ("plotting_latents", "plotting"), ("plotting_dependence", "plotting"),
    ("plotting_uniqueness", "plotting"), ("plotting_training", "plotting"), ("plotting_samples", "plotting"),
    ("plotting_fid", "plotting"),
    ("uniqueness", "identifiability"), ("uniqueness", "linear_vae"),
    ("uniqueness", "toy_vae"), ("uniqueness", "quadrature"), ("toy_vae", "quadrature"),
    ("identifiability", "priors"),
}  # fmt: skip
CORE = [
    "checks", "runtime", "models", "posteriors", "likelihoods", "decoding", "tangents", "jacobians", "regularizers",
    "losses", "checkpoints", "stepping", "training", "autoencoders", "smoothness", "procedural",
    "priors", "identifiability", "linear_vae", "dependence", "quadrature", "toy_vae", "uniqueness", "classifiers",
    "features", "fid",
]  # fmt: skip

CONTRACT = {
    "posteriors.gaussian": "(mean, raw, block_size=None)",
    "posteriors.covariance": "(posterior)",
    "likelihoods.Gaussian": "(variance=1.0)",
    "likelihoods.Bernoulli": "(parametrization='logits')",
    "likelihoods.Gaussian.log_prob": "(self, x, g)",
    "likelihoods.Gaussian.hessian_diag": "(self, x, g)",
    "likelihoods.Gaussian.mean": "(self, g)",
    "likelihoods.Bernoulli.log_prob": "(self, x, g)",
    "likelihoods.Bernoulli.hessian_diag": "(self, x, g)",
    "likelihoods.Bernoulli.mean": "(self, g)",
    "jacobians.jacobian": "(decoder, z)",
    "jacobians.jacobian_columns": "(decoder, z, columns)",
    "jacobians.hessian": "(decoder, likelihood, x, z)",
    "jacobians.gauss_newton": "(decoder, likelihood, x, z)",
    "jacobians.optimal_covariance": "(hessian, beta, block_size=None)",
    "identifiability.mixing_transform": "(z, rotation, marginals)",
    "identifiability.rotation_angle": "(latents, inferred)",
    "fid.frechet_distance": "(mean_a, cov_a, mean_b, cov_b)",
    "losses.beta_vae": "(x, posterior, decoder, likelihood, beta, *, n_samples=1)",
    "losses.taylor": "(x, posterior, decoder, likelihood, beta, *, hessian='gauss_newton')",
    "losses.grae": "(x, code, decoder, likelihood, beta, *, block_size=None, hessian='gauss_newton', "
    "encoder_weight=1.0, decoder_weight=1.0)",
    "losses.grae_approx": "(x, code, decoder, likelihood, beta, *, n_columns=1, generator=None, "
    "regularizer_fraction=1.0, encoder_weight=1.0, decoder_weight=1.0, orthogonality=0.0)",
    "losses.rae": "(x, code, decoder, likelihood, beta, *, penalty=1.0, regularizer='gradient', n_probes=1, "
    "generator=None)",
    "losses.autoencoder": "(x, code, decoder, likelihood)",
}


def find(name: str):
    module, *path = name.split(".")
    found = importlib.import_module(f"grae_helpers.{module}")
    for part in path:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", CONTRACT)
def test_signatures(name):
    signature = inspect.signature(find(name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    found = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    assert str(found) == CONTRACT[name]


def test_data_load_takes_a_name_and_a_split():
    name, split, *others = inspect.signature(find("data.load")).parameters.values()
    assert (name.name, split.name, split.default) == ("name", "split", "train")
    assert all(other.kind is inspect.Parameter.KEYWORD_ONLY for other in others)


@pytest.mark.parametrize("name", ["mnist_encoder", "mnist_decoder", "celeba_encoder", "celeba_decoder"])
def test_networks_take_a_latent_dim_and_a_width(name):
    parameters = inspect.signature(find(f"models.{name}")).parameters
    assert next(iter(parameters)) == "latent_dim"
    assert parameters["width"].default == 1.0


def test_losses_are_three_terms_and_their_sum():
    terms = find("losses.LossTerms")
    assert terms._fields == ("reconstruction", "latent", "decoder")
    assert terms(1.0, 2.0, 3.0).total == 6.0


def modules() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def imported(name: str) -> set[str]:
    """Which modules of the package a module imports, anywhere in its source."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            if node.module == "grae_helpers":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("grae_helpers."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("grae_helpers.")}
    return found


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_from_lines_above_its_own(name):
    assert name in ORDER, f"{name} has no line in the contract's order"
    wrong = {
        other for other in imported(name) if ORDER[other] >= ORDER[name] and (name, other) not in SIDEWAYS
    }
    assert not wrong


@pytest.mark.parametrize("name", modules())
def test_modules_are_short(name):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 300


def public(name: str) -> dict[str, object]:
    module = importlib.import_module(f"grae_helpers.{name}")
    own = {k: v for k, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
    return {
        k: v
        for k, v in own.items()
        if not k.startswith("_") and (inspect.isfunction(v) or inspect.isclass(v))
    }


@pytest.mark.parametrize("name", modules())
def test_everything_public_has_a_docstring(name):
    assert importlib.import_module(f"grae_helpers.{name}").__doc__
    assert not [k for k, v in public(name).items() if not v.__doc__]


@pytest.mark.parametrize("name", CORE)
def test_every_public_function_has_an_example(name):
    # What needs the machine's state has no stable output to show.
    exempt = {"torchvision", "find_inception"}
    parser = doctest.DocTestParser()
    functions = {k: v for k, v in public(name).items() if inspect.isfunction(v) and k not in exempt}
    assert not [k for k, v in functions.items() if not parser.get_examples(v.__doc__)]


def test_no_inverse_in_the_package():
    for name in modules():
        source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert "linalg.inv(" not in source
        assert "torch.inverse" not in source
