"""Packs: the format as safetensors itself reads it, damage of any bit, and writers that are killed or out of room."""

import errno
import gc
import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import time
from multiprocessing.connection import wait

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import Dataset
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from facelib.data import IdentityFolder, Loader
from facelib.data.landmarks import COLUMNS
from facelib.data.packs import Pack
from facelib.data.write_pack import pack
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


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work, *arguments) -> int:
    """The exit code of a process that does it, negative for the signal that killed it."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    assert wait([process.sentinel], timeout=60), "it, or a process that it started, lives on"
    process.join()
    return process.exitcode


def left(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """The pack of Faces(), byte for byte."""
    target = tmp_path_factory.mktemp("undisturbed") / "faces.pack"
    pack(Faces(), target)
    return target.read_bytes()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "faces.pack"


# --- the format


def test_safetensors_itself_reads_a_pack_and_finds_the_sources_images(target):
    faces = Faces()
    assert pack(faces, target) == {"images": 40, "identities": 4, "dropped_identities": 0, "dropped": []}
    with safe_open(target, "np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    assert np.array_equal(found["images"], faces.pixels) and found["images"].dtype == np.uint8
    assert np.array_equal(found["labels"], faces.labels) and found["labels"].dtype == np.int32
    for blob, ends, strings in (("names", "name_ends", faces.images), ("identities", "identity_ends", NAMES)):
        assert found[blob].tobytes().decode() == "".join(strings)
        assert found[ends].tolist() == np.cumsum([len(string.encode()) for string in strings]).tolist()
    chunks = [faces.pixels[start : start + 16] for start in (0, 16, 32)]
    assert found["checksums"].tolist() == [xxh3_64_intdigest(chunk.tobytes()) for chunk in chunks]
    assert found["checksums"].dtype == found["name_ends"].dtype == np.uint64
    assert (metadata["format"], metadata["version"], metadata["chunk"]) == ("facelib pack", "1", "16")
    assert metadata["source"] == "Faces"


def test_torch_opens_every_tensor_so_each_lies_at_a_multiple_of_its_numbers_size(target):
    pack(Faces(5), target, jpeg=True)
    with safe_open(target, "pt") as file:
        assert file.get_tensor("labels").tolist() == Faces(5).labels.tolist()
        assert all(len(file.get_tensor(name)) for name in file.keys() if not name.startswith("dropped"))


def test_the_images_begin_on_a_page_and_the_header_is_padded_with_spaces(undisturbed):
    (length,) = struct.unpack("<Q", undisturbed[:8])
    header = undisturbed[8 : 8 + length]
    assert (8 + length) % 4096 == 0
    assert header.startswith(b"{") and header == header.rstrip().ljust(length, b" ")
    assert undisturbed[8 + length :].startswith(Faces().pixels.tobytes())


def test_the_checksum_covers_all_but_the_images(undisturbed):
    (length,) = struct.unpack("<Q", undisturbed[:8])
    written = json.loads(undisturbed[8 : 8 + length])["__metadata__"]["checksum"]
    rest = undisturbed[: 8 + length] + undisturbed[8 + length + 40 * 112 * 112 * 3 :]
    assert rest.count(written.encode()) == 1
    assert xxh3_64_hexdigest(rest.replace(written.encode(), b"0" * 16)) == written


def strings(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(text) for text in encoded], dtype=np.uint64)


def by_hand(file, n=20, version="1", **changed):
    """A pack of n images as the format's description has it, with tensors changed. Its header is of 4096 bytes."""
    pixels = Faces(n).pixels
    names, name_ends = strings([f"a/{i}" for i in range(n)])
    identities, identity_ends = strings(["a", "b"])
    chunks = [xxh3_64_intdigest(pixels[i : i + 16].tobytes()) for i in range(0, n, 16)]
    tensors = {
        "images": pixels,
        "checksums": np.array(chunks, np.uint64),
        "name_ends": name_ends,
        "names": names,
        "labels": (np.arange(n) % 2).astype(np.int32),
        "identity_ends": identity_ends,
        "identities": identities,
        "dropped_ends": np.zeros(0, np.uint64),
        "dropped": np.zeros(0, np.uint8),
    } | changed
    metadata = {"format": "facelib pack", "version": version, "chunk": "16", "source": "", "fingerprint": ""}
    header, place = {"__metadata__": metadata | {"dropped_identities": "0", "checksum": "0" * 16}}, 0
    for name, tensor in tensors.items():
        dtype = {"uint8": "U8", "int32": "I32", "uint64": "U64"}[tensor.dtype.name]
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [place, place + tensor.nbytes]}
        place += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    head = struct.pack("<Q", 4088) + text + b" " * (4088 - len(text))
    stored, *tables = [tensor.tobytes() for tensor in tensors.values()]
    checksum = xxh3_64_hexdigest(b"".join([head, *tables]))
    file.write_bytes(b"".join([head.replace(b"0" * 16, checksum.encode()), stored, *tables]))
    return pixels


