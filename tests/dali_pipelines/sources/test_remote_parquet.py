"""Parquet files behind URLs: their batches are those of the same files in a folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines import TwoViewLoader, image_folder, open_source, parquet_files
from dali_pipelines.decoding.read_pixels import read_pixels
from dali_pipelines.errors import BadImageError, StorageError
from dali_pipelines.loaders import Batch
from dali_pipelines.orders import Order
from dali_pipelines.plans import announced
from dali_pipelines.sources import FileSource, ImageSource, ParquetSource, Upcoming, remote_parquet
from dali_pipelines.storage import object_file, transfers
from dali_pipelines.storage.options import Storage
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.dataset_hub import NAME, TOKEN, served
from tests.parquet_files import write_parquet, write_set
from tests.web import Nginx, nginx, proxy

FILES = "train-{00000..00001}-of-00002.parquet"
NOTHING = Storage(cache_gib=0)


@pytest.fixture(scope="module")
def images(small_data: Path) -> FileSource:
    return image_folder(small_data / "train")


@pytest.fixture(scope="module")
def folder(images: FileSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 images in two files, with row groups of five."""
    root = tmp_path_factory.mktemp("tables")
    write_set(images, root, files=2, rows=5)
    return root


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(folder, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(transfers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(transfers, "GIVE_UP_S", 0.5)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "cache"))


def loader(source: ImageSource, window: int | None = 10, batch_size: int = 6) -> TwoViewLoader:
    return TwoViewLoader(source, batch_size, SMALL, backend=chosen(num_threads=2), shuffle_window=window)


def batches(source: ImageSource, epochs: int = 1, window: int | None = 10) -> list[Batch]:
    own = loader(source, window)
    return [batch for _ in range(epochs) for batch in own]


def chunk_bytes(source: ImageSource) -> int:
    """The bytes of the image column."""
    assert isinstance(source, ParquetSource)
    assert source.groups is not None
    return sum(source.byte_range(group).size for group in range(len(source.groups)))


def decoded_bytes(source: ImageSource) -> int:
    assert isinstance(source, ParquetSource)
    return int(source._index["group_decoded_bytes"].sum())


@pytest.fixture
def random_images(tmp_path: Path) -> Path:
    """400 rows of 1 kB in row groups of ten, alone in a folder."""
    random = np.random.default_rng(0)
    return write_parquet(tmp_path / "random" / "a.parquet", [random.bytes(1000) for _ in range(400)], rows=10)


def announce(source: ImageSource, images: list[int], *, first_use: int) -> None:
    """Announce up to four images. The second one is used again first."""
    positions = np.array(images)
    source.announce(Upcoming(positions, positions, first_use, np.array([1000, 997, 998, 999])[: len(images)]))


def read_epochs(source: ImageSource, epochs: int, *, window: int) -> None:
    """Read the images of some epochs as a loader with one thread does."""
    order = Order(source.parts, groups=source.groups, window=window)
    images = np.concatenate([order.epoch(epoch) for epoch in range(epochs)])
    later = np.concatenate([order.next_use(epoch) for epoch in range(epochs)])

    def upcoming(first: int) -> Upcoming:
        mine = images[first : first + 8]
        return Upcoming(mine, mine, first, later[first : first + 8])

    for first in announced(source, range(0, len(images), 8), upcoming, images_per_step=8):
        for index in images[first : first + 8].tolist():
            source.read(index)


@pytest.mark.usefixtures("each_backend")
def test_batches_are_those_of_the_folder(folder: Path, server: Nginx, storage: Storage) -> None:
    local = open_source(f"{folder}/{FILES}")
    remote = open_source(f"{server.url}/{FILES}", storage=storage)
    assert list(remote.names) == list(local.names)
    assert remote.classes == local.classes
    assert remote.labels.tolist() == local.labels.tolist()
    np.testing.assert_array_equal(remote.groups, local.groups)
    assert remote.kept_images == local.kept_images
    assert remote.place(20) == f"{server.url}/train-00001-of-00002.parquet, row 2"
    for window in (10, None):
        assert_same(batches(remote, 2, window), batches(local, 2, window))
    of_rank = (
        TwoViewLoader(each, 6, SMALL, backend=chosen(), rank=1, world_size=2, shuffle_window=10)
        for each in (remote, local)
    )
    assert_same(*map(list, of_rank))


def test_columns_are_chosen_as_for_local_files(server: Nginx, storage: Storage) -> None:
    url = f"{server.url}/{FILES}"
    assert open_source(f"{url}?image=image&label=label", storage=storage).has_labels
    assert not open_source(f"{url}?label=", storage=storage).has_labels
    with pytest.raises(ValueError, match=r"no column 'photo' among"):
        open_source(f"{url}?image=photo", storage=storage)


