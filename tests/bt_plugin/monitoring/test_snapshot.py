"""What is kept to be drawn is what was there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bt_plugin.evaluation.correlation import cross_correlation
from bt_plugin.evaluation.online import snapshot_of
from bt_plugin.monitoring.snapshot import BIN_EDGES, SIDE, CorrelationSnapshot, SnapshotStore, read_snapshots
from bt_plugin.monitoring.view_pixels import pixels_of, rows_of
from dali_pipelines.views.params import PRESETS, ViewParams


def snapshot(dim: int = 200) -> CorrelationSnapshot:
    z = torch.randn(50, dim)
    return snapshot_of(cross_correlation(z, z + torch.randn(50, dim)), torch.linalg.svdvals(z))


def test_every_entry_counts_once_and_is_seen() -> None:
    z_a, z_b = torch.randn(1000, 256), torch.randn(1000, 256)
    z_b[:, 7] = -z_a[:, 190]
    c = cross_correlation(z_a, z_b)
    of_c = snapshot_of(c, torch.linalg.svdvals(z_a))
    rest = c[~torch.eye(256, dtype=torch.bool)].numpy()
    np.testing.assert_array_equal(of_c.diagonal_counts, np.histogram(c.diagonal().numpy(), BIN_EDGES)[0])
    np.testing.assert_array_equal(of_c.off_diagonal_counts, np.histogram(rest, BIN_EDGES)[0])
    assert of_c.c_whole.shape == (SIDE, SIDE)
    assert of_c.c_whole[-1, 0] == pytest.approx(float(c[252:, :4].square().mean().sqrt()), rel=1e-5)
    where = np.unravel_index(of_c.c_whole.argmax(), (SIDE, SIDE))
    assert where == (190 // 4, 7 // 4), "the one pair that is opposite, in rows of view a"
    np.testing.assert_array_equal(of_c.c_first, c[:SIDE, :SIDE].numpy())


def test_a_small_matrix_is_kept_whole() -> None:
    c = torch.rand(5, 5) * 2 - 1
    of_c = snapshot_of(c, torch.ones(5))
    np.testing.assert_allclose(of_c.c_whole, c.abs().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(of_c.c_first, c.numpy())


def test_rounding_loses_no_entry() -> None:
    """A feature that is the same in both views correlates with a last bit above 1."""
    assert snapshot_of(torch.full((3, 3), 1 + 1e-6), torch.ones(3)).diagonal_counts[-1] == 3


def test_an_album_continues_with_its_run(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, 0)
    kept = {step: snapshot() for step in (4, 8, 12)}
    for step, of_it in kept.items():
        store.add(step, of_it)
    SnapshotStore(tmp_path, 8)
    (tmp_path / "pictures" / "step-6.npz").write_bytes(b"PK\x03\x04 cut short")
    read = read_snapshots(tmp_path)
    assert list(read) == [4, 8], "12 is of a future that will be another, 6 cannot be read"
    for step, of_it in read.items():
        for name in CorrelationSnapshot._fields:
            np.testing.assert_array_equal(getattr(of_it, name), getattr(kept[step], name))


def test_the_views_are_kept_once(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, 0)
    assert store.add_views(np.zeros((4, 4, 3), np.uint8))
    before = (tmp_path / "pictures" / "views.png").read_bytes()
    assert not store.add_views(np.ones((4, 4, 3), np.uint8))
    assert (tmp_path / "pictures" / "views.png").read_bytes() == before


def test_pixels_are_those_before_the_normalisation() -> None:
    params = PRESETS["barlow_twins"].views[0]
    pixels = torch.arange(0, 192, dtype=torch.uint8).reshape(8, 8, 3)
    mean, std = (torch.tensor(values) for values in (params.mean, params.std))
    normalised = ((pixels / 255 - mean) / std).permute(2, 0, 1)
    np.testing.assert_array_equal(pixels_of(normalised, params), pixels.numpy())


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (5, [0, 1, 2])])
def test_other_channels_are_shown_as_three(channels: int, shown: list[int]) -> None:
    values = 3 if channels == 1 else channels
    params = ViewParams(channels=channels, mean=(0.0,) * values, std=(1.0,) * values)
    levels = torch.arange(channels).view(-1, 1, 1).expand(-1, 2, 2) * 10 / 255
    assert pixels_of(levels, params)[0, 0].tolist() == [10 * place for place in shown]


def test_views_of_two_sizes_make_one_picture() -> None:
    params = ViewParams()
    picture = rows_of([torch.zeros(3, 3, 8, 8), torch.zeros(3, 3, 4, 4)], [params, params])
    assert picture.shape == (12, 24, 3)


def test_damaged_pictures_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SnapshotStore(tmp_path, 0)
    for step in range(1, 9):
        store.add(step, snapshot())
    folder = tmp_path / "pictures"
    whole = (folder / "step-1.npz").read_bytes()
    (folder / "step-2.npz").write_bytes(b"")
    (folder / "step-3.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "step-4.npz").write_bytes(whole.replace(b"PK", b"KP"))
    np.savez(folder / "step-5.npz", **{**snapshot()._asdict(), "spectrum": np.array([object()])}, allow_pickle=True)
    np.savez(folder / "step-6.npz", **{**snapshot()._asdict(), "diagonal_counts": np.zeros(3)})
    np.savez(folder / "step-7.npz", c_whole=np.zeros((2, 2)))
    (folder / "step-8.npz").unlink()
    os.mkfifo(folder / "step-8.npz")
    for name in ("step-abc.npz", "step-.npz", f"step-{'9' * 200}.npz", "step-٣.npz"):
        (folder / name).write_bytes(whole)
    assert list(read_snapshots(tmp_path)) == [1]
    for step in range(2, 9):
        assert f"step-{step}.npz is left out: " in caplog.text
    SnapshotStore(tmp_path, 1)
    assert (folder / "step-abc.npz").exists(), "what is no picture of ours stays"
