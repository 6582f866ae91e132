"""Builds Report.pdf from measured numbers, and runs the experiments that measure them."""
