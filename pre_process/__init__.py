"""The text path: corpus, tokenizer, word vectors, position vectors. Imports nothing from nanograd, but for teaching."""
