"""Floor 5. Models on disk."""
