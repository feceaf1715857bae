"""Texts → how hard they are: what the multi-model router goes by."""