def test_a_pack_written_by_hand_is_read(target):
    pixels = by_hand(target)
    found = Pack(target)
    found.verify()
    assert len(found) == 20 and found.labels.tolist() == [0, 1] * 10 and found.labels.dtype == torch.int64
    assert list(found.identities) == ["a", "b"] and list(found.images) == [f"a/{i}" for i in range(20)]
    assert all(np.array_equal(found[i][0], pixels[i].transpose(2, 0, 1)) for i in range(20))


def test_names_in_any_writing_even_files_that_are_not_utf_8_come_back(target):
    faces = Faces()
    faces.images[3] = os.fsdecode(b"Ann Lee/\xff.jpg")
    pack(faces, target)
    assert list(Pack(target).images) == faces.images and list(Pack(target).identities) == NAMES
    assert Pack(target).images[2:5] == faces.images[2:5] and Pack(target).images[-1] == faces.images[-1]


# --- reading


def test_items_and_batches_are_the_sources(target):
    faces = Faces()
    pack(faces, target)
    packed = Pack(target)
    assert len(packed) == 40 and torch.equal(packed.labels, faces.labels)
    for i in (0, 15, 16, 39, -1):
        image, label = packed[i]
        assert image.dtype == torch.uint8 and torch.equal(image, faces[i][0])
        assert type(label) is int and label == faces.labels[i]
    order = np.random.default_rng(1).permutation(40)[:33].tolist() + [7, 7]
    images, labels = packed.__getitems__(order)
    assert images.shape == (35, 3, 112, 112) and images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images, faces.pixels[order].transpose(0, 3, 1, 2)) and torch.equal(
        labels, faces.labels[order]
    )
    assert packed.__getitems__([])[0].shape == (0, 3, 112, 112)


@pytest.mark.parametrize("indices", [[40], [-1], [0, 99]])
def test_numbers_beyond_the_last_image_are_refused(target, indices):
    pack(Faces(), target)
    with pytest.raises(IndexError, match="faces.pack: images are numbered 0 to 39"):
        Pack(target).__getitems__(indices)
    with pytest.raises(IndexError):
        Pack(target)[40]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_takes_whole_batches_from_it(target, workers):
    faces = Faces()
    pack(faces, target)
    seen = []
    for images, labels in Loader(Pack(target), 7, shuffle=True, seed=1, workers=workers):
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        for image, label in zip(images, labels):
            (i,) = np.flatnonzero((faces.pixels == image.permute(1, 2, 0).numpy()).all((1, 2, 3)))
            assert label == faces.labels[i]
            seen.append(i)
    assert sorted(seen) == list(range(40)) != seen


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_tells_a_damaged_chunk_in_one_sentence_whoever_reads_it(target, workers, monkeypatch):
    def told() -> str:
        try:
            list(Loader(Pack(target), 40, workers=workers))
        except ValueError as error:
            return str(error)

    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # seconds it waits for its workers
    pack(Faces(), target)
    flip(target, 8192 + 20 * 37632)
    found = told()
    gc.collect()
    assert found.startswith(f"{target}: 1 of 3 chunks") and len(found.splitlines()) == 1


