"""The APIs that the clients of OpenAI speak."""
