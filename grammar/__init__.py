"""The grammar of `.nl` texts, installed as the package `nldsl.grammar`."""
