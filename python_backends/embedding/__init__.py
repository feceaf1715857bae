"""Texts → vectors: batching and pooling around an encoder model."""
