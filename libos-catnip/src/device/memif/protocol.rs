//! The messages on the control socket, and the numbers of the layout in shared memory.
//!
//! A message is 128 bytes, one datagram of a SEQPACKET socket: its type, then the packed fields of that type, in the
//! machine's own byte order; the rest is zero. Source: DPDK's `drivers/net/memif/memif.h` and VPP's `memif.h`, version
//! 2.0 of the protocol. Nothing here is trusted beyond its form: whether an index or a length makes sense is decided
//! where it is used.

/// Bytes of every message.
pub(super) const MESSAGE_BYTES: usize = 128;
/// Version 2.0: the major number in the upper byte.
pub(super) const VERSION: u16 = 0x0200;
/// What stands at the beginning of every ring.
pub(super) const COOKIE: u32 = 0x03E3_1F20;
/// Largest ring that the protocol's implementations know: 2^14 descriptors.
pub(super) const MAX_RING_LOG2: u8 = 14;
/// Bytes of a secret, at the most; shorter ones are padded with zeros.
pub(super) const SECRET_BYTES: usize = 24;

/// A name, padded with zeros.
pub(super) type Name = [u8; 32];
/// A reason for the end of a link, padded with zeros.
pub(super) type Reason = [u8; 96];

/// `text`, cut to what fits in front of a zero and padded.
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let len = (0..N.min(text.len() + 1)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

/// What stands before the first zero; what is not UTF-8 in it is replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// What a server can do; its first message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) name: Name,
    pub(super) min_version: u16,
    pub(super) max_version: u16,
    /// Highest index of a region.
    pub(super) max_region: u16,
    /// Highest index of a ring from server to client.
    pub(super) max_s2c_ring: u16,
    /// Highest index of a ring from client to server.
    pub(super) max_c2s_ring: u16,
    pub(super) max_ring_log2: u8,
}

/// Which interface of the server a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Init {
    pub(super) version: u16,
    pub(super) id: u32,
    /// 0: Ethernet; 1: IP; 2: punt/inject.
    pub(super) mode: u8,
    pub(super) secret: [u8; SECRET_BYTES],
    pub(super) name: Name,
}

/// A ring in a region of the client's. The message carries the ring's eventfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AddRing {
    /// From client to server; otherwise the other way.
    pub(super) c2s: bool,
    pub(super) index: u16,
    pub(super) region: u16,
    /// Where it begins in the region, in bytes.
    pub(super) offset: u32,
    pub(super) ring_log2: u8,
    pub(super) private_header: u16,
}

/// A message of the control socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// The server took INIT, ADD_REGION or ADD_RING.
    Ack,
    Hello(Hello),
    Init(Init),
    /// The message carries the region's file.
    AddRegion {
        index: u16,
        size: u64,
    },
    AddRing(AddRing),
    Connect {
        name: Name,
    },
    Connected {
        name: Name,
    },
    Disconnect {
        code: u32,
        reason: Reason,
    },
}

/// A message of a type or a length that there is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed(pub(super) &'static str);

const ACK: u16 = 1;
const HELLO: u16 = 2;
const INIT: u16 = 3;
const ADD_REGION: u16 = 4;
const ADD_RING: u16 = 5;
const CONNECT: u16 = 6;
const CONNECTED: u16 = 7;
const DISCONNECT: u16 = 8;

const ADD_RING_C2S: u16 = 1;

impl Message {
    /// As it goes over the socket.
    pub(super) fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = Writer { bytes: [0; MESSAGE_BYTES], at: 0 };
        match *self {
            Message::Ack => out.u16(ACK),
            Message::Hello(hello) => {
                out.u16(HELLO);
                out.put(&hello.name);
                out.u16(hello.min_version);
                out.u16(hello.max_version);
                out.u16(hello.max_region);
                out.u16(hello.max_s2c_ring);
                out.u16(hello.max_c2s_ring);
                out.put(&[hello.max_ring_log2]);
            }
            Message::Init(init) => {
                out.u16(INIT);
                out.u16(init.version);
                out.put(&init.id.to_ne_bytes());
                out.put(&[init.mode]);
                out.put(&init.secret);
                out.put(&init.name);
            }
            Message::AddRegion { index, size } => {
                out.u16(ADD_REGION);
                out.u16(index);
                out.put(&size.to_ne_bytes());
            }
            Message::AddRing(ring) => {
                out.u16(ADD_RING);
                out.u16(if ring.c2s { ADD_RING_C2S } else { 0 });
                out.u16(ring.index);
                out.u16(ring.region);
                out.put(&ring.offset.to_ne_bytes());
                out.put(&[ring.ring_log2]);
                out.u16(ring.private_header);
            }
            Message::Connect { name } => {
                out.u16(CONNECT);
                out.put(&name);
            }
            Message::Connected { name } => {
                out.u16(CONNECTED);
                out.put(&name);
            }
            Message::Disconnect { code, reason } => {
                out.u16(DISCONNECT);
                out.put(&code.to_ne_bytes());
                out.put(&reason);
            }
        }
        out.bytes
    }

    /// What came over the socket.
    pub(super) fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        let bytes: &[u8; MESSAGE_BYTES] = bytes.try_into().map_err(|_| Malformed("Invalid message size"))?;
        let mut from = Reader { bytes, at: 0 };
        Ok(match from.u16() {
            ACK => Message::Ack,
            HELLO => Message::Hello(Hello {
                name: from.take(),
                min_version: from.u16(),
                max_version: from.u16(),
                max_region: from.u16(),
                max_s2c_ring: from.u16(),
                max_c2s_ring: from.u16(),
                max_ring_log2: from.u8(),
            }),
            INIT => Message::Init(Init {
                version: from.u16(),
                id: from.u32(),
                mode: from.u8(),
                secret: from.take(),
                name: from.take(),
            }),
            ADD_REGION => Message::AddRegion { index: from.u16(), size: u64::from_ne_bytes(from.take()) },
            ADD_RING => Message::AddRing(AddRing {
                c2s: from.u16() & ADD_RING_C2S != 0,
                index: from.u16(),
                region: from.u16(),
                offset: from.u32(),
                ring_log2: from.u8(),
                private_header: from.u16(),
            }),
            CONNECT => Message::Connect { name: from.take() },
            CONNECTED => Message::Connected { name: from.take() },
            DISCONNECT => Message::Disconnect { code: from.u32(), reason: from.take() },
            _ => return Err(Malformed("Unknown message type")),
        })
    }
}

