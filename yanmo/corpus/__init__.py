"""Raw text → clean documents. No torch in this room."""
