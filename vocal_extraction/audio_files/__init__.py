"""Song files in and out: decoding and encoding through ffmpeg, tags and covers."""
