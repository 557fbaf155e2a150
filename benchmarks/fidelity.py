"""Compare each augmentation with PIL and torchvision, and write the table and the picture of docs/fidelity.md.

python benchmarks/fidelity.py

Both backends run through the loader, on photographs. The references use the same random numbers. Differences are in
levels from 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from record import write_record
from torchvision.transforms import functional as F

from dali_pipelines import PRESETS, Backend, Preset, TwoViewLoader, ViewParams, array_source
from dali_pipelines.pil.transform import view_of
from dali_pipelines.views.draws import ViewDraws, draw_views

DOCS = Path(__file__).parents[1] / "docs"
SQUARE_PX = 224
TIMES = 8  # repetitions of each photograph, each with other random numbers
BACKENDS = {"dali": "DALI's graph", "native": "native backend"}

Pixels = NDArray[np.uint8]
Reference = Callable[[Image.Image, ViewDraws, int, ViewParams], Any]

# A view with every operation off, which is the whole image.
PLAIN = ViewParams(
    size_px=SQUARE_PX,
    crop_scale=(1, 1),
    crop_ratio=(1, 1),
    flip_p=0,
    jitter_p=0,
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
    gray_p=0,
    blur_p=0,
    mean=(0, 0, 0),
    std=(1, 1, 1),
)


class Row(NamedTuple):
    """One operation: its name, the name of its reference, the parameters of the view, and the reference."""

    name: str
    beside: str
    view: ViewParams
    reference: Reference


def changed(**changes: Any) -> ViewParams:
    return replace(PLAIN, **changes)


def whole(name: str) -> tuple[ViewParams, ...]:
    """Return a preset's views without normalization, so that levels can be compared."""
    return PRESETS[name].changed(size_px=96, mean=(0, 0, 0), std=(1, 1, 1)).views


def by_pil(image: Image.Image, draws: ViewDraws, row: int, view: ViewParams) -> Any:
    return (255 * view_of(image, view, draws, row)).round().permute(1, 2, 0)


def step(adjust: Callable[[Any, float], Any], name: str) -> Reference:
    return lambda image, draws, row, view: adjust(image, float(getattr(draws, name)[row]))


def exact_hue(image: Image.Image, draws: ViewDraws, row: int, view: ViewParams) -> Any:
    return F.adjust_hue(F.pil_to_tensor(image), float(draws.hue[row])).permute(1, 2, 0)


def exact_blur(image: Image.Image, draws: ViewDraws, row: int, view: ViewParams) -> Any:
    return F.gaussian_blur(image, [23, 23], float(draws.blur_sigma_px[row]))


HUE = {"jitter_p": 1, "hue": 0.1}
CROP = {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "size_px": 96}
ROWS = [
    Row("crop, bicubic", "PIL", changed(**CROP), by_pil),
    Row("crop, bilinear", "PIL", changed(**CROP, interpolation="bilinear"), by_pil),
    Row("flip", "PIL", changed(flip_p=1), by_pil),
    Row("vertical flip", "PIL", changed(flip_v_p=1), by_pil),
    Row("turn by 90, 180 or 270 degrees", "PIL", changed(rot90_p=1), by_pil),
    Row("brightness", "PIL", changed(jitter_p=1, brightness=0.4), step(F.adjust_brightness, "brightness")),
    Row("contrast", "PIL", changed(jitter_p=1, contrast=0.4), step(F.adjust_contrast, "contrast")),
    Row("saturation", "PIL", changed(jitter_p=1, saturation=0.2), step(F.adjust_saturation, "saturation")),
    Row("hue", "torchvision's tensors, exact HSV", changed(**HUE), exact_hue),
    Row("hue", "PIL, HSV of 8 bits", changed(**HUE), step(F.adjust_hue, "hue")),
    Row("hue in YIQ", "torchvision's tensors, exact HSV", changed(**HUE, hue_space="yiq"), exact_hue),
    Row("no hue at all", "torchvision's tensors, exact HSV", PLAIN, exact_hue),
    Row("gray", "PIL", changed(gray_p=1), by_pil),
    Row("blur", "torchvision, a true Gaussian", changed(blur_p=1), exact_blur),
    Row("blur", "PIL, repeated boxes", changed(blur_p=1), by_pil),
    Row("solarize", "PIL", changed(solarize_p=1), lambda image, *_: ImageOps.solarize(image)),
    Row("view a", "PIL", whole("barlow_twins")[0], by_pil),
    Row("view b", "PIL", whole("barlow_twins")[1], by_pil),
]


