"""Detection: boxes by a Detectron2 RetinaNet whose backbone is a method's frozen image encoder."""

from benchmarks.tasks.detection.task import DetectionTask

TASK = DetectionTask()
