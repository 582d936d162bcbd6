"""Tests of models.features."""
