"""Shipped for users' tests: simulated detectors that send what the real ones send."""
