"""Shards and lists in buckets, on the Hub and on web servers: their batches are those of the same files in a folder."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from dali_pipelines import TwoViewLoader, image_folder, open_source
from dali_pipelines.errors import BadImageError, StorageError
from dali_pipelines.loaders import Batch
from dali_pipelines.sources import ImageSource
from dali_pipelines.storage import transfers
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.stores import Range
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.dataset_hub import NAME, TOKEN, DatasetHub, served
from tests.tar_files import write_shard
from tests.web import Nginx, free_port, nginx


@pytest.fixture(scope="module")
def folder(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in two shards, alone in a folder, and a list of them."""
    images = image_folder(small_data / "train")
    root = tmp_path_factory.mktemp("stored")
    (root / "photos").mkdir()
    rows = ["path,label"]
    for shard in range(2):
        members: dict[str, bytes] = {}
        for index in range(shard, 36, 6):
            content, name = images.read(index).tobytes(), f"{index:03}.jpg"
            members |= {name: content, f"{index:03}.cls": str(images.labels[index]).encode()}
            (root / "photos" / name).write_bytes(content)
            rows.append(f"photos/{name},{images.classes[images.labels[index]]}")
        write_shard(root / f"s-{shard}.tar", members)
    (root / "list.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(folder, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(transfers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(transfers, "GIVE_UP_S", 0.3)
    transfers._store.cache_clear()
    yield
    transfers._store.cache_clear()


@pytest.fixture
def hub(folder: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with served(folder, server.url) as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    """The address of an S3 server that has the files in the bucket `photos`."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    patch = pytest.MonkeyPatch()
    for key, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush"}.items():
        patch.setenv(key, value)
    running = moto.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("photos")
    files.put(f"{folder}/", "photos/set", recursive=True)
    yield f"http://{host}:{port}"
    running.stop()
    patch.undo()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def google(folder: Path) -> Iterator[str]:
    """The address of an emulator of Google's storage that has the files in the bucket `photos`."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    gcsfs = pytest.importorskip("gcsfs.core")
    patch = pytest.MonkeyPatch()
    port = free_port()
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # What FSSPEC_GS_TOKEN=anon does before fsspec is imported: look for no credentials.
    patch.setitem(__import__("fsspec").config.conf, "gs", {"token": "anon"})
    running = emulator.create_server("127.0.0.1", port, in_memory=True)
    running.start()
    gcsfs.GCSFileSystem.clear_instance_cache()
    files = gcsfs.GCSFileSystem()
    files.mkdir("photos")
    files.put(f"{folder}/", "photos/set", recursive=True)
    yield f"http://127.0.0.1:{port}"
    running.stop()
    patch.undo()
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture(params=["http", "s3", "gs", "hf"])
def place(request: pytest.FixtureRequest) -> str:
    """The URL of the folder on each kind of store."""
    if request.param == "http":
        return str(request.getfixturevalue("server").url)
    request.getfixturevalue({"s3": "bucket", "gs": "google", "hf": "hub"}[request.param])
    return {"s3": "s3://photos/set", "gs": "gs://photos/set", "hf": f"hf://datasets/{NAME}"}[request.param]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "cache"))


def batches(source: ImageSource) -> list[Batch]:
    return list(TwoViewLoader(source, 4, SMALL, backend=chosen(num_threads=2)))


@pytest.mark.parametrize("name", ["s-{0..1}.tar", "list.csv"])
def test_batches_are_those_of_the_folder(folder: Path, place: str, storage: Storage, name: str) -> None:
    local, remote = open_source(f"{folder}/{name}"), open_source(f"{place}/{name}", storage=storage)
    assert list(remote.names) == list(local.names)
    assert remote.classes == local.classes
    assert_same(batches(remote), batches(local))
    assert remote.fingerprint == open_source(f"{place}/{name}", storage=storage).fingerprint != local.fingerprint


@pytest.mark.parametrize("place", ["s3", "gs", "hf"], indirect=True)
def test_wildcards_find_the_shards(folder: Path, place: str, storage: Storage) -> None:
    assert list(open_source(f"{place}/s-*.tar", storage=storage).names) == list(open_source(f"{folder}/s-*.tar").names)
    with pytest.raises(ValueError, match="no shard matches"):
        open_source(f"{place}/t-*.tar", storage=storage)


def test_what_is_not_there_is_named(place: str) -> None:
    for name in ("s-{0..2}.tar", "other.csv"):
        with pytest.raises(ValueError, match=r": does not exist \(.*\); correct the URL") as raised:
            open_source(f"{place}/{name}")
        assert "hush" not in str(raised.value)


def test_a_local_list_of_urls(folder: Path, place: str, storage: Storage, tmp_path: Path) -> None:
    local = open_source(folder / "list.csv")
    (tmp_path / "urls.txt").write_text("".join(f"{place}/{name}\n" for name in local.names))
    remote = open_source(tmp_path / "urls.txt", storage=storage)
    assert all((remote.read(index) == local.read(index)).all() for index in range(len(local)))


