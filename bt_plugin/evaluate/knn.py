"""Weighted k-nearest-neighbour classification (Wu et al. 2018) by Lightly's knn_predict."""

from __future__ import annotations

import torch
from torch.nn import functional

from bt_plugin.evaluate.accuracy import Accuracy
from bt_plugin.evaluate.features import Features

# Queries at a time: knn_predict holds (queries * k, classes) votes.
_CHUNK = 256


def knn_accuracy(bank: Features, queries: Features, *, k: int = 20, temperature: float = 0.1) -> Accuracy:
    """How often the votes of an image's neighbours name its class.

    Args:
        bank: Images with known classes.
        queries: Images to classify.
        k: Neighbours that vote; all of the bank where it has fewer.
        temperature: A vote weighs exp(cosine similarity / temperature).

    Raises:
        ValueError: If either has no labels.
    """
    # Lightly's benchmarks import Lightning and torchmetrics, a second that only who evaluates shall wait for.
    from lightly.utils.benchmarking import knn_predict

    if min(int(bank.targets.min()), int(queries.targets.min())) < 0:
        raise ValueError("kNN needs labels; give folders with one sub-folder a class")
    num_classes = int(max(bank.targets.max(), queries.targets.max())) + 1
    columns = functional.normalize(bank.values, dim=1).T
    rankings = [
        knn_predict(
            functional.normalize(values, dim=1),
            columns,
            bank.targets,
            num_classes,
            knn_k=min(k, len(bank.targets)),
            knn_t=temperature,
        )[:, :5]
        for values in queries.values.split(_CHUNK)
    ]
    return Accuracy.of(torch.cat(rankings), queries.targets)
