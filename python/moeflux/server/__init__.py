"""Serves one model to several users at a time."""
