"""One module for each dataset: fetch, clean, write documents as jsonl. Run from the clone: python -m data.NAME."""
