"""Parts of the composition root: each builds its objects once, and owns their lifetimes."""
