"""Measurements, one module a question; results/ holds what they printed, with the conditions."""
