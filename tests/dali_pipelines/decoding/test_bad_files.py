"""Files that cannot be read end no training, and an evaluation by name."""

from __future__ import annotations

import io
import re
import resource
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from dali_pipelines import BadImageError, EvalLoader, EvalParams, ImageSource, TwoViewLoader, image_folder
from dali_pipelines.sources import Subset
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen, loader

pytestmark = pytest.mark.usefixtures("each_backend")


@pytest.fixture
def spoil(small_data: Path, tmp_path: Path) -> Callable[..., ImageSource]:
    """Twelve good images, and bad ones that come after them."""

    def make(*kinds: str) -> ImageSource:
        good = sorted((small_data / "train" / "coffee").iterdir())
        folder = tmp_path / "images" / "coffee"
        folder.mkdir(parents=True)
        for file in good:
            (folder / file.name).write_bytes(file.read_bytes())
        whole = good[0].read_bytes()
        gif = io.BytesIO()
        Image.open(good[0]).save(gif, "GIF")
        contents = {
            "truncated": whole[:600],
            "shortened": whole[:-40],
            "text": b"not an image",
            "GIF": gif.getvalue(),
            "empty": b"",
            "vanished": whole,
        }
        for number, kind in enumerate(kinds):
            (folder / f"bad{number}.jpg").write_bytes(contents[kind])
        source = image_folder(tmp_path / "images")
        for number, kind in enumerate(kinds):
            if kind == "vanished":
                (folder / f"bad{number}.jpg").unlink()
        return source

    return make


@pytest.mark.parametrize("kind", ["truncated", "shortened", "text", "GIF", "empty", "vanished"])
def test_a_bad_file_is_replaced_and_logged_once(
    spoil: Callable[..., ImageSource], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = spoil(kind)
    ours = TwoViewLoader(
        source,
        13,
        SMALL,
        backend=chosen(num_threads=2),
    )
    for _ in range(2):
        (batch,) = ours
        next_good = source.names[0]
        assert sorted(batch.filenames) == [next_good, *source.names[:-1]]
        one, other = (row for row, name in enumerate(batch.filenames) if name == next_good)
        assert not torch.equal(batch.views[0][one], batch.views[0][other]), "in views of its own"
    (message,) = caplog.messages
    assert "bad0.jpg" in message
    assert "bad file 1 of at most 100" in message


def test_a_file_that_is_cut_short_is_bad_whatever_another_package_asks_of_pil(
    spoil: Callable[..., ImageSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LightlyTrain, once imported, has PIL fill up such files for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    source = spoil("shortened")
    (batch,) = TwoViewLoader(
        source,
        13,
        SMALL,
        backend=chosen(num_threads=2),
    )
    assert source.names[12] not in batch.filenames
    assert ImageFile.LOAD_TRUNCATED_IMAGES, "which is left as it was"


def test_too_many_pixels_are_not_decoded(
    spoil: Callable[..., ImageSource], small_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """30000 x 30000 would take 2.7 GB, and minutes."""
    source = spoil("empty")
    # The first batch on a GPU takes memory for CUDA.
    next(iter(loader(small_data)))
    large = Path(source.place(12))
    # As a .png in disguise, which loaders tell by content.
    Image.new("1", (30_000, 30_000)).save(large, "PNG")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (batch,) = TwoViewLoader(
        source,
        13,
        SMALL,
        backend=chosen(num_threads=1),
    )
    assert sorted(batch.filenames) == [source.names[0], *source.names[:-1]]
    assert "more pixels than max_pixels, 178956970: Image size (900000000 pixels)" in caplog.text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 500 * 1024


def test_max_pixels_is_the_users(spoil: Callable[..., ImageSource]) -> None:
    """The images have 96 x 96."""
    source = spoil()
    for ours in (
        TwoViewLoader(
            source,
            12,
            SMALL,
            backend=chosen(max_pixels=96 * 96 - 1),
            max_bad_files=0,
        ),
        EvalLoader(
            source,
            4,
            EvalParams(32, 36),
            backend=chosen(max_pixels=96 * 96 - 1),
        ),
    ):
        with pytest.raises(BadImageError, match="96 x 96 pixels are more than max_pixels, 9215"):
            list(ours)
    (batch,) = TwoViewLoader(
        source,
        12,
        SMALL,
        backend=chosen(max_pixels=96 * 96),
    )
    assert len(set(batch.filenames)) == 12


def test_more_bad_files_than_are_allowed_end_the_stream(spoil: Callable[..., ImageSource]) -> None:
    source = spoil("text", "empty", "truncated")
    ours = TwoViewLoader(source, 5, SMALL, max_bad_files=2, backend=chosen())
    with pytest.raises(BadImageError, match="Now 3 of 15 files are bad, and max_bad_files is 2") as error:
        list(ours)
    assert "remove or replace it" in str(error.value)
    assert re.search(r"bad[012]\.jpg", str(error.value))


def test_no_good_file_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("not an image")
    with pytest.raises(BadImageError, match="Now 3 of 3 files are bad"):
        list(TwoViewLoader(tmp_path, 3, SMALL, backend=chosen()))


def test_a_resumed_stream_has_the_same_replacements(spoil: Callable[..., ImageSource]) -> None:
    """The result does not depend on which of two bad neighbors is found first."""
    source = spoil("text", "empty")
    whole = list(TwoViewLoader(source, 2, SMALL, backend=chosen()))
    for stop in (1, 3, 5):
        first = TwoViewLoader(source, 2, SMALL, micro_batches=2, backend=chosen())
        for _ in islice(first, 2 * stop):
            pass
        second = TwoViewLoader(source, 2, SMALL, backend=chosen())
        second.load_state_dict(first.state_dict())
        assert_same(list(second), whole[stop:])
        assert first.state_dict()["step"] == stop


def test_micro_batches_of_a_step_survive_a_bad_file(spoil: Callable[..., ImageSource]) -> None:
    source = spoil("text")
    (whole,) = TwoViewLoader(source, 12, SMALL, backend=chosen())
    pieces = list(TwoViewLoader(source, 12, SMALL, micro_batches=4, backend=chosen()))
    assert [name for piece in pieces for name in piece.filenames] == whole.filenames
    assert torch.equal(torch.cat([piece.views[1] for piece in pieces]), whole.views[1])


def test_an_evaluation_names_a_bad_file(spoil: Callable[..., ImageSource]) -> None:
    with pytest.raises(BadImageError, match=r"bad0\.jpg"):
        list(EvalLoader(spoil("text"), 4, EvalParams(32, 36), backend=chosen()))


def test_an_evaluation_that_may_replaces_them(spoil: Callable[..., ImageSource]) -> None:
    """The evaluation of a run uses the same replacements as its training."""
    source = spoil("text", "empty")
    batches = list(EvalLoader(source, 5, EvalParams(32, 36), max_bad_files=2, backend=chosen()))
    names = [name for batch in batches for name in batch.filenames]
    assert names == [*source.names[:12], source.names[0], source.names[0]]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images[12], images[0])
    whole = torch.cat(
        [batch.images for batch in EvalLoader(Subset(source, np.arange(12)), 5, EvalParams(32, 36), backend=chosen())]
    )
    assert torch.equal(images[:12], whole)
    with pytest.raises(BadImageError, match="max_bad_files is 1"):
        list(EvalLoader(source, 5, EvalParams(32, 36), max_bad_files=1, backend=chosen()))
