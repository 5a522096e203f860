"""Portraits and sprites: the factors' distribution, and images against symmetries, areas and finer drawings."""

import hashlib
import math

import pytest
import torch

from grae_helpers import data, portraits, procedural
from grae_helpers.procedural import FACES, SPRITES, WHITE_SPRITES, draw_faces, draw_factors, draw_sprites

TABLES = {"faces": (FACES, draw_faces), "sprites": (SPRITES, draw_sprites), "white": (WHITE_SPRITES, draw_sprites)}
# The same bytes on any machine: a change of these lines is a change of the data set.
SHA256 = {
    "faces": "cb29fac80f84229f8c6d381b1e5ee4aa569bbbc2d4b3b93c41256e130f9a5707",
    "sprites": "011828682a5d6e2df926a2f37b9b6471cacc9a0f7b0ddc5783a1c9c8a42bc3dd",
    "white": "ded0b993610eef5e0581bdb8b1eeb6c1fca3131e7e14a048ffe3188f5a1a9bc1",
}


def ends(kind):
    return (0, kind - 1) if isinstance(kind, int) else kind


def corners(table, n, seed):
    """Factors that are all at one end of their range or the other."""
    low, high = torch.tensor([ends(kind) for kind in table.values()], dtype=torch.float64).T
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(n, len(table), generator=generator) < 0.5, low, high)


def sprite(shape, scale=1.0, orientation=0.0, x=0.5, y=0.5):
    return torch.tensor([[shape, scale, orientation, x, y]], dtype=torch.float64)


@pytest.mark.parametrize("name", TABLES)
def test_the_bytes_are_what_they_were(name):
    table, draw = TABLES[name]
    images = draw(draw_factors(table, 40, seed=0))
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == SHA256[name]


@pytest.mark.parametrize("name", TABLES)
def test_factors_are_uniform_and_independent(name):
    table, n = TABLES[name][0], 20_000
    factors = draw_factors(table, n, seed=3).double()
    for kind, column in zip(table.values(), factors.T, strict=True):
        low, high = ends(kind)
        assert low <= column.min() and column.max() <= high
        if isinstance(kind, int):
            counts = torch.bincount(column.long(), minlength=kind).double()
            assert ((counts / n - 1 / kind).abs() < 4 * math.sqrt(1 / kind / n)).all()
        else:
            position = (column - low) / (high - low)
            assert abs(position.mean() - 1 / 2) < 4 / math.sqrt(12 * n)
            assert abs(position.square().mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / n)
    correlation = torch.corrcoef(factors.T) - torch.eye(len(table))
    assert correlation.abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("name", TABLES)
def test_fewer_images_are_the_first_of_more(name):
    table, draw = TABLES[name]
    more, fewer = draw_factors(table, 50, seed=1), draw_factors(table, 7, seed=1)
    assert torch.equal(more[:7], fewer)
    assert torch.equal(draw(more)[:7], draw(fewer))
    assert not torch.equal(fewer, draw_factors(table, 7, seed=2))


@pytest.mark.parametrize("name", TABLES)
def test_an_image_depends_on_its_own_factors_alone(name):
    table, draw = TABLES[name]
    factors = draw_factors(table, 40, seed=2)
    before = factors.clone()
    images = draw(factors)
    assert torch.equal(factors, before)
    assert torch.equal(draw(factors.flip(0)), images.flip(0))
    assert torch.equal(draw(factors[33:34].double()), images[33:34])
    assert draw(factors[:0]).shape == (0, *images.shape[1:])


@pytest.mark.parametrize("name", TABLES)
def test_every_factor_shows(name):
    table, draw = TABLES[name]
    factors = draw_factors(table, 6, seed=5)
    for number, kind in enumerate(table.values()):
        low, high = factors.clone(), factors.clone()
        low[:, number], high[:, number] = ends(kind)
        if list(table)[number] in ("background", "orientation"):  # a full turn is no change
            high[:, number] = 135.0
        changed = (draw(low).int() - draw(high).int()).abs().amax((1, 2, 3))
        assert changed.min() > 30, list(table)[number]


@pytest.mark.parametrize("name", TABLES)
def test_threads_are_as_they_were(name):
    table, draw = TABLES[name]
    threads = torch.get_num_threads()
    draw(draw_factors(table, 2, seed=0))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("draw", [draw_faces, draw_sprites])
def test_bad_factors_are_refused(draw):
    table = FACES if draw is draw_faces else SPRITES
    good = draw_factors(table, 3, seed=0)
    discrete = next(number for number, kind in enumerate(table.values()) if isinstance(kind, int))
    for bad in (good[0], good[:, :-1], good.tolist(), torch.zeros(3, 4)):
        with pytest.raises(ValueError, match=rf"expected factors of shape \[n, {len(table)}\], got"):
            draw(bad)
    for column, value in ((1, 1e4), (1, math.nan), (discrete, 0.5), (discrete, -1)):
        bad = good.clone()
        bad[1, column] = value
        with pytest.raises(ValueError, match=rf"{list(table)[column]}: expected .* from .* to .*, got"):
            draw(bad)
    with pytest.raises(ValueError, match=r"size: expected at least 1"):
        draw(good, 0)
    with pytest.raises(ValueError, match=r"n: expected at least 1"):
        draw_factors(table, 0, seed=0)


# portraits


def test_a_mirrored_bald_portrait_is_the_mirror_image():
    factors = draw_factors(FACES, 24, seed=7).double()
    names = list(FACES)
    factors[:, names.index("hair_style")] = 0  # hair is not symmetric
    mirrored = factors.clone()
    for name in ("turn", "tilt", "gaze", "light"):
        mirrored[:, names.index(name)] *= -1
    difference = draw_faces(factors).int() - draw_faces(mirrored).flip(3).int()
    highlights = (difference.abs() > 2).double().mean()  # in the eyes, on the left in both
    assert highlights < 0.005
    assert (difference.abs() > 2).any(0).any(0)[:, [*range(8), *range(56, 64)]].sum() == 0


