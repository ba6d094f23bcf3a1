"""Models: where they come from, families, adapters, and which weights these are. Stands on text and the laboratory."""
