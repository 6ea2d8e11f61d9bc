"""Data sets, LFW's pairs, augmentation and the loader."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from facelib.data import (
    IdentityFolder,
    Loader,
    PairImages,
    augment,
    centre_crop,
    choose_images,
    open_faces,
    open_images,
    random_flip,
    read_pairs,
)
from facelib.data.landmarks import COLUMNS
from facelib.data.loader import prefetch
from facelib.faces.detectors import TEMPLATE
from facelib.faces.image import ImageError


def identity_folder(folder, **counts: int):
    """A folder with this many images of each identity; only a loaded image needs to be one."""
    for identity, count in counts.items():
        (folder / identity).mkdir(parents=True)
        for n in range(1, count + 1):
            (folder / identity / f"{identity}_{n:04d}.jpg").touch()
    return folder


def chosen(folder, ratio, **options) -> dict[str, set[str]]:
    """Identity -> its images that are kept."""
    data = IdentityFolder(folder, ratio, **options)
    kept = {identity: set() for identity in data.identities}
    for image in data.images:
        kept[image.split("/")[0]].add(image)
    return kept


# --- identity folders


def test_items_are_uint8_rgb_images_with_labels_contiguous_from_0(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    for image, name in zip(pixels, ["ann/1.png", "ann/2.png", "bob/1.png", "cy/1.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    data = IdentityFolder(tmp_path)
    assert len(data) == 4 and data.identities == ["ann", "bob", "cy"] and data.labels.tolist() == [0, 0, 1, 2]
    for i, expected in enumerate(pixels):
        image, label = data[i]
        assert image.dtype == torch.uint8 and label == data.labels[i]
        assert np.array_equal(image, expected.transpose(2, 0, 1))


def test_a_share_is_chosen_whatever_the_order_of_the_images():
    """By label: images 0, 2, 4, 6 are of identity 1, the others of 0. Of each identity the same of its images."""
    labels = np.array([1, 0] * 4)
    mixed, sorted_ = choose_images(labels, ["a", "b"], 0.5), choose_images(np.sort(labels), ["a", "b"], 0.5)
    assert (np.diff(mixed) > 0).all() and np.bincount(labels[mixed]).tolist() == [2, 2]
    of_a, of_b = mixed[labels[mixed] == 0] // 2, mixed[labels[mixed] == 1] // 2
    assert np.concatenate([of_a, of_b + 4]).tolist() == sorted_.tolist()


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.29, 0.5, 0.99, 1.0])
def test_ratio_keeps_the_floor_of_each_identitys_share(tmp_path, ratio):
    counts = dict(a=1, b=3, c=4, d=10, e=100, f=39)
    kept = chosen(identity_folder(tmp_path, **counts), ratio)
    percent = round(100 * ratio)
    assert {name: len(images) for name, images in kept.items()} == {
        name: n * percent // 100 for name, n in counts.items() if n * percent // 100
    }


@pytest.mark.parametrize("n", [10, 50, 100])
def test_every_whole_percentage_keeps_its_exact_floor(tmp_path, n):
    """0.29 * 100 is 28.999999999999996 in floating point, yet 29 images are meant."""
    identity_folder(tmp_path, a=n, b=n)
    for percent in (7, 14, 28, 29, 55, 56, 57, 58):
        if n * percent >= 100:
            assert len(IdentityFolder(tmp_path, percent / 100)) == 2 * (n * percent // 100)


def test_images_of_a_smaller_ratio_are_among_those_of_a_larger(tmp_path):
    folder = identity_folder(tmp_path, a=40, b=17, c=100)
    small, medium, whole = (chosen(folder, ratio) for ratio in (0.1, 0.25, 1.0))
    for identity in whole:
        assert small[identity] < medium[identity] < whole[identity]


def test_the_choice_is_a_seeded_sample(tmp_path):
    folder = identity_folder(tmp_path, a=40, b=40)
    assert chosen(folder, 0.5, seed=3) == chosen(folder, 0.5, seed=3) != chosen(folder, 0.5, seed=4)
    one, other = ({image[-8:] for image in images} for images in chosen(folder, 0.5).values())
    assert one != other  # not the same numbers of every identity
    counts = sum(np.isin(range(1, 41), [int(i[-8:-4]) for i in chosen(folder, 0.5, seed=s)["a"]]) for s in range(60))
    assert counts.sum() == 60 * 20 and counts.min() > 10 and counts.max() < 50  # expected 30, standard deviation 3.9


def test_an_identitys_choice_does_not_depend_on_other_identities(tmp_path):
    alone = chosen(identity_folder(tmp_path / "few", m=40, n=20), 0.25, seed=1)
    among = chosen(identity_folder(tmp_path / "many", a=9, m=40, mm=7, n=20, z=40), 0.25, seed=1)
    assert alone["m"] == among["m"] and alone["n"] == among["n"]


def test_identities_without_an_image_left_are_dropped_and_counted(tmp_path):
    data = IdentityFolder(identity_folder(tmp_path, a=9, b=10, c=3, d=25), 0.1)
    assert data.identities == ["b", "d"] and data.dropped == 2
    assert data.labels.tolist() == [0, 1, 1]


def test_identities_that_hold_no_image_are_counted_among_the_dropped(tmp_path):
    folder = identity_folder(tmp_path, b=10, d=25)
    (folder / "empty").mkdir()
    assert IdentityFolder(folder, 1.0).dropped == 1


def test_keep_one_keeps_one_image_of_those_that_would_be_dropped(tmp_path):
    folder = identity_folder(tmp_path, a=9, b=10, c=3, d=25)
    data = IdentityFolder(folder, 0.1, keep_one=True)
    assert data.dropped == 0 and data.labels.tolist() == [0, 1, 2, 3, 3]
    assert chosen(folder, 0.1, keep_one=True)["a"] < chosen(folder, 0.25)["a"]


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, math.nan])
def test_a_ratio_outside_0_to_1_is_refused_by_name(tmp_path, ratio):
    with pytest.raises(ValueError, match=f"ratio.*{ratio}"):
        IdentityFolder(identity_folder(tmp_path, a=2, b=2), ratio)


def test_fewer_than_two_identities_are_refused_with_what_to_change(tmp_path):
    with pytest.raises(ValueError, match="ratio 0.1 leaves 1 of 3 .*training needs two.*raise ratio.*keep_one"):
        open_faces(identity_folder(tmp_path / "some", a=9, b=3, c=10), 0.1)
    with pytest.raises(ValueError, match="1 of 1"):
        open_faces(identity_folder(tmp_path / "one", a=9))
    with pytest.raises(ValueError, match="ratio 0.1 leaves 0 of 2 .*one is needed"):
        IdentityFolder(identity_folder(tmp_path / "few", a=9, b=3), 0.1)


def test_a_folder_of_one_identity_is_a_data_set_though_none_to_train_on(tmp_path):
    assert len(open_images(identity_folder(tmp_path, a=3))) == 3


def landmark_table(images, shift=0.0) -> pd.DataFrame:
    """The template's landmarks, shifted, for every image: aligned crops are the images' own pixels, shifted."""
    rows = [[image, *(TEMPLATE + shift).ravel(), 1.0] for image in images]
    return pd.DataFrame(rows, columns=COLUMNS).set_index("image")


def test_with_landmarks_items_are_aligned_crops(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (130, 140, 3), dtype=np.uint8)
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(pixels).save(tmp_path / name)
    table = pd.concat([landmark_table(["b/1.png"], 10), landmark_table(["a/1.png"], 3)])  # not in the images' order
    data = IdentityFolder(tmp_path, landmarks=table)
    for i, shift in enumerate((3, 10)):
        crop = pixels[shift : shift + 112, shift : shift + 112].transpose(2, 0, 1)
        assert np.abs(data[i][0].numpy().astype(int) - crop).max() <= 1


# --- pairs


VIEW_2 = (
    "2\t2\n"
    "Ann\t1\t4\nBob\t2\t3\nAnn\t1\tBob\t12\nCy_Lee\t3\tAnn\t2\n"
    "Dee\t1\t2\nEve\t5\t6\nDee\t1\tEve\t2\nEve\t3\tDee\t4\n"
)


def test_view_2_has_folds_of_genuine_then_impostor_pairs(tmp_path):
    (tmp_path / "pairs.txt").write_text(VIEW_2)
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert len(pairs) == 8
    assert pairs.first[:4] == ["Ann/Ann_0001", "Bob/Bob_0002", "Ann/Ann_0001", "Cy_Lee/Cy_Lee_0003"]
    assert pairs.second[:4] == ["Ann/Ann_0004", "Bob/Bob_0003", "Bob/Bob_0012", "Ann/Ann_0002"]
    assert pairs.genuine.dtype == bool and pairs.genuine.tolist() == [True, True, False, False] * 2
    assert pairs.fold.tolist() == [0] * 4 + [1] * 4


def test_view_1_is_one_fold(tmp_path):
    (tmp_path / "pairsDevTest.txt").write_text("1\nAnn\t1\t4\nAnn\t1\tBob\t12\n")
    pairs = read_pairs(str(tmp_path / "pairsDevTest.txt"))
    assert (pairs.first, pairs.second) == (["Ann/Ann_0001"] * 2, ["Ann/Ann_0004", "Bob/Bob_0012"])
    assert pairs.genuine.tolist() == [True, False] and pairs.fold.tolist() == [0, 0]


def test_windows_line_ends_spaces_and_a_blank_last_line_do_no_harm(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(VIEW_2.replace("\t", "  ").replace("\n", "\r\n").encode() + b"\r\n")
    assert read_pairs(tmp_path / "pairs.txt").second[2] == "Bob/Bob_0012"


def test_a_byte_order_mark_and_names_with_spaces_do_no_harm(tmp_path):
    (tmp_path / "pairs.txt").write_text("\ufeff1\nAnn Lee\t1\t4\nAnn Lee\t1\tBob\t12\n")
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert pairs.first == ["Ann Lee/Ann Lee_0001"] * 2 and pairs.second == ["Ann Lee/Ann Lee_0004", "Bob/Bob_0012"]


def test_a_pairs_file_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "bad.txt").write_bytes("1\nJosé\t1\t4\nJosé\t1\tBob\t12\n".encode("latin-1"))
    with pytest.raises(ValueError, match="bad.txt: not a text in UTF-8"):
        read_pairs(tmp_path / "bad.txt")


MALFORMED = {
    "empty": ("", "first line"),
    "no header": ("Ann\t1\t4\nAnn\t1\tBob\t12\n", "first line"),
    "three numbers for a header": ("1\t1\t1\nAnn\t1\t4\nAnn\t1\tBob\t12\n", "first line"),
    "no pairs announced": ("0\n", "first line"),
    "negative numbers announced": ("-1\t-1\nAnn\t1\t4\nAnn\t1\tBob\t12\n", "first line"),
    "a line short": (VIEW_2.rsplit("Eve", 1)[0], "2 folds of 2.* 7 lines"),
    "a line too many": (VIEW_2 + "Ann\t1\t2\n", "2 folds of 2.* 9 lines"),
    "impostor where genuine is due": ("1\nAnn\t1\tBob\t4\nAnn\t1\tBob\t12\n", "line 2: .*name i j.*Ann 1 Bob 4"),
    "genuine where impostor is due": ("1\nAnn\t1\t4\nAnn\t1\t12\n", "line 3: .*name i name j.*Ann 1 12"),
    "a word too many": ("1\nAnn\t1\t4\t5\nAnn\t1\tBob\t12\n", "line 2: .*Ann 1 4 5"),
    "a word too many in an impostor pair": ("1\nAnn\t1\t4\nAnn\t1\tBob\t12\t3\n", "line 3: .*Ann 1 Bob 12 3"),
    "one word": ("1\nAnn\nAnn\t1\tBob\t12\n", "line 2: .*Ann"),
    "a number that is none": ("1\nAnn\t1\tx\nAnn\t1\tBob\t12\n", "line 2: .*Ann 1 x"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_pairs_file_is_refused_with_file_and_line(tmp_path, kind):
    content, message = MALFORMED[kind]
    (tmp_path / "bad.txt").write_text(content)
    with pytest.raises(ValueError, match=f"bad.txt.*{message}"):
        read_pairs(tmp_path / "bad.txt")


def test_a_missing_pairs_file_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="pairs.txt"):
        read_pairs(tmp_path / "pairs.txt")


IN_FOLD_0 = ("Ann", 1), ("Ann", 2), ("Ann", 4), ("Bob", 2), ("Bob", 3), ("Bob", 12), ("Cy_Lee", 3)
NAMES = [f"{name}/{name}_{number:04d}" for name, number in IN_FOLD_0]


def test_each_distinct_image_of_the_pairs_comes_once_and_the_pairs_point_to_it(tmp_path):
    (tmp_path / "pairs.txt").write_text("1\t2\n" + "".join(VIEW_2.splitlines(keepends=True)[1:5]))
    pairs, pixels = read_pairs(tmp_path / "pairs.txt"), {}
    for i, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels[name] = np.full((112, 112, 3), 30 * i + 1, np.uint8)
        Image.fromarray(pixels[name]).save(tmp_path / f"{name}.png")
    others = landmark_table(["Dee/Dee_0001.png"])
    data = PairImages(tmp_path, pairs, pd.concat([others, landmark_table([f"{name}.png" for name in NAMES[::-1]])]))
    assert len(data) == 7 and sorted(data.images) == sorted(f"{name}.png" for name in NAMES)
    for side, names in ((data.first, pairs.first), (data.second, pairs.second)):
        for i, name in zip(side, names):
            crop, number = data[i]
            assert crop.shape == (3, 112, 112) and crop.dtype == torch.uint8 and number == i
            assert np.array_equal(crop, pixels[name].transpose(2, 0, 1))


def test_missing_images_are_counted_and_named(tmp_path):
    (tmp_path / "pairs.txt").write_text(VIEW_2)
    pairs = read_pairs(tmp_path / "pairs.txt")
    there = landmark_table(f"{name}.jpg" for name in {*pairs.first, *pairs.second} - {"Bob/Bob_0012", "Eve/Eve_0003"})
    with pytest.raises(FileNotFoundError, match="2 of 14 images .*Bob/Bob_0012, Eve/Eve_0003$"):
        PairImages(tmp_path, pairs, there)


# --- augmentation


@pytest.mark.parametrize(
    "height, width, top, left", [(112, 112, 0, 0), (250, 250, 69, 69), (120, 114, 4, 1), (113, 115, 0, 1)]
)
def test_centre_crop_takes_the_middle(height, width, top, left):
    """Each pixel holds its own place; of an odd margin the smaller half is above and to the left."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    crop = centre_crop(torch.stack([rows, columns, rows])[None])
    assert crop.shape == (1, 3, 112, 112)
    assert crop[0, 0, :, 0].tolist() == list(range(top, top + 112))
    assert crop[0, 1, 0].tolist() == list(range(left, left + 112))


