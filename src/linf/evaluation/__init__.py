"""Every system over data sets, scales and temperatures, into one record."""
