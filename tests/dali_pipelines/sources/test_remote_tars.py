"""Tar shards behind URLs: their batches are those of the same shards in a folder."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from dali_pipelines import TwoViewLoader, image_folder, open_source
from dali_pipelines.errors import StorageError
from dali_pipelines.sources import ImageSource
from dali_pipelines.storage import transfers
from dali_pipelines.storage.options import Storage
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.tar_files import write_shard
from tests.web import Nginx, nginx, proxy


@pytest.fixture(scope="module")
def folder(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of ten, ten, ten and six images with classes."""
    images = image_folder(small_data / "train")
    root = tmp_path_factory.mktemp("shards")
    for first in range(0, len(images), 10):
        members: dict[str, bytes] = {}
        for index in range(first, min(first + 10, len(images))):
            members[f"{index:06}.cls"] = str(images.labels[index]).encode()
            members[f"{index:06}.jpg"] = images.read(index).tobytes()
        write_shard(root / f"train-{first // 10:03}.tar", members)
    return root


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(folder, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture(autouse=True)
def own_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(transfers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(transfers, "GIVE_UP_S", 0.5)


@pytest.fixture
def storage(tmp_path: Path) -> Generator[Storage, None, None]:
    return Storage(str(tmp_path / "cache"))


def batches(source: ImageSource, epochs: int = 1) -> list[object]:
    loader = TwoViewLoader(source, 8, SMALL, backend=chosen(num_threads=2))
    return [batch for _ in range(epochs) for batch in loader]


@pytest.mark.usefixtures("each_backend")
def test_batches_are_those_of_the_folder(folder: Path, server: Nginx, storage: Storage) -> None:
    local = open_source(f"{folder}/train-{{000..003}}.tar")
    remote = open_source(f"{server.url}/train-{{000..003}}.tar", storage=storage)
    assert list(remote.names) == list(local.names)
    assert remote.classes == local.classes
    assert_same(batches(remote, 2), batches(local, 2))


def image_bytes(source: ImageSource, first: int = 0) -> int:
    return sum(len(source.read(index)) for index in range(first, len(source)))


def test_an_epoch_fetches_each_image_once_and_the_second_nothing(
    folder: Path, server: Nginx, storage: Storage, tmp_path: Path
) -> None:
    pattern = "train-{000..003}.tar"
    open_source(f"{server.url}/{pattern}", storage=Storage(cache_gib=0))  # makes the index
    source = open_source(f"{server.url}/{pattern}", storage=storage)
    before = server.sent_bytes()
    loader = TwoViewLoader(source, 9, SMALL, backend=chosen(num_threads=2))
    list(loader)
    fetched = server.sent_bytes() - before
    assert fetched == image_bytes(open_source(f"{folder}/{pattern}"))
    del loader
    again = open_source(f"{server.url}/{pattern}", storage=storage)
    asked = server.sent_bytes()
    batches(again, 2)
    assert server.sent_bytes() == asked, "all bytes are in the cache"


def test_what_is_read_for_the_index_is_kept(server: Nginx, storage: Storage, folder: Path) -> None:
    before = server.sent_bytes()
    source = open_source(f"{server.url}/train-*.tar".replace("*", "{000..003}"), storage=storage)
    batches(source)
    total = sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert server.sent_bytes() - before <= total + 100


def test_a_resume_in_mid_epoch_continues_bitwise(folder: Path, server: Nginx, storage: Storage) -> None:
    def loader(path: str) -> TwoViewLoader:
        return TwoViewLoader(open_source(path, storage=storage), 8, SMALL, backend=chosen(num_threads=2))

    first = loader(f"{server.url}/train-{{000..003}}.tar")
    iterator = iter(first)
    seen = [next(iterator) for _ in range(2)]
    second = loader(f"{server.url}/train-{{000..003}}.tar")
    second.load_state_dict(first.state_dict())
    seen += list(second)
    assert_same(seen, list(loader(f"{folder}/train-{{000..003}}.tar")))


def test_faults_of_the_network_lose_and_replace_nothing(folder: Path, server: Nginx, storage: Storage) -> None:
    with proxy(server.url) as between:
        between.busy, between.cut = set(range(0, 300, 3)), set(range(1, 300, 5))
        loader = TwoViewLoader(
            open_source(f"{between.url}/train-{{000..003}}.tar", storage=storage), 8, SMALL, backend=chosen()
        )
        seen = list(loader)
        assert not loader.bad_files.indices
    assert_same(seen, batches(open_source(f"{folder}/train-{{000..003}}.tar")))


def test_a_server_that_stays_away_ends_the_epoch_and_the_state_resumes(
    folder: Path, server: Nginx, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_pipelines.sources.remote.RemoteSource.reads_ahead", 8)
    path = "train-{000..003}.tar"
    open_source(f"{server.url}/{path}", storage=Storage(cache_gib=0))
    with proxy(server.url) as between:
        source = open_source(f"{between.url}/{path}", storage=Storage(cache_gib=0))
        loader = TwoViewLoader(source, 4, SMALL, backend=chosen(num_threads=1, prefetch=1))
        iterator = iter(loader)
        seen = [next(iterator)]
        between.is_away = True
        with pytest.raises(StorageError, match=rf"{between.url}/train-00\d.tar: .*It was tried again for"):
            seen.extend(iterator)
        assert not loader.bad_files.indices
        between.is_away = False
        loader.load_state_dict(loader.state_dict())
        seen += list(loader)
    wanted = TwoViewLoader(open_source(f"{folder}/{path}"), 4, SMALL, backend=chosen())
    assert_same(seen, list(wanted))


def test_a_changed_shard_is_refused(folder: Path, tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "root").mkdir()
    shard = tmp_path / "root" / "a.tar"
    shard.write_bytes((folder / "train-000.tar").read_bytes())
    with nginx(tmp_path / "root", tmp_path / "nginx") as running:
        source = open_source(f"{running.url}/a.tar", storage=Storage(cache_gib=0))
        loader = TwoViewLoader(source, 4, SMALL, backend=chosen())
        state = loader.state_dict()
        shard.write_bytes((folder / "train-001.tar").read_bytes())
        with pytest.raises(StorageError, match=r"a.tar: the object has changed since the run began"):
            list(loader)
        changed = open_source(f"{running.url}/a.tar", storage=storage)
        with pytest.raises(ValueError, match="versions"):
            TwoViewLoader(changed, 4, SMALL, backend=chosen()).load_state_dict(state)


def test_what_is_not_there_is_named(server: Nginx) -> None:
    with pytest.raises(ValueError, match=r"^http.*/train-004.tar: does not exist \(.*answers 404.*\); correct the URL"):
        open_source(f"{server.url}/train-{{000..004}}.tar")
    with pytest.raises(ValueError, match="a web server lists no files"):
        open_source(f"{server.url}/*.tar")
    with pytest.raises(ValueError, match=r"name a list of the files, shards or .parquet files"):
        open_source(f"{server.url}/")


def test_a_deleted_shard_is_no_bad_image(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    shard = tmp_path / "root" / "a.tar"
    shard.write_bytes((folder / "train-000.tar").read_bytes())
    with nginx(tmp_path / "root", tmp_path / "nginx") as running:
        source = open_source(f"{running.url}/a.tar", storage=Storage(cache_gib=0))
        shard.unlink()
        with pytest.raises(StorageError, match="It was there when the run began"):
            source.read(0)
