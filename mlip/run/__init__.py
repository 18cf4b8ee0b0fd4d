"""The top floor: command line, stages, doctor, warm process, scaffold. Nothing below imports it."""
