"""What every result can do: a tidy table, a figure, a file and back; statistics stand beside it. Stands on vectors."""
