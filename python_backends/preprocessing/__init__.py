"""Request → prompt, token ids, plan. Pure code shared by the `preprocess` model and the gateway.

Nothing here imports Triton, vLLM, torch or transformers, so that the gateway image stays small and both sides
produce the same token ids from the same body.
"""
