"""The data path: a request in, the upstream's answer out, one record."""
