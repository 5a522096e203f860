"""The tangent rules against torch.func.jvp, finite differences and the forward mode of `jacobian_columns`."""

import copy

import pytest
import torch
from helpers import DOUBLE, buffers, fd_jacobian, frozen_copy, gradient_error, normal, relative
from torch import nn

from grae_helpers import decoding, jacobians, likelihoods, losses, models, tangents

BATCH, LATENT = 7, 4


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with batch normalisations of random weights and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        for tensor, shift in (
            (norm.weight.data, 1.5),
            (norm.bias.data, 0),
            (norm.running_mean, 0),
            (norm.running_var, 2),
        ):
            tensor.copy_(shift + torch.rand(tensor.shape, generator=generator, dtype=DOUBLE) - 0.5)
    return net


def dense(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(LATENT, 6), layer, nn.Linear(6, 5))


def images(*layers: nn.Module) -> nn.Sequential:
    """The layers on images of 2 channels and 5×5 pixels."""
    return nn.Sequential(nn.Linear(LATENT, 50), nn.Unflatten(1, (2, 5, 5)), *layers, nn.Flatten())


DECODERS = {
    "linear": lambda: dense(nn.Identity()),
    "no bias": lambda: nn.Sequential(nn.Linear(LATENT, 6, bias=False), nn.Tanh(), nn.Linear(6, 5)),
    "elu": lambda: dense(nn.ELU()),
    "elu, alpha": lambda: dense(nn.ELU(alpha=0.3)),
    "sigmoid": lambda: dense(nn.Sigmoid()),
    "tanh": lambda: dense(nn.Tanh()),
    "relu": lambda: dense(nn.ReLU()),
    "relu, in place": lambda: dense(nn.ReLU(inplace=True)),
    "leaky relu": lambda: dense(nn.LeakyReLU(0.2)),
    "softplus": lambda: dense(nn.Softplus(beta=2.0)),
    "batch norm": lambda: dense(nn.BatchNorm1d(6, momentum=0.3, eps=1e-3)),
    "conv": lambda: images(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh()),
    "conv, stride": lambda: images(nn.Conv2d(2, 3, 3, stride=2, bias=False), nn.Tanh()),
    "same conv": lambda: images(models.SameConv2d(2, 3, 4, 2), nn.Tanh()),
    "transposed": lambda: images(nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), nn.Tanh()),
    "same transposed": lambda: images(models.SameConvTranspose2d(2, 3, 4, 2), nn.Tanh()),
    "batch norm 2d": lambda: images(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ELU()),
    "nested": lambda: nn.Sequential(dense(nn.BatchNorm1d(6)), nn.Sequential(nn.BatchNorm1d(5), nn.Softplus())),
    "mlp": lambda: models.mlp_decoder(LATENT, (2, 3), [6]),
    "mnist": lambda: models.mnist_decoder(LATENT, width=1 / 128),
    "celeba": lambda: models.celeba_decoder(LATENT, width=1 / 256),
}
LARGE = ("mnist", "celeba")
SMALL = [name for name in DECODERS if name not in LARGE]
KINKED = ("relu", "relu, in place", "leaky relu", "elu, alpha")  # elu's slope jumps at 0 unless alpha is 1


