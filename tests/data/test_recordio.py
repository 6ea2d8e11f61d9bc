"""insightface's training sets, written out by hand after dmlc's and MXNet's definitions of their bytes."""

import io
import multiprocessing
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from facelib.data import Loader, recordio
from facelib.data.loader import stack
from facelib.data.recordio import RecordIO
from facelib.faces.image import ImageError

MAGIC = b"\x0a\x23\xd7\xce"
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)  # of six images, 8 high, 10 wide


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def part(flag: int, content: bytes) -> bytes:
    return MAGIC + struct.pack("<I", flag * 2**29 + len(content)) + content + bytes(-len(content) % 4)


def image_record(key: int, label: float, image: bytes) -> bytes:
    """As MXNet packs an image of one label."""
    return part(0, struct.pack("<IfQQ", 0, label, key, 0) + image)


def labels_record(key: int, *labels: float, image: bytes = b"") -> bytes:
    """As MXNet packs one of several labels."""
    return part(0, struct.pack("<IfQQ", len(labels), 0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + image)


def standard(labels=(0, 0, 0, 1, 2, 2), ranges=((1, 4), (4, 5), (5, 7))) -> dict[int, bytes]:
    """Key -> record of six images of three identities, as insightface lays them out: the header after the images."""
    records = {key: image_record(key, label, png(PIXELS[key - 1])) for key, label in enumerate(labels, start=1)}
    first = len(labels) + 1
    records[0] = labels_record(0, first, first + len(ranges))
    return records | {key: labels_record(key, *keys) for key, keys in enumerate(ranges, start=first)}


def write(folder, records: dict[int, bytes], idx: bool = True, properties: str | None = None):
    """The records in the dictionary's order. Returns the folder."""
    folder.mkdir(exist_ok=True)
    offsets = np.cumsum([0, *map(len, records.values())])
    (folder / "train.rec").write_bytes(b"".join(records.values()))
    if idx:
        lines = [f"{key}\t{offset}\n" for key, offset in zip(records, offsets)]
        (folder / "train.idx").write_text("".join(lines))
    if properties is not None:
        (folder / "property").write_text(properties)
    return folder


def offset_of(records: dict[int, bytes], key: int) -> int:
    keys = [*records]
    return sum(len(records[before]) for before in keys[: keys.index(key)])


# --- images, labels, identities


def test_items_are_uint8_rgb_images_with_labels_contiguous_from_0(tmp_path):
    data = RecordIO(write(tmp_path, standard(), properties="3,8,10\n"))
    assert len(data) == 6 and data.labels.dtype == torch.int64 and data.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert data.identities == ["0", "1", "2"] and data.dropped == 0
    for i, expected in enumerate(PIXELS):
        image, label = data[i]
        assert image.dtype == torch.uint8 and np.array_equal(image, expected.transpose(2, 0, 1))
        assert type(label) is int and label == data.labels[i]
        assert data.read_bytes(i) == png(expected)


def test_jpegs_are_decoded_as_pillow_does(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "JPEG")
    data = RecordIO(write(tmp_path, standard() | {1: image_record(1, 0, buffer.getvalue())}))
    assert np.array_equal(data[0][0], np.asarray(Image.open(buffer)).transpose(2, 0, 1))


def test_other_labels_are_numbered_in_their_order_and_kept_as_names(tmp_path):
    data = RecordIO(write(tmp_path, standard(labels=(40, 40, 40, 7, 9, 9))))
    assert data.labels.tolist() == [2, 2, 2, 0, 1, 1] and data.identities == ["7", "9", "40"]


def test_of_several_labels_the_first_counts(tmp_path):
    """insightface's face2rec2.py packs label and whether the image was aligned already."""
    packed = [labels_record(k, label, 1, image=png(PIXELS[k - 1])) for k, label in enumerate((5, 5, 5, 3, 4, 4), 1)]
    data = RecordIO(write(tmp_path, standard() | dict(enumerate(packed, 1))))
    assert data.identities == ["3", "4", "5"] and data.labels.tolist() == [2, 2, 2, 0, 1, 1]
    assert data.read_bytes(3) == png(PIXELS[3])


def test_identities_without_an_image_are_dropped_and_counted(tmp_path):
    records = standard(ranges=((1, 4), (4, 4), (4, 5), (5, 7), (7, 7)))
    data = RecordIO(write(tmp_path, records, properties="5,8,10"))
    assert data.dropped == 2 and data.labels.tolist() == [0, 0, 0, 1, 2, 2] and len(data.identities) == 3


def test_an_identity_whose_images_lie_in_two_places_is_one(tmp_path):
    data = RecordIO(write(tmp_path, standard(labels=(0, 0, 0, 1, 0, 0))))
    assert data.labels.tolist() == [0, 0, 0, 1, 0, 0] and data.identities == ["0", "1"]


def test_without_a_header_all_records_are_images_of_their_own_labels(tmp_path):
    records = {key: image_record(key, label, png(PIXELS[key])) for key, label in enumerate((9, 4, 9, 4))}
    data = RecordIO(write(tmp_path, records, properties="2,8,10"))
    assert data.labels.tolist() == [1, 0, 1, 0] and data.identities == ["4", "9"] and data.dropped == 0
    assert np.array_equal(data[0][0], PIXELS[0].transpose(2, 0, 1))


def test_keys_that_float32_cannot_tell_are_not_trusted_and_images_tell_their_own_labels(tmp_path, monkeypatch):
    """Glint360K has 17 million images, more than 2 ** 24. Here the limit is 8, and identity records say nonsense."""
    monkeypatch.setattr(recordio, "EXACT", 8)
    data = RecordIO(write(tmp_path, standard(ranges=((2, 2), (2, 4), (4, 8)))))
    assert data.labels.tolist() == [0, 0, 0, 1, 2, 2] and data.dropped == 0


def test_images_have_names_that_tell_their_byte(tmp_path):
    records = standard()
    images = RecordIO(write(tmp_path, records)).images
    expected = [f"train.rec@{offset_of(records, key)}" for key in range(1, 7)]
    assert len(images) == 6 and [*images] == expected and images[-1] == expected[-1] and [*images[2:4]] == expected[2:4]


# --- records


def test_a_record_split_at_embedded_magic_numbers_is_joined_with_them(tmp_path):
    """Content: 24 bytes of header, then 4, MAGIC, MAGIC, 4, MAGIC, 3. Its parts hold 28, 0, 4 and 3 bytes."""
    header = struct.pack("<IfQQ", 0, 1, 4, 0)
    split = part(1, header + b"abcd") + part(2, b"") + part(2, b"efgh") + part(3, b"ijk")
    records = standard() | {4: split}
    for idx in (True, False):
        data = RecordIO(write(tmp_path / str(idx), records, idx))
        assert data.read_bytes(3) == b"abcd" + MAGIC + MAGIC + b"efgh" + MAGIC + b"ijk"
        assert data.labels.tolist() == [0, 0, 0, 1, 2, 2] and np.array_equal(data[4][0], PIXELS[4].transpose(2, 0, 1))


def test_a_record_split_within_its_header_is_joined_too(tmp_path):
    """A key of MAGIC's value, and a file without train.idx, where it is read."""
    header = struct.pack("<If", 0, 5), b"\0\0\0\0" + struct.pack("<Q", 0) + png(PIXELS[1])
    records = {3: image_record(3, 7, png(PIXELS[0])), 0xCED7230A: part(1, header[0]) + part(3, header[1])}
    data = RecordIO(write(tmp_path, records, idx=False))
    assert data.identities == ["5", "7"] and data.labels.tolist() == [1, 0] and data.read_bytes(1) == png(PIXELS[1])


def test_an_image_of_every_length_modulo_4_is_read(tmp_path):
    image = png(PIXELS[0])
    records = {key: image_record(key, key, image + bytes(key)) for key in range(4)}
    data = RecordIO(write(tmp_path, records))
    assert [data.read_bytes(i) for i in range(4)] == [image + bytes(i) for i in range(4)]


# --- train.idx and property


def test_the_index_may_be_in_any_order(tmp_path):
    folder = write(tmp_path, standard())
    lines = (folder / "train.idx").read_text().splitlines(keepends=True)
    (folder / "train.idx").write_text("".join(np.random.default_rng(0).permutation(lines)))
    data = RecordIO(folder)
    assert [np.array_equal(data[i][0], PIXELS[i].transpose(2, 0, 1)) for i in range(6)] == [True] * 6


def test_without_an_index_the_records_are_found(tmp_path):
    there, missing = (RecordIO(write(tmp_path / str(idx), standard(), idx)) for idx in (True, False))
    assert there.offsets.tolist() == missing.offsets.tolist() and there.identities == missing.identities
    assert there.labels.tolist() == missing.labels.tolist()


def test_without_an_index_and_with_equal_ids_images_are_in_the_files_order(tmp_path):
    records = {key: image_record(0, 2 - key, png(PIXELS[key])) for key in range(3)}
    data = RecordIO(write(tmp_path, records, idx=False))
    assert data.labels.tolist() == [2, 1, 0] and np.array_equal(data[1][0], PIXELS[1].transpose(2, 0, 1))


@pytest.mark.parametrize(
    "lines, message",
    [
        ("", "train.idx: expected lines"),
        ("\n", "train.idx: expected lines"),
        ("0\t0\n1\n", "train.idx: expected lines"),
        ("0\t0\t0\n", "train.idx: expected lines"),
        ("0 0\n1 5\n", "train.idx: expected lines"),
        ("0\tx\n", "train.idx: expected lines"),
        ("0\t-8\n", "train.idx: expected lines"),
        ("0\t0.5\n", "train.idx: expected lines"),
        ("0\t99999999999999999999\n", "train.idx: expected lines"),
        ("0\t0\n0\t40\n", "train.idx: the key 0 is there twice"),
        ("0\t0\n1\t0\n", "train.idx: the offset 0 is there twice"),
        ("0\t0\n1\t99999\n", r"train.idx: a record at byte 99999, but train.rec ends at \d+"),
        ("0\t4\n", "train.idx: no record at byte 0 of train.rec, the first is at 4"),
        ("0\t0\n", r"train.idx: the last record ends at byte \d+, but train.rec at \d+"),
    ],
)
def test_a_wrong_index_is_refused_with_what_is_wrong(tmp_path, lines, message):
    (write(tmp_path, standard()) / "train.idx").write_text(lines)
    with pytest.raises(ValueError, match=message) as raised:
        RecordIO(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_an_index_that_points_into_a_record_is_refused_on_reading(tmp_path):
    records = standard()
    offset = offset_of(records, 3)
    index = write(tmp_path, records) / "train.idx"
    index.write_text(index.read_text().replace(f"3\t{offset}\n", f"3\t{offset + 4}\n"))
    with pytest.raises(
        ImageError, match=f"train.rec@{offset + 4}: no record begins there, the magic number is missing"
    ):
        RecordIO(tmp_path)[2]


def test_an_index_that_lacks_a_record_is_refused_by_the_headers_count(tmp_path):
    index = write(tmp_path, standard()) / "train.idx"
    index.write_text("".join(line for line in index.read_text().splitlines(True) if not line.startswith("3\t")))
    with pytest.raises(
        ValueError, match="announces identity records of the keys 7 to 9, .*9 records with keys up to 9"
    ):
        RecordIO(tmp_path)


def test_an_index_that_lacks_a_record_is_refused_without_a_header_too(tmp_path):
    records = {key: image_record(key, key, png(PIXELS[key])) for key in range(4)}
    index = write(tmp_path, records) / "train.idx"
    index.write_text("".join(line for line in index.read_text().splitlines(True) if not line.startswith("2\t")))
    message = f"train.idx: lists 3 records, train.rec has 4; they differ at byte {offset_of(records, 2)}"
    with pytest.raises(ValueError, match=message):
        RecordIO(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("4,8,10", r"property: tells 4,8,10 .*train.rec has 3,8,10. Correct or delete it"),
        ("3,10,8", r"property: tells 3,10,8 .*train.rec has 3,8,10"),
        ("3,112,112\n", r"property: tells 3,112,112"),
        ("3,8", "property: expected `classes,height,width`, three numbers"),
        ("", "property: expected"),
    ],
)
def test_a_property_that_does_not_fit_is_told(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        RecordIO(write(tmp_path, standard(), properties=text))


# --- files that are wrong


def test_a_folder_without_records_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.rec: no such file"):
        RecordIO(tmp_path)


@pytest.mark.parametrize("records, message", [({}, "holds no record"), ({0: labels_record(0, 1, 1)}, "no images")])
def test_a_file_without_images_is_refused(tmp_path, records, message):
    with pytest.raises(ValueError, match=f"train.rec: {message}"):
        RecordIO(write(tmp_path, records, idx=False))


@pytest.mark.parametrize("idx", [True, False])
@pytest.mark.parametrize("lost", [1, 20, 41])
def test_a_truncated_file_is_refused_at_opening(tmp_path, idx, lost):
    """The last record is 8 + 24 + 8 bytes long."""
    rec = write(tmp_path, standard(), idx) / "train.rec"
    rec.write_bytes(rec.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"train.rec@\d+: the record should end at byte|a record at byte"):
        RecordIO(tmp_path)


def test_bytes_behind_the_last_record_are_refused(tmp_path):
    rec = write(tmp_path, standard()) / "train.rec"
    rec.write_bytes(rec.read_bytes() + bytes(8))
    with pytest.raises(ValueError, match=f"the last record ends at byte {rec.stat().st_size - 8}, but"):
        RecordIO(tmp_path)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(ImageError, match=f"train.rec@{rec.stat().st_size - 8}: no record begins there"):
        RecordIO(tmp_path)


HEADER = struct.pack("<IfQQ", 0, 0, 2, 0)
BROKEN = {
    "no magic number": (b"\0\0\0\0" + part(0, HEADER)[4:], "no record begins there"),
    "an unknown flag": (part(4, HEADER), "unknown flag 4"),
    "a later part": (part(3, HEADER), "a record goes on there, by its flag 3"),
    "no later part": (part(1, HEADER), "the record of byte .* does not go on there, by its flag 0"),
    "a length past the end": (MAGIC + struct.pack("<I", 2**29 - 1) + HEADER, "should end at byte 536"),
    "no header": (part(0, HEADER[:20]), "a record of 20 bytes has no header"),
    "no labels": (part(0, struct.pack("<IfQQ", 2**32 - 1, 0, 2, 0)), "a record of 24 bytes has no 4294967295 labels"),
    "another's label": (image_record(2, 1, png(PIXELS[1])), "the image's label is 1, its identity's 0"),
    "no image": (image_record(2, 0, b"not an image"), r"not a readable image \(cannot identify image file\)"),
    "an empty image": (image_record(2, 0, b""), r"not a readable image \(cannot identify image file\)"),
    "half an image": (image_record(2, 0, png(PIXELS[1])[:80]), "not a readable image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_record_is_told_on_reading_with_file_and_byte_and_the_others_are_read(tmp_path, kind):
    record, message = BROKEN[kind]
    records = standard() | {2: record}
    data = RecordIO(write(tmp_path, records))
    data[0], data[2]
    with pytest.raises(ImageError, match=message) as raised:
        data[1]
    at = offset_of(records, 2) + (len(record) if kind == "no later part" else 0)
    assert str(raised.value).startswith(f"{tmp_path / 'train.rec'}@{at}: ") and "BytesIO" not in str(raised.value)


@pytest.mark.parametrize("idx", [True, False])
@pytest.mark.parametrize("label", [0.5, np.nan, np.inf, 3e9])
def test_a_label_that_is_no_whole_number_is_refused(tmp_path, label, idx):
    records = standard(labels=(label, label, label, 1, 2, 2))
    with pytest.raises(ValueError, match="train.rec@0: the label .* is no whole number"):
        RecordIO(write(tmp_path, records, idx))


@pytest.mark.parametrize(
    "ranges, message",
    [
        (((1, 4), (4, 5), (5, 8)), "no identity record of images of the keys 1 to 6"),
        (((0, 4), (4, 5), (5, 7)), "no identity record of images"),
        (((4, 1), (4, 5), (5, 7)), "no identity record of images"),
        (((1, 4), (3, 5), (5, 7)), "some of the keys 3 to 4 have an identity"),
        (((1, 4), (4, 5), (5, 6)), "no identity record has this image, key 6"),
        (((1, 4), (4, 5.5), (5.5, 7)), "4.0 and 5.5 should be two keys"),
        (((1, 4), (4, np.nan), (5, 7)), "4.0 and nan should be two keys"),
        (((1, 4), (4,), (5, 7)), "no identity record of images"),
    ],
)
def test_identity_records_that_do_not_share_out_the_images_are_refused(tmp_path, ranges, message):
    with pytest.raises(ValueError, match=rf"train.rec@\d+: {message}"):
        RecordIO(write(tmp_path, standard(ranges=ranges)))


@pytest.mark.parametrize("first, last", [(0, 0), (0, 10), (8, 7), (-1, 10), (7, 11), (7, 9), (7, 3e38)])
def test_a_header_that_announces_other_records_is_refused(tmp_path, first, last):
    with pytest.raises(ValueError, match="announces"):
        RecordIO(write(tmp_path, standard() | {0: labels_record(0, first, last)}))


def test_without_an_index_the_images_are_counted_against_the_header(tmp_path):
    with pytest.raises(ValueError, match=r"train.rec@\d+: announces 4 images, but 6 records hold one"):
        RecordIO(write(tmp_path, standard() | {0: labels_record(0, 5, 10)}, idx=False))


# --- batches, threads, processes


def test_a_batch_is_the_items_stacked(tmp_path):
    data = RecordIO(write(tmp_path, standard()))
    images, labels = stack(data.__getitems__([4, 0, 3]))
    assert images.dtype == torch.uint8 and np.array_equal(images, PIXELS[[4, 0, 3]].transpose(0, 3, 1, 2))
    assert labels.dtype == torch.int64 and labels.tolist() == [2, 0, 1]


def test_images_of_several_sizes_in_one_batch_are_refused_with_the_sizes(tmp_path):
    data = RecordIO(write(tmp_path, standard() | {6: image_record(6, 2, png(PIXELS[5][:, :9]))}))
    assert data[5][0].shape == (3, 8, 9)
    with pytest.raises(ValueError, match=r"\(8, 9\), \(8, 10\).*align"):
        stack(data.__getitems__([0, 5]))


def test_an_index_out_of_range_is_an_index_error(tmp_path):
    data = RecordIO(write(tmp_path, standard()))
    assert torch.equal(data[-1][0], data[5][0])
    with pytest.raises(IndexError):
        data[6]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_every_image_with_its_label(tmp_path, workers):
    data = RecordIO(write(tmp_path, standard()))
    data[0]  # the file is open when workers are forked
    batches = [*Loader(data, 2, workers=workers)]
    assert [len(labels) for _, labels in batches] == [2, 2, 2]
    assert np.array_equal(torch.cat([images for images, _ in batches]), PIXELS.transpose(0, 3, 1, 2))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 1, 2, 2]


def test_a_damaged_record_is_told_by_the_loader_in_one_sentence(tmp_path):
    records = standard() | {5: image_record(5, 2, b"no image")}
    with pytest.raises(ImageError) as raised:
        [*Loader(RecordIO(write(tmp_path, records)), 2)]
    assert str(raised.value).startswith(f"{tmp_path / 'train.rec'}@{offset_of(records, 5)}: not a readable image")
    assert len(str(raised.value).splitlines()) == 1


def test_it_can_be_sent_to_a_new_process_which_opens_the_file_itself(tmp_path):
    data = RecordIO(write(tmp_path, standard()))
    data[0]
    again = pickle.loads(pickle.dumps(data))
    assert "file" not in again.rec.__dict__ and torch.equal(again[3][0], data[3][0])
    assert again.rec.file.fileno() != data.rec.file.fileno()


def test_spawned_workers_read_it(tmp_path):
    data = RecordIO(write(tmp_path, standard()))
    data[0]
    context = multiprocessing.get_context("spawn")
    loader = DataLoader(data, 3, num_workers=1, multiprocessing_context=context, collate_fn=stack)
    assert torch.cat([labels for _, labels in loader]).tolist() == [0, 0, 0, 1, 2, 2]


def test_threads_may_share_it(tmp_path):
    data = RecordIO(write(tmp_path, standard()))
    order = np.random.default_rng(0).integers(0, 6, 300).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(data.read_bytes, order)]
    assert found == [png(PIXELS[i]) for i in order]
