"""One function per kernel: check shapes, pack parameters, dispatch. Knows no model."""
