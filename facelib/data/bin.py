"""insightface's verification sets (lfw.bin, cfp_fp.bin, agedb_30.bin, calfw.bin, cplfw.bin) without MXNet.

A file is one pickle of (images, issame): of N pairs the 2N encoded images, a pair's two next to each other, and whether
each pair shows one person. Python 2 and 3 wrote them, with pickle's protocols 0 to 5; an image is a byte string, a
bytearray or a numpy array of its bytes.

A pickle is a program: to load it is to run it. So before anything runs its instructions are gone through, and a file
with one that no such set needs is refused. Of what it calls by name only what is in `Unpickler.find_class` is there;
these are functions and classes of this module, which make nothing but bytes, numbers and plain arrays.
"""

import io
import pickle
import pickletools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelib.data.pairs import Pairs
from facelib.faces.align import SIZE
from facelib.faces.image import ImageError, decode_image
from facelib.files import first_line

FOLDS = 10
# Lists, tuples, text, bytes, whole numbers and None, the memo, and calls of what has a name.
INSTRUCTIONS = {
    opcode.code.encode("latin-1"): opcode
    for opcode in pickletools.opcodes
    if opcode.name
    in """
    PROTO FRAME STOP MARK EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 INT BININT BININT1 BININT2 LONG LONG1 LONG4 NEWTRUE NEWFALSE NONE
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()
}
MOST_INSTRUCTIONS = 10_000_000  # LFW's 6,000 pairs take 30,000 to 400,000. One may take 80 bytes of memory
LENGTH_BYTES = {  # of an instruction's argument that begins with its own length
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"b1"}  # numpy's names of plain types
LATIN_1 = ("latin1", "latin-1", b"latin1", b"latin-1")


def check_instructions(content: bytes) -> None:
    """Raise UnpicklingError if the pickle is not whole, has an instruction that it should not, or ends early.

    After this no length and no place in the memo is beyond what the file itself is long: either would be allocated.
    """
    at = 0
    for count in range(MOST_INSTRUCTIONS):
        code = content[at : at + 1]
        if code not in INSTRUCTIONS:
            known = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
            what = f"instruction {known.get(code, code)} at byte {at}" if code else "end, it is truncated"
            raise pickle.UnpicklingError(f"its pickle has an unexpected {what}")
        opcode = INSTRUCTIONS[code]
        begin = at + 1
        at = end_of_argument(opcode, content, begin)
        if at > len(content):
            raise pickle.UnpicklingError(f"it is truncated in {opcode.name} at byte {begin - 1}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            argument = content[begin:at]
            place = int(argument) if opcode.name == "PUT" else int.from_bytes(argument, "little")
            if place > count:
                raise pickle.UnpicklingError(f"its pickle's memo has a place {place} before as many instructions")
        if opcode.name == "STOP":
            if at < len(content):
                raise pickle.UnpicklingError(f"its pickle ends at byte {at}, but {len(content) - at} bytes follow")
            return
    raise pickle.UnpicklingError(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")


def end_of_argument(opcode: pickletools.OpcodeInfo, content: bytes, at: int) -> int:
    """Where the instruction's argument, which begins at byte `at`, ends; past the content's end if it is cut off."""
    size = opcode.arg.n if opcode.arg else 0
    if size == pickletools.UP_TO_NEWLINE:
        for _ in range(2 if opcode.name == "GLOBAL" else 1):  # of module and name
            found = content.find(b"\n", at)
            at = found + 1 if found >= 0 else len(content) + 1
        return at
    if size in LENGTH_BYTES:
        width = LENGTH_BYTES[size]
        return at + width + int.from_bytes(content[at : at + width], "little")
    return at + size


class PlainType:
    """In the place of numpy.dtype: a boolean or whole number of 1, 2, 4 or 8 bytes."""

    def __init__(self, name: str | bytes, align: bool = False, copy: bool = False):
        name = name.decode("latin-1") if isinstance(name, bytes) else name
        # First whether it is text: the hash of tuples within tuples within tuples ... would end the process.
        if not isinstance(name, str) or name not in NUMBERS:
            raise pickle.UnpicklingError("it has an array of something else than whole numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in ("<", ">", "|", "=", b"<", b">", b"|", b"=") or (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("it has an array of records")
        self.dtype = self.dtype.newbyteorder(order.decode() if isinstance(order, bytes) else order)


class Array:
    """In the place of numpy.ndarray: (N,) numbers, kept as their bytes."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, _, self.content = state
        (count,) = shape
        if not (isinstance(kind, PlainType) and isinstance(self.content, bytes) and isinstance(count, int)):
            raise pickle.UnpicklingError("it has an array that is no list of numbers")
        self.dtype = kind.dtype
        if len(self.content) != count * self.dtype.itemsize:
            raise pickle.UnpicklingError(f"it has an array of {count} numbers in {len(self.content)} bytes")

    def values(self) -> np.ndarray:
        return np.frombuffer(self.content, self.dtype)


class Unpickler(pickle.Unpickler):
    """Loads a pickle of byte strings, numbers, plain arrays and lists of these, and raises UnpicklingError at others.

    Python 2's strings come as bytes.
    """

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.copies: dict[int, tuple] = {}

    def find_class(self, module: str, name: str):
        """What the file calls by this name; not the function of that name, of which some run or allocate anything."""
        there = {
            "_codecs.encode": self.encode,  # Python 3's bytes before protocol 3
            "builtins.bytes": self.encode,
            "builtins.bytearray": self.encode,
            "__builtin__.bytes": self.encode,
            "__builtin__.bytearray": self.encode,
            "numpy.dtype": PlainType,
            "numpy.ndarray": None,  # only handed on to _reconstruct
            "numpy.core.multiarray._reconstruct": self.reconstruct,
            "numpy.core.multiarray.scalar": self.scalar,
            "numpy.core.numeric._frombuffer": self.from_buffer,  # protocol 5
        }
        called = f"{module}.{name}"
        known = called.replace("numpy._core.", "numpy.core.")  # its name from numpy 2 on
        if known in there:
            return there[known]
        raise pickle.UnpicklingError(f"it asks for {called!r}")

    def encode(self, content: str | bytes | bytearray = b"", encoding: str | bytes = "latin1") -> bytes:
        """The bytes of a text, each of its characters being one, or of a bytearray; never a number of zeros.

        One text or bytearray is copied once: else a small file could ask for copies without end.
        """
        if isinstance(content, bytes):
            return content
        if not isinstance(content, str | bytearray) or encoding not in LATIN_1:
            raise pickle.UnpicklingError(f"it makes bytes of {type(content).__name__}")
        if id(content) not in self.copies:
            copy = content.encode("latin-1") if isinstance(content, str) else bytes(content)
            self.copies[id(content)] = content, copy  # with the content, or its id could become another's
        return self.copies[id(content)][1]

    def reconstruct(self, *_) -> Array:
        return Array()

    def from_buffer(self, content: bytes | bytearray, kind: PlainType, shape: tuple, order: str) -> Array:
        array = Array()
        array.__setstate__((1, shape, kind, False, self.encode(content)))
        return array

    def scalar(self, kind: PlainType, content: bytes) -> int | bool:
        array = Array()
        array.__setstate__((1, (1,), kind, False, content))
        return array.values().item()

    def image(self, item) -> bytes | None:
        """An image's bytes, whatever held them, or None if it is none."""
        if isinstance(item, Array):
            return item.content if item.dtype == np.uint8 else None
        return self.encode(item) if isinstance(item, bytes | bytearray) else None


def read_bin(file: str | Path) -> tuple[list[bytes], np.ndarray]:
    """The 2N encoded images of a verification set, pair by pair, and (N,) bool: whether a pair shows one person.

    Equal images may be one object. Raises FileNotFoundError if the file is missing and ValueError, naming it, if it is
    not such a set or asks for anything that none needs; nothing of that runs.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such verification set")
    content = file.read_bytes()
    try:
        check_instructions(content)
        unpickler = Unpickler(content)
        del content
        images, genuine = loaded = unpickler.load()
        if not all(isinstance(part, tuple | list | Array) for part in (loaded, images, genuine)):
            raise pickle.UnpicklingError("its pickle is no pair of lists")
        found = [unpickler.image(item) for item in images]
        genuine = genuine.values() if isinstance(genuine, Array) else genuine
    except Exception as error:  # whatever a damaged or hostile file makes it raise
        raise ValueError(f"{file}: not a verification set ({first_line(error)}). Replace the file.") from None
    for i, image in enumerate(found):
        if image is None:
            raise ValueError(f"{file}: image {i} of {len(found)} is no string of bytes. Replace the file.")
    if len(found) != 2 * len(genuine) or not found:
        raise ValueError(f"{file}: {len(found)} images, but {len(genuine)} pairs. Replace the file.")
    if not all(isinstance(value, int | np.integer | np.bool) and value in (0, 1) for value in genuine):
        raise ValueError(f"{file}: whether a pair shows one person should be true, false, 1 or 0. Replace the file.")
    return found, np.array(genuine, bool)


class BinImages(Dataset):
    """The distinct images of a verification set's pairs: item i is (uint8 RGB (3, 112, 112), i).

    `images` are their names, five digits: where in the file an image is first. `pairs` has these names, as
    facelib.data.Pairs; `first` and `second` are (N,) int: each pair's two items. The images are held as they are
    encoded. On reading raises ImageError, naming file and image, for one that is none or of another size.

    The file doesn't tell who is in a pair: all `labels` are those of one identity without a name. In
    facelib.verification.uncertainty each image therefore is an identity of its own.
    """

    identities = ("",)

    def __init__(self, file: str | Path, encoded: list[bytes], pairs: Pairs):
        self.file, self.pairs = Path(file), pairs
        self.images = sorted({*pairs.first, *pairs.second})
        self.encoded = [encoded[int(name)] for name in self.images]
        self.labels = torch.zeros(len(self.images), dtype=torch.int64)
        index = {name: i for i, name in enumerate(self.images)}
        self.first = np.array([index[name] for name in pairs.first])
        self.second = np.array([index[name] for name in pairs.second])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        name = f"{self.file}, image {self.images[i]}"
        image = decode_image(self.encoded[i], name, "Replace the file.")
        if image.shape[:2] != (SIZE, SIZE):
            raise ImageError(
                f"{name}: {image.shape[1]}x{image.shape[0]} pixels, it should be an aligned face of {SIZE}x{SIZE}"
            )
        return torch.from_numpy(image).permute(2, 0, 1), i


def bin_pairs(file: str | Path, folds: int = 0) -> BinImages:
    """The images and pairs of a verification set, of the first `folds` folds or, if it is 0, of all.

    The pairs are in FOLDS contiguous folds, as insightface (verification.py, LFold) has them by scikit-learn's KFold:
    of N pairs the first N % FOLDS folds have one more. Raises as read_bin and Pairs.first_folds, and ValueError if
    there are fewer pairs than folds.
    """
    encoded, genuine = read_bin(file)
    count = len(genuine)
    if count < FOLDS:
        raise ValueError(f"{file}: {count} pairs are too few for {FOLDS} folds")
    fold = np.repeat(np.arange(FOLDS), count // FOLDS + (np.arange(FOLDS) < count % FOLDS))
    names: dict[bytes, str] = {}
    listed = [names.setdefault(image, f"{i:05d}") for i, image in enumerate(encoded)]
    return BinImages(file, encoded, Pairs(listed[::2], listed[1::2], genuine, fold).first_folds(folds))
