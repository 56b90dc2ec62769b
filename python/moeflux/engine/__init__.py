"""Running a model: decode step, prefill, sessions, sampling.

Knows no architecture and no file format.
"""
