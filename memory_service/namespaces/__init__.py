"""What one namespace is searched by: vectors, words and structure, and which of them stay in RAM. It does not know files of the volume."""
