"""Events to workers: the controller arms scans, assigns virtual workers in blocks, and knows how each scan ends."""
