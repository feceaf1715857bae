"""What others can see of this process: logs, metrics, and the names of its background tasks."""
