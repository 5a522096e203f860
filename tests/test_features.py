"""Features against plain convolutions and Pillow's resizing; weights that are absent, damaged or another file's."""

import hashlib
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import relative
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from grae_helpers import archives, classifiers, data, downloads, features, runtime
from tools import train_features

SMALL = ("mnist", "cifar10")


def noise(n=4, channels=3, size=64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=rng)


@pytest.fixture(scope="module", params=SMALL)
def small(request):
    return features.load(request.param)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """$GRAE_DATA, the cache and torch.hub's are empty folders, and no proxy stands between here and this machine."""
    for name in ("data", "cache", "torch"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("GRAE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def library():
    runtime.torchvision()
    return pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory):
    """A file like FID's, with random weights and statistics that keep the features of order 1."""
    kind = library().FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(library(), "load_state_dict_from_url", lambda *arguments, **options: {})
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        network = kind("random", ["2048"]).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(noise(3))
    path = tmp_path_factory.mktemp("inception") / features.INCEPTION[0]
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def inception(random_inception, empty, monkeypatch):
    """The random weights where FID's would lie; the checksum that is expected is theirs, which no user can do."""
    place = empty / "data" / features.INCEPTION[0]
    place.hardlink_to(random_inception)
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(place))
    return place


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What the small networks compute


def plain_features(name, x):
    """The network in float64 by its definition, from the file's tensors: no module of the package takes part."""
    state = load_file(features.WEIGHTS / f"features_{name}.safetensors")
    state = {key: tensor.double() for key, tensor in state.items()}

    def convolve(x, convolution, norm, stride=1):
        y = F.conv2d(x, state[f"{convolution}.weight"], stride=stride, padding=1)
        mean, variance = (state[f"{norm}.running_{what}"][:, None, None] for what in ("mean", "var"))
        scale, shift = (state[f"{norm}.{what}"][:, None, None] for what in ("weight", "bias"))
        return (y - mean) / (variance + 1e-5).sqrt() * scale + shift

    def block(x, name):
        inner = convolve(x, f"{name}.inner.0.0", f"{name}.inner.0.1").relu()
        return (x + convolve(inner, f"{name}.inner.1", f"{name}.inner.2")).relu()

    x = (x - state["mean"]) / state["deviation"]
    x = convolve(x, "body.0.0", "body.0.1").relu()
    x = block(convolve(x, "body.1.0", "body.1.1", 2).relu(), "body.2")
    x = convolve(x, "body.3.0", "body.3.1", 2).relu()
    return (x if name == "mnist" else block(x, "body.4")).mean((2, 3))


def pillow(images, size, grey):
    """Images as Pillow makes them: grey by its own weights, and its bilinear filter, which is antialiased."""
    result = []
    for image in images.permute(0, 2, 3, 1).double().numpy():
        planes = [image @ np.array([0.299, 0.587, 0.114])] if grey else np.moveaxis(image, 2, 0)
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in planes]
        result.append([np.asarray(p.resize((size, size), Image.Resampling.BILINEAR)) / 255 for p in planes])
    return torch.tensor(np.array(result), dtype=torch.float64)


@pytest.mark.parametrize(("name", "size"), [("mnist", 28), ("cifar10", 32)])
@pytest.mark.parametrize("side", [24, 64])
def test_features_of_colours_against_plain_convolutions_and_pillow(name, size, side):
    images = data.load("faces", n=3, size=side).images
    expected = plain_features(name, pillow(images, size, grey=name == "mnist"))
    assert relative(features.load(name)(images).double(), expected) < 1e-4


@pytest.mark.parametrize(("name", "channels", "size"), [("mnist", 1, 28), ("cifar10", 3, 32)])
def test_images_of_the_networks_own_size_go_in_as_they_are(name, channels, size):
    images = noise(3, channels, size)
    assert relative(features.load(name)(images).double(), plain_features(name, images.double() / 255)) < 1e-4


