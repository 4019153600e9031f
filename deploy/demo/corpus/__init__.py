"""Synthetic training text for the demo base model, made from word lists and templates."""
