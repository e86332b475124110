"""The published state as the part of the HDF REST API that h5pyd, silx and H5Web need to read it.

`types`, `values`, `select` and `objects` are pure functions of a snapshot; `routes` puts them on the web.
"""
