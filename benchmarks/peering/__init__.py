"""The parts of benchmarks/peers.py. The scripts `*_step.py` and `*_quality.py` run in the environments of the projects they measure."""
