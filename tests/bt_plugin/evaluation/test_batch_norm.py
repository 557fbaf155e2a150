"""Fine-tuning on so few images that BatchNorm has one a rank."""

from __future__ import annotations

import pytest
from torch import nn

from bt_plugin.errors import RecipeError
from bt_plugin.evaluation.run import _check_batch_norm

BATCH_NORM = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
GROUP_NORM = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))


@pytest.mark.parametrize(
    ("global_batch_size", "images", "ranks", "rule"),
    [
        (
            2,
            50,
            2,
            r"finetune\.global_batch_size=2 gives each of 2 ranks one image.*Use 4 or more, or launch fewer",
        ),
        (
            256,
            2,
            2,
            r"data\.train, of 2 images, .*larger finetune\.fraction or finetune\.subset, or launch fewer",
        ),
        (256, 7, 4, r"data\.train, of 7 images, gives each of 4 ranks"),
        (1, 50, 1, r"finetune\.global_batch_size=1 .*Use 2 or more\.$"),
        (256, 1, 1, r"data\.train, of 1 images, .*finetune\.subset\.$"),
    ],
)
def test_one_image_a_rank_is_refused(global_batch_size: int, images: int, ranks: int, rule: str) -> None:
    with pytest.raises(RecipeError, match=rule):
        _check_batch_norm(BATCH_NORM, 1, global_batch_size=global_batch_size, images=images, ranks=ranks)
    _check_batch_norm(GROUP_NORM, 1, global_batch_size=global_batch_size, images=images, ranks=ranks)
    _check_batch_norm(BATCH_NORM, 2, global_batch_size=global_batch_size, images=images, ranks=ranks)
