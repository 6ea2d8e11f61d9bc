"""The noun of a verification: a test set, which is pairs of faces and the crops of their images, whatever holds them.

    an LFW folder        pairs.txt and a folder of images: every crop that a protocol may ask for
    <name>.bin           insightface's verification sets: aligned crops and their own pairs, without names
    a folder of records  facelib.data.pair_records: aligned crops, names and pairs.txt

Another one is a reader in facelib.data, a class here and its line in OPENERS.
"""

from functools import cached_property
from pathlib import Path

from facelib.data import BinImages, PairImages, PairRecords, Pairs, bin_pairs, read_pairs
from facelib.data.landmarks import find_landmarks, fingerprint
from facelib.data.layout import RECORDS, VERIFICATION_SET, lfw_images, list_images
from facelib.data.pairs import images_of_pairs
from facelib.verification.protocol import Protocol


class TestSet:
    """What a protocol takes of an LFW folder. Opening it reads the pairs and looks for their images: it takes a moment.

    `source` is what was opened, `images` the folder or file with the images; `pairs` are the protocol's. `crops`, items
    (uint8 RGB (3, 112, 112), label), are the pairs' distinct images: `crops.first` and `crops.second` (P,) int are each
    pair's two items, `crops.images` their names. Aligned ones of a folder need landmarks, which are found when `crops`
    is first asked for: minutes.
    """

    __test__ = False  # pytest takes classes of this name for tests
    has_names = True  # an image's name tells who is in it

    def __init__(self, source: str | Path, protocol: Protocol, seed: int, cache: str | Path, device: str):
        self.source, self.protocol, self.seed, self.cache, self.device = Path(source), protocol, seed, cache, device
        self.images, self.pairs = self.find()
        if self.pairs.genuine.all() or not self.pairs.genuine.any():
            kind = "genuine" if self.pairs.genuine.all() else "impostor"
            raise ValueError(
                f"{source}: all {len(self.pairs)} pairs are {kind}, both kinds are needed. Replace the file."
            )

    @staticmethod
    def allows(protocol: Protocol) -> bool:
        """Whether a set of this kind can hold what the protocol asks for."""
        return True

    def __len__(self) -> int:
        """Pairs."""
        return len(self.pairs)

    def find(self) -> tuple[Path, Pairs]:
        """The images' folder and the pairs. Raises ValueError or FileNotFoundError, naming what is missing."""
        images = lfw_images(self.source)
        pairs = read_pairs(self.source / self.protocol.pairs).first_folds(self.protocol.folds)
        images_of_pairs(images, pairs, list_images(images))
        return images, pairs

    @cached_property
    def crops(self) -> PairImages | BinImages | PairRecords:
        aligned = self.protocol.crop == "aligned"
        landmarks = find_landmarks(self.images, self.cache, self.device) if aligned else None
        return PairImages(self.images, self.pairs, landmarks, self.protocol.crop, self.seed)

    @property
    def fingerprint(self) -> str:
        """Of the names and sizes of the pairs' images."""
        return fingerprint(self.images, self.crops.images)


class StoredCrops(TestSet):
    """A test set that holds aligned crops and its own pairs. Raises ValueError if the protocol asks for others."""

    @staticmethod
    def allows(protocol: Protocol) -> bool:
        return (protocol.crop, protocol.pairs) == ("aligned", Protocol.pairs)

    def find(self) -> tuple[Path, Pairs]:
        protocol = self.protocol
        if protocol.crop != "aligned":
            raise ValueError(
                f"crop must be aligned for {self.source}, whose images are stored as crops, found {protocol.crop!r}"
            )
        if protocol.pairs != Protocol.pairs:
            raise ValueError(
                f"pairs must stay {Protocol.pairs} for {self.source}, which has its own, found {protocol.pairs!r}"
            )
        return self.source, self.crops.pairs


class VerificationFile(StoredCrops):
    """One of insightface's. A pair's names are numbers."""

    has_names = False

    @cached_property
    def crops(self) -> BinImages:
        return bin_pairs(self.source, self.protocol.folds)


class Records(StoredCrops):
    """facelib.data.pair_records."""

    @cached_property
    def crops(self) -> PairRecords:
        return PairRecords(self.source, self.protocol.folds)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.source, [RECORDS])


# What lies at the path -> the class that opens it; the first that fits.
OPENERS = {
    lambda source: source.suffix == VERIFICATION_SET: VerificationFile,
    lambda source: (source / RECORDS).is_file(): Records,
    lambda source: True: TestSet,
}


def open_test(
    source: str | Path,
    protocol: Protocol = Protocol(),
    seed: int = 0,
    cache: str | Path = "build/landmarks",
    device: str = "cpu",
) -> TestSet:
    """The test set at a path, by what lies there. `seed` draws the random crops, `cache` keeps landmarks.

    Raises ValueError or FileNotFoundError, naming what is wrong or missing, before an image is opened.

    >>> test = facelib.open_test("data/lfw")
    >>> len(test), int(test.pairs.genuine.sum())  # 3 folds of 2 genuine and 2 impostor pairs
    (12, 6)
    """
    return next(opened for lies_there, opened in OPENERS.items() if lies_there(Path(source)))(
        source, protocol, seed, cache, device
    )
