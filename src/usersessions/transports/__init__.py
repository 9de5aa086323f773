"""How a stream of frames looks on each transport, without I/O."""
