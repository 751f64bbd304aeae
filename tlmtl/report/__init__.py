"""`tlmtl report`: one HTML page of what runs and sweeps have found."""
