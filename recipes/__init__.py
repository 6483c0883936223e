"""Recipes: from a published corpus to a measured error rate."""