@pytest.mark.parametrize("size", [16, 64])
def test_no_feature_is_cut_by_the_part_that_it_is_painted_in(size, monkeypatch):
    factors = corners(FACES, 64, seed=0)
    images = draw_faces(factors, size)
    monkeypatch.setattr(portraits, "_part", lambda image, scene, *_: (image, scene))
    assert torch.equal(images, draw_faces(factors, size))


@pytest.mark.parametrize("name", TABLES)
def test_a_finer_drawing_shrinks_to_the_coarser_one(name):
    table, draw = TABLES[name]
    factors = draw_factors(table, 8, seed=4)
    fine = torch.nn.functional.avg_pool2d(draw(factors, 256).float(), 4)
    assert (fine - draw(factors, 64).float()).abs().mean() < 3
    assert draw(factors, 1).shape[2:] == (1, 1)


def test_light_falls_from_its_side():
    factors = draw_factors(FACES, 40, seed=8)
    names = list(FACES)
    factors[:, names.index("turn")] = factors[:, names.index("tilt")] = 0
    sides = []
    for angle in (-60, 60):
        factors[:, names.index("light")] = angle
        images = draw_faces(factors).float()[:, :, 24:44]
        sides.append(images[..., 34:44].mean((1, 2, 3)) - images[..., 20:30].mean((1, 2, 3)))
    assert (sides[1] > sides[0] + 5).all()


# sprites


AREAS = (1.6**2, math.pi / 2, 1.2**2 + math.pi * 0.6**2)  # over the unit's square


@pytest.mark.parametrize("shape", range(3))
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_areas_are_those_of_the_shapes(shape, scale):
    images = draw_sprites(sprite(shape, scale, 20.0), 256).double() / 255
    assert images.sum().item() * (2 / 256) ** 2 == pytest.approx(AREAS[shape] * (0.34 * scale) ** 2, rel=0.01)


@pytest.mark.parametrize("shape", range(3))
def test_a_sprite_is_where_its_factors_say_and_never_cut_off(shape):
    line = (torch.arange(64) * 2 + 1) / 64 - 1
    for x, y in ((0.0, 0.0), (1.0, 0.0), (0.3, 0.9), (0.5, 1.0)):
        for orientation in (0.0, 45.0, 90.0, 200.0):
            image = draw_sprites(sprite(shape, 1.0, orientation, x, y))[0, 0].double()
            assert image[[0, -1]].max() == 0 and image[:, [0, -1]].max() == 0
            if shape < 2:
                assert (image.sum(0) @ line.double() / image.sum()).item() == pytest.approx(1.1 * x - 0.55, abs=5e-3)
                assert (image.sum(1) @ line.double() / image.sum()).item() == pytest.approx(1.1 * y - 0.55, abs=5e-3)


@pytest.mark.parametrize(("shape", "period"), [(0, 90.0), (1, 180.0), (2, 360.0)])
def test_a_shape_repeats_with_its_own_period(shape, period):
    start, half, whole = (draw_sprites(sprite(shape, 1.0, turn)).int() for turn in (0.0, period / 2, period))
    assert (start - whole).abs().max() <= 1
    assert (start - half).abs().max() > 100


def test_orientation_is_clockwise_and_colours_are_the_factors():
    upright = draw_sprites(sprite(2))[0, 0].int()
    quarter = draw_sprites(sprite(2, 1.0, 90.0))[0, 0].int()
    assert (upright.rot90(-1) - quarter).abs().max() <= 1
    assert upright[:32].sum() > upright[32:].sum()  # the lobes are on top
    coloured = torch.cat([sprite(0), torch.tensor([[1.0, 0.4, 0.2]])], 1)
    assert draw_sprites(coloured)[0, :, 32, 32].tolist() == [255, 102, 51]
    assert torch.equal(draw_sprites(coloured)[:, :1], draw_sprites(sprite(0)))


# as data sets


@pytest.mark.parametrize(("name", "label"), [("faces", "hair_style"), ("sprites", "shape")])
def test_data_sets_carry_their_factors(name, label):
    train, test = data.load(name, n=30), data.load(name, "test", n=20)
    table, draw = TABLES[name]
    assert train.images.shape == (30, 3, 64, 64) and train.images.dtype == torch.uint8
    assert train.factors.shape == (30, len(table)) and train.factor_names == tuple(table)
    assert torch.equal(draw(train.factors), train.images)
    assert torch.equal(train.labels, train.factors[:, train.factor_names.index(label)].long())
    assert len(train.classes) == table[label]
    assert not torch.isin(test.factors[:, 1], train.factors[:, 1]).any()
    assert torch.equal(data.load(name, n=10).images, train.images[:10])
    assert f"{len(table)} known, independent factors" in train.source
    assert data.load(name, n=2, size=32).images.shape == (2, 3, 32, 32)


def test_white_sprites_have_one_channel():
    white = data.load("sprites", "test", n=3, channels=1)
    assert white.images.shape == (3, 1, 64, 64) and white.factor_names == tuple(WHITE_SPRITES)
    with pytest.raises(ValueError, match="faces takes no channels"):
        data.load("faces", channels=1)


def test_default_sizes():
    assert len(data.load("sprites", size=8)) == 10_000 and len(data.load("sprites", "test", size=8)) == 2_000
    assert len(data.load("faces", "test", n=3)) == 3
    assert set(procedural.HAIR_STYLES).isdisjoint(procedural.SHAPES)
