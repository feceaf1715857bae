"""The HTTP face: the only place that knows aiohttp's server."""