def test_it_is_sent_to_another_process_without_its_data(target):
    pack(Faces(), target)
    sent = pickle.dumps(Pack(target))
    assert len(sent) < 500 and torch.equal(pickle.loads(sent)[17][0], Faces()[17][0])


def test_a_pack_of_five_million_images_is_opened_in_less_than_a_second(target):
    """A file with a hole: its images were never written."""
    n, size = 5_000_000, 112 * 112 * 3
    tables = {
        "checksums": ("U64", 312_500),
        "name_ends": ("U64", n),
        "identity_ends": ("U64", 1),
        "dropped_ends": ("U64", 0),
    }
    tables |= {"labels": ("I32", n), "names": ("U8", 0), "identities": ("U8", 0), "dropped": ("U8", 0)}
    metadata = {"format": "facelib pack", "version": "1", "chunk": "16", "checksum": "0" * 16}
    place = n * size
    header = {"images": {"dtype": "U8", "shape": [n, 112, 112, 3], "data_offsets": [0, place]}}
    for name, (dtype, count) in tables.items():
        end = place + count * {"U64": 8, "I32": 4, "U8": 1}[dtype]
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [place, end]}
        place = end
    text = json.dumps(header | {"__metadata__": metadata}, separators=(",", ":")).encode()
    head = struct.pack("<Q", 4088) + text.ljust(4088)
    checksum = xxh3_64_hexdigest(head + bytes(place - n * size))
    target.write_bytes(head.replace(b"0" * 16, checksum.encode()))
    os.truncate(target, 4096 + place)
    start = time.perf_counter()
    found = Pack(target)
    assert time.perf_counter() - start < 1
    assert len(found) == n and found.images[n - 1] == ""


# --- JPEG


def smooth(n: int = 20) -> Faces:
    faces = Faces(n)
    rows, columns = np.mgrid[:112, :112]
    for i in range(n):
        faces.pixels[i] = np.stack([rows + i, columns + 3 * i, rows + columns], axis=2)
    return faces


def test_jpeg_packs_hold_jpeg_files_of_quality_95_without_subsampling(target):
    faces = smooth()
    pack(faces, target, jpeg=True)
    with safe_open(target, "np") as file:
        blob, ends = file.get_tensor("jpeg").tobytes(), file.get_tensor("jpeg_ends").tolist()
        checksums, names = file.get_tensor("checksums").tolist(), file.keys()
    assert "images" not in names and len(blob) - ends[-1] < 8
    assert checksums == [xxh3_64_intdigest(blob[: ends[15]]), xxh3_64_intdigest(blob[ends[15] : ends[19]])]
    buffer = io.BytesIO()
    Image.fromarray(faces.pixels[0]).save(buffer, "JPEG", quality=95, subsampling=0)
    expected = Image.open(buffer)
    packed = Pack(target)
    images, labels = packed.__getitems__([19, 0, 7])
    assert labels.tolist() == faces.labels[[19, 0, 7]].tolist()
    for i, image in zip([19, 0, 7], images):
        stored = Image.open(io.BytesIO(blob[([0] + ends)[i] : ends[i]]))
        assert (stored.format, stored.layer, stored.quantization) == ("JPEG", expected.layer, expected.quantization)
        assert np.array_equal(image.permute(1, 2, 0), stored)
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - faces.pixels[i]).max() <= 6


def test_a_sources_own_bytes_are_stored_unchanged(target):
    class Records(Faces):
        def read_bytes(self, i):
            buffer = io.BytesIO()
            Image.fromarray(self.pixels[i]).save(buffer, "PNG")
            return buffer.getvalue()

    faces = Records(20, {4: unreadable})
    pack(faces, target, jpeg=True)
    kept = [i for i in range(20) if i != 4]
    with safe_open(target, "np") as file:
        assert file.get_tensor("jpeg").tobytes().rstrip(b"\0") == b"".join(map(faces.read_bytes, kept)).rstrip(b"\0")
    assert torch.equal(Pack(target)[4][0], faces[5][0])


