"""Face detectors by name: where is the main face of an image, and where are its five landmarks?

    mtcnn         five landmarks (Zhang et al. 2016), with the weights that ship inside facenet-pytorch
    viola-jones   a box alone (Viola and Jones 2001, OpenCV's cascade); landmarks where faces have them in it
    none          detects nothing: the middle 112x112 pixels are the crop, of a smaller image all of it, enlarged

Each is called with images (H, W, 3) uint8 RGB of one size and returns for each a Face, or None where it finds none.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch

# Where ArcFace puts the five landmarks in a 112x112 crop (insightface, face_align.py).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
CROP_SIZE = 112
SMALLEST = 40  # pixels, of the side of a face's box
# MTCNN's landmarks within Viola-Jones' box, in sides of the box: the median of 550 faces of CelebA, which scatter by
# 0.04 to 0.08; left and right averaged.
IN_BOX = np.array([[0.314, 0.388], [0.686, 0.388], [0.5, 0.622], [0.33, 0.777], [0.67, 0.777]])


class Face(NamedTuple):
    box: np.ndarray  # (4,) float32: left, top, right, bottom in pixels
    landmarks: np.ndarray  # (5, 2) float32: x, y in pixels of both eyes, nose tip and corners of the mouth
    score: float  # in (0, 1]: how sure the detector is; 1 where it doesn't say


def main_face(boxes: np.ndarray, width: int, height: int) -> int:
    """Which of several boxes (N, 4) is the large and central one: area minus twice the squared distance of its centre
    from the image's (insightface's rule); of equals the first.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    off_centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - np.array([width, height]) / 2
    return int(np.argmax(area - 2 * (off_centre**2).sum(1)))


class Mtcnn:
    def __init__(self, device: str = "cpu"):
        from facenet_pytorch import MTCNN  # here, because the package is slow to import and often not needed

        self.mtcnn = MTCNN(keep_all=True, min_face_size=SMALLEST, post_process=False, device=device)

    def __call__(self, images: list[np.ndarray]) -> list[Face | None]:
        height, width = images[0].shape[:2]
        if min(height, width) < SMALLEST:
            return [None] * len(images)  # MTCNN fails on them
        with torch.inference_mode():
            found = zip(*self.mtcnn.detect(np.stack(images), landmarks=True))
        return [
            None if boxes is None else self.main(boxes, scores, points, width, height)
            for boxes, scores, points in found
        ]

    @staticmethod
    def main(boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, width: int, height: int) -> Face:
        k = main_face(boxes, width, height)
        return Face(np.asarray(boxes[k], np.float32), np.asarray(points[k], np.float32), float(scores[k]))


class ViolaJones:
    def __init__(self, device: str = "cpu"):
        self.cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def __call__(self, images: list[np.ndarray]) -> list[Face | None]:
        return [self.one(image) for image in images]

    def one(self, image: np.ndarray) -> Face | None:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = self.cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(SMALLEST, SMALLEST))
        if len(found) == 0:
            return None
        boxes = np.asarray(found, np.float32)  # left, top, width, height
        boxes[:, 2:] += boxes[:, :2]
        box = boxes[main_face(boxes, image.shape[1], image.shape[0])]
        return Face(box, (box[:2] + (box[2] - box[0]) * IN_BOX).astype(np.float32), 1.0)


class Centre:
    def __init__(self, device: str = "cpu"):
        pass

    def __call__(self, images: list[np.ndarray]) -> list[Face | None]:
        height, width = images[0].shape[:2]
        side = min(CROP_SIZE, height, width)
        corner = np.array([(width - side) // 2, (height - side) // 2], np.float32)
        # Pixel centres to pixel centres: a crop of 112 pixels is taken as it is.
        landmarks = corner + (TEMPLATE + np.float32(0.5)) * np.float32(side / CROP_SIZE) - np.float32(0.5)
        return [Face(np.concatenate([corner, corner + side]), landmarks, 1.0)] * len(images)


Detector = Mtcnn | ViolaJones | Centre
DETECTORS = {"mtcnn": Mtcnn, "viola-jones": ViolaJones, "none": Centre}


def create_detector(name: str, device: str = "cpu") -> Detector:
    """The detector of that name. Raises ValueError for another one."""
    if name not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, found {name!r}")
    return DETECTORS[name](device)
