"""What an answer must match, compiled as the engine compiles it: for the gateway, `preprocess` and `postprocess`."""
