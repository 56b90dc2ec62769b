"""Requests in turns on one model: a queue, a thread that owns the model, answers as they come."""
