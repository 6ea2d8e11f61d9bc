"""Many images of faces, whatever holds them, and the batches that are made of them. The one place to look for them.

    an identity folder   `<identity>/<image>.jpg`, as CASIA-WebFace unpacks: IdentityFolder
    RecordIO             a folder with insightface's train.rec: RecordIO
    a pack               a folder of memory-mapped arrays of aligned crops, made of any of them by pack(): Pack
    pairs                LFW's pairs.txt: read_pairs; insightface's verification sets, <name>.bin: read_bin

Each holds images as uint8 tensors (3, H, W), RGB, with labels contiguous from 0. Loader makes batches of them. A name
is imported when it is first used: facelib.data.layout serves before there is an environment.
"""

import importlib

PLACES = {
    "IdentityFolder": "data.folder",
    "InMemory": "data.in_memory",
    "Loader": "data.loader",
    "Pack": "data.packs",
    "PairImages": "data.pairs",
    "PairRecords": "data.pair_records",
    "Pairs": "data.pairs",
    "RecordIO": "data.recordio",
    "BinImages": "data.bin",
    "Share": "data.share",
    "augment": "data.augmentation",
    "bin_pairs": "data.bin",
    "centre_crop": "faces.align",
    "choose_images": "data.share",
    "fingerprint_of": "data.source",
    "identity_names": "data.folder",
    "is_aligned": "data.layout",
    "open_crops": "data.source",
    "open_faces": "data.source",
    "open_images": "data.source",
    "pack": "data.source",
    "random_crop": "faces.align",
    "random_flip": "data.augmentation",
    "read_bin": "data.bin",
    "read_pairs": "data.pairs",
}
__all__ = [*PLACES]


def __getattr__(name: str):
    if name not in PLACES:
        raise AttributeError(f"module 'facelib.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"facelib.{PLACES[name]}"), name)
