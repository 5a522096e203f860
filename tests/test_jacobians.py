"""Derivatives against finite differences and reverse mode; batch statistics frozen by PyTorch itself."""

import re

import numpy as np
import pytest
import torch
from helpers import (
    DOUBLE,
    buffers,
    fd_hessian,
    fd_jacobian,
    frozen_copy,
    gradient_error,
    network,
    normal,
    normalised_network,
    relative,
    same_buffers,
)
from torch import nn

from grae_helpers import jacobians, models
from grae_helpers.likelihoods import Bernoulli, Gaussian

Z = normal(9, 3)
BITS = (normal(9, 5, seed=3) > 0).double()
HIDDEN = [nn.Tanh, nn.ELU, nn.Sigmoid, nn.Softplus]


class Functional(nn.Module):
    """Batch normalisation without a module that says so."""

    def __init__(self):
        super().__init__()
        self.linear = network(3, 5)

    def forward(self, z):
        return torch.nn.functional.batch_norm(self.linear(z), None, None, training=True).tanh()


class Hidden(nn.Module):
    """Batch normalisation that `modules()` does not find."""

    def __init__(self, norm):
        super().__init__()
        self.linear, self.norms = network(3, 5), [norm]

    def forward(self, z):
        return self.norms[0](self.linear(z)).tanh()