def test_grey_is_the_same_as_equal_colours(small):
    grey = data.load("digits", "test", n=5).images
    torch.testing.assert_close(small(grey), small(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_features_are_finite_not_negative_and_tell_images_apart(small):
    found = small(data.load("faces", n=20).images)
    assert found.shape == (20, small.dimension) and found.dtype == torch.float32
    assert torch.isfinite(found).all() and (found >= 0).all()
    assert torch.pdist(found).min() > 0.01 * torch.pdist(found).max()


def test_evaluation_leaves_nothing_behind_and_heeds_nothing_around_it(small):
    images = data.load("faces", n=6).images
    found = small(images)
    assert not found.requires_grad
    assert torch.equal(small(images), found)  # no statistics are updated
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(small(images), found)
    torch.testing.assert_close(small(images.flip(0)), found.flip(0), atol=1e-4, rtol=1e-4)


def test_loading_leaves_the_callers_random_numbers_alone():
    state = torch.random.get_rng_state()
    features.load("mnist")
    assert torch.equal(torch.random.get_rng_state(), state)


# The weights that are committed


def test_weights_are_small_and_say_how_they_were_made():
    from safetensors import safe_open

    paths = sorted(features.WEIGHTS.glob("*.safetensors"))
    assert [path.name for path in paths] == ["features_cifar10.safetensors", "features_mnist.safetensors"]
    assert sum(path.stat().st_size for path in paths) < 4e6
    for path, floor in zip(paths, (0.85, 0.99), strict=True):
        with safe_open(path, "pt") as file:
            made = file.metadata()
        assert float(made["test accuracy"]) >= floor and int(made["test images"]) == 10_000
        assert int(made["epochs"]) > 0 and int(made["seed"]) >= 0 and made["data"].startswith(made["network"])
        assert re.fullmatch("[0-9a-f]{40}", made["commit"]) and "train_features" in made["command"]


def classified(name, images):
    """The classes that the file's last layer reads from the features."""
    state = load_file(features.WEIGHTS / f"features_{name}.safetensors")
    found = features.extract(features.load(name), images)
    return (found @ state["head.weight"].float().T + state["head.bias"]).argmax(1)


def on_the_disk(name):
    if name in archives.PLACES:
        return archives.find(name) is not None
    folder, roots = downloads.ARCHIVES[name].folder, (downloads.data_root(), downloads.cache_root())
    # A download that failed leaves an empty folder.
    return any(any((root / folder / "raw").glob("t10k-images-idx3-ubyte*")) for root in roots if root)


@pytest.mark.parametrize("name", SMALL)
def test_stated_accuracy_on_a_thousand_test_images(name):
    if not on_the_disk(name):
        pytest.skip(f"{name} is not on this machine and is not downloaded for a test")
    test = data.load(name, "test", n=1000)
    stated = float(re.match(r"([\d.]+)%", features.load(name).description["test accuracy"])[1]) / 100
    found = (classified(name, test.images) == test.labels).double().mean().item()
    assert found == pytest.approx(stated, abs=4 * (stated * (1 - stated) / 1000) ** 0.5)


def test_digits_of_another_hand_have_their_nearest_features_in_their_own_class():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    near, far = (features.extract(features.load("mnist"), part.images) for part in (train, test))
    assert (train.labels[torch.cdist(far, near).argmin(1)] == test.labels).double().mean() > 0.95


def test_description_names_the_file_by_its_checksum(small):
    path = features.WEIGHTS / f"features_{small.name}.safetensors"
    assert path.name in small.description["weights"] and sha256(path)[:12] in small.description["weights"]
    assert "of 10,000 test images" in small.description["test accuracy"]
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in small.description.items())
    assert small.title == {"mnist": "MNIST network", "cifar10": "CIFAR-10 network"}[small.name]


def test_weights_that_are_not_there_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "WEIGHTS", tmp_path)
    with pytest.raises(data.DatasetUnavailable, match=r"features_mnist\.safetensors.*tools/train_features\.py"):
        features.load("mnist")


