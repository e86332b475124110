"""Beamfold."""