def make(name: str, train: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(DECODERS[name]()).train(train)


def directions(n: int, k: int) -> torch.Tensor:
    return normal(k, n, LATENT, seed=3)


def test_every_rule_has_a_decoder_here():
    used = {type(m) for name in DECODERS for m in make(name, True).modules()}
    assert set(tangents._RULES) <= used


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("n", "k"), [(BATCH, 1), (BATCH, 3), (3, 2), (1, 1)])
def test_a_push_is_torchs_jvp_at_constant_statistics(name, train, n, k):
    decoder, z, v = make(name, train), normal(BATCH, LATENT), directions(n, k)
    plain, still = copy.deepcopy(decoder), frozen_copy(decoder, z) if train else copy.deepcopy(decoder)
    assert tangents.supports(decoder)
    g, pushed = tangents.push(decoder, z, v)
    assert relative(g, plain(z)) < 1e-12
    for one, found in zip(v, pushed, strict=True):
        expected = torch.func.jvp(still, (z[:n],), (one,))[1]
        assert relative(found, expected) < 1e-9
    for tensor, expected in zip(buffers(decoder).values(), buffers(plain).values(), strict=True):
        assert torch.allclose(tensor, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_push_is_a_finite_difference(name, train):
    decoder, z = make(name, train), normal(BATCH, LATENT)
    still = frozen_copy(decoder, z) if train else decoder
    columns = torch.eye(LATENT, dtype=DOUBLE)[:, None].expand(-1, BATCH, -1)
    _, pushed = tangents.push(decoder, z, columns)
    step = {"step": 1e-5, "levels": 1} if name in KINKED or "norm" in name else {}
    tolerance = 1e-7 if step else 1e-6
    assert relative(pushed.flatten(2).movedim(0, 2), fd_jacobian(still, z, **step)) < tolerance


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_forward_and_push_is_jacobian_columns(name, train):
    decoder, z = make(name, train), normal(BATCH, LATENT)
    other, columns = copy.deepcopy(decoder), torch.tensor([2, 0])
    unit = torch.eye(LATENT, dtype=DOUBLE)[:, columns].expand(BATCH, -1, -1)
    found, expected = jacobians.forward_and_push(decoder, z, unit), jacobians.jacobian_columns(other, z, columns)
    assert relative(found[0], expected[0]) < 1e-12
    assert relative(found[1], expected[1]) < 1e-9
    for tensor, right in zip(buffers(decoder).values(), buffers(other).values(), strict=True):
        assert torch.allclose(tensor, right, rtol=1e-12, atol=0)


def quantity(g: torch.Tensor, pushed: torch.Tensor) -> torch.Tensor:
    """A scalar of both results in which no two gradients are alike."""
    weights = [normal(*part.shape, seed=8 + i) for i, part in enumerate((g, pushed))]
    return (weights[0] * g.sin()).sum() + (weights[1] * pushed).sum() + pushed.square().mean()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("n", [BATCH, 3])
def test_gradients_are_finite_differences(name, train, n):
    """With respect to parameters, latents and directions, in train mode through the batch statistics too."""
    decoder, z, v = make(name, train), normal(BATCH, LATENT), directions(n, 2)
    used = [tensor.requires_grad_() for tensor in (z, v)] + list(decoder.parameters())
    # a kink in reach of a step would be a jump of the derivative, and one of the slope jumps itself
    step = 1e-5 if name in KINKED or "elu" in name or "norm" in name else 2e-3
    assert gradient_error(lambda: quantity(*tangents.push(decoder, z, v)), used, step=step) < 1e-6


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_gradients_are_those_of_forward_mode(name, train):
    """At constant statistics, which in train mode the latents and parameters determine."""
    decoder, z = make(name, train), normal(BATCH, LATENT)
    v = directions(BATCH, 2).permute(1, 2, 0)
    used = list(decoder.parameters())
    ours = torch.autograd.grad(quantity(*jacobians.forward_and_push(decoder, z, v)), used, materialize_grads=True)
    passes = decoding.ConstantStatistics(decoder)
    passes.run(z)
    g, pushed = jacobians._push(passes.run, z, v)
    theirs = torch.autograd.grad(quantity(g, pushed), used, materialize_grads=True)
    scale = max(gradient.abs().max() for gradient in theirs)
    assert all((a - b).abs().max() < 1e-9 * scale for a, b in zip(ours, theirs, strict=True))


def hooked() -> nn.Module:
    decoder = make("tanh", True)
    decoder[0].register_forward_hook(lambda module, args, out: 2 * out)
    return decoder


class Custom(nn.Linear):
    """A layer that a rule for its base class would get wrong."""

    def forward(self, z):
        return super().forward(z).square()


UNSUPPORTED = {
    "custom": lambda: nn.Sequential(Custom(LATENT, 5)).double(),
    "hook": hooked,
    "instance norm": lambda: images(nn.InstanceNorm2d(2), nn.Tanh()).double(),
    "cumulative": lambda: dense(nn.BatchNorm1d(6, momentum=None)).double(),
    "no running": lambda: dense(nn.BatchNorm1d(6, track_running_stats=False)).double(),
    "not affine": lambda: dense(nn.BatchNorm1d(6, affine=False)).double(),
    "dropout": lambda: dense(nn.Dropout()).double().eval(),
    "spectral norm": lambda: models.spectral_norm(make("tanh", True)).eval(),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(LATENT, 5))).double(),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.parametrize("n", [BATCH, 3])
