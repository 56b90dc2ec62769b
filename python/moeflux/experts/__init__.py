"""Expert streaming: which routed experts are in memory, and which are read next."""
