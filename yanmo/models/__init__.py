"""Ids → hidden → logits."""
