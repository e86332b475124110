"""The reducer's state on its way to people: snapshots of the publish tree, as JSON and as HDF5."""
