"""The picture of a run's first images: what it shows is what the run is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bt_plugin.cli import main
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.tools.preview import preview, told
from dali_pipelines import Backend, TwoViewLoader
from dali_pipelines.views.draws import draw_views

PLAIN = ["views.both.mean=[0,0,0]", "views.both.std=[1,1,1]", "views.both.size_px=192", "optim.global_batch_size=6"]


def cells(picture: Image.Image, line: int, columns: int) -> list[np.ndarray]:  # type: ignore[type-arg]
    """The pictures of a line, 192 px wide and high where they are square."""
    array = np.asarray(picture)
    top = 22 + line * (192 + 104)
    return [array[top : top + 192, 4 + 200 * column : 196 + 200 * column] for column in range(columns)]


def test_the_views_are_those_of_the_first_step(small_recipe: Path) -> None:
    recipe = load_recipe(small_recipe, PLAIN)
    picture = preview(recipe, images=3)
    assert picture.size == (5 * 200, 22 + 3 * (192 + 104))
    loader = TwoViewLoader(
        recipe.data.train, 6, recipe.preset, backend=Backend("native", device="cpu"), seed=recipe.run.seed
    )
    views, _, _ = next(iter(loader))
    for line in range(3):
        _, a, a_by_pil, b, b_by_pil = cells(picture, line, 5)
        for shown, by_pil, view in ((a, a_by_pil, views[0]), (b, b_by_pil, views[1])):
            expected = (255 * view[line]).round().clamp(0, 255).permute(1, 2, 0).numpy()
            assert np.abs(shown - expected).max() <= 1
            assert np.abs(by_pil.astype(int) - shown).mean() < 2, "PIL's is nearly the same"
    other = preview(load_recipe(small_recipe, [*PLAIN, "run.seed=1"]), images=3)
    assert np.any(np.asarray(other) != np.asarray(picture))


def test_so_many_images_that_they_divide_the_batch(small_recipe: Path) -> None:
    assert preview(load_recipe(small_recipe, PLAIN), images=5).height == 22 + 3 * (192 + 104)


def test_what_was_drawn_is_told(small_recipe: Path) -> None:
    view = load_recipe(small_recipe, ["views.a.solarize_p=1", "views.a.flip_p=0", "views.a.jitter_p=1"]).preset.views[0]
    (draws,) = draw_views((view,), 4, 0)
    text = told(draws, 2)
    assert "not flipped" in text
    assert f"hue {draws.hue[2]:.2f}" in text
    assert "solarized" in text
    assert ("gray" in text) == bool(draws.gray[2])
    assert "turned" not in text
    turning = ["views.preset=barlow_twins_overhead", "views.a.flip_p=1", "views.a.flip_v_p=1", "views.a.rot90_p=1"]
    (draws,) = draw_views(load_recipe(small_recipe, turning).preset.views[:1], 4, 0)
    for row, turns in enumerate(draws.quarter_turns):
        assert told(draws, row).startswith(f"flipped, upside down\nturned by {90 * int(turns)} degrees\n")
    order = [("brightness", "contrast", "saturation", "hue")[step] for step in draws.color_order[2]]
    assert [text.index(step) for step in order] == sorted(text.index(step) for step in order)


@pytest.mark.parametrize(("channels", "columns"), [(5, 3), (1, 5)])
def test_other_channels_have_a_picture_too(small_recipe: Path, tmp_path: Path, channels: int, columns: int) -> None:
    options = [f"model.in_chans={channels}"]
    if channels == 5:
        np.savez(tmp_path / "bands.npz", images=np.full((16, 40, 40, 5), 200, np.uint8), labels=np.arange(16) % 2)
        options += [f"data.train={tmp_path}/bands.npz", "data.val=null"]
        options += [f"views.both.mean={[0.5] * 5}", f"views.both.std={[0.2] * 5}"]
    picture = preview(load_recipe(small_recipe, options), images=2)
    assert picture.width == columns * 200
    if channels == 5:
        assert torch.tensor(cells(picture, 0, 3)[0]).float().median() == 200
    else:
        _, view, by_pil, *_ = (each.astype(int) for each in cells(picture, 0, 5))
        assert np.abs(view - by_pil).mean() < 3
        assert np.ptp(view, axis=2).max() == 0, "gray"


def test_nothing_is_written_over(small_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "views.png"
    assert main(["preview", str(small_recipe), "-o", str(output), "--images", "2"]) == 0
    assert Image.open(output).width == 1000
    before = output.read_bytes()
    assert main(["preview", str(small_recipe), "-o", str(output)]) == 2
    assert "already exists. Name another file" in capsys.readouterr().err
    assert output.read_bytes() == before
    for options, said in ((["--images", "0"], "1 to 1000"), (["-o", str(tmp_path / "views.jpg")], "must end in .png")):
        assert main(["preview", str(small_recipe), *options]) == 2
        assert said in capsys.readouterr().err
