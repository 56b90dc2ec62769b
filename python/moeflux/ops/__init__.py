"""One function per kernel: check shapes, pack the parameter struct, dispatch. Knows no model and no checkpoint."""
