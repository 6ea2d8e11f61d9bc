"""Packs: arrays that NumPy itself reads, writers that are killed or out of room, and what is refused by name."""

import errno
import json
import multiprocessing
import os
import pickle
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from xxhash import xxh3_64_hexdigest

from facelib import files
from facelib.data import IdentityFolder, Loader, Pack, pack
from facelib.data.landmarks import COLUMNS
from facelib.faces.detectors import TEMPLATE
from facelib.faces.image import ImageError

NAMES = ["Ann Lee", "José", "李小龙", "z"]


class Faces(Dataset):
    """n crops of noise that four identities share. `act` maps numbers of images to what happens when one is read."""

    def __init__(self, n: int = 40, act: dict | None = None, seed: int = 0):
        self.pixels = np.random.default_rng(seed).integers(0, 256, (n, 112, 112, 3), dtype=np.uint8)
        self.labels = torch.arange(n) * 4 // n
        self.identities = NAMES
        self.images = [f"{NAMES[label]}/{i} é.jpg" for i, label in enumerate(self.labels)]
        self.act = act or {}

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        self.act.get(i, lambda: None)()
        return torch.from_numpy(self.pixels[i]).permute(2, 0, 1), int(self.labels[i])


def unreadable():
    raise ImageError("not a readable image (torn). Replace or delete the file.")


def never():
    raise AssertionError("an image was read")


def left(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def target(tmp_path):
    return tmp_path / "faces.pack"


# --- the format


def test_numpy_and_json_read_a_pack_and_find_the_sources_images(target):
    faces = Faces()
    pack(faces, target)
    images, labels = (np.load(target / f"{name}.npy", mmap_mode="r") for name in ("images", "labels"))
    assert images.dtype == np.uint8 and np.array_equal(images, faces.pixels)
    assert labels.dtype == np.int64 and np.array_equal(labels, faces.labels)
    index = json.loads((target / "index.json").read_text("utf-8"))
    assert (index["form"], index["version"], index["source"]) == ("facelib pack", 2, "Faces")
    assert (index["images"], index["identities"], index["dropped"]) == (faces.images, NAMES, [])
    assert index["checksum"] == xxh3_64_hexdigest(faces.pixels.tobytes() + faces.labels.numpy().tobytes())
    assert left(target) == ["images.npy", "index.json", "labels.npy"]


def test_arrays_that_numpy_wrote_are_a_pack(target):
    faces = Faces(6)
    target.mkdir()
    np.save(target / "images.npy", faces.pixels)
    np.save(target / "labels.npy", np.arange(6) % 2)
    index = {"form": "facelib pack", "version": 2, "images": faces.images, "identities": ["a", "b"], "dropped": []}
    (target / "index.json").write_text(json.dumps(index | {"fingerprint": ""}))
    found = Pack(target)
    assert found.labels.tolist() == [0, 1] * 3 and found.images == faces.images and found.identities == ["a", "b"]
    assert all(np.array_equal(found[i][0], faces.pixels[i].transpose(2, 0, 1)) for i in range(6))


def test_names_of_files_that_are_not_utf_8_come_back(target):
    faces = Faces()
    faces.images[3] = os.fsdecode(b"Ann Lee/\xff.jpg")
    assert pack(faces, target).images == faces.images


# --- reading


def test_items_and_batches_are_the_sources(target):
    faces = Faces()
    packed = pack(faces, target)
    assert len(packed) == 40 and torch.equal(packed.labels, faces.labels)
    for i in (0, 15, 39, -1):
        image, label = packed[i]
        assert image.dtype == torch.uint8 and torch.equal(image, faces[i][0])
        assert type(label) is int and label == faces.labels[i]
    order = np.random.default_rng(1).permutation(40)[:33].tolist() + [7, 7]
    images, labels = packed.__getitems__(order)
    assert images.is_contiguous(memory_format=torch.channels_last) and torch.equal(labels, faces.labels[order])
    assert np.array_equal(images, faces.pixels[order].transpose(0, 3, 1, 2))
    assert packed.__getitems__([])[0].shape == (0, 3, 112, 112)


@pytest.mark.parametrize("indices", [[40], [-1], [0, 99]])
def test_numbers_beyond_the_last_image_are_refused(target, indices):
    with pytest.raises(IndexError, match="faces.pack: images are numbered 0 to 39"):
        pack(Faces(), target).__getitems__(indices)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_takes_whole_batches_from_it(target, workers):
    faces, seen = Faces(), []
    for images, labels in Loader(pack(faces, target), 7, shuffle=True, seed=1, workers=workers):
        for image, label in zip(images, labels):
            (i,) = np.flatnonzero((faces.pixels == image.permute(1, 2, 0).numpy()).all((1, 2, 3)))
            assert label == faces.labels[i]
            seen.append(i)
    assert sorted(seen) == list(range(40)) != seen


def test_it_is_sent_to_another_process_without_its_data(target):
    sent = pickle.dumps(pack(Faces(), target))
    assert len(sent) < 500 and torch.equal(pickle.loads(sent)[17][0], Faces()[17][0])


# --- damage


def test_one_changed_bit_is_found_by_verify(target):
    pack(Faces(), target).verify()
    with (target / "images.npy").open("r+b") as file:
        file.seek(-12345, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 8]))
    with pytest.raises(ValueError, match="faces.pack: a pack that is damaged, its checksum differs. Delete it"):
        Pack(target).verify()
    with pytest.raises(ValueError, match="its checksum differs"):
        pack(Faces(), target)