def test_a_jpeg_that_is_none_is_told_with_file_and_image(target):
    class Records(Faces):
        def read_bytes(self, i):
            return b"no image"

    pack(Records(20), target, jpeg=True)
    with pytest.raises(ImageError, match=r"faces.pack: image 3, Ann Lee/3 é.jpg, can't be decoded"):
        Pack(target)[3]


# --- damage


def flip(file, place: int, bit: int = 3) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize("image, chunk, images", [(0, 0, "0 to 15"), (15, 0, "0 to 15"), (39, 2, "32 to 39")])
def test_one_bit_of_an_image_is_told_by_its_chunk_when_an_image_of_that_is_asked_for(target, image, chunk, images):
    pack(Faces(), target)
    flip(target, 8192 + image * 37632 + 12345, bit=image % 8)
    packed = Pack(target)
    assert torch.equal(packed[20][0], Faces()[20][0])
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"faces.pack: 1 of 3 chunks .* {chunk} \(images {images}, .* to .*\)"):
            packed[16 * chunk + 3]
    with pytest.raises(ValueError, match=f"number: {chunk} "):
        packed.verify()


def test_verify_names_all_damaged_chunks_even_of_images_seen_before_the_damage(target):
    pack(Faces(), target)
    packed = Pack(target)
    packed.verify()
    assert packed[0]
    flip(target, 8192 + 5)
    flip(target, 8192 + 40 * 37632 - 1)
    with pytest.raises(ValueError, match=r"2 of 3 chunks .*: 0 \(images 0 to 15, .*\), 2 \(images 32 to 39"):
        packed.verify()


@pytest.mark.parametrize("jpeg", [False, True])
def test_one_bit_of_the_header_or_the_tables_is_told_on_opening(target, jpeg):
    pack(Faces(20, {7: unreadable}), target, jpeg)
    content = target.read_bytes()
    with safe_open(target, "np") as file:
        stored = file.get_tensor("jpeg_ends")[-1] if jpeg else 19 * 37632
    used = 8 + len(content[8:8192].rstrip()) + 2
    for place in [*range(used), 8191, *range(8192 + int(stored), len(content))][:: 3 if jpeg else 1]:
        flip(target, place, bit=place % 8)
        with pytest.raises(ValueError, match=f"^{target}: "):
            Pack(target)
        flip(target, place, bit=place % 8)
    assert target.read_bytes() == content and len(Pack(target)) == 19


@pytest.mark.parametrize(
    "change, message", [(-1, "cut off"), (-40_000, "cut off"), (1, "too long"), (500_000, "too long")]
)
def test_a_file_of_another_length_is_told(target, change, message):
    by_hand(target)
    size = target.stat().st_size
    os.truncate(target, size + change)
    with pytest.raises(ValueError, match=f"faces.pack: a pack {message}, {size + change:,} bytes instead of {size:,}"):
        Pack(target)


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 9000, b"photo" * 2000, struct.pack("<Q", 2) + b"[]"])
def test_what_is_not_a_safetensors_file_is_told(target, content):
    target.write_bytes(content)
    with pytest.raises(ValueError, match="faces.pack: not a safetensors file"):
        Pack(target)


def test_a_pack_cut_off_in_its_header_is_told(target):
    by_hand(target)
    os.truncate(target, 2000)
    with pytest.raises(ValueError, match="faces.pack: not a safetensors file, or one cut off"):
        Pack(target)


def test_another_safetensors_file_is_told(target):
    save_file({"images": np.zeros((2, 112, 112, 3), np.uint8)}, target, {"format": "pt"})
    with pytest.raises(ValueError, match="faces.pack: a safetensors file but not a facelib pack"):
        Pack(target)


