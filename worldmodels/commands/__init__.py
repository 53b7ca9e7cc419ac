"""The stages, one file each, `main(cfg)`, read from top to bottom."""