def main() -> None:
    squares = photographs()
    results, pictures, lines = [], [], []
    for row in ROWS:
        # "no hue at all" uses the random numbers of the other rows of the hue.
        drawn_for = replace(row.view, hue=0.1) if row.reference is exact_hue else row.view
        (draws,) = draw_views((drawn_for,), TIMES * len(squares), 0, 0, 0)
        order = np.random.default_rng((0, 0)).permutation(TIMES * len(squares))
        images = [squares[index % len(squares)] for index in order]
        theirs = [np.asarray(row.reference(image, draws, at, row.view)) for at, image in enumerate(images)]
        ours = {backend: views(squares, row.view, backend) for backend in BACKENDS}
        measured = {backend: difference(ours[backend], theirs) for backend in BACKENDS}
        results.append({"operation": row.name, "compared_with": row.beside, **measured})
        cells = (f"{measured[backend]['mean']:.3f}, {measured[backend]['largest']}" for backend in BACKENDS)
        lines.append(f"| {row.name} | {row.beside} | {' | '.join(cells)} |")
        print(lines[-1])
        at = next(at for at, image in enumerate(images) if image is squares[len(lines) % len(squares)])
        pictures.append((row, [np.asarray(images[at]), theirs[at], *(ours[backend][at] for backend in BACKENDS)]))
    draw(pictures, DOCS / "fidelity.png")
    write_table(lines)
    print(write_record("fidelity", {"photographs": len(squares), "times": TIMES, "results": results}))


def photographs() -> list[Image.Image]:
    from skimage import data
    from sklearn.datasets import load_sample_image

    arrays = [data.astronaut(), data.coffee(), data.chelsea(), load_sample_image("china.jpg")]
    arrays.append(load_sample_image("flower.jpg"))
    return [ImageOps.fit(Image.fromarray(array), (SQUARE_PX, SQUARE_PX)) for array in arrays]


def views(squares: list[Image.Image], view: ViewParams, backend: str) -> list[Pixels]:
    source = array_source(np.stack([np.asarray(square) for square in squares] * TIMES))
    loader = TwoViewLoader(source, len(source), Preset((view,)), backend=Backend(backend, device="cpu"))  # type: ignore[arg-type]
    batch = next(iter(loader))
    return list((255 * batch.views[0]).round().permute(0, 2, 3, 1).to(torch.uint8).numpy())


def difference(ours: list[Pixels], theirs: list[Pixels]) -> dict[str, float]:
    levels = [np.abs(a.astype(int) - b.astype(int)) for a, b in zip(ours, theirs)]
    return {"mean": float(np.mean([each.mean() for each in levels])), "largest": int(max(x.max() for x in levels))}


def draw(pictures: list[tuple[Row, list[Pixels]]], path: Path) -> None:
    """Draw a row for each operation: the photograph, the reference, both backends, and 8 times their differences."""
    side, left, gap = 112, 165, 6
    heads = ["photograph", "reference", *BACKENDS.values(), *(f"8 x difference: {name}" for name in BACKENDS.values())]
    size = (left + len(heads) * (side + gap), 24 + len(pictures) * (side + gap))
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(11)
    for column, head in enumerate(heads):
        pen.multiline_text((left + column * (side + gap), 0), head.replace(": ", ":\n"), "black", font, spacing=1)
    for line, (row, (photo, reference, *ours)) in enumerate(pictures):
        top = 26 + line * (side + gap)
        pen.multiline_text((4, top + 40), f"{row.name}\nand {row.beside}".replace(", ", ",\n"), "black", font)
        differences = [np.clip(8 * np.abs(each.astype(int) - reference), 0, 255) for each in ours]
        for column, pixels in enumerate([photo, reference, *ours, *differences]):
            cell = Image.fromarray(pixels.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
            page.paste(cell, (left + column * (side + gap), top))
    page.save(path, optimize=True)


def write_table(lines: list[str]) -> None:
    """Write the table into docs/fidelity.md, between its marks."""
    path = DOCS / "fidelity.md"
    before, _, rest = path.read_text().partition("<!-- table -->\n")
    _, _, after = rest.partition("<!-- end -->\n")
    head = [f"| operation | compared with | {' | '.join(BACKENDS.values())} |", "|---|---|---|---|"]
    path.write_text(before + "\n".join(["<!-- table -->", *head, *lines, "<!-- end -->"]) + "\n" + after)


if __name__ == "__main__":
    main()
