"""Words that all stages share. No I/O."""
