"""One module per data set: each writes virtual patients in that data set's own on-disk layout.

``write(folder, anatomy_path, images, hospital, size, seed, workers)``: ``folder`` appears only when it is complete.
"""