@pytest.mark.parametrize("window", [5, None])
def test_an_epoch_fetches_each_row_group_once_and_the_second_nothing(
    server: Nginx, storage: Storage, window: int | None
) -> None:
    """In memory are some three of the eight row groups, so the second epoch decodes them again."""
    url = f"{server.url}/{FILES}"
    whole = open_source(url, storage=NOTHING)
    source = parquet_files(url, cache_gib=3.5 / 8 * decoded_bytes(whole) / 2**30, storage=storage)
    assert source.kept_images is not None
    own = loader(source, window, 9)
    before = server.sent_bytes()
    list(own)
    assert server.sent_bytes() - before == chunk_bytes(source)
    list(own)
    assert server.sent_bytes() - before == chunk_bytes(source)


def test_windows_fetch_each_row_group_once_an_epoch_without_a_cache(random_images: Path, tmp_path: Path) -> None:
    with nginx(random_images.parent, tmp_path / "nginx") as running:
        url = f"{running.url}/{random_images.name}"
        whole = open_source(url, storage=NOTHING)
        source = parquet_files(url, cache_gib=12 / 40 * decoded_bytes(whole) / 2**30, storage=NOTHING)
        assert source.kept_images is not None
        before = running.sent_bytes()
        read_epochs(source, 3, window=source.kept_images // 10 * 10)
        fetched = (running.sent_bytes() - before) / chunk_bytes(source)
    assert 2.5 < fetched < 3 * 1.05, "some row groups stay in memory from the end of an epoch to the next"


def test_row_groups_are_fetched_ahead_once_and_no_longer_when_they_are_in_memory(
    random_images: Path, tmp_path: Path
) -> None:
    with nginx(random_images.parent, tmp_path / "nginx") as running:
        source = open_source(f"{running.url}/{random_images.name}", storage=NOTHING)
        assert isinstance(source, ParquetSource)
        before = len(running.requests())
        for step in range(3):
            announce(source, [11, 12, 25, 19], first_use=4 * step)
        uses = {task.use for task in source._reader._tasks.values()}  # type: ignore[attr-defined]
        assert {(use.wanted.start, use.next_use) for use in uses} == {
            (source.byte_range(group).offset, next_use) for group, next_use in ((1, 997), (2, 998))
        }
        end_s = time.monotonic() + 5
        while len(running.requests()) - before < 2:
            assert time.monotonic() < end_s, "what is announced is fetched"
            time.sleep(0.005)
        ahead = [sent for _, _, _, sent in running.requests()[before:]]
        assert sorted(ahead) == sorted(source.byte_range(group).size for group in (1, 2))
        for index in (11, 25, 12):
            source.read(index)
        announce(source, [11, 25], first_use=12)
        assert not source._reader._tasks  # type: ignore[attr-defined]
        source.read(19)
        assert len(running.requests()) - before == 2


def test_another_start_fetches_nothing(server: Nginx, storage: Storage) -> None:
    batches(open_source(f"{server.url}/{FILES}", storage=storage))
    before = server.sent_bytes()
    asked = len(server.requests("train-"))
    batches(open_source(f"{server.url}/{FILES}", storage=storage), 2)
    assert server.sent_bytes() - before == len(server.requests("train-")) - asked == 2, "a byte for each file's version"


def test_the_index_needs_the_end_of_the_file_and_the_labels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.bytes(30_000) for _ in range(20)]
    write_parquet(tmp_path / "root" / "a.parquet", images, [0] * 20, classes=["any"], rows=5)
    with nginx(tmp_path / "root", tmp_path / "nginx") as running:
        open_source(f"{running.url}/a.parquet", storage=NOTHING)
        sent = [sent for _, _, _, sent in running.requests()]
    assert sent[:2] == [1, object_file.TAIL_BYTES]
    assert len(sent) <= 6
    assert max(sent[2:]) < 200, "a column of labels"


def test_images_that_were_not_announced_are_read(images: FileSource, server: Nginx) -> None:
    source = open_source(f"{server.url}/{FILES}", storage=NOTHING)
    for index in (35, 0, 17, 18):
        np.testing.assert_array_equal(source.read(index), images.read(index))


def test_row_groups_in_memory_are_not_fetched_again(server: Nginx) -> None:
    source = open_source(f"{server.url}/{FILES}", storage=NOTHING)
    batches(source)
    before = server.sent_bytes()
    batches(source, 2)
    assert server.sent_bytes() == before


def test_a_resume_in_mid_epoch_continues_bitwise(folder: Path, server: Nginx, storage: Storage) -> None:
    first = loader(open_source(f"{server.url}/{FILES}", storage=storage))
    iterator = iter(first)
    seen = [next(iterator) for _ in range(2)]
    second = loader(open_source(f"{server.url}/{FILES}", storage=storage))
    second.load_state_dict(first.state_dict())
    seen += list(second)
    assert_same(seen, batches(open_source(f"{folder}/{FILES}")))