def test_a_newer_version_is_told(target):
    by_hand(target, version="2")
    with pytest.raises(ValueError, match="faces.pack: a facelib pack of version 2, this facelib reads up to 1"):
        Pack(target)


def test_a_missing_pack_is_told(target):
    with pytest.raises(FileNotFoundError, match="faces.pack: there is no such file"):
        Pack(target)


DISAGREEING = {
    "labels": ({"labels": np.zeros(19, np.int32)}, "19 labels, 20 images, 20 names and 2 checksums"),
    "images": ({"images": np.zeros((21, 112, 112, 3), np.uint8)}, "20 labels, 21 images, 20 names and 2 checksums"),
    "names": ({"name_ends": np.zeros(3, np.uint64)}, "20 labels, 20 images, 3 names and 2 checksums"),
    "chunks": ({"checksums": np.zeros(1, np.uint64)}, "20 names and 1 checksums of 16 images"),
    "identities": ({"labels": np.full(20, 2, np.int32)}, "labels go beyond its 2 identities"),
    "negative labels": ({"labels": np.full(20, -1, np.int32)}, "labels go beyond its 2 identities"),
    "crops of another size": ({"images": np.zeros((20, 10, 10, 3), np.uint8)}, "header is damaged"),
}


@pytest.mark.parametrize("kind", DISAGREEING)
def test_counts_that_disagree_are_told(target, kind):
    changed, message = DISAGREEING[kind]
    by_hand(target, **changed)
    with pytest.raises(ValueError, match=f"faces.pack: .*{message}"):
        Pack(target)


# --- images that can't be read


def test_images_that_cant_be_read_are_left_out_and_told(target, capsys):
    faces = Faces(40, dict.fromkeys([3, 17, *range(20, 30), 39], unreadable))
    found = pack(faces, target)
    dropped = [3, 17, *range(20, 30), 39]
    kept = [i for i in range(40) if i not in dropped]
    reason = "not a readable image (torn). Replace or delete the file."
    assert found["images"] == 27 and found["dropped"] == [f"{faces.images[i]}: {reason}" for i in dropped]
    said = capsys.readouterr().out
    assert said.startswith(f"{target}: 13 of 40 images can't be read") and len(said.splitlines()) == 1
    assert ", ".join(faces.images[i] for i in dropped[:10]) + ", ..." in said and faces.images[29] not in said
    packed = Pack(target)
    packed.verify()
    # all of identity 2 is gone: those behind it move up
    assert found["identities"] == 3 and found["dropped_identities"] == 1
    assert list(packed.identities) == [NAMES[0], NAMES[1], NAMES[3]]
    assert packed.labels.tolist() == [{0: 0, 1: 1, 3: 2}[int(faces.labels[i])] for i in kept]
    assert list(packed.images) == [faces.images[i] for i in kept] and list(packed.dropped) == found["dropped"]
    images, _ = packed.__getitems__(range(27))
    assert np.array_equal(images.permute(0, 2, 3, 1), faces.pixels[kept])


def test_a_pack_of_no_image_is_an_error(target, tmp_path):
    with pytest.raises(ImageError, match="faces.pack: not made, 20 of 20 images can't be read: .*torn"):
        pack(Faces(20, dict.fromkeys(range(20), unreadable)), target)
    assert left(tmp_path) == []


