"""The durable record of scans, and the only home of Redis.

Import the implementation you need from its module: `base` (the Protocol), `memory`, `redis`, `embedded` (a
store that we start ourselves), `segmentlog` (append-only files). This package itself stays free of the import
cost of redis.
"""
