"""Snapshots: states of sessions as files, their format, and what they belong to."""