def test_an_identity_folder_with_a_torn_file_is_packed_in_worker_processes(tmp_path, target):
    folder = tmp_path / "people"
    for i in range(34):
        (folder / NAMES[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (120, 130, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / NAMES[i % 2] / f"{i:02d}.png")
    torn = folder / NAMES[0] / "08.png"
    torn.write_bytes(torn.read_bytes()[:1000])
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    table = pd.DataFrame([[name, *(TEMPLATE + 4).ravel(), 1.0] for name in names], columns=COLUMNS).set_index("image")
    source = IdentityFolder(folder, landmarks=table)
    found = pack(source, target, workers=2)
    assert found["images"] == 33 and found["dropped"][0].startswith(f"{NAMES[0]}/08.png: not a readable image")
    packed = Pack(target)
    expected = [i for i in range(34) if source.images[i] != f"{NAMES[0]}/08.png"]
    assert list(packed.images) == [source.images[i] for i in expected]
    assert all(torch.equal(packed[k][0], source[i][0]) for k, i in enumerate(expected))
    assert packed.metadata["source"] == f"IdentityFolder {folder}"
    # another landmark is another source, a mended file too
    table.iloc[0, 0] += 1
    assert pack(IdentityFolder(folder, landmarks=table), target)["images"] == 33
    assert not torch.equal(Pack(target)[0][0], source[0][0])
    torn.write_bytes((folder / NAMES[0] / "06.png").read_bytes())
    assert pack(IdentityFolder(folder, landmarks=table), target)["images"] == 34


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_no_crops_are_an_error_that_names_one(target, workers):
    faces = Faces()
    faces.pixels = faces.pixels[:, :100]
    with pytest.raises(
        ValueError, match="^Ann Lee/0 é.jpg: uint8 of 112x100 pixels is no aligned crop.*align the images first"
    ):
        pack(faces, target, workers=workers)


def test_a_source_whose_labels_or_names_do_not_fit_is_refused(target, tmp_path):
    faces = Faces()
    faces.images = faces.images[:-1]
    with pytest.raises(ValueError, match="40 labels, 39 names and 40 images"):
        pack(faces, target)
    with pytest.raises(ValueError, match="one at least"):
        pack(Faces(0), target)
    faces = Faces()
    faces.labels = faces.labels + 1
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\)"):
        pack(faces, target)
    assert left(tmp_path) == []


def test_packing_draws_nothing_from_the_callers_random_numbers(target):
    state = torch.get_rng_state()
    pack(Faces(), target)
    assert torch.equal(torch.get_rng_state(), state)


# --- kills


# At item 0 by a worker: the second one may start after that.
@pytest.mark.parametrize("item, workers", [(0, 0), (20, 0), (39, 0), (0, 2), (20, 2), (39, 2)])
def test_a_killed_call_is_continued_to_the_same_bytes(tmp_path, target, undisturbed, item, workers, capsys):
    kill = {0: die, 2: lambda: os.kill(os.getppid(), signal.SIGKILL)}[workers]
    assert in_child(pack, Faces(act={item: kill}), target, False, workers) == -signal.SIGKILL
    assert not target.exists()
    faces = Faces(act=dict.fromkeys(range(item // 16 * 16 if workers == 0 else 0), never))
    pack(faces, target)
    assert target.read_bytes() == undisturbed and left(tmp_path) == ["faces.pack"]
    if workers == 0:
        assert ("going on after" in capsys.readouterr().out) == (item >= 16)


def written_in(call, monkeypatch) -> int:
    """How many times it writes."""
    writes, write = [], os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda number, content: writes.append(0) or write(number, content))
        call()
    return len(writes)


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_call_killed_in_the_midst_of_any_write_is_continued_to_the_same_bytes(tmp_path, monkeypatch, jpeg):
    def faces():
        return Faces(36, dict.fromkeys([2, 20, 35], unreadable))

    whole, write = tmp_path / "whole.pack", os.write
    count = written_in(lambda: pack(faces(), whole, jpeg), monkeypatch)
    assert count > 10

    def killed_at(n, target):
        left = iter(range(n))

        def half(number, content):
            if next(left, None) is None:
                write(number, content[: len(content) // 2])
                die()
            return write(number, content)

        os.write = half
        pack(faces(), target, jpeg)

    for n in range(0, count, 3 if jpeg else 1):
        target = tmp_path / str(n) / "faces.pack"
        assert in_child(killed_at, n, target) == -signal.SIGKILL
        assert not target.exists()
        pack(faces(), target, jpeg)
        assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_call_killed_at_its_renaming_is_continued(tmp_path, target, undisturbed, step):
    def killed():
        replace = os.replace
        os.replace = lambda *files: (step == "after" and replace(*files), die())
        pack(Faces(), target)

    assert in_child(killed) == -signal.SIGKILL
    assert target.exists() == (step == "after")
    pack(Faces(act=dict.fromkeys(range(40), never)), target)
    assert target.read_bytes() == undisturbed and left(tmp_path) == ["faces.pack"]


def killed_after(images: int, target, seed: int = 0) -> None:
    assert in_child(pack, Faces(act={images: die}, seed=seed), target) == -signal.SIGKILL


@pytest.mark.parametrize("what", ["changed", "torn", "gone"])
def test_a_chunk_that_changed_since_is_packed_again(target, undisturbed, what, capsys):
    killed_after(39, target)
    partial = target.with_name("faces.pack.partial")
    if what == "changed":
        flip(partial, 8192 + 20 * 37632)
    elif what == "torn":
        os.truncate(partial, 8192 + 20 * 37632)
    else:
        partial.unlink()
    pack(Faces(), target)
    assert target.read_bytes() == undisturbed
    assert ("going on after 16 images" in capsys.readouterr().out) == (what != "gone")


@pytest.mark.parametrize(
    "line", [b"{", b'{"next": 48}\n', b"[]\n", b"\0\0\0\0", b'{"next":1,"sizes":[-1],"checksum":"0"}\n']
)
def test_a_torn_or_meaningless_line_of_the_journal_is_cut_off(target, undisturbed, line):
    killed_after(39, target)
    with target.with_name("faces.pack.journal").open("ab") as journal:
        journal.write(line)
    pack(Faces(act=dict.fromkeys(range(32), never)), target)
    assert target.read_bytes() == undisturbed


def test_what_another_source_or_option_left_is_begun_anew_with_a_message(target, undisturbed, capsys):
    killed_after(39, target)
    other = Faces()
    other.images[0] = "Ann Lee/renamed.jpg"
    pack(other, target)
    assert "starting anew" in capsys.readouterr().out and Pack(target).images[0] == "Ann Lee/renamed.jpg"
    killed_after(39, target)
    pack(Faces(), target, jpeg=True)
    assert "starting anew" in capsys.readouterr().out and Pack(target).jpeg
    pack(Faces(), target)
    assert "anew" not in capsys.readouterr().out and target.read_bytes() == undisturbed


# --- what is there already


def test_a_whole_pack_of_the_same_source_is_returned_at_once(target, undisturbed, capsys):
    first = pack(Faces(act={5: unreadable}), target)
    content, changed = target.read_bytes(), target.stat().st_mtime_ns
    assert (
        pack(Faces(act=dict.fromkeys(range(40), never) | {5: unreadable}), target) == first
    )  # that one is tried again
    assert "faces.pack: whole already, 39 images of 4 identities" in capsys.readouterr().out
    assert target.read_bytes() == content and target.stat().st_mtime_ns == changed


def test_a_pack_of_another_source_is_replaced_only_when_the_new_one_is_whole(tmp_path, target, undisturbed):
    pack(Faces(30), target)
    old = target.read_bytes()
    killed_after(39, target)
    assert target.read_bytes() == old
    pack(Faces(30, act=dict.fromkeys(range(30), never)), target)  # whole: what goes on beside it is left alone
    assert left(tmp_path) == ["faces.pack", "faces.pack.journal", "faces.pack.partial"]
    pack(Faces(act=dict.fromkeys(range(32), never)), target)
    assert target.read_bytes() == undisturbed and left(tmp_path) == ["faces.pack"]


@pytest.mark.parametrize("kind", ["another file", "folder", "damaged pack"])
def test_anything_else_is_refused_and_stays(tmp_path, target, kind):
    if kind == "folder":
        target.mkdir()
    elif kind == "another file":
        target.write_text("precious")
    else:
        by_hand(target)
        flip(target, 3000)
    with pytest.raises(FileExistsError, match="faces.pack: .*It will not be replaced: delete it, or name another"):
        pack(Faces(act=dict.fromkeys(range(40), never)), target)
    assert left(tmp_path) == ["faces.pack"]
    if kind == "another file":
        assert target.read_text() == "precious"


# --- two writers, no room, no permission


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path, target, undisturbed):
    def wait():
        (tmp_path / "begun").touch()
        while not (tmp_path / "go on").exists():
            time.sleep(0.01)

    first = multiprocessing.get_context("fork").Process(target=pack, args=(Faces(act={20: wait}), target))
    first.start()
    while not (tmp_path / "begun").exists():
        assert first.is_alive()
        time.sleep(0.01)
    with pytest.raises(BlockingIOError, match="faces.pack: another process is packing to it. Wait"):
        pack(Faces(act=dict.fromkeys(range(40), never)), target)
    (tmp_path / "go on").touch()
    first.join(60)
    assert first.exitcode == 0 and target.read_bytes() == undisturbed


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_full_at_any_write_is_told_and_what_was_done_is_kept(tmp_path, monkeypatch, undisturbed, number):
    count, write = written_in(lambda: pack(Faces(), tmp_path / "whole.pack"), monkeypatch), os.write
    for n in range(count):
        target = tmp_path / str(n) / "faces.pack"
        left = iter(range(n))

        def full(file, content):
            if next(left, None) is None:
                raise OSError(number, os.strerror(number))
            return write(file, content)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match=f"^{target}: no space left on the disk. Make room and run it again.$"):
                pack(Faces(), target)
        assert not target.exists()
        chunks = min(max(n - 1, 0) // 2, 3)  # a write of the journal, then two a chunk
        pack(Faces(act=dict.fromkeys(range(min(16 * chunks, 40)), never)), target)
        assert target.read_bytes() == undisturbed


def test_a_file_that_may_grow_no_further_is_told_like_a_full_disk(tmp_path, target, undisturbed):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192 + 20 * 37632, resource.RLIM_INFINITY))
        try:
            pack(Faces(), target)
        except OSError as error:
            (tmp_path / "said").write_text(str(error))

    assert in_child(limited) == 0
    assert (tmp_path / "said").read_text() == f"{target}: no space left on the disk. Make room and run it again."
    assert not target.exists()
    pack(Faces(act=dict.fromkeys(range(16), never)), target)
    assert target.read_bytes() == undisturbed


def test_a_read_only_folder_is_told(target, monkeypatch):
    def read_only(file, flags, *mode):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OSError, match="^.*faces.pack: can't be written .Read-only file system.. Name another place.$"):
        pack(Faces(act=dict.fromkeys(range(40), never)), target)


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="faces.pack: can't be written"):
        pack(Faces(), tmp_path / "file" / "faces.pack")