def test_other_decoders_take_the_other_path_with_the_same_numbers(name, n):
    decoder, z = UNSUPPORTED[name](), normal(BATCH, LATENT)
    assert not tangents.supports(decoder)
    assert not tangents.supports(models.Decoder(nn.Sequential(decoder), LATENT))
    columns = torch.tensor([2, 0])
    unit = torch.eye(LATENT, dtype=DOUBLE)[:, columns].expand(n, -1, -1)
    plain, other = copy.deepcopy(decoder), copy.deepcopy(decoder)
    g, pushed = jacobians.forward_and_push(decoder, z, unit)
    assert relative(g, plain(z)) < 1e-12
    assert relative(pushed, jacobians.jacobian_columns(other, z, columns)[1][:n]) < 1e-9
    for tensor, right in zip(buffers(decoder).values(), buffers(plain).values(), strict=True):
        assert torch.allclose(tensor, right, rtol=1e-12, atol=0)


def test_functions_hooks_and_decoders_of_other_classes_have_no_rules():
    assert not tangents.supports(lambda z: z)

    class Twice(models.Decoder):
        def forward(self, z):
            return 2 * super().forward(z)

    assert not tangents.supports(Twice(nn.Linear(LATENT, 5), LATENT))
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        decoder = nn.Sequential(nn.Linear(LATENT, 5))
        assert tangents.supports(decoder)
        getattr(decoder, register)(lambda *arguments: None)
        assert not tangents.supports(decoder)


def test_dropout_in_train_mode_is_refused_for_derivatives():
    decoder = dense(nn.Dropout()).double()
    with pytest.raises(ValueError, match="dropout is in train mode"):
        jacobians.forward_and_push(decoder, normal(BATCH, LATENT), directions(BATCH, 1).permute(1, 2, 0))


def test_an_instance_with_a_forward_of_its_own_has_no_rule():
    decoder = make("tanh", True)
    decoder[0].forward = lambda z: nn.functional.linear(z, decoder[0].weight).square()
    assert not tangents.supports(decoder)


@pytest.mark.parametrize(
    "shape", [(BATCH, LATENT), (1, BATCH + 1, LATENT), (1, 0, LATENT), (1, BATCH, LATENT + 1), (1, 1, BATCH, LATENT)]
)
def test_tangents_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"tangents: expected \[k, 1 to 7, \[4\]\], got"):
        tangents.push(make("tanh", True), normal(BATCH, LATENT), normal(*shape))


@pytest.mark.parametrize(
    ("z", "v", "message"),
    [
        (normal(BATCH, LATENT), normal(BATCH, LATENT), r"directions: expected \[1 to 7, 4, k\], got \[7, 4\]"),
        (normal(BATCH, LATENT), normal(BATCH + 1, LATENT, 1), r"directions: expected .* got \[8, 4, 1\]"),
        (normal(BATCH, LATENT), normal(BATCH, 3, 1), r"directions: expected .* got \[7, 3, 1\]"),
        (normal(BATCH, LATENT), normal(0, LATENT, 1), r"directions: expected .* got \[0, 4, 1\]"),
        (normal(BATCH, 3), normal(BATCH, 3, 1), r"z: \[7, 3\] does not fit the decoder"),
        (normal(LATENT), normal(BATCH, LATENT, 1), r"z: expected \[batch ≥ 1, d ≥ 1\], got \[4\]"),
        (normal(BATCH, LATENT).to("meta"), normal(BATCH, LATENT, 1), "on the decoder's device cpu, got meta"),
    ],
    ids=["two", "many", "width", "none", "z width", "z ndim", "device"],
)
def test_bad_input_to_forward_and_push(z, v, message):
    with pytest.raises(ValueError, match=message):
        jacobians.forward_and_push(make("tanh", True), z, v)


