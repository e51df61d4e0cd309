"""The front door: labelling runs over HTTP. It only reads and writes run folders."""
