"""Makes assets/golden/preprocess/: small picture files of every kind, and what Pillow reads and resizes them to.

    pip install "pillow<13" numpy
    python tests/golden/preprocess.py

Written with Pillow 12.3.0 and numpy 2.4.6. From Pillow 13 on a resize that reduces the height much more than the width makes
its passes in the other order, which moves some pixels by one grey level; models were trained with rows first.

Every file is synthetic. Layout:

    files/NAME.EXT        a picture file
    decoded/NAME_EXT.png  ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    resized/N.png         picture N of resize.json, resized by Pillow
    resize.json           [{"source": name of a decoded picture, "size": [width, height], "step": n}, ...]; of the resized
                          picture every n-th row and column, from the first, is kept
    sizes.json            [[width, height, shorter, longer, resized width, resized height], ...]
    normalize.json        normalized value of every byte in the three channels, float32 arithmetic
"""

import io
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

OUT = pathlib.Path(__file__).resolve().parents[2] / "assets" / "golden" / "preprocess"
WIDTH, HEIGHT = 37, 29
rng = np.random.default_rng(7)


def scene(width=WIDTH, height=HEIGHT):
    """Smooth colours, hard edges and a noisy corner: something for chroma sub-sampling and filters to get wrong."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    r = 255 * u
    g = 127 + 127 * np.cos(7 * v + 3 * u)
    b = 255 * (1 - v) * (0.5 + 0.5 * u)
    a = np.stack([r, g, b], -1)
    a[(u - 0.3) ** 2 + (v - 0.4) ** 2 < 0.03] = [250, 20, 30]
    a[(abs(u - 0.7) < 0.1) & (abs(v - 0.6) < 0.2)] = [10, 10, 240]
    noisy = (u > 0.8) & (v > 0.75)
    a[noisy] = rng.integers(0, 256, (int(noisy.sum()), 3))
    return np.clip(a, 0, 255).astype(np.uint8)


RGB = scene()
GREY = RGB[..., 1].copy()
ALPHA = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH)).copy()
RGB16 = (RGB.astype(np.uint16) << 8) | rng.integers(0, 256, RGB.shape).astype(np.uint16)
image = Image.fromarray(RGB)
grey = Image.fromarray(GREY)
rgba = Image.fromarray(np.dstack([RGB, ALPHA]))
grey_alpha = Image.merge("LA", (grey, Image.fromarray(ALPHA)))
palette = image.quantize(32, dither=Image.Dither.NONE)


def encoded(picture, format, **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def png16(array):
    """A 16-bit PNG of 1 to 4 channels, which Pillow reads but does not write."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def orientation(n):
    exif = Image.Exif()
    exif[0x0112] = n
    return exif


def edit_adobe(jpeg, transform):
    """The JPEG with another colour transform in its Adobe segment, or, for None, without the segment."""
    at = jpeg.index(b"\xff\xee")
    end = at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
    assert jpeg[at + 4 : at + 9] == b"Adobe" and end == at + 16
    return jpeg[:at] + jpeg[end:] if transform is None else jpeg[: end - 1] + bytes([transform]) + jpeg[end:]


def files():
    cmyk = encoded(image.convert("CMYK"), "JPEG", quality=95)
    yield "rgb444.jpg", encoded(image, "JPEG", quality=95, subsampling="4:4:4")
    yield "rgb422.jpg", encoded(image, "JPEG", quality=90, subsampling="4:2:2")
    yield "rgb420.jpg", encoded(image, "JPEG", quality=90, subsampling="4:2:0")
    yield "progressive.jpg", encoded(image, "JPEG", quality=90, progressive=True)
    yield "restart.jpg", encoded(image, "JPEG", quality=90, restart_marker_blocks=2)
    yield "no_transform.jpg", encoded(image, "JPEG", quality=95, keep_rgb=True)
    yield "grey.jpg", encoded(grey, "JPEG", quality=95)
    yield "cmyk_adobe.jpg", cmyk
    yield "cmyk_plain.jpg", edit_adobe(cmyk, None)
    yield "ycck.jpg", edit_adobe(cmyk, 2)
    for n in range(1, 9):
        yield f"exif{n}.jpg", encoded(image, "JPEG", quality=95, subsampling="4:4:4", exif=orientation(n))
    yield "bilevel.png", encoded(grey.convert("1"), "PNG")
    yield "grey2.png", encoded(Image.fromarray(GREY >> 6).convert("P"), "PNG", bits=2)
    yield "grey.png", encoded(grey, "PNG")
    yield "grey_alpha.png", encoded(grey_alpha, "PNG")
    yield "palette.png", encoded(palette, "PNG")
    yield "palette_transparent.png", encoded(palette, "PNG", transparency=bytes(range(0, 256, 8)))
    yield "palette_key.png", encoded(palette, "PNG", transparency=3)
    yield "rgb.png", encoded(image, "PNG")
    yield "rgb_key.png", encoded(image, "PNG", transparency=(250, 20, 30))
    yield "rgba.png", encoded(rgba, "PNG")
    yield "exif6.png", encoded(image, "PNG", exif=orientation(6))
    yield "grey16.png", png16(RGB16[..., 1:2])
    yield "grey_alpha16.png", png16(RGB16[..., :2])
    yield "rgb16.png", png16(RGB16)
    yield "rgba16.png", png16(np.dstack([RGB16, RGB16[..., 0]]))
    yield "lossless.webp", encoded(image, "WEBP", lossless=True)
    yield "lossless_alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True)
    yield "lossy.webp", encoded(image, "WEBP", quality=90)
    yield "lossy_alpha.webp", encoded(rgba, "WEBP", quality=90, exact=True)
    yield "exif8.webp", encoded(image, "WEBP", lossless=True, exif=orientation(8))
    yield "rgb.bmp", encoded(image, "BMP")
    yield "rgba.bmp", encoded(rgba, "BMP")
    yield "palette.bmp", encoded(palette, "BMP")
    yield "grey.bmp", encoded(grey, "BMP")
    yield "bilevel.bmp", encoded(grey.convert("1"), "BMP")
    yield "palette.gif", encoded(palette, "GIF")
    yield "palette_key.gif", encoded(palette, "GIF", transparency=3)
    yield "interlaced.gif", encoded(palette, "GIF", interlace=1)
    yield "animated.gif", encoded(palette, "GIF", save_all=True, append_images=[palette.transpose(Image.Transpose.ROTATE_180)])
    yield "rgb.tif", encoded(image, "TIFF")
    yield "lzw.tif", encoded(image, "TIFF", compression="tiff_lzw")
    yield "deflate.tif", encoded(image, "TIFF", compression="tiff_adobe_deflate")
    yield "packbits.tif", encoded(image, "TIFF", compression="packbits")
    yield "bilevel.tif", encoded(grey.convert("1"), "TIFF")
    yield "grey.tif", encoded(grey, "TIFF")
    yield "grey16.tif", encoded(Image.fromarray(RGB16[..., 1].copy()), "TIFF")
    yield "rgba.tif", encoded(rgba, "TIFF")
    yield "cmyk.tif", encoded(image.convert("CMYK"), "TIFF")
    yield "orientation5.tif", encoded(image, "TIFF", tiffinfo={274: 5})


