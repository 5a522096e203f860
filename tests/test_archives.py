"""CelebA, LFW and CIFAR-10 on small files made here; Google Drive and the mirrors are played by this machine."""

import hashlib
import io
import sys
import tarfile
import threading
import time
import types
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from grae_helpers import archives, data, downloads, folders, runtime

PARTITION = "list_eval_partition.txt"


def encoded(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def celebrity(number):
    """178×218 photographs: another colour inside the centre 140×140 than outside."""
    array = np.full((218, 178, 3), 255, np.uint8)
    array[39:179, 19:159] = (10 * number, 100, 200 - 10 * number)
    return encoded(array)


SPLITS = {"train": [1, 2, 4, 5, 7, 8], "valid": [3], "test": [6, 9]}
CELEBRITIES = {f"{number:06}.jpg": celebrity(number) for number in range(1, 10)}
LIST = "".join(
    f"{number:06}.jpg {list(SPLITS).index(split)}\n"
    for number, split in sorted((number, split) for split, numbers in SPLITS.items() for number in numbers)
)


def zipped(contents):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


CELEBA_ZIP = zipped({f"img_align_celeba/{name}": content for name, content in CELEBRITIES.items()})


def tarred(contents):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """$GRAE_DATA is an empty folder, the cache too; no server is reached."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("GRAE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GRAE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LFW", "CIFAR10"):
        monkeypatch.setattr(archives, name, ("http://127.0.0.1:9/none", "md5:" + "0" * 32))
    monkeypatch.setattr(archives, "CELEBA_MIRROR", "http://127.0.0.1:9/")
    return tmp_path / "data"


@pytest.fixture
def celeba(root):
    folder = root / "celeba"
    folder.mkdir()
    (folder / "img_align_celeba.zip").write_bytes(CELEBA_ZIP)
    (folder / PARTITION).write_text(LIST)
    return folder


def kept(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.npy"))


def forbid_decoding(monkeypatch):
    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(folders, "_decode", decode)


# CelebA


def test_celeba_follows_the_partition_and_the_crop(celeba):
    for split in ("train", "test"):
        loaded = data.load("celeba", split)
        assert loaded.images.shape == (len(SPLITS[split]), 3, 64, 64) and loaded.images.dtype == torch.uint8
        colours = torch.tensor([[10 * number, 100, 200 - 10 * number] for number in SPLITS[split]])
        assert torch.equal(loaded.images, colours.view(-1, 3, 1, 1).expand(-1, 3, 64, 64).to(torch.uint8))
        assert loaded.labels.tolist() == [0] * len(loaded) and loaded.classes == ("face",)
    assert loaded.source == "celeba: 2 photographs found under $GRAE_DATA, centre 140×140 resized to 64×64"


def test_celeba_crops_and_resizes_as_the_papers_do(celeba):
    """Tolstikhin et al. 2018: crop the box, then Lanczos."""
    array = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    contents = {**CELEBRITIES, "000006.jpg": encoded(array)}
    (celeba / "img_align_celeba.zip").write_bytes(zipped(contents))
    left, top = (178 - 140) // 2, (218 - 140) // 2
    image = Image.fromarray(array).crop((left, top, left + 140, top + 140)).resize((64, 64), Image.LANCZOS)
    assert np.array_equal(data.load("celeba", "test").images[0].permute(1, 2, 0).numpy(), np.array(image))


def test_a_celeba_folder_gives_what_its_zip_gives(celeba):
    expected = data.load("celeba")
    (celeba / "img_align_celeba.zip").unlink()
    (celeba / "img_align_celeba").mkdir()
    for name, content in CELEBRITIES.items():
        (celeba / "img_align_celeba" / name).write_bytes(content)
    assert torch.equal(data.load("celeba").images, expected.images)


def test_decoded_images_are_kept_once(celeba, monkeypatch, tmp_path):
    first = data.load("celeba", size=16)
    assert len(kept(tmp_path)) == 1 and not list(kept(tmp_path)[0].parent.glob(".*"))
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        assert torch.equal(data.load("celeba", size=16).images, first.images)
        fewer = data.load("celeba", size=16, n=3)
        rows = folders.spread(6, 3)
        assert torch.equal(fewer.images, first.images[rows]) and len(fewer.labels) == 3
        with pytest.raises(data.DatasetCorrupt, match="decoded"):
            data.load("celeba", size=8)
    first.images.zero_()
    assert data.load("celeba", size=16).images.any()


def test_a_few_are_decoded_alone_and_not_kept(celeba, tmp_path):
    assert len(data.load("celeba", n=2)) == 2
    assert kept(tmp_path) == []
    assert len(data.load("celeba", n=100)) == 6


def test_another_source_is_decoded_again(celeba):
    data.load("celeba", "test")
    contents = {**CELEBRITIES, "000006.jpg": CELEBRITIES["000001.jpg"]}
    (celeba / "img_align_celeba.zip").write_bytes(zipped(contents))
    assert data.load("celeba", "test").images[0, 0, 0, 0] == 10


def numpys(save, *arrays):
    file = io.BytesIO()
    save(file, *arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    ["truncated", "longer", "shape", "empty", "text", "header", "zip", "npz", "pixel", "checksum", "no checksums"],
)
def test_damaged_kept_images_are_decoded_again(celeba, tmp_path, damage):
    images = data.load("celeba").images
    path = kept(tmp_path)[0]
    content = path.read_bytes()
    if damage == "shape":
        np.save(path, np.zeros((6, 3, 8, 8), np.uint8))
    else:
        flipped = bytes([content[-1] ^ 1])
        other = {"truncated": content[:-7], "longer": content + b"x", "empty": b"", "text": b"not an array"}
        other |= {"header": content[:10] + b"(" * 118 + content[128:], "zip": b"PK\3\4" + content[4:]}
        other |= {"npz": numpys(np.savez, np.zeros(2)), "pixel": content[:5000] + b"\xff" + content[5001:]}
        other |= {"checksum": content[:-1] + flipped, "no checksums": numpys(np.save, images.numpy())}
        assert other["pixel"] != content
        path.write_bytes(other[damage])
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged .* decoding the images again"):
        assert torch.equal(data.load("celeba").images, images)
    assert path.read_bytes() == content


def test_a_changed_pixel_is_found_in_the_images_that_are_asked_for(celeba, tmp_path):
    images = data.load("celeba").images
    path, rows = kept(tmp_path)[0], folders.spread(6, 2)
    other = next(row for row in range(6) if row not in rows)
    for row, found in ((rows[1], 1), (other, 0)):
        data.load("celeba")
        kept_images = np.load(path, mmap_mode="r+")
        kept_images[row, 2, 63, 63] ^= 1
        kept_images.flush()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert torch.equal(data.load("celeba", n=2).images, images[rows])
        message = f"damaged (1 images with another checksum, the first is {row}): decoding"
        assert [message in str(warning.message) for warning in caught] == [True] * found
        with pytest.warns(UserWarning, match="is damaged"):
            assert torch.equal(data.load("celeba").images, images)


@pytest.mark.parametrize("step", ["save", "replace"])
def test_a_full_disk_costs_the_kept_images_only(celeba, monkeypatch, tmp_path, step):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"save": (np, "save", full), "replace": (folders.os, "replace", full)}[step])
    with pytest.warns(UserWarning, match=r"could not be kept \(No space left on device\)"):
        assert len(data.load("celeba")) == 6
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_incomplete_and_damaged_celebas_are_named(celeba):
    (celeba / PARTITION).write_text(LIST + "000010.jpg 0\n000011.jpg 0\n")
    with pytest.raises(data.DatasetCorrupt, match=r"2 of the partition's 8 train .* the first is 000010.jpg"):
        data.load("celeba")
    assert len(data.load("celeba", "test")) == 2
    for text, found in (("", "an empty file"), ("000001.jpg 3\n", "000001.jpg 3"), (LIST + "x\n", "'x'")):
        (celeba / PARTITION).write_text(text)
        with pytest.raises(data.DatasetCorrupt, match=rf"{PARTITION}: expected lines like .*{found}"):
            data.load("celeba")
    (celeba / PARTITION).unlink()
    with pytest.raises(data.DatasetCorrupt, match=rf"{PARTITION}: expected beside CelebA's images"):
        data.load("celeba")
    (celeba / PARTITION).write_text(LIST)
    (celeba / "img_align_celeba.zip").write_bytes(CELEBA_ZIP[:-30])
    with pytest.raises(data.DatasetCorrupt, match=r"img_align_celeba.zip"):
        data.load("celeba")


# one broken image among many, and none at all, wherever the images are


def small_lfw():
    people = ("Ada", "Bo", "Cy", "Di", "Eve", "Flo", "Guy", "Hal", "Ida", "Jo", "Kim", "Lea")
    images = {}
    for number, person in enumerate(people):
        for shot in range(1 + number % 3):
            array = np.full((250, 250, 3), 255, np.uint8)
            array[48:201, 48:201] = (20 * number, 80 * shot, 50)
            images[f"{person}/{person}_{shot:04}.jpg"] = encoded(array)
    return images


LFW = small_lfw()


def put(root, source, images):
    """The images as the given source; the name to load, and its options."""
    if source.startswith("celeba"):
        (root / "celeba").mkdir()
        (root / "celeba" / PARTITION).write_text(LIST)
    places = {
        "folder": ("image_folder", root / "mine"),
        "zip": ("image_folder", root / "mine.zip"),
        "celeba folder": ("celeba", root / "celeba" / "img_align_celeba"),
        "celeba zip": ("celeba", root / "celeba" / "img_align_celeba.zip"),
        "lfw folder": ("lfw", root / "lfw"),
        "lfw zip": ("lfw", root / "lfw64.zip"),
        "lfw tgz": ("lfw", root / "lfw-funneled.tgz"),
        "cifar10 zip": ("cifar10", root / "cifar10.zip"),
    }
    name, path = places[source]
    if path.suffix == ".tgz":
        path.write_bytes(tarred(images))
    elif path.suffix == ".zip":
        path.write_bytes(zipped(images))
    else:
        for file, content in images.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_bytes(content)
    return name, {"path": path} if name == "image_folder" else {}


def contents(source):
    images = CELEBRITIES if source.startswith("celeba") else LFW
    if source in ("folder", "zip", "cifar10 zip"):
        halves = {"train": list(images.items())[::2], "test": list(images.items())[1::2]}
        images = {f"{split}/{name}": content for split, part in halves.items() for name, content in part}
    return images


SOURCES = ("folder", "zip", "celeba folder", "celeba zip", "lfw folder", "lfw zip", "lfw tgz", "cifar10 zip")


@pytest.mark.parametrize("source", SOURCES)
def test_one_broken_image_is_named_or_skipped(root, source, tmp_path):
    images = contents(source)
    whole = len(data.load(*[(parts := put(root, source, images))[0], "train"], **parts[1]))
    name, options = parts
    train = [file for file in images if "train/" in file]
    if name == "celeba":
        train = ["000004.jpg"]
    if name == "lfw":
        train = [file for file, _ in archives.by_person(list(images), "train")[0]]
    images = {**images, train[0]: images[train[0]][:60]}
    if source != "celeba folder" and not source.startswith("celeba"):
        put(root, source, images)
    elif source == "celeba zip":
        (root / "celeba" / "img_align_celeba.zip").write_bytes(zipped(images))
    else:
        (root / "celeba" / "img_align_celeba" / train[0]).write_bytes(images[train[0]])
    before = kept(tmp_path)
    with pytest.raises(data.DatasetCorrupt, match=rf"cannot read .*{train[0]}: "):
        data.load(name, **options)
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"skipped 1 broken images: .*{train[0]} "):
            loaded = data.load(name, on_error="skip", **options)
        assert len(loaded.images) == len(loaded.labels) == whole - 1
    assert kept(tmp_path) == before


@pytest.mark.parametrize("source", SOURCES)
def test_no_readable_image(root, source):
    name, options = put(root, source, {file: b"nothing" for file in contents(source)})
    with pytest.raises(data.DatasetCorrupt, match=r"none of \d+ images can be read, the first is"):
        data.load(name, on_error="skip", **options)


@pytest.mark.parametrize("source", [source for source in SOURCES if not source.startswith("celeba")])
def test_no_image_at_all(root, source):
    name, options = put(root, source, {"train/notes.txt": b"no image"})
    with pytest.raises(data.DatasetUnavailable, match=r"expected train images, found none among 0 files"):
        data.load(name, **options)


# LFW


def test_lfw_is_split_by_person_and_cropped(root):
    put(root, "lfw folder", LFW)
    train, test = data.load("lfw"), data.load("lfw", "test")
    assert len(train) + len(test) == len(LFW)
    names = [{part.classes[label] for label in part.labels} for part in (train, test)]
    assert names[0].isdisjoint(names[1]) and min(map(len, names)) > 0
    assert train.classes == test.classes == tuple(sorted({file.split("/")[0] for file in LFW}))
    for part in (train, test):
        assert part.images.shape[1:] == (3, 64, 64)
        assert part.images.flatten(2).unique(dim=2).shape[2] == 1  # only the centre 153 of 250 pixels
    assert train.source == f"lfw: {len(train)} photographs found under $GRAE_DATA, resized to 64×64, split by person"


def test_lfw_is_the_same_from_a_folder_a_tgz_and_a_zip(root, tmp_path):
    wrapped = {f"lfw_funneled/{file}": content for file, content in LFW.items()}
    put(root, "lfw folder", LFW)
    expected = data.load("lfw")
    (root / "lfw").rename(tmp_path / "elsewhere")
    put(root, "lfw tgz", wrapped)
    tgz = data.load("lfw")
    put(root, "lfw zip", wrapped)  # comes before the .tgz
    for loaded in (tgz, data.load("lfw")):
        assert torch.equal(loaded.images, expected.images) and torch.equal(loaded.labels, expected.labels)


def test_small_photographs_are_taken_whole(root):
    array = np.zeros((64, 64, 3), np.uint8)
    array[:, 32:] = 250
    put(root, "lfw zip", {f"{name}/1.png": encoded(array) for name in "abcdefghij"})
    assert torch.equal(data.load("lfw").images[0].permute(1, 2, 0), torch.from_numpy(array))


def test_a_damaged_tgz_is_named(root):
    put(root, "lfw tgz", LFW)
    path = root / "lfw-funneled.tgz"
    for content in (path.read_bytes()[:-100], b"not a tar", b""):
        path.write_bytes(content)
        with pytest.raises(data.DatasetCorrupt, match=r"lfw-funneled.tgz: expected a readable .tar.gz"):
            data.load("lfw")


# CIFAR-10


def batches(n=4):
    rng, files = np.random.default_rng(1), {}
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        rows = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        files[f"cifar-10-batches-bin/{name}"] = rows.tobytes()
    return {**files, "cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}


def test_cifar10_binary_files_are_read_in_order(root):
    files = batches()
    (root / "cifar-10-binary.tar.gz").write_bytes(tarred(dict(reversed(files.items()))))
    train, test = data.load("cifar10"), data.load("cifar10", "test")
    assert train.images.shape == (20, 3, 32, 32) and test.images.shape == (4, 3, 32, 32)
    rows = list(files.values())
    first, last = rows[0], rows[5]
    assert train.images[0].flatten().tolist() == list(first[1:3073]) and train.labels[0] == first[0]
    assert test.images[3].flatten().tolist() == list(last[-3072:]) and test.labels[3] == last[-3073]
    assert train.classes[9] == "truck" and len(train.classes) == 10
    assert train.source == "cifar10: 20 images found under $GRAE_DATA, 32×32"
    rows = folders.spread(20, 5)
    assert torch.equal(data.load("cifar10", n=5).images, train.images[rows])
    large = data.load("cifar10", size=64).images
    pixels = train.images[1].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels).resize((64, 64), Image.LANCZOS)
    assert np.array_equal(large[1].permute(1, 2, 0).numpy(), np.array(image))


def test_damaged_cifar10_files_are_named(root):
    path, files = root / "cifar-10-binary.tar.gz", batches()
    key = "cifar-10-batches-bin/data_batch_3.bin"
    wrong = {**files, key: b"\x0a" + files[key][1:]}
    cases = {
        "found .*'data_batch_3.bin': 12291": tarred({**files, key: files[key][:-1]}),
        "found .*'data_batch_3.bin': 0": tarred({**files, key: b""}),
        r"expected 5 data_batch\*.bin": tarred({k: v for k, v in files.items() if k != key}),
        "labels from 0 to 9, found 10": tarred(wrong),
        "readable .tar.gz": tarred(files)[:-500],
    }
    for message, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(data.DatasetCorrupt, match=rf"(?s)cifar-10-binary.tar.gz: .*{message}"):
            data.load("cifar10")


def test_the_image_folder_of_cifar10_comes_first(root):
    classes = archives.CIFAR10_CLASSES
    images = {
        f"{split}/{name}/1.png": encoded(np.full((32, 32, 3), 10 * number, np.uint8))
        for split in ("train", "test")
        for number, name in enumerate(classes)
    }
    put(root, "cifar10 zip", images)
    (root / "cifar-10-binary.tar.gz").write_bytes(b"")
    test = data.load("cifar10", "test")
    assert test.classes == classes and test.images[:, 0, 0, 0].tolist() == [10 * label for label in test.labels]


# downloads


@pytest.fixture
def mirror(monkeypatch):
    """A server with small files under the real ones' names, and their checksums in place of the real ones'."""
    files = {
        "img_align_celeba.zip": CELEBA_ZIP,
        PARTITION: LIST.encode(),
        "lfw-funneled.tgz": tarred({f"lfw_funneled/{file}": content for file, content in LFW.items()}),
        "cifar-10-binary.tar.gz": tarred(batches()),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            server.requests.append(name)
            if name not in files:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[name])))
            self.end_headers()
            self.wfile.write(files[name])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.files, server.daemon_threads = [], files, True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url, md5 = f"http://127.0.0.1:{server.server_port}/", lambda name: hashlib.md5(files[name]).hexdigest()
    monkeypatch.setattr(archives, "CELEBA_MIRROR", url)
    monkeypatch.setattr(archives, "CELEBA", {name: (f"id of {name}", md5(name)) for name in archives.CELEBA})
    sha256 = hashlib.sha256(files["lfw-funneled.tgz"]).hexdigest()
    monkeypatch.setattr(archives, "LFW", (url + "lfw-funneled.tgz", f"sha256:{sha256}"))
    name = "cifar-10-binary.tar.gz"
    monkeypatch.setattr(archives, "CIFAR10", (url + name, f"md5:{md5(name)}"))
    monkeypatch.setattr(downloads, "PATIENCE", 2.0)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def drive(monkeypatch, mirror):
    """Google Drive as gdown shows it: torchvision's own function calls this."""

    def use(behaviour):
        released = threading.Event()

        def download(id, output, quiet=True, user_agent=None):
            drive.calls.append(id)
            name = id.removeprefix("id of ")
            if behaviour == "quota":
                raise RuntimeError("Too many users have viewed or downloaded this file recently.")
            if behaviour == "stalls":
                released.wait(20)
            page = b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"
            with open(output, "wb") as file:
                file.write(page if behaviour == "page" else mirror.files[name])

        module = types.ModuleType("gdown")
        module.download = download
        monkeypatch.setitem(sys.modules, "gdown", None if behaviour == "absent" else module)
        drive.released = released

    def drive():
        pass

    drive.calls, drive.use = [], use
    yield drive
    drive.released.set()


def test_celeba_comes_from_google_drive_where_it_answers(drive, mirror, tmp_path):
    drive.use("good")
    assert len(data.load("celeba")) == 6
    assert drive.calls == [f"id of {PARTITION}", "id of img_align_celeba.zip"] and mirror.requests == []
    folder = tmp_path / "cache" / "celeba"
    assert sorted(path.name for path in folder.iterdir()) == ["img_align_celeba.zip", PARTITION]
    assert data.load("celeba", "test").source.startswith("celeba: 2 photographs in the cache")
    assert len(drive.calls) == 2


REASONS = {
    "quota": "Too many users",
    "page": "another file came",
    "absent": "'gdown' is required",
    "stalls": "nothing came for 0.4 s",
}


@pytest.mark.parametrize("behaviour", REASONS)
def test_the_quota_of_google_drive_is_told_and_the_mirror_used(drive, mirror, tmp_path, behaviour, monkeypatch):
    drive.use(behaviour)
    if behaviour == "stalls":
        monkeypatch.setattr(downloads, "PATIENCE", 0.4)
    with pytest.warns(UserWarning) as told:
        loaded = data.load("celeba")
    assert len(loaded) == 6
    texts = [str(warning.message) for warning in told]
    assert len(texts) == 2 and all(REASONS[behaviour] in text for text in texts)
    assert all("md5 verified" in text and archives.CELEBA_MIRROR in text for text in texts)
    assert mirror.requests == [PARTITION, "img_align_celeba.zip"]
    folder = tmp_path / "cache" / "celeba"
    assert sorted(path.name for path in folder.iterdir()) == ["img_align_celeba.zip", PARTITION]
    assert (folder / "img_align_celeba.zip").read_bytes() == CELEBA_ZIP


@pytest.mark.parametrize("failure", ["missing", "wrong"])
def test_drive_and_mirror_both_failing_say_what_to_do(drive, mirror, tmp_path, failure):
    drive.use("quota")
    mirror.files["img_align_celeba.zip"] = b"something else"
    if failure == "missing":
        del mirror.files["img_align_celeba.zip"]
    reason = {"missing": "404", "wrong": "does not match"}[failure]
    expected = rf"(?s)Google Drive: Too many users.*img_align_celeba.zip.*{reason}.*into \$GRAE_DATA/celeba"
    with pytest.warns(UserWarning, match=PARTITION), pytest.raises(data.DatasetUnavailable, match=expected):
        data.load("celeba")
    assert [path.name for path in (tmp_path / "cache" / "celeba").iterdir()] == [PARTITION]
    mirror.files["img_align_celeba.zip"] = CELEBA_ZIP
    with pytest.warns(UserWarning, match=r"^img_align_celeba.zip"):
        assert len(data.load("celeba")) == 6
    assert mirror.requests.count(PARTITION) == 1


def test_a_slow_but_growing_download_is_waited_for(tmp_path):
    def work():
        for number in range(6):
            (tmp_path / str(number)).write_bytes(b"x")
            time.sleep(0.1)

    archives._while_growing(work, tmp_path, 0.3)
    assert len(list(tmp_path.glob("[0-9]"))) == 6


def test_lfw_and_cifar10_are_downloaded_once(mirror, tmp_path):
    for name, file, n in (("lfw", "lfw-funneled.tgz", None), ("cifar10", "cifar-10-binary.tar.gz", 20)):
        loaded = data.load(name)
        assert n is None or len(loaded) == n
        assert "downloaded into the cache" in loaded.source and "verified" in loaded.source
        assert "in the cache" in data.load(name, "test").source
        assert mirror.requests == [file]
        mirror.requests.clear()


def test_what_cannot_be_downloaded_says_where_to_put_it():
    for name, file in (("lfw", "lfw-funneled.tgz"), ("cifar10", "cifar-10-binary.tar.gz")):
        with pytest.raises(data.DatasetUnavailable, match=rf"(?s){file} could not .* into \$GRAE_DATA"):
            data.load(name)


def test_auto_takes_the_large_sets_only_where_they_are(root, mirror, tmp_path):
    for name in ("celeba", "lfw", "cifar10"):
        assert data.resolve("auto", paper=name, fallback="faces") == "faces"
        assert data.resolve(name, paper="mnist") == name
    put(root, "lfw zip", LFW)
    put(root, "celeba zip", CELEBRITIES)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar10.zip").write_bytes(b"")
    for name in ("celeba", "lfw", "cifar10"):
        assert data.resolve("auto", paper=name, fallback="faces") == name
    assert mirror.requests == []


def test_bad_options_are_refused_before_any_download(mirror):
    for name in archives.PLACES:
        for options, message in (
            ({"size": 0}, "size: expected a positive integer, got 0"),
            ({"size": 8.0}, "size: expected a positive integer, got 8.0"),
            ({"n": 0}, "n: expected a positive integer, got 0"),
            ({"on_error": "ignore"}, "on_error"),
            ({"channels": 1}, f"{name} takes no channels"),
        ):
            with pytest.raises(ValueError, match=message):
                data.load(name, **options)
    assert mirror.requests == []


def test_checksums_are_those_that_torchvision_and_scikit_learn_pin(monkeypatch):
    monkeypatch.undo()
    runtime.torchvision()
    from sklearn.datasets._lfw import FUNNELED_ARCHIVE
    from torchvision.datasets import CelebA

    theirs = {file: (drive, md5) for drive, md5, file in CelebA.file_list}
    assert archives.CELEBA == {file: theirs[file] for file in archives.CELEBA}
    assert archives.LFW == (FUNNELED_ARCHIVE.url, f"sha256:{FUNNELED_ARCHIVE.checksum}")
