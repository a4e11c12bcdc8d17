"""The report: one offline page of pictures from the records on disk."""
