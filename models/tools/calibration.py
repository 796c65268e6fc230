"""Pictures for calibration that may be used for it: those that scikit-image ships; a part of quantize.py, no command.

They are taken from the wheel of PyPI scikit-image==0.26.0, which is unpacked and never run.
"""
import io
import pathlib
import zipfile

import numpy as np
from PIL import Image

import pictures

# The wheel of which platform does not matter: the pictures are the same in all.
PACKAGE = "scikit-image==0.26.0"
SCENES = ["astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
          "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png", "moon.png", "motorcycle_left.png",
          "page.png", "retina.jpg", "rocket.jpg", "text.png"]
# The first hundred of its two hundred cut-outs are faces.
FACES, FACE_COUNT = "lfw_subset.npy", 100
PARTS_OF_SCENE = 6


def of_wheel(wheel, task):
    """Pictures for a task: scenes and parts of them, or faces from edge to edge."""
    with zipfile.ZipFile(wheel) as package:
        read = lambda name: io.BytesIO(package.read(f"skimage/data/{name}"))
        if task == "expression":
            faces = np.load(read(FACES))[:FACE_COUNT]
            return [mirrored for face in (faces * 255).round().astype(np.uint8)
                    for mirrored in (Image.fromarray(face), Image.fromarray(face[:, ::-1].copy()))]
        return [part for name in SCENES for part in scene(read(name), name)]


def of_folder(folder, task):
    """Every picture of a folder; of a scene parts too."""
    files = pictures.folder_of_pictures(folder)
    if task == "expression":
        return [pictures.open_picture(file) for file in files]
    return [part for file in files for part in scene(file, file.name)]


def scene(file, name):
    return pictures.parts(pictures.open_picture(file), PARTS_OF_SCENE, name)


def wheel(folder):
    found = sorted(pathlib.Path(folder).glob("scikit_image-*.whl"))
    if not found:
        raise SystemExit(f"no wheel of {PACKAGE} in {folder}")
    return found[0]