@pytest.mark.parametrize("content", ["nothing", "half", "pointer", "another"])
def test_weights_that_are_damaged_are_named(monkeypatch, tmp_path, content):
    whole, other = ((features.WEIGHTS / f"features_{name}.safetensors").read_bytes() for name in ("mnist", "cifar10"))
    pointer = b"version https://git-lfs.github.com/spec/v1\nsize 3\n"
    written = {"nothing": b"", "half": whole[: len(whole) // 2], "pointer": pointer, "another": other}[content]
    (tmp_path / "features_mnist.safetensors").write_bytes(written)
    monkeypatch.setattr(features, "WEIGHTS", tmp_path)
    with pytest.raises(data.DatasetCorrupt, match=r"features_mnist\.safetensors: expected the weights of the MNIST"):
        features.load("mnist")


# Streaming


def test_a_stream_is_all_at_once_whatever_the_batches(small):
    images = data.load("faces", n=23).images
    whole = small(images)
    assert features.extract(small, images, batch_size=100).equal(whole)
    for given, size in ((images, 5), (images.split(7), 100), (iter(images.split(9)), 4), (list(images.split(1)), 1)):
        found = features.extract(small, given, batch_size=size)
        assert found.device.type == "cpu" and found.dtype == torch.float32
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 1, 1, 1, 1, 1), (2, 2), (1, 9, 1), (3, 1, 2, 8)])
def test_a_table_grows_with_a_stream_of_unknown_length(monkeypatch, sizes):
    monkeypatch.setattr(features, "FIRST", 2)
    images, extractor = noise(sum(sizes), 1, 28), features.load("mnist")
    found = features.extract(extractor, iter(images.split(sizes)), batch_size=100)
    torch.testing.assert_close(found, extractor(images), atol=1e-4, rtol=1e-4)
    assert found.untyped_storage().nbytes() == 4 * found.numel()  # no rows to spare are kept


def test_features_are_single_precision_whatever_the_default(small):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = features.extract(small, torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32


def test_a_stream_reads_no_further_than_it_must():
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield noise(4, 1, 28)

    found = features.stream(features.load("mnist"), batches(), batch_size=3)
    assert read == []
    assert [len(next(found)) for _ in range(3)] == [3, 1, 3]
    assert read == [0, 1]


def test_progress_is_shown_only_when_asked_for(capsys):
    extractor, images = features.load("mnist"), noise(5, 1, 28)
    features.extract(extractor, images, batch_size=2)
    assert capsys.readouterr() == ("", "")
    features.extract(extractor, images, batch_size=2, progress=True)
    assert "5/5" in capsys.readouterr().out


# Quantisation and bad input


def test_as_uint8_against_a_loop_and_back():
    x = torch.linspace(-0.5, 1.5, 1001, dtype=torch.float64)
    expected = [min(255, max(0, round(255 * value))) for value in x.tolist()]
    assert features.as_uint8(x).tolist() == expected
    images = noise(2)
    assert features.as_uint8(images.float() / 255).equal(images)
    assert features.as_uint8((images.float() / 255).half()).equal(images)


def test_as_uint8_refuses_what_it_cannot_mean():
    with pytest.raises(TypeError, match=r"expected floating point in \[0, 1\], got torch\.uint8"):
        features.as_uint8(noise())
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinity"):
            features.as_uint8(torch.tensor([0.5, bad]))


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.zeros(2, 3, 8, 8), TypeError, "expected uint8, got torch.float32; features.as_uint8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), TypeError, "expected uint8, got torch.int64"),
        (np.zeros((2, 3, 8, 8), np.uint8), TypeError, "expected a uint8 tensor or an iterable of such, got ndarray"),
        (noise()[0], ValueError, r"expected \[n ≥ 1, 1 or 3, H, W\], got \[3, 64, 64\]"),
        (noise(2, 2), ValueError, "got [2, 2, 64, 64]"),
        (noise()[:0], ValueError, "got [0, 3, 64, 64]"),
    ],
)
def test_images_that_are_refused(images, error, words):
    words = words if "\\" in words else re.escape(words)
    extractor = features.load("mnist")
    for call in (extractor, partial(features.extract, extractor), lambda x: features.extract(extractor, [x])):
        with pytest.raises(error, match=words):
            call(images)


