"""New versions of a model, step by step: is the new one worse than the old one, at the same time?"""
