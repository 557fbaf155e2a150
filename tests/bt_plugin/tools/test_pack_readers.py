"""Other programs read the shards of `pack`, with the right labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.sources import open_source
from tests.bt_plugin.tools.packs import contents, packed


@pytest.fixture
def shards(small_data: Path, tmp_path: Path) -> Path:
    assert packed(small_data / "train", tmp_path / "out", "--shards", 3) == 0
    return tmp_path / "out"


def test_webdataset(shards: Path, small_data: Path) -> None:
    """Its decoder takes whole numbers as classes, and fails at names."""
    webdataset = pytest.importorskip("webdataset")
    source = open_source(small_data / "train")
    urls = f"{shards}/shard-{{00000..00002}}.tar"
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == contents(source)
    decoded = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("jpg", "cls"))
    assert [label for _, label in decoded] == source.labels.tolist()
    assert decoded[0][0].shape == (96, 96, 3)


def test_dali(shards: Path, small_data: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=12, num_threads=1, device_id=None, seed=1)  # type: ignore[untyped-decorator]
    def read(paths: list[str], index_paths: list[str]) -> object:
        encoded, label = fn.readers.webdataset(
            paths=paths, index_paths=index_paths, ext=["jpg", "cls"], missing_component_behavior="error"
        )
        return encoded, label

    tars = sorted(map(str, shards.glob("*.tar")))
    pipeline = read(tars, [f"{tar[:-4]}.idx" for tar in tars])
    pipeline.build()
    source = open_source(small_data / "train")
    assert next(iter(pipeline.epoch_size().values())) == len(source)
    images: list[bytes] = []
    labels: list[int] = []
    for _ in range(3):
        encoded, classes = pipeline.run()
        images += [np.asarray(each).tobytes() for each in encoded]
        labels += [int(np.asarray(each).tobytes()) for each in classes]
    assert images == contents(source)
    assert labels == source.labels.tolist()


def test_the_index_is_that_of_dalis_own_tool(shards: Path, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    for tar in shards.glob("*.tar"):
        with wds2idx.IndexCreator(str(tar), str(tmp_path / "theirs.idx"), verbose=False) as creator:
            creator.create_index()
        assert (tmp_path / "theirs.idx").read_text() == tar.with_suffix(".idx").read_text()
