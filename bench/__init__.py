"""One script per question; RESULTS.md has machine, date and command."""