def test_other_bad_input():
    extractor = features.load("mnist")
    with pytest.raises(ValueError, match="at least one batch of images, got an empty iterable"):
        features.extract(extractor, iter([]))
    for size, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="batch_size"):
            features.extract(extractor, noise(), batch_size=size)
    with pytest.raises(ValueError, match="features: expected one of mnist, cifar10, inception; got 'vgg'"):
        features.load("vgg")
    with pytest.raises(ValueError, match="network"):
        classifiers.untrained("inception")
    with pytest.raises(ValueError, match="device"):
        features.load("mnist", device="abacus")


# Inception


@pytest.mark.parametrize("shape", [(28, 28), (2, 28, 28), (3, 0, 64)])
def test_shapes_that_are_no_images(shape):
    with pytest.raises(ValueError, match=re.escape(f"image_shape: expected [1 or 3, H, W], got {list(shape)}")):
        features.choose("auto", shape)


def test_auto_without_fids_weights(empty):
    assert features.choose("auto", (1, 28, 28)) == "mnist"
    assert features.choose("auto", (3, 64, 64)) == features.choose("auto", torch.Size([1, 64, 64])) == "cifar10"
    assert features.choose("inception", (1, 28, 28)) == "inception"
    with pytest.raises(ValueError, match="features"):
        features.choose("vgg", (3, 64, 64))


def test_a_folder_of_the_weights_name_is_not_the_weights(empty):
    (empty / "data" / features.INCEPTION[0]).mkdir(parents=True)
    assert features.find_inception() is None


@pytest.mark.parametrize("name", features.INCEPTION)
@pytest.mark.parametrize("folder", ["data", "cache", "torch/hub/checkpoints"])
def test_auto_with_fids_weights_on_the_disk(empty, folder, name):
    (empty / folder).mkdir(parents=True, exist_ok=True)
    (empty / folder / name).touch()
    assert features.choose("auto", (3, 64, 64)) == "inception"
    assert features.choose("auto", (1, 28, 28)) == "mnist"


def test_our_checksum_is_the_one_that_the_librarys_address_names():
    name = library().URL_INCEPTION_V3.rpartition("/")[2]
    assert name == features.INCEPTION[0]
    assert all(name.endswith(f"-{features.INCEPTION_SHA256[:8]}.pth") for name in features.INCEPTION)


def test_inception_from_the_disk(inception):
    extractor = features.load("inception")
    assert (extractor.title, extractor.dimension) == ("Inception (2015)", 2048)
    assert f"{inception.name}, sha256 {sha256(inception)[:12]}" == extractor.description["weights"]
    images = noise(2)
    found = features.extract(extractor, images, batch_size=1)
    theirs = library().FeatureExtractorInceptionV3("test", ["2048"], feature_extractor_weights_path=str(inception))
    assert relative(found, theirs(images)[0]) < 1e-3
    assert found.shape == (2, 2048) and (found >= 0).all() and (found[0] - found[1]).norm() > 1e-3 * found[0].norm()
    grey = noise(1, 1, 28)
    torch.testing.assert_close(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)), atol=1e-3, rtol=1e-3)


def test_damaged_weights_are_refused_by_their_checksum(empty, random_inception):
    place = empty / "data" / features.INCEPTION[0]
    place.hardlink_to(random_inception)
    with pytest.raises(
        data.DatasetCorrupt, match=rf"{place.name}: expected sha256 6726825d\w+, found {sha256(place)}"
    ):
        features.load("inception")


@pytest.mark.parametrize("content", ["another network", "no weights"])
def test_weights_of_another_network_are_refused(empty, monkeypatch, content):
    place = empty / "data" / features.INCEPTION[0]
    if content == "another network":
        torch.save({"weight": torch.zeros(3)}, place)
    else:
        place.write_bytes(b"<html>not found</html>")
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(place))
    with pytest.raises(data.DatasetCorrupt, match="expected the weights of FID's Inception, found: "):
        features.load("inception")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_inception_is_downloaded_by_name(empty, random_inception, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=random_inception.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{random_inception.name}"
    monkeypatch.setattr(library(), "URL_INCEPTION_V3", url)
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(random_inception))
    try:
        assert features.load("inception").dimension == 2048
    finally:
        server.shutdown()
        server.server_close()
    assert features.find_inception() == empty / "cache" / random_inception.name


