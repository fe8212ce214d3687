"""What every spec must hold, as properties that are tried on it: `nldsl verify` and `nldsl.testing`."""
