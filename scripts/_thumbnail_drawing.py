"""How the thumbnails of the workflows are drawn: a card with a title, a line below it, and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from _templates import Template
from PIL import Image, ImageDraw, ImageFont, ImageOps

SIZE = 512  # pixels of a side; the template browser shows about 256
SHARP = 3  # drawn so many times larger, and then made smaller
MARGIN = 28
TITLE_SIZE, SUBTITLE_SIZE = 58, 33  # points; a longer title becomes smaller
TITLE_Y, SUBTITLE_Y = 92, 147  # the middle of the lines; newer frontends lay a badge over the first 55 pixels
TOP, BOTTOM = 182, 500  # where the picture begins and ends
AREA = (SIZE - 2 * MARGIN, BOTTOM - TOP)  # width and height of the picture
GAP = 14
BACKGROUND, INK, FAINT, FRAME = "#15171c", "#f4f6fa", "#b4bccb", "#3a404d"
ACCENTS = {"chords": "#4c8dff", "sdo": "#b06bf0", "model": "#21b3a6"}
# Sky above, sky below, far hills, near hills, sun: one set a model, so that the cards differ.
SCENES = (
    ("#1d3b6e", "#f0a35e", "#5b4a7d", "#2b2748", "#ffd98a"),
    ("#16445c", "#8fd3c8", "#3c7d84", "#1f4a57", "#fff3b8"),
    ("#4a1f4f", "#f4797a", "#8a3a62", "#451d3e", "#ffd1a3"),
    ("#12324f", "#7fb8e8", "#4a6f8f", "#243f58", "#ffffff"),
    ("#264d2f", "#d8e58a", "#5f8f4e", "#2f5436", "#fff7c9"),
)
Box = tuple[float, float, float, float]


def card(template: Template, picture: Image.Image) -> Image.Image:
    """A thumbnail: title, subtitle, and a picture of at most `AREA` in the middle of what is left."""
    image = Image.new("RGB", (SIZE, SIZE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    kind = "model" if template.shows else template.api.partition("_")[0]
    draw.rectangle((0, 0, SIZE, 10), fill=ACCENTS[kind])
    draw.text((MARGIN, TITLE_Y), template.title, INK, _font(draw, template.title, TITLE_SIZE, bold=True), anchor="lm")
    draw.text(
        (MARGIN, SUBTITLE_Y), template.subtitle, FAINT, _font(draw, template.subtitle, SUBTITLE_SIZE), anchor="lm"
    )
    image.paste(picture, ((SIZE - picture.width) // 2, TOP + (AREA[1] - picture.height) // 2))
    return image


def _font(draw: ImageDraw.ImageDraw, text: str, size: int, bold: bool = False) -> Any:
    """The font in the largest size, up to this one, in which a text has room. Matplotlib brings it."""
    from matplotlib import font_manager

    wanted = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    path = font_manager.findfont(wanted)
    while draw.textlength(text, ImageFont.truetype(path, size)) > AREA[0]:
        size -= 1
    return ImageFont.truetype(path, size)


# ------------------------------------------------------------------------------------------------ pictures


def arranged(first: Sequence[Image.Image], sign: str, second: Sequence[Image.Image]) -> Image.Image:
    """Pictures with a sign between the first and the second ones: "to" or "equal". Without a sign: one, or two by two.

    Two on each side of a sign are one above the other.
    """
    if not sign:
        rows = (len(first) + 1) // 2
        side = (AREA[1] - GAP * (rows - 1)) // rows
        framed = [_framed(picture, side) for picture in first]
        return _above([_beside(framed[2 * row : 2 * row + 2], GAP) for row in range(rows)])
    wide = 60
    side = min((AREA[0] - wide) // 2, (AREA[1] - GAP * (len(first) - 1)) // len(first))
    columns = [_above([_framed(picture, side) for picture in pictures]) for pictures in (first, second)]
    return _beside([columns[0], _sign(sign, wide), columns[1]], 0)


def _framed(picture: Image.Image, side: int) -> Image.Image:
    framed = ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)
    ImageDraw.Draw(framed).rectangle((0, 0, side - 1, side - 1), outline=FRAME, width=2)
    return framed


def _beside(images: Sequence[Image.Image], gap: int) -> Image.Image:
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    height = max(image.height for image in images)
    row, x = Image.new("RGB", (width, height), BACKGROUND), 0
    for image in images:
        row.paste(image, (x, (height - image.height) // 2))
        x += image.width + gap
    return row


def _above(images: Sequence[Image.Image]) -> Image.Image:
    width, height = (
        max(image.width for image in images),
        sum(image.height for image in images) + GAP * (len(images) - 1),
    )
    column, y = Image.new("RGB", (width, height), BACKGROUND), 0
    for image in images:
        column.paste(image, (0, y))
        y += image.height + GAP
    return column


def _sign(sign: str, side: int) -> Image.Image:
    """An arrow to the right, or an equals sign."""
    image = Image.new("RGB", (side * SHARP, side * SHARP), BACKGROUND)
    draw, unit = ImageDraw.Draw(image), side * SHARP / 60
    if sign == "equal":
        for y in (20, 36):
            draw.rounded_rectangle((14 * unit, y * unit, 46 * unit, (y + 7) * unit), 3 * unit, fill=INK)
    else:
        _arrow(draw, (10 * unit, 30 * unit), 40 * unit, unit)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], length: float, unit: float) -> None:
    """An arrow to the right. ``unit``: pixels in a sixtieth of its box."""
    x, y = start
    end, head = x + length, 16 * unit
    draw.line((x, y, end - head / 2, y), fill=INK, width=round(6 * unit))
    draw.polygon([(end - head, y - head * 0.7), (end, y), (end - head, y + head * 0.7)], fill=INK)


# ------------------------------------------------------------------------------------------------ symbols


def symbol(shows: str, number: int) -> Image.Image:
    """A symbol for what a workflow makes: "image", "edit", "video", "image to video" or "video with sound"."""
    image = Image.new("RGB", (AREA[0] * SHARP, AREA[1] * SHARP), BACKGROUND)
    draw = ImageDraw.Draw(image)
    scene = SCENES[number % len(SCENES)]
    width, height = image.size
    middle = height / 2
    if shows == "image":
        _scene(image, (0.11 * width, 0.02 * height, 0.89 * width, 0.98 * height), scene, 0.68)
    elif shows == "edit":
        other = SCENES[(number + 2) % len(SCENES)]
        _scene(image, (0, 0.06 * height, 0.34 * width, 0.48 * height), scene, 0.68)
        _scene(image, (0, 0.52 * height, 0.34 * width, 0.94 * height), other, 0.3)
        _arrow(draw, (0.37 * width, middle), 0.11 * width, SHARP)
        _scene(image, (0.51 * width, 0.14 * height, width, 0.86 * height), (*other[:2], *scene[2:]), 0.68)
    elif shows == "image to video":
        _scene(image, (0, 0.28 * height, 0.31 * width, 0.72 * height), scene, 0.2)
        _arrow(draw, (0.34 * width, middle), 0.11 * width, SHARP)
        _film(image, (0.48 * width, 0.2 * height, width, 0.8 * height), scene, frames=2)
    elif shows == "video with sound":
        _film(image, (0, 0, width, 0.64 * height), scene, frames=3)
        _waves(draw, (0.02 * width, 0.7 * height, 0.98 * width, height), ACCENTS["model"])
    else:
        _film(image, (0, 0.14 * height, width, 0.86 * height), scene, frames=3)
    return image.resize(AREA, Image.Resampling.LANCZOS)


def _film(image: Image.Image, box: Box, scene: Sequence[str], frames: int) -> None:
    """A strip of film: the sun moves from frame to frame."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = box
    draw.rounded_rectangle(box, 8 * SHARP, fill="#2a2e37")
    edge = 0.15 * (bottom - top)
    count = 5 * frames
    hole = (right - left) / count
    for i in range(count):
        for y in (top + edge * 0.25, bottom - edge * 0.75):
            x = left + (i + 0.25) * hole
            draw.rounded_rectangle((x, y, x + hole / 2, y + edge / 2), 2 * SHARP, fill=BACKGROUND)
    gap = 5 * SHARP
    wide = (right - left - gap * (frames + 1)) / frames
    for i in range(frames):
        x = left + gap + i * (wide + gap)
        sun = 0.25 + 0.5 * i / (frames - 1)
        _scene(image, (x, top + edge, x + wide, bottom - edge), scene, sun)


