"""What goes beyond the assignment, a file a purpose; the script imports them where used."""
