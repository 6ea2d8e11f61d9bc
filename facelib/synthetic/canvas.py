"""What synthetic faces are drawn on, and with: a canvas that turns with the head, and shapes in face pixels.

Face pixels are the image's, from its centre, x to the right and y down.
"""

import math
from types import SimpleNamespace

import cv2
import numpy as np

SIZE = 250  # pixels, LFW's image side
OVER = 2  # faces are drawn at OVER times the size and averaged down
CIRCLE = np.array([(math.cos(k * math.pi / 14), math.sin(k * math.pi / 14)) for k in range(29)])


class Canvas:
    """An RGB image (OVER * SIZE, OVER * SIZE, 3) onto which shapes in face pixels are drawn as the pose shows them."""

    def __init__(self, shot: SimpleNamespace):
        self.shot = shot
        self.image = np.empty((OVER * SIZE, OVER * SIZE, 3), np.uint8)
        cos, sin = shot.scale * math.cos(shot.roll), shot.scale * math.sin(shot.roll)
        roll = np.array([[cos, sin], [-sin, cos]])  # for row vectors (x, y)
        self.flat = np.diag([math.cos(shot.yaw), math.cos(shot.pitch)]) @ roll
        self.deep = np.array([math.sin(shot.yaw), math.sin(shot.pitch)]) @ roll  # px moved for each px of depth
        self.origin = SIZE / 2 + shot.shift

    def place(self, points: np.ndarray, depth: float = 0) -> np.ndarray:
        """Face points (n, 2), `depth` px in front of the head's axis, -> image points (n, 2) in pixels."""
        return points @ self.flat + (self.origin + depth * self.deep)

    def draw(self, points: np.ndarray, colour: np.ndarray, depth: float = 0, alpha: float = 1, line: int = 0) -> None:
        """Fill the polygon (n, 2) in RGB `colour`, or draw it as an open line, `line` half-pixels thick."""
        corners = ((self.place(points, depth) + 0.5) * (OVER * 16) - 8).astype(np.int32)  # 4 fractional bits for OpenCV
        layer = patch = self.image
        if alpha < 1:  # draw on a copy of the shape's surroundings, then mix the two
            x, y, width, height = cv2.boundingRect(corners // 16)
            left, top = max(x - 4, 0), max(y - 4, 0)
            patch = self.image[top : max(y + height + 4, 0), left : max(x + width + 4, 0)]
            if not patch.size:
                return
            layer, corners = patch.copy(), corners - np.array([left, top], np.int32) * 16
        if line:
            cv2.polylines(layer, [corners], False, colour.tolist(), line, cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(layer, [corners], colour.tolist(), cv2.LINE_AA, 4)
        if alpha < 1:
            patch[:] = cv2.addWeighted(layer, alpha, patch, 1 - alpha, 0)


def oval(x: float, y: float, rx: float, ry: float, power: float = 2) -> np.ndarray:
    """The superellipse (n, 2) around (x, y): an ellipse at power 2, a rounded rectangle above."""
    unit = CIRCLE if power == 2 else np.sign(CIRCLE) * abs(CIRCLE) ** (2 / power)
    return unit * (rx, ry) + (x, y)


def smooth(points: np.ndarray) -> np.ndarray:
    """Round off a closed polygon by Chaikin's corner cutting: (n, 2) -> (8 * n, 2)."""
    for _ in range(3):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], 1).reshape(-1, 2)
    return points


def between(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The polygon (2 * n, 2) between two curves (n,) over the same x (n,)."""
    return np.array([np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])]).T
