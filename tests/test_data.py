"""Data sets: every source, every way a file or a server can fail. Nothing here needs a network."""

import gzip
import hashlib
import socket
import struct
import threading
import time
import traceback
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from grae_helpers import data, downloads, runtime
from grae_helpers.folders import hashed_split

HASHES = {  # sha256 of the original MNIST files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def small_set():
    """The four files of a set with 7 training and 3 test images."""
    rng, files = np.random.default_rng(0), {}
    for (images, labels), n in zip(downloads.SPLITS.values(), (7, 3), strict=True):
        files[images] = idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[labels] = idx(rng.integers(0, 10, n, dtype=np.uint8))
    return files


FILES = small_set()
ZIPPED = {name: gzip.compress(content, mtime=0) for name, content in FILES.items()}


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how the server behaves."""

    def do_GET(self):
        _, behaviour, name = self.path.split("/")
        self.server.requests.append(self.path)
        content = ZIPPED[name.removesuffix(".gz")]
        if behaviour == "stall":
            self.server.released.wait(30)
        elif behaviour == "missing":
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if behaviour == "stalls_midway":
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.server.released.wait(30)
            elif behaviour == "drips":
                self.drip(content)
            else:
                bodies = {"good": content, "wrong": content[::-1], "truncated": content[:-20]}
                self.wfile.write(bodies[behaviour])

    def drip(self, content):
        for byte in content:
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                return
            if self.server.released.wait(0.05):
                return

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.released, server.daemon_threads = [], threading.Event(), True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """No data folder, an empty cache, no proxy, nothing remembered."""
    monkeypatch.delenv("GRAE_DATA", raising=False)
    monkeypatch.setenv("GRAE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    data._available.cache_clear()
    yield
    data._available.cache_clear()


@pytest.fixture
def mirrors(server, monkeypatch):
    """Let mnist be the small set, served in the given manners, with at most two seconds of patience."""

    def use(*behaviours, patience=2.0):
        urls = tuple(f"http://127.0.0.1:{server.server_port}/{behaviour}/" for behaviour in behaviours)
        return use_urls(*urls, patience=patience)

    def use_urls(*urls, patience=2.0):
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in ZIPPED.items()}
        monkeypatch.setitem(downloads.ARCHIVES, "mnist", downloads.Archive("MNIST", urls, md5))
        monkeypatch.setattr(downloads, "PATIENCE", patience)

    use.urls = use_urls
    return use


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """$GRAE_DATA with the small set in torchvision's layout; a test may damage it."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in FILES.items():
        (raw / name).write_bytes(content)
    monkeypatch.setenv("GRAE_DATA", str(tmp_path / "data"))
    return raw


def cached_files(tmp_path):
    raw = tmp_path / "cache" / "MNIST" / "raw"
    return sorted(path.name for path in raw.iterdir()) if raw.exists() else []


# names, digits, tensors


def test_names_are_those_that_a_notebook_may_ask_for():
    assert runtime.DATASETS == ("auto", *(name for name in data.NAMES if name != "image_folder"))


def test_digits_split_is_stratified_disjoint_complete_and_fixed():
    train, test = data.load("digits"), data.load("digits", "test")
    assert len(train) + len(test) == 1797
    assert 0.19 < len(test) / 1797 < 0.21
    shares = torch.bincount(test.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert ((shares - 0.2).abs() < 0.01).all()
    seen = {image.numpy().tobytes() for image in train.images}
    assert not seen & {image.numpy().tobytes() for image in test.images}
    assert torch.equal(train.images, data.load("digits").images)


def test_digits_images_span_the_grey_values_and_follow_the_originals():
    from sklearn.datasets import load_digits

    test = data.load("digits", "test")
    assert test.images.dtype == torch.uint8 and test.images.shape[1:] == (1, 28, 28)
    assert test.labels.dtype == torch.int64
    assert test.images.min() == 0 and test.images.max() == 255
    originals = load_digits().images / 16
    shrunk = torch.nn.functional.adaptive_avg_pool2d(test.floats(), 8).squeeze(1).double().numpy()
    nearest = [((originals - image) ** 2).mean((1, 2)).argmin() for image in shrunk[:50]]
    assert (load_digits().target[nearest] == test.labels[:50].numpy()).all()
    assert min(((originals - image) ** 2).mean((1, 2)).min() for image in shrunk[:50]) < 0.02


def test_floats_choose_scale_and_leave_the_images_alone():
    digits = data.load("digits", "test")
    before = digits.images.clone()
    everything = digits.floats()
    assert everything.dtype == torch.float32 and everything.shape == digits.images.shape
    assert everything.min() == 0 and everything.max() == 1
    for indices in ([2, 0], torch.tensor([2, 0]), slice(0, 2), digits.labels == 3):
        assert torch.equal(digits.floats(indices), everything[indices])
    everything.mul_(0)
    assert torch.equal(digits.images, before)


def test_n_takes_the_first_images():
    digits, fewer = data.load("digits"), data.load("digits", n=20)
    assert torch.equal(fewer.images, digits.images[:20]) and torch.equal(fewer.labels, digits.labels[:20])
    assert len(data.load("digits", "test", n=10_000)) == 359
    assert digits.factors is None and digits.factor_names == ()


def test_images_are_frozen():
    with pytest.raises(AttributeError):
        data.load("digits").name = "mnist"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binarize_by_threshold(dtype):
    x = torch.tensor([0.0, 0.3, 0.5, 0.51, 1.0], dtype=dtype)
    assert torch.equal(data.binarize(x), torch.tensor([0, 0, 0, 1, 1], dtype=dtype))
    assert torch.equal(data.binarize(x, threshold=0.2), torch.tensor([0, 1, 1, 1, 1], dtype=dtype))
    assert x[1] == torch.tensor(0.3, dtype=dtype)


def test_binarize_draws_with_the_grey_value_as_probability():
    x = torch.tensor([0.0, 0.25, 0.8, 1.0], dtype=torch.float64).repeat(20_000, 1)
    draws = [data.binarize(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].dtype == x.dtype and set(draws[0].unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(draws[0].mean(0), x[0], atol=0.015)
    assert draws[0][:, 0].sum() == 0 and draws[0][:, 3].min() == 1


def test_binarize_refuses_integers_nan_and_values_outside():
    with pytest.raises(TypeError, match=r"floats in \[0, 1\], got torch.uint8"):
        data.binarize(torch.zeros(3, dtype=torch.uint8))
    for bad in (float("nan"), -0.1, 1.1, 255.0):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            data.binarize(torch.tensor([0.5, bad]))
    assert data.binarize(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("mnits",), {}, "lfw, image_folder, sprites, faces; got 'mnits'"),
        (("digits", "valid"), {}, '"train" or "test", got \'valid\''),
        (("digits",), {"path": "x", "size": 8}, "digits takes no path, size"),
        (("image_folder",), {}, "path="),
        (("mnist",), {"size": 32}, "mnist takes no size"),
        (("digits",), {"n": 0}, "n: expected a positive integer, got 0"),
        (("digits",), {"n": 2.0}, "n: expected a positive integer, got 2.0"),
        (("faces",), {"size": True}, "size: expected a positive integer, got True"),
        (("sprites",), {"channels": 2}, "channels: expected 1 or 3, got 2"),
        (("image_folder",), {"path": ".", "size": 0}, "size"),
        (("image_folder",), {"path": ".", "size": 8.0}, "size"),
        (("image_folder",), {"path": ".", "channels": 4}, "channels"),
        (("image_folder",), {"path": ".", "on_error": "ignore"}, "on_error"),
    ],
)
def test_load_refuses_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(*arguments, **options)


# files under $GRAE_DATA


def test_idx_files_are_read_as_they_are(data_folder):
    for split, n in (("train", 7), ("test", 3)):
        images, labels = downloads.SPLITS[split]
        loaded = data.load("mnist", split)
        assert loaded.images.numpy().tobytes() == FILES[images][16:]
        assert loaded.labels.tolist() == list(FILES[labels][8:])
        assert loaded.images.shape == (n, 1, 28, 28)
        assert loaded.source == "mnist: found under $GRAE_DATA"
        assert torch.equal(data.load("mnist", split, n=2).images, loaded.images[:2])
    assert cached_files(data_folder.parents[2]) == []


def test_gzipped_files_do_as_well(data_folder):
    for name, content in ZIPPED.items():
        (data_folder / name).unlink()
        (data_folder / f"{name}.gz").write_bytes(content)
    assert len(data.load("mnist")) == 7
    (data_folder / "train-images-idx3-ubyte.gz").write_bytes(ZIPPED["train-images-idx3-ubyte"][:-50])
    with pytest.raises(data.DatasetCorrupt, match=r"images-idx3-ubyte.gz: expected a readable IDX"):
        data.load("mnist")


IMAGES, LABELS = FILES["train-images-idx3-ubyte"], FILES["train-labels-idx1-ubyte"]
DAMAGE = {
    "truncated": ("images", IMAGES[:-100], "5504 bytes for the shape \\[7, 28, 28\\], found 5404"),
    "too long": ("images", IMAGES + b"x", "expected 5504 bytes .* found 5505"),
    "magic": ("images", b"\x89PNG" + IMAGES[4:], "magic number 2051, found 2303741511"),
    "labels for images": ("images", LABELS * 9, "magic number 2051, found 2049"),
    "empty": ("images", b"", "expected a header of 16 bytes, found 0 bytes"),
    "no image": ("images", idx(np.zeros((0, 28, 28), np.uint8)), "\\[n, 28, 28\\], found \\[0, 28, 28\\]"),
    "size": ("images", idx(np.zeros((7, 32, 32), np.uint8)), "shape \\[n, 28, 28\\], found \\[7, 32, 32\\]"),
    "fewer labels": ("labels", idx(np.zeros(6, np.uint8)), "expected 7 labels, one per image, found 6"),
    "label": ("labels", idx(np.full(7, 10, np.uint8)), "labels from 0 to 9, found 10"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_file_under_grae_data_is_never_passed_over(data_folder, mirrors, server, damage):
    mirrors("good")
    part, content, message = DAMAGE[damage]
    name = f"train-{part}-idx{3 if part == 'images' else 1}-ubyte"
    (data_folder / name).write_bytes(content)
    for attempt in (lambda: data.load("mnist"), lambda: data.resolve("auto")):
        with pytest.raises(data.DatasetCorrupt, match=rf"(?s){name}: .*{message}"):
            attempt()
    assert server.requests == []


def test_an_incomplete_set_under_grae_data_is_never_passed_over(data_folder, mirrors, server):
    mirrors("good")
    (data_folder / "train-labels-idx1-ubyte").unlink()
    assert len(data.load("mnist", "test")) == 3
    for attempt in (lambda: data.load("mnist"), lambda: data.resolve("auto")):
        with pytest.raises(data.DatasetCorrupt, match=r"train-labels-idx1-ubyte"):
            attempt()
    assert server.requests == []


def test_grae_data_without_the_set_falls_through_to_the_cache(tmp_path, monkeypatch, mirrors):
    mirrors("good")
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("GRAE_DATA", str(tmp_path / "other"))
    assert data.load("mnist", "test").source == "mnist: downloaded into the user's cache, checksums verified"


def test_grae_data_that_does_not_exist_is_refused_before_any_download(monkeypatch, mirrors, server, tmp_path):
    mirrors("good")
    monkeypatch.setenv("GRAE_DATA", str(tmp_path / "typo"))
    for attempt in (lambda: data.load("mnist"), lambda: data.resolve("auto")):
        with pytest.raises(ValueError, match=r"GRAE_DATA: expected an existing folder, got .*typo"):
            attempt()
    assert server.requests == []


def test_the_real_mnist_where_it_is_at_hand(monkeypatch):
    root = REAL_ROOT
    if root is None:
        pytest.skip("GRAE_DATA does not hold the raw MNIST files")
    monkeypatch.setenv("GRAE_DATA", str(root))
    for name, expected in HASHES.items():
        assert hashlib.sha256((root / "MNIST" / "raw" / name).read_bytes()).hexdigest() == expected
    train, test = data.load("mnist"), data.load("mnist", "test")
    assert len(train) == 60_000 and len(test) == 10_000
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.floats().mean().item() == pytest.approx(0.1307, abs=1e-4)


# downloads


def test_a_download_lands_in_the_cache_once(mirrors, server, tmp_path):
    mirrors("good")
    train = data.load("mnist")
    assert train.images.numpy().tobytes() == IMAGES[16:]
    assert str(tmp_path) not in train.source
    assert cached_files(tmp_path) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    assert len(server.requests) == 2
    data.load("mnist")
    assert len(server.requests) == 2


def test_nothing_is_printed(mirrors, capfd):
    mirrors("good")
    assert data.resolve("auto") == "mnist"
    data.load("mnist")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("wrong", "does not match"),
        ("missing", "404"),
        ("truncated", "IncompleteRead|does not match"),
        ("stall", "nothing came|timed out"),
        ("stalls_midway", "nothing came|timed out"),
        ("drips", "nothing came|timed out"),
    ],
)
def test_a_failing_server_gives_unavailable_and_no_half_file(mirrors, tmp_path, behaviour, reason):
    mirrors(behaviour, patience=0.6)
    started = time.monotonic()
    with pytest.raises(data.DatasetUnavailable, match=rf"(?s)train-images.*({reason}).*GRAE_DATA/MNIST/raw"):
        data.load("mnist")
    assert time.monotonic() - started < 3
    assert cached_files(tmp_path) == []
    assert data.resolve("auto") == "digits"


@pytest.mark.parametrize("behaviour", ["wrong", "missing", "truncated", "stall", "stalls_midway"])
def test_the_second_mirror_is_tried(mirrors, behaviour):
    mirrors(behaviour, "good", patience=2)
    assert len(data.load("mnist", "test")) == 3


def test_a_refused_connection(mirrors):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/good/"
    mirrors.urls(url)
    with pytest.raises(data.DatasetUnavailable, match=r"[Rr]efused"):
        data.load("mnist")


def test_all_stalls_together_end_within_ten_seconds(mirrors, server, monkeypatch):
    """A server that never answers, then a name that never resolves, with the real patience."""
    look_up = socket.getaddrinfo

    def black_hole(host, *arguments, **options):
        if host == "black-hole.invalid":
            server.released.wait(30)
            raise socket.gaierror(-2, "released")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", black_hole)
    stalls = f"http://127.0.0.1:{server.server_port}/stall/"
    mirrors.urls(stalls, "http://black-hole.invalid/good/", patience=REAL_PATIENCE)
    started = time.monotonic()
    with pytest.raises(data.DatasetUnavailable, match=r"(?s)stall/.*black-hole"):
        data.load("mnist")
    assert time.monotonic() - started < 10


def test_an_interrupted_download_leaves_nothing(mirrors, monkeypatch, tmp_path):
    mirrors("good")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_next", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist")
    assert cached_files(tmp_path) == []


def damage_cache(tmp_path):
    path = tmp_path / "cache" / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    return path


def test_a_corrupt_cached_file_is_reported_and_downloaded_again(mirrors, tmp_path):
    mirrors("good")
    data.load("mnist", "test")
    path = damage_cache(tmp_path)
    with pytest.warns(UserWarning, match=r"t10k-images-idx3-ubyte.gz was corrupt"):
        assert len(data.load("mnist", "test")) == 3
    assert path.read_bytes() == ZIPPED["t10k-images-idx3-ubyte"]


def test_a_corrupt_cached_file_that_cannot_be_replaced(mirrors, tmp_path):
    mirrors("good")
    assert data.resolve("auto") == "mnist"
    data._available.cache_clear()
    path = damage_cache(tmp_path)
    mirrors("missing")
    expected = hashlib.md5(ZIPPED["t10k-images-idx3-ubyte"]).hexdigest()
    found = hashlib.md5(path.read_bytes()).hexdigest()
    for attempt in (lambda: data.load("mnist", "test"), lambda: data.resolve("auto")):
        with pytest.raises(data.DatasetUnavailable) as raised:
            attempt()
    text = str(raised.value)
    assert found in text and expected in text and "$GRAE_DATA" in text
    assert str(path) in text and "Delete" in text
    assert path.exists()


def test_a_cache_that_cannot_be_written(mirrors, server, tmp_path, monkeypatch):
    mirrors("good")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GRAE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(data.DatasetUnavailable, match=r"(?s)file/cache.* cannot be written .*Set GRAE_CACHE"):
        data.load("mnist")
    assert data.resolve("auto") == "digits"
    assert server.requests == []


def test_a_read_only_cache_serves_what_it_holds(mirrors, monkeypatch):
    mirrors("good")
    data.load("mnist", "test")

    def forbid(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(downloads.tempfile, "TemporaryFile", forbid)
    assert len(data.load("mnist", "test")) == 3
    with pytest.raises(data.DatasetUnavailable, match=r"Permission denied.*GRAE_CACHE"):
        data.load("mnist", "train")


def test_the_cache_is_the_users_unless_moved(monkeypatch):
    monkeypatch.delenv("GRAE_CACHE")
    assert downloads.cache_root().name == "grae_helpers"


# auto


def test_auto_asks_once_per_process(mirrors, server):
    mirrors("missing")
    assert [data.resolve("auto") for _ in range(3)] == ["digits"] * 3
    assert len(server.requests) == 1


def test_resolve_returns_a_name_that_was_asked_for(mirrors, server):
    mirrors("missing")
    assert data.resolve("mnist") == "mnist"
    assert data.resolve("auto", paper="digits") == "digits"
    assert server.requests == []
    for arguments in (("mnits",), ("auto", "mnits"), ("auto", "mnist", "auto")):
        with pytest.raises(ValueError, match=r"expected one of"):
            data.resolve(*arguments)


# folders and archives of images


def paint(path, colour, size=(20, 12), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for number in range(20):
        paint(root / "b" / f"{number}.png", (255, 0, 0))
        paint(root / "deep" / "a" / f"{number}.JPG", (0, 0, 255))
    (root / "b" / "notes.txt").write_text("no image")
    paint(root / ".hidden" / "x.png", 0)
    return root


def both(path, **options):
    return [data.load("image_folder", split, path=path, **options) for split in ("train", "test")]


def test_a_folder_is_split_labelled_and_resized(pictures):
    train, test = both(pictures, size=16)
    assert len(train) + len(test) == 40 and min(len(train), len(test)) > 0
    assert train.images.shape[1:] == (3, 16, 16) and train.images.dtype == torch.uint8
    for part in (train, test):
        assert part.classes == ("a", "b")
        assert torch.equal(part.labels, (part.images[:, 0, 8, 8] > 128).long())
        assert part.source == f"image_folder: {len(part)} images from pictures, cropped and resized to 16×16"


def test_n_spreads_over_the_folder_and_smaller_sets_are_inside_larger_ones(pictures):
    for number, name in enumerate(["b", "deep/a"]):
        for file in sorted((pictures / name).glob("*g")) + sorted((pictures / name).glob("*G")):
            paint(file, (int(file.stem) * 10, 0, 50 * number + 50))
    train = data.load("image_folder", path=pictures, size=4)
    rows = [tuple(image[:, 0, 0].tolist()) for image in train.images]
    before = set()
    for n in (1, 5, 12, len(train), 99):
        some = data.load("image_folder", path=pictures, size=4, n=n)
        chosen = [tuple(image[:, 0, 0].tolist()) for image in some.images]
        assert len(some) == len(some.labels) == min(n, len(train))
        assert before <= set(chosen) and chosen == [row for row in rows if row in set(chosen)]
        before = set(chosen)
        if n == 12:
            assert set(some.labels.tolist()) == {0, 1}


def test_the_split_does_not_change_when_images_are_added(pictures):
    expected = sorted(f"b/{number}.png" for number in range(20) if hashed_split(f"b/{number}.png") == "test")
    before = both(pictures)[1]
    assert (before.labels == 1).sum() == len(expected)
    for number in range(20, 40):
        paint(pictures / "c" / f"{number}.png", (0, 255, 0))
    after = both(pictures)[1]
    assert torch.equal(after.images[after.labels < 2], before.images)


def test_a_zip_gives_what_its_folder_gives(pictures, tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(pictures.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(pictures))
        archive.writestr("__MACOSX/b/1.png", b"not an image")
    for folder, zipped in zip(both(pictures), both(path), strict=True):
        assert torch.equal(folder.images, zipped.images) and torch.equal(folder.labels, zipped.labels)


@pytest.mark.parametrize("wrapper", ["", "all/of/it/"])
def test_train_and_test_folders_are_the_split(tmp_path, wrapper):
    root = tmp_path / "set"
    for name, colour in (("train/cat/1", 10), ("train/dog/2", 20), ("test/dog/3", 30), ("val/cow/4", 40)):
        if wrapper == "" or not name.startswith("val"):
            paint(root / f"{wrapper}{name}.png", colour, mode="L")
    train, test = both(root, channels=1)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.images[:, 0, 0, 0].tolist() == [10, 20] and train.labels.tolist() == [0, 1]
    assert test.images[:, 0, 0, 0].tolist() == [30] and test.labels.tolist() == [1]


def test_images_are_cropped_at_the_centre(tmp_path):
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = (10, 200, 90)
    image[:, :10] = image[:, 20:] = 255
    for name, array in (("wide", image), ("tall", image.transpose(1, 0, 2))):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    colour = torch.tensor([10, 200, 90], dtype=torch.uint8).view(1, 3, 1, 1)
    for split in {hashed_split("tall.png"), hashed_split("wide.png")}:
        images = data.load("image_folder", split, path=tmp_path, size=5).images
        assert torch.equal(images, colour.expand_as(images))


def only_image(tmp_path, image, channels, suffix="png"):
    """The one pixel value of a flat image, whatever split its name falls into."""
    root = tmp_path / "one"
    root.mkdir()
    image.save(root / f"x.{suffix}")
    split = hashed_split(f"x.{suffix}")
    images = data.load("image_folder", split, path=root, size=4, channels=channels).images
    assert images.flatten(2).unique(dim=2).shape[2] == 1
    return images[0, :, 0, 0].tolist()


MODES = {
    "grey to colour": (Image.new("L", (4, 4), 77), 3, [77, 77, 77]),
    "colour to grey": (Image.new("RGB", (4, 4), (100, 100, 100)), 1, [100]),
    "palette": (Image.new("RGB", (4, 4), (9, 8, 7)).quantize(2), 3, [9, 8, 7]),
    "transparency": (Image.new("RGBA", (4, 4), (9, 8, 7, 128)), 3, [9, 8, 7]),
    "16 bits": (Image.fromarray(np.full((4, 4), 100 * 257, np.uint16)), 1, [100]),
    "1 bit": (Image.new("1", (4, 4), 1), 1, [255]),
}


@pytest.mark.parametrize("mode", MODES)
def test_image_modes(tmp_path, mode):
    image, channels, expected = MODES[mode]
    assert only_image(tmp_path, image, channels) == expected


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "ppm"])
def test_lossless_formats(tmp_path, suffix):
    assert only_image(tmp_path, Image.new("RGB", (4, 4), (255, 255, 255)), 3, suffix) == [255, 255, 255]


def test_a_broken_image_is_named_or_skipped(pictures):
    name = next(name for name in (f"b/bad{n}.png" for n in range(99)) if hashed_split(name) == "train")
    (pictures / name).write_bytes((pictures / "b" / "1.png").read_bytes()[:40])
    with pytest.raises(data.DatasetCorrupt, match=rf"cannot read {name}"):
        data.load("image_folder", path=pictures)
    with pytest.warns(UserWarning, match=rf"skipped 1 broken images: {name}"):
        train = data.load("image_folder", path=pictures, on_error="skip")
    assert len(train) == len(train.labels) == len(train.images)
    assert len(train) + len(data.load("image_folder", "test", path=pictures)) == 40


def test_what_is_said_of_a_broken_image_is_the_same_in_each_run(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    for on_error in ("raise", "skip"):
        with pytest.raises(data.DatasetCorrupt, match=r"\.png(: | \()cannot identify image file\)?$") as caught:
            data.load("image_folder", path=tmp_path, on_error=on_error)
        assert "0x" not in "".join(traceback.format_exception(caught.value))


def test_folders_without_a_readable_image(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(data.DatasetUnavailable, match=r"found no"):
            data.load("image_folder", path=path)
    (tmp_path / "bad.zip").write_bytes(b"PK, but not really")
    with pytest.raises(data.DatasetCorrupt, match=r"bad.zip"):
        data.load("image_folder", path=tmp_path / "bad.zip")
    (tmp_path / "x").mkdir()
    for number in range(20):
        (tmp_path / "x" / f"{number}.png").write_bytes(b"nothing")
    with pytest.raises(data.DatasetCorrupt, match=r"none of .* can be read"):
        data.load("image_folder", path=tmp_path, on_error="skip")


def real_root():
    try:
        root = downloads.data_root()
    except ValueError:
        return None
    whole = root is not None and all((root / "MNIST" / "raw" / name).is_file() for name in HASHES)
    return root if whole else None


REAL_ROOT, REAL_PATIENCE = real_root(), downloads.PATIENCE


def test_a_zip_may_mix_absolute_and_relative_names(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as archive:
        for name in [f"cat/{n}.png" for n in range(8)] + [f"/etc/dog/{n}.png" for n in range(8)]:
            archive.writestr(name, (tmp_path / "x.png").read_bytes())
    path = tmp_path / "mixed.zip"
    splits = [data.load("image_folder", split, path=path, size=4) for split in ("train", "test")]
    assert sum(map(len, splits)) == 16 and splits[0].classes == ("cat", "dog")


def test_a_chapter_for_small_grey_images_refuses_others_by_name():
    with pytest.raises(ValueError, match="expected one of auto, digits, mnist, fashion_mnist; got 'faces'"):
        data.resolve("faces", among=data.SMALL_GREY)
    assert data.resolve("digits", among=data.SMALL_GREY) == "digits"
