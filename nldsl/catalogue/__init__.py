"""The pages of the catalogue of diagnostics, one module a group of codes."""
