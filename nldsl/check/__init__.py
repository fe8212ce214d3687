"""The static semantics: small passes over the core, in the order of `passes.py`. Each returns its diagnostics."""
