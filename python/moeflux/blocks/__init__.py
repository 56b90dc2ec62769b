"""Compositions of ops with their weights: attention, gated delta net, mixture of experts, decoder.

Knows no checkpoint.
"""