def test_inception_that_cannot_be_had_says_what_to_do(empty, monkeypatch):
    monkeypatch.setattr(library(), "URL_INCEPTION_V3", "http://127.0.0.1:9/none.pth")
    monkeypatch.setattr(downloads, "PATIENCE", 2.0)
    with pytest.raises(data.DatasetUnavailable, match=r"could not be downloaded(?s:.*)the file into \$GRAE_DATA"):
        features.load("inception")
    assert features.find_inception() is None


# How the small networks were trained


def test_shifts_and_flips_against_a_loop():
    images = noise(6, 3, 8)
    recipe = train_features.Recipe(epochs=1, shift=2, flip=True)
    padded = F.pad(images.float(), (2, 2, 2, 2), "reflect").to(torch.uint8)
    chosen = torch.tensor([4, 0, 2, 5])
    found = train_features.shifted(padded, chosen, recipe, torch.Generator().manual_seed(0))
    assert found.shape == (4, 3, 8, 8)
    seen = set()
    for index, image in zip(chosen.tolist(), found, strict=True):
        windows = {(i, j): padded[index, :, i : i + 8, j : j + 8] / 255 for i in range(5) for j in range(5)}
        windows = {(*at, 0): x for at, x in windows.items()} | {(*at, 1): x.flip(2) for at, x in windows.items()}
        matches = [at for at, window in windows.items() if torch.equal(window, image)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 1 and {mirrored for *_, mirrored in seen} == {0, 1}


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [train_features.rate(step, 100) for step in range(100)]
    assert max(rates) == rates[9] == 1 and rates[0] == pytest.approx(0.1) and 0 < rates[-1] < 1e-3
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def few(name, split):
    return data.load("digits", split, n=400 if split == "train" else 100)


def tiny(folder, monkeypatch):
    """Two epochs of the tool on a few of scikit-learn's digits; the file that it wrote."""
    monkeypatch.setattr(train_features, "data", SimpleNamespace(load=few))
    places = ["--build", str(folder / "build"), "--out", str(folder)]
    assert train_features.main(["mnist", "--epochs", "2", "--precision", "float32", *places]) == 0
    return folder / "features_mnist.safetensors"


def test_the_tool_trains_and_states_the_accuracy_of_what_it_stores(tmp_path, monkeypatch, capsys):
    path = tiny(tmp_path, monkeypatch)
    losses = [float(text) for text in re.findall(r"cross entropy ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 2 and losses[1] < losses[0]
    monkeypatch.setattr(features, "WEIGHTS", path.parent)
    test = few("mnist", "test")
    share = (classified("mnist", test.images) == test.labels).double().mean().item()
    assert features.load("mnist").description["test accuracy"] == f"{share:.2%} of 100 test images"


def test_the_tool_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    whole, keep = load_file(tiny(tmp_path / "once", monkeypatch)), train_features.keep

    def killed(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_features, "keep", killed)
        tiny(tmp_path / "twice", monkeypatch)
    capsys.readouterr()
    resumed = load_file(tiny(tmp_path / "twice", monkeypatch))
    assert re.findall(r"epoch (\d) of 2", capsys.readouterr().out) == ["2"]
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


@pytest.mark.parametrize("given", [("--epochs", "0"), ("--seed", "-1")])
def test_the_tool_refuses_to_store_what_was_not_trained(given, capsys):
    with pytest.raises(SystemExit):
        train_features.main(["mnist", *given])
    assert "--epochs of 1 or more and --seed of 0 or more" in capsys.readouterr().err


def test_what_is_stored_is_rounded_to_sixteen_bits():
    for name in SMALL:
        for key, tensor in load_file(features.WEIGHTS / f"features_{name}.safetensors").items():
            assert tensor.dtype == (torch.float16 if tensor.ndim in (2, 4) else torch.float32), key
