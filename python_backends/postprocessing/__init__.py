"""Token stream → OpenAI deltas. Pure: no Triton, no engine."""