def test_a_server_that_stays_away_ends_the_epoch_and_the_state_resumes(
    folder: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_parquet.RemoteParquetSource, "reads_ahead", 6)
    with proxy(server.url) as between:
        own = loader(open_source(f"{between.url}/{FILES}", storage=NOTHING), 5)
        iterator = iter(own)
        seen = [next(iterator)]
        between.is_away = True
        with pytest.raises(StorageError, match=rf"{between.url}/train-0000\d.*: .*It was tried again for"):
            seen.extend(iterator)
        assert not own.bad_files.indices
        between.is_away = False
        own.load_state_dict(own.state_dict())
        seen += list(own)
    assert_same(seen, batches(open_source(f"{folder}/{FILES}"), window=5))


def test_a_damaged_row_group_is_bad_images(folder: Path, tmp_path: Path) -> None:
    name = "train-00000-of-00002.parquet"
    (tmp_path / "root").mkdir()
    local = open_source(folder / name)
    assert isinstance(local, ParquetSource)
    _, offset, size = local.byte_range(1)
    content = bytearray((folder / name).read_bytes())
    content[offset : offset + size] = bytes([255]) * size
    (tmp_path / "root" / name).write_bytes(content)
    with nginx(tmp_path / "root", tmp_path / "nginx") as running:
        source = open_source(f"{running.url}/{name}", storage=NOTHING)
        for index in range(5, 10):
            with pytest.raises(BadImageError, match=rf"{name}, row {index}: .*the row group is damaged"):
                read_pixels(source, index, 1_000_000)
        own = loader(source, batch_size=18)
        names = {name for batch in own for name in batch.filenames}
    assert own.bad_files.indices == set(range(5, 10))
    assert len(names) == 13


def test_a_changed_or_deleted_file_is_refused(folder: Path, tmp_path: Path) -> None:
    first, second = (folder / f"train-0000{number}-of-00002.parquet" for number in (0, 1))
    (tmp_path / "root").mkdir()
    file = Path(shutil.copy(first, tmp_path / "root" / "a.parquet"))
    with nginx(tmp_path / "root", tmp_path / "nginx") as running:
        source = open_source(f"{running.url}/a.parquet", storage=NOTHING)
        state = loader(source).state_dict()
        shutil.copy(second, file)
        with pytest.raises(StorageError, match=r"a.parquet: the object has changed since the run began"):
            list(loader(source))
        changed = open_source(f"{running.url}/a.parquet", storage=NOTHING)
        with pytest.raises(ValueError, match="the batches would differ"):
            loader(changed).load_state_dict(state)
        assert changed.labels.tolist() == open_source(second).labels.tolist()
        file.unlink()
        with pytest.raises(StorageError, match="It was there when the run began"):
            read_pixels(changed, 0, 1_000_000)


def test_the_versions_are_part_of_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    file = Path(shutil.copy(folder / "train-00000-of-00002.parquet", tmp_path / "root" / "a.parquet"))
    with nginx(tmp_path / "root", tmp_path / "nginx", "etag off;") as running:
        first, again = (open_source(f"{running.url}/a.parquet", storage=NOTHING).fingerprint for _ in range(2))
        os.utime(file, (1e9, 1e9))
        assert first == again != open_source(f"{running.url}/a.parquet", storage=NOTHING).fingerprint


def test_what_cannot_be_read_is_named(folder: Path, server: Nginx, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"http.*/train-00002.*: does not exist .*answers 404.*; correct the URL"):
        open_source(f"{server.url}/train-{{00000..00002}}-of-00002.parquet")
    with pytest.raises(ValueError, match="a web server lists no files"):
        open_source(f"{server.url}/*.parquet")
    with pytest.raises(ValueError, match="give paths only, or URLs only"):
        parquet_files([f"{server.url}/a.parquet", folder / "a.parquet"])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.parquet").write_bytes(b"PAR1 is all")
    with (
        nginx(tmp_path / "root", tmp_path / "nginx") as running,
        pytest.raises(ValueError, match=rf"{running.url}/a.parquet: .*must be a whole parquet file"),
    ):
        open_source(f"{running.url}/a.parquet")


def test_a_dataset_of_the_hub(folder: Path, server: Nginx, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    transfers._store.cache_clear()
    with served(folder, server.url) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        remote = open_source(f"hf://datasets/{NAME}@main/train-*.parquet", storage=storage)
        local = open_source(f"{folder}/train-*.parquet")
        assert list(remote.names) == list(local.names)
        assert remote.place(0).startswith(f"hf://datasets/{NAME}@{hub.commit}/train-00000")
        assert_same(batches(remote), batches(local))
        with pytest.raises(ValueError, match="no file matches"):
            open_source(f"hf://datasets/{NAME}/test-*.parquet", storage=storage)
    transfers._store.cache_clear()
