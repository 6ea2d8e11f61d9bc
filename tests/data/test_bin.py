"""insightface's verification sets: read whoever pickled them, refused if they ask for more, verified as a folder is."""

import hashlib
import io
import json
import os
import pickle
import struct

import numpy as np
import pandas as pd
import pytest
import sklearn.model_selection
import torch
from PIL import Image

from facelib.data import bin as verification_bin
from facelib.data.bin import bin_pairs, read_bin
from facelib.data.landmarks import COLUMNS
from facelib.faces.detectors import TEMPLATE
from facelib.faces.image import ImageError
from facelib.models import create_model
from facelib.verification import uncertainty
from facelib.verification.protocol import Protocol
from facelib.verification.verify import verify

IMAGES = [bytes(range(256)), b"", b"'\n\\x00", b"\xff\xd8\xff\xe0" * 70, b"a", b"a"]  # as bytes any will do
SAME = [True, False, True]


def write(folder, content: bytes):
    (folder / "a.bin").write_bytes(content)
    return folder / "a.bin"


def read(folder, content: bytes) -> tuple[list[bytes], list[bool]]:
    images, same = read_bin(write(folder, content))
    assert all(type(image) is bytes for image in images) and same.dtype == bool
    return images, same.tolist()


def refused(folder, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.bin: .*{message}") as raised:
        read_bin(write(folder, content))
    assert len(str(raised.value).splitlines()) == 1


def array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


# --- what was written


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [bytes, bytearray, array, lambda content: array(content).copy()])
def test_images_of_every_kind_and_protocol_are_read_as_bytes(tmp_path, kind, protocol):
    content = pickle.dumps(([kind(image) for image in IMAGES], SAME), protocol)
    assert read(tmp_path, content) == (IMAGES, SAME)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "same",
    [
        tuple(SAME),
        [1, 0, 1],
        [*np.array(SAME)],
        [*np.array(SAME, np.int64)],
        np.array(SAME),
        np.array(SAME, np.uint8),
        np.array(SAME, ">i4"),
        np.array([1, 9, 0, 9, 1, 9])[::2],
    ],
)
def test_pairs_are_told_by_booleans_or_numbers_of_every_kind(tmp_path, same, protocol):
    assert read(tmp_path, pickle.dumps((IMAGES, same), protocol)) == (IMAGES, SAME)


def test_a_list_of_two_lists_and_tuples_are_read_too(tmp_path):
    assert read(tmp_path, pickle.dumps([tuple(IMAGES), SAME])) == (IMAGES, SAME)


def test_python_2_wrote_protocol_0_so(tmp_path):
    """cPickle.dumps((images, same), 0): strings as their repr, booleans as I01 and I00, places in the memo from 1."""
    content = b"((lp1\n"
    for place, image in enumerate(IMAGES, start=2):
        content += b"S" + repr(image)[1:].encode() + b"\np%d\na" % place
    content += b"(lp8\nI01\naI00\naI01\natp9\n."
    assert read(tmp_path, content) == (IMAGES, SAME)


def test_python_2_wrote_protocol_2_so(tmp_path):
    """cPickle.dumps((images, same), 2): strings of less than 256 bytes by U, of more by T."""
    content = b"\x80\x02]q\x01("
    for place, image in enumerate(IMAGES, start=2):
        content += b"T" + struct.pack("<i", len(image)) if len(image) > 255 else b"U" + bytes([len(image)])
        content += image + b"q" + bytes([place])
    content += b"e]q\x08(\x88\x89\x88e\x86q\x09."
    assert read(tmp_path, content) == (IMAGES, SAME)


PYTHON_2_ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x03\x85"
    b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03abctb"
)
PYTHON_2_TRUE = (
    b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02b1K\x00K\x01\x87R"
    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x01\x01\x86R"
)


def test_python_2_wrote_numpys_arrays_and_booleans_so(tmp_path):
    content = b"\x80\x02](" + PYTHON_2_ARRAY + PYTHON_2_ARRAY + b"e](" + PYTHON_2_TRUE + b"e\x86."
    assert read(tmp_path, content) == ([b"abc", b"abc"], [True])


# --- what was not


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Built(Calls):
    """A call and a state to be set."""

    def __reduce__(self):
        return *self.call[:1], self.call[1][:-1], self.call[1][-1]


