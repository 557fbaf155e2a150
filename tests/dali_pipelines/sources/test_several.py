"""Several sources as one: which images, names, labels and groups it has, and what it tells each source."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines import array_source, file_list, image_folder, open_source, several_sources, tar_shards
from dali_pipelines.orders import Order
from dali_pipelines.plans import announced
from dali_pipelines.shards import Shards
from dali_pipelines.sources import ImageSource, Relabeled, SeveralSources, Subset, Upcoming, each_once
from tests.conftest import write_image
from tests.dali_pipelines.float_images import FloatImages, scenes
from tests.tar_files import write_shard


def pixels(n: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 5, channels), dtype=np.uint8)


def encoded(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def tree(root: Path, *names: str) -> ImageSource:
    for number, name in enumerate(names):
        write_image(root / name, pixels(1, seed=number)[0])
    return image_folder(root)


class Stored(ImageSource):
    """Images that are stored in groups, and that note what is announced to them."""

    kind = "pixels"

    def __init__(self, n: int, group: int | None = None, *, reads_ahead: int = 0) -> None:
        super().__init__([f"{index}" for index in range(n)], None, ())
        self.groups = None if group is None else np.arange(0, n, group, dtype=np.int64)
        self.reads_ahead = reads_ahead
        self.told: list[Upcoming] = []

    def read(self, index: int) -> NDArray[np.uint8]:
        return pixels(1, seed=index)[0]

    def place(self, index: int) -> str:
        return f"stored image {index}"

    def announce(self, upcoming: Upcoming) -> None:
        self.told.append(upcoming)


def test_the_images_are_those_of_each_source_in_their_order(tmp_path: Path) -> None:
    folder, again = tree(tmp_path / "a", "x/1.png", "y/2.png"), tree(tmp_path / "b", "x/1.png", "y/0.png")
    both = several_sources([folder, again])
    assert len(both) == both.epoch_length == 4
    assert list(both.names) == ["0/x/1.png", "0/y/2.png", "1/x/1.png", "1/y/0.png"]
    assert both.names[-1] == "1/y/0.png"
    assert both.names[1:3] == ["0/y/2.png", "1/x/1.png"]
    assert both.names.index("1/x/1.png") == 2
    assert both.kind == "files"
    assert both.parts == ((2, 1.0), (2, 1.0))
    for index, (source, own) in enumerate([(folder, 0), (folder, 1), (again, 0), (again, 1)]):
        assert both.place(index) == source.place(own)
        np.testing.assert_array_equal(both.read(index), source.read(own))


def test_a_list_of_paths_opens_as_several_sources(tmp_path: Path) -> None:
    tree(tmp_path / "a", "x/1.png")
    shard = write_shard(tmp_path / "b.tar", {"1.png": encoded(pixels(1)[0]), "1.cls": b"x"})
    both = open_source([tmp_path / "a", str(shard)])
    assert (both.kind, both.classes, both.labels.tolist()) == ("encoded", ("x",), [0, 0])
    assert both.fingerprint == several_sources([image_folder(tmp_path / "a"), tar_shards(shard)]).fingerprint
    with pytest.raises(ValueError, match="gone: does not exist"):
        open_source([tmp_path / "a", tmp_path / "gone"])


def test_one_source_is_that_source(tmp_path: Path) -> None:
    source = array_source(pixels(3))
    assert several_sources([source]) is source
    assert several_sources([source], [1]) is source
    twice = several_sources([source], [2.0])
    assert (len(twice), twice.epoch_length, list(twice.names)) == (3, 6, ["0", "1", "2"])


def test_weights_of_sources_of_sources_multiply() -> None:
    inner = several_sources([array_source(pixels(4)), array_source(pixels(2))], [0.5, 2])
    outer = several_sources([inner, array_source(pixels(3))], [2, 1])
    assert outer.parts == ((4, 1.0), (2, 4.0), (3, 1.0))
    assert (len(outer), outer.epoch_length) == (9, 4 + 8 + 3)
    assert outer.names[5] == "0/1/1"
    assert Relabeled(several_sources([array_source(pixels(2), [0, 1])] * 2, [1, 2]), ("1", "0")).epoch_length == 6


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "a", "cat/1.png", "dog/2.png"), tree(tmp_path / "b", "ant/1.png", "cat/0.png")
    both = several_sources([first, second])
    assert both.classes == ("ant", "cat", "dog")
    assert [both.classes[label] for label in both.labels] == ["cat", "dog", "ant", "cat"]
    own = [array_source(pixels(2), [1, 0], ["plane", "car"]) for _ in range(2)]
    assert several_sources(own).classes == ("plane", "car"), "equal classes keep their numbers"


def test_without_labels_of_all_sources_there_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labeled, bare = tree(tmp_path / "a", "x/1.png"), array_source(pixels(2))
    with caplog.at_level(logging.WARNING):
        mixed = several_sources([labeled, bare, bare])
        assert not several_sources([bare, bare]).has_labels
    assert not mixed.has_labels
    assert mixed.labels.tolist() == [-1] * 5
    (message,) = caplog.messages
    assert message.startswith("the labels of 1 of 3 sources are not used, because source 1 (its first image is image 0")
    assert "and source 2" in message


def test_pixels_next_to_encoded_images_are_handed_over_without_loss(tmp_path: Path) -> None:
    images = pixels(3)
    gray = pixels(1, channels=1)
    mixed = several_sources([tree(tmp_path / "a", "x/1.png"), array_source(images), array_source(gray)])
    assert (mixed.kind, mixed.channels) == ("encoded", 3)
    for index in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mixed.read(1 + index)))), images[index])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mixed.read(4)))), np.repeat(gray[0], 3, axis=2))
    alone = several_sources([array_source(pixels(1, channels=5)), array_source(pixels(1, channels=5, seed=1))])
    assert (alone.kind, alone.channels) == ("pixels", 5)
    np.testing.assert_array_equal(alone.read(1), pixels(1, channels=5, seed=1)[0])


def test_the_fingerprint_is_that_of_images_and_order_and_of_nothing_else(tmp_path: Path) -> None:
    a, b = tree(tmp_path / "a", "x/1.png"), tree(tmp_path / "b", "x/2.png")
    (tmp_path / "moved").mkdir()
    (tmp_path / "a").rename(tmp_path / "moved" / "c")
    moved = image_folder(tmp_path / "moved" / "c")
    known = several_sources([a, b]).fingerprint
    assert several_sources([moved, b], [1, 3]).fingerprint == known
    renumbered = tree(tmp_path / "d", "w/0.png")
    others = ([b, a], [a, a], [a, b, b], [a, several_sources([b, b])], [a, renumbered])
    assert len({known, *(several_sources(each).fingerprint for each in others)}) == 6
    pair = several_sources([a, b])
    assert Subset(pair, np.array([1])).fingerprint != Subset(several_sources([b, a]), np.array([0])).fingerprint
    first, second = (array_source(pixels(2, seed=seed), [0, 1], ["x", "y"]) for seed in range(2))
    other = array_source(second.images, [0, 1], ["y", "z"])
    assert second.fingerprint == other.fingerprint
    assert several_sources([first, second]).fingerprint != several_sources([first, other]).fingerprint
    relabeled = [Relabeled(several_sources(each), ("y", "x")) for each in ([first, second], [second, first])]
    assert relabeled[0].fingerprint != relabeled[1].fingerprint


def test_groups_follow_each_other_and_single_images_are_groups_of_one() -> None:
    sources = [Stored(5, 2), Stored(3), Stored(4, 3)]
    groups = several_sources(sources).groups
    assert groups is not None
    assert groups.tolist() == [0, 2, 4, 5, 6, 7, 8, 11]
    assert several_sources([Stored(2), Stored(2)]).groups is None


def test_a_window_keeps_as_much_of_each_source_as_its_share() -> None:
    first, second, third = Stored(10, group=2), Stored(30, group=3), Stored(60)
    first.kept_images, second.kept_images = 4, 6
    assert several_sources([first, second, third]).kept_images == 100 * 6 // 30
    assert several_sources([third, third]).kept_images is None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(2, 12), st.sampled_from([0.5, 1.0, 2.5]), st.integers(0, 1)), min_size=2, max_size=4
    ),
    st.integers(1, 2),
    st.integers(0, 9),
)
def test_each_source_is_told_all_that_is_read_of_it_before(
    sizes: list[tuple[int, float, int]], world_size: int, begin: int
) -> None:
    """For each rank and any first step: own images in their order, and uses that increase from batch to batch."""
    sources = [Stored(size, reads_ahead=4 * ahead) for size, _, ahead in sizes]
    both = several_sources(sources, [weight for _, weight, _ in sizes])
    assert isinstance(both, SeveralSources)
    assert both.reads_ahead == 4 * max(ahead for _, _, ahead in sizes)
    order = Order(both.parts)
    assume(len(order) >= 2 * world_size)
    shards = Shards(order, 2, world_size - 1, world_size)

    def upcoming(step: int) -> Upcoming:
        uses = shards.uses(step % shards.steps_per_epoch)
        epoch = step // shards.steps_per_epoch
        return Upcoming(
            shards.indices(epoch, step % shards.steps_per_epoch),
            order.epoch(epoch)[uses],
            epoch * len(order) + uses.start,
            order.next_use(epoch)[uses],
        )

    steps = range(begin, begin + 6)
    read: list[list[int]] = [[] for _ in sources]
    for step in announced(both, steps, upcoming, images_per_step=2):
        for index in upcoming(step).mine.tolist():
            number = int(np.searchsorted(np.cumsum([size for size, _, _ in sizes]), index, side="right"))
            read[number].append(index - sum(size for size, _, _ in sizes[:number]))
            if sources[number].reads_ahead:
                known = np.concatenate([each.mine for each in sources[number].told]).tolist()
                assert known[: len(read[number])] == read[number], "told before it is read, in its order"
    for source, mine in zip(sources, read):
        if not source.reads_ahead:
            assert source.told == []
            continue
        assert [index for each in source.told for index in each.mine.tolist()] == mine
        firsts = [each.first_use for each in source.told if len(each.everyone)]
        assert firsts == sorted(set(firsts)), "uses go forward"
        assert all(len(each.next_use) == len(each.everyone) for each in source.told)
        assert all((each.next_use > each.first_use).all() for each in source.told)


def test_the_first_use_is_that_of_the_sources_own_image() -> None:
    first, second = Stored(4, reads_ahead=1), Stored(4, reads_ahead=1)
    both = several_sources([first, second])
    everyone, later = np.array([1, 3, 6, 0]), np.array([20, 21, 22, 23])
    both.announce(Upcoming(np.array([6, 0]), everyone, 12, later))
    (told,) = second.told
    assert (told.mine.tolist(), told.everyone.tolist(), told.first_use, told.next_use.tolist()) == ([2], [2], 14, [22])
    (told,) = first.told
    assert (told.mine.tolist(), told.everyone.tolist(), told.first_use) == ([0], [1, 3, 0], 12)
    assert told.next_use.tolist() == [20, 21, 23]
    # A bad image of the first source, which the next one of the second source replaces on this rank.
    both.announce(Upcoming(np.array([4]), np.array([3]), 16, np.array([24])))
    assert [each.mine.tolist() for each in second.told] == [[2], [0]]
    assert [each.everyone.tolist() for each in first.told] == [[1, 3, 0], [3]]


def test_without_its_weights_a_source_is_the_same_images_once() -> None:
    weighted = several_sources([Stored(3, 2, reads_ahead=2), Stored(2)], [2, 0.5])
    plain = each_once(weighted)
    assert (plain.epoch_length, len(plain), weighted.epoch_length) == (5, 5, 7)
    assert list(plain.names) == list(weighted.names)
    assert (plain.fingerprint, plain.reads_ahead, plain.kind) == (weighted.fingerprint, 2, "pixels")
    assert (plain.groups, plain.place(4)) == (weighted.groups, "stored image 1")
    np.testing.assert_array_equal(plain.read(4), weighted.read(4))
    unweighted = several_sources([Stored(3), Stored(2)])
    assert each_once(unweighted) is unweighted


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ([1], r"weights: 1 weights are not allowed for 2 sources; give one weight for each"),
        ([1, 0], r"weights: 0 is not allowed; a weight must be above 0 and at most 1000"),
        ([1, float("nan")], r"weights: nan is not allowed"),
        ([1001, 1], r"weights: 1001 is not allowed"),
        ([1, 0.01], r"weights: 0\.01 is not allowed for source 1 \(its first image is .*\.png\).*none of its 2"),
    ],
)
def test_wrong_weights_are_named(tmp_path: Path, weights: list[float], named: str) -> None:
    sources = [array_source(pixels(3)), tree(tmp_path, "x/1.png", "x/2.png")]
    with pytest.raises(ValueError, match=named):
        several_sources(sources, weights)


def test_the_least_weight_that_is_proposed_is_allowed(tmp_path: Path) -> None:
    for size in (1, 3, 7, 11):
        with pytest.raises(ValueError, match="none of its") as error:
            several_sources([Stored(size), Stored(1)], [0.4 / size, 1])
        proposed = float(str(error.value).rpartition(" ")[2])
        assert several_sources([Stored(size), Stored(1)], [proposed, 1]).epoch_length == 2


def test_other_channels_and_types_of_pixels_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a/x/1.png\n")
    tree(tmp_path / "a", "x/1.png")
    with pytest.raises(ValueError, match=r"source 0 .*1\.png\) have 3 channels, and those of source 1 .* have 5"):
        several_sources([file_list(tmp_path / "list.txt"), array_source(pixels(2, channels=5))])
    deep = FloatImages(scenes(2, channels=3))
    with pytest.raises(
        ValueError, match=r"pixels of source 0 .* are uint8, and those of source 1 .* are float32; read"
    ):
        several_sources([file_list(tmp_path / "list.txt"), deep])
    with pytest.raises(ValueError, match="sources: an empty list is not allowed"):
        several_sources([])
