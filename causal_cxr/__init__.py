"""Causal discovery and bias audit for chest X-ray datasets and models."""
