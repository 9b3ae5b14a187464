"""Measures of samples and models: pure functions of tensors."""
