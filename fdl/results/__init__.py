"""Records on disk: which of them are current, and what Snakemake, DVC and other machines see of them."""
