"""Weighted k-nearest-neighbor classification (Wu et al. 2018) with Lightly's knn_predict."""

from __future__ import annotations

import torch
from torch.nn import functional

from bt_plugin.evaluation.accuracy import Accuracy
from bt_plugin.evaluation.features import Features

# Queries at a time. This limits memory: knn_predict creates a tensor of (queries * k, classes) votes.
_CHUNK = 256


def knn_accuracy(bank: Features, queries: Features, *, k: int = 20, temperature: float = 0.1) -> Accuracy:
    """Classify images by the weighted vote of their nearest neighbors, and return the accuracy.

    Args:
        bank: Features and labels of the images among which neighbors are searched.
        queries: Features and labels of the images to classify.
        k: Number of neighbors that vote, 1 or more. If the bank has fewer images, all of them vote.
        temperature: Temperature of the vote, 0.02 or more, because votes are float32. The weight of a vote is
            exp(cosine similarity / temperature).

    Raises:
        ValueError: If the bank or the queries have no labels.
    """
    # Lightly's benchmarks import Lightning and torchmetrics, which takes a second. Only evaluations should wait for it.
    from lightly.utils.benchmarking import knn_predict

    if min(int(bank.targets.min()), int(queries.targets.min())) < 0:
        raise ValueError("kNN needs labels; use folders with a subfolder for each class")
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
