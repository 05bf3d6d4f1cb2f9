//! A device that is recorded, as a capture file.
