"""Trigger maps: what is said about them (`spec`), how it is compiled, and the two forms they are kept in."""
