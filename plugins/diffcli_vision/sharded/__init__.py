"""Pictures in tar files, here or on the Hub: found, counted, put in order, read and made."""
