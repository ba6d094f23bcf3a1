"""Answers under steering: decoding, sampling, and the stream behind the widget. Stands on what runs a model."""
