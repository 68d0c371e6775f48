"""Tables as they are stored: text files, Parquet, Arrow, folders, and tables in memory."""
