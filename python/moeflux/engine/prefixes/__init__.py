"""Prefixes: the states after prompts that come again, in memory and in a folder."""
