"""Fine-tuning: a classifier whose encoder is trained with it, on shares of the labels."""

from benchmarks.tasks.fine_tuning.task import FineTuningTask

TASK = FineTuningTask()
