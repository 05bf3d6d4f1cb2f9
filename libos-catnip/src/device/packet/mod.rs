//! AF_PACKET: every frame of an interface, by a receive ring of version 2 and `send`.
