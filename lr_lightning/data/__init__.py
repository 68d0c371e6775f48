"""Data: from files, tables and arrays to rows and a schema."""
