"""`tlmtl cache`: what is kept, how large and how old; verified, pruned, cleared."""
