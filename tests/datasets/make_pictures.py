#!/usr/bin/env python3
"""Makes the pictures of the tests, and what Pillow reads in them and resizes them to.

  make_pictures.py FOLDER        needs Pillow 11.3.0

Beside each picture NAME stands NAME.rgb, its pixels as Pillow has them in RGB (transparent ones over white), packed by
gzip. resized-HxW.rgb is the box of `BOX` of drawn.png in that size.
"""

import gzip
import math
import pathlib
import struct
import sys
import zlib

import PIL
from PIL import Image

BOX = (5, 3, 92, 60)  # left, top, right, bottom
SIZES = [(57, 87), (30, 40), (57, 40), (30, 87), (100, 131), (7, 5), (1, 1), (90, 20)]


def drawn(width=97, height=67):
    """A picture of smooth shades, an edge and a fine pattern."""
    picture = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            wave = 127.5 + 127.5 * math.sin(0.11 * x + 0.07 * y * y / height)
            edge = 220 if (x - 60) ** 2 + (y - 30) ** 2 < 300 else 40
            fine = 255 if (x // 2 + y // 3) % 2 else 0
            picture.putpixel((x, y), (int(wave), edge, fine if x < 30 else int(255 * y / height)))
    return picture


def with_alpha(picture, mode):
    """The picture, ever more transparent from left to right."""
    alpha = Image.new("L", picture.size)
    alpha.putdata([255 - 255 * (i % picture.width) // (picture.width - 1) for i in range(picture.width * picture.height)])
    with_it = picture.convert(mode)
    with_it.putalpha(alpha)
    return with_it


def seen(picture):
    """Its RGB pixels, over white."""
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA"):
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if picture.mode.startswith("I"):
        picture = picture.point(lambda value: value / 256).convert("L")
    return picture.convert("RGB")


def pack(picture, path):
    path.write_bytes(gzip.compress(picture.tobytes(), 9, mtime=0))


def write_bomb(path, height=10, width=10, inflated=8 << 20):
    """A PNG whose pixels inflate to far more than its header has room for."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(inflated), 9),
              b"IEND": b""}
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks.items()))


def main():
    if PIL.__version__ != "11.3.0":
        sys.exit(f"make_pictures.py: Pillow is {PIL.__version__}, 11.3.0 is what the tests compare with")
    folder = pathlib.Path(sys.argv[1])
    picture = drawn()
    small = picture.resize((37, 23), Image.BILINEAR)
    grey = small.convert("L")
    palette = small.quantize(16)
    files = {
        "drawn.png": (picture, {}),
        "grey.png": (grey, {}),
        "bit.png": (grey.convert("1"), {}),
        "sixteen.png": (Image.frombytes("I;16", grey.size, b"".join(bytes([255 - p, p]) for p in grey.tobytes())), {}),
        "rgba.png": (with_alpha(small, "RGB"), {}),
        "la.png": (with_alpha(small, "L"), {}),
        "palette.png": (palette, {}),
        "transparent_palette.png": (palette, {"transparency": 3}),
        "444.jpg": (small, {"quality": 90, "subsampling": 0}),
        "420.jpg": (picture, {"quality": 90, "subsampling": 2}),
        "422.jpg": (picture.crop((0, 0, 96, 66)), {"quality": 90, "subsampling": 1}),
        "progressive.jpg": (picture, {"quality": 80, "progressive": True}),
        "restarts.jpg": (small, {"quality": 90, "restart_marker_rows": 1}),
        "grey.jpg": (grey, {"quality": 90}),
        "dot.png": (Image.new("RGB", (1, 1), (1, 2, 3)), {}),
        "line.png": (Image.new("RGB", (600, 2), (9, 8, 7)), {}),
    }
    for name, (content, how) in files.items():
        content.save(folder / name, optimize=True, **how) if name.endswith("png") else content.save(folder / name, **how)
        pack(seen(Image.open(folder / name)), folder / (name + ".rgb"))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        small.save(folder / f"turned-{orientation}.jpg", quality=90, exif=exif)
    small.convert("CMYK").save(folder / "cmyk.jpg")
    frames = [small, small.transpose(Image.FLIP_LEFT_RIGHT)]
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    write_bomb(folder / "bomb.png")
    for height, width in SIZES:
        pack(picture.crop(BOX).resize((width, height), Image.BILINEAR, reducing_gap=None), folder / f"resized-{height}x{width}.rgb")


if __name__ == "__main__":
    main()
