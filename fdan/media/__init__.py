"""Media files to images: log-mel spectrograms of speech, face frames of video.

Importing it costs nothing: OpenCV, soundfile and PyAV are imported where a file is decoded, so
that a machine that only trains from a prepared store needs none of them.
"""