def test_another_dtype_than_the_decoders_is_refused():
    with pytest.raises(TypeError, match=r"decoder's dtype torch.float64, got torch.float32"):
        jacobians.forward_and_push(make("tanh", True), torch.zeros(BATCH, LATENT), torch.zeros(BATCH, LATENT, 1))


def test_one_value_per_channel_has_no_statistics():
    with pytest.raises(ValueError, match="train mode needs 2 values per channel"):
        tangents.push(make("batch norm", True), normal(1, LATENT), directions(1, 1))


def test_no_graph_without_gradients_and_inputs_are_not_changed():
    decoder, z, v = make("batch norm", True), normal(BATCH, LATENT), directions(BATCH, 2)
    kept = z.clone(), v.clone()
    with torch.no_grad():
        without = tangents.push(decoder, z, v)
    assert not any(part.requires_grad for part in without)
    for found, expected in zip(tangents.push(make("batch norm", True), z, v), without, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(z, kept[0])
    assert torch.equal(v, kept[1])
    with torch.inference_mode():
        assert torch.equal(tangents.push(make("batch norm", True), z, v)[1], without[1])


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_are_those_of_forward_mode(norm, training):
    """A backward pass that is itself recorded must not lose what saved tensors depend on."""
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.Identity(), nn.ELU(1.3), nn.Linear(4, 5)]
    torch.manual_seed(0)
    network = nn.Sequential(*layers).double().train(training)
    z = torch.randn(6, 3, dtype=torch.float64)
    directions = torch.randn(2, 4, 3, dtype=torch.float64)

    def twice(pass_):
        point = z.clone().requires_grad_()
        g, pushed = pass_(point)
        (first,) = torch.autograd.grad(g.sin().sum() + pushed.square().sum(), point, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [point, *network.parameters()], allow_unused=True)

    def forward_mode(point):
        passes = decoding.ConstantStatistics(network)
        g = passes.run(point)
        return g, jacobians._push(passes.run, point[:4], directions.permute(1, 2, 0))[1].permute(2, 0, 1)

    ours = twice(lambda point: tangents.push(network, point, directions))
    for found, expected in zip(ours, twice(forward_mode), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_function_transforms_take_the_other_path():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.ELU(), nn.Linear(4, 3)).double()
    z, x = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def total(point):
        return losses.grae_approx(x, point, network, likelihoods.Gaussian(), 0.3, n_columns=2).total.sum()

    point = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(point), point)
    torch.testing.assert_close(torch.func.grad(total)(z), expected)


@pytest.mark.parametrize(
    "layer", [nn.Softplus(threshold=0.1), nn.Softplus(beta=3.0), nn.ELU(0.4), nn.LeakyReLU(0.3, inplace=True)]
)
def test_settings_of_a_layer_reach_its_tangent(layer):
    network = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)).double()
    z, direction = torch.randn(5, 3, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    assert tangents.supports(network)
    _, pushed = tangents.push(network, z, direction)
    difference = (network(z + 1e-6 * direction[0]) - network(z - 1e-6 * direction[0])) / 2e-6
    torch.testing.assert_close(pushed[0], difference, rtol=1e-6, atol=1e-8)


def test_what_the_rules_do_not_cover_is_not_supported():
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked.register_full_backward_hook(lambda *_: None)
    for network in (nn.ELU(alpha=-0.5), nn.LeakyReLU(-0.5, inplace=True), hooked):
        assert not tangents.supports(network)