def test_the_folder_is_made(tmp_path, undisturbed):
    pack(Faces(), tmp_path / "new" / "folder" / "faces.pack")
    assert (tmp_path / "new" / "folder" / "faces.pack").read_bytes() == undisturbed


def test_a_folder_in_the_packs_place_is_told(target):
    target.mkdir()
    with pytest.raises(FileExistsError, match="faces.pack: a folder is there. It will not be replaced"):
        pack(Faces(), target)


def test_a_damaged_pack_is_not_called_whole(target, undisturbed):
    content = bytearray(undisturbed)
    content[200_000] ^= 1
    target.write_bytes(content)
    with pytest.raises(ValueError, match="faces.pack: 1 of 3 chunks are damaged.*Delete the file and pack again"):
        pack(Faces(), target)


def test_an_image_that_was_mended_since_is_packed_after_all(target):
    faces = Faces()
    broken = type(
        "Broken", (Faces,), {"__getitem__": lambda self, i: unreadable(i) if i == 3 else Faces.__getitem__(self, i)}
    )

    def unreadable(i: int):
        raise ImageError("torn")

    assert pack(broken(), target)["images"] == len(faces) - 1
    before = target.stat().st_ino
    assert pack(broken(), target)["images"] == len(faces) - 1 and target.stat().st_ino == before
    assert pack(faces, target)["images"] == len(faces)
