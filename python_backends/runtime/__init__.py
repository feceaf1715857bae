"""The only place that knows Triton's Python API."""
