"""nanograd: the LLM stack you can read."""
