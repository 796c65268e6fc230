"""Pictures as the catalog wants them for a model; a part of the other scripts, no command.

The cut, the colours, the layout and the scale are those of shunt-vision and shunt-infer.  Pillow's bilinear filter
averages where a picture gets smaller, as fast_image_resize's does, but rounds between its two passes: a value of a
pixel may differ by one.  Grey is BT.601 in both, Pillow cuts where shunt-vision rounds: by one again.
"""
import hashlib
import pathlib
import random
import tomllib

import numpy as np
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).resolve().parent.parent
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# The words of the catalog for scale and offset.
NORMALISE = {"raw": (1.0, 0.0), "unit": (1 / 255, 0.0), "symmetric": (2 / 255, -1.0),
             "imagenet": (1 / 255 / DEVIATION, -MEAN / DEVIATION)}
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"}


def catalog(file=FOLDER / "catalog.toml"):
    return tomllib.loads(pathlib.Path(file).read_text())


def find(entry, folders):
    """The file of a catalog's entry with the right digest, in one of the folders; None if there is none."""
    for folder in folders:
        file = pathlib.Path(folder) / entry["file"]
        if file.is_file() and entry.get("sha256", digest(file)) == digest(file):
            return file
    return None


def digest(file):
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()


def measures(given):
    """Height, width and channels of an input."""
    _, a, b, c = given["shape"]
    return (a, b, c) if given["layout"] == "nhwc" else (b, c, a)


def open_picture(file):
    """A picture in RGB or grey, the right way up."""
    picture = ImageOps.exif_transpose(Image.open(file))
    return picture.convert("L" if picture.mode in ("1", "L", "I", "I;16") else "RGB")


def prepare(picture, given):
    """A picture as a tensor of one, by the catalog's `input` of a model."""
    height, width, channels = measures(given)
    if given["fit"] == "letterbox":
        side = max(picture.size)
        square = Image.new(picture.mode, (side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    picture = picture.convert("L" if given["colour"] == "grey" else "RGB")
    return tensor(np.asarray(picture, np.uint8).reshape(height, width, channels), given)


def tensor(values, given):
    """Bytes of height, width, channels as a tensor of one, scaled and laid out."""
    if given.get("type", "f32") == "f32":
        scale, offset = NORMALISE[given["normalise"]] if "normalise" in given else (given.get("scale", 1.0), given.get("offset", 0.0))
        # In float32, one after the other, as shunt-infer does.
        values = values.astype(np.float32) * np.array(scale, np.float32) + np.array(offset, np.float32)
    if given["layout"] == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None])


def parts(picture, count, seed):
    """The picture and count - 1 parts of it, every other mirrored; the same for the same seed."""
    yield picture
    dice = random.Random(seed)
    for index in range(count - 1):
        share, side = dice.uniform(0.3, 1.0), dice.uniform(0.75, 1.33) ** 0.5
        width, height = (max(1, min(size, int(size * share * by)))
                         for size, by in ((picture.width, side), (picture.height, 1 / side)))
        left, top = dice.randint(0, picture.width - width), dice.randint(0, picture.height - height)
        part = picture.crop((left, top, left + width, top + height))
        yield ImageOps.mirror(part) if index % 2 else part


def folder_of_pictures(folder):
    files = sorted(file for file in pathlib.Path(folder).iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise SystemExit(f"there is no picture in {folder} (looked for {', '.join(sorted(ENDINGS))})")
    return files