class Twice(nn.Module):
    """One batch normalisation at two places, with other statistics at each."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = network(3, 5), network(5, 5, seed=1), nn.BatchNorm1d(5).double()

    def forward(self, z):
        return self.norm(self.second(self.norm(self.first(z)).tanh())).tanh()


def per_sample(decoder, z):
    def one(row):
        return torch.autograd.functional.jacobian(lambda a: decoder(a[None])[0].flatten(), row)

    return torch.stack([one(row) for row in z])


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("grad", [True, False])
def test_jacobian_is_finite_differences_and_reverse_mode(hidden, grad):
    decoder = network(3, 7, 5, hidden=hidden)
    with torch.set_grad_enabled(grad):
        found = jacobians.jacobian(decoder, Z)
    assert found.shape == (9, 5, 3)
    assert found.requires_grad is grad
    assert relative(found, fd_jacobian(decoder, Z)) < 1e-8
    assert relative(found, per_sample(decoder, Z)) < 1e-12


def test_jacobian_of_the_paper_network_in_eval_mode():
    torch.manual_seed(0)
    decoder = models.mnist_decoder(3, width=1 / 64).double().eval()
    with torch.no_grad():
        found = jacobians.jacobian(decoder, Z)
    assert found.shape == (9, 784, 3)
    assert relative(found, fd_jacobian(decoder, Z, 1e-4, 2)) < 1e-8
    assert relative(found[:1], per_sample(decoder, Z[:1])) < 1e-12


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(inplace=True), nn.ELU(inplace=True), nn.LayerNorm(6), nn.GroupNorm(2, 6),
        nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2), nn.Flatten()),
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.Dropout().eval(), nn.BatchNorm1d(6).eval(),
    ],
    ids=["relu_", "elu_", "layer", "group", "instance", "weight", "dropout", "batch"],
)  # fmt: skip
def test_common_layers(layer):
    decoder = nn.Sequential(network(3, 6), layer, network(6, 4, seed=1)).double()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert relative(jacobians.jacobian(decoder, Z), fd_jacobian(decoder, Z, 2e-4, 2)) < 1e-8


@pytest.mark.parametrize("batch", [1, 2, 17, 40])
def test_chunks_equal_one_by_one(batch):
    decoder, z = network(3, 7, 5), normal(batch, 3)
    with torch.no_grad():
        one_by_one = torch.cat([jacobians.jacobian(decoder, row[None]) for row in z])
        assert relative(jacobians.jacobian(decoder, z), one_by_one) < 1e-14
        x = normal(batch, 5)
        for f in (jacobians.gauss_newton, jacobians.hessian):
            rows = [f(decoder, Gaussian(), a[None], b[None]) for a, b in zip(x, z, strict=True)]
            assert relative(f(decoder, Gaussian(), x, z), torch.cat(rows)) < 1e-13
    with_grad = jacobians.jacobian(decoder, z)
    assert relative(with_grad, one_by_one) < 1e-14


def test_chunks_are_small_without_a_graph():
    sizes = []

    def decoder(z):
        sizes.append(len(z))
        return z**2

    with torch.no_grad():
        jacobians.jacobian(decoder, normal(400, 3))
    assert sum(sizes[1:]) == 400
    assert max(sizes[1:]) == 50
    sizes.clear()
    jacobians.jacobian(decoder, normal(400, 3))
    assert sizes[1:] == [400]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients(mode):
    decoder, norm, x = network(3, 7, 5), normalised_network(3, 6, 5), normal(9, 5)
    for net in (decoder, norm):
        expected = [jacobians.jacobian(net, Z), jacobians.hessian(net, Gaussian(), x, Z)]
        expected += [jacobians.jacobian_columns(net, Z, torch.tensor([2, 0]))[1]]
        with mode():
            z = Z.clone()
            found = [jacobians.jacobian(net, z), jacobians.hessian(net, Gaussian(), x, z)]
            found += [jacobians.jacobian_columns(net, z, torch.tensor([2, 0]))[1]]
        assert not any(tensor.requires_grad for tensor in found)
        assert all(relative(a, b) < 1e-12 for a, b in zip(found, expected, strict=True))


def test_push_forward_is_the_jacobian_times_directions():
    decoder, directions = network(3, 7, 5), normal(9, 3, 4, seed=2)
    found = jacobians.push_forward(decoder, Z, directions)
    assert relative(found, fd_jacobian(decoder, Z) @ directions) < 1e-8


@pytest.mark.parametrize(
    "decoder", [network(3, 7, 5), normalised_network(3, 6, 5)], ids=["plain", "normalised"]
)
@pytest.mark.parametrize("columns", [[1], [2, 0], [1, 1], [0, 1, 2]])
def test_columns(decoder, columns):
    expected = fd_jacobian(frozen_copy(decoder, Z), Z)
    g, found = jacobians.jacobian_columns(decoder, Z, torch.tensor(columns))
    assert relative(g, decoder(Z)) < 1e-12
    assert relative(found, expected[:, :, columns]) < 1e-8


@pytest.mark.parametrize("k", [1, 2])
def test_columns_chosen_per_sample(k):
    decoder = network(3, 7, 5)
    columns = torch.randint(3, (9, k), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([j[:, c] for j, c in zip(fd_jacobian(decoder, Z), columns, strict=True)])
    assert relative(jacobians.jacobian_columns(decoder, Z, columns)[1], expected) < 1e-8


CURVED = [(Gaussian(), normal(9, 5, seed=2)), (Gaussian(0.3), normal(9, 5, seed=2)), (Bernoulli(), BITS)]
CURVED += [(Bernoulli("probs"), BITS)]


@pytest.mark.parametrize(("likelihood", "x"), CURVED, ids=["unit", "variance", "logits", "probs"])
@pytest.mark.parametrize("grad", [True, False])
def test_hessians_are_finite_differences(likelihood, x, grad):
    output = nn.Sigmoid if repr(likelihood) == repr(Bernoulli("probs")) else nn.Identity
    decoder = network(3, 6, 5, output=output)
    expected = fd_hessian(lambda z: likelihood.log_prob(x, decoder(z)), Z)
    with torch.set_grad_enabled(grad):
        exact = jacobians.hessian(decoder, likelihood, x, Z)
        approximate = jacobians.gauss_newton(decoder, likelihood, x, Z)
    assert exact.requires_grad is approximate.requires_grad is grad
    assert relative(exact, expected) < 1e-8
    j, g = fd_jacobian(decoder, Z).numpy(), decoder(Z).detach()
    curvature = likelihood.hessian_diag(x, g).numpy()
    product = np.einsum("npi,np,npj->nij", j, curvature, j)
    assert relative(approximate, torch.tensor(product)) < 1e-8


def test_hessian_is_reverse_mode_per_sample():
    decoder, x = network(3, 6, 5), normal(9, 5, seed=2)
    for likelihood, pixels in ((Gaussian(), x), (Bernoulli(), BITS)):
        rows = [
            torch.autograd.functional.hessian(
                lambda a, f=likelihood.log_prob, x=pixels[i : i + 1]: f(x, decoder(a[None]))[0], z
            )
            for i, z in enumerate(Z)
        ]
        assert relative(jacobians.hessian(decoder, likelihood, pixels, Z), torch.stack(rows)) < 1e-12


@pytest.mark.parametrize("hidden", [nn.ReLU, nn.LeakyReLU])
def test_piecewise_linear_decoders_neglect_nothing(hidden, claim):
    decoder, x = network(3, 8, 5, hidden=hidden), normal(9, 5)
    exact, kept = (f(decoder, Gaussian(), x, Z).detach() for f in (jacobians.hessian, jacobians.gauss_newton))
    assert torch.equal(exact, kept)
    claim("K7e", "holds", ours=float((exact - kept).abs().max()))


@pytest.mark.parametrize("name", ["identity", "relu"])
def test_float32_keeps_a_rank_deficient_hessian_definite(name):
    torch.manual_seed(0)
    decoder = models.mlp_decoder(16, 8, [64], hidden=name)
    for parameter in decoder.parameters():
        parameter.data.mul_(10)
    z, x = torch.randn(6, 16), torch.rand(6, 8)
    found = jacobians.precision_cholesky(jacobians.wide_hessian(decoder, Gaussian(0.01), x, z), 1e-4)
    decoder.double()
    expected = jacobians.wide_hessian(decoder, Gaussian(0.01), x.double(), z.double())
    expected = jacobians.precision_cholesky(expected, 1e-4).diagonal(dim1=1, dim2=2).log().sum(1)
    assert relative(found.diagonal(dim1=1, dim2=2).log().sum(1), expected) < 1e-5


@pytest.mark.parametrize(
    "decoder", [normalised_network(3, 6, 5), Functional(), Hidden(nn.BatchNorm1d(5).double())]
)
@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("grad", [True, False])
def test_batch_norm_in_train_mode_has_constant_statistics(decoder, closure, grad):
    x = normal(9, 5, seed=2)
    with torch.no_grad():
        first = decoder.linear if hasattr(decoder, "linear") else None
        if first is None:
            frozen = frozen_copy(decoder, Z)
        else:
            mean, std = first(Z).mean(0), (first(Z).var(0, correction=0) + 1e-5).sqrt()

            def frozen(z):
                return ((first(z) - mean) / std).tanh()

    run = (lambda z: decoder(z)) if closure else decoder
    with torch.set_grad_enabled(grad):
        j = jacobians.jacobian(run, Z)
        product = jacobians.gauss_newton(run, Gaussian(), x, Z)
        exact = jacobians.hessian(run, Gaussian(), x, Z)
    expected = fd_jacobian(frozen, Z)
    assert relative(j, expected) < 1e-8
    assert relative(product, -expected.mT @ expected) < 1e-8
    assert relative(exact, fd_hessian(lambda z: Gaussian().log_prob(x, frozen(z)), Z)) < 1e-8


def test_batch_norm_in_the_paper_network():
    torch.manual_seed(0)
    decoder = models.mnist_decoder(3, width=1 / 64).double()
    before = buffers(decoder)
    with torch.no_grad():
        found = jacobians.jacobian(decoder, Z)
    assert same_buffers(decoder, before)
    assert relative(found, fd_jacobian(frozen_copy(decoder, Z), Z, 1e-4, 2)) < 1e-8


def test_a_batch_norm_used_twice_keeps_both_statistics():
    decoder = Twice()

    def centred(h):
        return h.mean(0), (h.var(0, correction=0) + 1e-5).sqrt()

    with torch.no_grad():
        mean_a, std_a = centred(decoder.first(Z))
        mean_b, std_b = centred(decoder.second(((decoder.first(Z) - mean_a) / std_a).tanh()))

    def frozen(z):
        return ((decoder.second(((decoder.first(z) - mean_a) / std_a).tanh()) - mean_b) / std_b).tanh()

    expected = fd_jacobian(frozen, Z)
    assert relative(jacobians.jacobian(decoder, Z), expected) < 1e-8
    assert (
        relative(jacobians.jacobian_columns(decoder, Z, torch.tensor([2, 1]))[1], expected[:, :, [2, 1]])
        < 1e-8
    )


@pytest.mark.parametrize("decoder", [normalised_network(3, 6, 5), Twice()], ids=["once", "twice"])
def test_derivatives_leave_buffers_alone_and_columns_are_one_forward_pass(decoder):
    before, x = buffers(decoder), normal(9, 5)
    jacobians.jacobian(decoder, Z)
    jacobians.gauss_newton(decoder, Gaussian(), x, Z)
    jacobians.hessian(decoder, Gaussian(), x, Z)
    jacobians.push_forward(decoder, Z, normal(9, 3, 2))
    assert same_buffers(decoder, before)
    jacobians.jacobian_columns(decoder, Z, torch.tensor([0, 2]))
    found = buffers(decoder)
    decoder.load_state_dict({**decoder.state_dict(), **before})
    decoder(Z)
    assert all(torch.allclose(found[name], value, rtol=1e-12) for name, value in buffers(decoder).items())


def test_batch_norm_with_a_cumulative_average_and_one_without_statistics():
    for options in ({"momentum": None}, {"track_running_stats": False}, {"affine": False}):
        norm = nn.BatchNorm1d(5, **options).double()
        decoder = nn.Sequential(network(3, 5), norm, nn.Tanh())
        before = buffers(decoder)
        found = jacobians.jacobian(decoder, Z)
        assert same_buffers(decoder, before)
        inner = decoder[0](Z).detach()
        mean, std = inner.mean(0), (inner.var(0, correction=0) + 1e-5).sqrt()
        expected = fd_jacobian(lambda z, mean=mean, std=std, f=decoder[0]: ((f(z) - mean) / std).tanh(), Z)
        assert relative(found, expected) < 1e-8
    norm = nn.BatchNorm1d(5, momentum=None).double()
    decoder = nn.Sequential(network(3, 5), norm)
    for z in (Z, 2 * Z):
        jacobians.jacobian_columns(decoder, z, torch.tensor([0]))
    assert norm.num_batches_tracked == 2
    assert relative(norm.running_mean, (decoder[0](Z).mean(0) + decoder[0](2 * Z).mean(0)) / 2) < 1e-12


def test_statistics_carry_gradients_to_parameters():
    decoder, x = normalised_network(3, 4, 5), normal(9, 5)
    weights = normal(9, 3, 3, seed=8)
    for f in (jacobians.gauss_newton, jacobians.hessian):
        error = gradient_error(
            lambda f=f: (f(decoder, Gaussian(), x, Z) * weights).sum(), [*decoder.parameters()]
        )
        assert error < 1e-7


@pytest.mark.parametrize("f", [jacobians.gauss_newton, jacobians.hessian])
@pytest.mark.parametrize(("likelihood", "x"), CURVED[1:3], ids=["variance", "logits"])
def test_gradients_with_respect_to_the_code_and_the_parameters(f, likelihood, x):
    decoder, z, weights = network(3, 4, 5), Z.clone().requires_grad_(), normal(9, 3, 3, seed=8)
    error = gradient_error(lambda: (f(decoder, likelihood, x, z) * weights).sum(), [z, *decoder.parameters()])
    assert error < 1e-7


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_dropout_in_train_mode_is_refused(layer):
    decoder = nn.Sequential(network(3, 6), nn.Unflatten(1, (2, 3)), layer(0.5), nn.Flatten())
    for call in (
        lambda: jacobians.jacobian(decoder, Z),
        lambda: jacobians.jacobian_columns(decoder, Z, torch.tensor([0])),
        lambda: jacobians.hessian(decoder, Gaussian(), normal(9, 6), Z),
    ):
        with pytest.raises(ValueError, match="dropout is in train mode"):
            call()
    assert jacobians.jacobian(decoder.eval(), Z).shape == (9, 6, 3)


def test_a_batch_of_one_in_train_mode_is_refused():
    decoder = normalised_network(3, 6, 5)
    with pytest.raises(ValueError, match=r"needs 2 values per channel, got \[1, 6\]"):
        jacobians.jacobian(decoder, Z[:1])
    assert jacobians.jacobian(decoder.eval(), Z[:1]).shape == (1, 5, 3)


def test_a_constant_decoder_has_zero_derivatives():
    def constant(z):
        return torch.ones(len(z), 4, dtype=z.dtype)

    x = normal(9, 4)
    assert torch.equal(jacobians.jacobian(constant, Z), torch.zeros(9, 4, 3, dtype=DOUBLE))
    assert torch.equal(
        jacobians.jacobian_columns(constant, Z, torch.tensor([0]))[1], torch.zeros(9, 4, 1, dtype=DOUBLE)
    )
    assert torch.equal(jacobians.hessian(constant, Gaussian(), x, Z), torch.zeros(9, 3, 3, dtype=DOUBLE))


def test_inputs_are_not_changed():
    decoder, z, x = network(3, 7, 5), Z.clone(), normal(9, 5)
    kept = z.clone(), x.clone()
    jacobians.jacobian(decoder, z)
    jacobians.hessian(decoder, Gaussian(), x, z)
    assert torch.equal(z, kept[0])
    assert torch.equal(x, kept[1])
    assert not z.requires_grad


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, None])
@pytest.mark.parametrize("beta", [1e-4, 0.3, 10.0])
def test_optimal_covariance_is_the_inverse_block_by_block(block, beta):
    d, root = 5, normal(3, 5, 5)
    h = -root @ root.mT
    expected = np.zeros((3, d, d))
    for start in range(0, d, block or d):
        part = slice(start, min(start + (block or d), d))
        expected[:, part, part] = np.linalg.inv(np.eye(part.stop - start) - h.numpy()[:, part, part] / beta)
    found = jacobians.optimal_covariance(h, beta, block)
    assert relative(found, torch.tensor(expected)) < 1e-8
    assert (found[torch.tensor(expected == 0)].abs() < 1e-15).all()


def test_indefinite_hessians_are_refused_with_eigenvalue_and_remedy():
    h = torch.diag_embed(torch.tensor([[-1.0, 2.0], [-1.0, 0.5]], dtype=DOUBLE))
    with pytest.raises(
        ValueError, match=r"smallest eigenvalue -1 at sample 0 \(1 of 2 .*β = 1; β > 2 would do"
    ):
        jacobians.optimal_covariance(h, 1.0)
    assert torch.isfinite(jacobians.optimal_covariance(h, 2.001)).all()
    with pytest.raises(ValueError, match=r"smallest eigenvalue 0 .*β = 2"):
        jacobians.optimal_covariance(h, 2.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_hessians_that_are_not_finite(value):
    h = torch.diag_embed(torch.tensor([[value, -1.0], [-1.0, -1.0]]))
    with pytest.raises(ValueError, match="hessian: NaN or infinity in 1 of 2 samples"):
        jacobians.optimal_covariance(h, 1.0)


def test_an_indefinite_exact_hessian_happens():
    decoder, x = network(2, 4, 3), torch.full((9, 3), 50.0, dtype=DOUBLE)
    h = jacobians.hessian(decoder, Gaussian(), x, normal(9, 2)).detach()
    with pytest.raises(ValueError, match="I − H/β: expected positive definite") as caught:
        jacobians.optimal_covariance(h, 0.1)
    beta = float(re.search(r"β > ([0-9.]+) would do", str(caught.value))[1])
    assert beta == pytest.approx(float(torch.linalg.eigvalsh(h).max()), rel=1e-3)
    assert torch.isfinite(jacobians.optimal_covariance(h, 1.001 * beta)).all()


@pytest.mark.parametrize(
    "h", [torch.zeros(2, 2), torch.zeros(0, 2, 2), torch.zeros(1, 2, 3), torch.zeros(1, 0, 0)]
)
def test_hessians_of_another_shape(h):
    with pytest.raises(ValueError, match=r"hessian: expected \[batch ≥ 1, d, d\], got"):
        jacobians.optimal_covariance(h, 1.0)
    with pytest.raises(TypeError, match=r"hessian: expected floating point, got torch\.int64"):
        jacobians.optimal_covariance(torch.zeros(1, 2, 2, dtype=torch.int64), 1.0)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.zeros(2, 4), ValueError, r"z: \[2, 4\] does not fit the decoder"),
        (torch.zeros(0, 3), ValueError, r"z: expected \[batch ≥ 1, d ≥ 1\], got \[0, 3\]"),
        (torch.zeros(3), ValueError, r"z: expected \[batch ≥ 1, d ≥ 1\], got \[3\]"),
        (torch.zeros(1, 2, 3), ValueError, r"z: expected \[batch ≥ 1, d ≥ 1\], got \[1, 2, 3\]"),
        (
            torch.zeros(2, 3).double(),
            TypeError,
            "z: expected the decoder's dtype torch.float32, got torch.float64",
        ),
        (torch.zeros(2, 3, device="meta"), ValueError, "z: expected on the decoder's device cpu, got meta"),
    ],
    ids=["width", "empty", "one", "three", "dtype", "device"],
)
def test_bad_latents(z, error, message):
    decoder, columns = nn.Linear(3, 5), torch.tensor([0])
    for call in (
        lambda: jacobians.jacobian(decoder, z),
        lambda: jacobians.jacobian_columns(decoder, z, columns),
        lambda: jacobians.gauss_newton(decoder, Gaussian(), torch.zeros(len(z), 5), z),
        lambda: jacobians.hessian(decoder, Gaussian(), torch.zeros(len(z), 5), z),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_cpu_tensor_with_a_decoder_elsewhere():
    with pytest.raises(ValueError, match="z: expected on the decoder's device meta, got cpu"):
        jacobians.jacobian(nn.Linear(3, 5, device="meta"), torch.zeros(2, 3))


def test_decoders_that_mix_or_drop_samples_are_refused():
    for decoder in (lambda z: z.sum(), lambda z: z.sum(1), lambda z: z[:1], lambda z: z.T):
        with pytest.raises(ValueError, match=r"decoder: expected an output \[9, ...\]"):
            jacobians.jacobian(decoder, Z)


@pytest.mark.parametrize("f", [jacobians.gauss_newton, jacobians.hessian])
@pytest.mark.parametrize("n", [8, 10])
@pytest.mark.parametrize("grad", [True, False])
def test_x_of_another_batch_is_refused(f, n, grad):
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(ValueError, match=f"x and z: expected one batch, got {n} and 9"),
    ):
        f(network(3, 5), Gaussian(), normal(n, 5), Z)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (torch.tensor([3]), ValueError, "columns: expected 0 to 2, got 3 to 3"),
        (torch.tensor([-1, 0]), ValueError, "columns: expected 0 to 2, got -1 to 0"),
        (torch.tensor([], dtype=torch.int64), ValueError, r"columns: expected \[k\] or \[9, k\], got \[0\]"),
        (torch.zeros(8, 1, dtype=torch.int64), ValueError, r"got \[8, 1\]"),
        (torch.tensor(0), ValueError, r"columns: expected \[k\] or \[9, k\], got \[\]"),
        (torch.tensor([0.0]), TypeError, "columns: expected int64, got torch.float32"),
        (torch.tensor([True]), TypeError, "columns: expected int64, got torch.bool"),
    ],
    ids=["large", "negative", "none", "batch", "scalar", "float", "bool"],
)
def test_bad_columns(columns, error, message):
    with pytest.raises(error, match=message):
        jacobians.jacobian_columns(network(3, 5), Z, columns)


@pytest.mark.parametrize("shape", [(9, 3), (9, 2, 3), (8, 3, 1)])
def test_bad_directions(shape):
    with pytest.raises(ValueError, match=r"directions: expected \[9, 3, k\], got"):
        jacobians.push_forward(network(3, 5), Z, normal(*shape))


def test_expanded_tensors_are_as_good_as_copies():
    net = network(2, 5, 4)
    z, x = torch.full((1, 1), 0.3, dtype=DOUBLE).expand(3, 2), torch.ones(1, 1, dtype=DOUBLE).expand(3, 4)
    likelihood = Gaussian()
    torch.testing.assert_close(jacobians.jacobian(net, z), jacobians.jacobian(net, z.clone()))
    columns = torch.tensor([1])
    torch.testing.assert_close(
        *(jacobians.jacobian_columns(net, part, columns)[1] for part in (z, z.clone()))
    )
    for derivative in (jacobians.hessian, jacobians.gauss_newton):
        torch.testing.assert_close(
            derivative(net, likelihood, x, z), derivative(net, likelihood, x.clone(), z.clone())
        )


@pytest.mark.parametrize("inner", [False, True], ids=["decoder", "submodule"])
def test_torchscript_is_refused_since_it_loses_tangents_in_silence(inner):
    decoder = torch.jit.script(network(3, 5))
    decoder = nn.Sequential(decoder, nn.Tanh()) if inner else decoder
    columns = torch.zeros(1, dtype=torch.int64)
    for derivative in (
        lambda: jacobians.jacobian(decoder, Z),
        lambda: jacobians.jacobian_columns(decoder, Z, columns),
        lambda: jacobians.hessian(decoder, Gaussian(), normal(9, 5), Z),
    ):
        with pytest.raises(TypeError, match="TorchScript"):
            derivative()


@pytest.mark.parametrize("wrap", [lambda g: (g,), lambda g: {"g": g}, lambda g: None])
def test_a_decoder_that_returns_no_tensor_is_refused(wrap):
    with pytest.raises(TypeError, match=r"decoder: expected to return one tensor, got (tuple|dict|NoneType)"):
        jacobians.jacobian(lambda z: wrap(z), Z)


def test_the_exact_hessian_has_a_graph_only_where_something_wants_gradients():
    decoder = network(3, 8, 5)
    assert jacobians.hessian(decoder, Gaussian(), BITS, Z).requires_grad
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    assert not jacobians.hessian(decoder, Gaussian(), BITS, Z).requires_grad
    assert jacobians.hessian(decoder, Gaussian(), BITS, Z.clone().requires_grad_()).requires_grad
    assert jacobians.hessian(decoder, Gaussian(), BITS.clone().requires_grad_(), Z).requires_grad
    variance = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert jacobians.hessian(decoder, Gaussian(variance), BITS, Z).requires_grad


def test_instance_normalisation_keeps_its_running_statistics_but_for_the_step():
    norm = nn.InstanceNorm1d(2, track_running_stats=True, dtype=DOUBLE)
    decoder = nn.Sequential(network(3, 8), nn.Unflatten(1, (2, 4)), norm)
    before, plain = norm.running_mean.clone(), nn.InstanceNorm1d(2, dtype=DOUBLE)
    found = jacobians.jacobian(decoder, Z)
    assert torch.equal(norm.running_mean, before)
    assert relative(found, jacobians.jacobian(nn.Sequential(*decoder[:2], plain), Z)) < 1e-14
    jacobians.jacobian_columns(decoder, Z, torch.tensor([0, 1]))
    expected = before.lerp(decoder[:2](Z).mean((0, 2)), norm.momentum)
    assert relative(norm.running_mean, expected) < 1e-12
