"""Sparkplug B 3.0 as a host application: `client` keeps the connection, `host` the state of all edge nodes."""
