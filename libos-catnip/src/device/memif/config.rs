//! What a memif device is made from.

use std::fmt;
use std::hash::Hasher;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use demi_api::error::Error;
use serde::Deserialize;
use siphasher::sip::SipHasher13;

use super::protocol::{MAX_RING_LOG2, SECRET_BYTES};
use super::region::{Layout, MAX_BYTES};
use super::sys;

/// Bytes in front of a packet: the Ethernet header, and a VLAN tag.
const OVERHEAD: usize = 18;

/// Which side of the protocol to be. One of two peers must be the server, the other the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Listens on the socket, and works in the client's memory. "Master" in older texts. Takes only memory that cannot
    /// shrink: VPP as the client needs `no-zero-copy`, DPDK must not be given `zero-copy=yes`.
    Server,
    /// Connects, again and again until there is a server, and owns the memory and the rings. "Slave" in older texts.
    #[default]
    Client,
}

/// Both ends of a memif agree on socket, id and secret; all else is each side's own, and the client's ring and buffer
/// sizes count.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemifConfig {
    /// The UNIX socket that the server listens at and the client connects to, at most 107 bytes; `@name` is the name of
    /// an abstract socket. Default `/run/memif.sock`. Who may write to it may become the peer: its directory's
    /// permissions are what protects it.
    pub socket: PathBuf,
    /// Default [`Role::Client`].
    pub role: Role,
    /// Which interface of those that the server may offer at the socket. Default 0.
    pub id: u32,
    /// What a client has to know to be let in, at most 24 bytes (with DPDK as the peer, 23); default empty: nothing.
    pub secret: String,
    /// Base-2 logarithm of the descriptors, and so of the buffers, in each direction, 1 to 14; default 10.
    /// More bridge longer pauses of the receiver and need more cache.
    pub ring_log2: u8,
    /// Bytes of one buffer, 64 to 65536; default 2048. A longer frame takes several. DPDK as the server writes and reads
    /// as much as its own `bsize` says, whatever is agreed: be sure that both are the same. The buffers of both directions
    /// may come to 1 GiB.
    pub buffer_bytes: u32,
    /// Largest packet behind the Ethernet header, in bytes, 68 to 65535; default 1500. Longer ones are neither sent nor
    /// accepted. Must fit into the buffers of a ring.
    pub mtu: usize,
    /// The device's Ethernet address. Default `None`: one that is derived from socket, id and role, and so the same
    /// after a restart.
    pub mac: Option<[u8; 6]>,
}

impl Default for MemifConfig {
    fn default() -> MemifConfig {
        MemifConfig {
            socket: PathBuf::from("/run/memif.sock"),
            role: Role::default(),
            id: 0,
            secret: String::new(),
            ring_log2: 10,
            buffer_bytes: 2048,
            mtu: 1500,
            mac: None,
        }
    }
}

impl MemifConfig {
    /// Checks every field.
    pub(super) fn check(&self) -> Result<(), Error> {
        sys::check_path(&self.socket)?;
        if self.secret.len() > SECRET_BYTES || self.secret.contains('\0') {
            return Err(Error::Invalid("memif secret: at most 24 bytes, none of them zero"));
        }
        if !(1..=MAX_RING_LOG2).contains(&self.ring_log2) {
            return Err(Error::Invalid("memif ring_log2: 1 to 14"));
        }
        if !(64..=1 << 16).contains(&self.buffer_bytes) {
            return Err(Error::Invalid("memif buffer_bytes: 64 to 65536"));
        }
        if self.layout().bytes() as u64 > MAX_BYTES {
            return Err(Error::Invalid("memif: more than 1 GiB of buffers; lower ring_log2 or buffer_bytes"));
        }
        if !(68..=65_535).contains(&self.mtu) {
            return Err(Error::Invalid("memif mtu: 68 to 65535"));
        }
        if self.max_frame() > (self.buffer_bytes as usize) << self.ring_log2 {
            return Err(Error::Invalid("memif mtu: longer than all buffers of a ring; raise ring_log2"));
        }
        if self.mac.is_some_and(|mac| mac[0] & 1 == 1 || mac == [0; 6]) {
            return Err(Error::Invalid("memif mac: it is a group's address, or zero"));
        }
        Ok(())
    }

    /// The layout of a client's region, if the server can do rings of that size.
    pub(super) fn layout(&self) -> Layout {
        Layout { ring_log2: self.ring_log2, buffer_bytes: self.buffer_bytes }
    }

    /// Bytes of the longest frame.
    pub(super) fn max_frame(&self) -> usize {
        self.mtu + OVERHEAD
    }

    /// The address that was given, or a locally administered one.
    pub(super) fn mac(&self) -> [u8; 6] {
        self.mac.unwrap_or_else(|| {
            let mut hasher = SipHasher13::new();
            hasher.write(self.socket.as_os_str().as_bytes());
            hasher.write_u32(self.id);
            hasher.write_u8(u8::from(self.role == Role::Server));
            let [a, b, c, d, e, ..] = hasher.finish().to_ne_bytes();
            [2, a, b, c, d, e]
        })
    }

    /// The secret as it stands in a message.
    pub(super) fn secret_bytes(&self) -> [u8; SECRET_BYTES] {
        let mut bytes = [0; SECRET_BYTES];
        bytes.iter_mut().zip(self.secret.bytes()).for_each(|(place, byte)| *place = byte);
        bytes
    }
}

/// Without the secret.
impl fmt::Debug for MemifConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemifConfig")
            .field("socket", &self.socket)
            .field("role", &self.role)
            .field("id", &self.id)
            .field("ring_log2", &self.ring_log2)
            .field("buffer_bytes", &self.buffer_bytes)
            .field("mtu", &self.mtu)
            .field("mac", &self.mac)
            .finish_non_exhaustive()
    }
}
