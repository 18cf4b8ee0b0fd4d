"""Virtual patients: chest radiographs, reports and exact truth, computed from one real chest CT.

``anatomy`` projects warped chests organ by organ; ``findings`` and ``devices`` draw what is wrong with them;
``radiograph`` exposes films as a ``hospital`` would; ``patients`` plans people, studies and their course; ``report``
writes what a radiologist would say; ``writers`` lay it all out as the real data sets do. See ``docs/twin.md``.

>>> from mlip.twin.anatomy import build_anatomies
>>> from mlip.twin.catalogue import twin_writers          # twin_writer("rsna").write(...)
"""
