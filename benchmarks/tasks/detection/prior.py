"""The prior-box control: where boxes usually are, without looking at the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import KMeans

from benchmarks.tasks.detection.boxes import ImageBoxes


def prior_boxes(truth: Sequence[ImageBoxes], categories: int, count: int, seed: int) -> ImageBoxes:
    """The typical boxes of training images: k-means centres of (x, y, width, height) per category.

    The score of a box is the share of the training images that hold a box of its cluster (at most 1), so that a
    category or a place that is rare ranks low. Without any training box there is none.

    Parameters
    ----------
    truth : boxes of the training images.
    categories : number of categories.
    count : boxes per category at most.
    """
    boxes = np.concatenate([t.boxes for t in truth])
    labels = np.concatenate([t.categories for t in truth])
    found, names, scores = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for category in range(categories):
        own = boxes[labels == category]
        k = min(count, len(np.unique(own, axis=0)))
        if not k:
            continue
        means = KMeans(k, n_init=4, random_state=seed).fit(own)
        found.append(means.cluster_centers_)
        names.append(np.full(k, category, dtype=np.int64))
        scores.append(np.minimum(1.0, np.bincount(means.labels_, minlength=k) / len(truth)))
    return ImageBoxes(np.concatenate(found), np.concatenate(names), np.concatenate(scores))
