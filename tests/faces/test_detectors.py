"""Face detectors: what they find, and which of several faces is the main one."""

import numpy as np
import pytest

from facelib.faces.align import align
from facelib.faces.detectors import IN_BOX, Mtcnn, create_detector, main_face
from facelib.synthetic.draw import draw_face


def test_the_main_face_is_large_and_central():
    """insightface's rule: area of the box less twice the squared distance of its centre from the image's."""
    boxes = np.array([[25, 70, 85, 130], [85, 85, 115, 115], [40, 70, 100, 130], [100, 100, 101, 101]])
    # in an image of 200x200: 3600 - 2 * 45^2 = -450; 900 - 0; 3600 - 2 * 30^2 = 1800; 1 - 2 * 0.5 = 0
    for candidates, best in [([0, 1, 2, 3], 2), ([0, 1, 3], 1), ([3, 0], 3), ([0], 0)]:
        assert candidates[main_face(boxes[candidates], 200, 200)] == best


def test_the_main_face_is_measured_from_the_centre_of_images_that_are_not_square():
    boxes = np.array([[280, 30, 320, 70], [30, 280, 70, 320]])
    assert main_face(boxes, 600, 100) == 0
    assert main_face(boxes, 100, 600) == 1


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    return Mtcnn()


def test_mtcnn_finds_the_landmarks_of_faces_and_none_where_there_is_no_face(mtcnn):
    faces = [draw_face(identity, 1) for identity in range(3)]
    found = mtcnn([*(image for image, _ in faces), np.full((250, 250, 3), 90, np.uint8)])
    assert found[3] is None and len(found) == 4
    for (_, drawn), (box, landmarks, score) in zip(faces, found):
        assert landmarks.shape == (5, 2) and landmarks.dtype == np.float32 and 0.7 < score <= 1
        assert (box[:2] < drawn.min(0)).all() and (box[2:] > drawn.max(0)).all()
        assert np.abs(landmarks - drawn).max() < 8  # pixels, of 42 between the eyes


def test_mtcnn_takes_rgb(mtcnn):
    """Faces in swapped colours are found with less certainty."""
    faces = [draw_face(identity, 1)[0] for identity in range(3)]
    swapped = [face[:, :, ::-1] for face in faces]
    right, wrong = (np.mean([0 if f is None else f.score for f in mtcnn(images)]) for images in (faces, swapped))
    assert right > wrong


@pytest.mark.parametrize("height, width", [(1, 1), (20, 20), (39, 250)])
def test_images_too_small_for_a_face_have_none(mtcnn, height, width):
    assert mtcnn([np.full((height, width, 3), 90, np.uint8)] * 2) == [None, None]


def test_viola_jones_finds_a_square_box_around_the_face_and_puts_the_landmarks_in_it():
    faces = [draw_face(identity, 1) for identity in range(6)]
    found = create_detector("viola-jones")([*(image for image, _ in faces), np.full((250, 250, 3), 90, np.uint8)])
    assert found[-1] is None
    seen = [(face, drawn) for face, (_, drawn) in zip(found, faces) if face is not None]
    assert len(seen) >= 3
    for (box, landmarks, score), drawn in seen:
        side = box[2] - box[0]
        assert box[3] - box[1] == side and score == 1
        assert landmarks == pytest.approx(box[:2] + side * IN_BOX, abs=1e-3)
        assert (box[:2] < drawn.min(0)).all() and (box[2:] > drawn.max(0)).all()


@pytest.mark.parametrize("height, width", [(112, 112), (250, 250), (113, 300)])
def test_without_a_detector_the_crop_is_the_middle_of_the_image_as_it_is(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (face,) = create_detector("none")([image])
    top, left = (height - 112) // 2, (width - 112) // 2
    assert np.array_equal(align(image, face.landmarks), image[top : top + 112, left : left + 112])


def test_without_a_detector_a_small_image_is_enlarged_to_the_crop():
    image = np.zeros((56, 56, 3), np.uint8)
    image[:, 28:] = 200
    (face,) = create_detector("none")([image])
    crop = align(image, face.landmarks)
    assert (crop[:, 2:54] == 0).all() and (crop[2:110, 58:110] == 200).all()


def test_an_unknown_detector_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="detector must be one of mtcnn, viola-jones, none, found 'dlib'"):
        create_detector("dlib")
