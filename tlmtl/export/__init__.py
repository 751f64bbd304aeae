"""`tlmtl export`: a run's model as a file for other programs, looked at again before it is handed over."""
