"""One module for each dataset: fetch it, clean it, write documents as jsonl. Run from the clone: python -m data.NAME."""
