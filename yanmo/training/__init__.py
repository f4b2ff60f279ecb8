"""Batches and a model → a trained model."""