def test_centre_crop_refuses_smaller_images_with_both_sizes():
    with pytest.raises(ValueError, match="120x100.*112x112"):
        centre_crop(torch.zeros(1, 3, 100, 120))


def test_random_flip_mirrors_whole_images_left_to_right_half_of_the_time():
    images = torch.arange(3 * 2 * 4, dtype=torch.uint8).reshape(1, 3, 2, 4).expand(10_000, -1, -1, -1)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images[0][..., [3, 2, 1, 0]]).flatten(1).all(1)
    kept = (flipped == images[0]).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.02)  # four standard deviations


def test_random_flip_depends_on_its_generator_only():
    images = (torch.arange(64 * 6) % 256).to(torch.uint8).reshape(64, 3, 1, 2)
    generator = torch.Generator().manual_seed(5)
    first, second = random_flip(images, generator), random_flip(images, generator)
    torch.rand(7)
    again = random_flip(images, torch.Generator().manual_seed(5))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_augment_takes_0_to_minus_1_and_255_to_1_exactly():
    values = torch.arange(256, dtype=torch.uint8)
    images = values.repeat(3 * 112 * 112 // 256 + 1)[: 3 * 112 * 112].reshape(1, 3, 112, 112)
    images = torch.cat([images, images.flip(-1)])
    found = augment(images, torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32 and found.min() == -1 and found.max() == 1
    assert set(found.unique().tolist()) == set(((values.double() - 127.5) / 127.5).float().tolist())
    assert images.dtype == torch.uint8 and images[0, 0, 0, :3].tolist() == [0, 1, 2]  # left as they were


def test_augment_is_the_middle_mirrored_or_not():
    images = torch.randint(0, 256, (16, 3, 120, 116), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = ((augment(images, torch.Generator().manual_seed(1)) + 1) * 127.5).round().byte()
    middle = images[:, :, 4:116, 2:114]
    outcomes = {bool(torch.equal(f, m)) for f, m in zip(found, middle)}
    assert outcomes == {True, False}
    assert all(torch.equal(f, m) or torch.equal(f, m.flip(-1)) for f, m in zip(found, middle))


# --- the loader


class Numbers(Dataset):
    """Item i is an image of 2x2 pixels of value i, and the label 1000 + i."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.full((3, 2, 2), i, dtype=torch.uint8), 1000 + i


def epoch(loader) -> list[list[int]]:
    """The labels of each batch, less 1000; every image is checked to be its label's."""
    batches = []
    for images, labels in loader:
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert (images == (labels - 1000)[:, None, None, None]).all()
        batches.append((labels - 1000).tolist())
    return batches


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_told_in_one_sentence_whoever_reads_it(tmp_path, workers):
    for identity in "ab":
        (tmp_path / identity).mkdir()
        Image.new("RGB", (112, 112)).save(tmp_path / identity / "1.png")
    culprit = tmp_path / "b" / "1.png"
    culprit.write_bytes(culprit.read_bytes()[:50])
    with pytest.raises(ImageError) as raised:
        list(Loader(IdentityFolder(tmp_path), 2, workers=workers))
    assert str(raised.value).startswith(f"{culprit}: not a readable image")
    assert len(str(raised.value).splitlines()) == 1


def test_without_shuffling_images_come_in_order_to_the_last():
    assert epoch(Loader(Numbers(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_shuffled_every_image_comes_once_an_epoch_in_another_order_each_time():
    loader = Loader(Numbers(50), 8, shuffle=True)
    epochs = [sum(epoch(loader), []) for _ in range(3)]
    assert all(sorted(order) == list(range(50)) for order in epochs)
    assert len({tuple(order) for order in [*epochs, range(50)]}) == 4


def test_the_order_depends_on_the_seed_only():
    orders = []
    for seed, disturbance in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(disturbance)
        loader = Loader(Numbers(50), 8, shuffle=True, seed=seed)
        orders.append([epoch(loader), epoch(loader)])
    assert orders[0] == orders[1] != orders[2]


def test_workers_do_not_change_the_order_of_any_epoch():
    orders = []
    for workers in (0, 2):
        loader = Loader(Numbers(20), 8, shuffle=True, seed=3, workers=workers)
        orders.append([epoch(loader) for _ in range(3)])
    assert orders[0] == orders[1]


def test_an_epochs_order_depends_on_its_number_not_on_those_before():
    one, other = (Loader(Numbers(30), 8, shuffle=True) for _ in range(2))
    third = [epoch(one) for _ in range(3)][2]
    other.order.epoch = 2
    assert epoch(other) == third


@pytest.mark.parametrize("n, shards", [(20, 1), (20, 3), (7, 2), (24, 2), (26, 4)])
def test_shards_share_out_the_batches_of_one_process_without_overlap(n, shards):
    (whole, *parts) = [
        Loader(Numbers(n), 4 if shards < 4 else 8, shuffle=True, shard=k, shards=of)
        for k, of in [(0, 1), *((k, shards) for k in range(shards))]
    ]
    for _ in range(2):
        shared = [sum(batch, []) for batch in zip(*map(epoch, parts), strict=True)]
        assert shared == epoch(whole)[: len(shared)] and n - len(sum(shared, [])) < max(2, shards)
        assert all(len({*batch}) == len(batch) for batch in shared)


def test_of_an_epoch_that_was_begun_the_first_batches_can_be_left_out():
    loader, again = (Loader(Numbers(30), 8, shuffle=True) for _ in range(2))
    first, second = epoch(loader), epoch(loader)
    again.order.skip = 2
    assert [epoch(again), epoch(again)] == [first[2:], second]


def test_in_order_shards_leave_no_image_out():
    seen = [i for k in range(3) for batch in epoch(Loader(Numbers(20), 4, shard=k, shards=3)) for i in batch]
    assert sorted(seen) == list(range(20))


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        Loader(Numbers(9), 0)


def test_a_shard_that_is_none_of_them_is_refused():
    with pytest.raises(ValueError, match=r"shard must be in \[0, 2\), found 2"):
        Loader(Numbers(9), 2, shard=2, shards=2)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_is_the_same_by_any_number_of_threads(tmp_path, monkeypatch, threads):
    for i in range(11):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        Image.new("RGB", (6, 5), (i, 0, 0)).save(tmp_path / f"{i % 2}" / f"{i}.png")
    expected = [IdentityFolder(tmp_path)[i] for i in range(11)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    ((images, labels),) = Loader(IdentityFolder(tmp_path), 11)
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected]


@pytest.mark.parametrize("n, batches", [(9, [4, 4]), (10, [4, 4, 2]), (8, [4, 4]), (5, [4])])
def test_shuffled_no_batch_holds_a_single_image(n, batches):
    """Batch normalisation can't train on one: it waits for another epoch, and is another one each time."""
    loader = Loader(Numbers(n), 4, shuffle=True)
    epochs = [epoch(loader) for _ in range(12)]
    assert all([len(batch) for batch in batches_] == batches for batches_ in epochs)
    assert len(loader) == len(batches)
    assert {i for batches_ in epochs for batch in batches_ for i in batch} == set(range(n))


def test_images_of_several_sizes_in_one_batch_are_refused_with_the_sizes():
    images = [(torch.zeros(3, 4, 5, dtype=torch.uint8), 0), (torch.zeros(3, 6, 5, dtype=torch.uint8), 1)]
    with pytest.raises(ValueError, match=r"\(4, 5\), \(6, 5\).*align"):
        list(Loader(images, 2))


def pretend_cuda(monkeypatch) -> list[tuple]:
    """Replace CUDA's streams by ones that only note what is asked of them, in order, in the list returned."""
    log, inside = [], []

    class Stream:
        def __init__(self, *device):
            self.copied = None

        def __enter__(self):
            inside.append(self)

        def __exit__(self, *error):
            inside.pop()

        def record_event(self):
            log.append(("event", self.copied))
            return self.copied

        def wait_event(self, event):
            log.append(("wait", event))

    current = Stream()

    class FakeTensor:
        def __init__(self, name):
            self.name = name

        def to(self, device, non_blocking):
            assert inside and inside[-1] is not current and non_blocking, "copied on the stream in use, or blocking"
            inside[-1].copied = self.name[0]
            log.append(("copy", self.name))
            return FakeTensor((*self.name, "on", str(device)))

        def record_stream(self, stream):
            assert stream is current
            log.append(("record", self.name[:2]))

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current)
    log.append(FakeTensor)
    return log


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_prefetch_copies_the_next_batch_aside_before_handing_out_one_that_has_arrived(monkeypatch, count):
    log = pretend_cuda(monkeypatch)
    tensor = log.pop()
    batches = [[tensor((k, "images")), tensor((k, "labels"))] for k in range(count)]
    handed = []
    for images, labels in prefetch(iter(batches), torch.device("cuda")):
        log.append(("yield", len(handed)))
        handed.append((images.name, labels.name))
    assert handed == [((k, "images", "on", "cuda"), (k, "labels", "on", "cuda")) for k in range(count)]
    for k in range(count):
        out = log.index(("yield", k))
        for part in ("images", "labels"):
            assert log.index(("copy", (k, part))) < log.index(("event", k)) < log.index(("wait", k)) < out
            assert log.index(("wait", k)) < log.index(("record", (k, part))) < out
            if k + 1 < count:
                assert log.index(("copy", (k + 1, part))) < out
            if k + 2 < count:
                assert log.index(("copy", (k + 2, part))) > out  # no more than two batches are held at a time
    assert len(log) == 7 * count
