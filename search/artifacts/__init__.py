"""Files of a study: folders, checkpoints, remote copies, disk space."""
