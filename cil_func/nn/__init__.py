"""Layers and backbones as pure functions: `init` makes (params, state), `apply` uses them."""