MALICIOUS = {
    "os.system": (lambda mark: Calls(os.system, f"touch {mark}"), "posix.system"),
    "eval": (lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"), "(__builtin__|builtins).eval"),
    "exec": (lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"), "(__builtin__|builtins).exec"),
    "open": (lambda mark: Calls(open, str(mark), "w"), "_?io.open"),
    "a chain of getattr": (
        lambda mark: Calls(getattr, Calls(__import__, "os"), "system"),
        "(__builtin__|builtins).getattr",
    ),
    "numpy.load": (lambda mark: Calls(np.load, "/etc/passwd", None, True), "numpy.*load"),
    "numpy.fromfile": (lambda mark: Calls(np.fromfile, "/etc/passwd"), "numpy.*fromfile"),
    "an array of objects": (lambda mark: np.array([Calls(os.system, f"touch {mark}")], object), "posix.system|whole n"),
    "nested pickles": (lambda mark: Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {mark}"))), "loads"),
    "an object": (lambda mark: mark, "pathlib.PosixPath"),
    "a type": (lambda mark: float, "(__builtin__|builtins).float"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_file_that_asks_for_anything_else_is_refused_by_its_name_and_nothing_runs(tmp_path, kind, protocol):
    make, asked = MALICIOUS[kind]
    for content in ([make(tmp_path / "mark"), b""], SAME[:1]), (IMAGES, [make(tmp_path / "mark")] * 3):
        refused(tmp_path, pickle.dumps(content, protocol), asked)
    assert not (tmp_path / "mark").exists()


OTHERS = {
    "a persistent id": (b"Pabc\n.", "unexpected instruction PERSID at byte 0"),
    "a persistent object": (b"K\x01Q.", "unexpected instruction BINPERSID at byte 2"),
    "an extension code": (b"\x82\x01.", "unexpected instruction EXT1"),
    "an extension code of 4 bytes": (b"\x84\x01\x00\x00\x00.", "unexpected instruction EXT4"),
    "an instance": (b"(ios\nsystem\n.", "unexpected instruction INST"),
    "an object": (b"(cos\nsystem\no.", "unexpected instruction OBJ"),
    "a new object": (b"cos\nsystem\n)\x81.", "unexpected instruction NEWOBJ"),
    "a dictionary": (pickle.dumps({}), "unexpected instruction EMPTY_DICT"),
    "a buffer of elsewhere": (b"\x80\x05\x97.", "unexpected instruction NEXT_BUFFER"),
    "an unknown instruction": (b"\x80\x02\xff.", r"unexpected instruction b'\\xff' at byte 2"),
    "a name in another": (b"cbuiltins\nbytes.fromhex\n.", "asks for 'builtins.bytes.fromhex'"),
    "a name of text": (b"\x8c\x02os\x8c\x06system\x93.", "asks for 'os.system'"),
    "a name over lines": (b"\x8c\x02os\x8c\x04a\nb\r\x93.", r"asks for 'os.a\\nb\\r'"),
    "a name of bytes": (b"C\x02osC\x06system\x93.", "STACK_GLOBAL requires str"),
    "nothing": (b"", "unexpected end, it is truncated"),
    "not a pickle": (b"\x89PNG\r\n", "not a verification set"),
    "a number": (pickle.dumps(7), "not a verification set"),
    "three things": (pickle.dumps((IMAGES, SAME, 1)), "not a verification set"),
    "two numbers": (pickle.dumps((1, 2)), "no pair of lists"),
    "bytes for pairs": (pickle.dumps((IMAGES, b"\x01\x00\x01")), "no pair of lists"),
    "bytes for images": (pickle.dumps((b"abcdef", SAME)), "no pair of lists"),
    "text for an image": (pickle.dumps(([*IMAGES[:-1], "a"], SAME)), "image 5 of 6 is no string of bytes"),
    "a number for an image": (pickle.dumps(([1] * 6, SAME)), "image 0 of 6 is no string of bytes"),
    "wider numbers for an image": (pickle.dumps(([np.zeros(3, np.int16)] * 6, SAME)), "image 0 of 6 is no string"),
    "a picture for an image": (pickle.dumps(([np.zeros((3, 3), np.uint8)] * 6, SAME)), "not a verification set"),
    "floats for an image": (pickle.dumps(([np.zeros(3)] * 6, SAME)), "something else than whole numbers"),
    "an array of objects": (pickle.dumps((IMAGES, np.array(SAME, object))), "something else than whole numbers"),
    "an array of records": (pickle.dumps((IMAGES, np.zeros(3, "i4,i4"))), "unexpected instruction EMPTY_DICT"),
    "an array of text": (pickle.dumps((IMAGES, np.array(["a"] * 3))), "something else than whole numbers"),
    "an odd image": (pickle.dumps((IMAGES[:5], SAME)), "5 images, but 3 pairs"),
    "a pair too many": (pickle.dumps((IMAGES, [*SAME, True])), "6 images, but 4 pairs"),
    "no pair": (pickle.dumps(([], [])), "0 images, but 0 pairs"),
    "a third kind of pair": (pickle.dumps((IMAGES, [0, 1, 2])), "should be true, false, 1 or 0"),
    "text for a pair": (pickle.dumps((IMAGES, [True, "no", False])), "should be true, false, 1 or 0"),
    "lists for pairs": (pickle.dumps((IMAGES, [[1], [0], [1]])), "should be true, false, 1 or 0"),
    "text that is no bytes": (b"c_codecs\nencode\nV\\u0100\n\x85R.", "not a verification set"),
    "another encoding": (b"c_codecs\nencode\nVabc\nVzlib\n\x86R.", "makes bytes of str"),
    "what follows": (pickle.dumps((IMAGES, SAME)) + b"\n", "ends at byte .*, but 1 bytes follow"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_no_verification_set_is_refused_in_one_sentence(tmp_path, kind):
    refused(tmp_path, *OTHERS[kind])


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_cut_off_anywhere_is_refused(tmp_path, protocol):
    content = pickle.dumps(([b"\xff\xd8", array(b"abc")], [True]), protocol)
    assert read(tmp_path, content)[1] == [True]
    for length in range(len(content)):
        refused(tmp_path, content[:length], "not a verification set")


BOMBS = {
    "bytes of a number": b"c__builtin__\nbytes\n\x8a\x06\0\0\0\0\0\x01\x85R.",
    "a bytearray of a number": b"cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.",
    "a long string": b"\x8e" + struct.pack("<Q", 2**45) + b"abc.",
    "a long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**45) + b"abc.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 2**45) + b"K\x01.",
    "a place far off in the memo": b"K\x01r\xff\xff\xff\xff.",
    "a place far off in the memo, in words": b"K\x01p4000000000\n.",
    "a large array": PYTHON_2_ARRAY.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85") + b".",
    "an array made large": PYTHON_2_ARRAY.replace(b"K\x00\x85", b"J\xff\xff\xff\x7f\x85") + b".",
    "an array of large parts": PYTHON_2_ARRAY.replace(b"U\x02u1", b"U\x0a(99999,)u1") + b".",
    "a large number": b"L" + b"9" * 100_000 + b"L\n.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_asks_for_more_memory_than_it_is_long_is_refused(tmp_path, kind):
    refused(tmp_path, BOMBS[kind], "not a verification set")


def test_a_text_or_bytearray_is_turned_into_bytes_once_however_often_it_is_asked_for(tmp_path):
    """20,000 times 1 MB would be 20 GB. The file lists one call, or one bytearray in the memo, so many times."""
    times, large = 20_000, struct.pack("<Q", 10**6) + b"a" * 10**6
    call = b"c_codecs\nencode\nq\x00\x8d" + large + b"q\x01\x86](" + b"h\x00h\x01\x85R" * times
    again = b"\x96" + large + b"q\x00q\x01\x85](" + b"h\x00" * times
    for begin in (call, again):  # the tuple before the list is left on the stack
        images, _ = read_bin(write(tmp_path, b"\x80\x05" + begin + b"e](" + b"\x88" * (times // 2) + b"e\x86."))
        assert len(images) == times and len({id(image) for image in images}) == 1 and images[0] == b"a" * 10**6


@pytest.mark.parametrize("begin, end", [(b"]" * 50_000, b"a" * 49_999), (b")", b"\x85" * 50_000)])
def test_deep_nesting_is_refused(tmp_path, begin, end):
    refused(tmp_path, begin + end + b".", "not a verification set")
    refused(tmp_path, b"cnumpy\ndtype\n" + begin + end + b"\x85R.", "not a verification set")


def test_more_instructions_than_a_set_of_millions_needs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(verification_bin, "MOST_INSTRUCTIONS", 1000)
    refused(tmp_path, b"]" * 1000 + b".", "more than 1,000 instructions")


def test_a_missing_file_is_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="b.bin: no such verification set"):
        read_bin(tmp_path / "b.bin")


# --- pairs


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("count", [10, 23, 29, 40])
def test_folds_are_those_of_scikit_learn(tmp_path, count):
    file = write(tmp_path, pickle.dumps(([b"%d" % i for i in range(2 * count)], [True] * count)))
    folds = sklearn.model_selection.KFold(n_splits=10, shuffle=False).split(np.arange(count))
    for k, (_, here) in enumerate(folds):
        assert np.flatnonzero(bin_pairs(file).pairs.fold == k).tolist() == here.tolist()


def test_fewer_pairs_than_folds_are_refused(tmp_path):
    file = write(tmp_path, pickle.dumps(([b""] * 18, [True] * 9)))
    with pytest.raises(ValueError, match="a.bin: 9 pairs are too few for 10 folds"):
        bin_pairs(file)


def test_each_distinct_image_comes_once_under_its_first_place_and_the_pairs_point_to_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 112, 112, 3), dtype=np.uint8)
    shown = [0, 1, 1, 2, 0, 2, 3, 4, 4, 4, *range(5, 12), 0, 1, 2]
    same = np.arange(10) % 3 == 0
    data = bin_pairs(write(tmp_path, pickle.dumps(([png(pixels[k]) for k in shown], same))))
    names = ["00000", "00001", "00003", "00006", "00007", *(f"{k:05d}" for k in range(10, 17))]
    assert data.images == names and len(data) == 12
    assert data.pairs.first[:5] == ["00000", "00001", "00000", "00006", "00007"]
    assert data.pairs.second[:5] == ["00001", "00003", "00003", "00007", "00007"]
    assert data.pairs.genuine.tolist() == same.tolist()
    for items, sides in ((data.first, shown[::2]), (data.second, shown[1::2])):
        for i, k in zip(items, sides):
            crop, number = data[i]
            assert crop.dtype == torch.uint8 and number == i and np.array_equal(crop, pixels[k].transpose(2, 0, 1))


def test_of_the_first_folds_only_their_images_are_there(tmp_path):
    data = bin_pairs(write(tmp_path, pickle.dumps(([b"%d" % i for i in range(40)], [True] * 20))), folds=3)
    assert len(data.pairs) == 6 and len(data) == 12 and data.pairs.fold.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="folds must be 0, for all, or from 2 to the 10"):
        bin_pairs(tmp_path / "a.bin", folds=11)


@pytest.mark.parametrize(
    "image, message",
    [
        (b"abc", r"image 00001: not a readable image \(cannot identify image file\)"),
        (png(np.zeros((96, 112, 3), np.uint8)), "image 00001: 112x96 pixels, it should be an aligned face of 112x112"),
    ],
)
def test_an_image_that_is_none_or_of_another_size_is_named(tmp_path, image, message):
    data = bin_pairs(write(tmp_path, pickle.dumps(([png(np.zeros((112, 112, 3), np.uint8)), image] * 10, [True] * 10))))
    data[0]
    with pytest.raises(ImageError, match=f"a.bin, {message}"):
        data[1]


# --- verification


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The same 20 pairs of 20 faces as a file and as an LFW folder of lossless images on ArcFace's template."""
    folder = tmp_path_factory.mktemp("faces")
    faces = np.random.default_rng(0).integers(0, 256, (10, 2, 14, 14, 3), dtype=np.uint8)
    faces[:, 1] = faces[:, 0] // 2 + 40
    faces = faces.repeat(8, axis=2).repeat(8, axis=3)
    names = [f"P{k}/P{k}_{n + 1:04d}.png" for k in range(10) for n in range(2)]
    for name, face in zip(names, faces.reshape(20, 112, 112, 3)):
        (folder / "lfw" / "lfw" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "lfw" / "lfw" / name).write_bytes(png(face))
    lines, images = ["10\t1"], []
    for k in range(10):  # a person's two images, then the first ones of two people
        lines += [f"P{k}\t1\t2", f"P{k}\t1\tP{(k + 1) % 10}\t1"]
        images += [png(faces[who]) for who in ((k, 0), (k, 1), (k, 0), ((k + 1) % 10, 0))]
    rows = [[name, *TEMPLATE.ravel(), 1.0] for name in names]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "lfw" / "lfw" / "landmarks.csv", index=False)
    (folder / "lfw" / "pairs.txt").write_text("\n".join(lines) + "\n")
    (folder / "faces.bin").write_bytes(pickle.dumps((images, [True, False] * 10)))
    torch.manual_seed(0)
    torch.save(create_model("iresnet18_025", 8).state_dict(), folder / "model.pth")
    return folder


def verified(place, lfw: str, output, protocol: Protocol = Protocol()) -> tuple[dict, dict]:
    measures = verify(str(place / "model.pth"), str(place / lfw), str(output), protocol)
    with np.load(output / "scores.npz", allow_pickle=False) as arrays:
        return measures, {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize(
    "protocol",
    [Protocol(), Protocol(light="low", flip=True), Protocol(folds=4, light="low", normalise="first", far=0.5)],
)
def test_a_file_is_verified_as_the_same_images_in_a_folder_are(place, tmp_path, protocol):
    measures, arrays = verified(place, "faces.bin", tmp_path / "bin", protocol)
    expected, others = verified(place, "lfw", tmp_path / "lfw", protocol)
    expected.pop("colour_order", None)  # told by people, whom a .bin doesn't name
    assert arrays["score"] == pytest.approx(others["score"], abs=1e-6) and np.ptp(arrays["score"]) > 1e-3
    assert measures == pytest.approx(expected, abs=1e-6)
    assert (
        arrays["genuine"].tolist() == others["genuine"].tolist() and arrays["fold"].tolist() == others["fold"].tolist()
    )
    assert arrays["first"][:3].tolist() == ["00000", "00000", "00003"]
    assert arrays["second"][:4].tolist() == ["00001", "00003", "00005", "00007"]


def test_a_verification_of_a_file_says_which(place, tmp_path):
    verified(place, "faces.bin", tmp_path / "out")
    asked = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert asked["images"] == "faces.bin" and asked["lfw"] == str(place / "faces.bin")
    environment = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert environment["data"] == hashlib.sha256((place / "faces.bin").read_bytes()).hexdigest()[:12]


@pytest.mark.parametrize(
    "protocol, message",
    [
        (Protocol(crop="centre"), "crop must be aligned for .*faces.bin, .* found 'centre'"),
        (Protocol(pairs="pairsDevTest.txt"), "pairs must stay pairs.txt for .*faces.bin, .* found 'pairsDevTest.txt'"),
        (Protocol(folds=12), "folds must be"),
        (Protocol(far=0.05), "far 0.05 can't be resolved by 10 impostor pairs"),
    ],
)
def test_what_a_file_does_not_have_is_refused_by_the_parameter(place, tmp_path, protocol, message):
    with pytest.raises(ValueError, match=message):
        verified(place, "faces.bin", tmp_path / "out", protocol)
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_refused_before_anything_is_embedded(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="cfp_fp.bin: no such verification set"):
        verified(place, "cfp_fp.bin", tmp_path / "out")


def test_the_statistics_take_each_image_of_a_file_for_an_identity(place, tmp_path):
    verified(place, "faces.bin", tmp_path / "verify")
    assert len(np.unique(uncertainty.read_scores(tmp_path / "verify")["identities"])) == 20
    runs = {"verify/a-r1-normal": {"notebook": "verify", "parameters": {"output": str(tmp_path / "verify")}}}
    plan = {"light": "a", "heavy": "b", "ratios": [1.0], "runs": runs}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    found = uncertainty.summarise(str(tmp_path), str(tmp_path / "statistics"), resamples=50)["verify"]["a-r1-normal"]
    for measure in ("accuracy", "auc", "eer"):
        assert 0 <= found[measure]["low"] <= found[measure]["estimate"] <= found[measure]["high"] <= 1


def test_pairs_of_one_kind_are_told_before_anything_is_embedded(place, tmp_path):
    images, _ = read_bin(place / "faces.bin")
    (tmp_path / "same.bin").write_bytes(pickle.dumps((images, [True] * 20)))
    with pytest.raises(ValueError, match="same.bin: all 20 pairs are genuine, both kinds are needed"):
        verify(str(place / "model.pth"), str(tmp_path / "same.bin"), str(tmp_path / "out"))
