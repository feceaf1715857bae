"""The data plane: one OpenAI call in, one Triton call out. Read `pipeline.py` first."""
