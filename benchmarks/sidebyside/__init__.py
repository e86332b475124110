"""Systems that do the same work, measured in turn: what `benchmarks/bench.py` is made of."""