def decode(data):
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode == "I;16":
        # convert("RGB") would saturate at 255. Pillow takes the high byte of 16-bit colour; so is grey taken here.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def resize_cases():
    """Up, down, one axis only, not at all, 1-pixel sides, strips, and DETR's own size."""
    yield from (("scene", size, 1) for size in [(37, 29), (1, 1), (61, 48), (19, 15), (18, 29), (37, 11), (5, 97), (113, 3), (36, 30)])
    yield from (("rgb420_jpg", size, 1) for size in [(53, 41), (11, 7)])
    yield from (("exif6_jpg", size, 1) for size in [(61, 78)])
    yield from (("noise", size, 1) for size in [(100, 75), (57, 33), (31, 64), (7, 5), (100, 2)])
    yield from (("pixel", size, 1) for size in [(1, 1), (8, 5), (1, 9)])
    yield from (("strip", size, 1) for size in [(200, 1), (133, 2), (16, 16)])
    yield from (("noise", size, 17) for size in [(1066, 800)])
    yield from (("scene", size, 13) for size in [(1020, 800)])


def detr_size(width, height, shorter, longer):
    """DETR's rule: the shorter side first, less where the longer would exceed its limit, the other side cut."""
    low, high = float(min(width, height)), float(max(width, height))
    if high / low * shorter > longer:
        shorter = int(round(longer * low / high))
    if shorter == 0:
        shorter, other = 1, longer
    else:
        other = int(shorter * high / low)
    return (shorter, other) if width < height else (other, shorter)


def main():
    for folder in ("files", "decoded", "resized"):
        shutil.rmtree(OUT / folder, ignore_errors=True)
        (OUT / folder).mkdir(parents=True)
    sources = {
        "scene": image,
        "noise": Image.fromarray(rng.integers(0, 256, (75, 100, 3)).astype(np.uint8)),
        "pixel": Image.fromarray(np.array([[[200, 3, 77]]], np.uint8)),
        "strip": Image.fromarray(scene(400, 2)),
    }
    for name, data in files():
        (OUT / "files" / name).write_bytes(data)
        sources[name.replace(".", "_")] = decode(data)
    cases = [{"source": source, "size": size, "step": step} for source, size, step in resize_cases()]
    for name, picture in sources.items():
        picture.save(OUT / "decoded" / f"{name}.png", optimize=True)
    for n, case in enumerate(cases):
        resized = np.asarray(sources[case["source"]].resize(case["size"], Image.Resampling.BILINEAR))
        Image.fromarray(resized[:: case["step"], :: case["step"]].copy()).save(OUT / "resized" / f"{n}.png", optimize=True)
    (OUT / "resize.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    corner = [(1, 1), (1, 2), (2, 1), (20000, 10), (10, 20000), (20000, 1), (640, 480), (480, 640), (1333, 800), (800, 800), (500, 1000)]
    corner += [(int(w), int(h)) for w, h in np.exp(rng.uniform(0, 9.5, (300, 2)))] + [(int(w), int(h)) for w, h in rng.integers(200, 1000, (200, 2))]
    sizes = [[w, h, s, l, *detr_size(w, h, s, l)] for w, h in corner for s, l in [(800, 1333), (480, 1333), (97, 161)]]
    (OUT / "sizes.json").write_text("[\n" + ",\n".join(json.dumps(s) for s in sizes) + "\n]\n")
    levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    values = (levels - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    assert values.dtype == np.float32
    (OUT / "normalize.json").write_text("[\n" + ",\n".join(json.dumps([float(v) for v in row]) for row in values) + "\n]\n")


if __name__ == "__main__":
    main()
