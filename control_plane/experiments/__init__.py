"""Which of several arms is better, and what would another one do? Experiments, and copies of requests."""
