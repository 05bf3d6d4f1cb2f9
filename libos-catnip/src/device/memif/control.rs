//! The handshake: what each role says next.
//!
//! ```text
//!  client                                    server
//!    connect ─────────────────────────────────► accept
//!    ◄─────────────────────────────────── HELLO  what it can do
//!    INIT ────────────────────────────────────►  which interface, secret
//!    ◄───────────────────────────────────── ACK
//!    ADD_REGION (file) ───────────────────────►
//!    ◄───────────────────────────────────── ACK
//!    ADD_RING (eventfd), to the server ───────►
//!    ◄───────────────────────────────────── ACK
//!    ADD_RING (eventfd), from the server ─────►
//!    ◄───────────────────────────────────── ACK
//!    CONNECT ─────────────────────────────────►  maps, checks
//!    ◄─────────────────────────────── CONNECTED
//! ```
//!
//! Invariant: one message is answered by at most one, and each stage takes just the messages that belong to it, so a peer
//! can neither make us store more than [`MAX_REGIONS`] files and two rings nor send us round in circles. DISCONNECT is
//! taken at any stage. Nothing here touches the socket.

use std::os::fd::{AsFd, BorrowedFd};

use demi_api::fd::Fd;

use super::config::MemifConfig;
use super::link::{Link, Offer, Offered};
use super::protocol::{AddRing, Hello, Init, MAX_RING_LOG2, Message, Name, VERSION, padded, text};
use super::region::{MAX_BYTES, SealedFile};
use super::sys::Interrupt;

/// Most regions that a client may offer. Known clients offer one, or two with their buffers apart.
const MAX_REGIONS: usize = 8;

/// How we call ourselves.
const NAME: &str = concat!("Demi ", env!("CARGO_PKG_VERSION"));

/// Why a control channel ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The peer has gone without a word.
    Closed,
    /// The peer says why.
    Told(String),
    /// We do, and tell it.
    Refused(&'static str),
}

/// What to do about a message.
#[derive(Debug)]
pub(super) enum Next {
    /// Answer; the attachment is found by [`Handshake::attachment`].
    Reply(Message),
    /// The link is established; a server confirms it with the message.
    Up(Box<Link>, Option<Message>),
}

/// A handshake in progress, by what it waits for.
#[derive(Debug)]
pub(super) enum Handshake {
    /// Server: said HELLO, waits for INIT.
    Init,
    /// Server: collects regions and rings until CONNECT.
    Offer(Offered),
    /// Client: waits for HELLO.
    Hello,
    /// Client: waits for an ACK of what this says was sent.
    Ack(Said, Offer),
    /// Client: said CONNECT.
    Connected(Offer),
}

/// What a client has said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Init,
    Region,
    /// The ring of this number: 0 to the server, 1 from it.
    Ring(u32),
}

/// A server's first message.
pub(super) fn hello() -> Message {
    Message::Hello(Hello {
        name: padded(NAME),
        min_version: VERSION,
        max_version: VERSION,
        max_region: MAX_REGIONS as u16 - 1,
        max_s2c_ring: 0,
        max_c2s_ring: 0,
        max_ring_log2: MAX_RING_LOG2,
    })
}