struct Writer {
    bytes: [u8; MESSAGE_BYTES],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_ne_bytes());
    }
}

/// Fields in their order. All those of one message are shorter than a message, so no index is out of range.
struct Reader<'a> {
    bytes: &'a [u8; MESSAGE_BYTES],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn u8(&mut self) -> u8 {
        u8::from_ne_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<Message> {
        vec![
            Message::Ack,
            Message::Hello(Hello {
                name: padded("DPDK 22.11.11"),
                min_version: VERSION,
                max_version: VERSION + 1,
                max_region: 255,
                max_s2c_ring: 3,
                max_c2s_ring: 7,
                max_ring_log2: 14,
            }),
            Message::Init(Init {
                version: VERSION,
                id: 0xA1B2_C3D4,
                mode: 2,
                secret: [b's'; SECRET_BYTES],
                name: padded("client"),
            }),
            Message::AddRegion { index: 9, size: 0x0102_0304_0506_0708 },
            Message::AddRing(AddRing {
                c2s: true,
                index: 1,
                region: 2,
                offset: 0x1234_5678,
                ring_log2: 10,
                private_header: 6,
            }),
            Message::Connect { name: padded("net_memif0") },
            Message::Connected { name: padded("memif1/0") },
            Message::Disconnect { code: 5, reason: padded("ID not found") },
        ]
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in all() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    /// Offsets as a C compiler lays the packed structs of `memif.h` out.
    #[test]
    #[cfg(target_endian = "little")]
    fn fields_lie_where_c_puts_them() {
        let bytes: Vec<[u8; MESSAGE_BYTES]> = all().iter().map(Message::encode).collect();
        assert_eq!(bytes[0][..3], [1, 0, 0]);
        assert_eq!((bytes[1][0], &bytes[1][2..6]), (2, &b"DPDK"[..]));
        assert_eq!(bytes[1][34..45], [0, 2, 1, 2, 255, 0, 3, 0, 7, 0, 14]);
        assert_eq!(bytes[2][..10], [3, 0, 0, 2, 0xD4, 0xC3, 0xB2, 0xA1, 2, b's']);
        assert_eq!((bytes[2][32], &bytes[2][33..39]), (b's', &b"client"[..]));
        assert_eq!(bytes[3][..12], [4, 0, 9, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[4][..15], [5, 0, 1, 0, 1, 0, 2, 0, 0x78, 0x56, 0x34, 0x12, 10, 6, 0]);
        assert_eq!((bytes[5][0], bytes[6][0], &bytes[6][2..10]), (6, 7, &b"memif1/0"[..]));
        assert_eq!((&bytes[7][..6], &bytes[7][6..8]), (&[8, 0, 5, 0, 0, 0][..], &b"ID"[..]));
    }

    #[test]
    fn other_lengths_and_types_are_refused() {
        let ack = Message::Ack.encode();
        for len in 0..MESSAGE_BYTES {
            assert!(Message::decode(&ack[..len]).is_err());
        }
        let mut longer = ack.to_vec();
        longer.push(0);
        assert!(Message::decode(&longer).is_err());
        let mut unknown = ack;
        for number in (0..1).chain(9..=u16::MAX) {
            unknown[..2].copy_from_slice(&number.to_ne_bytes());
            assert!(Message::decode(&unknown).is_err());
        }
    }

    #[test]
    fn texts_are_cut_between_characters_and_end_at_a_zero() {
        assert_eq!(padded::<4>("abcdef"), *b"abc\0");
        assert_eq!(padded::<4>("aäö"), *b"a\xC3\xA4\0");
        assert_eq!(padded::<3>("aäö"), *b"a\0\0");
        assert_eq!(text(b"up\0and down"), "up");
        assert_eq!(text(b"up\xFF"), "up\u{FFFD}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), MESSAGE_BYTES)) {
            for number in 0..10_u16 {
                let mut bytes = bytes.clone();
                bytes[..2].copy_from_slice(&number.to_ne_bytes());
                if let Ok(message) = Message::decode(&bytes) {
                    prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
                }
            }
        }
    }
}
