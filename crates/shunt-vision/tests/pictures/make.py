"""usage: python make.py

Writes the files of this folder with Pillow 13.0.0, beside this script: the forms of picture files that our own tests
cannot write in Rust. Each shows the same four quarters, 32x24 pixels: red, green over blue, yellow.
"""

from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 180, 40), (30, 40, 210), (240, 220, 30)


def quarters():
    picture = Image.new("RGB", (32, 24), RED)
    picture.paste(GREEN, (16, 0, 32, 12))
    picture.paste(BLUE, (0, 12, 16, 24))
    picture.paste(YELLOW, (16, 12, 32, 24))
    return picture


def turned():
    """Lies on its side; its EXIF data say: turn it clockwise by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return quarters().transpose(Image.Transpose.ROTATE_90), exif


plain = quarters()
plain.convert("CMYK").save(HERE / "cmyk.jpg", quality=92)
plain.save(HERE / "progressive.jpg", quality=92, progressive=True, subsampling="4:2:0")
plain.save(HERE / "ycbcr-420.jpg", quality=92, subsampling="4:2:0")
plain.save(HERE / "rgb.jpg", quality=92, keep_rgb=True)

palette = plain.quantize(4)
palette.save(HERE / "palette.png", transparency=0)
palette.save(HERE / "transparent.gif", transparency=0)
palette.save(
    HERE / "animated.gif", save_all=True, append_images=[plain.transpose(Image.Transpose.ROTATE_180).quantize(4)]
)
palette.save(HERE / "palette.bmp")

lying, exif = turned()
lying.save(HERE / "turned.png", exif=exif)
lying.save(HERE / "turned.webp", quality=95, method=0, exif=exif)
alpha = lying.convert("RGBA")
alpha.putalpha(128)
alpha.save(HERE / "turned-alpha.webp", quality=95, method=0, exif=exif)
lying.save(HERE / "turned.jpg", quality=92, exif=exif)