def test_one_missing_image_of_a_list_is_a_bad_image(place: str, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(f"{place}/photos/000.jpg\n{place}/photos/gone.jpg\n")
    loader = TwoViewLoader(open_source(tmp_path / "urls.txt", storage=storage), 2, SMALL, backend=chosen())
    assert [batch.filenames for batch in loader] == [[f"{place}/photos/000.jpg"] * 2]
    assert loader.bad_files.indices == {1}
    strict = TwoViewLoader(loader.source, 2, SMALL, backend=chosen(), max_bad_files=0)
    with pytest.raises(BadImageError, match=r"photos/gone.jpg: does not exist"):
        list(strict)


def test_lists_that_mix_paths_and_urls_or_have_secrets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mixed.txt").write_text("a.jpg\nhttp://h/b.jpg\n")
    with pytest.raises(ValueError, match=r"mixed.txt, line 2: paths and URLs are mixed"):
        open_source(tmp_path / "mixed.txt")
    (tmp_path / "secret.txt").write_text("http://h/a.jpg\nhttp://h/b.jpg?sig=hush\n")
    with pytest.raises(ValueError, match=r"secret.txt, line 2: http://h/b.jpg\?\*\*\*: the URL is signed"):
        open_source(tmp_path / "secret.txt")


def test_the_hub_is_asked_once_and_its_storage_gets_no_token(
    hub: DatasetHub, server: Nginx, storage: Storage, folder: Path
) -> None:
    hub.needs_token = True
    source = open_source(f"hf://datasets/{NAME}/s-{{0..1}}.tar", storage=Storage(storage.cache_dir, 0))
    batches(source)
    resolved = [path for method, path, _ in hub.asked if "/resolve/" in path]
    assert len([path for path in resolved if path.endswith(".tar")]) == 2, "one for each shard"
    assert all(hub.commit in path for path in resolved)
    assert len(server.requests("s-")) >= 12
    assert "Bearer" not in server.log.read_text()
    hub.commit = "b" * 40
    with pytest.raises(ValueError, match="does not exist"):
        open_source(f"hf://datasets/{NAME}@{'a' * 40}/list.csv")


def test_a_known_address_of_the_hub_needs_no_thread(hub: DatasetHub, server: Nginx, folder: Path) -> None:
    hub.needs_token = True
    url = transfers.fixed_url(f"hf://datasets/{NAME}/s-0.tar")
    wanted = Range(url, "", 512, 100, is_pinned=False)
    got: queue.Queue[bytes | None] = queue.Queue()
    assert not transfers.start(wanted, got.put), "the address must be waited for"
    content = transfers.fetch(wanted)
    assert transfers.start(wanted, got.put)
    assert got.get(timeout=20) == content == (folder / "s-0.tar").read_bytes()[512:612]
    assert "Bearer" not in server.log.read_text()


def test_a_dataset_that_needs_a_token_says_so(hub: DatasetHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.needs_token = True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="Set HF_TOKEN if the dataset is private or gated") as raised:
        open_source(f"hf://datasets/{NAME}/list.csv")
    assert "hf_wrong" not in str(raised.value)


def test_a_changed_object_of_a_bucket_is_noticed(bucket: str, folder: Path) -> None:
    import s3fs

    files = s3fs.S3FileSystem()
    files.put(str(folder / "s-0.tar"), "photos/other/s.tar")
    source = open_source("s3://photos/other/s.tar", storage=Storage(cache_gib=0))
    files.put(str(folder / "s-1.tar"), "photos/other/s.tar")
    with pytest.raises(StorageError, match=r"s3://photos/other/s.tar: the object has changed"):
        source.read(0)


def test_a_generation_of_google_is_asked_for_and_missing_once_it_was_replaced(
    google: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gcsfs.core import GCSFileSystem

    files = GCSFileSystem()
    files.put(str(folder / "s-0.tar"), "photos/other/s.tar")
    source = open_source("gs://photos/other/s.tar", storage=Storage(cache_gib=0))
    generation = files.info("photos/other/s.tar")["generation"]
    asked = []
    call = GCSFileSystem._call
    monkeypatch.setattr(GCSFileSystem, "_call", lambda *a, **k: (asked.append(a[2]), call(*a, **k))[1])
    source.read(0)
    assert asked[-1].endswith(f"generation={generation}")
    # The emulator answers with the new content where Google's servers have no such generation any more.
    files.rm("photos/other/s.tar")
    with pytest.raises(StorageError, match=r"gs://photos/other/s.tar: the object has changed"):
        source.read(0)


def test_a_refused_key_is_no_secret_in_the_message(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"s3://nobodys/a.tar"):
        open_source("s3://nobodys/a.tar")


@pytest.mark.parametrize(
    ("url", "extra"), [("s3://b/a.tar", "s3"), ("gs://b/a.tar", "gcs"), ("https://h/a.tar", "http")]
)
def test_a_missing_library_names_its_extra(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s3fs", "gcsfs.core", "pycurl"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ValueError, match=rf"needs a library that is not installed.*pip install 'bt-plugin\[{extra}\]'"):
        open_source(url)
