"""The engine: one port, vLLM behind it, and a scripted stand-in that needs no model."""
