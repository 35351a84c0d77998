"""How fast the hot path is beside a plain copy and beside its peers: ``python -m benchmarks``."""
