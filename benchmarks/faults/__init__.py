"""Faults injected into the pipeline, one at a time, and what the pipeline reports about each."""
