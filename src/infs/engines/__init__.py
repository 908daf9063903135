"""Engines: adapters to inference libraries. They never import each other."""
