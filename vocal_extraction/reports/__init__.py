"""What people look at: text tables, charts and self-contained pages, of plain numbers, arrays and dictionaries."""