def _scene(image: Image.Image, box: Box, scene: Sequence[str], sun: float) -> None:
    """A landscape in a frame. ``sun``: where the sun stands, from the left (0) to the right (1)."""
    left, top, right, bottom = map(round, box)
    width, height = right - left, bottom - top
    sky = Image.linear_gradient("L").resize((width, height))
    picture = ImageOps.colorize(sky, scene[0], scene[1])
    draw = ImageDraw.Draw(picture)
    radius = 0.11 * min(width, height)
    x, y = sun * width, (0.42 - 0.16 * math.sin(math.pi * sun)) * height
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=scene[4])
    for colour, base, high, waves, start in ((scene[2], 0.62, 0.13, 1.6, 0.4), (scene[3], 0.78, 0.09, 1.1, 2.6)):
        line = [(i, (base - high * math.sin(start + 2 * math.pi * waves * i / width)) * height) for i in range(width)]
        draw.polygon([*line, (width, height), (0, height)], fill=colour)
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), 5 * SHARP, fill=255)
    image.paste(picture, (left, top), mask)


def _waves(draw: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    """A wave of sound as bars."""
    left, top, right, bottom = box
    count, middle = 37, (top + bottom) / 2
    step = (right - left) / count
    for i in range(count):
        share = abs(math.sin(i * 0.55) * math.sin(i * 0.21 + 0.6)) * 0.9 + 0.08
        half, x = share * (bottom - top) / 2, left + (i + 0.5) * step
        draw.rounded_rectangle((x - 0.28 * step, middle - half, x + 0.28 * step, middle + half), SHARP, fill=colour)