def cut(name: str, size: int):
    return lambda target: os.truncate(target / name, size)


def save(name: str, array: np.ndarray):
    return lambda target: np.save(target / name, array)


def write(text: str):
    return lambda target: (target / "index.json").write_text(text)


DAMAGED = {
    "images cut off": (cut("images.npy", 100_000), "damaged or cut off"),
    "images empty": (cut("images.npy", 0), "damaged or cut off"),
    "labels cut off": (cut("labels.npy", 130), "damaged or cut off"),
    "labels gone": (lambda target: (target / "labels.npy").unlink(), "damaged or cut off"),
    "pickled labels": (save("labels.npy", np.array([{}] * 40)), "damaged or cut off"),
    "index cut off": (cut("index.json", 50), "its index.json is not a pack's"),
    "index of a list": (write("[]"), "its index.json is not a pack's"),
    "no names": (write('{"form": "facelib pack", "version": 2}'), "damaged or cut off"),
    "another form": (write('{"form": "zarr", "version": 2}'), "zarr, version 2; this facelib reads facelib pack"),
    "a newer version": (write('{"form": "facelib pack", "version": 9}'), "facelib pack, version 9; this facelib reads"),
    "other images": (save("images.npy", Faces(39).pixels), "40 names, images of .39, 112, 112, 3. uint8"),
    "floats": (save("images.npy", np.zeros((40, 112, 112, 3), np.float32)), "images of .* float32"),
    "fewer labels": (save("labels.npy", np.zeros(39, np.int64)), "labels of .39,. torch.int64"),
    "labels beyond": (save("labels.npy", np.full(40, 4)), "labels go beyond its 4 identities"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_files_that_do_not_make_a_pack_are_told(target, kind):
    damage, message = DAMAGED[kind]
    pack(Faces(), target)
    damage(target)
    with pytest.raises(ValueError, match=f"faces.pack: .*{message}"):
        Pack(target)


def test_what_is_no_pack_is_told(target):
    with pytest.raises(FileNotFoundError, match="faces.pack: no pack is there"):
        Pack(target)
    target.write_bytes(b"as packs once were")
    with pytest.raises(ValueError, match="faces.pack: a file, but a pack is a folder now. Delete it and pack again."):
        Pack(target)


# --- images that can't be read


def test_images_that_cant_be_read_are_left_out_and_told(target, capsys):
    dropped = [3, 17, *range(20, 30), 39]
    faces = Faces(40, dict.fromkeys(dropped, unreadable))
    packed = pack(faces, target)
    kept = [i for i in range(40) if i not in dropped]
    reason = "not a readable image (torn). Replace or delete the file."
    assert packed.dropped == [f"{faces.images[i]}: {reason}" for i in dropped]
    said = capsys.readouterr().out
    assert said.startswith(f"{target}: 13 of 40 images can't be read") and len(said.splitlines()) == 1
    assert ", ".join(faces.images[i] for i in dropped[:10]) + ", ..." in said and faces.images[29] not in said
    packed.verify()
    # all of identity 2 is gone: those behind it move up
    assert packed.about["dropped_identities"] == 1 and packed.identities == [NAMES[0], NAMES[1], NAMES[3]]
    assert packed.labels.tolist() == [{0: 0, 1: 1, 3: 2}[int(faces.labels[i])] for i in kept]
    assert packed.images == [faces.images[i] for i in kept]
    assert np.array_equal(np.load(target / "images.npy"), faces.pixels[kept])


def test_a_pack_of_no_image_is_an_error(target, tmp_path):
    with pytest.raises(
        ImageError, match="faces.pack: not made, none of 20 images can be read. Ann Lee/0 é.jpg: .*torn"
    ):
        pack(Faces(20, dict.fromkeys(range(20), unreadable)), target)
    assert left(tmp_path) == []


def test_an_identity_folder_is_packed_as_it_is_aligned(tmp_path, target):
    folder = tmp_path / "people"
    for i in range(6):
        (folder / NAMES[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (120, 130, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / NAMES[i % 2] / f"{i:02d}.png")
    torn = folder / NAMES[0] / "02.png"
    torn.write_bytes(torn.read_bytes()[:1000])
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    table = pd.DataFrame([[name, *(TEMPLATE + 4).ravel(), 1.0] for name in names], columns=COLUMNS).set_index("image")
    source = IdentityFolder(folder, landmarks=table)
    packed = pack(source, target)
    assert packed.dropped[0].startswith(f"{NAMES[0]}/02.png: not a readable image") and len(packed) == 5
    for k, name in enumerate(packed.images):  # the landmarks lie where the template has them, 4 pixels further
        pixels = np.asarray(Image.open(folder / name))[4:116, 4:116]
        assert np.array_equal(packed[k][0].permute(1, 2, 0), pixels)
    # another landmark is another source, a mended file too
    table.iloc[0, 0] += 1
    assert not torch.equal(pack(IdentityFolder(folder, landmarks=table), target)[0][0], source[0][0])
    torn.write_bytes((folder / NAMES[0] / "04.png").read_bytes())
    assert len(pack(IdentityFolder(folder, landmarks=table), target)) == 6


def test_images_that_are_no_crops_are_an_error_that_names_one(target):
    faces = Faces()
    faces.pixels = faces.pixels[:, :100]
    with pytest.raises(ValueError, match="^Ann Lee/0 é.jpg: uint8 of 112x100 pixels is no aligned crop.*align the"):
        pack(faces, target)


def test_a_source_whose_labels_or_names_do_not_fit_is_refused(target):
    faces = Faces()
    faces.images = faces.images[:-1]
    with pytest.raises(ValueError, match="40 labels, 39 names and 40 images"):
        pack(faces, target)
    with pytest.raises(ValueError, match="one at least"):
        pack(Faces(0), target)


# --- kills, and what is there already


@pytest.mark.parametrize("earlier", [False, True])
def test_a_killed_call_leaves_what_was_there_and_the_next_one_packs(tmp_path, target, earlier):
    if earlier:
        pack(Faces(20), target)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=pack, args=(Faces(act={30: die}), target))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(Pack(target)) == 20 if earlier else not target.exists()
    assert len(pack(Faces(), target)) == 40 and left(tmp_path) == ["faces.pack"]


def test_a_whole_pack_of_the_same_source_is_verified_and_left_as_it_is(target, capsys):
    pack(Faces(), target)
    before = (target / "images.npy").stat().st_mtime_ns
    pack(Faces(act=dict.fromkeys(range(40), never)), target)
    assert "faces.pack: whole already, 40 images of 4 identities" in capsys.readouterr().out
    assert (target / "images.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_anything_else_is_refused_before_an_image_is_read_and_stays(target, kind):
    if kind == "folder":
        target.mkdir()
        (target / "thesis.txt").write_text("precious")
    else:
        target.write_text("precious")
    with pytest.raises(FileExistsError, match="faces.pack: will not be replaced"):
        pack(Faces(act=dict.fromkeys(range(40), never)), target)
    assert (target if kind == "file" else target / "thesis.txt").read_text() == "precious"


def test_a_second_writer_is_refused(target):
    with files.locked(target.with_name("faces.pack.lock"), ""):
        context = multiprocessing.get_context("fork")
        told, tell = context.Pipe()

        def second():
            with pytest.raises(BlockingIOError) as refused:
                pack(Faces(act=dict.fromkeys(range(40), never)), target)
            tell.send(str(refused.value))

        process = context.Process(target=second)
        process.start()
        assert told.poll(60) and told.recv().startswith(f"{target}: another process is packing to it. Wait")
        process.join(60)


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"^{target}: no space left on the disk. Make room and run it again.$"):
        pack(Faces(), target)
    assert not target.exists()


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="faces.pack: can't be written"):
        pack(Faces(), tmp_path / "file" / "faces.pack")
