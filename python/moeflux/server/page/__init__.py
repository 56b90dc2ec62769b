"""A page to chat with the model and to watch it."""