impl Handshake {
    /// Takes a message and what came with it. The handshake goes on in `self` if the answer is [`Next::Reply`].
    pub(super) fn take(
        &mut self,
        config: &MemifConfig,
        message: Message,
        attached: Option<Fd>,
    ) -> Result<Next, End> {
        if let Message::Disconnect { reason, .. } = message {
            return Err(End::Told(text(&reason)));
        }
        // A failed handshake is dropped by whoever holds it; what stands here in between does not matter.
        let stage = std::mem::replace(self, Handshake::Init);
        let (stage, reply) = match (stage, message) {
            (Handshake::Init, Message::Init(init)) => {
                admit(config, &init).map_err(End::Refused)?;
                (Handshake::Offer(Offered::default()), Message::Ack)
            }
            (Handshake::Offer(mut offered), Message::AddRegion { index, size }) => {
                add_region(&mut offered, index, size, attached).map_err(End::Refused)?;
                (Handshake::Offer(offered), Message::Ack)
            }
            (Handshake::Offer(mut offered), Message::AddRing(ring)) => {
                add_ring(&mut offered, ring, attached).map_err(End::Refused)?;
                (Handshake::Offer(offered), Message::Ack)
            }
            (Handshake::Offer(offered), Message::Connect { .. }) => {
                let link = offered.into_link().map_err(End::Refused)?;
                let confirmation = Message::Connected { name: interface_name(config) };
                return Ok(Next::Up(Box::new(link), Some(confirmation)));
            }
            (Handshake::Hello, Message::Hello(hello)) => {
                if !(hello.min_version..=hello.max_version).contains(&VERSION) {
                    return Err(End::Refused("Incompatible memif version"));
                }
                let offer = Offer::make(config, hello.max_ring_log2)
                    .map_err(|_| End::Refused("Client is out of memory or descriptors"))?;
                (Handshake::Ack(Said::Init, offer), init(config))
            }
            (Handshake::Ack(said, offer), Message::Ack) => match said {
                Said::Init => {
                    let region = Message::AddRegion { index: 0, size: offer.file.bytes() as u64 };
                    (Handshake::Ack(Said::Region, offer), region)
                }
                Said::Region => announce(0, offer),
                Said::Ring(0) => announce(1, offer),
                Said::Ring(_) => {
                    let connect = Message::Connect { name: interface_name(config) };
                    (Handshake::Connected(offer), connect)
                }
            },
            (Handshake::Connected(offer), Message::Connected { .. }) => {
                return Ok(Next::Up(Box::new(offer.into_link()), None));
            }
            (
                Handshake::Init
                | Handshake::Offer(_)
                | Handshake::Hello
                | Handshake::Ack(..)
                | Handshake::Connected(_),
                _,
            ) => return Err(End::Refused("Unexpected message")),
        };
        *self = stage;
        Ok(Next::Reply(reply))
    }

    /// The descriptor that goes with the reply just made.
    pub(super) fn attachment(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Handshake::Ack(Said::Region, offer) => Some(offer.file.as_fd()),
            Handshake::Ack(Said::Ring(number), offer) => Some(offer.interrupts[*number as usize].as_fd()),
            Handshake::Ack(Said::Init, _)
            | Handshake::Init
            | Handshake::Offer(_)
            | Handshake::Hello
            | Handshake::Connected(_) => None,
        }
    }
}

fn interface_name(config: &MemifConfig) -> Name {
    padded(&format!("memif{}", config.id))
}

fn init(config: &MemifConfig) -> Message {
    Message::Init(Init {
        version: VERSION,
        id: config.id,
        mode: 0,
        secret: config.secret_bytes(),
        name: padded(NAME),
    })
}

fn announce(number: u32, offer: Offer) -> (Handshake, Message) {
    let ring = Message::AddRing(AddRing {
        c2s: number == 0,
        index: 0,
        region: 0,
        offset: offer.layout.ring_at(number),
        ring_log2: offer.layout.ring_log2,
        private_header: 0,
    });
    (Handshake::Ack(Said::Ring(number), offer), ring)
}

/// Whether a client may have this interface.
fn admit(config: &MemifConfig, init: &Init) -> Result<(), &'static str> {
    if init.version != VERSION {
        return Err("Incompatible memif version");
    }
    if init.id != config.id {
        return Err("ID not found");
    }
    if init.mode != 0 {
        return Err("Only ethernet mode supported");
    }
    // The time it takes says nothing about where a wrong secret differs.
    let different = config.secret_bytes().iter().zip(&init.secret).fold(0, |acc, (a, b)| acc | (a ^ b));
    if !config.secret.is_empty() && different != 0 {
        return Err("Incorrect secret");
    }
    Ok(())
}

fn add_region(
    offered: &mut Offered,
    index: u16,
    size: u64,
    attached: Option<Fd>,
) -> Result<(), &'static str> {
    let file = attached.ok_or("Missing region fd")?;
    if usize::from(index) != offered.regions.len() || offered.regions.len() == MAX_REGIONS {
        return Err("Invalid region index");
    }
    let before: usize = offered.regions.iter().map(SealedFile::bytes).sum();
    if size.saturating_add(before as u64) > MAX_BYTES {
        return Err("Regions are too large");
    }
    offered.regions.push(SealedFile::check(file, size)?);
    Ok(())
}

fn add_ring(offered: &mut Offered, ring: AddRing, attached: Option<Fd>) -> Result<(), &'static str> {
    let fd = attached.ok_or("Missing interrupt fd")?;
    let place = &mut offered.rings[usize::from(!ring.c2s)];
    if ring.index != 0 || place.is_some() {
        return Err("Invalid ring index");
    }
    let interrupt = Interrupt::adopt(fd).ok_or("Interrupt fd is not an eventfd")?;
    *place = Some((ring, interrupt));
    Ok(())
}
