"""Servers that people would put around diffusers instead; each is a program of an environment of its own."""
