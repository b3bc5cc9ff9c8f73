"""Images in and out of files, their resizing and their luma."""
