"""Segmentation: masks by a segmentation-models-pytorch decoder on a method's frozen image encoder."""

from benchmarks.tasks.segmentation.task import SegmentationTask

TASK = SegmentationTask()
