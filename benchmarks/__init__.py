"""Programs that measure the script beside others: quality of cells, of answers, and speed."""
