"""Tool calls in a text, as it comes. One module a format; the contract is in parser.py, the names in registry.py."""
