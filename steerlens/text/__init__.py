"""Texts and tokens: chat templates, conversations, exact token ids, displayable pieces. Stands on the root's files."""
