"""The API that the clients of Anthropic speak."""
