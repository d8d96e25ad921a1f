"""What every other folder may use: files, folders, locks, names, progress and the errors of users."""
