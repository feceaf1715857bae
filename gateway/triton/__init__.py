"""Run it: HTTP to one Triton server."""
